//! Every setting there is, with its default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tenantry_router::config::{ClientTls, Hot, ServerTls};

use super::reader::Reader;
use super::rebalancer;
use super::value::{ByteSize, LogFormat, Period, PgUrl};
use crate::exit::Failure;

/// The configuration of one process, whatever its role.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `[catalog]`
    pub(crate) catalog: CatalogSettings,
    /// `[secrets]`
    pub(crate) secrets: SecretsSettings,
    /// `[log]`
    pub(crate) log: LogSettings,
    /// `[router]`; what other sections say is filled in by [`Settings::router`].
    router: tenantry_router::Config,
    /// `[rebalancer]`; what other sections say is filled in by [`Settings::rebalancer`].
    rebalancer: tenantry_rebalancer::Config,
    /// `[agent]`
    agent: AgentSettings,
    /// `[console]`
    pub(crate) console: ConsoleSettings,
}

/// Where the fleet's truth is.
#[derive(Clone, Debug)]
pub(crate) struct CatalogSettings {
    url: Option<PgUrl>,
}

/// Keys and passwords of the shards.
#[derive(Clone, Debug)]
pub(crate) struct SecretsSettings {
    file: Option<PathBuf>,
}

/// What is logged and how.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    /// A `tracing` filter such as `info` or `tenantry_router=debug,info`.
    pub(crate) filter: String,
    /// Text or JSON lines.
    pub(crate) format: LogFormat,
}

/// The process beside the shards.
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    /// Superuser on the shards, needed to bootstrap them; host, port and database come from the catalog.
    admin_url: Option<PgUrl>,
}

/// The operators' HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct ConsoleSettings {
    /// Address of the API and the dashboards.
    pub(crate) listen: SocketAddr,
}

impl Settings {
    /// Reads every setting. A bad value leaves its default in place; the reader knows and the caller asks it.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            catalog: CatalogSettings {
                url: reader.optional("catalog.url"),
            },
            secrets: SecretsSettings {
                file: reader.path("secrets.file"),
            },
            log: LogSettings {
                filter: reader.value("log.filter", "info".to_owned()),
                format: reader.value("log.format", LogFormat::Text),
            },
            router: router(reader),
            rebalancer: rebalancer::read(reader),
            agent: AgentSettings {
                admin_url: reader.optional("agent.admin_url"),
            },
            console: ConsoleSettings {
                listen: reader.value("console.listen", local(6434)),
            },
        }
    }

    /// The catalog's URL, which every command but `demo` needs.
    pub(crate) fn catalog_url(&self) -> Result<&str, Failure> {
        self.catalog.url.as_ref().map(PgUrl::reveal).ok_or_else(|| {
            Failure::usage("no catalog is configured")
                .hint("set `catalog.url` in tenantry.toml, TENANTRY_CATALOG__URL, or --catalog")
        })
    }

    /// Everything a router needs to know.
    pub(crate) fn router(&self) -> Result<tenantry_router::Config, Failure> {
        Ok(tenantry_router::Config {
            catalog_url: self.catalog_url()?.to_owned(),
            secrets_file: self.secrets_file()?,
            ..self.router.clone()
        })
    }

    /// Everything a rebalancer needs to know.
    pub(crate) fn rebalancer(&self) -> Result<tenantry_rebalancer::Config, Failure> {
        Ok(tenantry_rebalancer::Config {
            catalog_url: self.catalog_url()?.to_owned(),
            secrets_file: self.secrets_file()?,
            ..self.rebalancer.clone()
        })
    }

    /// Everything an agent needs to know.
    pub(crate) fn agent(&self) -> Result<tenantry_shard_agent::Config, Failure> {
        Ok(tenantry_shard_agent::Config {
            catalog_url: self.catalog_url()?.to_owned(),
            secrets_file: self.secrets_file()?,
            admin_url: self
                .agent
                .admin_url
                .as_ref()
                .map(|url| url.reveal().to_owned()),
        })
    }

    /// The secrets file, which whoever logs in to shards needs.
    pub(crate) fn secrets_file(&self) -> Result<PathBuf, Failure> {
        self.secrets.file.clone().ok_or_else(|| {
            Failure::usage("no secrets file is configured")
                .hint("set `secrets.file` in tenantry.toml, TENANTRY_SECRETS__FILE, or --secrets")
        })
    }
}

