//! What tenants weigh: bytes from samples of their shards, load from what routers tell.
//!
//! Both are estimates for planning. A shard is weighed by a sample of at most [`SAMPLE_BLOCKS`] blocks of each tenant
//! table, so that it costs the same however large the shard is; a tenant's bytes are its part of the sampled rows, of all
//! that the table and its indexes take. Load is the time that server connections were held, smoothed over minutes, so that a
//! plan does not follow a moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tenantry_schema::catalog::Catalog;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{ParseTenantIdError, TenantId, TenantKey};
use tokio_postgres::Client;

use super::{FleetError, FleetWork, endpoints};
use crate::shard::{ConnectError, ShardEndpoint, connect};
use crate::tables::{self, TablesError, TenantTable};

/// Blocks of a table that are read: 16 MiB.
const SAMPLE_BLOCKS: f64 = 2048.0;
/// The load of the past is half forgotten after this time.
const HALF_LIFE: Duration = Duration::from_secs(120);
/// Less load than this is none: it moves nothing.
const BUSY_MIN: f64 = 0.001;

/// Why a shard could not be weighed.
#[derive(Debug, thiserror::Error)]
pub enum WeighError {
    /// There is no session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Its tables could not be read.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// A sample failed.
    #[error("a table cannot be sampled")]
    Sample(#[from] tokio_postgres::Error),
    /// An id is of another kind than the fleet's.
    #[error("a tenant's id is not understood")]
    Id(#[from] ParseTenantIdError),
}

/// Estimates the bytes of every tenant that is at home on a shard.
pub async fn weigh_shard(
    endpoint: &ShardEndpoint,
    key: TenantKey,
    tenant_column: &str,
) -> Result<Vec<(TenantId, u64)>, WeighError> {
    let client = connect(endpoint).await?;
    let home = "SELECT tenant_id::text FROM tenantry.owner WHERE state IN ('active', 'fenced')";
    let mut bytes: BTreeMap<TenantId, f64> = BTreeMap::new();
    for row in client.query(home, &[]).await? {
        bytes.insert(TenantId::parse(key, row.get(0))?, 0.0);
    }
    for table in tables::read(&client, tenant_column).await?.tables {
        for (tenant, part) in sample(&client, &table, key).await? {
            // Rows of tenants on their way, in or out, are no weight of this shard's.
            if let Some(sum) = bytes.get_mut(&tenant) {
                *sum += part;
            }
        }
    }
    Ok(bytes
        .into_iter()
        .map(|(tenant, bytes)| (tenant, bytes as u64))
        .collect())
}

/// Each tenant's part of what one table takes.
async fn sample(
    client: &Client,
    table: &TenantTable,
    key: TenantKey,
) -> Result<Vec<(TenantId, f64)>, WeighError> {
    let row = client
        .query_one(include_str!("sql/table_size.sql"), &[&table.oid])
        .await?;
    let (all_bytes, blocks): (f64, f64) = (row.get(0), row.get(1));
    if blocks == 0.0 {
        return Ok(Vec::new());
    }
    let percent = (100.0 * SAMPLE_BLOCKS / blocks).min(100.0);
    let (relation, tenant) = (table.relation(), table.tenant_column().sql());
    let select = format!(
        "SELECT {tenant}::text, count(*) FROM {relation} TABLESAMPLE SYSTEM ({percent}) \
         WHERE {tenant} IS NOT NULL GROUP BY 1"
    );
    let mut rows = Vec::new();
    for row in client.query(&select, &[]).await? {
        rows.push((
            TenantId::parse(key, row.get(0))?,
            row.get::<_, i64>(1) as f64,
        ));
    }
    let all_rows: f64 = rows.iter().map(|(_, count)| count).sum();
    Ok(rows
        .into_iter()
        .map(|(tenant, count)| (tenant, all_bytes * count / all_rows))
        .collect())
}

/// Weighs the shards that have not been for `every`, one after another. A shard that cannot be is left for later; the
/// others are weighed.
pub(super) async fn weigh_due(
    work: &FleetWork,
    weighed: &mut BTreeMap<ShardId, Instant>,
    every: Duration,
) -> Result<(), FleetError> {
    let settings = work.catalog.settings().await?;
    for endpoint in endpoints(work).await? {
        if weighed
            .get(&endpoint.id)
            .is_some_and(|at| at.elapsed() < every)
        {
            continue;
        }
        weighed.insert(endpoint.id, Instant::now());
        let (key, column) = (settings.tenant_key, &settings.tenant_column);
        match weigh_shard(&endpoint, key, column).await {
            Ok(sizes) => {
                tracing::debug!(shard = %endpoint.name, tenants = sizes.len(), "shard weighed");
                work.catalog.record_sizes(&sizes).await?;
            }
            Err(error) => {
                let error = tenantry_schema::causes::one_line(&error);
                tracing::warn!(shard = %endpoint.name, error, "shard not weighed");
            }
        }
    }
    Ok(())
}

/// Turns totals that routers tell into smoothed load.
#[derive(Debug, Default)]
pub struct BusyMeter {
    last: Option<(Instant, BTreeMap<TenantId, Duration>)>,
    busy: Option<BTreeMap<TenantId, f64>>,
}

impl BusyMeter {
    /// Reads the totals once more and records what has changed.
    pub async fn advance(&mut self, catalog: &Catalog) -> Result<(), FleetError> {
        if self.busy.is_none() {
            // What the leader before had found out goes on from there.
            self.busy = Some(catalog.busy_tenants().await?.into_iter().collect());
        }
        let totals = catalog.busy_totals().await?.into_iter().collect();
        let changed = self.observe(Instant::now(), totals);
        if !changed.is_empty() {
            catalog.record_busy(&changed).await?;
        }
        Ok(())
    }

    /// Takes totals as of `at` in; answers the tenants whose load is another now.
    fn observe(
        &mut self,
        at: Instant,
        totals: BTreeMap<TenantId, Duration>,
    ) -> Vec<(TenantId, f64)> {
        let Some((before, last)) = self.last.replace((at, totals)) else {
            return Vec::new();
        };
        let Some((_, totals)) = &self.last else {
            return Vec::new();
        };
        let elapsed = at.saturating_duration_since(before).as_secs_f64();
        if elapsed <= 0.0 {
            return Vec::new();
        }
        let kept = 0.5_f64.powf(elapsed / HALF_LIFE.as_secs_f64());
        let busy = self.busy.get_or_insert_default();
        let mut changed = Vec::new();
        let mut tenants: Vec<TenantId> = totals.keys().chain(busy.keys()).copied().collect();
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            // A router that began anew counts from nothing, and so does a tenant that was not told of before.
            let lately = match (last.get(&tenant), totals.get(&tenant)) {
                (Some(before), Some(now)) => now.saturating_sub(*before).as_secs_f64() / elapsed,
                _ => 0.0,
            };
            let old = busy.get(&tenant).copied().unwrap_or_default();
            let mut new = old * kept + lately * (1.0 - kept);
            if new < BUSY_MIN {
                new = 0.0;
            }
            if new == old {
                continue;
            }
            changed.push((tenant, new));
            if new == 0.0 {
                busy.remove(&tenant);
            } else {
                busy.insert(tenant, new);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tenant(number: i64) -> TenantId {
        TenantId::from_bigint(number).unwrap()
    }

    #[test]
    fn load_follows_what_routers_count_and_fades() {
        let mut meter = BusyMeter::default();
        let start = Instant::now();
        let mut total = Duration::ZERO;
        assert_eq!(meter.observe(start, [(tenant(1), total)].into()), []);
        let mut load = 0.0;
        for step in 1..=60 {
            // Two connections are held all the time.
            total += Duration::from_secs(20);
            let at = start + Duration::from_secs(10 * step);
            load = meter.observe(at, [(tenant(1), total)].into())[0].1;
        }
        assert!((1.9..=2.0).contains(&load), "{load}");
        let after = start + Duration::from_secs(720);
        let faded = meter.observe(after, [(tenant(1), total)].into())[0].1;
        assert!((load / 2.0 - faded).abs() < 1e-6, "{faded} of {load}");
        // Nobody tells of it any more, then a router that began anew does.
        let gone = meter.observe(after + Duration::from_secs(3600), BTreeMap::new());
        assert_eq!(gone, [(tenant(1), 0.0)]);
        let again = [(tenant(1), Duration::from_secs(5))].into();
        assert_eq!(meter.observe(after + Duration::from_secs(3610), again), []);
    }
}
