//! The extended protocol: Parse and Bind.
//!
//! The client's named statements live under router-wide names on whichever server connection
//! serves the session; they are prepared there on demand. Statements that the router runs itself
//! never reach a server before Execute.

use bytes::Bytes;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::backend;
use tenantry_wire::frontend::{self, Bind, Format, Parse};
use tenantry_wire::sql::{self, Kind};
use tenantry_wire::{MessageError, tag::frontend as tag};

use super::client::{ClientMessage, Handled};
use super::describe::parameter_oids;
use super::effects::{parameters, role_of, text_parameters};
use super::expect::Expect;
use super::special::has_parameter_name;
use super::statements::{ClientStatement, Portal, StatementRole, Undo};
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::{Link, PreparedKey, Source};

pub(super) fn malformed(error: MessageError) -> Refusal {
    Refusal::Malformed {
        message: error.to_string(),
    }
}

/// The same for a message that says whether it means a statement or a portal.
pub(super) fn malformed_target(message: &ClientMessage<'_>, error: MessageError) -> Refusal {
    let what = if message.tag == tag::DESCRIBE {
        "DESCRIBE"
    } else {
        "CLOSE"
    };
    match error {
        MessageError::TargetKind(kind) => Refusal::Malformed {
            message: format!("invalid {what} message subtype {kind}"),
        },
        _ if message.body.is_empty() => Refusal::Malformed {
            message: "no data left in message".to_owned(),
        },
        error => malformed(error),
    }
}

impl Session {
    pub(super) fn parse(
        &mut self,
        message: ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let mut parse = Parse::decode(message.body).map_err(malformed)?;
        let whole = parse.text;
        let commented = self.take_comment(&mut parse);
        let ordinary = self.is_ordinary(parse.text);
        let kind = if ordinary {
            Kind::Plain
        } else {
            sql::classify(parse.text, self.scs())
        };
        let routers = !ordinary && self.is_routers(&kind, parse.text);
        let taken = !parse.name.is_empty() && self.statements.find(parse.name).is_some();
        // In a transaction that failed at the server, the server refuses what is its own.
        let refused_here =
            matches!(self.tx, Tx::FailedHere { .. }) || matches!(self.tx, Tx::Failed) && routers;
        let aborted = refused_here && !ends_transaction(&kind);
        if taken || aborted {
            if !self.settle(server.as_deref_mut()) {
                return Ok(Handled::Later);
            }
            if parse.name.is_empty() {
                // The unnamed statement ends with the attempt to replace it.
                self.statements.remove(b"");
            }
            let several = sql::split(parse.text, self.scs()).nth(1).is_some();
            if several {
                return Err(Refusal::SeveralStatements);
            }
            if aborted {
                return Err(self.aborted());
            }
        }
        if taken && !matches!(self.tx, Tx::Failed) {
            return self.parse_taken(&parse, &kind, server);
        }
        let name = Bytes::copy_from_slice(parse.name);
        if routers {
            // With its comment, which is heeded again when it is bound.
            let statement = ClientStatement::Router {
                text: Bytes::copy_from_slice(whole),
                types: Bytes::copy_from_slice(parse.param_types),
            };
            let undo = self.statements.change(name, Some(statement));
            self.answer(backend::put_parse_complete);
            self.remember(undo);
            return Ok(Handled::Done);
        }
        let Some(server) = server else {
            self.looked_at = Some(ordinary);
            if self.probes && !ordinary && sql::may_end_transactions(parse.text, self.scs()) {
                self.shun_probe();
            }
            return Ok(self.acquire());
        };
        if !ordinary && sql::may_end_transactions(parse.text, self.scs()) {
            if std::mem::take(&mut self.batch.ahead_failed) {
                self.batch.skip = true;
                return Ok(Handled::Done);
            }
            if !self.prepare_ahead(server) {
                return Ok(Handled::Later);
            }
        }
        self.begin_batch(server);
        self.note_statement(parse.text);
        let role = if ordinary {
            StatementRole::Plain
        } else {
            role_of(parse.text)
        };
        if parse.name.is_empty() {
            self.parse_unnamed(message, parse, (role, commented), server);
        } else {
            return Ok(self.parse_named(name, parse, (role, commented), server));
        }
        Ok(Handled::Done)
    }

