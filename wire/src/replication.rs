//! The streaming replication protocol as far as logical decoding with `pgoutput` needs it: commands of a walsender,
//! the frames inside COPY BOTH, and the messages of the plugin.
//!
//! PostgreSQL documentation, "Streaming Replication Protocol" and "Logical Replication Message Formats". Versions 1
//! and 2 of the plugin's protocol are read; 2 adds transactions that are sent while they still run. Nothing here
//! decides what a change means: whoever applies it does.

mod command;
mod frame;
mod lsn;
mod pgoutput;

pub use command::{SlotKind, SnapshotAction, create_slot, start_replication};
pub use frame::{Keepalive, StandbyStatus, WalFrame, XLogData};
pub use lsn::{Lsn, ParseLsnError};
pub use pgoutput::{
    Change, Decoder, LogicalMessage, OldTuple, PgOutput, Relation, RelationColumn, ReplicaIdentity,
    Tuple, TupleValue, TupleValues,
};

/// Microseconds between the Unix epoch and PostgreSQL's, 2000-01-01 00:00 UTC.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A point in time as PostgreSQL sends it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_MICROS)
    }

    /// From microseconds since the Unix epoch.
    #[must_use]
    pub fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(EPOCH_MICROS))
    }
}

#[cfg(test)]
mod tests;
