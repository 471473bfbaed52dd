//! A shard of its own for a test: a throwaway server, bootstrapped, with sessions of each role.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use tenantry_cluster::{Server, ServerOptions};
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard::{self, role};
use tenantry_schema::secrets::ShardSecrets;
use tenantry_schema::shard::{Shard, ShardAddress, ShardId, ShardKind, ShardState};
use tenantry_schema::tenant::TenantKey;
use tenantry_shard_agent::{BootstrapError, BootstrapReport};
use tokio_postgres::{Client, Config, NoTls};

/// The number of the shard.
pub const SHARD: u16 = 7;

/// A bootstrapped shard on a server of its own.
pub struct Fixture {
    pub server: Server,
    pub shard: Shard,
    pub settings: FleetSettings,
    pub secrets: ShardSecrets,
}

impl Fixture {
    pub async fn start(key: TenantKey) -> Self {
        let fixture = Self::empty(key).await;
        fixture.bootstrap().await.unwrap();
        fixture
    }

    pub async fn bootstrap(&self) -> Result<BootstrapReport, BootstrapError> {
        let admin = self.admin_config();
        tenantry_shard_agent::bootstrap(&admin, &self.shard, &self.settings, &self.secrets).await
    }

    /// A server without the shard's database.
    pub async fn empty(key: TenantKey) -> Self {
        let server = Server::start(ServerOptions::throwaway()).await.unwrap();
        let shard = shard(&server, "shard");
        Self {
            shard,
            settings: FleetSettings::new(key),
            secrets: ShardSecrets::generate(),
            server,
        }
    }

    pub fn admin_config(&self) -> Config {
        self.server.config(&self.shard.address.database)
    }

    pub async fn admin(&self) -> Client {
        connect(&self.admin_config()).await
    }

    pub async fn app(&self) -> Client {
        self.session(role::APP, self.secrets.passwords.app.expose())
            .await
    }

    pub async fn agent(&self) -> Client {
        self.session(role::AGENT, self.secrets.passwords.agent.expose())
            .await
    }

    pub async fn operator(&self) -> Client {
        self.session(role::OPERATOR, self.secrets.passwords.operator.expose())
            .await
    }

    async fn session(&self, user: &str, password: &str) -> Client {
        let database = &self.shard.address.database;
        connect(&self.server.config_as(user, password, database)).await
    }

    /// The value that binds a tenant on this session.
    pub async fn signed(&self, client: &Client, tenant: &str) -> String {
        guard::sign(&self.secrets.guard.current, &identity(client).await, tenant)
    }

    /// Binds the session to a tenant until it is bound again.
    pub async fn bind(&self, client: &Client, tenant: &str) {
        set(client, &self.signed(client, tenant).await).await;
    }

    /// A session of the application role, bound to a tenant.
    pub async fn tenant(&self, tenant: &str) -> Client {
        let client = self.app().await;
        self.bind(&client, tenant).await;
        client
    }

    /// Inserts owner rows: the tenants live here.
    pub async fn admit(&self, tenants: &[&str]) {
        let agent = self.agent().await;
        for tenant in tenants {
            agent
                .batch_execute(&format!(
                    "INSERT INTO tenantry.owner (tenant_id, state, epoch) VALUES ('{tenant}', 'active', 1)"
                ))
                .await
                .unwrap();
        }
    }
}

pub fn shard(server: &Server, database: &str) -> Shard {
    Shard {
        id: ShardId::new(SHARD).unwrap(),
        name: "s7".parse().unwrap(),
        kind: ShardKind::Shared,
        state: ShardState::Active,
        weight: 1,
        address: ShardAddress {
            host: "127.0.0.1".to_owned(),
            port: server.port(),
            database: database.to_owned(),
        },
        replicas: Vec::new(),
        zone: None,
    }
}

pub async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn identity(client: &Client) -> String {
    client
        .query_one("SELECT tenantry.backend_identity()", &[])
        .await
        .unwrap()
        .get(0)
}

pub async fn set(client: &Client, value: &str) {
    client
        .execute("SELECT set_config('tenantry.tenant', $1, false)", &[&value])
        .await
        .unwrap();
}

/// SQLSTATE of the error that a script ends with; empty if it succeeds.
pub async fn code(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => String::new(),
        Err(error) => error
            .code()
            .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

/// The first column of the only row, as text.
pub async fn text(client: &Client, sql: &str) -> String {
    client
        .query_one(&format!("SELECT ({sql})::text"), &[])
        .await
        .unwrap()
        .get(0)
}

/// A store and a product of the bound tenant.
pub async fn stock(client: &Client, title: &str) {
    client
        .batch_execute(&format!(
            "WITH store AS (INSERT INTO stores (name, email) VALUES ('{title}', 'owner@{title}.example') RETURNING id)
             INSERT INTO products (store_id, handle, title, status)
             SELECT id, 'mug', '{title} mug', 'active' FROM store"
        ))
        .await
        .unwrap();
}
