//! What a rebalancing is: its rows in the catalog as types.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::catalog::moves::{MoveId, MoveState};
use crate::shard::ShardId;
use crate::tenant::{TenantId, UnknownName};

/// Identifies a rebalancing, and is the batch of its moves: a UUID of version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RebalanceId(pub Uuid);

impl fmt::Display for RebalanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for RebalanceId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Where a rebalancing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RebalanceState {
    /// Its moves are made.
    Running,
    /// No more are begun; those under way go on.
    Stopping,
    /// An operator stopped it.
    Stopped,
    /// All its moves are made.
    Done,
    /// Some of its moves failed, all others are made.
    Failed,
}

impl RebalanceState {
    const ALL: [Self; 5] = [
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Done,
        Self::Failed,
    ];

    /// As the catalog spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether it is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Done | Self::Failed)
    }
}

impl FromStr for RebalanceState {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownName::new("state of a rebalancing", text))
    }
}

/// A rebalancing to begin.
#[derive(Debug, Clone)]
pub struct NewRebalance<'a> {
    /// The planner's goal.
    pub goal: Value,
    /// The shard that is to be emptied; `None`: the whole fleet is meant.
    pub shard: Option<ShardId>,
    /// The planner's limits.
    pub limits: Value,
    /// What the plan says of the shards and of what it leaves undone.
    pub summary: Value,
    /// The plan.
    pub moves: Vec<NewRebalanceMove>,
    /// Pins that only repeat what the ring says.
    pub unpins: Vec<TenantId>,
    /// Who asks for it.
    pub actor: &'a str,
}

/// One move of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRebalanceMove {
    /// Who moves.
    pub tenant: TenantId,
    /// From where.
    pub source: ShardId,
    /// To where.
    pub destination: ShardId,
    /// How many bytes that are, if they were measured.
    pub bytes: Option<u64>,
    /// Busy connections that come along.
    pub busy: f64,
    /// Why, in words.
    pub why: String,
}

/// A rebalancing as the catalog has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rebalance {
    /// Its id.
    pub id: RebalanceId,
    /// The planner's goal.
    pub goal: Value,
    /// The shard that is being emptied.
    pub shard: Option<ShardId>,
    /// Where it is.
    pub state: RebalanceState,
    /// The planner's limits.
    pub limits: Value,
    /// What the plan said.
    pub summary: Value,
    /// What it waits for, in words.
    pub waiting: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// When.
    pub created_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
}

/// One move of a plan, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RebalanceMove {
    /// Its place in the plan.
    pub ordinal: u32,
    /// Who moves.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// From where.
    pub source: ShardId,
    /// To where.
    pub destination: ShardId,
    /// How many bytes that are, if they were measured.
    pub bytes: Option<u64>,
    /// Busy connections that come along.
    pub busy: f64,
    /// Why, in words.
    pub why: String,
    /// Why it is not made after all.
    pub skipped: Option<String>,
    /// How often it was begun.
    pub attempts: u32,
    /// The last move that was begun for it.
    pub last: Option<RebalanceAttempt>,
}

/// The last move that was begun for a planned one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RebalanceAttempt {
    /// Which.
    pub id: MoveId,
    /// Where it is.
    pub state: MoveState,
    /// What it failed with.
    pub error: Option<String>,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
}
