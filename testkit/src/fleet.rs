//! A whole fleet for one test: catalog, shards with guard and reference schema, a running shard agent, tenants.
//!
//! Everything is real and nobody else's: the servers end with the [`Fleet`]. The router is not part of it, its own
//! tests start one against [`Fleet::catalog_url`] and [`Fleet::secrets_path`].

mod builder;
mod shard;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tenantry_cluster::Server;
use tenantry_schema::catalog::{Catalog, NewTenant, Tenant};
use tenantry_schema::fleet::{FleetSettings, Role, RoleKind, RoleLimits};
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::tenant::{TenantId, TenantState};
use tenantry_wire::scram::Verifier;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use builder::FleetBuilder;
pub use shard::FleetShard;

/// Database of the catalog, on the first server.
const CATALOG_DATABASE: &str = "catalog";
const CONDITION_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A running fleet. Dropping it ends agent and servers.
pub struct Fleet {
    settings: FleetSettings,
    catalog: Catalog,
    shards: Vec<FleetShard>,
    tenants: Vec<Tenant>,
    agent: Option<Agent>,
    servers: Vec<Server>,
    dir: TempDir,
}

#[derive(Debug)]
struct Agent {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Fleet {
    /// Begins to describe a fleet: two shards on one server, `bigint` keys, no tenants.
    #[must_use]
    pub fn builder() -> FleetBuilder {
        FleetBuilder::default()
    }

    /// What the fleet decided at its beginning.
    #[must_use]
    pub fn settings(&self) -> &FleetSettings {
        &self.settings
    }

    /// The catalog's client.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Connection URI of the catalog.
    #[must_use]
    pub fn catalog_url(&self) -> String {
        self.catalog_server().url(CATALOG_DATABASE)
    }

    /// The server that holds the catalog; with separate servers it holds nothing else.
    #[must_use]
    pub fn catalog_server(&self) -> &Server {
        &self.servers[0]
    }

    /// A session with the catalog as psql would have it.
    ///
    /// # Errors
    /// The catalog does not answer.
    pub async fn catalog_session(&self) -> anyhow::Result<tokio_postgres::Client> {
        Ok(self.catalog_server().connect(CATALOG_DATABASE).await?)
    }

    /// The shards, spares after shared ones.
    #[must_use]
    pub fn shards(&self) -> &[FleetShard] {
        &self.shards
    }

    /// One shard, counted from 0.
    #[must_use]
    pub fn shard(&self, index: usize) -> &FleetShard {
        &self.shards[index]
    }

    /// The server of a shard.
    #[must_use]
    pub fn server_of(&self, shard: &FleetShard) -> &Server {
        &self.servers[shard.server]
    }

    /// The tenants created at the start, all active.
    #[must_use]
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// Tenants of the start that live on this shard.
    ///
    /// # Errors
    /// The catalog does not answer.
    pub async fn tenants_of(&self, shard: &FleetShard) -> anyhow::Result<Vec<Tenant>> {
        let mut found = Vec::new();
        for tenant in &self.tenants {
            if self
                .catalog
                .locate(tenant)
                .await?
                .is_some_and(|placement| placement.shard == shard.id())
            {
                found.push(tenant.clone());
            }
        }
        Ok(found)
    }

    /// The shard where a tenant lives.
    ///
    /// # Errors
    /// The catalog does not answer, or the tenant has no place.
    pub async fn shard_of(&self, tenant: &Tenant) -> anyhow::Result<&FleetShard> {
        let placement = self
            .catalog
            .locate(tenant)
            .await?
            .context("the ring is empty")?;
        self.shards
            .iter()
            .find(|shard| shard.id() == placement.shard)
            .context("the shard is not one of this fleet's")
    }

    /// A tenant id as text, the way clients and the guard write it.
    #[must_use]
    pub fn id_text(&self, id: TenantId) -> String {
        id.display(self.settings.tenant_key).to_string()
    }

    /// The secrets file, as routers and agents read it.
    #[must_use]
    pub fn secrets_path(&self) -> PathBuf {
        self.dir.path().join("secrets.json")
    }

    /// A directory that goes with the fleet, for snapshots and the like.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Creates a tenant and returns without waiting until it is active.
    ///
    /// # Errors
    /// The catalog refuses it.
    pub async fn create_tenant(&self, slug: &str) -> anyhow::Result<Tenant> {
        Ok(self
            .catalog
            .create_tenant(NewTenant::new(slug.parse()?))
            .await?)
    }

    /// Waits until a tenant is active, which takes a running agent, and returns it as it is then.
    ///
    /// # Errors
    /// The tenant is unknown, or not active in time.
    pub async fn wait_active(&mut self, name: &str) -> anyhow::Result<Tenant> {
        let deadline = tokio::time::Instant::now() + CONDITION_MAX;
        loop {
            let tenant = self.catalog.tenant(name).await?;
            if tenant.state == TenantState::Active {
                return Ok(tenant);
            }
            self.check_agent().await?;
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "tenant {name} is still {} after {CONDITION_MAX:?}",
                    tenant.state
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Creates or replaces a role that clients log in as; `tenants` matters for [`RoleKind::Tenant`] only.
    ///
    /// # Errors
    /// The catalog refuses it.
    pub async fn add_role(
        &self,
        name: &str,
        password: &str,
        kind: RoleKind,
        tenants: Vec<TenantId>,
    ) -> anyhow::Result<()> {
        let role = Role {
            name: name.to_owned(),
            verifier: Verifier::from_password(password).to_string(),
            kind,
            tenants,
            limits: RoleLimits::default(),
            valid_until: None,
        };
        Ok(self.catalog.upsert_role(&role).await?)
    }

    /// Stops the agent and waits until it has ended; provisioning tenants stay so.
    ///
    /// # Errors
    /// What the agent ended with.
    pub async fn stop_agent(&mut self) -> anyhow::Result<()> {
        match self.agent.take() {
            None => Ok(()),
            Some(agent) => {
                agent.stop.cancel();
                agent.task.await?
            }
        }
    }

    /// Starts the agent unless it runs.
    pub fn start_agent(&mut self) {
        if self.agent.is_none() {
            let stop = CancellationToken::new();
            let config = tenantry_shard_agent::Config {
                catalog_url: self.catalog_url(),
                secrets_file: self.secrets_path(),
                admin_url: None,
            };
            let running = tenantry_shard_agent::run(config, stop.clone());
            let task = tokio::spawn(async move { Ok(running.await?) });
            self.agent = Some(Agent { stop, task });
        }
    }

    /// Fails with the agent's error if it has ended by itself.
    async fn check_agent(&mut self) -> anyhow::Result<()> {
        match self.agent.take_if(|agent| agent.task.is_finished()) {
            None => Ok(()),
            Some(agent) => agent.task.await?.context("the shard agent ended"),
        }
    }

    /// The secrets of all shards.
    fn secrets(&self) -> SecretsFile {
        let mut secrets = SecretsFile::generate();
        for shard in &self.shards {
            secrets
                .shards
                .insert(shard.name().to_string(), shard.secrets.clone());
        }
        secrets
    }
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("settings", &self.settings)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(agent) = &self.agent {
            agent.stop.cancel();
            agent.task.abort();
        }
    }
}
