//! A transaction whose first statement has met its tenant's fence, though nobody had asked the guard before: it is run
//! again from its messages, if nothing of it has reached the client.
//!
//! Messages are kept only while a tenant moves or nobody would tell this router of it, see [`crate::holds::Alert`]. The
//! server has rolled back what the statement did; what it cannot roll back, a procedure that committed, is never run
//! again. Nor is anything of a session that depends on its connection, or behind an answer that the client has.

use bytes::BytesMut;
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frame::{self, HEAD_LEN};
use tenantry_wire::frontend::{self, Bind, Parse};
use tenantry_wire::sql;
use tenantry_wire::tag::frontend as tag;

use super::again::Again;
use super::expect::Expect;
use super::probe::{Asked, Turned};
use super::statements::ClientStatement;
use super::{Batch, Session, Tx};
use crate::holds::TenantRefusal;
use crate::server::{Link, Source};

/// Longest transaction that is kept, bytes.
const KEPT_MAX: usize = 64 << 10;

/// Where the session was before a message.
#[derive(Debug)]
pub(super) struct Point {
    /// Bytes that the client had been sent, or was to be.
    answered: u64,
    /// The texts of a transaction that had not reached a server.
    deferred: Option<Vec<String>>,
}

/// The messages of the transaction that is in flight, from the first that needed a server.
#[derive(Debug)]
pub(super) struct Replay {
    from: Point,
    messages: BytesMut,
    /// It ends with a Query or a Sync: what comes behind is another's.
    complete: bool,
}

impl Session {
    /// Bytes have been written to the client.
    pub(crate) fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Where the session is, if a transaction may begin here.
    pub(super) fn replay_point(&self) -> Option<Point> {
        let begins = self.is_at_rest() && self.script.is_none() && !self.probes;
        begins.then(|| Point {
            answered: self.sent + self.output.len() as u64,
            deferred: match &self.tx {
                Tx::Deferred { prologue } => Some(prologue.clone()),
                _ => None,
            },
        })
    }

    /// Keeps a message that has been taken.
    pub(super) fn keep_message(&mut self, from: Option<Point>, letter: u8, message: &[u8]) {
        let complete = matches!(letter, tag::QUERY | tag::SYNC);
        if let Some(from) = from {
            let needs_server = !self.is_at_rest() || self.script.is_some();
            self.replay = (needs_server && message.len() <= KEPT_MAX).then(|| {
                Box::new(Replay {
                    from,
                    messages: BytesMut::from(message),
                    complete,
                })
            });
            return;
        }
        let Some(replay) = &mut self.replay else {
            return;
        };
        if replay.complete || replay.messages.len() + message.len() > KEPT_MAX {
            self.replay = None;
            return;
        }
        replay.messages.extend_from_slice(message);
        replay.complete = complete;
    }

    /// Deals with an error that says that the tenant is not served on this shard. True: the client is not to know, and
    /// the transaction begins again where the tenant is.
    pub(super) fn replays(&mut self, fields: &ErrorFields, server: &mut Link) -> bool {
        let Some(met) = TenantRefusal::read(fields).filter(TenantRefusal::is_of_a_move) else {
            return false;
        };
        let Some(replay) = self
            .replay
            .take()
            .filter(|replay| self.may_run_again(replay))
        else {
            return false;
        };
        let Replay { from, messages, .. } = *replay;
        let answered = usize::try_from(from.answered - self.sent).unwrap_or_default();
        self.output.truncate(answered);
        for name in named_by_parse(&messages) {
            self.statements.remove(&name);
        }
        self.end_for_replay(server);
        self.tx = match from.deferred {
            Some(prologue) => Tx::Deferred { prologue },
            None => {
                self.state.rollback();
                Tx::Idle
            }
        };
        self.turned = Some(Turned::Away(Box::new(met)));
        self.again = Some(Box::new(Again::from(messages)));
        true
    }

