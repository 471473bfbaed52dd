//! Statements that the router runs, answers or refuses itself, in both protocols.

use bytes::Bytes;
use tenantry_wire::backend::{self, Column, ErrorFields};
use tenantry_wire::encoding;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::sql::{self, Arg, Kind, SetValue, SettingCall};

use super::client::Handled;
use super::describe::INT4_OID;
use super::expect::{Effect, Expect, Shown};
use super::settings_seen::{is_router_setting, reads_differently, refused_calls};
use super::sql_statements::sql_source;
use super::statements::Portal;
use super::transactions::sets_mode;
use super::{Session, Tx};
use crate::Severity;
use crate::error::Refusal;
use crate::server::Link;

/// By which protocol a statement came.
#[derive(Debug)]
pub(super) enum Mode {
    /// Part of a simple Query.
    Simple {
        /// No statement follows: its CommandComplete waits for the commit.
        last: bool,
        /// The Query holds this statement only.
        only: bool,
    },
    /// Execute of a portal.
    Extended {
        /// As text.
        parameters: Vec<Option<Bytes>>,
        /// Results that are not texts travel in binary format.
        binary: bool,
    },
}

const ROLE_HINT: &str = "the role of a session is the one it logged in with";

impl Session {
    /// Whether the statement must not reach the server as it is.
    pub(super) fn router_runs(&self, kind: &Kind<'_>, text: &[u8]) -> bool {
        match kind {
            Kind::Set { name, value, .. } => {
                name.starts_with("tenantry.")
                    || sets_unsafe_encoding(name, value)
                    || *value == SetValue::Default && self.state.startup_value(name).is_some()
            }
            Kind::Reset(name) => {
                name.starts_with("tenantry.") || self.state.startup_value(name).is_some()
            }
            Kind::Show(name) => name.starts_with("tenantry."),
            Kind::CloseCursor(Some(name)) => {
                matches!(
                    self.statements.find_portal(name.as_bytes()),
                    Some(Portal::Router { .. })
                )
            }
            Kind::SetConfig { .. } if calls_tenantry(kind) => true,
            Kind::SetConfig { .. } | Kind::DeclareCursor { .. } | Kind::CopyToStdout => {
                refused_calls(text).is_some()
            }
            // A call may stand in it that only the server sees.
            Kind::Plain => reads_differently(text) && refused_calls(text).is_some(),
            Kind::NotUtf8
            | Kind::ResetAll
            | Kind::Discard(_)
            | Kind::DeallocateAll
            | Kind::Deallocate(_)
            | Kind::PrepareStatement { .. }
            | Kind::ExecuteStatement { .. }
            | Kind::Listen(_)
            | Kind::Unlisten(_)
            | Kind::Notify { .. }
            | Kind::BackendPid { .. }
            | Kind::CopyFromStdin { .. }
            | Kind::LockTable
            | Kind::AlterRole
            | Kind::SetRole { .. }
            | Kind::SetSessionAuthorization { .. } => true,
            _ => false,
        }
    }

    /// Runs one statement. Only called when settled.
    pub(super) fn run_statement(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if let Tx::FailedHere { open_on_server, .. } = self.tx {
            return self.run_after_refusal(text, kind, open_on_server, mode, server);
        }
        let own = self.router_runs(kind, text) || is_named_by_parameter(kind, mode);
        if matches!(self.tx, Tx::Failed) && own {
            return Err(Refusal::TransactionAborted);
        }
        match kind {
            Kind::Empty => {
                if matches!(mode, Mode::Extended { .. }) {
                    backend::put_empty_query(&mut self.output);
                }
                Ok(Handled::Done)
            }
            Kind::Begin(_)
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint(_)
            | Kind::RollbackTo(_)
            | Kind::SetTransaction(_) => self.run_transaction(text, kind, mode, server),
            Kind::Set { .. } if sets_mode(kind) => self.run_transaction(text, kind, mode, server),
            _ if own => self.run_own(text, kind, mode, server),
            Kind::DeclareCursor {
                name,
                query: Some(query),
                ..
            } if self.batch.split && matches!(self.tx, Tx::Idle) => {
                self.declare(name, query, mode, server)
            }
            _ => self.run_on_server(text, Self::effects(kind, text), mode, server),
        }
    }

