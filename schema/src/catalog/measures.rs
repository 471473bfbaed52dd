//! What tenants weigh: estimates of their bytes and load, and the census that planning reads.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use super::{Catalog, CatalogError, ring, shards};
use crate::pin::PinReason;
use crate::ring::Ring;
use crate::shard::{Shard, ShardId};
use crate::tenant::{Isolation, TenantId, TenantState};

/// The fleet as planning sees it, all of one moment.
#[derive(Debug)]
pub struct Census {
    /// Every shard.
    pub shards: Vec<Shard>,
    /// The ring.
    pub ring: Ring,
    /// Every tenant that is not erased.
    pub tenants: Vec<CensusTenant>,
}

/// A tenant as planning sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct CensusTenant {
    /// Its id.
    pub id: TenantId,
    /// Its slug.
    pub slug: String,
    /// Its state.
    pub state: TenantState,
    /// Its isolation.
    pub isolation: Isolation,
    /// Where it is pinned, and why.
    pub pin: Option<(ShardId, PinReason)>,
    /// What its rows take; `None`: not measured yet.
    pub bytes: Option<u64>,
    /// Server connections that it keeps busy, on average.
    pub busy: f64,
    /// Whether a move of it is not over.
    pub is_moving: bool,
}

impl Catalog {
    /// The whole fleet as planning sees it, in one consistent read.
    pub async fn census(&self) -> Result<Census, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let shards = shards::shards(&transaction).await?;
        let ring = ring::ring(&transaction).await?;
        let select = include_str!("sql/census.sql");
        // Row by row: a fleet has many tenants, and their rows are larger than what is kept of them.
        let none: [&(dyn ToSql + Sync); 0] = [];
        let rows = transaction.query_raw(select, none).await?;
        let mut rows = std::pin::pin!(rows);
        let mut tenants = Vec::new();
        while let Some(row) = rows.try_next().await? {
            tenants.push(census_tenant(&row)?);
        }
        transaction.commit().await?;
        Ok(Census {
            shards,
            ring,
            tenants,
        })
    }

    /// Records what tenants' rows take. Tenants that are gone are passed over.
    pub async fn record_sizes(&self, sizes: &[(TenantId, u64)]) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let tenants: Vec<String> = sizes
            .iter()
            .map(|(id, _)| id.display(key).to_string())
            .collect();
        let bytes = sizes
            .iter()
            .map(|(_, bytes)| i64::try_from(*bytes).unwrap_or(i64::MAX));
        let bytes: Vec<i64> = bytes.collect();
        let upsert = "INSERT INTO tenantry.tenant_measure AS m (tenant, bytes, sized_at) \
                      SELECT t.id, u.bytes, now() FROM unnest($1::text[], $2::bigint[]) AS u (tenant, bytes) \
                      JOIN tenantry.tenant t ON t.id = u.tenant::tenantry.tenant_key \
                      ON CONFLICT (tenant) DO UPDATE SET bytes = excluded.bytes, sized_at = excluded.sized_at";
        let client = self.client().await?;
        client.execute(upsert, &[&tenants, &bytes]).await?;
        Ok(())
    }

    /// Records how many server connections tenants keep busy. Tenants that are gone are passed over.
    pub async fn record_busy(&self, busy: &[(TenantId, f64)]) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let tenants: Vec<String> = busy
            .iter()
            .map(|(id, _)| id.display(key).to_string())
            .collect();
        let values: Vec<f64> = busy.iter().map(|(_, busy)| *busy).collect();
        let upsert = "INSERT INTO tenantry.tenant_measure AS m (tenant, busy, busy_at) \
                      SELECT t.id, u.busy, now() FROM unnest($1::text[], $2::float8[]) AS u (tenant, busy) \
                      JOIN tenantry.tenant t ON t.id = u.tenant::tenantry.tenant_key \
                      ON CONFLICT (tenant) DO UPDATE SET busy = excluded.busy, busy_at = excluded.busy_at";
        let client = self.client().await?;
        client.execute(upsert, &[&tenants, &values]).await?;
        Ok(())
    }

    /// How long tenants kept server connections busy in all, since their routers began to count, of those that
    /// routers tell about.
    pub async fn busy_totals(&self) -> Result<Vec<(TenantId, Duration)>, CatalogError> {
        let client = self.client().await?;
        let select =
            "SELECT tenant, sum(busy_us)::bigint FROM tenantry.tenant_load GROUP BY tenant";
        let rows = client.query(select, &[]).await?;
        let total = |row: &Row| Duration::from_micros(row.get::<_, i64>(1).unsigned_abs());
        Ok(rows.iter().map(|row| (row.get(0), total(row))).collect())
    }

    /// The tenants whose recorded load is not nothing.
    pub async fn busy_tenants(&self) -> Result<Vec<(TenantId, f64)>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT tenant, busy::float8 FROM tenantry.tenant_measure WHERE busy > 0";
        let rows = client.query(select, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

fn census_tenant(row: &Row) -> Result<CensusTenant, CatalogError> {
    let slug: String = row.get(1);
    let wrong = |cause| CatalogError::row("tenant", &slug, cause);
    let (state, isolation): (&str, &str) = (row.get(2), row.get(3));
    let (shard, reason): (Option<ShardId>, Option<&str>) = (row.get(4), row.get(5));
    let reason = reason
        .map(str::parse::<PinReason>)
        .transpose()
        .map_err(wrong)?;
    Ok(CensusTenant {
        id: row.get(0),
        state: state.parse().map_err(wrong)?,
        isolation: isolation.parse().map_err(wrong)?,
        pin: shard.zip(reason),
        bytes: row.get::<_, Option<i64>>(6).map(i64::unsigned_abs),
        busy: row.get(7),
        is_moving: row.get(8),
        slug,
    })
}
