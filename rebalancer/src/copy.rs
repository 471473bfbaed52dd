//! Copies a tenant's rows from a snapshot of the source to the destination.
//!
//! COPY out of one server is piped into COPY in of the other, in chunks of the key's order. A chunk's rows and its row in
//! `tenantry.move_chunk` are one transaction at the destination, and nothing else is in it: after a crash the ledger says
//! exactly which rows are there. Chunks are cut by one session and copied by several, so that a single large table keeps
//! all of them busy.
//!
//! # After a crash
//! The snapshot is gone. Take a new one (of a temporary slot), let the applier bring the rows that are there exactly to its
//! position, then [`Copier::open`] with it: rows behind the last chunk of each table, which the applier may have
//! inserted, are deleted, and the remaining chunks are copied. That holds as long as no update moved a row's key across the
//! end of what is there; the applier must then give up, and the copy begins anew.

mod estimate;
mod ledger;
mod pieces;
mod progress;
mod worker;

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clean::{CleanError, Standing, Warrant, delete_behind};
use crate::shard::{ConnectError, ShardEndpoint, Snapshot, connect, connect_as_replica};
use crate::tables::{TenantTable, TenantTables};
use crate::throttle::Throttle;

pub use estimate::{TableEstimate, estimate};
pub use progress::{CopyProgress, TableProgress};

use ledger::Ledger;
use pieces::Cutter;
use worker::Worker;

/// What is to be copied, and how.
#[derive(Debug, Clone)]
pub struct CopyJob {
    /// Where the rows are.
    pub source: ShardEndpoint,
    /// Where they go.
    pub destination: ShardEndpoint,
    /// The tables, as read from the source; the destination has the same.
    pub tables: TenantTables,
    /// The tenant's id, as text.
    pub tenant: String,
    /// The move, which the destination imports the tenant for.
    pub move_id: Uuid,
    /// An exported snapshot of the source.
    pub snapshot: String,
    /// The snapshot's position in the source's log.
    pub snapshot_lsn: PgLsn,
    /// Shared with whoever else works for the move.
    pub throttle: Arc<Throttle>,
    /// Sizes.
    pub options: CopyOptions,
}

/// Sizes of a copy.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Sessions that copy at the same time, a pair each.
    pub workers: usize,
    /// Bytes that a chunk should have. What is lost by a crash, and what a destination's transaction writes.
    pub chunk_bytes: u64,
    /// Rows that a chunk may have.
    pub chunk_rows_max: u64,
}

