//! What the text of a statement sets by set_config(): which calls must not reach a server, and which cannot be followed.
//!
//! A text with backslashes may be read in two ways, by `standard_conforming_strings`. A statement is often read by the
//! router at another time than by the server, so calls are looked for in both.

use bytes::Bytes;
use tenantry_wire::encoding;
use tenantry_wire::sql::{self, Arg, Kind, SettingCall};

use super::Session;
use super::expect::Effect;
use super::router_settings::value_of;
use super::special::{is_role_setting, role_change, unsafe_encoding};
use crate::error::Refusal;

/// How the server reads string constants.
pub(super) const STRINGS: &str = "standard_conforming_strings";

/// The refusal of a call in the text that must not reach a server. A name that is a parameter is looked at when it is
/// bound, by [`Session::bound_effects`].
pub(super) fn refused_calls(text: &[u8]) -> Option<Refusal> {
    refused(text, None)
}

fn refused(text: &[u8], parameters: Option<&[Option<Bytes>]>) -> Option<Refusal> {
    if !sql::mentions_setting_function(text) {
        return None;
    }
    let among = |scs| {
        let calls = sql::setting_calls(text, scs);
        calls.iter().find_map(|call| refused_call(call, parameters))
    };
    among(true).or_else(|| has_backslash(text).then(|| among(false)).flatten())
}

/// Whether the calls depend on how string constants are read.
pub(super) fn reads_differently(text: &[u8]) -> bool {
    has_backslash(text)
        && sql::mentions_setting_function(text)
        && sql::setting_calls(text, true) != sql::setting_calls(text, false)
}

pub(super) fn has_backslash(text: &[u8]) -> bool {
    text.contains(&b'\\')
}

/// Roles, the tenant, and encodings in which a quote can hide are not set by the client's own words.
fn refused_call(call: &SettingCall, parameters: Option<&[Option<Bytes>]>) -> Option<Refusal> {
    let SettingCall::Set { name, value, .. } = call else {
        return None;
    };
    // A computed name is known to nobody: the session keeps its connection.
    let name = value_of(name, parameters.unwrap_or_default()).ok()??;
    if is_role_setting(&name) {
        return Some(role_change());
    }
    if is_router_setting(&name) {
        return Some(Refusal::Unsupported {
            what: "set_config() of a tenantry setting inside another query".to_owned(),
            hint: "make it a statement of its own: SELECT set_config('tenantry.tenant', …, true)",
        });
    }
    if !name.eq_ignore_ascii_case("client_encoding") {
        return None;
    }
    // A value that is only known later may be any.
    match value_of(value, parameters.unwrap_or_default()) {
        Ok(Some(encoding)) if encoding::is_ascii_safe(&encoding) => None,
        _ => Some(unsafe_encoding()),
    }
}

pub(super) fn is_router_setting(name: &str) -> bool {
    name.to_ascii_lowercase().starts_with("tenantry.")
}

/// A setting that PostgreSQL takes back at the end of the transaction, however it was set.
pub(super) fn ends_with_transaction(name: &str) -> bool {
    ["isolation", "read_only", "deferrable"]
        .iter()
        .any(|mode| name.strip_prefix("transaction_") == Some(*mode))
}

/// Whether a change of the setting cannot be repeated on another connection, or makes it unsure how the statements
/// behind it are read.
pub(super) fn ties_to_connection(name: &str, value: Option<&str>) -> bool {
    match name {
        // Setting it again would begin the same row of random numbers again.
        "seed" => true,
        STRINGS => !value.is_some_and(|value| value.eq_ignore_ascii_case("on")),
        _ => false,
    }
}

/// Whether some of the calls set something for longer than the transaction, or may.
fn sets_session(calls: &[SettingCall]) -> bool {
    calls
        .iter()
        .any(|call| matches!(call, SettingCall::Set { local, .. } if *local != Arg::Bool(true)))
}

impl Session {
    /// What a statement with these calls changes. One that does more than call them may call them in another order, or
    /// not at all: the session keeps its connection then.
    pub(super) fn call_effects(
        calls: &[SettingCall],
        whole: bool,
        parameters: &[Option<Bytes>],
    ) -> Vec<Effect> {
        let mut effects = Self::config_effects(calls, parameters);
        if !whole && sets_session(calls) {
            effects.push(Effect::Pin);
        }
        effects
    }

    /// What a prepared statement changes when it runs with these parameters; none are known for the SQL command
    /// EXECUTE.
    pub(super) fn bound_effects(
        text: &[u8],
        parameters: &[Option<Bytes>],
    ) -> Result<Vec<Effect>, Refusal> {
        if let Some(refusal) = refused(text, Some(parameters)) {
            return Err(refusal);
        }
        if sql::may_set_unseen(text) || reads_differently(text) {
            return Ok(vec![Effect::Pin]);
        }
        Ok(match sql::classify(text, true) {
            Kind::SetConfig { calls, whole } => Self::call_effects(&calls, whole, parameters),
            _ => Vec::new(),
        })
    }
}
