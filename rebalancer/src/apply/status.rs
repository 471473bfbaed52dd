//! What an applier shows of itself.

use tenantry_wire::replication::{Lsn, Timestamp};
use uuid::Uuid;

/// What an applier is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplyPhase {
    /// Opening its connections, for the first time or again.
    Connecting,
    /// Reverse only: waiting for the moment from which on the stream matters.
    Discarding,
    /// Applying.
    Applying,
    /// It has applied the fence marker: nothing of the tenant may come until the fence is lifted.
    Fenced,
    /// The other shard has handed the tenant over, or the applier was told to stop.
    Ended,
    /// It gave up, see [`ApplyStatus::last_error`].
    Failed,
}

/// Where an applier is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyStatus {
    /// What it is doing.
    pub phase: ApplyPhase,
    /// It halts, so that two snapshots can be taken.
    pub halted: bool,
    /// The furthest position that the source has spoken of.
    pub received: Lsn,
    /// Everything that committed before is applied and safe on the destination.
    pub applied: Lsn,
    /// When the last transaction that was applied committed, by the source's clock.
    pub committed_at: Option<Timestamp>,
    /// Transactions applied since the applier began.
    pub transactions: u64,
    /// Rows that they changed.
    pub changes: u64,
    /// Transactions of the destination that they took.
    pub groups: u64,
    /// The fence marker that was reached and not lifted since.
    pub marker: Option<Uuid>,
    /// The last probe that was applied.
    pub probe: u64,
    /// Bytes kept of transactions that still run.
    pub kept_bytes: u64,
    /// How often it had to begin again.
    pub restarts: u64,
    /// Why the last time.
    pub last_error: Option<String>,
}

impl ApplyStatus {
    pub(super) fn new(from: Lsn) -> Self {
        Self {
            phase: ApplyPhase::Connecting,
            halted: false,
            received: from,
            applied: from,
            committed_at: None,
            transactions: 0,
            changes: 0,
            groups: 0,
            marker: None,
            probe: 0,
            kept_bytes: 0,
            restarts: 0,
            last_error: None,
        }
    }

    /// Bytes of the source's log that are not applied yet, as far as is known.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        self.received.0.saturating_sub(self.applied.0)
    }

    /// Nothing will come from it any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, ApplyPhase::Ended | ApplyPhase::Failed)
    }
}
