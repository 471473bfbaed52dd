//! SHOW POOLS, DATABASES, USERS, LISTS, MEM.

use std::collections::BTreeMap;
use std::sync::Arc;

use tenantry_schema::fleet::{Fleet, PoolMode};
use tenantry_schema::shard::ShardId;

use super::super::table::Kind::{Bool, Int4, Int8, Text};
use super::super::table::{Cell, Head, Table};
use super::wait;
use crate::activity::{ClientRecord, ClientState, ServerRecord, ServerState};
use crate::pool::{Gate, PoolStats};
use crate::router::Router;

pub(super) const POOLS: &[Head] = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("pool_size", Int4),
    ("queue_max", Int4),
    ("tenants_active", Int4),
    ("tenants_waiting", Int4),
    ("reserve", Int4),
    ("level", Int4),
];

/// Tenants that hold or wait for server connections of a shard.
pub(super) const QUEUES: &[Head] = &[
    ("database", Text),
    ("tenant", Text),
    ("waiting", Int4),
    ("held", Int4),
    ("share", Text),
];

pub(super) const DATABASES: &[Head] = &[
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
    ("kind", Text),
    ("state", Text),
];

pub(super) const USERS: &[Head] = &[
    ("name", Text),
    ("pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("pool_mode", Text),
    ("max_user_connections", Int4),
    ("current_connections", Int4),
    ("max_user_client_connections", Int4),
    ("current_client_connections", Int4),
    ("kind", Text),
    ("tenants", Int4),
    ("tenant_comment", Bool),
    ("valid_until", Text),
];

pub(super) const LISTS: &[Head] = &[("list", Text), ("items", Int4)];

pub(super) const MEM: &[Head] = &[
    ("name", Text),
    ("size", Int4),
    ("used", Int8),
    ("free", Int8),
    ("memtotal", Int8),
];

/// What runs on one shard.
#[derive(Default)]
struct OfShard {
    clients_active: usize,
    clients_waiting: usize,
    wait_us: u64,
    servers_active: usize,
    servers_idle: usize,
    user: String,
    stats: PoolStats,
}

pub(super) fn pools(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    let config = router.config();
    for (id, of) in by_shard(router, &fleet) {
        let Some(shard) = fleet.shard(id) else {
            continue;
        };
        let [maxwait, maxwait_us] = wait(of.wait_us);
        let logging_in = of
            .stats
            .open
            .saturating_sub(of.servers_active + of.servers_idle);
        table.push(vec![
            shard.name.to_string().into(),
            of.user.into(),
            of.clients_active.into(),
            of.clients_waiting.into(),
            0_u32.into(),
            0_u32.into(),
            of.servers_active.into(),
            0_u32.into(),
            0_u32.into(),
            of.servers_idle.into(),
            0_u32.into(),
            0_u32.into(),
            logging_in.into(),
            maxwait,
            maxwait_us,
            "transaction".into(),
            Cell::Null,
            config.pool_size.into(),
            config.pool_queue_max.into(),
            of.stats.load.tenants_active.into(),
            of.stats.load.tenants_waiting.into(),
            of.stats.reserve.into(),
            of.stats.load.level.into(),
        ]);
    }
}

/// The longest queues first.
pub(super) fn queues(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    let key = fleet.settings.tenant_key;
    let mut all: Vec<_> = (router.pools.all().into_iter())
        .flat_map(|pool| {
            let shard = pool.shard_name();
            let tenants = pool.tenants().into_iter();
            tenants.map(move |tenant| (shard.clone(), tenant))
        })
        .collect();
    all.sort_by_key(|(_, tenant)| std::cmp::Reverse((tenant.waiting, tenant.held, tenant.asker)));
    for (shard, tenant) in all {
        let name = tenant.asker.map(|id| id.display(key).to_string());
        let percent = f64::from(tenant.share_permille) / 10.0;
        table.push(vec![
            shard.into(),
            name.into(),
            tenant.waiting.into(),
            tenant.held.into(),
            format!("{percent:.1} %").into(),
        ]);
    }
}

fn by_shard(router: &Router, fleet: &Fleet) -> BTreeMap<ShardId, OfShard> {
    let mut shards: BTreeMap<ShardId, OfShard> = BTreeMap::new();
    for pool in router.pools.all() {
        let of = shards.entry(pool.shard_id()).or_default();
        of.stats = pool.stats();
        of.user.clone_from(&pool.login().user);
    }
    let servers = router.activity.servers();
    for server in &servers {
        let of = shards.entry(server.shard().id).or_default();
        match server.state() {
            ServerState::Active => of.servers_active += 1,
            ServerState::Idle => of.servers_idle += 1,
        }
    }
    for client in router.activity.clients() {
        let Some(shard) = shard_of(&client, &servers, fleet) else {
            continue;
        };
        let of = shards.entry(shard).or_default();
        if client.state() == ClientState::Waiting {
            of.clients_waiting += 1;
            of.wait_us = of.wait_us.max(client.waiting_us());
        } else {
            of.clients_active += 1;
        }
    }
    shards
}

/// The shard that serves the session, or would.
fn shard_of(
    client: &ClientRecord,
    servers: &[Arc<ServerRecord>],
    fleet: &Fleet,
) -> Option<ShardId> {
    if let Some(id) = client.server() {
        let at = servers.binary_search_by_key(&id, |server| server.id());
        if let Some(server) = at.ok().and_then(|at| servers.get(at)) {
            return Some(server.shard().id);
        }
    }
    let tenant = client.changing().tenant?;
    let record = fleet.directory.by_id(tenant)?;
    fleet.place(&record).map(|placement| placement.shard)
}

pub(super) fn databases(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    let config = router.config();
    let use_of = by_shard(router, &fleet);
    for (id, shard) in fleet.shards.iter() {
        let of = use_of.get(id);
        let gate = router.pools.gate(*id);
        let clients = of.map_or(0, |of| of.clients_active + of.clients_waiting);
        table.push(vec![
            shard.name.to_string().into(),
            shard.address.host.as_str().into(),
            shard.address.port.into(),
            shard.address.database.as_str().into(),
            of.map(|of| of.user.clone()).into(),
            config.pool_size.into(),
            0_u32.into(),
            0_u32.into(),
            0_u32.into(),
            Cell::Null,
            Cell::Null,
            config.pool_size.into(),
            of.map_or(0, |of| of.servers_active + of.servers_idle)
                .into(),
            config.clients_max.into(),
            clients.into(),
            u32::from(router.pools.is_paused(Some(*id))).into(),
            u32::from(gate == Gate::Disabled).into(),
            shard.kind.as_str().into(),
            shard.state.as_str().into(),
        ]);
    }
}

pub(super) fn users(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    let clients = router.activity.clients();
    let mut roles: Vec<_> = fleet.roles.values().collect();
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    for role in roles {
        let of_role = || clients.iter().filter(|c| c.origin().role.name == role.name);
        let pool_mode = match role.limits.pool_mode {
            PoolMode::Transaction => "transaction",
            PoolMode::Session => "session",
        };
        table.push(vec![
            role.name.as_str().into(),
            Cell::Null,
            Cell::Null,
            pool_mode.into(),
            0_u32.into(),
            of_role().filter(|c| c.server().is_some()).count().into(),
            role.limits.max_connections.unwrap_or(0).into(),
            of_role().count().into(),
            role.kind.as_str().into(),
            role.tenants.len().into(),
            role.limits.tenant_comment.into(),
            role.valid_until.map(super::time).into(),
        ]);
    }
}

pub(super) fn lists(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    for (name, items) in [
        ("databases", fleet.shards.len()),
        ("users", fleet.roles.len()),
        ("pools", router.pools.all().len()),
        ("free_clients", 0),
        ("used_clients", router.activity.clients().len()),
        ("login_clients", router.logins.open()),
        ("free_servers", 0),
        ("used_servers", router.activity.servers().len()),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
        ("tenants", fleet.directory.len()),
        ("active_tenants", router.activity.tenants.len()),
    ] {
        table.push(vec![name.into(), items.into()]);
    }
}

pub(super) fn mem(router: &Router, table: &mut Table) {
    let tenants = router.activity.tenants.len();
    let tenant_bytes = router.activity.tenants.bytes();
    for (name, size, used) in [
        (
            "client_record",
            size_of::<ClientRecord>(),
            router.activity.clients().len(),
        ),
        (
            "server_record",
            size_of::<ServerRecord>(),
            router.activity.servers().len(),
        ),
        (
            "tenant_usage",
            tenant_bytes.div_ceil(tenants.max(1)),
            tenants,
        ),
    ] {
        table.push(vec![
            name.into(),
            size.into(),
            used.into(),
            0_u32.into(),
            (size * used).into(),
        ]);
    }
    if let Some(process) = crate::metrics::process::read() {
        table.push(vec![
            "process_resident".into(),
            Cell::Null,
            process.resident_bytes.into(),
            0_u32.into(),
            process.resident_bytes.into(),
        ]);
    }
}
