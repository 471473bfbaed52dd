//! Statements that the router runs, answers or refuses itself, in both protocols.

use bytes::Bytes;
use tenantry_wire::backend::{self, ErrorFields};
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::sql::{DiscardTarget, Kind, SetValue};
use tenantry_wire::sqlstate;

use super::client::Handled;
use super::expect::{Effect, Expect};
use super::state::Assigned;
use super::{Session, Tx};
use crate::Severity;
use crate::error::Refusal;
use crate::server::{PreparedKey, Server, Source};

/// By which protocol a statement came.
#[derive(Debug)]
pub(super) enum Mode {
    /// Part of a simple Query.
    Simple {
        /// No statement follows: its CommandComplete waits for the commit.
        last: bool,
    },
    /// Execute of a portal with these text parameters.
    Extended { parameters: Vec<Option<Bytes>> },
}

/// Whether a statement text may leave something behind in its server session that only this
/// client may use: session-level advisory locks.
pub(super) fn pins(text: &[u8]) -> bool {
    const NEEDLE: &[u8] = b"advisory_lock";
    memchr::memchr2_iter(b'a', b'A', text).any(|at| {
        text.get(at..at + NEEDLE.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(NEEDLE))
    })
}

const LISTEN_HINT: &str =
    "connect to the shard directly for LISTEN and NOTIFY, or poll a table of events";
const ROLE_HINT: &str = "the role of a session is the one it logged in with";

impl Session {
    /// Whether the statement must not reach the server as it is.
    pub(super) fn router_runs(&self, kind: &Kind<'_>) -> bool {
        match kind {
            Kind::Set { name, .. } | Kind::Reset(name) | Kind::Show(name) => {
                name.starts_with("tenantry.")
            }
            Kind::SetConfig(calls) => calls.names_tenantry(),
            Kind::ResetAll
            | Kind::Discard(_)
            | Kind::DeallocateAll
            | Kind::Deallocate(_)
            | Kind::PrepareStatement { .. }
            | Kind::ExecuteStatement { .. }
            | Kind::Listen(_)
            | Kind::Unlisten(_)
            | Kind::Notify { .. }
            | Kind::CopyFromStdin { .. }
            | Kind::LockTable
            | Kind::AlterRole
            | Kind::SetRole { .. }
            | Kind::SetSessionAuthorization { .. } => true,
            _ => false,
        }
    }

    /// What a statement that runs on the server changes in the session.
    pub(super) fn effect(kind: &Kind<'_>, text: &[u8]) -> Option<Effect> {
        match kind {
            Kind::Begin { .. } => Some(Effect::Begin),
            Kind::Commit { .. } | Kind::Rollback { .. } => Some(Effect::End),
            Kind::Savepoint(name) => Some(Effect::Savepoint(name.clone())),
            Kind::RollbackTo(name) => Some(Effect::RollbackTo(name.clone())),
            Kind::Release(name) => Some(Effect::Release(name.clone())),
            Kind::Set {
                local: false,
                name,
                value: SetValue::Default,
                ..
            } => Some(Effect::Reset(name.clone())),
            Kind::Set {
                local: false,
                name,
                tail,
                ..
            } => Some(Effect::Set {
                name: name.clone(),
                value: Assigned::Tail((*tail).to_owned()),
            }),
            Kind::Reset(name) => Some(Effect::Reset(name.clone())),
            Kind::DeclareCursor { hold: true } | Kind::CreateTemp => Some(Effect::Pin),
            Kind::Plain if pins(text) => Some(Effect::Pin),
            _ => None,
        }
    }

    /// Runs one statement. Only called when settled.
    pub(super) fn run_statement(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        if let Tx::FailedHere { open_on_server } = self.tx {
            return self.run_after_refusal(kind, open_on_server, mode, server);
        }
        if matches!(self.tx, Tx::Failed) && self.router_runs(kind) {
            return Err(Refusal::TransactionAborted);
        }
        match kind {
            Kind::Empty => {
                if matches!(mode, Mode::Extended { .. }) {
                    backend::put_empty_query(&mut self.output);
                }
                Ok(Handled::Done)
            }
            Kind::Begin { .. }
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint(_)
            | Kind::SetTransaction(_) => self.run_transaction(text, kind, mode, server),
            _ if self.router_runs(kind) => self.run_own(text, kind, mode, server),
            _ => self.run_on_server(text, Self::effect(kind, text), mode, server),
        }
    }

