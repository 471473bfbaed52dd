//! The running agent: new tenants become active, whatever else is broken.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use tenantry_cluster::StopMode;
use tenantry_schema::catalog::{Catalog, NewShard, NewTenant};
use tenantry_schema::secrets::{SecretsFile, ShardSecrets};
use tenantry_schema::shard::ShardAddress;
use tenantry_schema::tenant::{TenantKey, TenantState};
use tenantry_shard_agent::{Config, RunError, run};
use tenantry_testkit::Fleet;
use tokio_util::sync::CancellationToken;

/// Waits until a tenant is active; the new tenant's latency.
async fn active(catalog: &Catalog, slug: &str, wait_max: Duration) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < wait_max {
        if catalog.tenant(slug).await.unwrap().state == TenantState::Active {
            return Some(begun.elapsed());
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn create(catalog: &Catalog, slug: &str) {
    catalog
        .create_tenant(NewTenant::new(slug.parse().unwrap()))
        .await
        .unwrap();
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_new_tenant_is_served_at_once() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fleet = Fleet::builder()
            .shards(2)
            .key(key)
            .tenants(1)
            .start()
            .await
            .unwrap();
        let catalog = fleet.catalog();
        let mut latencies = Vec::new();
        for number in 0..20 {
            let slug = format!("new-{number}");
            create(catalog, &slug).await;
            latencies.push(active(catalog, &slug, SOON).await.unwrap());
        }
        latencies.sort();
        // The promise is one second, router included; the median shows that nothing waits for a poll.
        assert!(latencies[10] < Duration::from_millis(500), "{latencies:?}");

        let tenant = catalog.tenant("new-7").await.unwrap();
        let shard = fleet.shard_of(&tenant).await.unwrap();
        let client = shard.app_as(tenant.id).await.unwrap();
        client
            .execute("SELECT tenantry.tenant()", &[])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_tenant_inserted_by_hand_goes_the_same_way() {
    let fleet = Fleet::builder().shards(1).start().await.unwrap();
    let session = fleet.catalog_session().await.unwrap();
    session
        .batch_execute("INSERT INTO tenantry.tenant (slug) VALUES ('by-hand')")
        .await
        .unwrap();
    active(fleet.catalog(), "by-hand", SOON).await.unwrap();
}

#[tokio::test]
async fn a_shard_that_is_down_delays_its_own_tenants_only() {
    let fleet = Fleet::builder()
        .shards(2)
        .separate_servers(true)
        .start()
        .await
        .unwrap();
    let catalog = fleet.catalog();
    let down = fleet.shard(0);
    fleet.server_of(down).stop(StopMode::Fast).await.unwrap();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for number in 0..16 {
        let slug = format!("new-{number}");
        create(catalog, &slug).await;
        let tenant = catalog.tenant(&slug).await.unwrap();
        if fleet.shard_of(&tenant).await.unwrap().id() == down.id() {
            here.push(slug);
        } else {
            there.push(slug);
        }
    }
    assert!(!here.is_empty() && !there.is_empty());
    for slug in &there {
        active(catalog, slug, SOON).await.unwrap();
    }
    for slug in &here {
        assert_eq!(
            catalog.tenant(slug).await.unwrap().state,
            TenantState::Provisioning
        );
    }
    fleet.server_of(down).restart().await.unwrap();
    for slug in &here {
        active(catalog, slug, SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_tenant_that_is_moved_away_is_left_alone() {
    let mut fleet = Fleet::builder().shards(1).start().await.unwrap();
    fleet.stop_agent().await.unwrap();
    create(fleet.catalog(), "gone").await;
    create(fleet.catalog(), "plain").await;
    let gone = fleet.catalog().tenant("gone").await.unwrap();
    let admin = fleet.shard(0).admin().await.unwrap();
    admin
        .batch_execute(&format!(
            "INSERT INTO tenantry.owner (tenant_id, state, epoch, moved_to) VALUES ('{}', 'moved', 5, 2)",
            fleet.id_text(gone.id)
        ))
        .await
        .unwrap();
    fleet.start_agent();
    active(fleet.catalog(), "plain", SOON).await.unwrap();
    assert_eq!(
        fleet.catalog().tenant("gone").await.unwrap().state,
        TenantState::Provisioning
    );
}

/// A shard that the catalog learns of is made one by the agent, if it knows an administrator.
#[tokio::test]
async fn a_new_shard_is_bootstrapped() {
    let mut fleet = Fleet::builder().shards(1).start().await.unwrap();
    fleet.stop_agent().await.unwrap();
    let server = fleet.server_of(fleet.shard(0));
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(run(
        Config {
            catalog_url: fleet.catalog_url(),
            secrets_file: fleet.secrets_path(),
            admin_url: Some(server.url("postgres")),
        },
        shutdown.clone(),
    ));

    let mut secrets = SecretsFile::load(fleet.secrets_path()).unwrap();
    let mut own = ShardSecrets::generate();
    own.passwords = fleet.shard(0).secrets().passwords.clone();
    secrets.shards.insert("fresh".to_owned(), own);
    secrets.save(fleet.secrets_path()).unwrap();
    let address = ShardAddress {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: "fresh".to_owned(),
    };
    let added = fleet
        .catalog()
        .add_shard(NewShard::new("fresh".parse().unwrap(), address))
        .await
        .unwrap();
    let mut placed = 0;
    for number in 0..16 {
        let slug = format!("new-{number}");
        create(fleet.catalog(), &slug).await;
        active(fleet.catalog(), &slug, SOON).await.unwrap();
        let tenant = fleet.catalog().tenant(&slug).await.unwrap();
        let placement = fleet.catalog().locate(&tenant).await.unwrap().unwrap();
        placed += usize::from(placement.shard == added.shard.id);
    }
    assert!(placed > 0);
    shutdown.cancel();
    agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_agent_says_why_it_cannot_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = |catalog_url: &str, admin_url: Option<&str>| Config {
        catalog_url: catalog_url.to_owned(),
        secrets_file: dir.path().join("secrets.json"),
        admin_url: admin_url.map(ToOwned::to_owned),
    };
    let url = "postgres://u:hunter2@127.0.0.1:1/c";
    let start = |config| run(config, CancellationToken::new());
    let error = start(config(url, None)).await.unwrap_err();
    assert!(matches!(error, RunError::Secrets(_)), "{error}");
    SecretsFile::default()
        .save(dir.path().join("secrets.json"))
        .unwrap();
    let error = start(config("nonsense", None)).await.unwrap_err();
    assert!(matches!(error, RunError::CatalogUrl(_)), "{error}");
    let error = start(config(url, Some("nonsense"))).await.unwrap_err();
    assert!(matches!(error, RunError::AdminUrl(_)), "{error}");
    assert!(!format!("{:?}", config(url, Some(url))).contains("hunter2"));
}
