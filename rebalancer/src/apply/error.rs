//! Why changes cannot be applied, and what follows from it.

use std::io;

use tenantry_wire::MessageError;
use tenantry_wire::replication::Lsn;

use crate::replication::LinkError;

/// Why an applier stopped or begins again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The source's walsender.
    #[error("the stream of the source failed")]
    Source(#[source] LinkError),
    /// The session with the destination.
    #[error("the destination failed")]
    Destination(#[source] LinkError),
    /// The slot is gone. Without it nobody knows what was missed: the move begins again.
    #[error("slot {slot} does not exist")]
    SlotMissing {
        /// Its name.
        slot: String,
    },
    /// The source has removed log that the slot needed (`max_slot_wal_keep_size`): the move begins again.
    #[error("slot {slot} has lost the log it needs")]
    SlotLost {
        /// Its name.
        slot: String,
        /// What the source said.
        #[source]
        source: LinkError,
    },
    /// The source wrote what makes no sense.
    #[error("the stream is malformed")]
    Message(#[from] MessageError),
    /// The source sent what it must not.
    #[error("the stream has {0}")]
    Malformed(&'static str),
    /// A table was emptied on the source, of all tenants' rows.
    #[error("TRUNCATE of {}", tables.join(", "))]
    Truncated {
        /// The tables.
        tables: Vec<String>,
    },
    /// A row changed its tenant.
    #[error("a row of {table} changed its tenant")]
    TenantChanged {
        /// The table.
        table: String,
    },
    /// A table is not what it was, or not what the destination has.
    #[error("table {table} was altered: {reason}")]
    SchemaChanged {
        /// The table.
        table: String,
        /// What differs.
        reason: String,
    },
    /// Changes of a table cannot be followed, because nothing that travels names its rows.
    #[error("rows of {table} have no key that is published")]
    Key {
        /// The table.
        table: String,
    },
    /// A new row came without a value of it.
    #[error("a row that came to {table} from elsewhere lacks values")]
    Incomplete {
        /// The table.
        table: String,
    },
    /// A change contradicts an earlier one of the same row.
    #[error("a change of row {key} of {table} contradicts the one before")]
    Contradiction {
        /// The table.
        table: String,
        /// The row.
        key: String,
    },
    /// The destination does not have exactly the rows that were changed on the source.
    #[error("{command} of {expected} rows of {table} met {affected}; the first key is {key}")]
    RowCount {
        /// The table.
        table: String,
        /// The command.
        command: &'static str,
        /// Rows that the source changed.
        expected: u64,
        /// Rows that the destination changed.
        affected: u64,
        /// The key of the first.
        key: String,
    },
    /// The destination refuses rows that the source has.
    #[error("the destination refuses {command} on {table}")]
    Conflict {
        /// The table.
        table: String,
        /// The command.
        command: &'static str,
        /// What it said.
        #[source]
        source: LinkError,
    },
    /// Rows changed on a shard that had fenced the tenant.
    #[error("a row of {table} changed behind the fence")]
    BehindFence {
        /// The table.
        table: String,
    },
    /// Somebody else has stored progress of this stream: most often an earlier session of this applier, whose last commit
    /// came through after all. Or the tenant does not stand on the destination for this move any more.
    #[error("progress from {expected} on is not this applier's to store")]
    Overtaken {
        /// Where this one was.
        expected: Lsn,
    },
    /// A transaction that is kept until it commits could not be written to a file, or read from it.
    #[error("cannot keep a transaction that still runs")]
    Spool(#[source] io::Error),
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The same again, after a pause.
    Retry,
    /// Again, each change by itself in the order of the source: folding may be to blame.
    InOrder,
    /// Nothing that an applier could do.
    Fatal,
}

impl ApplyError {
    pub(super) fn consequence(&self) -> Consequence {
        match self {
            Self::Source(error) | Self::Destination(error) if error.is_transient() => {
                Consequence::Retry
            }
            Self::Overtaken { .. } => Consequence::Retry,
            Self::RowCount { .. } | Self::Conflict { .. } | Self::Contradiction { .. } => {
                Consequence::InOrder
            }
            _ => Consequence::Fatal,
        }
    }

    /// What the source's refusal to stream from a slot means.
    pub(super) fn of_start(slot: &str, error: LinkError) -> Self {
        let slot = slot.to_owned();
        match error.code() {
            Some("42704") => Self::SlotMissing { slot },
            Some("55000") => Self::SlotLost {
                slot,
                source: error,
            },
            _ => Self::Source(error),
        }
    }
}
