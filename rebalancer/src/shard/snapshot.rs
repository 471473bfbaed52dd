//! Snapshots that several sessions share.

use tokio_postgres::Client;

use super::{BY_KEY, ConnectError, ShardEndpoint, connect};

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A moment of a shard that any number of sessions can look at while this lives. It holds back VACUUM on the whole
/// shard: keep it no longer than needed.
#[derive(Debug)]
pub struct Snapshot {
    id: String,
    // The exporting transaction; its end is the snapshot's.
    _holder: Client,
}

impl Snapshot {
    /// Takes a snapshot of the shard as it is now.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn export(endpoint: &ShardEndpoint) -> Result<Self, ConnectError> {
        let holder = connect(endpoint).await?;
        let step = |source| ConnectError::Settings {
            shard: endpoint.name.clone(),
            source,
        };
        holder.batch_execute(BEGIN).await.map_err(step)?;
        let row = holder
            .query_one("SELECT pg_export_snapshot()", &[])
            .await
            .map_err(step)?;
        Ok(Self {
            id: row.get(0),
            _holder: holder,
        })
    }

    /// Its name, for [`Snapshot::session`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A session in a read-only transaction that sees an exported snapshot: one of [`Snapshot::export`], or that of a
    /// replication slot. The exporting session must be alive when this is called, and need not be afterwards.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn session(endpoint: &ShardEndpoint, id: &str) -> Result<Client, ConnectError> {
        let client = connect(endpoint).await?;
        let import = format!(
            "{BEGIN}; SET TRANSACTION SNAPSHOT {}; {BY_KEY}",
            tenantry_wire::sql::quote_literal(id)
        );
        client
            .batch_execute(&import)
            .await
            .map_err(|source| ConnectError::Settings {
                shard: endpoint.name.clone(),
                source,
            })?;
        Ok(client)
    }
}
