//! What `/metrics` tells. Base units, prefix `tenantry_`, no tenant label.

pub(crate) mod process;
pub(crate) mod tenants;
mod work;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::activity::Activity;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NameLabel {
    name: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ShardLabel {
    shard: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// All metrics of one router.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    clients: Gauge,
    logins: Counter,
    login_failures: Family<NameLabel, Counter>,
    clients_unauthenticated: Gauge,
    tls_handshakes: Counter,
    tls_certificate_expires: Gauge,
    tls_reload_failures: Counter,
    cancels: Counter,
    login_duration: Histogram,
    draining: Gauge,
    catalog_contact_age: Gauge<f64, AtomicU64>,
    reloads: Family<OutcomeLabel, Counter>,
    refusals: Family<NameLabel, Counter>,
    servers_lost: Counter,
    wait: Histogram,
    hold_wait: Histogram,
    tenants_moving: Gauge,
    fence_replays: Counter,
    fence_follows: Counter,
    pool_open: Family<ShardLabel, Gauge>,
    pool_idle: Family<ShardLabel, Gauge>,
    pool_waiting: Family<ShardLabel, Gauge>,
    pool_tenants_waiting: Family<ShardLabel, Gauge>,
    pool_level: Family<ShardLabel, Gauge>,
    directory_tenants: Gauge,
    fleet_sequence: Gauge,
    catalog_connected: Gauge,
    fleet_from_snapshot: Gauge,
}

impl Metrics {
    pub(crate) fn new(activity: &Arc<Activity>) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tenantry_router"),
            clients: Gauge::default(),
            logins: Counter::default(),
            login_failures: Family::default(),
            clients_unauthenticated: Gauge::default(),
            tls_handshakes: Counter::default(),
            tls_certificate_expires: Gauge::default(),
            tls_reload_failures: Counter::default(),
            cancels: Counter::default(),
            // 1 millisecond to 16 seconds.
            login_duration: Histogram::new(exponential_buckets(1e-3, 2.0, 15)),
            draining: Gauge::default(),
            catalog_contact_age: Gauge::default(),
            reloads: Family::default(),
            refusals: Family::default(),
            servers_lost: Counter::default(),
            // 10 microseconds to 80 seconds.
            wait: Histogram::new(exponential_buckets(1e-5, 3.0, 15)),
            // 100 microseconds to 13 seconds.
            hold_wait: Histogram::new(exponential_buckets(1e-4, 2.0, 18)),
            tenants_moving: Gauge::default(),
            fence_replays: Counter::default(),
            fence_follows: Counter::default(),
            pool_open: Family::default(),
            pool_idle: Family::default(),
            pool_waiting: Family::default(),
            pool_tenants_waiting: Family::default(),
            pool_level: Family::default(),
            directory_tenants: Gauge::default(),
            fleet_sequence: Gauge::default(),
            catalog_connected: Gauge::default(),
            fleet_from_snapshot: Gauge::default(),
        };
        metrics.register();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = Info::new(vec![("version", version)]);
        metrics.registry.register("build", "What runs here", build);
        let work = Box::new(work::Work(Arc::clone(activity)));
        metrics.registry.register_collector(work);
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("clients", "Client sessions", self.clients.clone());
        r.register("logins", "Successful logins", self.logins.clone());
        r.register(
            "login_failures",
            "Failed logins by reason",
            self.login_failures.clone(),
        );
        r.register(
            "clients_unauthenticated",
            "Client connections that have not logged in yet",
            self.clients_unauthenticated.clone(),
        );
        r.register(
            "tls_handshakes",
            "Client connections that were encrypted",
            self.tls_handshakes.clone(),
        );
        r.register(
            "tls_certificate_not_after_timestamp_seconds",
            "When the certificate shown to clients expires; 0 without one",
            self.tls_certificate_expires.clone(),
        );
        r.register(
            "tls_reload_failures",
            "Changed certificates, keys or authorities that could not be used",
            self.tls_reload_failures.clone(),
        );
        r.register(
            "cancels",
            "Cancel requests that reached this router",
            self.cancels.clone(),
        );
        r.register_with_unit(
            "login_duration",
            "From accept to a session",
            Unit::Seconds,
            self.login_duration.clone(),
        );
        r.register(
            "draining",
            "1 while no session may begin because the router stops",
            self.draining.clone(),
        );
        r.register_with_unit(
            "catalog_contact_age",
            "Time since the catalog's change log was last seen to its end",
            Unit::Seconds,
            self.catalog_contact_age.clone(),
        );
        r.register(
            "reloads",
            "Configuration reloads by outcome",
            self.reloads.clone(),
        );
        r.register(
            "refusals",
            "Errors the router answered itself, by name",
            self.refusals.clone(),
        );
        r.register(
            "servers_lost",
            "Server connections lost while leased",
            self.servers_lost.clone(),
        );
        r.register_with_unit(
            "connection_wait",
            "Wait for a server connection that was not idle",
            Unit::Seconds,
            self.wait.clone(),
        );
        r.register_with_unit(
            "tenant_hold_wait",
            "Wait of a transaction because its tenant moves",
            Unit::Seconds,
            self.hold_wait.clone(),
        );
        r.register(
            "tenants_moving",
            "Tenants that this router knows to be moving",
            self.tenants_moving.clone(),
        );
        r.register(
            "fence_replays",
            "Transactions that met their tenant's fence and were begun again",
            self.fence_replays.clone(),
        );
        r.register(
            "fence_follows",
            "Tenants that this router has followed to another shard before it was told",
            self.fence_follows.clone(),
        );
        r.register(
            "pool_connections",
            "Server connections",
            self.pool_open.clone(),
        );
        r.register(
            "pool_idle",
            "Idle server connections",
            self.pool_idle.clone(),
        );
        r.register(
            "pool_waiting",
            "Sessions that wait for a server connection",
            self.pool_waiting.clone(),
        );
        r.register(
            "pool_tenants_waiting",
            "Tenants that have sessions waiting for a server connection",
            self.pool_tenants_waiting.clone(),
        );
        r.register(
            "pool_level",
            "Server connections that tenants may hold beyond what newcomers are left; falls while the shard is slow",
            self.pool_level.clone(),
        );
        r.register(
            "directory_tenants",
            "Tenants in the directory",
            self.directory_tenants.clone(),
        );
        r.register(
            "fleet_sequence",
            "Last catalog change applied",
            self.fleet_sequence.clone(),
        );
        r.register(
            "catalog_connected",
            "1 while the catalog is followed",
            self.catalog_connected.clone(),
        );
        r.register(
            "fleet_from_snapshot",
            "1 while the fleet is the snapshot's and not the catalog's",
            self.fleet_from_snapshot.clone(),
        );
    }

    pub(crate) fn logged_in(&self) {
        self.logins.inc();
        self.clients.inc();
    }

    pub(crate) fn session_ended(&self) {
        self.clients.dec();
    }

    pub(crate) fn login_took(&self, time: Duration) {
        self.login_duration.observe(time.as_secs_f64());
    }

    pub(crate) fn cancel_requested(&self) {
        self.cancels.inc();
    }

    pub(crate) fn reloaded(&self, done: bool) {
        let outcome = if done { "done" } else { "refused" };
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn stopping(&self, draining: bool, contact_age: Option<Duration>) {
        self.draining.set(i64::from(draining));
        let age = contact_age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.catalog_contact_age.set(age);
    }

    pub(crate) fn login_failed(&self, name: &'static str) {
        self.login_failures.get_or_create(&NameLabel { name }).inc();
    }

    pub(crate) fn unauthenticated(&self, clients: usize) {
        self.clients_unauthenticated
            .set(i64::try_from(clients).unwrap_or(i64::MAX));
    }

    pub(crate) fn encrypted(&self) {
        self.tls_handshakes.inc();
    }

    pub(crate) fn certificate_expires(&self, at: Option<i64>) {
        self.tls_certificate_expires.set(at.unwrap_or_default());
    }

    pub(crate) fn tls_reload_failed(&self) {
        self.tls_reload_failures.inc();
    }

    pub(crate) fn refused(&self, name: &'static str) {
        self.refusals.get_or_create(&NameLabel { name }).inc();
    }

    pub(crate) fn server_lost(&self) {
        self.servers_lost.inc();
    }

    pub(crate) fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    pub(crate) fn held(&self, wait: Duration) {
        self.hold_wait.observe(wait.as_secs_f64());
    }

    pub(crate) fn moving(&self, tenants: usize) {
        self.tenants_moving
            .set(i64::try_from(tenants).unwrap_or(i64::MAX));
    }

    pub(crate) fn replayed(&self) {
        self.fence_replays.inc();
    }

    pub(crate) fn followed(&self) {
        self.fence_follows.inc();
    }

    pub(crate) fn pool(&self, shard: &str, stats: crate::pool::PoolStats) {
        let label = ShardLabel {
            shard: shard.to_owned(),
        };
        let set = |family: &Family<ShardLabel, Gauge>, value: usize| {
            family
                .get_or_create(&label)
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.pool_open, stats.open);
        set(&self.pool_idle, stats.idle);
        set(&self.pool_waiting, stats.load.waiting);
        set(&self.pool_tenants_waiting, stats.load.tenants_waiting);
        set(&self.pool_level, stats.load.level);
    }

    pub(crate) fn fleet(&self, tenants: usize, sequence: u64, connected: bool, snapshot: bool) {
        self.directory_tenants
            .set(i64::try_from(tenants).unwrap_or(i64::MAX));
        self.fleet_sequence
            .set(i64::try_from(sequence).unwrap_or(i64::MAX));
        self.catalog_connected.set(i64::from(connected));
        self.fleet_from_snapshot.set(i64::from(snapshot));
    }

    /// The exposition text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
