//! What statements that run on the server change in the session, by their text and by the parameters of a Bind.

use bytes::Bytes;
use tenantry_wire::frontend::{Bind, Format};
use tenantry_wire::sql::{self, Kind, SetValue};

use super::Session;
use super::expect::Effect;
use super::extended::malformed;
use super::router_settings::binary_as_text;
use super::settings_seen::{
    ends_with_transaction, has_backslash, reads_differently, ties_to_connection,
};
use super::state::Assigned;
use super::statements::{ClientStatement, StatementRole};
use crate::error::Refusal;
use crate::server::Source;

impl Session {
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

    pub(super) fn bind_effects(
        statement: &ClientStatement,
        bind: &Bind<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        let (role, text) = match statement {
            ClientStatement::Server { prepared, role, .. } => match &prepared.source {
                Source::Protocol { text, .. } => (*role, text),
                source => return Self::effects_of_prepared(source),
            },
            ClientStatement::Unnamed { text, role, .. } => (*role, text),
            ClientStatement::Router { .. } => return Ok(Vec::new()),
        };
        if role == StatementRole::Plain {
            return Ok(Vec::new());
        }
        let kind = sql::classify(text, true);
        Self::role_effects(role, text, &text_parameters(bind, &kind)?)
    }

    /// What a prepared statement changes when it runs with these parameters; none are known for the SQL command EXECUTE.
    pub(super) fn role_effects(
        role: StatementRole,
        text: &[u8],
        parameters: &[Option<Bytes>],
    ) -> Result<Vec<Effect>, Refusal> {
        // Whatever depends on how the text is read pins, so either way will do.
        match role {
            StatementRole::Plain => Ok(Vec::new()),
            StatementRole::Cursor => Ok(Self::effects(&sql::classify(text, true), text)),
            StatementRole::SetsConfig => Self::bound_effects(text, parameters),
            StatementRole::Pins => {
                let mut effects = Self::bound_effects(text, parameters)?;
                if !effects.contains(&Effect::Pin) {
                    effects.push(Effect::Pin);
                }
                Ok(effects)
            }
        }
    }
}

/// The statement may be parsed on another connection when constants are read in another way: it pins where that makes a
/// difference.
pub(super) fn role_of(text: &[u8]) -> StatementRole {
    let role = role_of_kind(&sql::classify(text, true), text);
    let other = || role_of_kind(&sql::classify(text, false), text);
    if has_backslash(text) && other() != role {
        return StatementRole::Pins;
    }
    role
}

fn role_of_kind(kind: &Kind<'_>, text: &[u8]) -> StatementRole {
    match kind {
        _ if sql::may_set_unseen(text) || reads_differently(text) => StatementRole::Pins,
        Kind::DeclareCursor { .. } | Kind::CopyToStdout if sql::mentions_setting_function(text) => {
            StatementRole::Pins
        }
        Kind::SetConfig { .. } => StatementRole::SetsConfig,
        Kind::CreateTemp => StatementRole::Pins,
        Kind::DeclareCursor { hold: true, .. } | Kind::CloseCursor(_) => StatementRole::Cursor,
        _ if sql::takes_session_lock(text) => StatementRole::Pins,
        _ => StatementRole::Plain,
    }
}

/// The values as text, where a cast says what a binary one is.
pub(super) fn text_parameters(
    bind: &Bind<'_>,
    kind: &Kind<'_>,
) -> Result<Vec<Option<Bytes>>, Refusal> {
    let mut values = Vec::new();
    for (index, parameter) in bind.parameters().map_err(malformed)?.enumerate() {
        let (format, value) = parameter.map_err(malformed)?;
        values.push(match (format, value) {
            (Format::Binary, Some(value)) => Some(binary_as_text(kind, index + 1, value)),
            (_, value) => value.map(Bytes::copy_from_slice),
        });
    }
    Ok(values)
}

pub(super) fn parameters(bind: &Bind<'_>) -> Result<Vec<Option<Bytes>>, Refusal> {
    let mut parameters = Vec::new();
    for parameter in bind.parameters().map_err(malformed)? {
        let (_format, value): (Format, Option<&[u8]>) = parameter.map_err(malformed)?;
        parameters.push(value.map(Bytes::copy_from_slice));
    }
    Ok(parameters)
}
