//! What the directory says about one tenant, borrowed ([`TenantRecord`]) and owned ([`TenantRow`]).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::shard::ShardId;
use crate::tenant::{Epoch, Isolation, TenantId, TenantState};

/// What a router knows of a tenant. Cheap to copy; borrows from the directory it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantRecord<'d> {
    /// The id.
    pub id: TenantId,
    /// The slug.
    pub slug: &'d str,
    /// The state.
    pub state: TenantState,
    /// The isolation.
    pub isolation: Isolation,
    /// The version of the tenant's placement.
    pub epoch: Epoch,
    /// The shard that the tenant is pinned to, if it is.
    pub pin: Option<ShardId>,
    /// The name of the tenant's plan, if it has one.
    pub plan: Option<&'d str>,
    /// Whether the tenant is one of the demo's.
    pub is_demo: bool,
    /// Whether the tenant is a simulation's.
    pub is_simulation: bool,
    /// Why the tenant is suspended.
    pub suspended_reason: Option<&'d str>,
    /// Since when it is.
    pub suspended_at: Option<Timestamp>,
}

impl TenantRecord<'_> {
    /// An owned copy, without the pin, which is a row of its own in the catalog.
    pub fn to_row(&self) -> TenantRow {
        TenantRow {
            id: self.id,
            slug: self.slug.to_owned(),
            state: self.state,
            isolation: self.isolation,
            epoch: self.epoch,
            plan: self.plan.map(str::to_owned),
            is_demo: self.is_demo,
            is_simulation: self.is_simulation,
            suspended_reason: self.suspended_reason.map(str::to_owned),
            suspended_at: self.suspended_at,
        }
    }
}

/// A row of the catalog's table `tenant`, as far as routers need it. The names of the fields are those of the
/// columns, so that `to_jsonb` of a row reads as one; unknown columns are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// The id.
    pub id: TenantId,
    /// The slug; checked where it enters the catalog.
    pub slug: String,
    /// The state.
    pub state: TenantState,
    /// The isolation.
    #[serde(default)]
    pub isolation: Isolation,
    /// The version of the tenant's placement.
    pub epoch: Epoch,
    /// The name of the tenant's plan, if it has one.
    #[serde(default)]
    pub plan: Option<String>,
    /// Whether the tenant is one of the demo's.
    #[serde(default)]
    pub is_demo: bool,
    /// Whether the tenant is a simulation's.
    #[serde(default)]
    pub is_simulation: bool,
    /// Why the tenant is suspended.
    #[serde(default)]
    pub suspended_reason: Option<String>,
    /// Since when it is.
    #[serde(default)]
    pub suspended_at: Option<Timestamp>,
}

impl TenantRow {
    /// The row as a record.
    pub fn record(&self, pin: Option<ShardId>) -> TenantRecord<'_> {
        TenantRecord {
            id: self.id,
            slug: &self.slug,
            state: self.state,
            isolation: self.isolation,
            epoch: self.epoch,
            pin,
            plan: self.plan.as_deref(),
            is_demo: self.is_demo,
            is_simulation: self.is_simulation,
            suspended_reason: self.suspended_reason.as_deref(),
            suspended_at: self.suspended_at,
        }
    }
}
