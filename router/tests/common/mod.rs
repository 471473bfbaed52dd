//! A fleet with a router in front of it.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

pub mod compare;
pub mod probe;

use std::net::SocketAddr;

use tenantry_router::{Config, Running};
use tenantry_schema::catalog::Tenant;
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, FleetBuilder, Login, RawClient};
use tokio_postgres::{Client, NoTls};

pub const PASSWORD: &str = "correct horse";
pub const DATABASE: &str = "shop";

pub struct Setup {
    pub fleet: Fleet,
    pub router: Option<Running>,
    pub address: SocketAddr,
    pub http: SocketAddr,
}

/// Two shards, four tenants, one router; `shop` is a service role, `ops` an operator role, `store1`
/// a tenant role for the first tenant.
pub async fn setup() -> Setup {
    setup_with(Fleet::builder().shards(2).tenants(4), |_| ()).await
}

pub async fn setup_with(builder: FleetBuilder, change: impl FnOnce(&mut Config)) -> Setup {
    let fleet = builder.start().await.unwrap();
    fleet
        .add_role("shop", PASSWORD, RoleKind::Service, Vec::new())
        .await
        .unwrap();
    fleet
        .add_role("ops", PASSWORD, RoleKind::Operator, Vec::new())
        .await
        .unwrap();
    if let Some(first) = fleet.tenants().first() {
        fleet
            .add_role("store1", PASSWORD, RoleKind::Tenant, vec![first.id])
            .await
            .unwrap();
    }
    let mut config = config(&fleet);
    change(&mut config);
    let router = start(config).await;
    Setup {
        address: router.pg_addr,
        http: router.http_addr,
        router: Some(router),
        fleet,
    }
}

pub fn config(fleet: &Fleet) -> Config {
    let mut config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        http_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        catalog_url: fleet.catalog_url(),
        secrets_file: fleet.secrets_path(),
        snapshot_file: Some(fleet.dir().join("router.snapshot")),
        database: DATABASE.to_owned(),
        ..Config::default()
    };
    config.timeouts.query_wait = std::time::Duration::from_secs(5);
    config
}

/// Starts a router and waits until it knows the fleet.
pub async fn start(config: Config) -> Running {
    let router = tenantry_router::start(config).await.unwrap();
    let mut follow = router.follow.clone();
    tokio::time::timeout(
        std::time::Duration::from_secs(10),
        follow.wait_for(|status| status.sequence.is_some()),
    )
    .await
    .unwrap()
    .unwrap();
    router
}

impl Setup {
    pub fn tenant(&self, index: usize) -> &Tenant {
        &self.fleet.tenants()[index]
    }

    pub fn id(&self, index: usize) -> String {
        self.fleet.id_text(self.tenant(index).id)
    }

    /// The ids of two tenants on two shards.
    pub async fn two_tenants(&self) -> [String; 2] {
        let first = self.fleet.shard_of(self.tenant(0)).await.unwrap().id();
        for index in 1..self.fleet.tenants().len() {
            if self.fleet.shard_of(self.tenant(index)).await.unwrap().id() != first {
                return [self.id(0), self.id(index)];
            }
        }
        panic!("all tenants are on one shard");
    }

    pub fn login(&self, user: &str) -> Login {
        Login::new(user, PASSWORD, DATABASE)
    }

    /// A raw client of the service role.
    pub async fn raw(&self) -> RawClient {
        RawClient::login(self.address, &self.login("shop"))
            .await
            .unwrap()
    }

    /// A raw client of the service role that starts with a tenant.
    pub async fn raw_for(&self, index: usize) -> RawClient {
        let user = format!("shop.{}", self.id(index));
        RawClient::login(self.address, &self.login(&user))
            .await
            .unwrap()
    }

    pub async fn client(&self, user: &str) -> Client {
        self.connect(user, DATABASE).await.unwrap()
    }

    pub async fn connect(
        &self,
        user: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host(self.address.ip().to_string())
            .port(self.address.port())
            .user(user)
            .password(PASSWORD)
            .dbname(database)
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Two stores' rows: each tenant gets one collection named after it.
    pub async fn seed(&self) {
        for index in 0..self.fleet.tenants().len() {
            let client = self.client(&format!("shop.{}", self.id(index))).await;
            client
                .execute(
                    "INSERT INTO events (id, kind, subject) VALUES (1, $1, 'test')",
                    &[&format!("tenant-{}", self.id(index))],
                )
                .await
                .unwrap();
        }
    }
}