impl Default for CopyOptions {
    /// Two workers, chunks of 16 MB and at most 100,000 rows.
    fn default() -> Self {
        Self {
            workers: 2,
            chunk_bytes: 16 << 20,
            chunk_rows_max: 100_000,
        }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyReport {
    /// Rows of the tenant that the ledger has, those of earlier attempts included.
    pub rows: u64,
    /// Bytes, in the format they travelled in.
    pub bytes: u64,
    /// Rows that were deleted at the destination before the copy.
    pub deleted: u64,
}

/// Why a copy stopped. What was copied is in the ledger.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A table cannot be copied in pieces that can be named.
    #[error("table {table} has no key that contains the tenant column")]
    NoKey {
        /// The table.
        table: String,
    },
    /// The source failed.
    #[error("cannot read {table} at the source")]
    Source {
        /// The table.
        table: String,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The destination failed.
    #[error("cannot write {table} at the destination")]
    Destination {
        /// The table.
        table: String,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The source sent another number of rows than the destination took.
    #[error("{table}: the source sent {sent} rows, the destination took {taken}")]
    Short {
        /// The table.
        table: String,
        /// Rows sent.
        sent: u64,
        /// Rows taken.
        taken: u64,
    },
    /// The destination does not import the tenant for this move: this copy has been overtaken.
    #[error("the destination does not import tenant {tenant} for move {move_id}")]
    NotImporting {
        /// The tenant.
        tenant: String,
        /// The move.
        move_id: Uuid,
    },
    /// Rows behind the last chunk could not be removed.
    #[error("cannot prepare the destination")]
    Clean(#[from] CleanError),
    /// The ledger could not be read.
    #[error("cannot read the ledger of the copy")]
    Ledger(#[source] tokio_postgres::Error),
    /// The copy was cancelled.
    #[error("the copy was cancelled")]
    Cancelled,
}

/// A copy whose sessions are open: the exporting session of the snapshot is not needed any more.
pub struct Copier {
    job: Arc<CopyJob>,
    cutter: Cutter,
    workers: Vec<Worker>,
    progress: Arc<watch::Sender<CopyProgress>>,
    deleted: u64,
}

impl Copier {
    /// Imports the snapshot into the sessions that will read, and removes at the destination what no chunk has.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn open(job: CopyJob) -> Result<Self, CopyError> {
        if let Some(table) = job.tables.tables.iter().find(|table| table.key.is_empty()) {
            return Err(CopyError::NoKey {
                table: table.relation(),
            });
        }
        let job = Arc::new(job);
        let cutting = Snapshot::session(&job.source, &job.snapshot).await?;
        let opened = (0..job.options.workers.max(1)).map(|_| open_worker(&job));
        let sessions = try_join_all(opened).await?;

        let mut preparing = connect_as_replica(&job.destination).await?;
        let ledger = Ledger::read(&preparing, job.move_id)
            .await
            .map_err(CopyError::Ledger)?;
        let deleted = cut_off(&job, &mut preparing, &ledger).await?;
        let estimates = estimate(&cutting, &job.tables, &job.tenant).await;
        let estimates = estimates.map_err(|source| CopyError::Source {
            table: "the tenant's tables".to_owned(),
            source,
        })?;
        let (progress, _) = watch::channel(CopyProgress::begin(&job.tables, &estimates, &ledger));
        let progress = Arc::new(progress);
        let cutter = Cutter::new(Arc::clone(&job), cutting, &estimates, &ledger);
        let workers = sessions
            .into_iter()
            .map(|(source, destination)| {
                Worker::new(Arc::clone(&job), source, destination, Arc::clone(&progress))
            })
            .collect();
        Ok(Self {
            job,
            cutter,
            workers,
            progress,
            deleted,
        })
    }

    /// How far it is; changes with every piece that was sent.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<CopyProgress> {
        self.progress.subscribe()
    }

    /// Copies what is left. Cancelling ends the sessions; what they had not committed is not there.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn run(self, cancel: &CancellationToken) -> Result<CopyReport, CopyError> {
        let Self {
            job,
            cutter,
            workers,
            progress,
            deleted,
        } = self;
        let started = Instant::now();
        let (asking, questions) = tokio::sync::mpsc::channel(workers.len());
        let cutting = cutter.serve(questions);
        let copying = try_join_all(workers.into_iter().map(|worker| worker.run(asking.clone())));
        drop(asking);
        let both = async { tokio::try_join!(cutting, copying).map(|_| ()) };
        cancel
            .run_until_cancelled(both)
            .await
            .ok_or(CopyError::Cancelled)??;
        let report = {
            let progress = progress.borrow();
            CopyReport {
                rows: progress.rows(),
                bytes: progress.bytes(),
                deleted,
            }
        };
        tracing::info!(
            move_id = %job.move_id,
            rows = report.rows,
            bytes = report.bytes,
            seconds = started.elapsed().as_secs_f64(),
            "the tenant's rows are copied"
        );
        Ok(report)
    }
}

async fn open_worker(job: &CopyJob) -> Result<(Client, Client), ConnectError> {
    let source = Snapshot::session(&job.source, &job.snapshot).await?;
    let destination = connect_as_replica(&job.destination).await?;
    Ok((source, destination))
}

/// Deletes what is behind the last chunk of each table that is not complete, and says how many rows that were.
async fn cut_off(job: &CopyJob, client: &mut Client, ledger: &Ledger) -> Result<u64, CopyError> {
    let warrant = Warrant {
        tenant: job.tenant.clone(),
        move_id: job.move_id,
        standing: Standing::Importing,
    };
    let (progress, _) = watch::channel(0);
    let mut deleted = 0;
    for table in &job.tables.tables {
        let entry = ledger.entry(table);
        if entry.complete {
            continue;
        }
        deleted += delete_behind(
            client,
            table,
            entry.upper,
            &warrant,
            &job.throttle,
            &progress,
        )
        .await?;
        ledger::forget_from(client, job.move_id, table, entry.chunks)
            .await
            .map_err(CopyError::Ledger)?;
    }
    Ok(deleted)
}

/// Refreshes the destination's statistics of these tables: without them an update by key may read a whole table.
///
/// # Errors
/// A statement failed.
pub async fn analyze(
    endpoint: &ShardEndpoint,
    tables: &[Arc<TenantTable>],
) -> Result<(), CopyError> {
    let client = connect(endpoint).await?;
    for table in tables {
        let analyze = format!("ANALYZE {}", table.relation());
        client
            .batch_execute(&analyze)
            .await
            .map_err(|source| CopyError::Destination {
                table: table.relation(),
                source,
            })?;
    }
    Ok(())
}

/// Forgets the chunks of a move, before its copy begins anew from nothing.
///
/// # Errors
/// A statement failed.
pub async fn forget(client: &Client, move_id: Uuid) -> Result<(), CopyError> {
    client
        .execute(
            "DELETE FROM tenantry.move_chunk WHERE move_id = $1",
            &[&move_id],
        )
        .await
        .map(drop)
        .map_err(CopyError::Ledger)
}
