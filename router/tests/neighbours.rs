//! Tenants that share a pool: one that asks for everything takes nothing from the others.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Setup, setup_with};
use tenantry_router::Config;
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of};
use tenantry_wire::frontend;

use crate::common::probe::until;

/// Sessions of the greedy tenant.
const GREEDY: usize = 12;

async fn neighbours(change: impl FnOnce(&mut Config)) -> Setup {
    let builder = Fleet::builder().shards(1).tenants(3);
    let setup = setup_with(builder, |config| {
        config.pool_size = 2;
        change(config);
    })
    .await;
    setup.seed().await;
    setup
}

async fn send(client: &mut RawClient, text: &str) {
    let sent = client.send(|out| frontend::put_query(out, text)).await;
    sent.unwrap();
}

async fn waiting(setup: &Setup, sessions: usize) {
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let sessions = sessions as f64;
    until("so many sessions wait", async || {
        (setup.metric("pool_waiting", "").await == sessions).then_some(())
    })
    .await;
}

/// Sessions of the first tenant that hold the whole pool in open transactions, and others that wait behind them.
async fn greedy(setup: &Setup, hold: usize, wait: usize) -> (Vec<RawClient>, Vec<RawClient>) {
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    for _ in 0..hold {
        let mut client = setup.raw_for(0).await;
        client
            .query("BEGIN; SELECT kind FROM events")
            .await
            .unwrap();
        holders.push(client);
    }
    for number in 0..wait {
        let mut client = setup.raw_for(0).await;
        send(&mut client, "SELECT now()").await;
        waiting(setup, number + 1).await;
        others.push(client);
    }
    (holders, others)
}

/// When each was served, by the server's clock.
async fn served_at(client: &mut RawClient) -> String {
    let answer = client.until_ready().await.unwrap();
    let rows = rows_of(&answer);
    rows[0][0].clone().unwrap()
}

#[tokio::test]
async fn one_that_comes_last_is_served_before_a_neighbours_queue() {
    let setup = neighbours(|_| ()).await;
    let (mut holders, mut queue) = greedy(&setup, 2, GREEDY).await;
    let mut quiet = setup.raw_for(1).await;
    send(&mut quiet, "SELECT now()").await;
    waiting(&setup, GREEDY + 1).await;
    holders[0].query("COMMIT").await.unwrap();
    let quiet = served_at(&mut quiet).await;
    let mut before = 0;
    for client in &mut queue {
        before += usize::from(served_at(client).await < quiet);
    }
    assert_eq!(before, 0, "of its neighbour's sessions");
    holders[1].query("COMMIT").await.unwrap();
    setup.nothing_leaked(GREEDY + 3).await;
}

#[tokio::test]
async fn without_fairness_the_queue_is_served_in_order() {
    let setup = neighbours(|config| config.left_out.fairness = true).await;
    let (mut holders, mut queue) = greedy(&setup, 2, GREEDY).await;
    let mut quiet = setup.raw_for(1).await;
    send(&mut quiet, "SELECT now()").await;
    waiting(&setup, GREEDY + 1).await;
    holders[0].query("COMMIT").await.unwrap();
    let quiet = served_at(&mut quiet).await;
    for client in &mut queue {
        assert!(served_at(client).await < quiet);
    }
    holders[1].query("COMMIT").await.unwrap();
}

#[tokio::test]
async fn the_last_connection_is_left_to_a_neighbour() {
    let setup = neighbours(|config| config.pool_size = 4).await;
    let (mut holders, mut queue) = greedy(&setup, 3, 1).await;
    let mut quiet = setup.raw_for(1).await;
    // At once, although a session of the greedy tenant waits.
    quiet.query("SELECT kind FROM events").await.unwrap();
    waiting(&setup, 1).await;
    for holder in &mut holders {
        holder.query("COMMIT").await.unwrap();
    }
    served_at(&mut queue[0]).await;
    setup.nothing_leaked(5).await;
}

#[tokio::test]
async fn a_tenant_that_fills_its_queue_is_refused_and_another_is_not() {
    let setup = neighbours(|config| config.pool_tenant_queue_max = 2).await;
    let (mut holders, _queue) = greedy(&setup, 2, 2).await;
    let mut third = setup.raw_for(0).await;
    let answer = third.query("SELECT 1").await.unwrap();
    let error = error_of(&answer).unwrap();
    assert_eq!(
        (error.code.as_str(), error.routine.as_deref()),
        ("53300", Some("TENANT_QUEUE_FULL"))
    );
    let detail = error.detail.unwrap();
    assert!(detail.contains("allow 2 now; 2 wait"), "{detail}");
    let mut quiet = setup.raw_for(1).await;
    send(&mut quiet, "SELECT now()").await;
    waiting(&setup, 3).await;
    holders[0].query("COMMIT").await.unwrap();
    served_at(&mut quiet).await;
}

/// Whoever waited and left is forgotten, and its place passes to the next.
#[tokio::test]
async fn one_that_leaves_the_queue_leaves_nothing_behind() {
    let setup = neighbours(|config| config.timeouts.query_wait = Duration::from_secs(20)).await;
    let (mut holders, mut queue) = greedy(&setup, 2, 3).await;
    drop(queue.remove(1));
    waiting(&setup, 2).await;
    for holder in &mut holders {
        holder.query("COMMIT").await.unwrap();
    }
    for client in &mut queue {
        served_at(client).await;
    }
    waiting(&setup, 0).await;
    setup.nothing_leaked(4).await;
}
