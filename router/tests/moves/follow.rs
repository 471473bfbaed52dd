//! Routers that nobody has told: their sessions meet the fence, and find the tenant.

use std::net::SocketAddr;

use tenantry_router::Running;
use tenantry_schema::secrets::SecretsFile;
use tenantry_testkit::{RawClient, error_of, rows_of};

use super::clients::{Crowd, Way, Writer};
use super::common::probe::{metric, until};
use super::common::{Setup, config, start};
use super::fleet;
use super::holds::{place, shard_name};
use super::mover::Mover;

/// Ways of writing whose first statement says whether the tenant is there.
const AT_ONCE: &[Way] = &[
    Way::Simple,
    Way::Several,
    Way::Unnamed,
    Way::Named,
    Way::SqlPrepared,
    Way::Transaction,
    Way::TransactionInOneQuery,
    Way::TransactionInOneBatch,
    Way::RepeatableRead,
    Way::Serializable,
    Way::SerializableInOneQuery,
    Way::Settings,
];

/// A fleet whose router has no control plane.
async fn untold() -> Setup {
    let mut setup = fleet().await;
    setup.router.take().unwrap().stop().await;
    let path = setup.fleet.secrets_path();
    let mut secrets = SecretsFile::load(&path).unwrap();
    secrets.control_token = None;
    secrets.save(&path).unwrap();
    let router = start(config(&setup.fleet)).await;
    (setup.address, setup.http) = (router.pg_addr, router.http_addr);
    setup.router = Some(router);
    setup
}

async fn assert_moved(setup: &Setup, mover: &Mover, crowd: Crowd) {
    crowd.more(5).await;
    let ledger = crowd.stop().await;
    assert_eq!(mover.subjects(mover.destination).await, ledger);
    assert_eq!(
        mover.owner(mover.destination).await,
        ("active".to_owned(), 2)
    );
    let body = setup.metrics().await;
    assert_eq!(metric(&body, "fence_follows_total", ""), 1.0);
    assert!(metric(&body, "fence_replays_total", "") > 0.0);
    let mut client = setup.raw_for(0).await;
    let home = shard_name(setup, mover.destination);
    assert_eq!(place(&mut client).await, (home, "2".to_owned()));
}

#[tokio::test]
async fn a_router_that_nobody_told_follows_the_forwarding_address() {
    let setup = untold().await;
    let mut mover = Mover::of(&setup, 0).await;
    let crowd = Crowd::start(&setup, 0, AT_ONCE).await;
    crowd.more(3).await;
    mover.fence("1 min").await;
    mover.copy_rows().await;
    mover.hand_over().await;
    mover.activate().await;
    assert_moved(&setup, &mover, crowd).await;
}

#[tokio::test]
async fn a_destination_that_was_not_told_is_activated_by_proof() {
    let setup = untold().await;
    let mut mover = Mover::of(&setup, 0).await;
    let crowd = Crowd::start(&setup, 0, AT_ONCE).await;
    crowd.more(3).await;
    mover.fence("1 min").await;
    mover.copy_rows().await;
    // And there the rebalancer dies.
    mover.hand_over().await;
    assert_moved(&setup, &mover, crowd).await;
}

#[tokio::test]
async fn a_fence_whose_rebalancer_died_is_lifted_after_its_deadline() {
    let setup = untold().await;
    let mut mover = Mover::of(&setup, 0).await;
    let crowd = Crowd::start(&setup, 0, AT_ONCE).await;
    crowd.more(3).await;
    mover.fence("300 ms").await;
    crowd.more(3).await;
    assert_eq!(mover.owner(mover.source).await, ("active".to_owned(), 3));
    let ledger = crowd.stop().await;
    assert_eq!(mover.subjects(mover.source).await, ledger);
}

/// The hold is over before the rebalancer has come to the commit point: the fence decides, and the router finds out.
#[tokio::test]
async fn a_hold_that_ends_too_early_costs_nothing_but_time() {
    let setup = fleet().await;
    let mut mover = Mover::of(&setup, 0).await;
    let crowd = Crowd::start(&setup, 0, super::clients::ALL).await;
    mover.prepare(setup.http).await;
    crowd.more(2).await;
    mover.hold(setup.http, 50).await;
    mover.fence("1 min").await;
    until("the fence is met", async || {
        (metric(&setup.metrics().await, "fence_replays_total", "") > 0.0).then_some(())
    })
    .await;
    mover.copy_rows().await;
    mover.hand_over().await;
    assert_moved(&setup, &mover, crowd).await;
    // What comes late is no news.
    mover.release(setup.http, mover.destination).await;
    mover.epoch = 1;
    mover.release(setup.http, mover.source).await;
    let mut writer = Writer::start(&setup, 0, Way::Simple, "later".to_owned()).await;
    writer.write().await;
}