    /// DECLARE among the statements of one Query, where PostgreSQL has a transaction block: a cursor is a portal.
    fn declare(
        &mut self,
        name: &str,
        query: &[u8],
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        frontend::put_parse(&mut server.output, "", query, &[]);
        frontend::put_bind(&mut server.output, name, "", &[], Format::Text);
        self.expects.push(Expect::HiddenParse(None));
        self.expects.push(Expect::HiddenBind);
        server.state.unnamed = None;
        if sql::may_set_unseen(query) || sql::mentions_setting_function(query) {
            self.pinned = true;
            server.state.dirty = true;
        }
        self.complete_on_server("DECLARE CURSOR", mode, server)
    }

    fn run_own(
        &mut self,
        text: &[u8],
        kind: &Kind<'_>,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if let Kind::SetConfig { .. }
        | Kind::Plain
        | Kind::DeclareCursor { .. }
        | Kind::CopyToStdout = kind
            && !calls_tenantry(kind)
            && let Some(refusal) = refused_calls(text)
        {
            return Err(refusal);
        }
        match kind {
            Kind::Show(_) => self.run_setting(kind, mode),
            Kind::Set { name, value, .. } if sets_unsafe_encoding(name, value) => {
                Err(unsafe_encoding())
            }
            Kind::Set { name, local, .. } if !name.starts_with("tenantry.") => {
                self.restore(name, *local, "SET", mode, server)
            }
            Kind::Reset(name) if !name.starts_with("tenantry.") => {
                self.restore(name, false, "RESET", mode, server)
            }
            Kind::Set { .. } | Kind::Reset(_) | Kind::SetConfig { .. } => {
                if !self.ready_to_switch(server) {
                    return Ok(Handled::Later);
                }
                self.run_setting(kind, mode)
            }
            // A portal of a statement that the router runs is a cursor, too.
            Kind::CloseCursor(Some(name)) => {
                self.statements.set_portal(name.as_bytes(), None);
                self.command_complete("CLOSE CURSOR")
            }
            Kind::ResetAll => self.restore_all(mode, server),
            Kind::Discard(target) => self.discard(*target, mode, server),
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
                name,
                types,
                text: statement,
            } => match refused_calls(statement) {
                Some(refusal) => Err(refusal),
                None => self.prepare_sql(name, sql_source(types, statement), mode, server),
            },
            Kind::ExecuteStatement { name, args } => self.execute_sql(name, args, mode, server),
            Kind::NotUtf8 => Err(Refusal::Unsupported {
                what: "a name or value that is not UTF-8 in this statement".to_owned(),
                hint: "send it with client_encoding UTF8",
            }),
            Kind::Listen(name) => self.run_listen(name, mode, server),
            Kind::Unlisten(name) => self.run_unlisten(name.as_deref(), mode, server),
            Kind::Notify { channel, payload } => {
                self.run_notify(channel, payload.as_deref().unwrap_or(""), mode, server)
            }
            Kind::BackendPid { column } => self.tell_pid(column, mode),
            Kind::CopyFromStdin { .. } => self.copy_from(text, mode, server),
            Kind::LockTable => Err(Refusal::NotPermitted {
                what: "LOCK TABLE",
                hint: "it would stop every tenant of the shard; lock rows with SELECT … FOR UPDATE",
            }),
            Kind::AlterRole => Err(Refusal::NotPermitted {
                what: "ALTER ROLE",
                hint: "roles are kept in the catalog",
            }),
            Kind::SetRole { value, .. } | Kind::SetSessionAuthorization { value, .. }
                if keeps_role(value) =>
            {
                self.command_complete("SET")
            }
            _ => Err(role_change()),
        }
    }

    pub(super) fn command_complete(&mut self, tag: &str) -> Result<Handled, Refusal> {
        backend::put_command_complete(&mut self.output, tag);
        Ok(Handled::Done)
    }

    /// The number that BackendKeyData told, whichever server connection serves the session now.
    fn tell_pid(&mut self, column: &str, mode: &Mode) -> Result<Handled, Refusal> {
        let pid = self.identity.pid();
        let (text, bytes) = (pid.to_string(), pid.to_be_bytes());
        let value = match mode {
            Mode::Extended { binary: true, .. } => bytes.as_slice(),
            Mode::Extended { .. } => text.as_bytes(),
            Mode::Simple { .. } => {
                let described = [Column::of_type(column, INT4_OID, 4)];
                backend::put_row_description(&mut self.output, &described);
                text.as_bytes()
            }
        };
        backend::put_data_row(&mut self.output, &[Some(value)]);
        self.command_complete("SELECT 1")
    }

    /// Sends a statement by extended protocol, its results as the client's protocol shows them.
    pub(super) fn run_on_server(
        &mut self,
        text: &[u8],
        effects: Vec<Effect>,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        self.send_statement(text, effects, mode, server);
        if let Mode::Simple { last: true, .. } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// Parse, Bind and Execute without Sync.
    pub(super) fn send_statement(
        &mut self,
        text: &[u8],
        effects: Vec<Effect>,
        mode: &Mode,
        server: &mut Link,
    ) {
        self.note_statement(text);
        server.state.kept.give_up();
        let portal = self.own_portal();
        frontend::put_parse(&mut server.output, "", text, &[]);
        frontend::put_bind(&mut server.output, portal, "", &[], Format::Text);
        self.expects.push(Expect::HiddenParse(None));
        self.expects.push(Expect::HiddenBind);
        server.state.unnamed = None;
        let withhold = match mode {
            Mode::Simple { last, .. } => {
                frontend::put_describe(&mut server.output, TargetKind::Portal, portal);
                self.expects
                    .push(Expect::Describe(if sql::is_select(text, self.scs()) {
                        Shown::BeforeRows
                    } else {
                        Shown::WithResult
                    }));
                self.sync_owed = true;
                *last
            }
            Mode::Extended { .. } => {
                self.batch.forwarded = true;
                false
            }
        };
        frontend::put_execute(&mut server.output, portal, 0);
        self.batch.ended = effects.contains(&Effect::End);
        self.note_in_flight(self.batch.ended);
        self.expects.push(Expect::Execute { effects, withhold });
        if !self.batch.ended {
            self.leave_portal(server, portal);
        }
    }

    /// The answer to a statement that the server has run under another text.
    pub(super) fn complete_on_server(
        &mut self,
        tag: &str,
        mode: &Mode,
        server: &mut Link,
    ) -> Result<Handled, Refusal> {
        self.answer(|out| backend::put_command_complete(out, tag));
        server.state.kept.give_up();
        match mode {
            Mode::Simple { last, .. } => {
                self.sync_owed = true;
                if *last {
                    self.send_owed_sync(server);
                }
            }
            Mode::Extended { .. } => self.batch.forwarded = true,
        }
        Ok(Handled::Done)
    }

    pub(super) fn warn(&mut self, code: &str, message: &str) {
        let fields = ErrorFields::new(Severity::Warning, code, message);
        backend::put_notice(&mut self.output, &fields);
    }
}

