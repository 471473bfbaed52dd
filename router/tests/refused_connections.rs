//! Servers that take no more connections: those that there are serve, and nobody is refused for one that could not be
//! opened.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::probe::{assert_refused, until};
use common::{Setup, setup_with};
use tenantry_testkit::{Fleet, RawClient, error_of};
use tenantry_wire::frontend;

/// Lets nobody in any more, or again. Who is in stays.
async fn lets_in(setup: &Setup, login: bool) {
    let option = if login { "LOGIN" } else { "NOLOGIN" };
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let alter = format!("ALTER ROLE tenantry_app {option}");
    admin.batch_execute(&alter).await.unwrap();
}

async fn send(client: &mut RawClient, text: &str) {
    client
        .send(|out| frontend::put_query(out, text))
        .await
        .unwrap();
}

async fn waiting(setup: &Setup, count: usize) {
    let console = setup.connect("ops", "tenantry").await.unwrap();
    until("clients wait", async || {
        let rows = console.simple_query("SHOW POOLS").await.unwrap();
        let waiting = rows.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("cl_waiting"),
            _ => None,
        });
        let all: usize = waiting.map(|text| text.parse::<usize>().unwrap()).sum();
        (all == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_busy_pool_serves_with_what_it_has() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 4;
        config.timeouts.server_retry = Duration::from_secs(1);
    })
    .await;
    let (mut holds, mut waits) = (setup.raw_for(0).await, setup.raw_for(1).await);
    holds.query("BEGIN; SELECT 1").await.unwrap();
    lets_in(&setup, false).await;
    send(&mut waits, "SELECT 1").await;
    waiting(&setup, 1).await;
    // Nor is anyone refused who comes after a connection could not be opened.
    let mut late = setup.raw_for(0).await;
    send(&mut late, "SELECT 1").await;
    waiting(&setup, 2).await;
    assert_eq!(error_of(&holds.query("COMMIT").await.unwrap()), None);
    for client in [&mut waits, &mut late] {
        assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    }
    // Among twenty at once, on one connection.
    let mut clients = Vec::new();
    for index in 0..20 {
        let mut client = setup.raw_for(index % 2).await;
        send(&mut client, "SELECT 1").await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    }
    drop(clients);

    // Once it lets in again, two work at a time.
    lets_in(&setup, true).await;
    holds.query("BEGIN; SELECT 1").await.unwrap();
    assert_eq!(error_of(&waits.query("SELECT 1").await.unwrap()), None);
    assert_eq!(error_of(&holds.query("COMMIT").await.unwrap()), None);

    // With none that works there is nothing to wait for.
    lets_in(&setup, false).await;
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tenantry_app'";
    admin.batch_execute(end).await.unwrap();
    until("it is down", async || {
        let messages = waits.query("SELECT 1").await.unwrap();
        let error = error_of(&messages)?;
        (error.code == "57P03").then_some(())
    })
    .await;
    assert_refused(
        &late.query("SELECT 1").await.unwrap(),
        "57P03",
        "SHARD_DOWN",
    );

    // Who waits for a paused pool waits, whatever has become of its server.
    let console = setup.connect("ops", "tenantry").await.unwrap();
    console.simple_query("PAUSE").await.unwrap();
    send(&mut waits, "SELECT 1").await;
    waiting(&setup, 1).await;
    lets_in(&setup, true).await;
    console.simple_query("RESUME").await.unwrap();
    assert_eq!(error_of(&waits.until_ready().await.unwrap()), None);
    setup.nothing_leaked(4).await;
}

#[tokio::test]
async fn a_session_without_tenant_waits_once_for_all_shards() {
    let wait = Duration::from_secs(3);
    let setup = setup_with(Fleet::builder().shards(3).tenants(40), |config| {
        config.pool_size = 1;
        config.timeouts.query_wait = wait;
    })
    .await;
    // One of its tenants holds each shard's only connection.
    let mut holders = Vec::new();
    for shard in 0..3 {
        let id = setup.fleet.shard(shard).id();
        let fleet = setup.fleet.catalog().load_fleet().await.unwrap();
        let lives_here = |index: &usize| {
            let record = fleet.directory.by_id(setup.tenant(*index).id).unwrap();
            fleet.place(&record).unwrap().shard == id
        };
        let index = (0..40).find(lives_here).unwrap();
        let mut client = setup.raw_for(index).await;
        client.query("BEGIN; SELECT 1").await.unwrap();
        holders.push(client);
    }
    let mut nobody = setup.raw().await;
    let began = Instant::now();
    let messages = nobody.query("SELECT 1 FROM pg_class").await.unwrap();
    assert_refused(&messages, "53300", "QUEUE_TIMEOUT");
    assert!(began.elapsed() < 2 * wait, "{:?}", began.elapsed());
}
