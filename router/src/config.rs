//! What a router is told: addresses, files, pool sizes and time limits.
//!
//! Plain data with defaults; reading files and the environment is the command line's work. Which
//! settings a reload changes and which need a restart stands in `config/settings.rs`.

mod settings;

mod tls;

pub use tls::{ClientSslMode, ClientTls, ServerSslMode, ServerTls, UnknownSslMode};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::settings::{Change, Changeable, SETTINGS, Setting};

/// Largest router number: BackendKeyData carries it in 10 bits.
pub const ROUTER_NUMBER_MAX: u16 = 1023;

/// Database `shard/NAME` is one shard, for operators.
pub(crate) const SHARD_DATABASE: &str = "shard";
/// The database of the router's own console, for operators.
pub(crate) const CONSOLE_DATABASE: &str = "tenantry";

/// Configuration of one router process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where PostgreSQL clients connect.
    pub listen: SocketAddr,
    /// Where HTTP clients connect (`/livez`, `/readyz`, `/metrics`, `/resolve`).
    pub http_listen: SocketAddr,
    /// Where the rebalancer connects to hold tenants that move; `http_listen` unless given.
    pub control_listen: Option<SocketAddr>,
    /// `HOST:PORT` at which it does, as the catalog is told; where the router listens unless given, which serves as long
    /// as that is one address and not all.
    pub control_address: Option<String>,
    /// libpq URI of the catalog database; carries a password, so it is never printed.
    pub catalog_url: String,
    /// File with the guard keys and passwords of the shards.
    pub secrets_file: PathBuf,
    /// Where the directory snapshot is kept; without one a start needs the catalog.
    pub snapshot_file: Option<PathBuf>,
    /// Name of this router, its own among the fleet's routers.
    pub name: String,
    /// Number of this router in the fleet, 1 to [`ROUTER_NUMBER_MAX`], part of every cancel key.
    /// 0 takes the one that the catalog keeps for the name.
    pub number: u16,
    /// `HOST:PORT` at which other routers pass cancel requests on; `listen` unless given, which
    /// serves as long as it is one address and not all.
    pub peer_address: Option<String>,
    /// Unix socket at which a starting router of the same configuration takes the listening
    /// sockets over, so that a restart refuses nobody; without one there is no such restart.
    pub handover_socket: Option<PathBuf>,
    /// Database name that clients give (`NAME` or `NAME/TENANT`).
    pub database: String,
    /// Threads that serve sessions, each with sockets of its own. One serves about as many queries as a core can;
    /// every further one makes a query a little dearer.
    pub threads: usize,
    /// Server connections per shard.
    pub pool_size: usize,
    /// Of these, how many are left to tenants that have had less than the others; at most a quarter of the pool.
    pub pool_reserve: usize,
    /// Whether less of a pool is given out while its shard is slow.
    pub pool_adaptive: bool,
    /// Sessions that may wait for a server connection of one shard.
    pub pool_queue_max: usize,
    /// Sessions of one tenant that may; none takes more than half of what others leave.
    pub pool_tenant_queue_max: usize,
    /// Operators' sessions (`shard/NAME`) per shard, beside the pool.
    pub operator_connections_max: usize,
    /// Client connections at once, all roles together.
    pub clients_max: usize,
    /// Connections at once that have not logged in yet; beyond it the oldest of them makes room.
    pub clients_unauthenticated_max: usize,
    /// New connections per second from one address; 0 is no limit.
    pub connection_rate_max: usize,
    /// Failed logins per minute from one address; 0 is no limit.
    pub login_failure_rate_max: usize,
    /// Named statements kept per server connection.
    pub statements_per_server_max: usize,
    /// Largest message accepted from a client, bytes.
    pub message_bytes_max: usize,
    /// TLS towards clients.
    pub client_tls: ClientTls,
    /// TLS towards shards.
    pub server_tls: ServerTls,
    /// Statements that take longer are logged, with their fingerprint; zero logs none.
    #[serde(with = "humantime_serde")]
    pub log_min_duration_statement: Duration,
    /// Slow statements are logged with their text, without values.
    pub log_statement_text: bool,
    /// Which tenants are hot.
    pub hot: Hot,
    /// Time limits.
    pub timeouts: Timeouts,
    /// For measurements only; no configuration file can set it.
    #[serde(skip)]
    pub left_out: LeftOut,
}

