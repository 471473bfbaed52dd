//! Isolation by policy: what to do about hot tenants, and about isolated ones that have become cold, as a pure function
//! of the situation and the time.
//!
//! What is hot or cold is found elsewhere, from the load that routers tell (`heat_event` in the catalog); here it is
//! only decided whether that is worth a move, and whither. Two distances keep a tenant from going back and forth: it
//! leaves the shared fleet at one level of load and returns at a lower one, after a longer time, and after any move of it
//! nothing more happens to it for the cool-down. Spares are a budget: some may be kept for operators, and when none is left
//! the tenant goes to the least loaded shard if that helps, and the decision says so.

mod decide;
mod settings;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tenantry_schema::pin::PinReason;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

pub use decide::decide;
pub use settings::{Mode, Policy, PolicyError, WithoutSpare};

use crate::plan::{Obstacle, ShardEntry};

/// What a policy looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// The time.
    pub now: Timestamp,
    /// Every shard.
    pub shards: Vec<ShardNow>,
    /// The tenants that are hot.
    pub hot: Vec<HotTenant>,
    /// The tenants that have a shard of their own for being hot, or that are on the way to one.
    pub isolated: Vec<IsolatedTenant>,
    /// Moves of the policy's that are under way.
    pub under_way: usize,
}

/// A shard as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardNow {
    /// What it is.
    pub entry: ShardEntry,
    /// Server connections that are busy on it.
    pub busy: f64,
    /// Tenants that use it now; on a spare or dedicated shard all that live there or are on the way to it or from it.
    pub tenants: usize,
}

/// A tenant that is hot.
#[derive(Debug, Clone, PartialEq)]
pub struct HotTenant {
    /// Who.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// Where it lives.
    pub shard: ShardId,
    /// Since when.
    pub since: Timestamp,
    /// Its part of the shard's busy time.
    pub share: f64,
    /// Server connections it keeps busy.
    pub busy: f64,
    /// What its rows take, if that was measured.
    pub bytes: Option<u64>,
    /// Why it is pinned, if it is.
    pub pin: Option<PinReason>,
    /// When a move of it ended last.
    pub moved_at: Option<Timestamp>,
    /// What keeps it from moving now.
    pub obstacle: Option<Obstacle>,
}

/// A tenant that was isolated.
#[derive(Debug, Clone, PartialEq)]
pub struct IsolatedTenant {
    /// Who.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// Its own shard.
    pub shard: ShardId,
    /// Whether the policy did it; an operator's isolation is the operator's to end.
    pub is_automatic: bool,
    /// Since when it has been cold; `None`: it is hot.
    pub cold_since: Option<Timestamp>,
    /// Server connections it keeps busy.
    pub busy: f64,
    /// Where the ring would have it.
    pub ring: Option<ShardId>,
    /// When a move of it ended last.
    pub moved_at: Option<Timestamp>,
    /// What keeps it from moving now.
    pub obstacle: Option<Obstacle>,
}

/// What is to be done with one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// It moves to this spare, which becomes its own.
    Isolate {
        /// The spare.
        to: ShardId,
    },
    /// There is no spare: it moves to this shared shard.
    Relieve {
        /// The least loaded.
        to: ShardId,
    },
    /// It returns to this shared shard.
    Return {
        /// The ring's choice, or the least loaded.
        to: ShardId,
    },
    /// Nothing, for now.
    Wait,
}

impl Act {
    /// Where the tenant goes, if it goes.
    pub fn destination(self) -> Option<ShardId> {
        match self {
            Self::Isolate { to } | Self::Relieve { to } | Self::Return { to } => Some(to),
            Self::Wait => None,
        }
    }

    /// As it is recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolate { .. } => "isolate",
            Self::Relieve { .. } => "relieve",
            Self::Return { .. } => "return",
            Self::Wait => "wait",
        }
    }
}

/// The rule that a decision follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is hot, and there is a spare.
    Spare,
    /// It is hot, there is no spare, and another shard is better.
    LeastLoaded,
    /// It is hot, there is no spare, and no shard is better.
    NowhereBetter,
    /// It is hot, there is no spare, and the policy lets it stay.
    Stays,
    /// It cannot be moved now.
    Obstacle,
    /// It harms nobody where it is.
    Alone,
    /// An operator wants it where it is.
    Pinned,
    /// It takes less of its shard than the policy asks for.
    Share,
    /// It keeps fewer connections busy than the policy asks for, or more than it lets return.
    Busy,
    /// It is too large.
    Size,
    /// It has not been hot, or cold, for long enough.
    Time,
    /// It has moved lately.
    CoolDown,
    /// Enough moves are under way.
    AtOnce,
    /// It is cold.
    Cold,
    /// It is cold, and there is no shard to return to.
    NoShard,
}

impl Rule {
    /// As it is recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spare => "spare",
            Self::LeastLoaded => "least_loaded",
            Self::NowhereBetter => "nowhere_better",
            Self::Stays => "stays",
            Self::Obstacle => "obstacle",
            Self::Alone => "alone",
            Self::Pinned => "pinned",
            Self::Share => "share",
            Self::Busy => "busy",
            Self::Size => "size",
            Self::Time => "time",
            Self::CoolDown => "cool_down",
            Self::AtOnce => "at_once",
            Self::Cold => "cold",
            Self::NoShard => "no_shard",
        }
    }
}

/// A decision with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// About whom.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// Where it lives.
    pub shard: ShardId,
    /// What.
    #[serde(flatten)]
    pub act: Act,
    /// By which rule.
    pub rule: Rule,
    /// Why, in words and numbers.
    pub why: String,
}
