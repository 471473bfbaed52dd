//! Applies one tenant's changes from one shard to another, while both are in use.
//!
//! An applier owns a walsender on one shard and a session on the other. It applies whole transactions of the source, many in
//! one transaction of the destination, and stores with them how far it is, so that a crash of anything neither loses a
//! change nor repeats one. Updates and deletes must meet exactly the rows that were changed on the source. What it cannot
//! follow (TRUNCATE, DDL, a row that changes its tenant) ends it with a reason.
//!
//! It knows nothing of the states of a move. It stops at the fence marker of its move by itself, because nothing of the
//! tenant can come behind it until the fence is lifted, and it tells how far it is; whoever conducts the move decides.

mod batch;
mod error;
mod handle;
mod intake;
mod marker;
mod row;
mod session;
mod spool;
mod sql;
mod status;
mod target;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use tenantry_wire::replication::Lsn;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::shard::ShardEndpoint;
use crate::tables::TenantTable;
use marker::Identity;
use target::Targets;
use worker::Worker;

pub use error::ApplyError;
pub use handle::{ApplierEnded, ApplierHandle, HaltError, HaltGuard, ProbeError, ProbeTimes};
pub use status::{ApplyPhase, ApplyStatus};

/// Which of a move's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the source to the destination of the move.
    Forward,
    /// Back, from the moment at which the tenant became active at the destination. Everything before that came from here.
    Reverse,
}

impl Direction {
    /// As `tenantry.move_progress` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// What an applier needs to know.
#[derive(Debug, Clone)]
pub struct ApplierConfig {
    /// The move.
    pub move_id: Uuid,
    /// Which of its streams.
    pub direction: Direction,
    /// The tenant's id as text, as both shards write it.
    pub tenant: String,
    /// Where changes come from; for the reverse stream the move's destination.
    pub source: ShardEndpoint,
    /// Where they go.
    pub destination: ShardEndpoint,
    /// The slot on the source.
    pub slot: String,
    /// The publication on the source.
    pub publication: String,
    /// The tenant's tables as the shard that is written to has them.
    pub tables: Vec<Arc<TenantTable>>,
    /// Where the stream begins if nothing was applied yet: the position of the snapshot that was copied. The reverse stream
    /// begins where its slot does ([`Lsn::INVALID`]).
    pub from: Lsn,
    /// The destination has only some of the rows, because a copy was interrupted: an update or delete may then meet no row.
    /// One that changes a key must meet one even so, since it may lead a row into what is there; if it does not, the copy
    /// begins anew. For the way to the position of the snapshot that the rest is copied from, and no further.
    pub is_partial: bool,
    /// Directory for transactions that are too large to be kept in memory until they commit.
    pub spill_dir: PathBuf,
    /// Bytes of such transactions that stay in memory.
    pub memory_bytes: u64,
}

/// Starts an applier on a task of the current runtime. Connections that are lost are opened again, for as long as it takes.
///
/// # Errors
/// The tables cannot be written to.
pub fn start(config: ApplierConfig) -> Result<ApplierHandle, ApplyError> {
    let targets = Arc::new(Targets::new(&config.tables, &config.tenant)?);
    let who = Identity {
        move_id: config.move_id,
        direction: config.direction.as_str(),
    };
    let (status, watched) = watch::channel(ApplyStatus::new(config.from));
    let (halts, halts_received) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let worker = Worker::new(
        config,
        targets,
        who.clone(),
        status,
        halts_received,
        stop.clone(),
    );
    let task = tokio::spawn(worker.run());
    Ok(ApplierHandle::new(watched, halts, task, stop, who))
}
