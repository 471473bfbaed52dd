//! A prepared statement whose result has changed on the server: the request runs again where the client does not notice.
//!
//! PostgreSQL refuses a plan whose columns are others than when it was prepared (0A000, "cached plan must not change
//! result type"), and a client prepares its statement anew. Here the plan may be older than the client's Parse, because
//! sessions share it, and nothing that the client does would help. So the statement gets a new router-wide name, under
//! which no connection holds an old plan, and the request is taken up once more from its messages.
//!
//! Never inside a transaction block, never behind anything of the same batch that has been answered, never twice. And
//! never for a client that knows the result as it was: it would read rows of one kind as rows of another. It gets the
//! error, as from PostgreSQL.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frame::{self, HEAD_LEN};
use tenantry_wire::frontend::{self, Bind, Target, TargetKind};
use tenantry_wire::sqlstate;
use tenantry_wire::tag::frontend as tag;

use super::expect::Expect;
use super::statements::ClientStatement;
use super::{Batch, Next, Session, Tx};
use crate::error::Refusal;
use crate::server::{Link, Prepared, ServerState};

/// Longest batch that is kept to run again, bytes.
const KEPT_MAX: usize = 8 << 10;

/// The messages of the batch on its way to a server that execute and describe named statements.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: BytesMut,
    /// `None`: the batch holds something else, or is too long.
    messages: Option<usize>,
    describes_portal: bool,
    /// The SQL command EXECUTE, alone in its Query.
    execute: Option<(Bytes, Arc<Prepared>)>,
}

impl Kept {
    /// A batch begins.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        self.execute = None;
        self.messages = Some(0);
        self.describes_portal = false;
    }

    /// A Query has been answered: its EXECUTE is nobody's any longer.
    pub(super) fn answered(&mut self) {
        self.execute = None;
    }

    /// The batch holds something that cannot run again.
    pub(super) fn give_up(&mut self) {
        self.messages = None;
        self.execute = None;
    }

    pub(super) fn push(&mut self, message: &[u8]) {
        if let Some(messages) = &mut self.messages {
            if self.bytes.len() + message.len() > KEPT_MAX {
                self.messages = None;
                return;
            }
            *messages += 1;
            self.bytes.extend_from_slice(message);
        }
    }

    pub(super) fn note_portal_described(&mut self) {
        self.describes_portal = true;
    }

    pub(super) fn keep_execute(&mut self, query: Bytes, prepared: &Arc<Prepared>) {
        self.execute = Some((query, Arc::clone(prepared)));
    }

    /// The statement that the message with `left` messages from it to the end of the batch is about, whether it asks
    /// for the statement's description, and whether it is the first.
    fn statement(&self, left: usize) -> Option<(Bytes, bool, bool)> {
        let at = self.messages?.checked_sub(left)?;
        let mut rest: &[u8] = &self.bytes;
        for _ in 0..at {
            let head = frame::peek(rest, KEPT_MAX).ok()??;
            rest = rest.get(head.total..)?;
        }
        let head = frame::peek(rest, KEPT_MAX).ok()??;
        let body = rest.get(HEAD_LEN..head.total)?;
        let (name, describes) = match head.tag {
            tag::BIND => (Bind::decode(body).ok()?.statement, false),
            _ => {
                let target = Target::decode(body).ok()?;
                (target.kind == TargetKind::Statement).then_some((target.name, true))?
            }
        };
        Some((Bytes::copy_from_slice(name), describes, at == 0))
    }
}

/// A request that runs again, until it is answered.
#[derive(Debug)]
pub(super) struct Again {
    /// Its messages, until they are taken up.
    messages: BytesMut,
    /// What the client was told of the statement's result, as a hash.
    told: Option<u64>,
    /// What is true now, once the server has been asked.
    now: Option<u64>,
    /// The client has been told the parameters of the statement that it asked the description of.
    told_parameters: bool,
}

impl From<BytesMut> for Again {
    /// A request that ran nowhere: the client was told nothing.
    fn from(messages: BytesMut) -> Self {
        Self {
            messages,
            told: None,
            now: None,
            told_parameters: false,
        }
    }
}

/// A request that has failed because a result has changed.
struct Failed {
    /// The client's name of the statement; empty for one that the Query names itself.
    name: Bytes,
    prepared: Arc<Prepared>,
    /// What to send again, if it can run again at all.
    messages: Option<BytesMut>,
    told: Option<u64>,
    /// It is a Describe: PostgreSQL describes the parameters before it finds the result changed.
    describes: bool,
}

