//! The fleet as a router sees it at one moment: settings, shards, ring, roles and directory, immutable.
//!
//! A [`Fleet`] is published behind an `Arc` and never altered. [`Fleet::apply`] makes the next one from the changes of
//! one transaction, sharing what they did not touch. It does no IO.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::change::{ChangeBody, ChangeGroup, PinnedTenants};
use crate::directory::{BuildError, Directory, DirectoryChange, TenantRecord};
use crate::limits::{FleetLimits, KillSwitch, Limits};
use crate::ring::Ring;
use crate::shard::{Shard, ShardId};
use crate::tenant::{Epoch, TenantId, TenantKey};

/// What a fleet decides once, at `init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSettings {
    /// The type of tenant ids.
    pub tenant_key: TenantKey,
    /// The name of the column that carries them.
    pub tenant_column: String,
}

impl FleetSettings {
    /// The settings with the default column, `tenant_id`.
    pub fn new(tenant_key: TenantKey) -> Self {
        Self {
            tenant_key,
            tenant_column: "tenant_id".to_owned(),
        }
    }
}

/// What a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleKind {
    /// Bound to its tenants, never switches.
    Tenant,
    /// Acts for any tenant that it names.
    Service,
    /// The fleet's people: shards by name, the console database.
    Operator,
}

impl RoleKind {
    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Service => "service",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RoleKind {
    type Err = crate::tenant::UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tenant" => Ok(Self::Tenant),
            "service" => Ok(Self::Service),
            "operator" => Ok(Self::Operator),
            _ => Err(crate::tenant::UnknownName::new("role kind", text)),
        }
    }
}

/// How long a client of a role keeps a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// For a transaction.
    #[default]
    Transaction,
    /// For the session.
    Session,
}

/// A role's limits and options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleLimits {
    /// How long a client keeps a server connection.
    pub pool_mode: PoolMode,
    /// Client connections per router; `None`: no limit.
    pub max_connections: Option<u32>,
    /// Whether a trailing `/*tenantry_tenant='ID'*/` comment names the tenant.
    pub tenant_comment: bool,
    /// Whether binds are signed. Off only for roles that run trusted SQL.
    pub guard_signature: bool,
}

impl Default for RoleLimits {
    fn default() -> Self {
        Self {
            pool_mode: PoolMode::Transaction,
            max_connections: None,
            tenant_comment: false,
            guard_signature: true,
        }
    }
}

/// A role that clients log in as.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// The user name, without a tenant.
    pub name: String,
    /// The SCRAM verifier, as PostgreSQL stores it.
    pub verifier: String,
    /// What the role may do.
    pub kind: RoleKind,
    /// The tenants that it may act for. Read for tenant roles; the other kinds may act for any.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// Limits and options.
    #[serde(default)]
    pub limits: RoleLimits,
    /// When the role stops working.
    #[serde(default)]
    pub valid_until: Option<Timestamp>,
}

impl Role {
    /// Whether the role may act for this tenant.
    pub fn may_act_for(&self, tenant: TenantId) -> bool {
        match self.kind {
            RoleKind::Tenant => self.tenants.contains(&tenant),
            RoleKind::Service | RoleKind::Operator => true,
        }
    }
}

/// Without the verifier: it is as good as a password to whoever may try guesses against it.
impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("tenants", &self.tenants)
            .field("limits", &self.limits)
            .field("valid_until", &self.valid_until)
            .finish_non_exhaustive()
    }
}

/// Where a tenant lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The shard.
    pub shard: ShardId,
    /// The version of this answer.
    pub epoch: Epoch,
    /// Whether a pin says so, and not the ring.
    pub pinned: bool,
}

/// The fleet at one moment.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// What was decided at `init`.
    pub settings: FleetSettings,
    /// Every shard.
    pub shards: Arc<BTreeMap<ShardId, Arc<Shard>>>,
    /// The ring.
    pub ring: Arc<Ring>,
    /// Roles by name.
    pub roles: Arc<HashMap<String, Arc<Role>>>,
    /// Limits of plans and tenants, and kill switches.
    pub limits: Arc<FleetLimits>,
    /// Every tenant.
    pub directory: Directory,
    /// The last change that is in here.
    pub sequence: u64,
    /// The last change after which a tenant's limits may be others: while this number stands, an answer of
    /// [`Fleet::limits_of`] does.
    pub limits_sequence: u64,
}

/// Why changes cannot be applied. The remedy is the same for all: load the whole fleet anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Changes are missing, or come twice.
    #[error("change {expected} was expected, {found} came")]
    Gap {
        /// The next number.
        expected: u64,
        /// The group's first number.
        found: u64,
    },
    /// A group's numbers do not match its changes.
    #[error("changes {first} to {last} hold {count}")]
    Count {
        /// The group's first number.
        first: u64,
        /// The group's last number.
        last: u64,
        /// How many changes it has.
        count: usize,
    },
    /// The ring has a shard that does not exist.
    #[error("the ring has shard {0}, which does not exist")]
    UnknownShard(ShardId),
    /// The key kind changed, which it never does.
    #[error("the fleet's tenant key changed from {from} to {to}")]
    KeyChanged {
        /// The key of this fleet.
        from: TenantKey,
        /// The key in the change.
        to: TenantKey,
    },
    /// The directory refuses a change.
    #[error("the change does not fit the directory")]
    Directory(#[source] BuildError),
}

impl Fleet {
    /// A fleet without shards, roles and tenants.
    pub fn empty(settings: FleetSettings) -> Self {
        Self {
            directory: Directory::empty(settings.tenant_key),
            settings,
            shards: Arc::default(),
            ring: Arc::default(),
            roles: Arc::default(),
            limits: Arc::default(),
            sequence: 0,
            limits_sequence: 0,
        }
    }

