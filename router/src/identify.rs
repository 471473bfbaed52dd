//! Who connects, and for which tenant: what the startup packet says, read against the fleet.
//!
//! Pure. Nothing here decides whether the password is right.

use std::collections::BTreeMap;
use std::sync::Arc;

use tenantry_schema::directory::TenantRecord;
use tenantry_schema::fleet::{Fleet, Role, RoleKind};
use tenantry_schema::tenant::{TenantId, TenantState};
use tenantry_wire::encoding;
use tenantry_wire::startup::{StartupParams, parse_options};
use tenantry_wire::{sql, sqlstate};

use crate::config::{CONSOLE_DATABASE, SHARD_DATABASE};
use crate::error::Refusal;
use crate::session::{Assigned, Settings, unsafe_encoding};

const TENANT: &str = "tenantry.tenant";
const TRACE: &str = "tenantry.traceparent";
const BY_OPTIONS: &str = "options";
const BY_PARAMETER: &str = "the startup parameter tenantry.tenant";
const BY_USER: &str = "the user name";
const BY_SERVER_NAME: &str = "the TLS server name";
const BY_DATABASE: &str = "the database name";

/// What a client connects to, by the name of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// `FLEET` or `FLEET/TENANT`: the tenants' rows, wherever they live.
    Fleet,
    /// `shard/NAME`: one shard, unguarded, for operators.
    Shard(String),
    /// `tenantry`: the router itself, for operators.
    Console,
}

/// What the startup packet says.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// The user as given; also in errors.
    pub(crate) user: String,
    /// The role, if there is one of that name.
    pub(crate) role: Option<Arc<Role>>,
    /// What it connects to.
    pub(crate) destination: Destination,
    /// Every place that names a tenant, and the tenant if it exists.
    named: Vec<(&'static str, String, Option<TenantId>)>,
    /// The W3C trace that the connection belongs to.
    pub(crate) trace: Option<String>,
    /// Everything else, as settings of the session.
    pub(crate) settings: Settings,
}

/// A session that may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    /// The tenant it starts with.
    pub(crate) tenant: Option<TenantId>,
    /// The tenant it can never leave.
    pub(crate) bound: Option<TenantId>,
}

impl Claim {
    /// Reads the startup packet.
    pub(crate) fn read(
        fleet: &Fleet,
        database: &str,
        params: &StartupParams,
    ) -> Result<Self, Refusal> {
        let user = params.user().ok_or_else(|| Refusal::Startup {
            code: sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
            message: "no PostgreSQL user name specified in startup packet".to_owned(),
        })?;
        let (role, tenant_by_user) = split_user(fleet, user);
        let (destination, tenant_by_database) = read_database(database, params)?;
        let mut claim = Self {
            user: user.to_owned(),
            role,
            destination,
            named: Vec::new(),
            trace: None,
            settings: Settings::default(),
        };
        if let Some(text) = tenant_by_user {
            claim.name(fleet, BY_USER, text);
        }
        if let Some(text) = tenant_by_database {
            claim.name(fleet, BY_DATABASE, text);
        }
        if matches!(claim.destination, Destination::Shard(_)) {
            // The other parameters are the server's to read.
            refuse_replication(params.parameter("replication"))?;
        } else {
            claim.read_parameters(fleet, params)?;
        }
        Ok(claim)
    }

    /// Adds what the TLS server name says, which is in lower case.
    pub(crate) fn with_server_name(
        mut self,
        fleet: &Fleet,
        name: Option<&str>,
        suffix: Option<&str>,
    ) -> Self {
        if let Some(text) = name.and_then(|name| tenant_by_server_name(fleet, name, suffix)) {
            self.name(fleet, BY_SERVER_NAME, text);
        }
        self
    }

    fn name(&mut self, fleet: &Fleet, source: &'static str, text: &str) {
        let id = fleet.resolve(text).map(|record| record.id);
        self.named.push((source, text.to_owned(), id));
    }

    fn read_parameters(&mut self, fleet: &Fleet, params: &StartupParams) -> Result<(), Refusal> {
        let mut settings = BTreeMap::new();
        for (name, value) in &params.parameters {
            match name.as_str() {
                "user" | "database" => {}
                "replication" => refuse_replication(Some(value))?,
                "options" => {
                    let options = parse_options(value).map_err(|error| Refusal::Startup {
                        code: error.sqlstate(),
                        message: error.to_string(),
                    })?;
                    for (name, value) in options {
                        self.setting(fleet, BY_OPTIONS, &name, value, &mut settings)?;
                    }
                }
                _ => self.setting(fleet, BY_PARAMETER, name, value.clone(), &mut settings)?,
            }
        }
        self.settings = Settings::new(settings);
        Ok(())
    }