impl Session {
    /// Deals with an error that says that a result has changed. True: the client is not to know.
    pub(super) fn runs_again(&mut self, fields: &ErrorFields, server: &mut Link) -> bool {
        let changed = fields.code == sqlstate::FEATURE_NOT_SUPPORTED
            && fields.routine.as_deref() == Some("RevalidateCachedQuery");
        if !changed {
            return false;
        }
        // Other plans on the connection are as old: it begins afresh when it is given back.
        server.state.dirty = true;
        let failed = match self.expects.front() {
            Some(Expect::Bind | Expect::DescribeStatement(_)) => self.failed_step(&server.state),
            Some(Expect::Describe(_)) => self.failed_execute(&mut server.state),
            _ => None,
        };
        let Some(failed) = failed else { return false };
        // Whoever prepares the statement from now on gets a new plan.
        let renewed = self.shared.registry.renew(&failed.prepared);
        let Some(mut messages) = failed.messages.filter(|_| self.again.is_none()) else {
            return false;
        };
        self.statements.renew(&failed.name, &renewed);
        self.take_back_reports(self.state.view(), &server.state);
        self.description = None;
        self.batch.failed = true;
        let skipped = self.expects.skip_to_sync();
        if self.undo(skipped, &mut server.state) {
            if messages.first() != Some(&tag::QUERY) {
                frontend::put_sync(&mut messages);
            }
            self.expects.hide_sync();
        } else {
            // The client has not sent its Sync: it waits for the answers.
            frontend::put_flush(&mut messages);
            frontend::put_sync(&mut server.output);
            self.expects.push(Expect::HiddenSync);
            self.batch.forwarded = false;
        }
        self.again = Some(Box::new(Again {
            messages,
            told: failed.told,
            now: None,
            told_parameters: failed.describes,
        }));
        true
    }

    /// What has failed, if it is a Bind or a Describe.
    fn failed_step(&self, server: &ServerState) -> Option<Failed> {
        let kept = &server.kept;
        let rest = self.expects.rest_of_batch();
        let (name, describes, is_first) = kept.statement(rest.runs)?;
        let Some(ClientStatement::Server { prepared, told, .. }) = self.statements.find(&name)
        else {
            return None;
        };
        // A client that has portals described, but not this one, goes by what it was told of another.
        let knows =
            !describes && !kept.describes_portal && told.is_none() && self.describes_portals;
        let may = is_first && rest.is_all && matches!(self.tx, Tx::Idle) && !knows;
        Some(Failed {
            prepared: Arc::clone(prepared),
            told: told.filter(|_| !describes && !kept.describes_portal),
            messages: may.then(|| kept.bytes.clone()),
            name,
            describes,
        })
    }

    /// What has failed, if it is the SQL command EXECUTE, whose portal is described before it runs: its rows come with
    /// their description.
    fn failed_execute(&mut self, server: &mut ServerState) -> Option<Failed> {
        let (query, prepared) = server.kept.execute.take()?;
        let rest = self.expects.rest_of_batch();
        // Describe and Execute.
        let may = rest.runs == 2 && rest.is_all && matches!(self.tx, Tx::Idle);
        let mut messages = BytesMut::new();
        frontend::put_query(&mut messages, &query[..]);
        Some(Failed {
            name: self.statements.name_of(prepared.name.as_bytes())?,
            prepared,
            messages: may.then_some(messages),
            told: None,
            describes: false,
        })
    }

    /// Whether a ParameterDescription is one that the client has.
    pub(super) fn has_told_parameters(&mut self) -> bool {
        let again = self.again.as_mut();
        again.is_some_and(|again| std::mem::take(&mut again.told_parameters))
    }

    /// Puts the request in front of what the client has sent since.
    pub(super) fn take_up_again(&mut self, input: &mut BytesMut) -> Option<Next> {
        let again = self.again.as_mut()?;
        if again.messages.is_empty() {
            return None;
        }
        if !self.expects.is_empty() {
            return Some(Next::Wait);
        }
        let mut messages = std::mem::take(&mut again.messages);
        messages.extend_from_slice(input);
        *input = messages;
        self.batch = Batch::default();
        Some(Next::More)
    }

    /// Whether the client, which knows a result, may be sent the one that the statement has now. `None`: the server has
    /// been asked.
    pub(super) fn still_knows(
        &mut self,
        prepared: &Arc<Prepared>,
        server: &mut Link,
    ) -> Option<Result<(), Refusal>> {
        let Some(Again { told, now, .. }) = self.again.as_deref() else {
            return Some(Ok(()));
        };
        match (told, now) {
            (None, _) => Some(Ok(())),
            (Some(told), Some(now)) if told == now => Some(Ok(())),
            (Some(_), Some(_)) => Some(Err(Refusal::ResultChanged)),
            (Some(_), None) => {
                self.prepare_on(server, prepared);
                let name = &prepared.name;
                frontend::put_describe(&mut server.output, TargetKind::Statement, name);
                self.expects.push(Expect::HiddenDescribe);
                self.flush(server);
                None
            }
        }
    }

    /// The description of a statement has come: the client's, or one that it is not to see.
    pub(super) fn statement_described(&mut self, message: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(message);
        let result = hasher.finish();
        match self.expects.pop() {
            Some(Expect::DescribeStatement(name)) => {
                self.statements.note_told(&name, result);
                self.output.extend_from_slice(message);
            }
            _ => {
                if let Some(again) = &mut self.again {
                    again.now = Some(result);
                }
            }
        }
        self.flush_local();
    }
}
