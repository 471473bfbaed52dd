//! Where a move puts its tenant, told to routers: pin or ring, and the epoch.

use tokio_postgres::Transaction;

use super::types::{Move, MoveKind, Side};
use crate::catalog::CatalogError;
use crate::catalog::ring::ring;
use crate::shard::ShardId;
use crate::tenant::{Epoch, TenantKey};

/// Makes `side` the tenant's placement. The pin goes where the ring says the same. A spare that receives a tenant is
/// dedicated to it.
pub(super) async fn place(
    transaction: &Transaction<'_>,
    key: TenantKey,
    moved: &Move,
    side: Side,
    epoch: Epoch,
) -> Result<(), CatalogError> {
    transaction
        .batch_execute("SELECT FROM tenantry.ring FOR SHARE")
        .await?;
    let shard = moved.shard(side);
    let tenant = moved.tenant.display(key).to_string();
    let raise = "UPDATE tenantry.tenant SET epoch = greatest(epoch, $2) WHERE id = $1::text::tenantry.tenant_key";
    let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    transaction.execute(raise, &[&tenant, &epoch]).await?;
    if ring(transaction).await?.shard_of(moved.tenant) == Some(shard) {
        let unpin = "DELETE FROM tenantry.pin WHERE tenant = $1::text::tenantry.tenant_key";
        transaction.execute(unpin, &[&tenant]).await?;
    } else {
        let pin = "INSERT INTO tenantry.pin (tenant, shard, reason) VALUES ($1::text::tenantry.tenant_key, $2, $3) \
                   ON CONFLICT (tenant) DO UPDATE SET shard = excluded.shard, reason = excluded.reason, created_at = now()";
        let reason = match (moved.kind, side) {
            (MoveKind::Isolate, Side::Destination) => "isolate",
            _ => "move",
        };
        transaction
            .execute(pin, &[&tenant, &shard, &reason])
            .await?;
    }
    let dedicate = "UPDATE tenantry.shard SET kind = 'dedicated' WHERE id = $1 AND kind = 'spare'";
    transaction.execute(dedicate, &[&shard]).await?;
    Ok(())
}

/// A dedicated shard that a move has emptied is a spare again.
pub(super) async fn spare_again(
    transaction: &Transaction<'_>,
    left: ShardId,
) -> Result<(), CatalogError> {
    let update = "UPDATE tenantry.shard s SET kind = 'spare' WHERE s.id = $1 AND s.kind = 'dedicated' \
                  AND NOT EXISTS (SELECT FROM tenantry.pin p WHERE p.shard = s.id) \
                  AND NOT EXISTS (SELECT FROM tenantry.move m WHERE m.finished_at IS NULL AND s.id IN (m.source, m.destination))";
    transaction.execute(update, &[&left]).await?;
    Ok(())
}