    fn setting(
        &mut self,
        fleet: &Fleet,
        source: &'static str,
        name: &str,
        value: String,
        settings: &mut BTreeMap<String, Assigned>,
    ) -> Result<(), Refusal> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        match name.as_str() {
            TENANT => self.name(fleet, source, &value),
            // A trace that cannot be read is nobody's reason to go without a session.
            TRACE => self.trace = sql::trace_id(&value),
            "client_encoding" if !encoding::is_ascii_safe(&value) => {
                return Err(unsafe_encoding());
            }
            "role" | "session_authorization" => {
                return Err(Refusal::NotPermitted {
                    what: "another role",
                    hint: "log in as that role",
                });
            }
            _ if name.starts_with("tenantry.") => return Err(Refusal::UnknownSetting { name }),
            _ => {
                settings.insert(name, Assigned::Value(value));
            }
        }
        Ok(())
    }

    /// Whether login can succeed at all: role and tenants exist, and the role has not expired. If
    /// not, the answer must be that of a wrong password.
    pub(crate) fn is_credible(&self, now: jiff::Timestamp) -> bool {
        let current = self
            .role
            .as_ref()
            .is_some_and(|role| role.valid_until.is_none_or(|until| now < until));
        current && self.named.iter().all(|(_, _, id)| id.is_some())
    }

    /// What an authenticated client gets.
    pub(crate) fn grant(&self, fleet: &Fleet, role: &Role) -> Result<Granted, Refusal> {
        if self.destination != Destination::Fleet && role.kind != RoleKind::Operator {
            return Err(Refusal::OperatorsOnly {
                role: role.name.clone(),
            });
        }
        if matches!(self.destination, Destination::Shard(_)) && !self.named.is_empty() {
            return Err(Refusal::TenantUnwanted);
        }
        let mut tenant: Option<(TenantId, &str, &'static str)> = None;
        for (source, text, id) in &self.named {
            let id = id.ok_or_else(|| Refusal::Authentication {
                user: self.user.clone(),
            })?;
            match tenant {
                Some((first, first_text, first_source)) if first != id => {
                    return Err(Refusal::SourcesDisagree {
                        first: first_text.to_owned(),
                        first_source,
                        second: text.clone(),
                        second_source: source,
                    });
                }
                _ => tenant = Some((id, text, source)),
            }
        }
        let mut tenant = tenant.map(|(id, _, _)| id);
        if role.kind == RoleKind::Tenant && tenant.is_none() {
            tenant = match role.tenants.as_slice() {
                [only] => Some(*only),
                _ => return Err(Refusal::TenantRequired),
            };
        }
        if let Some(id) = tenant {
            let record = fleet.directory.by_id(id).ok_or(Refusal::TenantRequired)?;
            check_tenant(fleet, role, &record, true)?;
        }
        Ok(Granted {
            tenant,
            bound: tenant.filter(|_| role.kind == RoleKind::Tenant),
        })
    }
}

fn refuse_replication(value: Option<&str>) -> Result<(), Refusal> {
    match value {
        None | Some("false" | "off" | "no" | "0") => Ok(()),
        Some(_) => Err(Refusal::Unsupported {
            what: "a replication connection".to_owned(),
            hint: "connect to the shard itself for replication",
        }),
    }
}

/// The longest role name that is the user, or is followed by a dot and a tenant.
fn split_user<'u>(fleet: &Fleet, user: &'u str) -> (Option<Arc<Role>>, Option<&'u str>) {
    if let Some(role) = fleet.roles.get(user) {
        return (Some(Arc::clone(role)), None);
    }
    let dots = user.match_indices('.').map(|(at, _)| at);
    for at in dots.collect::<Vec<_>>().into_iter().rev() {
        if let Some(role) = fleet.roles.get(&user[..at]) {
            return (Some(Arc::clone(role)), Some(&user[at + 1..]));
        }
    }
    (None, None)
}

/// The destination, and the tenant that `FLEET/TENANT` names.
fn read_database<'p>(
    served: &str,
    params: &'p StartupParams,
) -> Result<(Destination, Option<&'p str>), Refusal> {
    let Some(database) = params.database() else {
        return Ok((Destination::Fleet, None));
    };
    match database.split_once('/') {
        None if database == served => Ok((Destination::Fleet, None)),
        None if database == CONSOLE_DATABASE => Ok((Destination::Console, None)),
        Some((name, tenant)) if name == served => Ok((Destination::Fleet, Some(tenant))),
        Some((SHARD_DATABASE, shard)) => Ok((Destination::Shard(shard.to_owned()), None)),
        _ => Err(Refusal::UnknownDatabase {
            name: database.to_owned(),
            served: served.to_owned(),
        }),
    }
}

/// `ID.SUFFIX` names a tenant, existing or not; another name does if it is the hostname of one, and else is the
/// router's own.
fn tenant_by_server_name<'n>(
    fleet: &Fleet,
    name: &'n str,
    suffix: Option<&str>,
) -> Option<&'n str> {
    let below = suffix.and_then(|suffix| {
        let (at, dot) = (name.len().checked_sub(suffix.len())?, '.');
        let ends = name.get(at..)?.eq_ignore_ascii_case(suffix);
        name.get(..at)?.strip_suffix(dot).filter(|_| ends)
    });
    match below {
        Some(id) => Some(id),
        None => (name.contains('.') && fleet.resolve(name).is_some()).then_some(name),
    }
}

/// Whether this role may act for this tenant now.
pub(crate) fn check_tenant(
    fleet: &Fleet,
    role: &Role,
    record: &TenantRecord<'_>,
    at_startup: bool,
) -> Result<(), Refusal> {
    let tenant = || record.id.display(fleet.settings.tenant_key).to_string();
    if !role.may_act_for(record.id) {
        return Err(Refusal::NotAllowed {
            role: role.name.clone(),
            tenant: tenant(),
            at_startup,
        });
    }
    match record.state {
        TenantState::Active | TenantState::Provisioning => Ok(()),
        TenantState::Suspended => Err(Refusal::Suspended {
            tenant: tenant(),
            reason: record.suspended_reason.map(str::to_owned),
            since: record.suspended_at.map(|at| at.to_string()),
            at_startup,
        }),
        TenantState::Closing | TenantState::Erased => Err(Refusal::Closed {
            tenant: tenant(),
            at_startup,
        }),
    }
}