    /// Makes the server end the transaction, and forgets what was to come of it.
    fn end_for_replay(&mut self, server: &mut Link) {
        let mut readies = 0;
        if let Some(Expect::Query { guarded, .. }) = self.expects.front() {
            // Its ReadyForQuery comes by itself, and that of the Sync behind it.
            readies = 1 + usize::from(*guarded);
            self.expects.abandon();
        } else {
            let skipped = self.expects.skip_to_sync();
            if self.undo(skipped, &mut server.state) {
                readies = 1;
                self.expects.abandon();
            }
        }
        if readies == 0 {
            frontend::put_sync(&mut server.output);
            readies = 1;
        }
        for _ in 0..readies {
            self.expects.push(Expect::Aside);
        }
        if matches!(self.tx, Tx::Open { .. } | Tx::Failed) {
            frontend::put_query(&mut server.output, "ROLLBACK");
            self.expects.push(Expect::Aside);
        }
        server.state.unnamed = None;
        server.state.kept.answered();
        self.script = None;
        self.batch = Batch::default();
        self.sync_owed = false;
        self.copy_starting = false;
        self.withheld = None;
        self.description = None;
        self.late_reports.clear();
        self.outcome_open = false;
        self.clear_portals();
        self.reverted = Some(std::sync::Arc::clone(&self.reported));
        self.asked = Some(Box::new(Asked::nothing()));
    }

    /// Whether running these messages again is the same as having run them once.
    fn may_run_again(&self, replay: &Replay) -> bool {
        let in_one_transaction = match &replay.from.deferred {
            Some(_) => matches!(self.tx, Tx::Open { .. }),
            None => matches!(self.tx, Tx::Idle | Tx::Open { .. }),
        };
        // What a script did here in the client's own transaction is not taken back.
        let script_is_whole = replay.from.deferred.is_none() || !self.batch.split;
        in_one_transaction
            && script_is_whole
            && !self.is_pinned()
            && !self.copy_in
            && self.passing == 0
            && self.sent <= replay.from.answered
            && self.expects.is_one_batch()
            && messages_of(&replay.messages).all(|(letter, body)| self.is_repeatable(letter, body))
    }

    fn is_repeatable(&self, letter: u8, body: &[u8]) -> bool {
        let ends = |text: &[u8]| sql::may_end_transactions(text, self.scs());
        match letter {
            tag::QUERY => frontend::query_text(body).is_ok_and(|text| !ends(text)),
            tag::PARSE => Parse::decode(body).is_ok_and(|parse| !ends(parse.text)),
            tag::BIND => {
                let Ok(bind) = Bind::decode(body) else {
                    return false;
                };
                match self.statements.find(bind.statement) {
                    Some(ClientStatement::Server { prepared, .. }) => match &prepared.source {
                        Source::Protocol { text, .. } | Source::Sql { text, .. } => !ends(text),
                    },
                    Some(
                        ClientStatement::Unnamed { text, .. }
                        | ClientStatement::Router { text, .. },
                    ) => !ends(text),
                    // Closed since, in the same batch.
                    None => false,
                }
            }
            tag::DESCRIBE | tag::EXECUTE | tag::CLOSE | tag::SYNC | tag::FLUSH => true,
            _ => false,
        }
    }
}

/// Letter and body of each of these whole messages.
fn messages_of(mut messages: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let head = frame::peek(messages, KEPT_MAX).ok()??;
        let message = messages.get(..head.total)?;
        messages = messages.get(head.total..)?;
        Some((head.tag, message.get(HEAD_LEN..)?))
    })
}

/// The statements that these messages have given names to.
fn named_by_parse(messages: &[u8]) -> Vec<Vec<u8>> {
    let parses = messages_of(messages).filter(|(letter, _)| *letter == tag::PARSE);
    let names = parses.filter_map(|(_, body)| Some(Parse::decode(body).ok()?.name.to_vec()));
    names.filter(|name| !name.is_empty()).collect()
}
