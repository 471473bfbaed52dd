//! The settings that are the router's: `tenantry.tenant`, and `tenantry.shard` and
//! `tenantry.epoch` to read.
//!
//! SET, SET LOCAL, RESET, SHOW, set_config() and current_setting(), in both protocols, with the
//! transactional behaviour of PostgreSQL's own settings.

use bytes::Bytes;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::backend::{self, Column};
use tenantry_wire::sql::{Arg, Kind, ParamType, SetValue, SettingCall};
use tenantry_wire::sqlstate;

use super::client::Handled;
use super::expect::Effect;
use super::settings_seen::{ends_with_transaction, is_router_setting, ties_to_connection};
use super::special::Mode;
use super::state::Assigned;
use super::{Session, Tx};
use crate::error::Refusal;

pub(super) const TENANT: &str = "tenantry.tenant";
const SHARD: &str = "tenantry.shard";
const EPOCH: &str = "tenantry.epoch";

impl Session {
    pub(super) fn run_setting(&mut self, kind: &Kind<'_>, mode: &Mode) -> Result<Handled, Refusal> {
        match kind {
            Kind::Set {
                local, name, value, ..
            } => {
                let value = match value {
                    SetValue::Default => None,
                    SetValue::Values(values) if values.len() == 1 => values.first().cloned(),
                    SetValue::Values(values) => {
                        return Err(Refusal::InvalidSetting {
                            name: name.clone(),
                            value: values.join(", "),
                        });
                    }
                    // It stays what it is.
                    SetValue::FromCurrent => return self.command_complete("SET"),
                    SetValue::Interval => {
                        return Err(Refusal::InvalidSetting {
                            name: name.clone(),
                            value: "INTERVAL".to_owned(),
                        });
                    }
                };
                self.assign(name, value.as_deref(), *local)?;
                self.command_complete("SET")
            }
            Kind::Reset(name) => {
                self.assign(name, None, false)?;
                self.command_complete("RESET")
            }
            Kind::Show(name) => {
                let value = self.read(name)?;
                self.rows(&[name.as_str()], &[Some(value)], mode);
                self.command_complete("SHOW")
            }
            Kind::SetConfig { calls, whole } => self.run_calls(calls, *whole, mode),
            _ => Err(Refusal::NotPermitted {
                what: "this statement",
                hint: "it is not one the router runs",
            }),
        }
    }

