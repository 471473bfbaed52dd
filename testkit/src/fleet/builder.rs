//! Describes a fleet and brings it up.

use anyhow::Context as _;
use futures_util::future::try_join_all;
use tenantry_cluster::{Server, ServerOptions, start_many};
use tenantry_schema::catalog::{Catalog, NewShard, NewTenant, Tenant};
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::secrets::ShardSecrets;
use tenantry_schema::shard::{ShardAddress, ShardKind};
use tenantry_schema::tenant::TenantKey;
use tenantry_shard_agent::bootstrap;

use super::{CATALOG_DATABASE, Fleet, FleetShard};
use crate::tls::Certificate;

/// What a fleet is to consist of; [`FleetBuilder::start`] brings it up.
#[derive(Debug, Clone)]
pub struct FleetBuilder {
    shards: usize,
    spares: usize,
    separate_servers: bool,
    key: TenantKey,
    tenants: usize,
    agent: bool,
    server_settings: Vec<(String, String)>,
    certificate: Option<Certificate>,
}

impl Default for FleetBuilder {
    fn default() -> Self {
        Self {
            shards: 2,
            spares: 0,
            separate_servers: false,
            key: TenantKey::Bigint,
            tenants: 0,
            agent: true,
            server_settings: Vec::new(),
            certificate: None,
        }
    }
}

impl FleetBuilder {
    /// Number of shared shards, named `s1`, `s2` and so on.
    #[must_use]
    pub fn shards(mut self, count: usize) -> Self {
        self.shards = count;
        self
    }

    /// Number of spare shards, named `spare1` and so on.
    #[must_use]
    pub fn spares(mut self, count: usize) -> Self {
        self.spares = count;
        self
    }

    /// Whether catalog and shards get a server each, so that a test can kill one of them. Otherwise all are databases
    /// of one server, which starts faster.
    #[must_use]
    pub fn separate_servers(mut self, separate: bool) -> Self {
        self.separate_servers = separate;
        self
    }

    /// Type of the tenant ids.
    #[must_use]
    pub fn key(mut self, key: TenantKey) -> Self {
        self.key = key;
        self
    }

    /// Number of tenants, with slugs `store-1`, `store-2` and so on.
    #[must_use]
    pub fn tenants(mut self, count: usize) -> Self {
        self.tenants = count;
        self
    }

    /// Whether an agent runs (it does unless said otherwise). Without one tenants stay `provisioning`.
    #[must_use]
    pub fn agent(mut self, runs: bool) -> Self {
        self.agent = runs;
        self
    }

    /// A line of postgresql.conf for every server.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.server_settings.push((name.into(), value.to_string()));
        self
    }

    /// Every server encrypts with this certificate.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Starts the servers, makes the databases shards, starts the agent, creates the tenants and waits until they
    /// are active.
    ///
    /// # Errors
    /// Any of that fails; nothing is left then.
    pub async fn start(self) -> anyhow::Result<Fleet> {
        let dir = tempfile::tempdir()?;
        let servers = self.start_servers().await?;
        let settings = FleetSettings::new(self.key);
        servers[0].create_database(CATALOG_DATABASE).await?;
        let catalog = Catalog::connect(&servers[0].url(CATALOG_DATABASE)).await?;
        catalog
            .init(settings.clone())
            .await
            .context("init of the catalog")?;
        let shards = self.add_shards(&catalog, &servers, &settings).await?;
        bootstrap_all(&shards, &settings, servers.len() > 1).await?;

        let mut fleet = Fleet {
            settings,
            catalog,
            shards,
            tenants: Vec::new(),
            agent: None,
            servers,
            dir,
        };
        fleet.secrets().save(fleet.secrets_path())?;
        if self.agent {
            fleet.start_agent();
        }
        fleet.tenants = self.create_tenants(&mut fleet).await?;
        Ok(fleet)
    }

    async fn start_servers(&self) -> anyhow::Result<Vec<Server>> {
        let count = if self.separate_servers {
            1 + self.shards + self.spares
        } else {
            1
        };
        let options = self
            .server_settings
            .iter()
            .fold(ServerOptions::throwaway(), |options, (name, value)| {
                options.setting(name, value)
            });
        let options = match &self.certificate {
            Some(own) => options.tls(&own.certificate, &own.private_key),
            None => options,
        };
        Ok(start_many(vec![options; count]).await?)
    }

    async fn add_shards(
        &self,
        catalog: &Catalog,
        servers: &[Server],
        settings: &FleetSettings,
    ) -> anyhow::Result<Vec<FleetShard>> {
        let shared = (1..=self.shards).map(|number| (format!("s{number}"), ShardKind::Shared));
        let spare = (1..=self.spares).map(|number| (format!("spare{number}"), ShardKind::Spare));
        // Passwords belong to roles, and roles to a server: shards of one server have the same.
        let secrets = ShardSecrets::generate();
        let mut shards = Vec::new();
        for (name, kind) in shared.chain(spare) {
            let server = if self.separate_servers {
                shards.len() + 1
            } else {
                0
            };
            let mut own = ShardSecrets::generate();
            if !self.separate_servers {
                own.passwords = secrets.passwords.clone();
            }
            let address = ShardAddress {
                host: "127.0.0.1".to_owned(),
                port: servers[server].port(),
                database: name.clone(),
            };
            let weight = u32::from(kind == ShardKind::Shared);
            let new = NewShard {
                kind,
                weight,
                ..NewShard::new(name.parse()?, address)
            };
            let shard = catalog
                .add_shard(new)
                .await
                .with_context(|| format!("adding shard {name}"))?
                .shard;
            let admin = servers[server].config(&name);
            shards.push(FleetShard {
                shard,
                secrets: own,
                settings: settings.clone(),
                server,
                admin,
            });
        }
        Ok(shards)
    }

    async fn create_tenants(&self, fleet: &mut Fleet) -> anyhow::Result<Vec<Tenant>> {
        let mut created = Vec::new();
        for number in 1..=self.tenants {
            let new = NewTenant::new(format!("store-{number}").parse()?);
            created.push(fleet.catalog.create_tenant(new).await?);
        }
        if self.agent {
            for tenant in &mut created {
                *tenant = fleet.wait_active(&tenant.slug).await?;
            }
        }
        Ok(created)
    }
}

/// Shards of one server come one after another: they share its roles, which cannot be changed at the same time.
async fn bootstrap_all(
    shards: &[FleetShard],
    settings: &FleetSettings,
    in_parallel: bool,
) -> anyhow::Result<()> {
    let one = async |shard: &FleetShard| {
        let done = bootstrap(&shard.admin, &shard.shard, settings, &shard.secrets).await;
        done.map(drop)
            .with_context(|| format!("bootstrap of shard {}", shard.name()))
    };
    if in_parallel {
        try_join_all(shards.iter().map(one)).await.map(drop)
    } else {
        for shard in shards {
            one(shard).await?;
        }
        Ok(())
    }
}