/// It starts from a snapshot of long ago and has no catalog.
async fn stale(setup: &Setup) -> Running {
    let mut config = config(&setup.fleet);
    config.catalog_url = "postgresql://nobody@127.0.0.1:1/nowhere".to_owned();
    config.name = "stale".to_owned();
    config.snapshot_file = Some(setup.fleet.dir().join("old.snapshot"));
    start(config).await
}

async fn client_at(setup: &Setup, address: SocketAddr) -> RawClient {
    let login = setup.login(&format!("shop.{}", setup.id(0)));
    RawClient::login(address, &login).await.unwrap()
}

#[tokio::test]
async fn a_stale_router_without_a_catalog_follows() {
    let setup = fleet().await;
    let snapshot = setup.fleet.dir().join("router.snapshot");
    until("there is a snapshot", async || {
        snapshot.exists().then_some(())
    })
    .await;
    std::fs::copy(&snapshot, setup.fleet.dir().join("old.snapshot")).unwrap();
    let mut mover = Mover::of(&setup, 0).await;
    let mut writer = Writer::start(&setup, 0, Way::Simple, "before".to_owned()).await;
    writer.write().await;
    mover.fence("1 min").await;
    mover.copy_rows().await;
    mover.hand_over().await;
    mover.activate().await;

    let router = stale(&setup).await;
    let mut client = client_at(&setup, router.pg_addr).await;
    let answer = client.query("SELECT count(*) FROM events").await.unwrap();
    assert_eq!(rows_of(&answer), [[Some("1".to_owned())]]);
    let home = (shard_name(&setup, mover.destination), "2".to_owned());
    assert_eq!(place(&mut client).await, home);
    router.stop().await;
}

/// What has been answered is not run again behind the client's back.
#[tokio::test]
async fn a_later_statement_is_refused_and_the_transaction_may_be_retried() {
    let setup = untold().await;
    let mut mover = Mover::of(&setup, 0).await;
    let mut client = setup.raw_for(0).await;
    for text in ["BEGIN", "SELECT 1"] {
        assert_eq!(error_of(&client.query(text).await.unwrap()), None);
    }
    mover.fence("1 min").await;
    let insert = "INSERT INTO events (kind, subject) VALUES ('moves', 'late')";
    let error = error_of(&client.query(insert).await.unwrap()).unwrap();
    assert_eq!(error.code, "40001");
    assert!(error.hint.unwrap().contains("retry"));
    mover.hand_over().await;
    mover.activate().await;
    for text in ["ROLLBACK", "BEGIN", insert, "COMMIT"] {
        assert_eq!(error_of(&client.query(text).await.unwrap()), None, "{text}");
    }
    assert_eq!(mover.subjects(mover.destination).await, ["late"]);
    assert!(mover.subjects(mover.source).await.is_empty());
}

/// Whether an open transaction that has touched no table of a tenant holds the guard's lock.
async fn is_probed(setup: &Setup, client: &mut RawClient) -> bool {
    holds_lock_after(setup, client, &["BEGIN", "SELECT 1"]).await
}

async fn holds_lock_after(setup: &Setup, client: &mut RawClient, texts: &[&str]) -> bool {
    for text in texts {
        assert_eq!(error_of(&client.query(text).await.unwrap()), None);
    }
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                 WHERE l.locktype = 'advisory' AND a.usename = 'tenantry_app'";
    let mut held = 0;
    for shard in setup.fleet.shards() {
        let admin = shard.admin().await.unwrap();
        let row = admin.query_one(locks, &[]).await.unwrap();
        held += row.get::<_, i64>(0);
    }
    assert_eq!(error_of(&client.query("COMMIT").await.unwrap()), None);
    held > 0
}

#[tokio::test]
async fn the_guard_is_asked_only_while_a_move_is_live() {
    let setup = fleet().await;
    let mover = Mover::of(&setup, 0).await;
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(1).await);
    assert!(!is_probed(&setup, &mut client).await);
    mover.prepare(setup.http).await;
    assert!(is_probed(&setup, &mut client).await);
    assert!(!is_probed(&setup, &mut other).await);
    // A lock that is taken behind a savepoint would go with a rollback to it.
    let back = ["BEGIN", "SAVEPOINT a", "SELECT 1", "ROLLBACK TO a"];
    assert!(holds_lock_after(&setup, &mut client, &back).await);
    mover.forget(setup.http).await;
    assert!(!is_probed(&setup, &mut client).await);
}
