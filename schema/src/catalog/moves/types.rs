//! What a move is: its row in the catalog as types, and what it tells of its progress.
//!
//! [`MoveStatus`] is the part that transitions change; the state machine of the rebalancer computes the next one from
//! the last, and the catalog writes it whole, compared on the version. Nothing here decides anything.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::lease::LeaseEpoch;
use crate::shard::ShardId;
use crate::tenant::{Epoch, TenantId, UnknownName};

/// Identifies a move: a UUID of version 7, so that moves sort by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(pub Uuid);

impl MoveId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for MoveId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Declares an enum of words: text in the catalog and in JSON, one spelling each.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, $case:literal { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = $case)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As the catalog spells it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let known = Self::ALL.iter().find(|known| known.as_str() == text);
                known.copied().ok_or_else(|| UnknownName::new($what, text))
            }
        }
    };
}

words! {
    /// Why a tenant is moved.
    MoveKind, "kind of move", "snake_case" {
        /// An operator said so.
        Move = "move",
        /// To a shard of its own.
        Isolate = "isolate",
        /// Its shard is being emptied.
        Drain = "drain",
        /// To even bytes and load.
        Rebalance = "rebalance",
    }
}

words! {
    /// Where a move is. What happens in each state is in docs/protocol.md.
    MoveState, "state of a move", "SCREAMING_SNAKE_CASE" {
        /// Waits for its turn, then for the checks before a move.
        Planned = "PLANNED",
        /// The destination is told, publication and slot are made.
        Prepared = "PREPARED",
        /// Rows are copied.
        Copying = "COPYING",
        /// What was written since is applied.
        Catchup = "CATCHUP",
        /// Both sides are compared at one position.
        Verified = "VERIFIED",
        /// The way back is made, connections are warmed, the gate is waited for.
        Ready = "READY",
        /// The cutover: the source may be fenced, or have handed over.
        Fencing = "FENCING",
        /// Within a cutover: everything that was committed is applied. Never stored, see docs/protocol.md.
        Drained = "DRAINED",
        /// The source has handed over; the destination serves or is about to.
        Committed = "COMMITTED",
        /// The destination serves; the source is kept current for a way back.
        Probation = "PROBATION",
        /// The source's rows are deleted.
        Cleaning = "CLEANING",
        /// Back to the source, after the commit.
        RollingBack = "ROLLING_BACK",
        /// Everything is undone, before the commit.
        Aborting = "ABORTING",
        /// The tenant lives at the destination and nothing is left at the source.
        Done = "DONE",
        /// The tenant lives at the source again and nothing is left at the destination.
        RolledBack = "ROLLED_BACK",
        /// The tenant never left and nothing is left at the destination.
        Aborted = "ABORTED",
    }
}

impl MoveState {
    /// Whether the move is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack | Self::Aborted)
    }
}

words! {
    /// One of the two shards of a move.
    Side, "side of a move", "snake_case" {
        /// Where the tenant was.
        Source = "source",
        /// Where it is to be.
        Destination = "destination",
    }
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

words! {
    /// Who starts the cutover.
    SwitchPolicy, "switch policy", "snake_case" {
        /// The move, as soon as the gate is open.
        Auto = "auto",
        /// An operator, by the command `switch`.
        Manual = "manual",
    }
}

words! {
    /// What to do with sessions that stay idle in a transaction of the tenant when the cutover needs its lock.
    IdlePolicy, "idle policy", "snake_case" {
        /// Wait for them, and say so.
        Wait = "wait",
        /// End them.
        Terminate = "terminate",
    }
}

words! {
    /// What an operator asks of a move.
    MoveCommand, "command", "snake_case" {
        /// Undo it; only before the commit.
        Cancel = "cancel",
        /// Go no further than where it is.
        Pause = "pause",
        /// Go on.
        Resume = "resume",
        /// Cut over now, where the policy leaves that to an operator.
        Switch = "switch",
        /// Move the tenant back to the source, after the commit.
        Reverse = "reverse",
        /// End the probation now.
        Complete = "complete",
    }
}

/// How a move is to be made; what is `None` is the rebalancer's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MovePolicy {
    /// Who starts the cutover.
    pub switch: SwitchPolicy,
    /// What to do with sessions idle in a transaction.
    pub idle: IdlePolicy,
    /// How long clients may wait in one cutover, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_budget_ms: Option<u32>,
    /// How long the way back is kept open, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation_s: Option<u64>,
    /// Copy and cleaning as fast as the servers go, whatever their other tenants feel.
    pub unthrottled: bool,
}

impl Default for MovePolicy {
    fn default() -> Self {
        Self {
            switch: SwitchPolicy::Auto,
            idle: IdlePolicy::Wait,
            pause_budget_ms: None,
            probation_s: None,
            unthrottled: false,
        }
    }
}

impl MovePolicy {
    /// The pause budget, or the default that the caller has.
    pub fn pause_budget_or(&self, default: Duration) -> Duration {
        self.pause_budget_ms
            .map_or(default, |budget| Duration::from_millis(budget.into()))
    }

    /// The probation, or the default that the caller has.
    pub fn probation_or(&self, default: Duration) -> Duration {
        self.probation_s.map_or(default, Duration::from_secs)
    }
}

/// What a move makes on its shards. Derived from its id and recorded with it, before any of it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveNames {
    /// Publication and slot on the source.
    pub forward: String,
    /// Publication and slot on the destination.
    pub reverse: String,
}

impl MoveNames {
    /// What every such name starts with; the janitor looks for it.
    pub const PREFIX: &'static str = "tenantry_move_";