/// Parts of the design to do without, so that a measurement can show what each is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// A server connection is bound anew for each transaction.
    pub kept_bind: bool,
    /// Idle sessions keep their buffers.
    pub buffer_release: bool,
    /// A server connection is given back as its client left it.
    pub cleanup: bool,
    /// Connections are given out in order of arrival, whoever asks.
    pub fairness: bool,
}

/// When a tenant is hot, and when it is cold again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hot {
    /// Share of its shard's busy time from which a tenant is hot, per cent.
    pub share_percent: usize,
    /// For so long.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How many times as busy as it used to be a tenant is hot.
    pub growth: usize,
    /// Share below which a hot tenant cools, per cent.
    pub cold_share_percent: usize,
    /// For so long.
    #[serde(with = "humantime_serde")]
    pub cold_window: Duration,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            share_percent: 30,
            window: Duration::from_secs(2),
            growth: 10,
            cold_share_percent: 15,
            cold_window: Duration::from_secs(30),
        }
    }
}

/// Time limits of one router.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From accept to ReadyForQuery, for a client.
    #[serde(with = "humantime_serde")]
    pub login: Duration,
    /// Longest wait for a server connection.
    #[serde(with = "humantime_serde")]
    pub query_wait: Duration,
    /// Longest time to open a server connection.
    #[serde(with = "humantime_serde")]
    pub server_connect: Duration,
    /// An idle server connection older than this is closed.
    #[serde(with = "humantime_serde")]
    pub server_idle: Duration,
    /// How long a shard that refused a connection is left alone.
    #[serde(with = "humantime_serde")]
    pub server_retry: Duration,
    /// How long a session waits for its tenant to leave `provisioning`.
    #[serde(with = "humantime_serde")]
    pub provisioning_wait: Duration,
    /// Longest time that a statement may run; zero: any.
    #[serde(with = "humantime_serde")]
    pub query: Duration,
    /// Longest time that a transaction may be open; zero: any.
    #[serde(with = "humantime_serde")]
    pub transaction: Duration,
    /// Longest silence of a client in an open transaction; zero: any.
    #[serde(with = "humantime_serde")]
    pub idle_transaction: Duration,
    /// Longest silence of a client between transactions; zero: any.
    #[serde(with = "humantime_serde")]
    pub client_idle: Duration,
    /// How long a stopping router lets open transactions finish.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// The same for a router that has been replaced: nobody waits for its end.
    #[serde(with = "humantime_serde")]
    pub drain_replaced: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 6432)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 6433)),
            control_listen: None,
            control_address: None,
            catalog_url: String::new(),
            secrets_file: PathBuf::from("secrets.json"),
            snapshot_file: None,
            name: "router-1".to_owned(),
            number: 0,
            peer_address: None,
            handover_socket: None,
            database: "shop".to_owned(),
            threads: std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2)),
            pool_size: 20,
            pool_reserve: 1,
            pool_adaptive: true,
            pool_queue_max: 10_000,
            pool_tenant_queue_max: 5000,
            operator_connections_max: 10,
            clients_max: 20_000,
            clients_unauthenticated_max: 1000,
            connection_rate_max: 0,
            login_failure_rate_max: 0,
            statements_per_server_max: 500,
            message_bytes_max: 256 << 20,
            client_tls: ClientTls::default(),
            server_tls: ServerTls::default(),
            log_min_duration_statement: Duration::ZERO,
            log_statement_text: false,
            hot: Hot::default(),
            timeouts: Timeouts::default(),
            left_out: LeftOut::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(15),
            query_wait: Duration::from_secs(30),
            server_connect: Duration::from_secs(5),
            server_idle: Duration::from_secs(600),
            server_retry: Duration::from_millis(200),
            provisioning_wait: Duration::from_secs(1),
            query: Duration::ZERO,
            transaction: Duration::ZERO,
            idle_transaction: Duration::ZERO,
            client_idle: Duration::ZERO,
            drain: Duration::from_secs(10),
            drain_replaced: Duration::from_secs(600),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The router number does not fit the cancel key.
    #[error("router number {0} is outside 1..={ROUTER_NUMBER_MAX}")]
    Number(u16),
    /// A limit that must be positive is zero.
    #[error("`{0}` must be at least 1")]
    Zero(&'static str),
    /// No catalog was named.
    #[error("`catalog_url` is empty: give the libpq URI of the catalog database")]
    CatalogUrl,
    /// A router needs a name to be told from others.
    #[error("`name` is empty: give this router a name of its own")]
    Name,
    /// The database name would be ambiguous beside `NAME/TENANT`.
    #[error("`database` {0:?} is empty or contains a slash")]
    Database(String),
    /// The database name means something else to operators.
    #[error("`database` {0:?} is reserved for operators: take another name")]
    ReservedDatabase(String),
    /// A mode of TLS that needs a file.
    #[error("`{key}` is not set, and this `{needed_for}` needs it")]
    TlsFile {
        /// The setting that is missing.
        key: &'static str,
        /// The setting that asks for it.
        needed_for: &'static str,
    },
    /// Files that cannot serve for TLS, and why.
    #[error("{0}")]
    Tls(String),
    /// Not the end of a host name.
    #[error(
        "`client_tls_sni_suffix` {0:?} is no host name: give `db.example`, without a dot at either end"
    )]
    SniSuffix(String),
}

