//! A catalog of its own for each test, and ways to look at a fleet.

use std::collections::BTreeSet;

use tenantry_cluster::{Server, ServerOptions};
use tenantry_schema::catalog::{Catalog, NewShard, NewTenant, Tenant};
use tenantry_schema::fleet::{Fleet, FleetSettings};
use tenantry_schema::shard::{ShardAddress, ShardId};
use tenantry_schema::tenant::TenantKey;
use tokio_postgres::Client;

pub struct Fixture {
    pub server: Server,
    pub catalog: Catalog,
}

pub const DATABASE: &str = "catalog";

impl Fixture {
    pub async fn new(key: TenantKey) -> Self {
        let fixture = Self::uninitialised().await;
        fixture.catalog.migrate().await.unwrap();
        fixture.catalog.init(FleetSettings::new(key)).await.unwrap();
        fixture
    }

    pub async fn uninitialised() -> Self {
        let server = Server::start(ServerOptions::throwaway()).await.unwrap();
        server.create_database(DATABASE).await.unwrap();
        let catalog = Catalog::connect(&server.url(DATABASE)).await.unwrap();
        Self { server, catalog }
    }

    pub fn url(&self) -> String {
        self.server.url(DATABASE)
    }

    /// A session as psql would have it.
    pub async fn psql(&self) -> Client {
        self.server.connect(DATABASE).await.unwrap()
    }

    pub async fn add_shard(&self, name: &str) -> ShardId {
        self.catalog
            .add_shard(new_shard(name))
            .await
            .unwrap()
            .shard
            .id
    }

    pub async fn create(&self, slug: &str) -> Tenant {
        self.catalog
            .create_tenant(NewTenant::new(slug.parse().unwrap()))
            .await
            .unwrap()
    }
}

pub fn new_shard(name: &str) -> NewShard {
    let address = ShardAddress {
        host: "127.0.0.1".to_owned(),
        port: 5432,
        database: name.to_owned(),
    };
    NewShard::new(name.parse().unwrap(), address)
}

/// The SQLSTATE and message of a statement that must fail.
pub async fn refusal(client: &Client, sql: &str) -> String {
    let error = match client.batch_execute(sql).await {
        Ok(()) => panic!("{sql}: was accepted"),
        Err(error) => error,
    };
    let db = error.as_db_error().unwrap();
    format!("{}: {}", db.code().code(), db.message())
}

/// Everything a fleet says, one line per fact, so that two fleets can be compared and a difference read.
pub fn facts(fleet: &Fleet) -> BTreeSet<String> {
    let key = fleet.settings.tenant_key;
    let tenants = fleet.directory.tenants().map(|tenant| {
        let by_slug = fleet.directory.by_slug(tenant.slug).map(|found| found.id);
        assert_eq!(by_slug, Some(tenant.id), "slug {}", tenant.slug);
        format!(
            "{:?} {tenant:?} {:?}",
            tenant.id.display(key),
            fleet.place(&tenant)
        )
    });
    let hostnames = fleet
        .directory
        .hostnames()
        .map(|(name, tenant)| format!("{name} {tenant:?}"));
    let shards = fleet.shards.values().map(|shard| format!("{shard:?}"));
    let roles = fleet
        .roles
        .values()
        .map(|role| format!("{role:?} {}", role.verifier));
    let rest = [format!(
        "{:?} {:?} {}",
        fleet.ring, fleet.settings, fleet.sequence
    )];
    let plans = fleet.limits.plans.iter().map(|plan| format!("{plan:?}"));
    let limits = fleet.limits.tenants.iter().map(|own| format!("{own:?}"));
    let switches = fleet
        .limits
        .switches
        .values()
        .map(|switch| format!("{switch:?}"));
    tenants
        .chain(plans)
        .chain(limits)
        .chain(switches)
        .chain(hostnames)
        .chain(shards)
        .chain(roles)
        .chain(rest)
        .collect()
}

pub fn assert_same(found: &Fleet, expected: &Fleet) {
    let (found, expected) = (facts(found), facts(expected));
    let missing: Vec<_> = expected.difference(&found).take(10).collect();
    let surplus: Vec<_> = found.difference(&expected).take(10).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing {missing:#?}\nsurplus {surplus:#?}"
    );
}
