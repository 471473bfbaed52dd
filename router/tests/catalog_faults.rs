//! The catalog comes with news, goes away, comes back, or was never there: routers serve.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::probe::{assert_fields, get, seed, until};
use common::{Setup, config, setup, setup_with, start};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tenantry_cluster::StopMode;
use tenantry_router::{Config, Running};
use tenantry_schema::catalog::NewTenant;
use tenantry_schema::snapshot;
use tenantry_testkit::{Fleet, Login, RawClient, RawError, error_of, rows_of};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

/// Time from now until this router answers a query of a tenant by this name.
async fn first_answer(router: &Running, login: Login) -> Duration {
    let started = Instant::now();
    until("the first answer", async || {
        let mut client = RawClient::login(router.pg_addr, &login).await.ok()?;
        let messages = client.query("SELECT count(*) FROM events").await.ok()?;
        (rows_of(&messages) == vec![vec![Some("0".to_owned())]]).then(|| started.elapsed())
    })
    .await
}

#[tokio::test]
async fn a_new_tenant_and_a_new_hostname_answer_within_a_second() {
    let setup = setup().await;
    let other = start(Config {
        name: "router-2".to_owned(),
        snapshot_file: None,
        ..config(&setup.fleet)
    })
    .await;
    let first = setup.router.as_ref().unwrap();
    let by_hand = setup.fleet.catalog_session().await.unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        let slug = format!("new-{round}");
        let host = format!("www.new-{round}.example");
        if round % 2 == 0 {
            let mut new = NewTenant::new(slug.parse().unwrap());
            new.hostnames = vec![host.parse().unwrap()];
            setup.fleet.catalog().create_tenant(new).await.unwrap();
        } else {
            by_hand
                .batch_execute(&format!(
                    "INSERT INTO tenantry.tenant (slug) VALUES ('{slug}')"
                ))
                .await
                .unwrap();
        }
        let login = setup.login(&format!("shop.{slug}"));
        let (one, two) = tokio::join!(
            first_answer(first, login.clone()),
            first_answer(&other, login)
        );
        slowest = slowest.max(one).max(two);
        if round % 2 == 1 {
            by_hand
                .batch_execute(&format!(
                    "INSERT INTO tenantry.hostname (name, tenant, kind, verified_at) \
                     SELECT '{host}', id, 'custom', now() FROM tenantry.tenant WHERE slug = '{slug}'"
                ))
                .await
                .unwrap();
        }
        let login = setup.login(&format!("shop.{host}"));
        let (one, two) = tokio::join!(
            first_answer(first, login.clone()),
            first_answer(&other, login)
        );
        println!("{slug}: hostname after {one:?} and {two:?}");
        slowest = slowest.max(one).max(two);
    }
    println!("slowest: {slowest:?}");
    assert!(slowest < SECOND, "{slowest:?}");
    other.stop().await;
}

async fn separate() -> Setup {
    let builder = Fleet::builder().shards(1).tenants(2).separate_servers(true);
    let setup = setup_with(builder, |_| ()).await;
    setup.seed().await;
    setup
}

fn snapshot_of(setup: &Setup) -> PathBuf {
    setup.fleet.dir().join("router.snapshot")
}

/// Stops the router, which writes its snapshot a last time, and the catalog.
async fn stop_both(setup: &mut Setup) {
    setup.router.take().unwrap().stop().await;
    assert!(snapshot::load(&snapshot_of(setup)).is_ok());
    setup.fleet.stop_agent().await.unwrap();
    setup
        .fleet
        .catalog_server()
        .stop(StopMode::Immediate)
        .await
        .unwrap();
}

fn take(setup: &mut Setup, router: Running) {
    (setup.address, setup.http) = (router.pg_addr, router.http_addr);
    setup.router = Some(router);
}

async fn readiness(setup: &Setup) -> (u16, Value) {
    let (status, body) = get(setup.http, "/readyz").await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

async fn serves_both_tenants(setup: &Setup) {
    for index in [0, 1] {
        let mut client = setup.raw_for(index).await;
        let rows = rows_of(&client.query("SELECT kind FROM events").await.unwrap());
        assert_eq!(
            rows,
            vec![vec![Some(format!("tenant-{}", setup.id(index)))]]
        );
    }
}

async fn catalog_is_followed(setup: &Setup) {
    until("the catalog is followed", async || {
        let followed = setup.metric("catalog_connected", "").await == 1.0
            && setup.metric("fleet_from_snapshot", "").await == 0.0;
        followed.then_some(())
    })
    .await;
    let (status, ready) = readiness(setup).await;
    assert_eq!(
        (status, &ready["fleet"]["source"]),
        (200, &Value::from("catalog"))
    );
}

#[tokio::test]
async fn a_router_starts_from_its_snapshot_while_the_catalog_is_away() {
    let mut setup = separate().await;
    stop_both(&mut setup).await;
    let router = start(config(&setup.fleet)).await;
    take(&mut setup, router);
    serves_both_tenants(&setup).await;

    let (status, ready) = readiness(&setup).await;
    assert_eq!(status, 200);
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["fleet"]["source"], "snapshot");
    assert_eq!(ready["catalog"]["connected"], false);
    assert!(ready["catalog"]["error"].is_string(), "{ready}");
    assert_eq!(setup.metric("fleet_from_snapshot", "").await, 1.0);
    assert_eq!(setup.metric("catalog_connected", "").await, 0.0);
    assert_eq!(setup.metric("directory_tenants", "").await, 2.0);

    setup.fleet.catalog_server().restart().await.unwrap();
    catalog_is_followed(&setup).await;
    serves_both_tenants(&setup).await;
}

