//! What the rebalancer says to routers about a tenant that moves, and what they answer: JSON over HTTP.
//!
//! One POST per message to [`ControlCall::PATH`] at the router's control address, with the fleet's control token as
//! bearer token. Nothing here decides who may write where: that is the fence's. A router that hears none of this serves
//! its clients correctly, and some of them later.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::shard::ShardId;
use crate::tenant::{Epoch, TenantId};

/// Beginning of every path of the control plane.
pub const CONTROL_PREFIX: &str = "/control/";
/// Longest message, bytes.
pub const CONTROL_BYTES_MAX: usize = 16 << 10;

/// A message to a router, with its answer.
pub trait ControlCall: Serialize + DeserializeOwned + Send {
    /// Where it is posted.
    const PATH: &'static str;
    /// What comes back with status 200.
    type Answer: Serialize + DeserializeOwned + Send;
}

/// A live move, as routers need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveNotice {
    /// The tenant that moves.
    pub tenant: TenantId,
    /// The move.
    #[serde(rename = "move")]
    pub move_id: Uuid,
    /// Where the tenant lives.
    pub source: ShardId,
    /// Where it will.
    pub destination: ShardId,
}

/// A cutover is near: before each transaction of the tenant the router asks the guard first, so that a statement that
/// meets the fence can be run again, and it opens connections at the destination. Repeated, it counts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The move.
    #[serde(flatten)]
    pub notice: MoveNotice,
    /// For how long this counts unless it is repeated, milliseconds.
    pub lasts_ms: u64,
}

/// Answer to [`Prepare`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Connections at the destination that are open and have been used for the tenant.
    pub warmed: usize,
    /// Why there are not as many as were wanted.
    pub problem: Option<String>,
}

/// No transaction of the tenant begins here until [`Release`], or until the deadline. Answered when none that began
/// before is in flight, or when `drain_ms` have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The move.
    #[serde(flatten)]
    pub notice: MoveNotice,
    /// When the hold ends by itself, milliseconds from now.
    pub deadline_ms: u64,
    /// Longest wait for transactions in flight, milliseconds.
    pub drain_ms: u64,
}

/// Answer to [`Hold`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Transactions of the tenant that are in flight still. Of those that began before the router knew of the move, only
    /// the ones that have run a statement since are counted; the fence waits for all.
    pub in_flight: usize,
    /// Transactions that wait for the end of the hold.
    pub waiting: usize,
}

/// The tenant is served at this shard: the hold ends. At the source's epoch or above after a failed attempt, at the
/// destination's after the commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The tenant.
    pub tenant: TenantId,
    /// The move.
    #[serde(rename = "move")]
    pub move_id: Uuid,
    /// Where the tenant is active.
    pub shard: ShardId,
    /// The version of that placement. One that is not newer than what the router knows changes no placement.
    pub epoch: Epoch,
}

/// Answer to [`Release`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Transactions that have waited since the hold began.
    pub held: u64,
    /// The longest wait of one of them, microseconds.
    pub longest_us: u64,
}

/// The move is over, one way or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// The tenant.
    pub tenant: TenantId,
    /// The move.
    #[serde(rename = "move")]
    pub move_id: Uuid,
}

/// Answer to [`Forget`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Whether the router knew of it.
    pub known: bool,
}

/// Why a router does not do what it was asked: the body of an answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlProblem {
    /// What is wrong.
    pub detail: String,
}

impl ControlCall for Prepare {
    const PATH: &'static str = "/control/v1/prepare";
    type Answer = Prepared;
}

impl ControlCall for Hold {
    const PATH: &'static str = "/control/v1/hold";
    type Answer = Held;
}

impl ControlCall for Release {
    const PATH: &'static str = "/control/v1/release";
    type Answer = Released;
}

impl ControlCall for Forget {
    const PATH: &'static str = "/control/v1/forget";
    type Answer = Forgotten;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Routers and rebalancers of two versions talk to each other during an update.
    #[test]
    fn messages_read_as_they_always_did() {
        let hold = Hold {
            notice: MoveNotice {
                tenant: TenantId::from_bigint(7).unwrap(),
                move_id: Uuid::from_u128(1),
                source: ShardId::new(1).unwrap(),
                destination: ShardId::new(2).unwrap(),
            },
            deadline_ms: 500,
            drain_ms: 50,
        };
        let text = r#"{"tenant":"7","move":"00000000-0000-0000-0000-000000000001","source":1,"destination":2,"deadline_ms":500,"drain_ms":50}"#;
        assert_eq!(serde_json::to_string(&hold).unwrap(), text);
        assert_eq!(serde_json::from_str::<Hold>(text).unwrap(), hold);
        let release =
            r#"{"tenant":"7","move":"00000000-0000-0000-0000-000000000001","shard":2,"epoch":3}"#;
        let read: Release = serde_json::from_str(release).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), release);
    }
}
