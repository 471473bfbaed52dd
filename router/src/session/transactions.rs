//! BEGIN, COMMIT, ROLLBACK, SAVEPOINT and SET TRANSACTION.
//!
//! A transaction is answered here until its first statement is known; after a refusal only its end
//! is accepted.

use tenantry_wire::frontend::{self, Parse};
use tenantry_wire::sql::{self, Isolation, Kind};
use tenantry_wire::sqlstate;
use tenantry_wire::tag::frontend as tag;

use super::client::{ClientMessage, Handled, runs_something};
use super::expect::{Effect, Expect};
use super::extended::ends_transaction;
use super::special::Mode;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

impl Session {
    /// BEGIN and what may travel with it; COMMIT and ROLLBACK of what never reached a server.
    pub(super) fn run_transaction(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let owned = || String::from_utf8_lossy(text).into_owned();
        let elsewhere = self.goes_on_for_another(kind);
        match (kind, &mut self.tx) {
            (Kind::Begin(_), Tx::Idle) if !self.batch.forwarded && !self.sync_owed => {
                self.begin_state();
                self.tx = Tx::Deferred {
                    prologue: vec![owned()],
                };
                self.command_complete(begin_tag(text))
            }
            (Kind::SetTransaction(modes), Tx::Idle)
                if modes.isolation.is_some()
                    && matches!(mode, Mode::Extended { .. })
                    && !self.batch.forwarded =>
            {
                // In force for this statement only, and the bind would come before it.
                self.warn(
                    sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                    "SET TRANSACTION can only be used in transaction blocks",
                );
                self.command_complete("SET")
            }
            (Kind::Begin(_), Tx::Deferred { .. }) => {
                self.warn(
                    sqlstate::ACTIVE_SQL_TRANSACTION,
                    "there is already a transaction in progress",
                );
                self.command_complete(begin_tag(text))
            }
            (Kind::Savepoint(name), Tx::Deferred { prologue }) => {
                prologue.push(owned());
                self.state.savepoint(name);
                self.note_view();
                self.command_complete("SAVEPOINT")
            }
            (Kind::SetTransaction(_), Tx::Deferred { prologue }) => {
                prologue.push(owned());
                self.command_complete("SET")
            }
            // It must come before the bind, which is a query.
            (Kind::Set { .. }, Tx::Deferred { prologue }) if sets_mode(kind) => {
                prologue.push(owned());
                self.command_complete("SET")
            }
            // In force for this statement only, and the bind would come before it.
            (Kind::Set { .. }, Tx::Idle)
                if sets_mode(kind)
                    && !self.batch.forwarded
                    && !self.sync_owed
                    && !self.batch.split =>
            {
                self.command_complete("SET")
            }
            (Kind::RollbackTo(name), Tx::Deferred { prologue })
                if self.state.has_savepoint(name) =>
            {
                prologue.push(owned());
                self.state.rollback_to(name);
                self.command_complete("ROLLBACK")
            }
            (
                Kind::RollbackTo(_) | Kind::Commit { chain: true } | Kind::Rollback { chain: true },
                Tx::Open { .. } | Tx::Failed,
            ) if elsewhere => Err(Refusal::SwitchInTransaction),
            (Kind::Commit { chain } | Kind::Rollback { chain }, Tx::Deferred { prologue }) => {
                self.statements.clear_portals();
                let commit = matches!(kind, Kind::Commit { .. });
                if commit {
                    self.state.commit();
                } else {
                    self.state.rollback();
                }
                if *chain {
                    prologue.truncate(1);
                    self.state.begin();
                    self.note_view();
                } else {
                    self.tx = Tx::Idle;
                }
                self.command_complete(if commit { "COMMIT" } else { "ROLLBACK" })
            }
            (Kind::Commit { chain: false } | Kind::Rollback { chain: false }, Tx::Idle)
                if !self.batch.forwarded && !self.sync_owed =>
            {
                self.end_implicit();
                self.clear_portals();
                self.warn(
                    sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                    "there is no transaction in progress",
                );
                let commit = matches!(kind, Kind::Commit { .. });
                self.command_complete(if commit { "COMMIT" } else { "ROLLBACK" })
            }
            _ => self.run_on_server(text, Self::effects(kind, text), mode, server),
        }
    }

