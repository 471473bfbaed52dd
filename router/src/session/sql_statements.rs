//! The SQL commands PREPARE and EXECUTE: the same statements as Parse makes, under router-wide names.

use tenantry_wire::sql;

use super::Session;
use super::client::Handled;
use super::expect::Effect;
use super::special::Mode;
use crate::error::Refusal;
use crate::server::{Link, PreparedKey, Source};

impl Session {
    /// PREPARE: the statement gets a router-wide name, and the server checks it now.
    pub(super) fn prepare_sql(
        &mut self,
        name: &str,
        definition: String,
        mode: &Mode,
        server: Option<&mut Link>,
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
                definition: definition.clone(),
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
        self.send_statement(text.as_bytes(), vec![effect], mode, server);
        if let Mode::Simple { last: true } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// EXECUTE with the statement's router-wide name.
    pub(super) fn execute_sql(
        &mut self,
        name: &str,
        arguments: &[u8],
        mode: &Mode,
        server: Option<&mut Link>,
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
        let mut text = format!("EXECUTE {}", prepared.name).into_bytes();
        if !arguments.is_empty() {
            text.push(b'(');
            text.extend_from_slice(arguments);
            text.push(b')');
        }
        let effects = Self::effects_of_prepared(&prepared.source);
        self.send_statement(&text, effects, mode, server);
        if let Mode::Simple { last: true } = mode {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// What set_config() sets in these cannot be followed: their arguments are not known here.
    pub(super) fn effects_of_prepared(source: &Source) -> Vec<Effect> {
        let text = match source {
            Source::Protocol { text, .. } => text.as_ref(),
            Source::Sql { definition } => definition.as_bytes(),
        };
        if sql::mentions_setting_function(text) || sql::may_set_unseen(text) {
            vec![Effect::Pin]
        } else {
            Vec::new()
        }
    }
}

/// `types` and `AS statement` of a PREPARE, behind its name.
pub(super) fn definition(types: &[&[u8]], statement: &[u8]) -> String {
    let types: Vec<_> = types
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    let list = if types.is_empty() {
        String::new()
    } else {
        format!("({}) ", types.join(", "))
    };
    format!("{list}AS {}", String::from_utf8_lossy(statement))
}
