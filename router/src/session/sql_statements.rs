//! The SQL commands PREPARE and EXECUTE: the same statements as Parse makes, under router-wide names.

use std::sync::Arc;

use bytes::Bytes;
use tenantry_wire::sql::{self, Kind};

use super::Session;
use super::client::Handled;
use super::effects::role_of;
use super::expect::Effect;
use super::special::Mode;
use super::statements::{ClientStatement, StatementRole};
use crate::error::Refusal;
use crate::server::{Link, Prepared, PreparedKey, Source};

/// Statements that an EXECUTE may lead through.
const EXECUTE_DEPTH_MAX: usize = 64;

impl Session {
    /// PREPARE: the statement gets a router-wide name, and the server checks it now.
    pub(super) fn prepare_sql(
        &mut self,
        name: &str,
        source: Source,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let taken = self.statements.find(name.as_bytes()).is_some();
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        let prepared = self.shared.registry.intern(PreparedKey {
            source: source.clone(),
            settings_hash: self.state.settings().hash(),
        });
        // Where the connection holds it already, the same text was accepted before.
        if server.state.prepared.touch(&prepared) {
            if taken {
                return Err(Refusal::DuplicateStatement {
                    name: name.to_owned(),
                });
            }
            self.statements.insert_sql(name, prepared);
            return self.command_complete("PREPARE");
        }
        self.begin_implicit();
        self.prepare_server(server);
        if taken {
            // What is wrong with the statement comes before what is wrong with its name.
            self.prepare_on(server, &prepared);
            server.state.kept.give_up();
            match mode {
                Mode::Simple { .. } => self.sync_owed = true,
                Mode::Extended { .. } => self.batch.forwarded = true,
            }
            self.flush(server);
            return Ok(Handled::Later);
        }
        let text = preparation(&prepared);
        let effect = Effect::PrepareSql {
            name: name.to_owned(),
            prepared,
        };
        self.send_statement(&text, vec![effect], mode, server);
        if let Mode::Simple { last: true, .. } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// A portal's EXECUTE as the server takes it, and the statement that it needs there; `None` if the router has to
    /// say that there is no such statement.
    pub(super) fn execute_as_servers(
        &self,
        text: &[u8],
        types: &Bytes,
    ) -> Result<Option<(Arc<Prepared>, ClientStatement)>, Refusal> {
        let Kind::ExecuteStatement { name, args } = sql::classify(text, self.scs()) else {
            return Ok(None);
        };
        let Some(needed) = self.statements.prepared(name.as_bytes()) else {
            return Ok(None);
        };
        let role = if Self::effects_of_prepared(&needed.source)?.is_empty() {
            StatementRole::Plain
        } else {
            StatementRole::Pins
        };
        let prepared = self.shared.registry.intern(PreparedKey {
            source: Source::Protocol {
                text: execution(&needed.name, args).into(),
                types: types.clone(),
            },
            settings_hash: self.state.settings().hash(),
        });
        let execute = ClientStatement::Server {
            prepared,
            role,
            told: None,
            commented: None,
        };
        Ok(Some((needed, execute)))
    }

    /// EXECUTE with the statement's router-wide name.
    pub(super) fn execute_sql(
        &mut self,
        name: &str,
        arguments: &[u8],
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if let Some(ClientStatement::Router { text, .. }) = self.statements.find(name.as_bytes()) {
            let text = text.clone();
            let kind = sql::classify(&text, self.scs());
            if let Kind::ExecuteStatement { name: next, .. } = &kind
                && !self.is_executable(next)
            {
                return Err(Refusal::StackDepth);
            }
            // As PostgreSQL sees it, it is not at the top, and is not warned about.
            self.batch.split = true;
            return self.run_statement(&text, &kind, mode, server);
        }
        let Some(prepared) = self.statements.prepared(name.as_bytes()) else {
            return Err(Refusal::UnknownStatement {
                name: name.to_owned(),
            });
        };
        let effects = Self::effects_of_prepared(&prepared.source)?;
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        self.prepare_on(server, &prepared);
        let text = execution(&prepared.name, arguments);
        self.send_statement(&text, effects, mode, server);
        if let Mode::Simple { only: true, .. } = mode {
            let query = execution(&sql::quote_identifier(name), arguments);
            server.state.kept.keep_execute(query.into(), &prepared);
        }
        if let Mode::Simple { last: true, .. } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// Whether the statements that a statement executes come to an end.
    fn is_executable(&self, name: &str) -> bool {
        let mut name = name.to_owned();
        for _ in 0..EXECUTE_DEPTH_MAX {
            let Some(ClientStatement::Router { text, .. }) = self.statements.find(name.as_bytes())
            else {
                return true;
            };
            let Kind::ExecuteStatement { name: next, .. } = sql::classify(text, self.scs()) else {
                return true;
            };
            name = next;
        }
        false
    }

    /// What set_config() sets in these can be followed where the values stand in the text.
    pub(super) fn effects_of_prepared(source: &Source) -> Result<Vec<Effect>, Refusal> {
        let (Source::Protocol { text, .. } | Source::Sql { text, .. }) = source;
        Self::role_effects(role_of(text), text, &[])
    }
}

/// The SQL command that makes the statement, or the text of a Parse that does.
pub(super) fn preparation(prepared: &Prepared) -> Vec<u8> {
    let (types, statement) = match &prepared.source {
        Source::Sql { types, text } => (types.as_ref(), text),
        Source::Protocol { text, .. } => return text.to_vec(),
    };
    let name = prepared.name.as_bytes();
    [b"PREPARE ", name, b" ", types, b" AS ", statement].concat()
}

fn execution(name: &str, arguments: &[u8]) -> Vec<u8> {
    let mut text = format!("EXECUTE {name}").into_bytes();
    if !arguments.is_empty() {
        text.push(b'(');
        text.extend_from_slice(arguments);
        text.push(b')');
    }
    text
}

/// The two parts of a PREPARE behind its name.
pub(super) fn sql_source(types: &[&[u8]], statement: &[u8]) -> Source {
    let list = match types {
        [] => Bytes::new(),
        types => [b"(".as_slice(), &types.join(b", ".as_slice()), b")"]
            .concat()
            .into(),
    };
    Source::Sql {
        types: list,
        text: Bytes::copy_from_slice(statement),
    }
}
