//! One shard of a test's fleet, and the ways into it that go around the router.

use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard::{role, sign};
use tenantry_schema::secrets::ShardSecrets;
use tenantry_schema::shard::{Shard, ShardId, ShardName};
use tenantry_schema::tenant::TenantId;
use tokio_postgres::{Client, Config, NoTls};

/// A shard and its secrets.
#[derive(Debug)]
pub struct FleetShard {
    pub(super) shard: Shard,
    pub(super) secrets: ShardSecrets,
    pub(super) settings: FleetSettings,
    /// Index of its server.
    pub(super) server: usize,
    /// The superuser's way in.
    pub(super) admin: Config,
}

impl FleetShard {
    /// The shard as the catalog has it.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.shard.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ShardName {
        &self.shard.name
    }

    /// Its secrets.
    #[must_use]
    pub fn secrets(&self) -> &ShardSecrets {
        &self.secrets
    }

    /// Connection parameters of the superuser.
    #[must_use]
    pub fn admin_config(&self) -> &Config {
        &self.admin
    }

    /// Connection parameters of the role that routers use.
    #[must_use]
    pub fn app_config(&self) -> Config {
        self.config_as(role::APP, self.secrets.passwords.app.expose())
    }

    /// Connection parameters of the agent's role.
    #[must_use]
    pub fn agent_config(&self) -> Config {
        self.config_as(role::AGENT, self.secrets.passwords.agent.expose())
    }

    /// Connection parameters of the operators' role.
    #[must_use]
    pub fn operator_config(&self) -> Config {
        self.config_as(role::OPERATOR, self.secrets.passwords.operator.expose())
    }

    /// A superuser's session.
    ///
    /// # Errors
    /// The shard does not answer.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        open(&self.admin).await
    }

    /// A session of the application role, bound to no tenant.
    ///
    /// # Errors
    /// The shard does not answer.
    pub async fn app(&self) -> anyhow::Result<Client> {
        open(&self.app_config()).await
    }

    /// A session of the application role that is bound to a tenant, as the router binds it.
    ///
    /// # Errors
    /// The shard does not answer.
    pub async fn app_as(&self, tenant: TenantId) -> anyhow::Result<Client> {
        let client = self.app().await?;
        self.bind(&client, tenant).await?;
        Ok(client)
    }

    /// Binds a session of this shard to a tenant until its end.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn bind(&self, client: &Client, tenant: TenantId) -> anyhow::Result<()> {
        let value = self.signed(client, tenant).await?;
        client
            .execute(
                "SELECT pg_catalog.set_config('tenantry.tenant', $1, false)",
                &[&value],
            )
            .await?;
        Ok(())
    }

    /// The value of `tenantry.tenant` that binds this session, and no other, to a tenant.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn signed(&self, client: &Client, tenant: TenantId) -> anyhow::Result<String> {
        let row = client
            .query_one("SELECT tenantry.backend_identity()", &[])
            .await?;
        let id = tenant.display(self.settings.tenant_key).to_string();
        Ok(sign(&self.secrets.guard.current, row.get(0), &id))
    }

    fn config_as(&self, user: &str, password: &str) -> Config {
        let mut config = self.admin.clone();
        config.user(user).password(password);
        config
    }
}

/// Connects; a task of the current runtime drives the session.
pub(super) async fn open(config: &Config) -> anyhow::Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session with a shard ended");
        }
    });
    Ok(client)
}
