//! Ring changes: nobody's rows move, so every tenant whose answer changes is pinned to where it lives.
//!
//! One transaction: it locks the ring's version, which tenant creation shares, so that no tenant is placed by the old
//! ring while the pins are computed; it reads the tenants that have no pin, asks both rings, writes the pins, then
//! the membership. Epochs stay, because nobody moves. Followers see one bulk change and the ring together.

use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Transaction};

use super::copy::CopyRows;
use super::{Catalog, CatalogError};
use crate::ring::Ring;
use crate::shard::ShardId;
use crate::tenant::TenantKey;

/// One change of membership.
#[derive(Debug, Clone, Copy)]
pub(super) enum RingEdit {
    /// The shard is on the ring with this weight; 0 takes it off.
    Set(ShardId, u32),
}

impl Catalog {
    /// The ring as it is.
    pub async fn ring(&self) -> Result<Ring, CatalogError> {
        let client = self.client().await?;
        ring(&*client).await
    }
}

pub(super) async fn ring(client: &impl GenericClient) -> Result<Ring, CatalogError> {
    let rows = client
        .query(
            "SELECT shard, weight FROM tenantry.ring_member ORDER BY shard",
            &[],
        )
        .await?;
    Ok(Ring::new(rows.iter().map(|row| {
        (row.get(0), row.get::<_, i32>(1).unsigned_abs())
    })))
}

/// Waits, for a bounded time, until no tenant is being created, and keeps it so until the transaction ends.
pub(super) async fn lock_ring(transaction: &Transaction<'_>) -> Result<(), CatalogError> {
    transaction
        .batch_execute("SET LOCAL lock_timeout = '10s'")
        .await?;
    let lock = "SELECT version FROM tenantry.ring FOR UPDATE";
    match transaction.execute(lock, &[]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            let why =
                "a transaction that creates tenants or changes the ring has been open for 10 s";
            Err(CatalogError::Busy(why.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Changes the ring under [`lock_ring`] and pins who would otherwise be looked for elsewhere; answers how many.
pub(super) async fn change_ring(
    transaction: &Transaction<'_>,
    key: TenantKey,
    RingEdit::Set(shard, weight): RingEdit,
) -> Result<u64, CatalogError> {
    let old = ring(transaction).await?;
    let kept = old.members().iter().filter(|member| member.shard != shard);
    let new = Ring::new(
        kept.map(|member| (member.shard, member.weight))
            .chain([(shard, weight)]),
    );
    if new == old {
        return Ok(0);
    }
    let pinned = pin_where_they_are(transaction, key, &old, &new).await?;
    let announce = "SELECT set_config('tenantry.ring_change', pg_current_xact_id()::text, true)";
    transaction.execute(announce, &[]).await?;
    transaction
        .execute("UPDATE tenantry.ring SET version = version + 1", &[])
        .await?;
    let was_member = old.members().iter().any(|member| member.shard == shard);
    let sql = match (weight, was_member) {
        (0, _) => "DELETE FROM tenantry.ring_member WHERE shard = $1 AND $2 = 0",
        (_, true) => "UPDATE tenantry.ring_member SET weight = $2 WHERE shard = $1",
        (_, false) => "INSERT INTO tenantry.ring_member (shard, weight) VALUES ($1, $2)",
    };
    transaction
        .execute(sql, &[&shard, &i32::try_from(weight).unwrap_or(i32::MAX)])
        .await?;
    Ok(pinned)
}

async fn pin_where_they_are(
    transaction: &Transaction<'_>,
    key: TenantKey,
    old: &Ring,
    new: &Ring,
) -> Result<u64, CatalogError> {
    let unpinned = "COPY (SELECT t.id FROM tenantry.tenant t WHERE t.state <> 'erased' \
                          AND NOT EXISTS (SELECT FROM tenantry.pin p WHERE p.tenant = t.id)) TO STDOUT (FORMAT binary)";
    let (mut tenants, mut shards) = (Vec::new(), Vec::new());
    let mut rows = CopyRows::start(transaction, key, unpinned).await?;
    while let Some(mut row) = rows.next().await? {
        let tenant = row.tenant()?;
        // On an empty ring nobody lives anywhere yet: the new ring decides.
        if let Some(home) = old
            .shard_of(tenant)
            .filter(|home| new.shard_of(tenant) != Some(*home))
        {
            tenants.push(tenant.display(key).to_string());
            shards.push(home);
        }
    }
    if tenants.is_empty() {
        return Ok(0);
    }
    let insert = "INSERT INTO tenantry.pin (tenant, shard, reason) \
                  SELECT p.tenant::tenantry.tenant_key, p.shard, 'ring' \
                  FROM unnest($1::text[], $2::smallint[]) AS p (tenant, shard)";
    Ok(transaction.execute(insert, &[&tenants, &shards]).await?)
}