    /// A Parse whose name is taken: what is wrong with the statement comes before what is wrong with its name.
    fn parse_taken(
        &mut self,
        parse: &Parse<'_>,
        kind: &Kind<'_>,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let refusal = Refusal::DuplicateStatement {
            name: String::from_utf8_lossy(parse.name).into_owned(),
        };
        if self.is_routers(kind, parse.text) {
            return Err(refusal);
        }
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_batch(server);
        let text = Bytes::copy_from_slice(parse.text);
        let types = Bytes::copy_from_slice(parse.param_types);
        let prepared = self.shared.registry.intern(PreparedKey {
            source: Source::Protocol { text, types },
            settings_hash: self.state.settings().hash(),
        });
        if server.state.prepared.touch(&prepared) {
            return Err(refusal);
        }
        self.prepare_on(server, &prepared);
        self.flush(server);
        Ok(Handled::Later)
    }

    fn parse_unnamed(
        &mut self,
        message: ClientMessage<'_>,
        parse: Parse<'_>,
        (role, commented): (StatementRole, Option<TenantId>),
        server: &mut Link,
    ) {
        let generation = self.statements.next_generation();
        let statement = ClientStatement::Unnamed {
            text: Bytes::copy_from_slice(parse.text),
            types: Bytes::copy_from_slice(parse.param_types),
            generation,
            role,
            commented,
        };
        let undo = self.statements.change(Bytes::new(), Some(statement));
        server.output.extend_from_slice(message.bytes);
        server.state.unnamed = Some((self.identity.session, generation));
        self.expects.push(Expect::Parse {
            client_name: Bytes::new(),
            prepared: None,
            held: false,
        });
        self.remember(undo);
    }

    /// Keeps what takes a change back until it is known whether the server comes to its message.
    pub(super) fn remember(&mut self, undo: Undo) {
        if !self.settled() {
            self.expects.push(Expect::Undo(Box::new(undo)));
        }
    }

    fn parse_named(
        &mut self,
        name: Bytes,
        parse: Parse<'_>,
        (role, commented): (StatementRole, Option<TenantId>),
        server: &mut Link,
    ) -> Handled {
        let prepared = self.shared.registry.intern(PreparedKey {
            source: Source::Protocol {
                text: Bytes::copy_from_slice(parse.text),
                types: Bytes::copy_from_slice(parse.param_types),
            },
            settings_hash: self.state.settings().hash(),
        });
        if !self.can_prepare(server, &prepared) {
            return Handled::Later;
        }
        let statement = ClientStatement::Server {
            prepared: prepared.clone(),
            role,
            told: None,
            commented,
        };
        self.counts.client_parses += 1;
        let undo = self.statements.change(name.clone(), Some(statement));
        let held = server.state.prepared.touch(&prepared);
        if held && !matches!(self.tx, Tx::Failed) {
            self.answer(backend::put_parse_complete);
            self.remember(undo);
            return Handled::Done;
        }
        frontend::put_parse_raw(
            &mut server.output,
            &prepared.name,
            parse.text,
            parse.param_types,
        );
        self.expects.push(Expect::Parse {
            client_name: name,
            prepared: Some(prepared.clone()),
            held,
        });
        self.remember(undo);
        if !held {
            self.hold(server, &prepared);
        }
        Handled::Done
    }

    /// A portal that the router must know of is noted only when no ReadyForQuery is outstanding:
    /// with it, the portals of the batch before are forgotten.
    pub(super) fn bind(
        &mut self,
        message: ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let bind = Bind::decode(message.body).map_err(malformed)?;
        let Some(mut statement) = self.statements.find(bind.statement).cloned() else {
            if !self.settle(server) {
                return Ok(Handled::Later);
            }
            return Err(Refusal::UnknownStatement {
                name: String::from_utf8_lossy(bind.statement).into_owned(),
            });
        };
        let own = self.statements.find_portal(bind.portal);
        if !bind.portal.is_empty() && matches!(own, Some(Portal::Router { .. })) {
            // It may end with the batch before.
            if !self.settle(server.as_deref_mut()) {
                return Ok(Handled::Later);
            }
            return Err(Refusal::DuplicatePortal {
                name: String::from_utf8_lossy(bind.portal).into_owned(),
            });
        }
        let mut needed = None;
        if let ClientStatement::Router { text, types } = &statement {
            if self.sets_others(text, &parameters(&bind)?) {
                statement = self.as_servers(text, types);
            } else if self.executes(text) {
                if !self.settle(server.as_deref_mut()) {
                    return Ok(Handled::Later);
                }
                if let Some((prepared, execute)) = self.execute_as_servers(text, types)? {
                    needed = Some(prepared);
                    statement = execute;
                }
            }
        }
        if let ClientStatement::Router { text, types } = statement {
            if self.expects.has_ready() {
                return Ok(Handled::Later);
            }
            let kind = sql::classify(&text, self.scs());
            let parameters = text_parameters(&bind, &kind)?;
            let wanted = parameter_oids(&kind, &types).len();
            if parameters.len() != wanted {
                if !self.settle(server) {
                    return Ok(Handled::Later);
                }
                return Err(Refusal::ParameterCount {
                    name: String::from_utf8_lossy(bind.statement).into_owned(),
                    given: parameters.len(),
                    wanted,
                });
            }
            let aborted = matches!(self.tx, Tx::Failed | Tx::FailedHere { .. });
            if aborted && !ends_transaction(&kind) {
                if !self.settle(server) {
                    return Ok(Handled::Later);
                }
                return Err(self.aborted());
            }
            let formats = bind.result_formats().map_err(malformed)?;
            let portal = Portal::Router {
                text: text.clone(),
                parameters,
                binary: formats.first() == Some(&Format::Binary),
                done: false,
            };
            self.statements.set_portal(bind.portal, Some(portal));
            self.unnamed_portal &= !bind.portal.is_empty();
            self.failed_portal &= !bind.portal.is_empty();
            self.answer(backend::put_bind_complete);
            return Ok(Handled::Done);
        }
        self.counts.binds += u64::from(!bind.statement.is_empty());
        let allowed = self.check_writing(&statement);
        if allowed.is_err() && server.is_none() && self.looks_again() {
            return Ok(self.acquire());
        }
        let effects = match allowed.and_then(|()| Self::bind_effects(&statement, &bind)) {
            Ok(effects) => effects,
            Err(_) if !self.settle(server) => return Ok(Handled::Later),
            Err(refusal) => return Err(refusal),
        };
        let Some(server) = self.ready_server(server)? else {
            return Ok(self.acquire_or_later());
        };
        if !effects.is_empty() && self.expects.has_ready() {
            return Ok(Handled::Later);
        }
        if let ClientStatement::Server { prepared, .. } = &statement
            && !self.can_prepare(server, prepared)
        {
            return Ok(Handled::Later);
        }
        let portal = (!effects.is_empty()).then_some(Portal::Server(effects));
        self.statements.set_portal(bind.portal, portal);
        match &statement {
            ClientStatement::Server { prepared, .. } => {
                if let Some(needed) = &needed {
                    self.prepare_on(server, needed);
                }
                self.prepare_on(server, prepared);
                if self.again.is_some() {
                    match self.still_knows(prepared, server) {
                        Some(known) => known?,
                        None => return Ok(Handled::Later),
                    }
                }
                let name = &prepared.name;
                frontend::put_bind_renamed(&mut server.output, bind.portal, name, bind.rest);
                server.state.kept.push(message.bytes);
            }
            _ => {
                self.ensure_unnamed(&statement, server);
                server.output.extend_from_slice(message.bytes);
                server.state.kept.give_up();
            }
        }
        self.expects.push(Expect::Bind);
        self.unnamed_portal |= bind.portal.is_empty();
        Ok(Handled::Done)
    }

    /// Whether this is the SQL command EXECUTE.
    pub(super) fn executes(&self, text: &[u8]) -> bool {
        matches!(
            sql::classify(text, self.scs()),
            Kind::ExecuteStatement { .. }
        )
    }

    /// Whether this is `set_config($1, …)` and the parameters name no setting of the router's.
    fn sets_others(&self, text: &[u8], parameters: &[Option<Bytes>]) -> bool {
        match sql::classify(text, self.scs()) {
            Kind::SetConfig { calls, .. } if calls.iter().any(has_parameter_name) => {
                !Self::names_ours(&calls, parameters)
            }
            _ => false,
        }
    }

    /// The server's counterpart of a statement that the router kept.
    fn as_servers(&self, text: &Bytes, types: &Bytes) -> ClientStatement {
        let prepared = self.shared.registry.intern(PreparedKey {
            source: Source::Protocol {
                text: text.clone(),
                types: types.clone(),
            },
            settings_hash: self.state.settings().hash(),
        });
        ClientStatement::Server {
            prepared,
            role: StatementRole::SetsConfig,
            told: None,
            commented: None,
        }
    }

    /// Parses the client's unnamed statement on a connection that holds another one.
    pub(super) fn ensure_unnamed(&mut self, statement: &ClientStatement, server: &mut Link) {
        let ClientStatement::Unnamed {
            text,
            types,
            generation,
            ..
        } = statement
        else {
            return;
        };
        let owner = Some((self.identity.session, *generation));
        if server.state.unnamed != owner {
            frontend::put_parse_raw(&mut server.output, "", text, types);
            self.expects.push(Expect::HiddenParse(None));
            server.state.unnamed = owner;
        }
    }

    pub(super) fn forward_extended(
        &mut self,
        message: ClientMessage<'_>,
        server: Option<&mut Link>,
        expect: Expect,
    ) -> Result<Handled, Refusal> {
        let Some(server) = self.ready_server(server)? else {
            return Ok(self.acquire_or_later());
        };
        server.output.extend_from_slice(message.bytes);
        server.state.kept.push(message.bytes);
        if message.tag == tag::DESCRIBE {
            server.state.kept.note_portal_described();
        }
        self.expects.push(expect);
        debug_assert!(message.tag != tag::SYNC);
        Ok(Handled::Done)
    }

    /// The attached connection with everything in force; `None` if there is none yet, or if a
    /// refused transaction must first settle.
    pub(super) fn ready_server<'s>(
        &mut self,
        server: Option<&'s mut Link>,
    ) -> Result<Option<&'s mut Link>, Refusal> {
        if matches!(self.tx, Tx::FailedHere { .. }) {
            if !self.settle(server) {
                return Ok(None);
            }
            return Err(self.aborted());
        }
        let Some(server) = server else {
            return Ok(None);
        };
        self.begin_batch(server);
        Ok(Some(server))
    }

    pub(super) fn acquire_or_later(&self) -> Handled {
        if matches!(self.tx, Tx::FailedHere { .. }) {
            Handled::Later
        } else {
            self.acquire()
        }
    }

    fn begin_batch(&mut self, server: &mut Link) {
        if !self.batch.forwarded && !self.batch.executed {
            server.state.kept.begin();
        } else if !self.batch.forwarded {
            server.state.kept.give_up();
        }
        self.begin_implicit();
        self.prepare_server(server);
        self.batch.forwarded = true;
    }

    /// Whether a prepared statement of this kind stays with the router until it is executed.
    fn is_routers(&self, kind: &Kind<'_>, text: &[u8]) -> bool {
        self.router_runs(kind, text)
            || matches!(
                kind,
                Kind::Begin(_)
                    | Kind::Commit { .. }
                    | Kind::Rollback { .. }
                    | Kind::Savepoint(_)
                    | Kind::RollbackTo(_)
                    | Kind::Release(_)
                    | Kind::SetTransaction(_)
                    | Kind::SetSessionCharacteristics(_)
                    | Kind::Set { .. }
                    | Kind::Reset(_)
            )
            || matches!(kind, Kind::SetConfig { calls, whole: true } if calls.iter().any(has_parameter_name))
    }
}

pub(super) fn ends_transaction(kind: &Kind<'_>) -> bool {
    matches!(
        kind,
        Kind::Commit { .. } | Kind::Rollback { .. } | Kind::RollbackTo(_) | Kind::Empty
    )
}