    /// The names of this move.
    pub fn of(id: MoveId) -> Self {
        let hex = id.0.as_simple().to_string();
        // The last digits: the first ones of a version 7 are its time, alike for moves of one moment.
        let mark = &hex[hex.len() - 20..];
        Self {
            forward: format!("{}{mark}_f", Self::PREFIX),
            reverse: format!("{}{mark}_r", Self::PREFIX),
        }
    }
}

/// A move as the catalog has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// Its id.
    pub id: MoveId,
    /// Whom it moves.
    pub tenant: TenantId,
    /// From where.
    pub source: ShardId,
    /// To where.
    pub destination: ShardId,
    /// Why.
    pub kind: MoveKind,
    /// Why, in words.
    pub reason: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// The rebalancing it belongs to.
    pub batch: Option<Uuid>,
    /// How it is to be made.
    pub policy: MovePolicy,
    /// What it makes on its shards.
    pub names: MoveNames,
    /// The tenant's epoch when it was planned.
    pub source_epoch: Epoch,
    /// What transitions change.
    #[serde(flatten)]
    pub status: MoveStatus,
    /// What it last told of itself.
    pub progress: MoveProgress,
    /// Raised by each transition.
    pub version: u64,
    /// The lease under which the last transition was made.
    pub lease: LeaseEpoch,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When it last told anything.
    pub updated_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
}

impl Move {
    /// The shard on this side.
    pub fn shard(&self, side: Side) -> ShardId {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }
}

/// The part of a move that transitions change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MoveStatus {
    /// Where it is.
    pub state: MoveState,
    /// Where the tenant is served, as far as the catalog knows.
    pub lives_at: Side,
    /// The epoch the tenant has there, once this move has put it there.
    pub placement_epoch: Option<Epoch>,
    /// An operator holds it.
    pub paused: bool,
    /// An operator asked for the cutover.
    pub switch_asked: bool,
    /// The source is kept current, or can be: a rollback loses nothing.
    pub way_back: bool,
    /// Cutovers that were tried in the present direction.
    pub attempts: u32,
    /// Why it is being undone, or what it last failed with.
    pub error: Option<String>,
    /// Until when the way back is kept open.
    pub probation_until: Option<Timestamp>,
}

impl MoveStatus {
    /// A move that nobody has touched.
    pub fn planned() -> Self {
        Self {
            state: MoveState::Planned,
            lives_at: Side::Source,
            placement_epoch: None,
            paused: false,
            switch_asked: false,
            way_back: true,
            attempts: 0,
            error: None,
            probation_until: None,
        }
    }
}

/// What a move tells about once a second. For reading only: nothing is decided by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveProgress {
    /// What is being done: an effect of the protocol.
    pub doing: Option<String>,
    /// What that waits for, where it does.
    pub waiting: Option<String>,
    /// When a failed effect is tried again.
    pub retry_at: Option<Timestamp>,
    /// What it failed with.
    pub failure: Option<String>,
    /// The copy, table by table.
    pub tables: Vec<TableProgress>,
    /// Rows copied in all.
    pub copied_rows: u64,
    /// Bytes copied in all.
    pub copied_bytes: u64,
    /// What there is to copy, estimated.
    pub bytes_estimate: u64,
    /// Operations applied from the stream in the present direction.
    pub applied_ops: u64,
    /// The end of the last transaction that was applied.
    pub applied_lsn: Option<String>,
    /// Bytes of write-ahead log between the stream's server and what is applied.
    pub lag_bytes: Option<u64>,
    /// Round trip of the last probe through the stream, milliseconds.
    pub lag_ms: Option<f64>,
    /// Rows compared by the last verification.
    pub verified_rows: u64,
    /// Rows deleted by cleaning.
    pub cleaned_rows: u64,
    /// How much longer the present step takes, seconds, estimated.
    pub eta_s: Option<f64>,
    /// Every cutover that was tried.
    pub holds: Vec<HoldReport>,
}

/// The copy of one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableProgress {
    /// Schema and name, quoted where need be.
    pub table: String,
    /// Rows copied.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Rows there are, estimated.
    pub rows_estimate: u64,
    /// Whether all are copied.
    pub done: bool,
}

/// One cutover that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// When.
    pub at: Timestamp,
    /// To which side the tenant was to go.
    pub to: Side,
    /// Whether it went.
    pub committed: bool,
    /// From the routers' hold to their release, milliseconds.
    pub hold_ms: f64,
    /// From the fence to the activation, milliseconds: what a client could notice without routers.
    pub fence_ms: f64,
    /// The longest that a client waited at a router, milliseconds, where routers told.
    pub longest_ms: Option<f64>,
    /// How many clients waited.
    pub held: u64,
    /// How often the tenant's lock was tried for.
    pub lock_attempts: u32,
    /// Why it did not go.
    pub failure: Option<String>,
}

/// An entry of a move's history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoveEvent {
    /// Its place.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// The state before.
    pub from: Option<MoveState>,
    /// The state after; the same: something happened within it.
    pub to: MoveState,
    /// Evidence.
    pub detail: serde_json::Value,
}

/// What an operator asked of a move, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AskedCommand {
    /// Its place.
    pub id: i64,
    /// Of which move.
    pub of: MoveId,
    /// What.
    pub command: MoveCommand,
    /// Who.
    pub actor: String,
    /// When.
    pub at: Timestamp,
    /// When the rebalancer took it.
    pub taken_at: Option<Timestamp>,
    /// Why it was not followed.
    pub refusal: Option<String>,
}
