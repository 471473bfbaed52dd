//! The planner's inventory, from the catalog's census.

use tenantry_schema::catalog::{Catalog, CatalogError, CensusTenant};
use tenantry_schema::shard::Shard;
use tenantry_schema::tenant::{Isolation, TenantState};

use crate::plan::{Inventory, Obstacle, ShardEntry, TenantEntry};

/// The fleet as it is now. Tenants that live nowhere, because the ring is empty, are left out.
pub async fn inventory(catalog: &Catalog) -> Result<Inventory, CatalogError> {
    let census = catalog.census().await?;
    let ring = &census.ring;
    let tenants = census.tenants.into_iter().filter_map(|tenant| {
        let wanted = ring.shard_of(tenant.id);
        Some(TenantEntry {
            tenant: tenant.id,
            shard: tenant.pin.map(|(shard, _)| shard).or(wanted)?,
            pin: tenant.pin.map(|(_, reason)| reason),
            ring: wanted,
            bytes: tenant.bytes,
            busy: tenant.busy,
            obstacle: obstacle(&tenant),
            slug: tenant.slug,
        })
    });
    Ok(Inventory {
        tenants: tenants.collect(),
        shards: census.shards.iter().map(entry).collect(),
    })
}

/// A shard as planning sees it.
pub(super) fn entry(shard: &Shard) -> ShardEntry {
    ShardEntry {
        id: shard.id,
        name: shard.name.to_string(),
        kind: shard.kind,
        state: shard.state,
        weight: shard.weight,
        zone: shard.zone.clone(),
    }
}

fn obstacle(tenant: &CensusTenant) -> Option<Obstacle> {
    hindrance(tenant.is_moving, tenant.state, tenant.isolation)
}

/// What keeps a tenant from being moved.
pub(super) fn hindrance(
    is_moving: bool,
    state: TenantState,
    isolation: Isolation,
) -> Option<Obstacle> {
    match state {
        _ if is_moving => Some(Obstacle::Moving),
        TenantState::Provisioning => Some(Obstacle::Provisioning),
        TenantState::Closing | TenantState::Erased => Some(Obstacle::Closing),
        TenantState::Active | TenantState::Suspended => match isolation {
            Isolation::Silo => Some(Obstacle::Silo),
            Isolation::Pooled => None,
        },
    }
}
