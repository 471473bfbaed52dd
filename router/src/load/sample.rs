//! One second of this router's load, out of what its sessions have counted.
//!
//! Sessions count when they give a server connection up; what is held at the moment is added here, or a transaction of a
//! minute would be nothing for a minute and then everything at once.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tenantry_schema::catalog::{LoadAsked, LoadTotals, RouterLoad, ShardLoad, TenantLoad};
use tenantry_schema::fleet::Fleet;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

use crate::activity::{Activity, TenantUsage, Touched};
use crate::limits::Demands;

/// Tenants told by name each second, besides those that have limits.
const NAMED_MAX: usize = 256;
/// Of these; the demands come in the order in which they matter.
const LIMITED_MAX: usize = 1024;

/// Remembers what must not be counted twice.
#[derive(Debug)]
pub(super) struct Sampler {
    looked: Instant,
    /// Time of connections still held that has been told, microseconds.
    running: HashMap<TenantId, u64>,
}

/// What one tenant did since the last look.
#[derive(Debug, Clone, Copy, Default)]
struct Did {
    busy_us: u64,
    transactions: u64,
    total: Option<TenantUsage>,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            looked: Instant::now(),
            running: HashMap::new(),
        }
    }

    /// What was done since the last sample.
    pub(super) fn sample(
        &mut self,
        activity: &Activity,
        fleet: &Fleet,
        demands: &[(TenantId, Demands)],
    ) -> RouterLoad {
        let now = Instant::now();
        let covers = (now - std::mem::replace(&mut self.looked, now)).max(Duration::from_millis(1));
        let did = self.did(activity.tenants.take_touched(), running(activity));
        let shard_of = |tenant| {
            let record = fleet.directory.by_id(tenant)?;
            fleet.place(&record).map(|placement| placement.shard)
        };
        let mut shards: HashMap<ShardId, (u64, u64)> = HashMap::new();
        for (tenant, did) in &did {
            if let Some(shard) = shard_of(*tenant) {
                let (busy_us, transactions) = shards.entry(shard).or_default();
                *busy_us += did.busy_us;
                *transactions += did.transactions;
            }
        }
        let seconds = covers.as_secs_f64();
        let per_second = |count: u64| (count as f64 / seconds) as f32;
        let asked: HashMap<TenantId, LoadAsked> = demands
            .iter()
            .filter(|(_, demands)| !demands.is_none())
            .take(LIMITED_MAX)
            .map(|(tenant, demands)| (*tenant, demands.tell()))
            .collect();
        let named = named(&did, &asked);
        let tenants = named.into_iter().map(|(tenant, did)| TenantLoad {
            tenant,
            shard: shard_of(tenant),
            total: totals(&did.total.unwrap_or_else(|| activity.tenants.of(tenant))),
            busy: per_second(did.busy_us) / 1e6,
            transactions: per_second(did.transactions),
            asked: asked.get(&tenant).copied().unwrap_or_default(),
        });
        let shards = shards
            .into_iter()
            .map(|(shard, (busy_us, transactions))| ShardLoad {
                shard,
                busy: per_second(busy_us) / 1e6,
                transactions: per_second(transactions),
            });
        RouterLoad {
            covers,
            shards: shards.collect(),
            tenants: tenants.collect(),
        }
    }

    /// What was counted since, and what is held now less what of it was told before.
    fn did(
        &mut self,
        touched: Vec<Touched>,
        running: HashMap<TenantId, u64>,
    ) -> HashMap<TenantId, Did> {
        let mut all: HashMap<TenantId, Did> = HashMap::with_capacity(touched.len());
        for touched in touched {
            let did = Did {
                busy_us: touched.lately.busy_us,
                transactions: touched.lately.transactions,
                total: Some(touched.total),
            };
            all.insert(touched.tenant, did);
        }
        for (tenant, held_us) in &running {
            all.entry(*tenant).or_default().busy_us += held_us;
        }
        for (tenant, told_us) in std::mem::replace(&mut self.running, running) {
            if let Some(did) = all.get_mut(&tenant) {
                did.busy_us = did.busy_us.saturating_sub(told_us);
            }
        }
        all
    }
}

/// How long tenants have held the connections that they hold now, as far as it is not counted.
fn running(activity: &Activity) -> HashMap<TenantId, u64> {
    let now = activity.clock.now_us();
    let mut running = HashMap::new();
    for server in activity.servers() {
        let client = server
            .client()
            .filter(|_| server.is_pooled())
            .and_then(|client| activity.client_numbered(client));
        if let Some(tenant) = client.and_then(|client| client.changing().tenant) {
            *running.entry(tenant).or_default() += now.saturating_sub(server.counted_us());
        }
    }
    running
}

/// Those that did most, and those that asked for something that is limited; in order of tenant, so that two routers
/// that write at once wait for each other and no more.
fn named(
    did: &HashMap<TenantId, Did>,
    asked: &HashMap<TenantId, LoadAsked>,
) -> Vec<(TenantId, Did)> {
    let mut named: Vec<(TenantId, Did)> = did.iter().map(|(tenant, did)| (*tenant, *did)).collect();
    let busiest = |(tenant, did): &(TenantId, Did)| (std::cmp::Reverse(did.busy_us), *tenant);
    if named.len() > NAMED_MAX {
        named.select_nth_unstable_by_key(NAMED_MAX, busiest);
        named.truncate(NAMED_MAX);
    }
    let known: HashSet<TenantId> = named.iter().map(|(tenant, _)| *tenant).collect();
    for tenant in asked.keys().filter(|tenant| !known.contains(tenant)) {
        named.push((*tenant, did.get(tenant).copied().unwrap_or_default()));
    }
    named.sort_unstable_by_key(|(tenant, _)| *tenant);
    named
}

fn totals(usage: &TenantUsage) -> LoadTotals {
    LoadTotals {
        transactions: usage.transactions,
        statements: usage.statements,
        errors: usage.errors,
        rows: usage.rows,
        busy_us: usage.busy_us,
        wait_us: usage.wait_us,
        received: usage.received,
        sent: usage.sent,
    }
}