/// A call like `set_config($1, …)` whose portal the router kept because `$1` is a setting of its own.
fn is_named_by_parameter(kind: &Kind<'_>, mode: &Mode) -> bool {
    matches!(mode, Mode::Extended { .. })
        && matches!(kind, Kind::SetConfig { calls, .. } if calls.iter().any(has_parameter_name))
}

/// Whether the call's setting is known only when its parameters are.
pub(super) fn has_parameter_name(call: &SettingCall) -> bool {
    matches!(call.name(), Arg::Param(_) | Arg::TypedParam(..))
}

fn calls_tenantry(kind: &Kind<'_>) -> bool {
    matches!(kind, Kind::SetConfig { calls, .. } if calls.iter().any(names_tenantry))
}

fn names_tenantry(call: &SettingCall) -> bool {
    match call.name() {
        Arg::Literal(name) => is_router_setting(name),
        _ => false,
    }
}

/// SET ROLE NONE and the like change nothing.
fn keeps_role(value: &SetValue) -> bool {
    match value {
        SetValue::Default => true,
        SetValue::Values(values) => {
            matches!(values.as_slice(), [only] if only.eq_ignore_ascii_case("none"))
        }
        SetValue::FromCurrent | SetValue::Interval => false,
    }
}

/// In such an encoding a byte that looks like a quote can be half of a character.
fn sets_unsafe_encoding(name: &str, value: &SetValue) -> bool {
    name == "client_encoding"
        && value
            .to_text(name)
            .is_some_and(|encoding| !encoding::is_ascii_safe(&encoding))
}

pub(crate) fn unsafe_encoding() -> Refusal {
    Refusal::Unsupported {
        what: "a client encoding in which an ASCII byte may be half a character".to_owned(),
        hint: "use UTF8, or an encoding such as LATIN1",
    }
}

pub(super) fn is_role_setting(name: &str) -> bool {
    name.eq_ignore_ascii_case("role") || name.eq_ignore_ascii_case("session_authorization")
}

pub(super) fn role_change() -> Refusal {
    Refusal::NotPermitted {
        what: "SET ROLE",
        hint: ROLE_HINT,
    }
}
