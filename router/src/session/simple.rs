//! Simple queries and function calls.

use bytes::Bytes;
use tenantry_wire::frontend;
use tenantry_wire::sql::{self, Kind};

use super::client::{ClientMessage, Handled};
use super::expect::{Effect, Expect};
use super::extended::{ends_transaction, malformed};
use super::script::Script;
use super::transactions::isolation_given;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

impl Session {
    pub(super) fn query(
        &mut self,
        message: ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let text = match frontend::query_text(message.body) {
            Ok(text) => text,
            Err(error) => return Ok(self.refuse_query(&malformed(error), server)),
        };
        if let Some(refusal) = self.refused_as_writing(text) {
            if server.is_none() && self.looks_again() {
                return Ok(self.acquire());
            }
            return Ok(self.refuse_query(&refusal, server));
        }
        // As PostgreSQL does, whatever becomes of the Query.
        if self.statements.find(b"").is_some() {
            let undo = self.statements.change(Bytes::new(), None);
            self.remember(undo);
        }
        if !matches!(self.tx, Tx::Failed | Tx::FailedHere { .. }) {
            self.forget_unnamed_portal();
        }
        let ordinary = self.is_ordinary(text);
        let survey = if ordinary && !matches!(self.tx, Tx::FailedHere { .. }) {
            Survey::Forward(Vec::new(), false)
        } else {
            self.survey(text)
        };
        match survey {
            Survey::Forward(..) if std::mem::take(&mut self.batch.ahead_failed) => {
                self.ready();
                Ok(Handled::Done)
            }
            Survey::Forward(effects, modes) => {
                let ahead = modes && matches!(self.tx, Tx::Idle);
                if ahead && self.probes {
                    self.shun_probe();
                }
                if ahead && !self.settle(server.as_deref_mut()) {
                    return Ok(Handled::Later);
                }
                let handled = self.forward_query(message, server, effects, ahead)?;
                match handled {
                    Handled::Acquire(_) => self.looked_at = Some(ordinary),
                    _ => self.note_statement(text),
                }
                Ok(handled)
            }
            Survey::Script(script) => {
                if !self.settle(server) {
                    return Ok(Handled::Later);
                }
                self.begin_implicit();
                self.batch.split = script.is_several();
                self.script = Some(script);
                Ok(Handled::Done)
            }
        }
    }

    /// Looks at every statement of the text: can it go to the server as it is?
    fn survey(&mut self, text: &[u8]) -> Survey {
        let scs = self.scs();
        let refusing = matches!(self.tx, Tx::FailedHere { .. });
        if !refusing
            && sql::is_single(text, scs)
            && matches!(sql::classify(text, scs), Kind::Plain)
            && !self.router_runs(&Kind::Plain, text)
        {
            let effects = at(0, Self::effects(&Kind::Plain, text));
            return Survey::Forward(effects, sql::may_end_transactions(text, scs));
        }
        let mut modes = false;
        let mut unchecked = Unchecked::default();
        let mut effects = Vec::new();
        let mut ranges = Vec::new();
        let mut whole = !refusing && !matches!(self.tx, Tx::Deferred { .. });
        for (index, range) in sql::split(text, scs).enumerate() {
            let statement = &text[range.clone()];
            let kind = sql::classify(statement, scs);
            whole &= !self.router_runs(&kind, statement) && !self.goes_on_for_another(&kind);
            modes |= isolation_given(&kind).is_some();
            unchecked.note(&kind);
            if index == 0 && matches!(self.tx, Tx::Failed) && !ends_transaction(&kind) {
                // It fails before anything runs, and the server knows with what.
                return Survey::Forward(Vec::new(), false);
            }
            effects.extend(at(index, Self::effects(&kind, statement)));
            ranges.push(range);
        }
        if ranges.is_empty() {
            // An empty query has its own answer and needs no server.
            return Survey::Script(Script::empty());
        }
        // What follows the end of a transaction may be another tenant's.
        let ends_within = effects.iter().any(|(index, effect)| {
            let returns = match effect {
                Effect::End | Effect::RollbackTo(_) => true,
                // What may only read is told so again behind it.
                Effect::Release(_) => self.is_read_only(),
                _ => false,
            };
            index + 1 < ranges.len() && returns
        });
        // The question before a transaction takes a snapshot, as an isolation level must not have one before it.
        let snapshot_comes_first = modes && self.probes && ranges.len() > 1;
        whole &= !(ends_within || snapshot_comes_first);
        if whole && (ranges.len() > 1 || !self.single_is_local(&effects)) {
            return Survey::Forward(effects, modes);
        }
        let unchecked = !refusing && unchecked.must_be_parsed() && ranges.len() > 1;
        Survey::Script(Script::new(text, ranges, unchecked))
    }