    /// Whether the transaction that is open on the server would go on for another tenant behind this statement, which
    /// takes back or ends what had set the tenant.
    pub(super) fn goes_on_for_another(&self, kind: &Kind<'_>) -> bool {
        let tenant = match kind {
            Kind::RollbackTo(name) => self.state.tenant_at(Some(name)),
            Kind::Rollback { chain: true } => self.state.tenant_at(None),
            Kind::Commit { chain: true } if !matches!(self.tx, Tx::Open { .. }) => {
                self.state.tenant_at(None)
            }
            Kind::Commit { chain: true } => Some(self.state.session_tenant()),
            _ => None,
        };
        matches!(
            self.tx,
            Tx::Open { .. }
                | Tx::Failed
                | Tx::FailedHere {
                    open_on_server: true,
                    ..
                }
        ) && tenant.is_some_and(|tenant| tenant != self.state.tenant())
    }

    /// After a refusal inside a transaction only its end, or a return to a savepoint, is accepted.
    pub(super) fn run_after_refusal(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        open_on_server: bool,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        match kind {
            _ if self.goes_on_for_another(kind) => Err(Refusal::SwitchInTransaction),
            Kind::Commit { chain } | Kind::Rollback { chain } if open_on_server => {
                self.tx = Tx::Failed;
                let text: &[u8] = if *chain {
                    b"ROLLBACK AND CHAIN"
                } else {
                    b"ROLLBACK"
                };
                self.run_on_server(text, vec![Effect::End], mode, server)
            }
            Kind::Commit { chain } | Kind::Rollback { chain } => {
                let begin = match &self.tx {
                    Tx::FailedHere { deferred, .. } => deferred.first().cloned(),
                    _ => None,
                };
                self.state.rollback();
                self.tx = Tx::Idle;
                match self.lost.take() {
                    // The client has not heard yet that there is nothing to commit, and drivers do
                    // not look at the command tag.
                    Some(refusal) if matches!(kind, Kind::Commit { .. }) => Err(refusal),
                    _ => {
                        if *chain {
                            self.begin_state();
                            let prologue = vec![begin.unwrap_or_else(|| "BEGIN".to_owned())];
                            self.tx = Tx::Deferred { prologue };
                        }
                        self.command_complete("ROLLBACK")
                    }
                }
            }
            Kind::RollbackTo(name) if open_on_server => {
                self.tx = Tx::Failed;
                let text = format!("ROLLBACK TO \"{}\"", name.replace('"', "\"\""));
                let effect = vec![Effect::RollbackTo(name.clone())];
                self.run_on_server(text.as_bytes(), effect, mode, server)
            }
            Kind::RollbackTo(name) if self.state.has_savepoint(name) => {
                let Tx::FailedHere { deferred, .. } = &mut self.tx else {
                    return Err(self.aborted());
                };
                if deferred.is_empty() {
                    return Err(self.aborted());
                }
                let mut prologue = std::mem::take(deferred);
                prologue.push(String::from_utf8_lossy(text).into_owned());
                self.state.rollback_to(name);
                self.tx = Tx::Deferred { prologue };
                self.command_complete("ROLLBACK")
            }
            Kind::RollbackTo(name) if self.lost.is_none() => {
                Err(Refusal::UnknownSavepoint { name: name.clone() })
            }
            Kind::Empty => Ok(Handled::Done),
            _ => Err(self.aborted()),
        }
    }

    /// Makes the server's transaction fail; it skips what follows up to the next Sync.
    pub(super) fn put_abort(&mut self, server: &mut Link) {
        frontend::put_execute(&mut server.output, super::ABORT_PORTAL, 0);
        self.expects.push(Expect::HiddenAbort);
    }

