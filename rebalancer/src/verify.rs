//! Compares a tenant's rows on two shards, in two snapshots.
//!
//! Tables are compared in chunks of the key's order: the number of rows, and sums of two independent 64-bit hashes over
//! each row's text. Sums do not depend on the order in which rows are read, and two of them that agree by chance are not
//! to be expected in the life of a fleet. Where a chunk differs it is cut in halves until the rows that differ can be named.
//! Text is what PostgreSQL prints with pinned settings: 1.0 and 1.00 differ, as they must.
//!
//! Nobody waits for this: both sides read snapshots.

mod chunk;
mod difference;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::shard::{ConnectError, ShardEndpoint, Snapshot};
use crate::tables::{KeyRange, TenantTable, TenantTables};
use crate::throttle::Throttle;

pub use chunk::RowHash;
pub use difference::{Difference, Mismatch};

use chunk::{Digest, digest};

/// Rows of a chunk.
const CHUNK_ROWS: u64 = 20_000;
/// Rows that differ and are named; more are counted.
const NAMED_MAX: usize = 20;

/// One side of a comparison.
#[derive(Debug, Clone)]
pub struct Side {
    /// The shard.
    pub endpoint: ShardEndpoint,
    /// An exported snapshot of it.
    pub snapshot: String,
}

/// What was compared, and what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Rows of the source that were compared.
    pub rows: u64,
    /// Chunks.
    pub chunks: u64,
    /// Rows that differ, the first of them.
    pub mismatches: Vec<Mismatch>,
    /// Rows that differ, all of them.
    pub mismatched_rows: u64,
}

impl VerifyReport {
    /// Whether both sides have the same rows.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.mismatched_rows == 0
    }
}

/// Why a comparison came to no result. That the sides differ is a result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("cannot read {table} of shard {shard}")]
    Sql {
        /// The shard.
        shard: String,
        /// The table.
        table: String,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The comparison was cancelled.
    #[error("the comparison was cancelled")]
    Cancelled,
}

/// A comparison whose sessions are open: the sessions that exported the snapshots are not needed any more.
pub struct Comparison {
    source: Reader,
    destination: Reader,
    tables: TenantTables,
    tenant: String,
    hash: RowHash,
    throttle: Arc<Throttle>,
    progress: watch::Sender<u64>,
}

/// A session with one side.
struct Reader {
    shard: String,
    session: Client,
}

impl Comparison {
    /// Imports both snapshots. The tables are those of the source; the destination has the same.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn open(
        source: &Side,
        destination: &Side,
        tables: TenantTables,
        tenant: &str,
        throttle: Arc<Throttle>,
    ) -> Result<Self, VerifyError> {
        let (source, destination) =
            tokio::try_join!(Reader::open(source), Reader::open(destination))?;
        let hash = RowHash::for_servers(
            source.server_version().await?,
            destination.server_version().await?,
        );
        let (progress, _) = watch::channel(0);
        Ok(Self {
            source,
            destination,
            tables,
            tenant: tenant.to_owned(),
            hash,
            throttle,
            progress,
        })
    }

    /// Rows compared so far.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Compares everything.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn run(self, cancel: &CancellationToken) -> Result<VerifyReport, VerifyError> {
        let started = Instant::now();
        let mut report = VerifyReport::default();
        let tables: Vec<Arc<TenantTable>> = self.tables.tables.clone();
        for table in &tables {
            cancel
                .run_until_cancelled(self.table(table, &mut report))
                .await
                .ok_or(VerifyError::Cancelled)??;
        }
        tracing::info!(
            tenant = self.tenant,
            rows = report.rows,
            mismatched = report.mismatched_rows,
            seconds = started.elapsed().as_secs_f64(),
            "the tenant's rows are compared"
        );
        Ok(report)
    }

    async fn table(
        &self,
        table: &TenantTable,
        report: &mut VerifyReport,
    ) -> Result<(), VerifyError> {
        let mut range = KeyRange::ALL;
        let mut upto = self.end(table, &range).await?;
        loop {
            range.upto = upto;
            // The end of the next chunk is looked for while this one is read.
            let next = KeyRange::behind(range.upto.clone());
            let more = async {
                match next.after {
                    Some(_) => self.end(table, &next).await,
                    None => Ok(None),
                }
            };
            let (ours, theirs, end) = tokio::try_join!(
                self.source.digest(table, &self.tenant, &range, self.hash),
                self.destination
                    .digest(table, &self.tenant, &range, self.hash),
                more,
            )?;
            report.rows += ours.rows;
            report.chunks += 1;
            if ours != theirs {
                self.bisect(table, range.clone(), ours.rows.max(theirs.rows), report)
                    .await?;
            }
            self.progress.send_modify(|rows| *rows += ours.rows);
            self.throttle.take(ours.bytes).await;
            if next.after.is_none() {
                return Ok(());
            }
            (range, upto) = (next, end);
        }
    }

    /// The key of a chunk's last row at the source; none if the chunk has no end.
    async fn end(
        &self,
        table: &TenantTable,
        range: &KeyRange,
    ) -> Result<Option<Vec<String>>, VerifyError> {
        if !table.has_inner_key() {
            return Ok(None);
        }
        self.source
            .nth_key(table, &self.tenant, range, CHUNK_ROWS)
            .await
    }
}

impl Reader {
    async fn open(side: &Side) -> Result<Self, VerifyError> {
        Ok(Self {
            shard: side.endpoint.name.to_string(),
            session: Snapshot::session(&side.endpoint, &side.snapshot).await?,
        })
    }

    async fn server_version(&self) -> Result<i32, VerifyError> {
        let select = "SELECT current_setting('server_version_num')::integer";
        let row = self.session.query_one(select, &[]).await;
        Ok(row
            .map_err(|source| self.failed("the version", source))?
            .get(0))
    }

    async fn digest(
        &self,
        table: &TenantTable,
        tenant: &str,
        range: &KeyRange,
        hash: RowHash,
    ) -> Result<Digest, VerifyError> {
        digest(&self.session, table, tenant, range, hash)
            .await
            .map_err(|source| self.failed(&table.relation(), source))
    }

    async fn nth_key(
        &self,
        table: &TenantTable,
        tenant: &str,
        range: &KeyRange,
        rows: u64,
    ) -> Result<Option<Vec<String>>, VerifyError> {
        let select = table.nth_key(tenant, range, rows);
        let row = self.session.query_opt(&select, &[]).await;
        Ok(row
            .map_err(|source| self.failed(&table.relation(), source))?
            .map(|row| row.get(0)))
    }

    fn failed(&self, table: &str, source: tokio_postgres::Error) -> VerifyError {
        VerifyError::Sql {
            shard: self.shard.clone(),
            table: table.to_owned(),
            source,
        }
    }
}
