//! Deletes a tenant's rows from a shard that does not serve the tenant: after a move, after a move that was given up,
//! and before a copy.
//!
//! Every batch looks at the owner row in its own transaction and holds it until its end: a process that was told to
//! delete, slept, and wakes when the tenant lives here again deletes nothing.

use std::time::Duration;

use tenantry_wire::sql::quote_literal;
use tokio::sync::watch;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use crate::shard::{ConnectError, ShardEndpoint, connect, connect_as_replica};
use crate::tables::{Key, KeyRange, TenantTable, TenantTables};
use crate::throttle::Throttle;

/// Rows of a batch. A batch takes about 20 ms and is one transaction.
const BATCH_ROWS: u64 = 5_000;
/// What a deleted row counts before the throttle: its bytes are not known, the work is that of a small row.
const ROW_BYTES: u64 = 256;
/// VACUUM pauses after each so much of work.
const VACUUM_DELAY: Duration = Duration::from_millis(2);

/// What the owner row must say for rows to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The tenant is being imported by the move.
    Importing,
    /// The tenant was handed over by the move.
    Moved,
}

impl Standing {
    /// The state in `tenantry.owner`.
    #[must_use]
    pub fn state(self) -> &'static str {
        match self {
            Self::Importing => "importing",
            Self::Moved => "moved",
        }
    }
}

/// Whose rows, and why they may be deleted.
#[derive(Debug, Clone)]
pub struct Warrant {
    /// The tenant's id, as text.
    pub tenant: String,
    /// The move that the owner row must name.
    pub move_id: Uuid,
    /// The state that the owner row must have.
    pub standing: Standing,
}

/// Why a deletion stopped. What was deleted so far is gone; it may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The owner row does not say what it must: nothing may be deleted.
    #[error("tenant {tenant} is not {} by move {move_id} on this shard", standing.state())]
    NoWarrant {
        /// The tenant.
        tenant: String,
        /// The move.
        move_id: Uuid,
        /// What was expected.
        standing: Standing,
    },
    /// A statement failed.
    #[error("cannot delete from {table}")]
    Sql {
        /// The table.
        table: String,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Deletes all rows of a tenant, in batches by key, and says how many there were. `progress` is told the number so far.
///
/// # Errors
/// [`CleanError`].
pub async fn delete_tenant(
    endpoint: &ShardEndpoint,
    tables: &TenantTables,
    warrant: &Warrant,
    throttle: &Throttle,
    progress: &watch::Sender<u64>,
) -> Result<u64, CleanError> {
    let mut client = connect_as_replica(endpoint).await?;
    let mut total = 0;
    for table in &tables.tables {
        total += delete_behind(&mut client, table, None, warrant, throttle, progress).await?;
    }
    Ok(total)
}

/// Deletes a tenant's rows of one table whose key is larger than `after`, over a session of
/// [`connect_as_replica`].
pub(crate) async fn delete_behind(
    client: &mut Client,
    table: &TenantTable,
    mut after: Option<Key>,
    warrant: &Warrant,
    throttle: &Throttle,
    progress: &watch::Sender<u64>,
) -> Result<u64, CleanError> {
    let mut total = 0;
    loop {
        let (rows, upto) = delete_batch(client, table, after, warrant).await?;
        total += rows;
        progress.send_modify(|deleted| *deleted += rows);
        throttle.take(rows * ROW_BYTES).await;
        match upto {
            // Behind the last key: the entries that this pass left in the index are not walked again.
            Some(key) => after = Some(key),
            None => return Ok(total),
        }
    }
}

/// Deletes the next rows behind a key. Returns the key of the last, if there may be more.
async fn delete_batch(
    client: &mut Client,
    table: &TenantTable,
    after: Option<Key>,
    warrant: &Warrant,
) -> Result<(u64, Option<Key>), CleanError> {
    let failed = |source| CleanError::Sql {
        table: table.relation(),
        source,
    };
    let transaction = client.transaction().await.map_err(failed)?;
    check_warrant(&transaction, warrant)
        .await
        .map_err(failed)?
        .then_some(())
        .ok_or_else(|| CleanError::NoWarrant {
            tenant: warrant.tenant.clone(),
            move_id: warrant.move_id,
            standing: warrant.standing,
        })?;
    let mut range = KeyRange::behind(after);
    if table.has_inner_key() {
        let last = table.nth_key(&warrant.tenant, &range, BATCH_ROWS);
        range.upto = transaction
            .query_opt(&last, &[])
            .await
            .map_err(failed)?
            .map(|row| row.get(0));
    }
    let delete = format!(
        "DELETE FROM {} WHERE {}",
        table.relation(),
        table.within(&warrant.tenant, &range)
    );
    let rows = transaction.execute(&delete, &[]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok((rows, range.upto))
}

/// Whether the owner row is as the warrant says, and stays so until the transaction ends.
async fn check_warrant(
    transaction: &Transaction<'_>,
    warrant: &Warrant,
) -> Result<bool, tokio_postgres::Error> {
    let select = format!(
        "SELECT FROM tenantry.owner WHERE tenant_id = {} AND state = $1 AND move_id = $2 FOR SHARE",
        quote_literal(&warrant.tenant)
    );
    let found = transaction
        .query_opt(&select, &[&warrant.standing.state(), &warrant.move_id])
        .await?;
    Ok(found.is_some())
}

/// Lets the server reuse the space of deleted rows. Never returns it to the file system, because that would lock the
/// tables against their other tenants.
///
/// # Errors
/// [`CleanError`].
pub async fn vacuum(endpoint: &ShardEndpoint, tables: &TenantTables) -> Result<(), CleanError> {
    let client = connect(endpoint).await?;
    let slow = format!("SET vacuum_cost_delay = '{}ms'", VACUUM_DELAY.as_millis());
    for table in &tables.tables {
        let failed = |source| CleanError::Sql {
            table: table.relation(),
            source,
        };
        client.batch_execute(&slow).await.map_err(failed)?;
        // Skips what autovacuum is at already: it does the same.
        let vacuum = format!(
            "VACUUM (TRUNCATE false, SKIP_LOCKED true) {}",
            table.relation()
        );
        client.batch_execute(&vacuum).await.map_err(failed)?;
    }
    Ok(())
}