    fn run_own(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        match kind {
            Kind::Set { .. } | Kind::Reset(_) | Kind::Show(_) | Kind::SetConfig(_) => {
                self.run_setting(kind, mode)
            }
            Kind::ResetAll => {
                self.begin_implicit();
                self.state.reset_all();
                self.command_complete("RESET")
            }
            Kind::Discard(target) => self.discard(*target, server),
            Kind::DeallocateAll => {
                self.statements.clear();
                self.command_complete("DEALLOCATE ALL")
            }
            Kind::Deallocate(name) => {
                if !self.statements.remove(name.as_bytes()) {
                    return Err(Refusal::UnknownStatement { name: name.clone() });
                }
                self.command_complete("DEALLOCATE")
            }
            Kind::PrepareStatement {
                name, definition, ..
            } => self.prepare_sql(name, definition, mode, server),
            Kind::ExecuteStatement { name, arguments } => {
                self.execute_sql(name, arguments, mode, server)
            }
            Kind::Unlisten(_) => self.command_complete("UNLISTEN"),
            Kind::Listen(_) | Kind::Notify { .. } => Err(Refusal::Unsupported {
                what: "LISTEN and NOTIFY".to_owned(),
                hint: LISTEN_HINT,
            }),
            Kind::CopyFromStdin { .. } => self.copy_from(text, mode, server),
            Kind::LockTable => Err(Refusal::NotPermitted {
                what: "LOCK TABLE",
                hint: "it would stop every tenant of the shard; lock rows with SELECT … FOR UPDATE",
            }),
            Kind::AlterRole => Err(Refusal::NotPermitted {
                what: "ALTER ROLE",
                hint: "roles are kept in the catalog",
            }),
            Kind::SetRole { none: true } | Kind::SetSessionAuthorization { default: true } => {
                self.command_complete("SET")
            }
            _ => Err(Refusal::NotPermitted {
                what: "SET ROLE",
                hint: ROLE_HINT,
            }),
        }
    }

    pub(super) fn command_complete(&mut self, tag: &str) -> Result<Handled, Refusal> {
        backend::put_command_complete(&mut self.output, tag);
        Ok(Handled::Done)
    }

    /// BEGIN and what may travel with it; COMMIT and ROLLBACK of what never reached a server.
    fn run_transaction(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        let owned = || String::from_utf8_lossy(text).into_owned();
        match (kind, &mut self.tx) {
            (Kind::Begin { start, .. }, Tx::Idle) if !self.batch.forwarded && !self.sync_owed => {
                self.state.begin();
                self.tx = Tx::Deferred {
                    prologue: vec![owned()],
                };
                self.command_complete(if *start { "START TRANSACTION" } else { "BEGIN" })
            }
            (Kind::Begin { .. }, Tx::Deferred { .. }) => {
                self.warn(
                    sqlstate::ACTIVE_SQL_TRANSACTION,
                    "there is already a transaction in progress",
                );
                self.command_complete("BEGIN")
            }
            (Kind::Savepoint(name), Tx::Deferred { prologue }) => {
                prologue.push(owned());
                self.state.savepoint(name);
                self.command_complete("SAVEPOINT")
            }
            (Kind::SetTransaction(_), Tx::Deferred { prologue }) => {
                prologue.push(owned());
                self.command_complete("SET")
            }
            (Kind::Commit { chain } | Kind::Rollback { chain }, Tx::Deferred { prologue }) => {
                let commit = matches!(kind, Kind::Commit { .. });
                if commit {
                    self.state.commit();
                } else {
                    self.state.rollback();
                }
                if *chain {
                    prologue.truncate(1);
                    self.state.begin();
                } else {
                    self.tx = Tx::Idle;
                }
                self.command_complete(if commit { "COMMIT" } else { "ROLLBACK" })
            }
            (Kind::Commit { chain: false } | Kind::Rollback { chain: false }, Tx::Idle)
                if !self.batch.forwarded && !self.sync_owed =>
            {
                self.end_implicit();
                self.warn(
                    sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                    "there is no transaction in progress",
                );
                let commit = matches!(kind, Kind::Commit { .. });
                self.command_complete(if commit { "COMMIT" } else { "ROLLBACK" })
            }
            _ => self.run_on_server(text, Self::effect(kind, text), mode, server),
        }
    }

    /// After a refusal inside a transaction only its end, or a return to a savepoint, is accepted.
    fn run_after_refusal(
        &mut self,
        kind: &Kind<'_>,
        open_on_server: bool,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        match kind {
            Kind::Commit { chain } | Kind::Rollback { chain } if open_on_server => {
                self.tx = Tx::Failed;
                let text: &[u8] = if *chain {
                    b"ROLLBACK AND CHAIN"
                } else {
                    b"ROLLBACK"
                };
                self.run_on_server(text, Some(Effect::End), mode, server)
            }
            Kind::Commit { .. } | Kind::Rollback { .. } => {
                self.state.rollback();
                self.tx = Tx::Idle;
                self.command_complete("ROLLBACK")
            }
            Kind::RollbackTo(name) if open_on_server => {
                self.tx = Tx::Failed;
                let text = format!("ROLLBACK TO \"{}\"", name.replace('"', "\"\""));
                let effect = Some(Effect::RollbackTo(name.clone()));
                self.run_on_server(text.as_bytes(), effect, mode, server)
            }
            Kind::Empty => Ok(Handled::Done),
            _ => Err(self.aborted()),
        }
    }

