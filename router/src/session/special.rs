//! Statements that the router runs, answers or refuses itself, in both protocols.

use bytes::Bytes;
use tenantry_wire::backend::{self, Column, ErrorFields};
use tenantry_wire::encoding;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::sql::{self, Arg, DiscardTarget, Kind, SetValue, SettingCall};
use tenantry_wire::sqlstate;

use super::client::Handled;
use super::describe::INT4_OID;
use super::expect::{Effect, Expect, Shown};
use super::settings_seen::{
    ends_with_transaction, is_router_setting, reads_differently, refused_calls, ties_to_connection,
};
use super::sql_statements::sql_source;
use super::state::Assigned;
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

    /// What a statement that runs on the server changes in the session.
    pub(super) fn effects(kind: &Kind<'_>, text: &[u8]) -> Vec<Effect> {
        let mut effects = Self::effects_of_kind(kind, text);
        let ties = matches!(kind, Kind::Set { name, value, .. }
            if ties_to_connection(name, value.to_text(name).as_deref()));
        if ties || sql::may_set_unseen(text) {
            effects.push(Effect::Pin);
        }
        effects
    }

    fn effects_of_kind(kind: &Kind<'_>, text: &[u8]) -> Vec<Effect> {
        let one = |effect| vec![effect];
        match kind {
            Kind::Begin(_) => one(Effect::Begin),
            Kind::Commit { .. } | Kind::Rollback { .. } => one(Effect::End),
            Kind::Savepoint(name) => one(Effect::Savepoint(name.clone())),
            Kind::RollbackTo(name) => one(Effect::RollbackTo(name.clone())),
            Kind::Release(name) => one(Effect::Release(name.clone())),
            Kind::Set { name, .. } | Kind::Reset(name) if ends_with_transaction(name) => Vec::new(),
            Kind::Set {
                local: false,
                name,
                value,
                tail,
            } => match value {
                SetValue::Default => one(Effect::Reset(name.clone())),
                SetValue::FromCurrent => Vec::new(),
                value => one(Effect::Set {
                    name: name.clone(),
                    value: match value.to_text(name) {
                        Some(text) => Assigned::Value(text),
                        None => Assigned::Tail(String::from_utf8_lossy(tail).into_owned()),
                    },
                }),
            },
            Kind::SetSessionCharacteristics(modes) => modes
                .default_settings()
                .map(|(name, value)| Effect::Set {
                    name: name.to_owned(),
                    value: Assigned::Value(value),
                })
                .collect(),
            Kind::SetConfig { calls, whole } => Self::call_effects(calls, *whole, &[]),
            Kind::Reset(name) if ties_to_connection(name, None) => {
                vec![Effect::Reset(name.clone()), Effect::Pin]
            }
            Kind::Reset(name) => one(Effect::Reset(name.clone())),
            Kind::CreateTemp => one(Effect::Pin),
            Kind::DeclareCursor {
                hold: true, name, ..
            } => {
                let mut effects = one(Effect::Hold(name.clone()));
                if sql::mentions_setting_function(text) {
                    effects.push(Effect::Pin);
                }
                effects
            }
            Kind::CloseCursor(name) => one(Effect::CloseCursor(name.clone())),
            Kind::Plain if sql::takes_session_lock(text) => one(Effect::Pin),
            // What set_config() sets inside these cannot be followed.
            Kind::DeclareCursor { .. } | Kind::CopyToStdout
                if sql::mentions_setting_function(text) =>
            {
                one(Effect::Pin)
            }
            _ => Vec::new(),
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

    fn discard(
        &mut self,
        target: DiscardTarget,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let tag = match target {
            DiscardTarget::All => return self.discard_all(mode, server),
            DiscardTarget::Plans => "DISCARD PLANS",
            DiscardTarget::Sequences => "DISCARD SEQUENCES",
            DiscardTarget::Temp => "DISCARD TEMP",
        };
        self.command_complete(tag)
    }

    fn discard_all(
        &mut self,
        mode: &Mode,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let alone = !matches!(mode, Mode::Simple { only: false, .. });
        if !matches!(self.tx, Tx::Idle) || !alone {
            return Err(Refusal::InTransactionBlock {
                what: "DISCARD ALL",
            });
        }
        if self.batch.executed {
            return Err(Refusal::InPipeline {
                what: "DISCARD ALL",
            });
        }
        if self.changes_reports() {
            let Some(server) = server else {
                return Ok(self.acquire());
            };
            self.begin_implicit();
            self.state.reset_all();
            if self.batch.forwarded {
                let prepared = self.internal("CLOSE ALL");
                self.run_hidden_prepared(server, &prepared);
            }
            self.forget_everything(Some(&mut *server));
            server.state.applied = None;
            self.prepare_server(server);
            let done = self.complete_on_server("DISCARD ALL", mode, server);
            // It is committed at once.
            self.batch.ended = true;
            return done;
        }
        self.state.reset_all();
        if self.batch.forwarded
            && let Some(server) = server.as_deref_mut()
        {
            // Portals of the batch so far.
            let prepared = self.internal("CLOSE ALL");
            self.run_hidden_prepared(server, &prepared);
        }
        self.forget_everything(server);
        self.answer(|out| backend::put_command_complete(out, "DISCARD ALL"));
        if self.batch.forwarded {
            self.batch.ended = true;
        } else {
            self.end_implicit();
        }
        Ok(Handled::Done)
    }

    fn forget_everything(&mut self, server: Option<&mut Link>) {
        self.statements.clear();
        self.clear_portals();
        if let Some(server) = server {
            server.state.dirty |= self.is_pinned();
        }
        self.pinned = false;
        self.held_cursors.clear();
        self.state.forget_channels();
        // In pool mode `session` too, what is left on the connection is given up.
        self.set_held(None);
    }

    /// RESET of a setting that the startup packet gave a value: a server connection was started by somebody else,
    /// and its own default is not the client's.
    fn restore(
        &mut self,
        name: &str,
        local: bool,
        tag: &'static str,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        if local && matches!(self.tx, Tx::Idle) && !self.batch.split {
            self.warn(
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                "SET LOCAL can only be used in transaction blocks",
            );
        }
        self.prepare_server(server);
        if let Some(value) = self.state.startup_value(name) {
            let text = value.statement(name, local);
            self.run_hidden_unnamed(server, text.as_bytes());
        }
        if !local {
            self.state.reset(name);
            server.state.applied = Some(self.state.settings().clone());
            server.state.applied_in_transaction = true;
        }
        self.complete_on_server(tag, mode, server)
    }

    /// RESET ALL: every value of the session and of the transaction goes, so the server resets all and is given the
    /// startup packet's values again.
    fn restore_all(
        &mut self,
        mode: &Mode,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        // The reset of a driver's pool is one Query that ends so: what ran before in it was the
        // tenant's that the session leaves now.
        let leaves = self.state.startup_tenant() != self.state.tenant();
        if leaves
            && matches!(mode, Mode::Simple { .. })
            && matches!(self.tx, Tx::Idle)
            && !self.come_to_rest(server.as_deref_mut())
        {
            return Ok(Handled::Later);
        }
        self.check_switch(self.state.startup_tenant())?;
        let inside = !matches!(self.tx, Tx::Idle) || self.batch.forwarded || self.sync_owed;
        if !inside && !self.changes_reports() {
            self.begin_implicit();
            self.state.reset_all();
            return self.command_complete("RESET");
        }
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.state.reset_all();
        // In a transaction, BEGIN comes first.
        server.state.applied = None;
        self.prepare_server(server);
        self.complete_on_server("RESET", mode, server)
    }

    /// Whether a reset would change a value that the server reports.
    fn changes_reports(&self) -> bool {
        self.is_pinned() || self.state.settings().hash() != self.state.startup_hash()
    }

    /// The answer to a statement that the server has run under another text.
    fn complete_on_server(
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