impl Config {
    /// Every reason why this configuration cannot be used, so that all can be mended at once.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        if self.number > ROUTER_NUMBER_MAX {
            problems.push(ConfigError::Number(self.number));
        }
        if self.name.is_empty() {
            problems.push(ConfigError::Name);
        }
        for (name, value) in [
            ("pool_size", self.pool_size),
            ("pool_queue_max", self.pool_queue_max),
            ("pool_tenant_queue_max", self.pool_tenant_queue_max),
            ("operator_connections_max", self.operator_connections_max),
            ("clients_max", self.clients_max),
            (
                "clients_unauthenticated_max",
                self.clients_unauthenticated_max,
            ),
            ("statements_per_server_max", self.statements_per_server_max),
            ("message_bytes_max", self.message_bytes_max),
            ("hot_share_percent", self.hot.share_percent),
            ("hot_growth", self.hot.growth),
        ] {
            if value == 0 {
                problems.push(ConfigError::Zero(name));
            }
        }
        if self.catalog_url.is_empty() {
            problems.push(ConfigError::CatalogUrl);
        }
        if self.database.is_empty() || self.database.contains('/') {
            problems.push(ConfigError::Database(self.database.clone()));
        }
        if matches!(self.database.as_str(), SHARD_DATABASE | CONSOLE_DATABASE) {
            problems.push(ConfigError::ReservedDatabase(self.database.clone()));
        }
        self.client_tls.problems(&mut problems);
        self.server_tls.problems(&mut problems);
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = Config {
            number: 1024,
            pool_size: 0,
            database: "a/b".to_owned(),
            ..Config::default()
        };
        assert_eq!(
            config.problems(),
            vec![
                ConfigError::Number(1024),
                ConfigError::Zero("pool_size"),
                ConfigError::CatalogUrl,
                ConfigError::Database("a/b".to_owned()),
            ]
        );
    }

    #[test]
    fn operators_databases_are_not_a_fleets() {
        for name in ["shard", "tenantry"] {
            let config = Config {
                catalog_url: "postgresql://localhost/catalog".to_owned(),
                database: name.to_owned(),
                ..Config::default()
            };
            assert_eq!(
                config.problems(),
                vec![ConfigError::ReservedDatabase(name.to_owned())]
            );
        }
    }
}
