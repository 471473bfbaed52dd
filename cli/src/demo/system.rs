//! The demo from its first server to its last: builds it, keeps it running, takes it down in order.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tenantry_cluster::Server;
use tenantry_schema::catalog::{Catalog, TenantPage};
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::shard::Shard;
use tenantry_schema::tenant::TenantState;
use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::data;
use super::descriptor::{Descriptor, ShardEntry, TenantEntry, Urls};
use super::fleet::{CATALOG_DATABASE, SHARD_DATABASE, Servers, ShardPlan};
use super::founding::{self, OPERATOR_ROLE, PASSWORD, SERVICE_ROLE, TENANT_ROLE};
use super::place::{Place, State, write_private};
use super::ports::{PortPlan, local};
use super::stores::{self, Words};
use crate::exit::{Exit, Explain, Failure};
use crate::output::note;

/// Stores listed in `demo.json`.
const SAMPLE: u32 = 20;

/// Longest wait for the agents to take in the stores.
const ACTIVE_MAX: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

/// A demo that serves.
struct Demo {
    servers: Servers,
    crew: Crew,
    descriptor: Descriptor,
}

/// Builds the demo, calls `ready`, and keeps it running until `shutdown` or until one of its parts fails.
pub(super) async fn run(
    place: &Place,
    state: State,
    ports: PortPlan,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Descriptor) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let demo = tokio::select! {
        built = Box::pin(build(place, &state, ports)) => built?,
        // Dropping what was built so far stops it.
        () = shutdown.cancelled() => return Ok(Exit::Ok),
    };
    let Demo {
        servers,
        mut crew,
        descriptor,
    } = demo;
    place.save_state(&State {
        complete: true,
        ..state
    })?;
    descriptor.write(place)?;
    let outcome = match ready(&descriptor) {
        Ok(()) => tokio::select! {
            () = shutdown.cancelled() => Ok(Exit::Ok),
            failure = crew.failed() => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    // Tools must not find a demo that is going away.
    place.withdraw()?;
    crew.stop().await;
    servers.stop().await?;
    note("the demo has stopped");
    outcome
}

async fn build(place: &Place, state: &State, ports: PortPlan) -> Result<Demo, Failure> {
    let mut clock = Clock::start();
    let words = Words::load()?;
    let planned = stores::plan(&words, state.tenants);
    if !state.complete {
        place.clear()?;
        place.save_state(state)?;
    }
    let servers = Servers::start(place, ports, state.shards).await?;
    clock.step(format_args!(
        "{} PostgreSQL servers",
        servers.shards.len() + 1
    ));
    let catalog = founding::open_catalog(&servers.catalog).await?;
    let (shards, secrets) = if state.complete {
        let secrets = SecretsFile::load(place.secrets())
            .explain(|| "the secrets cannot be read".to_owned())?;
        (
            founding::readdress_shards(&catalog, &servers).await?,
            secrets,
        )
    } else {
        let secrets = founding::write_secrets(place, &servers)?;
        let shards = founding::add_shards(&catalog, &servers).await?;
        founding::add_roles(&catalog, &planned).await?;
        (shards, secrets)
    };
    write_private(&place.config(), &config_file(place, &servers, ports)?)?;
    bootstrap(&catalog, &servers, &shards, &secrets).await?;
    clock.step("catalog and shards");
    let mut crew = Crew::start(place, &servers, ports)?;
    if !state.complete {
        founding::add_stores(&servers.catalog, &planned).await?;
        data::fill(&catalog.ring().await?, &servers, &shards, &words, &planned).await?;
        clock.step(format_args!(
            "{} stores with products, customers and orders",
            planned.len()
        ));
    }
    wait_active(&catalog).await?;
    crew.wait_ready().await?;
    clock.step("router and agent");
    let descriptor = describe(place, &catalog, &servers, ports, &shards).await?;
    Ok(Demo {
        servers,
        crew,
        descriptor,
    })
}

/// Brings every shard's database to a shard, all at a time. On one that is, this only looks.
async fn bootstrap(
    catalog: &Catalog,
    servers: &Servers,
    shards: &[Shard],
    secrets: &SecretsFile,
) -> Result<(), Failure> {
    let settings = &catalog.settings().await?;
    let jobs = servers
        .shards
        .iter()
        .zip(shards)
        .map(|((plan, server), shard)| async move {
            let secret = secrets.shard(&plan.name).ok_or_else(|| {
                Failure::precondition(format!("the secrets file has no entry for {}", plan.name))
            })?;
            tenantry_shard_agent::bootstrap(&server.config(SHARD_DATABASE), shard, settings, secret)
                .await
                .explain(|| format!("{} cannot be made a shard", plan.name))
        });
    try_join_all(jobs).await.map(|_| ())
}

/// Waits until every store has its owner row and is active.
async fn wait_active(catalog: &Catalog) -> Result<(), Failure> {
    let deadline = Instant::now() + ACTIVE_MAX;
    let waiting = TenantPage {
        after: None,
        state: Some(TenantState::Provisioning),
        limit: 1,
    };
    while !catalog.list_tenants(&waiting).await?.is_empty() {
        if Instant::now() > deadline {
            return Err(Failure::new(
                Exit::TimedOut,
                "the agent does not take the stores in",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn describe(
    place: &Place,
    catalog: &Catalog,
    servers: &Servers,
    ports: PortPlan,
    shards: &[Shard],
) -> Result<Descriptor, Failure> {
    let page = TenantPage {
        limit: SAMPLE,
        ..TenantPage::default()
    };
    let sample = catalog.list_tenants(&page).await?;
    let mut tenants = Vec::new();
    for tenant in &sample {
        let placement = catalog.locate(tenant).await?;
        let shard =
            placement.and_then(|placement| shards.iter().find(|shard| shard.id == placement.shard));
        let platform = format!("{}.{}", tenant.slug, stores::PLATFORM_DOMAIN);
        let custom = tenant.hostnames.iter().find(|name| **name != platform);
        tenants.push(TenantEntry {
            id: tenant
                .id
                .display(catalog.settings().await?.tenant_key)
                .to_string(),
            slug: tenant.slug.clone(),
            hostname: custom.cloned().unwrap_or(platform),
            shard: shard
                .map(|shard| shard.name.to_string())
                .unwrap_or_default(),
        });
    }
    let first = tenants
        .first()
        .map(|tenant| tenant.slug.as_str())
        .unwrap_or_default();
    let router = |user: &str| {
        let (port, database) = (ports.router(), SHARD_DATABASE);
        format!("postgresql://{user}:{PASSWORD}@127.0.0.1:{port}/{database}")
    };
    Ok(Descriptor {
        pid: std::process::id(),
        dir: place.dir().to_owned(),
        http: format!("http://127.0.0.1:{}", ports.http()),
        urls: Urls {
            service: router(SERVICE_ROLE),
            operator: router(OPERATOR_ROLE),
            tenant: router(&format!("{TENANT_ROLE}.{first}")),
            catalog: servers.catalog.url(CATALOG_DATABASE),
        },
        shards: servers
            .shards
            .iter()
            .map(|(plan, server)| shard_entry(plan, server))
            .collect(),
        tenants,
    })
}

fn shard_entry(plan: &ShardPlan, server: &Server) -> ShardEntry {
    ShardEntry {
        name: plan.name.clone(),
        kind: plan.kind.as_str().to_owned(),
        url: server.url(SHARD_DATABASE),
        pid: server.pid().unwrap_or_default(),
    }
}

/// Configuration with which every other command of this binary acts on the demo.
fn config_file(place: &Place, servers: &Servers, ports: PortPlan) -> Result<String, Failure> {
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let settings = BTreeMap::from([
        (
            "catalog",
            BTreeMap::from([("url", servers.catalog.url(CATALOG_DATABASE))]),
        ),
        ("secrets", BTreeMap::from([("file", path(place.secrets()))])),
        (
            "agent",
            BTreeMap::from([("admin_url", servers.catalog.url("postgres"))]),
        ),
        (
            "console",
            BTreeMap::from([("listen", local(ports.console()).to_string())]),
        ),
        (
            "router",
            BTreeMap::from([
                ("listen", local(ports.router()).to_string()),
                ("http_listen", local(ports.http()).to_string()),
                ("snapshot_file", path(place.snapshot())),
                ("database", SHARD_DATABASE.to_owned()),
            ]),
        ),
    ]);
    let text = toml::to_string(&settings)
        .explain(|| "the demo's configuration cannot be written".to_owned())?;
    Ok(format!(
        "# Written by `tenantry demo up`; changes are lost at the next start.\n\n{text}"
    ))
}

/// Says how long each step of the start took.
struct Clock {
    last: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
        }
    }

    fn step(&mut self, what: impl Display) {
        note(format_args!(
            "{:>5.1} s  {what}",
            self.last.elapsed().as_secs_f64()
        ));
        self.last = Instant::now();
    }
}
