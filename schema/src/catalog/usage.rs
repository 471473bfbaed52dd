//! What routers tell of their load: published each second, merged here.
//!
//! One statement writes, bounded by its caller; what others told comes back with it, so that a router makes one round
//! trip for both. Nothing of it is in the change log.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};

use super::{Catalog, CatalogError, RouterId};
use crate::shard::ShardId;
use crate::tenant::TenantId;

/// A router that has not told for so long is not asked for anything now.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// Session-level advisory lock of whoever looks for hot tenants; arbitrary, but the same in every release.
const HEAT_LOCK: i64 = 0x7465_6e61_6e74_6874;

/// What a router tells of the last second.
#[derive(Debug, Clone, Default)]
pub struct RouterLoad {
    /// How long it covers.
    pub covers: Duration,
    /// What happened on each shard.
    pub shards: Vec<ShardLoad>,
    /// Who did most of it, and who has limits.
    pub tenants: Vec<TenantLoad>,
}

/// What all tenants did on one shard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShardLoad {
    /// The shard.
    pub shard: ShardId,
    /// Server connections that were held, on average.
    pub busy: f32,
    /// Per second.
    pub transactions: f32,
}

/// What one tenant did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TenantLoad {
    /// The tenant.
    pub tenant: TenantId,
    /// Where it lives.
    pub shard: Option<ShardId>,
    /// What it did since the router began to count.
    pub total: LoadTotals,
    /// Server connections that it held lately, on average.
    pub busy: f32,
    /// Transactions per second lately.
    pub transactions: f32,
    /// What it asked for, if it has limits.
    pub asked: LoadAsked,
}

/// What was done in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadTotals {
    /// Transactions ended.
    pub transactions: u64,
    /// Statements sent to shards.
    pub statements: u64,
    /// Errors that clients were sent.
    pub errors: u64,
    /// Rows returned or changed.
    pub rows: u64,
    /// Time that server connections were held, microseconds.
    pub busy_us: u64,
    /// Time waited for one, microseconds.
    pub wait_us: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
}

/// What a tenant asked of one router, refused or not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadAsked {
    /// Statements per second.
    pub queries: f32,
    /// At once, at most.
    pub transactions: u32,
    /// At once.
    pub connections: u32,
    /// Connections that are there.
    pub held: u32,
}

/// What other routers told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetDemand {
    /// The routers that told lately, in order.
    pub routers: Vec<RouterId>,
    /// What they were asked for, of the tenants that were named.
    pub asked: Vec<(TenantId, RouterId, LoadAsked)>,
}

/// A tenant's load, as all routers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedLoad {
    /// The tenant.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// The name of its shard, where it was used.
    pub shard: Option<String>,
    /// Since the routers began to count.
    pub total: LoadTotals,
    /// Server connections that it holds now, on average of a second.
    pub busy: f64,
    /// Since when it is hot.
    pub hot_since: Option<Timestamp>,
}

/// What all routers told of one shard.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedShard {
    /// The shard.
    pub shard: ShardId,
    /// Server connections that are held, on average.
    pub busy: f64,
    /// Its busiest tenants: server connections held, transactions per second.
    pub tenants: Vec<(TenantId, f64, f64)>,
}

/// A tenant turned hot or cold.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatEvent {
    /// When.
    pub at: Timestamp,
    /// The tenant.
    pub tenant: TenantId,
    /// Its shard then.
    pub shard: ShardId,
    /// Hot from then on, or cold.
    pub is_hot: bool,
    /// Why.
    pub evidence: Value,
}

/// A tenant that turns hot or cold, to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatChange {
    /// The tenant.
    pub tenant: TenantId,
    /// Its shard.
    pub shard: ShardId,
    /// Hot from now on, or cold.
    pub is_hot: bool,
    /// Why.
    pub evidence: Value,
}