    /// COMMIT and BEGIN alone in a Query are answered here when there is nothing to end or when
    /// they can wait.
    fn single_is_local(&self, effects: &[(usize, Effect)]) -> bool {
        match effects {
            [(0, Effect::Begin)] => true,
            [(0, Effect::End)] => !matches!(self.tx, Tx::Open { .. } | Tx::Failed),
            _ => false,
        }
    }

    fn forward_query(
        &mut self,
        message: ClientMessage<'_>,
        server: Option<&mut Link>,
        effects: Vec<(usize, Effect)>,
        bind_ahead: bool,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        let unprepared = self.needs_prologue(&server.state);
        // What changes nothing leaves nothing to take back.
        if unprepared || !effects.is_empty() {
            self.begin_implicit();
        }
        if bind_ahead && self.needs_bind(&server.state) {
            self.prepare_server(server);
            frontend::put_sync(&mut server.output);
            self.expects.push(Expect::HiddenSync);
            self.batch.ahead = true;
            return Ok(Handled::Later);
        }
        let guarded = unprepared && self.prepare_server(server);
        server.output.extend_from_slice(message.bytes);
        // A simple query replaces the unnamed statement.
        server.state.unnamed = None;
        self.note_in_flight(effects.iter().any(|(_, effect)| *effect == Effect::End));
        self.expects.push(Expect::Query {
            effects,
            completed: 0,
            guarded,
        });
        if guarded {
            frontend::put_sync(&mut server.output);
            self.expects.push(Expect::HiddenSync);
        }
        Ok(Handled::Done)
    }

    pub(super) fn function_call(
        &mut self,
        message: ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if matches!(self.tx, Tx::FailedHere { .. }) {
            if !self.settle(server) {
                return Ok(Handled::Later);
            }
            self.refuse(&Refusal::TransactionAborted);
            self.ready();
            return Ok(Handled::Done);
        }
        if let Some(server) = server.as_deref_mut() {
            // The function is known by number only: it may be set_config().
            self.begin_implicit();
            self.pinned = true;
            server.state.dirty = true;
        }
        self.forward_query(message, server, Vec::new(), false)
    }

    /// [`sql::is_ordinary`], asked once for a message that has to wait for a connection.
    pub(super) fn is_ordinary(&mut self, text: &[u8]) -> bool {
        let looked_at = self.looked_at.take();
        looked_at.unwrap_or_else(|| sql::is_ordinary(text))
    }

    /// The connection that the next statement needs.
    pub(super) fn acquire(&self) -> Handled {
        Handled::Acquire(self.state.tenant())
    }

    /// Remembers what a lost server connection would mean from here on.
    pub(super) fn note_in_flight(&mut self, ends_transaction: bool) {
        self.counts.statements += 1;
        self.outcome_open |= ends_transaction || matches!(self.tx, Tx::Idle);
    }
}

/// How a simple Query is run.
enum Survey {
    /// As it came; statements by position and what they change.
    ///
    /// True if what is to be in force must be there before: where it gives a transaction an isolation level, which has
    /// to come before anything takes a snapshot, and the bind takes one; and where a procedure may roll back what was set
    /// in the same transaction.
    Forward(Vec<(usize, Effect)>, bool),
    /// Statement by statement.
    Script(Script),
}

/// Whether a Query that is run statement by statement may fail to parse behind a statement that has run.
#[derive(Default)]
struct Unchecked {
    /// Statements that only PostgreSQL can tell to be well-formed.
    opaque: usize,
    /// A statement other than the start of a transaction for a tenant.
    others: bool,
    /// There was one before something opaque.
    at_risk: bool,
}

impl Unchecked {
    fn note(&mut self, kind: &Kind<'_>) {
        let known = match kind {
            Kind::Begin(_) => true,
            Kind::Set { name, .. } => {
                self.others |= !name.starts_with("tenantry.");
                true
            }
            Kind::SetConfig { whole: true, .. } => true,
            Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint(_)
            | Kind::RollbackTo(_)
            | Kind::Release(_)
            | Kind::SetTransaction(_)
            | Kind::SetSessionCharacteristics(_)
            | Kind::Reset(_)
            | Kind::ResetAll
            | Kind::Show(_)
            | Kind::ShowAll
            | Kind::Discard(_)
            | Kind::DeallocateAll
            | Kind::Deallocate(_) => {
                self.others = true;
                true
            }
            _ => false,
        };
        if !known {
            self.at_risk |= self.others || self.opaque > 0;
            self.opaque += 1;
        }
    }

    /// A round trip is worth it only where something would have run.
    fn must_be_parsed(&self) -> bool {
        self.at_risk
    }
}

fn at(index: usize, effects: Vec<Effect>) -> Vec<(usize, Effect)> {
    effects.into_iter().map(|effect| (index, effect)).collect()
}