fn flip_one_bit(path: &Path) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut bytes = std::fs::read(path).unwrap();
    let at = rng.random_range(0..bytes.len());
    bytes[at] ^= 1 << rng.random_range(0..8);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_snapshot_with_one_flipped_bit_is_refused_and_rebuilt() {
    let mut setup = separate().await;
    stop_both(&mut setup).await;
    let path = snapshot_of(&setup);
    flip_one_bit(&path);
    let router = tenantry_router::start(config(&setup.fleet)).await.unwrap();
    take(&mut setup, router);
    let ready = until("the snapshot is refused", async || {
        let (status, ready) = readiness(&setup).await;
        assert_eq!(status, 503, "{ready}");
        ready["fleet"]["snapshot_error"]
            .is_string()
            .then_some(ready)
    })
    .await;
    println!("{ready}");
    assert_eq!(ready["ready"], false);
    match RawClient::login(setup.address, &setup.login("shop")).await {
        Err(RawError::Refused(error)) => assert_fields(&error, "57P03", "STARTING"),
        other => panic!("{other:?}"),
    }

    setup.fleet.catalog_server().restart().await.unwrap();
    catalog_is_followed(&setup).await;
    serves_both_tenants(&setup).await;
    until("the snapshot is rebuilt", async || {
        snapshot::load(&path).ok().map(drop)
    })
    .await;
    let (_, ready) = readiness(&setup).await;
    assert!(ready["fleet"]["snapshot_error"].is_null(), "{ready}");
}

/// Transactions that each of the load's clients runs while the catalog is up, down and up again.
const ROUNDS_PER_PHASE: usize = 100;
const LOAD_CLIENTS: usize = 6;

#[tokio::test]
async fn a_killed_and_restarted_catalog_costs_no_query() {
    let setup = Arc::new(separate().await);
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..LOAD_CLIENTS {
        let (setup, over, done) = (Arc::clone(&setup), Arc::clone(&over), Arc::clone(&done));
        clients.spawn(async move {
            let mut errors = Vec::new();
            let mut round = number;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                if let Err(error) = load_once(&setup, round).await {
                    errors.push(format!("{error:#}"));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            errors
        });
    }
    let progress = async |phase: &str| {
        let goal = done.load(Ordering::Relaxed) + ROUNDS_PER_PHASE;
        until(phase, async || {
            (done.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    };
    progress("load with the catalog").await;
    setup.fleet.catalog_server().kill9().await.unwrap();
    until("the router misses the catalog", async || {
        (setup.metric("catalog_connected", "").await == 0.0).then_some(())
    })
    .await;
    progress("load without the catalog").await;
    setup.fleet.catalog_server().restart().await.unwrap();
    catalog_is_followed(&setup).await;
    progress("load with the catalog again").await;
    over.store(true, Ordering::Relaxed);
    let mut errors = Vec::new();
    while let Some(ended) = clients.join_next().await {
        errors.extend(ended.unwrap());
    }
    let total = done.load(Ordering::Relaxed);
    println!("{total} rounds, {} errors", errors.len());
    assert!(errors.is_empty(), "{errors:?}");
    assert!(total >= 3 * ROUNDS_PER_PHASE);
    setup.nothing_leaked(0).await;
}

/// A login now and then, and a transaction for one of the tenants.
async fn load_once(setup: &Setup, round: usize) -> anyhow::Result<()> {
    let id = setup.id(round % 2);
    let mut client = setup.connect("shop", common::DATABASE).await?;
    for _ in 0..5 {
        let transaction = client.transaction().await?;
        transaction
            .execute("SELECT set_config('tenantry.tenant', $1, true)", &[&id])
            .await?;
        let row = transaction
            .query_one("SELECT kind FROM events WHERE id = $1", &[&1_i64])
            .await?;
        anyhow::ensure!(
            row.get::<_, String>(0) == format!("tenant-{id}"),
            "a foreign row"
        );
        transaction.commit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_while_the_catalog_was_away_is_not_missed() {
    let setup = separate().await;
    let mut client = setup.raw_for(0).await;
    setup.fleet.catalog_server().kill9().await.unwrap();
    until("the router misses the catalog", async || {
        (setup.metric("catalog_connected", "").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
    setup.fleet.catalog_server().restart().await.unwrap();
    let session = setup.fleet.catalog_session().await.unwrap();
    session
        .batch_execute("UPDATE tenantry.tenant SET state = 'suspended' WHERE slug = 'store-1'")
        .await
        .unwrap();
    let error = until("the tenant is suspended", async || {
        error_of(&client.query("SELECT 1").await.unwrap())
    })
    .await;
    assert_fields(&error, "42501", "TENANT_SUSPENDED");
}
