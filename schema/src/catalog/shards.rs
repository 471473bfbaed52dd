//! Shards: adding one changes the ring, and changes where nobody lives.

use tokio_postgres::{GenericClient, Row};

use super::ring::{RingEdit, change_ring, lock_ring};
use super::{Catalog, CatalogError};
use crate::shard::{Shard, ShardAddress, ShardId, ShardKind, ShardName, ShardState};

/// A shard to add.
#[derive(Debug, Clone)]
pub struct NewShard {
    /// The number; `None`: the next one that was never used.
    pub id: Option<ShardId>,
    /// The name.
    pub name: ShardName,
    /// What it is for.
    pub kind: ShardKind,
    /// Its share of new tenants; only shared shards have one.
    pub weight: u32,
    /// The primary.
    pub address: ShardAddress,
    /// Hot standbys.
    pub replicas: Vec<ShardAddress>,
    /// Failure domain.
    pub zone: Option<String>,
}

impl NewShard {
    /// A shared shard of weight 1 at this address.
    pub fn new(name: ShardName, address: ShardAddress) -> Self {
        Self {
            id: None,
            name,
            kind: ShardKind::Shared,
            weight: 1,
            address,
            replicas: Vec::new(),
            zone: None,
        }
    }
}

/// What adding a shard or changing its state did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedShard {
    /// The shard as it is now.
    pub shard: Shard,
    /// How many tenants were pinned to where they live, because the ring's answer for them changed.
    pub pinned: u64,
}

const COLUMNS: &str = "id, name, kind, state, weight, host, port, database, replicas, zone";

