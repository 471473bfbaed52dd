//! Every setting there is, with its default.
#![allow(dead_code, reason = "settings of the roles other binaries' commands read")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::value::{LogFormat, Period, PgUrl};
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
    /// `[router]`
    pub(crate) router: RouterSettings,
    /// `[agent]`
    pub(crate) agent: AgentSettings,
    /// `[console]`
    pub(crate) console: ConsoleSettings,
    /// `[shutdown]`
    pub(crate) shutdown: ShutdownSettings,
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

/// The data plane.
#[derive(Clone, Debug)]
pub(crate) struct RouterSettings {
    /// PostgreSQL clients connect here.
    pub(crate) listen: SocketAddr,
    /// HTTP clients, health checks and metrics.
    pub(crate) http_listen: SocketAddr,
    /// Local copy of the directory, for a start while the catalog is down.
    pub(crate) snapshot_file: Option<PathBuf>,
    /// Number of this router in the fleet, part of every cancel key.
    pub(crate) id: u16,
    /// Server connections per shard and role.
    pub(crate) pool_size: usize,
}

/// The process beside the shards.
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    /// Superuser on the shards, needed to bootstrap them; host, port and database come from the catalog.
    pub(crate) admin_url: Option<PgUrl>,
}

/// The operators' HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct ConsoleSettings {
    /// Address of the API and the dashboards.
    pub(crate) listen: SocketAddr,
}

/// Ending a process.
#[derive(Clone, Debug)]
pub(crate) struct ShutdownSettings {
    /// How long clients may take to finish their transactions.
    pub(crate) grace: Period,
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
            router: RouterSettings {
                listen: reader.value("router.listen", local(6432)),
                http_listen: reader.value("router.http_listen", local(6433)),
                snapshot_file: reader.path("router.snapshot_file"),
                id: reader.value("router.id", 1),
                pool_size: reader.value("router.pool_size", 20),
            },
            agent: AgentSettings {
                admin_url: reader.optional("agent.admin_url"),
            },
            console: ConsoleSettings {
                listen: reader.value("console.listen", local(6434)),
            },
            shutdown: ShutdownSettings {
                grace: reader.value("shutdown.grace", Period(Duration::from_secs(30))),
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

    /// The secrets file, which whoever logs in to shards needs.
    pub(crate) fn secrets_file(&self) -> Result<PathBuf, Failure> {
        self.secrets.file.clone().ok_or_else(|| {
            Failure::usage("no secrets file is configured")
                .hint("set `secrets.file` in tenantry.toml, TENANTRY_SECRETS__FILE, or --secrets")
        })
    }
}

/// Loopback: a process that was told nothing must not listen to the world.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