    /// Where a tenant lives: where its pin says, else where the ring does. `None`: no pin, and the ring is empty.
    pub fn place(&self, tenant: &TenantRecord<'_>) -> Option<Placement> {
        let pinned = tenant.pin.is_some();
        let shard = tenant.pin.or_else(|| self.ring.shard_of(tenant.id))?;
        Some(Placement {
            shard,
            epoch: tenant.epoch,
            pinned,
        })
    }

    /// What a tenant may use.
    pub fn limits_of(&self, tenant: &TenantRecord<'_>) -> Limits {
        self.limits.of(tenant.id, tenant.plan)
    }

    /// The kill switch in force for a tenant, or for sessions without one.
    pub fn kill_switch(&self, tenant: Option<TenantId>, now: Timestamp) -> Option<&KillSwitch> {
        self.limits.switch(tenant, now)
    }

    /// A shard by its number.
    pub fn shard(&self, id: ShardId) -> Option<&Arc<Shard>> {
        self.shards.get(&id)
    }

    /// A shard by its name.
    pub fn shard_named(&self, name: &str) -> Option<&Arc<Shard>> {
        self.shards
            .values()
            .find(|shard| shard.name.as_str() == name)
    }

    /// The tenant that a client names by id, slug or hostname.
    pub fn resolve(&self, text: &str) -> Option<TenantRecord<'_>> {
        self.directory.resolve(self.settings.tenant_key, text)
    }

    /// The fleet after one transaction's changes.
    pub fn apply(&self, group: &ChangeGroup) -> Result<Self, ApplyError> {
        let expected = self.sequence + 1;
        if group.first_seq != expected {
            return Err(ApplyError::Gap {
                expected,
                found: group.first_seq,
            });
        }
        let count = group.changes.len();
        if group
            .last_seq
            .checked_sub(group.first_seq)
            .map(|gaps| gaps + 1)
            != Some(count as u64)
        {
            return Err(ApplyError::Count {
                first: group.first_seq,
                last: group.last_seq,
                count,
            });
        }
        let mut next = self.clone();
        let mut directory_changes = Vec::new();
        for change in &group.changes {
            next.apply_one(change, &mut directory_changes)?;
        }
        if let Some(stray) = next
            .ring
            .members()
            .iter()
            .find(|member| !next.shards.contains_key(&member.shard))
        {
            return Err(ApplyError::UnknownShard(stray.shard));
        }
        if !directory_changes.is_empty() {
            next.directory = self
                .directory
                .apply(&directory_changes)
                .map_err(ApplyError::Directory)?;
        }
        next.sequence = group.last_seq;
        if group.changes.iter().any(ChangeBody::may_change_limits) {
            next.limits_sequence = next.sequence;
        }
        Ok(next)
    }

    /// Applies what is not the directory's, and collects what is.
    fn apply_one(
        &mut self,
        change: &ChangeBody,
        directory: &mut Vec<DirectoryChange>,
    ) -> Result<(), ApplyError> {
        match change {
            ChangeBody::Tenant(row) => directory.push(DirectoryChange::UpsertTenant(row.clone())),
            ChangeBody::TenantRemoved { id } => {
                directory.push(DirectoryChange::RemoveTenant(*id));
                if self.limits.names(*id) {
                    Arc::make_mut(&mut self.limits).forget(*id);
                }
            }
            ChangeBody::TenantLimits { tenant, limits } => {
                Arc::make_mut(&mut self.limits).set_tenant(*tenant, *limits);
            }
            ChangeBody::Plan { name, limits } => {
                Arc::make_mut(&mut self.limits).set_plan(name, *limits);
            }
            ChangeBody::PlanRemoved { name } => {
                Arc::make_mut(&mut self.limits).set_plan(name, Limits::default());
            }
            ChangeBody::KillSwitch(switch) => {
                Arc::make_mut(&mut self.limits).set_switch(switch.clone());
            }
            ChangeBody::Hostname { name, tenant } => {
                directory.push(DirectoryChange::UpsertHostname {
                    name: name.clone(),
                    tenant: *tenant,
                });
            }
            ChangeBody::HostnameRemoved { name } => {
                directory.push(DirectoryChange::RemoveHostname(name.clone()))
            }
            ChangeBody::Pin { tenant, shard } => {
                directory.push(DirectoryChange::Pin {
                    tenant: *tenant,
                    shard: *shard,
                });
            }
            ChangeBody::PinRemoved { tenant } => directory.push(DirectoryChange::Unpin(*tenant)),
            ChangeBody::BulkPins { pins } => {
                for PinnedTenants { shard, tenants } in pins {
                    directory.extend(tenants.iter().map(|tenant| DirectoryChange::Pin {
                        tenant: *tenant,
                        shard: *shard,
                    }));
                }
            }
            ChangeBody::Shard(shard) => {
                Arc::make_mut(&mut self.shards).insert(shard.id, Arc::new(shard.clone()));
            }
            ChangeBody::ShardRemoved { id } => {
                Arc::make_mut(&mut self.shards).remove(id);
            }
            ChangeBody::Ring { members } => {
                self.ring = Arc::new(Ring::new(
                    members.iter().map(|member| (member.shard, member.weight)),
                ));
            }
            ChangeBody::Role(role) => {
                Arc::make_mut(&mut self.roles).insert(role.name.clone(), Arc::new(role.clone()));
            }
            ChangeBody::RoleRemoved { name } => {
                Arc::make_mut(&mut self.roles).remove(name);
            }
            ChangeBody::Settings(settings) => {
                let (from, to) = (self.settings.tenant_key, settings.tenant_key);
                if from != to {
                    return Err(ApplyError::KeyChanged { from, to });
                }
                self.settings = settings.clone();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