    /// The same with a Sync of its own, of which the client sees nothing.
    fn put_hidden_abort(&mut self, server: &mut Link) {
        self.put_abort(server);
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::HiddenSync);
    }

    /// Makes the server's transaction fail too, so that from here on it answers what only it knows: whether a text is
    /// well-formed, which portals there are.
    pub(super) fn fail_on_server(&mut self, server: Option<&mut Link>) {
        let open = matches!(
            self.tx,
            Tx::FailedHere {
                open_on_server: true,
                ..
            }
        );
        if let Some(server) = server
            && open
            && self.settled()
        {
            self.put_hidden_abort(server);
            self.batch.forwarded = false;
        }
    }

    /// A transaction that failed before it reached a server is begun and made to fail there, if the message is not
    /// one that ends it.
    pub(super) fn fail_for_truth(
        &mut self,
        message: ClientMessage<'_>,
        server: Option<&mut Link>,
    ) -> Option<Handled> {
        let Tx::FailedHere {
            open_on_server: false,
            deferred,
        } = &mut self.tx
        else {
            return None;
        };
        if deferred.is_empty() || !runs_something(message.tag) {
            return None;
        }
        let text = match message.tag {
            tag::QUERY => frontend::query_text(message.body).ok(),
            tag::PARSE => Parse::decode(message.body).ok().map(|parse| parse.text),
            _ => None,
        };
        let prologue = std::mem::take(deferred);
        let scs = self.scs();
        let first = text.and_then(|text| Some(&text[sql::split(text, scs).next()?]));
        let ends = first.is_some_and(|first| ends_transaction(&sql::classify(first, scs)));
        let server = if ends || !self.settled() {
            None
        } else {
            server
        };
        let handled = match server {
            Some(server) => {
                self.enter_failed(prologue, server);
                self.put_hidden_abort(server);
                return Some(Handled::Later);
            }
            None if ends => None,
            None if !self.settled() => Some(Handled::Later),
            None => Some(self.acquire()),
        };
        self.tx = Tx::FailedHere {
            open_on_server: false,
            deferred: prologue,
        };
        handled
    }

    /// Why nothing runs: the loss of the transaction is told once, then as PostgreSQL does.
    pub(super) fn aborted(&mut self) -> Refusal {
        self.lost.take().unwrap_or(Refusal::TransactionAborted)
    }
}

/// The level that a value of `transaction_isolation` names.
fn isolation_of(value: &str) -> Option<Isolation> {
    let mut levels = Isolation::ALL.into_iter();
    levels.find(|level| level.name().eq_ignore_ascii_case(value))
}

/// The isolation level that a statement gives its transaction, if it gives one.
pub(super) fn isolation_given(kind: &Kind<'_>) -> Option<Isolation> {
    match kind {
        Kind::Begin(modes) | Kind::SetTransaction(modes) => modes.isolation,
        Kind::Set { name, value, .. } if name == "transaction_isolation" => {
            isolation_of(&value.to_text(name)?)
        }
        _ => None,
    }
}

/// SET of one of the modes that SET TRANSACTION sets too, to a value that it has.
pub(super) fn sets_mode(kind: &Kind<'_>) -> bool {
    let Kind::Set { name, value, .. } = kind else {
        return false;
    };
    let Some(value) = value.to_text(name) else {
        return false;
    };
    let value = value.to_ascii_lowercase();
    match name.as_str() {
        "transaction_isolation" => isolation_of(&value).is_some(),
        "transaction_read_only" | "transaction_deferrable" => {
            ["on", "off", "true", "false"].contains(&value.as_str())
        }
        _ => false,
    }
}

fn begin_tag(text: &[u8]) -> &'static str {
    let word = text.trim_ascii_start();
    if word
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"start"))
    {
        "START TRANSACTION"
    } else {
        "BEGIN"
    }
}