impl Catalog {
    /// Adds a shard, in one transaction with the ring change and the pins it needs. Waits at most 10 s for running
    /// tenant creations, then fails with [`CatalogError::Busy`].
    pub async fn add_shard(&self, new: NewShard) -> Result<AddedShard, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        lock_ring(&transaction).await?;
        let insert = format!(
            "INSERT INTO tenantry.shard (id, name, kind, weight, host, port, database, replicas, zone) \
             VALUES (coalesce($1, tenantry.next_shard_id()), $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {COLUMNS}"
        );
        let replicas = serde_json::to_value(&new.replicas).unwrap_or_default();
        let weight = i32::try_from(new.weight).unwrap_or(i32::MAX);
        let ShardAddress {
            host,
            port,
            database,
        } = &new.address;
        let row = transaction
            .query_one(
                &insert,
                &[
                    &new.id,
                    &new.name.as_str(),
                    &new.kind.as_str(),
                    &weight,
                    host,
                    &i32::from(*port),
                    database,
                    &replicas,
                    &new.zone,
                ],
            )
            .await?;
        let shard = shard_of(&row)?;
        let mut pinned = 0;
        if shard.takes_new_tenants() {
            pinned = change_ring(&transaction, key, RingEdit::Set(shard.id, shard.weight)).await?;
        }
        transaction.commit().await?;
        Ok(AddedShard { shard, pinned })
    }

    /// Sets a shard's state. A shared shard is on the ring while it is active: leaving and returning pin tenants as
    /// adding does, so nobody is looked for elsewhere.
    pub async fn set_shard_state(
        &self,
        id: ShardId,
        state: ShardState,
    ) -> Result<AddedShard, CatalogError> {
        let update =
            format!("UPDATE tenantry.shard SET state = $2 WHERE id = $1 RETURNING {COLUMNS}");
        self.update_shard(id, &update, &state.as_str()).await
    }

    /// Sets a shard's weight, with the same care.
    pub async fn set_shard_weight(
        &self,
        id: ShardId,
        weight: u32,
    ) -> Result<AddedShard, CatalogError> {
        let update =
            format!("UPDATE tenantry.shard SET weight = $2 WHERE id = $1 RETURNING {COLUMNS}");
        self.update_shard(id, &update, &i32::try_from(weight).unwrap_or(i32::MAX))
            .await
    }

    async fn update_shard(
        &self,
        id: ShardId,
        update: &str,
        value: &(dyn tokio_postgres::types::ToSql + Sync),
    ) -> Result<AddedShard, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        lock_ring(&transaction).await?;
        let row = transaction.query_opt(update, &[&id, value]).await?;
        let shard =
            shard_of(&row.ok_or_else(|| CatalogError::not_found("shard", id.to_string()))?)?;
        let weight = if shard.takes_new_tenants() {
            shard.weight
        } else {
            0
        };
        let pinned = change_ring(&transaction, key, RingEdit::Set(id, weight)).await?;
        transaction.commit().await?;
        Ok(AddedShard { shard, pinned })
    }

    /// Removes a shard of which nothing is left but history. The catalog refuses while it is on the ring, while tenants
    /// are pinned to it, and while moves from or to it are not over; what is left in its database is not looked at.
    pub async fn remove_shard(&self, id: ShardId) -> Result<Shard, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // No tenant may be placed there meanwhile, and no ring change may bring it back.
        lock_ring(&transaction).await?;
        let delete = format!("DELETE FROM tenantry.shard WHERE id = $1 RETURNING {COLUMNS}");
        let row = transaction.query_opt(&delete, &[&id]).await?;
        let removed =
            shard_of(&row.ok_or_else(|| CatalogError::not_found("shard", id.to_string()))?)?;
        transaction.commit().await?;
        Ok(removed)
    }

    /// Sets where a shard's primary answers, after a failover or a change of port.
    pub async fn set_shard_address(
        &self,
        id: ShardId,
        address: &ShardAddress,
    ) -> Result<Shard, CatalogError> {
        let update = format!(
            "UPDATE tenantry.shard SET host = $2, port = $3, database = $4 WHERE id = $1 RETURNING {COLUMNS}"
        );
        let client = self.client().await?;
        let port = i32::from(address.port);
        let row = client
            .query_opt(&update, &[&id, &address.host, &port, &address.database])
            .await?;
        shard_of(&row.ok_or_else(|| CatalogError::not_found("shard", id.to_string()))?)
    }

    /// All shards by number.
    pub async fn list_shards(&self) -> Result<Vec<Shard>, CatalogError> {
        let client = self.client().await?;
        shards(&*client).await
    }

    /// The shard of this name or number.
    pub async fn shard(&self, name: &str) -> Result<Shard, CatalogError> {
        let client = self.client().await?;
        let select =
            format!("SELECT {COLUMNS} FROM tenantry.shard WHERE name = $1 OR id::text = $1");
        let row = client.query_opt(&select, &[&name]).await?;
        shard_of(&row.ok_or_else(|| CatalogError::not_found("shard", name))?)
    }
}

pub(super) async fn shards(client: &impl GenericClient) -> Result<Vec<Shard>, CatalogError> {
    let rows = client
        .query(
            &format!("SELECT {COLUMNS} FROM tenantry.shard ORDER BY id"),
            &[],
        )
        .await?;
    rows.iter().map(shard_of).collect()
}

fn shard_of(row: &Row) -> Result<Shard, CatalogError> {
    let text: &str = row.get("name");
    let wrong = |cause: &dyn std::fmt::Display| CatalogError::row("shard", text, cause);
    let (kind, state): (&str, &str) = (row.get("kind"), row.get("state"));
    let (weight, port): (i32, i32) = (row.get("weight"), row.get("port"));
    Ok(Shard {
        id: row.get("id"),
        name: text.parse().map_err(|cause| wrong(&cause))?,
        kind: kind.parse().map_err(|cause| wrong(&cause))?,
        state: state.parse().map_err(|cause| wrong(&cause))?,
        weight: weight.unsigned_abs(),
        address: ShardAddress {
            host: row.get("host"),
            port: u16::try_from(port).map_err(|cause| wrong(&cause))?,
            database: row.get("database"),
        },
        replicas: serde_json::from_value(row.get("replicas")).map_err(|cause| wrong(&cause))?,
        zone: row.get("zone"),
    })
}