    /// Sets or resets (`None`) one setting.
    fn assign(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<(), Refusal> {
        match name {
            TENANT => {}
            SHARD | EPOCH => {
                return Err(Refusal::ReadOnlySetting {
                    name: name.to_owned(),
                });
            }
            _ => {
                return Err(Refusal::UnknownSetting {
                    name: name.to_owned(),
                });
            }
        }
        let tenant = match value {
            None => self.state.startup_tenant(),
            Some("") => None,
            Some(name) => Some(self.permitted(name)?),
        };
        self.check_switch(tenant)?;
        if local && matches!(self.tx, Tx::Idle) {
            self.warn(
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                "SET LOCAL can only be used in transaction blocks",
            );
            return Ok(());
        }
        self.begin_implicit();
        if value.is_none() && !local {
            self.state.reset_tenant();
        } else {
            self.state.set_tenant(tenant, local);
        }
        Ok(())
    }

    /// The tenant that this role may act for under this name.
    pub(super) fn permitted(&self, name: &str) -> Result<TenantId, Refusal> {
        let fleet = self.fleet();
        let record = fleet
            .directory
            .resolve(fleet.settings.tenant_key, name)
            .ok_or_else(|| Refusal::UnknownTenant {
                name: name.to_owned(),
            })?;
        crate::identify::check_tenant(&fleet, &self.identity.role, &record, false)?;
        Ok(record.id)
    }

    /// A bound session stays what it is; a transaction that has touched a tenant stays with it.
    pub(super) fn check_switch(&mut self, tenant: Option<TenantId>) -> Result<(), Refusal> {
        if let Some(bound) = self.identity.bound
            && tenant != Some(bound)
        {
            let key = self.fleet().settings.tenant_key;
            return Err(Refusal::Immutable {
                bound: bound.display(key).to_string(),
            });
        }
        if tenant == self.state.tenant() {
            return Ok(());
        }
        if self.is_pinned() && self.leaves_shard(tenant) {
            return Err(Refusal::NotPermitted {
                what: "a tenant of another shard while the session holds locks, cursors or channels",
                hint: "DISCARD ALL gives them up",
            });
        }
        let is_pinned = self.is_pinned();
        match &mut self.tx {
            Tx::Idle if self.batch.forwarded || self.sync_owed => Err(Refusal::SwitchInTransaction),
            Tx::Idle | Tx::Deferred { .. } => Ok(()),
            Tx::Open {
                prologue,
                restartable: true,
            } if !is_pinned => {
                // Only reads ran, for nobody: the connection is given up, which rolls them back,
                // and the transaction begins anew where the tenant lives.
                let prologue = std::mem::take(prologue);
                self.tx = Tx::Deferred { prologue };
                Ok(())
            }
            _ => Err(Refusal::SwitchInTransaction),
        }
    }

    fn leaves_shard(&self, tenant: Option<TenantId>) -> bool {
        let shard = |tenant: Option<TenantId>| {
            tenant.and_then(|tenant| self.placement(tenant).map(|(shard, _)| shard))
        };
        tenant.is_some() && shard(tenant) != shard(self.state.tenant())
    }

    /// The value that SHOW and current_setting() return.
    fn read(&self, name: &str) -> Result<String, Refusal> {
        let tenant = self.state.tenant();
        match name {
            TENANT => Ok(tenant.map_or_else(String::new, |tenant| {
                let key = self.fleet().settings.tenant_key;
                tenant.display(key).to_string()
            })),
            SHARD => Ok(tenant
                .and_then(|tenant| self.placement(tenant))
                .map_or_else(String::new, |(shard, _)| shard)),
            EPOCH => Ok(tenant
                .and_then(|tenant| self.placement(tenant))
                .map_or_else(String::new, |(_, epoch)| epoch.to_string())),
            _ => Err(Refusal::UnknownSetting {
                name: name.to_owned(),
            }),
        }
    }

    /// `SELECT set_config(…)[, current_setting(…)]` and nothing else.
    fn run_calls(
        &mut self,
        calls: &[SettingCall],
        whole: bool,
        mode: &Mode,
    ) -> Result<Handled, Refusal> {
        let ours = |call: &SettingCall| matches!(text_argument(call.name(), mode), Ok(Some(name)) if is_router_setting(&name));
        if !whole || !calls.iter().all(ours) {
            return Err(Refusal::Unsupported {
                what:
                    "set_config() or current_setting() of a tenantry setting inside another query"
                        .to_owned(),
                hint: "make it a statement of its own: SELECT set_config('tenantry.tenant', …, true)",
            });
        }
        let mut names = Vec::new();
        let mut values = Vec::new();
        for call in calls {
            names.push(call.column());
            values.push(Some(self.run_call(call, mode)?));
        }
        self.rows(&names, &values, mode);
        self.command_complete("SELECT 1")
    }

    fn run_call(&mut self, call: &SettingCall, mode: &Mode) -> Result<String, Refusal> {
        let name = text_argument(call.name(), mode)?
            .unwrap_or_default()
            .to_ascii_lowercase();
        if let SettingCall::Set { value, local, .. } = call {
            let value = text_argument(value, mode)?;
            let local = boolean_argument(local, mode)?;
            self.assign(&name, Some(value.as_deref().unwrap_or("")), local)?;
            if local && matches!(self.tx, Tx::Idle) {
                // In force for this statement only, which is over.
                return Ok(value.unwrap_or_default());
            }
        }
        self.read(&name)
    }

    /// One row of text columns; the extended protocol has described them before.
    fn rows(&mut self, names: &[&str], values: &[Option<String>], mode: &Mode) {
        if matches!(mode, Mode::Simple { .. }) {
            let columns: Vec<Column<'_>> = names.iter().map(|name| Column::text(name)).collect();
            backend::put_row_description(&mut self.output, &columns);
        }
        let values: Vec<Option<&[u8]>> = values
            .iter()
            .map(|value| value.as_deref().map(str::as_bytes))
            .collect();
        backend::put_data_row(&mut self.output, &values);
    }

    /// Whether any of the calls concerns a setting of the router's.
    pub(super) fn names_ours(calls: &[SettingCall], parameters: &[Option<Bytes>]) -> bool {
        let mode = Mode::Extended {
            parameters: parameters.to_vec(),
            binary: false,
        };
        calls.iter().any(
            |call| matches!(text_argument(call.name(), &mode), Ok(Some(name)) if is_router_setting(&name)),
        )
    }

    /// What set_config() calls on PostgreSQL's own settings change, once the server has run them.
    pub(super) fn config_effects(
        calls: &[SettingCall],
        parameters: &[Option<Bytes>],
    ) -> Vec<Effect> {
        let mode = Mode::Extended {
            parameters: parameters.to_vec(),
            binary: false,
        };
        let mut effects = Vec::new();
        for call in calls {
            let SettingCall::Set {
                name, value, local, ..
            } = call
            else {
                continue;
            };
            let (name, value) = (repeatable(name, &mode), repeatable(value, &mode));
            let name = name.map(|name| name.map(|name| name.to_ascii_lowercase()));
            if let (Some(Some(name)), value) = (&name, &value)
                && ties_to_connection(name, value.as_ref().and_then(Option::as_deref))
            {
                effects.push(Effect::Pin);
            }
            match (name, value, boolean_argument(local, &mode)) {
                (Some(Some(name)), _, _) if ends_with_transaction(&name) => {}
                (Some(Some(_)), _, Ok(true)) => {}
                (Some(Some(name)), Some(Some(value)), Ok(false)) => effects.push(Effect::Set {
                    name,
                    value: Assigned::Value(value),
                }),
                (Some(Some(name)), Some(None), Ok(false)) => effects.push(Effect::Reset(name)),
                // Not known before it runs: the session stays with this connection.
                _ => effects.push(Effect::Pin),
            }
        }
        effects
    }
}

/// What an argument is with these parameters.
pub(super) fn value_of(
    argument: &Arg,
    parameters: &[Option<Bytes>],
) -> Result<Option<String>, Refusal> {
    let mode = Mode::Extended {
        parameters: parameters.to_vec(),
        binary: false,
    };
    text_argument(argument, &mode)
}

/// An argument as it can be given again on another connection; `None` if it cannot, because it is computed or is not
/// UTF-8.
fn repeatable(argument: &Arg, mode: &Mode) -> Option<Option<String>> {
    let value = text_argument(argument, mode).ok()?;
    let garbled = |text: &String| text.contains(['\0', char::REPLACEMENT_CHARACTER]);
    (!value.as_ref().is_some_and(garbled)).then_some(value)
}

fn text_argument(argument: &Arg, mode: &Mode) -> Result<Option<String>, Refusal> {
    match argument {
        Arg::Literal(text) => Ok(Some(text.clone())),
        Arg::Null => Ok(None),
        Arg::Bool(value) => Ok(Some(value.to_string())),
        Arg::Param(number) | Arg::TypedParam(number, _) => {
            let value = parameter(*number, mode)?;
            Ok(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
        }
        Arg::Other => Err(opaque_argument()),
    }
}

/// A value that came in binary format: of a number or a uuid if the statement casts it to one, else text, whose binary
/// format is the same.
pub(super) fn binary_as_text(kind: &Kind<'_>, number: usize, value: &[u8]) -> Bytes {
    let Kind::SetConfig { calls, .. } = kind else {
        return Bytes::copy_from_slice(value);
    };
    let cast = calls.iter().find_map(|call| {
        let SettingCall::Set { value, .. } = call else {
            return None;
        };
        match value {
            Arg::TypedParam(at, cast) if usize::from(*at) == number => Some(*cast),
            _ => None,
        }
    });
    let text = match (cast, value) {
        (Some(ParamType::Integer | ParamType::Bigint), &[a, b]) => {
            Some(i16::from_be_bytes([a, b]).to_string())
        }
        (Some(ParamType::Integer | ParamType::Bigint), &[a, b, c, d]) => {
            Some(i32::from_be_bytes([a, b, c, d]).to_string())
        }
        (Some(ParamType::Integer | ParamType::Bigint), value) => <[u8; 8]>::try_from(value)
            .ok()
            .map(|bytes| i64::from_be_bytes(bytes).to_string()),
        (Some(ParamType::Uuid), value) => <[u8; 16]>::try_from(value)
            .ok()
            .map(|bytes| uuid::Uuid::from_bytes(bytes).to_string()),
        _ => None,
    };
    text.map_or_else(|| Bytes::copy_from_slice(value), Bytes::from)
}

fn parameter(number: u16, mode: &Mode) -> Result<Option<&Bytes>, Refusal> {
    let Mode::Extended { parameters, .. } = mode else {
        return Err(opaque_argument());
    };
    usize::from(number)
        .checked_sub(1)
        .and_then(|index| parameters.get(index))
        .map(Option::as_ref)
        .ok_or_else(opaque_argument)
}

/// `is_local`; PostgreSQL takes NULL as false.
fn boolean_argument(argument: &Arg, mode: &Mode) -> Result<bool, Refusal> {
    if let Arg::Bool(value) = argument {
        return Ok(*value);
    }
    match text_argument(argument, mode)?.as_deref() {
        // A bool parameter in binary format is one byte.
        None | Some("\u{0}") => Ok(false),
        Some("\u{1}") => Ok(true),
        Some(text) => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "y" | "1" => Ok(true),
            "f" | "false" | "off" | "no" | "n" | "0" => Ok(false),
            _ => Err(opaque_argument()),
        },
    }
}

fn opaque_argument() -> Refusal {
    Refusal::Unsupported {
        what: "set_config() of a tenantry setting with a computed argument".to_owned(),
        hint: "give literals or parameters",
    }
}