    /// Why nothing runs: the loss of the server connection is told once, then as PostgreSQL does.
    fn aborted(&mut self) -> Refusal {
        match self.lost.take() {
            Some(shard) => Refusal::LostRolledBack { shard },
            None => Refusal::TransactionAborted,
        }
    }

    /// Sends a statement by extended protocol, its results as the client's protocol shows them.
    pub(super) fn run_on_server(
        &mut self,
        text: &[u8],
        effect: Option<Effect>,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        self.send_statement(text, effect, mode, server);
        if let Mode::Simple { last: true } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// Parse, Bind and Execute without Sync.
    pub(super) fn send_statement(
        &mut self,
        text: &[u8],
        effect: Option<Effect>,
        mode: &Mode,
        server: &mut Server,
    ) {
        frontend::put_parse(&mut server.output, "", text, &[]);
        frontend::put_bind(&mut server.output, "", "", &[], Format::Text);
        self.expects.push(Expect::HiddenParse(None));
        self.expects.push(Expect::HiddenBind);
        server.state.unnamed = None;
        let withhold = match mode {
            Mode::Simple { last } => {
                frontend::put_describe(&mut server.output, TargetKind::Portal, "");
                self.expects.push(Expect::Describe { simple: true });
                self.sync_owed = true;
                *last
            }
            Mode::Extended { .. } => {
                self.batch.forwarded = true;
                false
            }
        };
        frontend::put_execute(&mut server.output, "", 0);
        self.note_in_flight(effect == Some(Effect::End));
        self.expects.push(Expect::Execute {
            effects: effect.into_iter().collect(),
            withhold,
        });
    }

    fn discard(
        &mut self,
        target: DiscardTarget,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        let tag = match target {
            DiscardTarget::All => {
                if !matches!(self.tx, Tx::Idle) {
                    return Err(Refusal::NotPermitted {
                        what: "DISCARD ALL inside a transaction",
                        hint: "end the transaction first",
                    });
                }
                self.state.reset_all();
                self.statements.clear();
                if let Some(server) = server {
                    server.state.dirty |= self.pinned;
                }
                self.pinned = false;
                "DISCARD ALL"
            }
            DiscardTarget::Plans => "DISCARD PLANS",
            DiscardTarget::Sequences => "DISCARD SEQUENCES",
            DiscardTarget::Temp => "DISCARD TEMP",
        };
        self.command_complete(tag)
    }

    /// PREPARE: the statement gets a router-wide name, and the server checks it now.
    fn prepare_sql(
        &mut self,
        name: &str,
        definition: &str,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        if self.statements.find(name.as_bytes()).is_some() {
            return Err(Refusal::DuplicateStatement {
                name: name.to_owned(),
            });
        }
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        let prepared = self.shared.registry.intern(PreparedKey {
            source: Source::Sql {
                definition: definition.to_owned(),
            },
            settings_hash: self.state.settings().hash(),
        });
        // Where the connection holds it already, the same text was accepted before.
        if server.state.prepared.touch(&prepared) {
            self.statements.insert_sql(name, prepared);
            return self.command_complete("PREPARE");
        }
        let text = format!("PREPARE {} {definition}", prepared.name);
        let effect = Effect::PrepareSql {
            name: name.to_owned(),
            prepared,
        };
        self.send_statement(text.as_bytes(), Some(effect), mode, server);
        if let Mode::Simple { last: true } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// EXECUTE with the statement's router-wide name.
    fn execute_sql(
        &mut self,
        name: &str,
        arguments: &str,
        mode: &Mode,
        server: Option<&mut Server>,
    ) -> Result<Handled, Refusal> {
        let Some(prepared) = self.statements.prepared(name.as_bytes()) else {
            return Err(Refusal::UnknownStatement {
                name: name.to_owned(),
            });
        };
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        self.prepare_on(server, &prepared);
        let text = format!("EXECUTE {}{arguments}", prepared.name);
        self.send_statement(text.as_bytes(), None, mode, server);
        if let Mode::Simple { last: true } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    pub(super) fn warn(&mut self, code: &str, message: &str) {
        let fields = ErrorFields::new(Severity::Warning, code, message);
        backend::put_notice(&mut self.output, &fields);
    }
}