impl Catalog {
    /// Tells what a router did; answers what others were asked for, of the tenants in `limited`.
    pub async fn publish_load(
        &self,
        router: RouterId,
        load: &RouterLoad,
        limited: &[TenantId],
    ) -> Result<FleetDemand, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let text = |id: &TenantId| id.display(key).to_string();
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let id = i16::try_from(router).unwrap_or(i16::MAX);
        let told = "INSERT INTO tenantry.router_load AS l (router, at, seconds) \
                    SELECT r.id, now(), $2::float8::real FROM tenantry.router r WHERE r.id = $1 \
                    ON CONFLICT (router) DO UPDATE SET at = excluded.at, seconds = excluded.seconds";
        let covers = load.covers.as_secs_f64();
        if transaction.execute(told, &[&id, &covers]).await? == 0 {
            return Err(CatalogError::not_found("router", router.to_string()));
        }
        write_shards(&transaction, id, &load.shards).await?;
        let names: Vec<String> = load.tenants.iter().map(|load| text(&load.tenant)).collect();
        write_tenants(&transaction, id, &names, &load.tenants).await?;
        let limited: Vec<String> = limited.iter().map(text).collect();
        let demand = read_demand(&transaction, &limited).await?;
        transaction.commit().await?;
        Ok(demand)
    }

    /// Forgets what a router told of tenants that it has not named for a while.
    pub async fn trim_load(&self, router: RouterId) -> Result<u64, CatalogError> {
        let client = self.client().await?;
        let delete =
            "DELETE FROM tenantry.tenant_load WHERE router = $1 AND at < now() - interval '1 hour'";
        let id = i16::try_from(router).unwrap_or(i16::MAX);
        Ok(client.execute(delete, &[&id]).await?)
    }

    /// Forgets who was hot long ago, and beyond the newest hundred thousand events.
    pub async fn trim_heat(&self) -> Result<u64, CatalogError> {
        let client = self.client().await?;
        Ok(client
            .execute(include_str!("sql/trim_heat.sql"), &[])
            .await?)
    }

    /// The tenants that use the fleet most: now, or where nobody does anything, since counting began.
    pub async fn top_tenants(&self, limit: u32) -> Result<Vec<MergedLoad>, CatalogError> {
        let client = self.client().await?;
        let select = include_str!("sql/top_tenants.sql");
        let told_max = TOLD_MAX.as_secs_f64();
        let rows = client
            .query(select, &[&told_max, &i64::from(limit)])
            .await?;
        rows.iter().map(merged).collect()
    }

    /// What all routers told of each shard lately, with its `limit` busiest tenants.
    pub async fn merged_shards(&self, limit: u32) -> Result<Vec<MergedShard>, CatalogError> {
        let client = self.client().await?;
        let select = include_str!("sql/merged_shards.sql");
        let told_max = TOLD_MAX.as_secs_f64();
        let rows = client
            .query(select, &[&told_max, &i64::from(limit)])
            .await?;
        let mut shards: Vec<MergedShard> = Vec::new();
        for row in rows {
            let shard = shard_of(row.get(0))?;
            if shards.last().is_none_or(|last| last.shard != shard) {
                shards.push(MergedShard {
                    shard,
                    busy: row.get(1),
                    tenants: Vec::new(),
                });
            }
            let tenant: Option<TenantId> = row.get(2);
            if let (Some(last), Some(tenant)) = (shards.last_mut(), tenant) {
                last.tenants.push((tenant, row.get(3), row.get(4)));
            }
        }
        Ok(shards)
    }

    /// Whether this connection is the one that looks for hot tenants; it becomes that if nobody is. It lasts as long as
    /// the connection does.
    pub async fn watches_heat(&self) -> Result<bool, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
                              AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                              AND objsubid = 1 AND granted \
                              AND classid::bigint << 32 | objid::bigint = $1) \
                          OR pg_try_advisory_lock($1)";
        Ok(client.query_one(select, &[&HEAT_LOCK]).await?.get(0))
    }

    /// Records who turned hot or cold. Tenants and shards that are gone are passed over.
    pub async fn record_heat(&self, changes: &[HeatChange]) -> Result<(), CatalogError> {
        if changes.is_empty() {
            return Ok(());
        }
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let record = include_str!("sql/record_heat.sql");
        for change in changes {
            let tenant = change.tenant.display(key).to_string();
            let shard = sql_shard(change.shard);
            transaction
                .execute(record, &[&tenant, &shard, &change.is_hot, &change.evidence])
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The tenants that are hot now, by shard.
    pub async fn hot_tenants(&self) -> Result<Vec<HeatEvent>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT since, tenant, shard, true, evidence FROM tenantry.hot_tenant ORDER BY shard, since";
        heat_events(&client.query(select, &[]).await?)
    }

    /// Who turned hot and cold, newest first.
    pub async fn heat_events(&self, limit: u32) -> Result<Vec<HeatEvent>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT at, tenant, shard, state = 'hot', evidence FROM tenantry.heat_event \
                      ORDER BY id DESC LIMIT $1";
        heat_events(&client.query(select, &[&i64::from(limit)]).await?)
    }
}

async fn write_shards(
    client: &impl GenericClient,
    router: i16,
    shards: &[ShardLoad],
) -> Result<(), CatalogError> {
    let upsert = "INSERT INTO tenantry.shard_load AS l (router, shard, at, busy, transactions) \
                  SELECT $1, u.shard, now(), u.busy, u.transactions \
                  FROM unnest($2::smallint[], $3::real[], $4::real[]) AS u (shard, busy, transactions) \
                  ON CONFLICT (router, shard) DO UPDATE SET at = excluded.at, busy = excluded.busy, \
                      transactions = excluded.transactions";
    let ids: Vec<i16> = shards.iter().map(|load| sql_shard(load.shard)).collect();
    let busy: Vec<f32> = shards.iter().map(|load| load.busy).collect();
    let transactions: Vec<f32> = shards.iter().map(|load| load.transactions).collect();
    client
        .execute(upsert, &[&router, &ids, &busy, &transactions])
        .await?;
    Ok(())
}