/// The router's own settings; its defaults are the router crate's.
fn router(reader: &mut Reader<'_>) -> tenantry_router::Config {
    let default = tenantry_router::Config::default();
    tenantry_router::Config {
        listen: reader.value("router.listen", default.listen),
        http_listen: reader.value("router.http_listen", default.http_listen),
        control_listen: reader.optional("router.control_listen"),
        control_address: reader.optional("router.control_address"),
        snapshot_file: reader.path("router.snapshot_file"),
        name: reader.value("router.name", default.name),
        number: reader.value("router.number", default.number),
        peer_address: reader.optional("router.peer_address"),
        handover_socket: reader.path("router.handover_socket"),
        database: reader.value("router.database", default.database),
        threads: reader.value("router.threads", default.threads),
        pool_size: reader.value("router.pool_size", default.pool_size),
        pool_reserve: reader.value("router.pool_reserve", default.pool_reserve),
        pool_adaptive: reader.value("router.pool_adaptive", default.pool_adaptive),
        pool_queue_max: reader.value("router.pool_queue_max", default.pool_queue_max),
        pool_tenant_queue_max: reader.value(
            "router.pool_tenant_queue_max",
            default.pool_tenant_queue_max,
        ),
        operator_connections_max: reader.value(
            "router.operator_connections_max",
            default.operator_connections_max,
        ),
        clients_max: reader.value("router.clients_max", default.clients_max),
        clients_unauthenticated_max: reader.value(
            "router.clients_unauthenticated_max",
            default.clients_unauthenticated_max,
        ),
        connection_rate_max: reader
            .value("router.connection_rate_max", default.connection_rate_max),
        login_failure_rate_max: reader.value(
            "router.login_failure_rate_max",
            default.login_failure_rate_max,
        ),
        statements_per_server_max: reader.value(
            "router.statements_per_server_max",
            default.statements_per_server_max,
        ),
        message_bytes_max: size(reader, "router.message_size_max", default.message_bytes_max),
        client_tls: ClientTls {
            sslmode: reader.value("router.client_tls_sslmode", default.client_tls.sslmode),
            cert_file: reader.path("router.client_tls_cert_file"),
            key_file: reader.path("router.client_tls_key_file"),
            ca_file: reader.path("router.client_tls_ca_file"),
            sni_suffix: reader.optional("router.client_tls_sni_suffix"),
        },
        server_tls: ServerTls {
            sslmode: reader.value("router.server_tls_sslmode", default.server_tls.sslmode),
            ca_file: reader.path("router.server_tls_ca_file"),
        },
        log_min_duration_statement: reader
            .value(
                "router.log_min_duration_statement",
                Period(default.log_min_duration_statement),
            )
            .0,
        log_statement_text: reader.value("router.log_statement_text", default.log_statement_text),
        hot: hot(reader, default.hot),
        timeouts: timeouts(reader, default.timeouts),
        catalog_url: default.catalog_url,
        secrets_file: default.secrets_file,
        left_out: default.left_out,
    }
}

fn hot(reader: &mut Reader<'_>, default: Hot) -> Hot {
    Hot {
        share_percent: reader.value("router.hot_share_percent", default.share_percent),
        window: reader.value("router.hot_window", Period(default.window)).0,
        growth: reader.value("router.hot_growth", default.growth),
        cold_share_percent: reader.value("router.cold_share_percent", default.cold_share_percent),
        cold_window: reader
            .value("router.cold_window", Period(default.cold_window))
            .0,
    }
}

fn timeouts(
    reader: &mut Reader<'_>,
    default: tenantry_router::Timeouts,
) -> tenantry_router::Timeouts {
    let mut period = |key: &str, default: Duration| reader.value(key, Period(default)).0;
    tenantry_router::Timeouts {
        login: period("router.login_timeout", default.login),
        query_wait: period("router.query_wait_timeout", default.query_wait),
        server_connect: period("router.server_connect_timeout", default.server_connect),
        server_idle: period("router.server_idle_timeout", default.server_idle),
        server_retry: period("router.server_retry_delay", default.server_retry),
        provisioning_wait: period("router.provisioning_wait", default.provisioning_wait),
        query: period("router.query_timeout", default.query),
        transaction: period("router.transaction_timeout", default.transaction),
        idle_transaction: period("router.idle_transaction_timeout", default.idle_transaction),
        client_idle: period("router.client_idle_timeout", default.client_idle),
        drain: period("router.drain_timeout", default.drain),
        drain_replaced: period("router.drain_replaced_timeout", default.drain_replaced),
    }
}

/// A size in memory. One beyond the address space is beyond everything else as well.
fn size(reader: &mut Reader<'_>, key: &str, default: usize) -> usize {
    usize::try_from(reader.value(key, ByteSize(default as u64)).0).unwrap_or(usize::MAX)
}

/// Loopback: a process that was told nothing must not listen to the world.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