async fn write_tenants(
    client: &impl GenericClient,
    router: i16,
    names: &[String],
    tenants: &[TenantLoad],
) -> Result<(), CatalogError> {
    let upsert = include_str!("sql/write_tenant_load.sql");
    let big = |value: fn(&LoadTotals) -> u64| -> Vec<i64> {
        let values = tenants.iter().map(|load| value(&load.total));
        values
            .map(|value| i64::try_from(value).unwrap_or(i64::MAX))
            .collect()
    };
    let int = |value: fn(&LoadAsked) -> u32| -> Vec<i32> {
        let values = tenants.iter().map(|load| value(&load.asked));
        values
            .map(|value| i32::try_from(value).unwrap_or(i32::MAX))
            .collect()
    };
    let real = |value: fn(&TenantLoad) -> f32| -> Vec<f32> { tenants.iter().map(value).collect() };
    let shards: Vec<Option<i16>> = tenants
        .iter()
        .map(|load| load.shard.map(sql_shard))
        .collect();
    client
        .execute(
            upsert,
            &[
                &router,
                &names,
                &shards,
                &big(|total| total.transactions),
                &big(|total| total.statements),
                &big(|total| total.errors),
                &big(|total| total.rows),
                &big(|total| total.busy_us),
                &big(|total| total.wait_us),
                &big(|total| total.received),
                &big(|total| total.sent),
                &real(|load| load.busy),
                &real(|load| load.transactions),
                &real(|load| load.asked.queries),
                &int(|asked| asked.transactions),
                &int(|asked| asked.connections),
                &int(|asked| asked.held),
            ],
        )
        .await?;
    Ok(())
}

async fn read_demand(
    client: &impl GenericClient,
    limited: &[String],
) -> Result<FleetDemand, CatalogError> {
    let told_max = TOLD_MAX.as_secs_f64();
    let routers = "SELECT router FROM tenantry.router_load \
                   WHERE at > now() - make_interval(secs => $1) ORDER BY router";
    let routers = client.query(routers, &[&told_max]).await?;
    let mut demand = FleetDemand {
        routers: routers.iter().map(router_of).collect(),
        asked: Vec::new(),
    };
    if limited.is_empty() {
        return Ok(demand);
    }
    let asked = "SELECT l.router, l.tenant, l.queries_asked, l.transactions_asked, l.connections_asked, \
                        l.connections_held \
                 FROM tenantry.tenant_load l JOIN tenantry.router_load r ON r.router = l.router AND r.at = l.at \
                 WHERE l.tenant = ANY ($2::text[]::tenantry.tenant_key[]) \
                   AND r.at > now() - make_interval(secs => $1)";
    for row in client.query(asked, &[&told_max, &limited]).await? {
        let count = |column: usize| row.get::<_, i32>(column).unsigned_abs();
        let asked = LoadAsked {
            queries: row.get(2),
            transactions: count(3),
            connections: count(4),
            held: count(5),
        };
        demand.asked.push((row.get(1), router_of(&row), asked));
    }
    Ok(demand)
}

fn router_of(row: &Row) -> RouterId {
    row.get::<_, i16>(0).unsigned_abs()
}

fn merged(row: &Row) -> Result<MergedLoad, CatalogError> {
    let count = |column: usize| row.get::<_, i64>(column).unsigned_abs();
    Ok(MergedLoad {
        tenant: row.get(0),
        slug: row.get(1),
        shard: row.get(2),
        total: LoadTotals {
            transactions: count(3),
            statements: count(4),
            errors: count(5),
            rows: count(6),
            busy_us: count(7),
            wait_us: count(8),
            received: count(9),
            sent: count(10),
        },
        busy: row.get(11),
        hot_since: row.get(12),
    })
}

fn heat_events(rows: &[Row]) -> Result<Vec<HeatEvent>, CatalogError> {
    let events = rows.iter().map(|row| {
        Ok(HeatEvent {
            at: row.get(0),
            tenant: row.get(1),
            shard: shard_of(row.get(2))?,
            is_hot: row.get(3),
            evidence: row.get(4),
        })
    });
    events.collect()
}

fn shard_of(number: i16) -> Result<ShardId, CatalogError> {
    ShardId::new(number.unsigned_abs())
        .map_err(|cause| CatalogError::row("shard", number.to_string(), cause))
}

fn sql_shard(shard: ShardId) -> i16 {
    i16::try_from(shard.number()).unwrap_or(i16::MAX)
}
