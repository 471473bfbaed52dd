//! The rate of a move follows the shards: it falls when one does not answer, and recovers with it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::endpoint;
use tenantry_rebalancer::throttle::{Limits, Pressure, Regulator, Throttle};
use tenantry_testkit::Fleet;
use tokio_util::sync::CancellationToken;

const CONDITION_MAX: Duration = Duration::from_secs(20);

async fn until(throttle: &Throttle, rate: u64) {
    let wait = async {
        while throttle.rate() != Some(rate) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(CONDITION_MAX, wait).await;
    assert!(
        reached.is_ok(),
        "{rate} expected, {:?} found",
        throttle.rate()
    );
}

#[tokio::test]
async fn the_rate_falls_with_a_shard_and_recovers_with_it() {
    let fleet = Fleet::builder()
        .agent(false)
        .separate_servers(true)
        .start()
        .await
        .unwrap();
    let endpoints = [endpoint(fleet.shard(0)), endpoint(fleet.shard(1))];
    let limits = Limits {
        start: 1_000,
        least: 300,
        most: Some(1_000),
        step: 1_000,
        // Whatever the machine does beside, a shard that answers is well.
        target: Pressure(1e6),
    };
    let regulator = Regulator::prepare(&endpoints, limits).await.unwrap();
    let throttle = Arc::new(Throttle::off());
    let stop = CancellationToken::new();
    // More than any rate allows: all of it is used.
    let moved = Arc::new(AtomicU64::new(0));
    let counter = {
        let moved = Arc::clone(&moved);
        move || moved.fetch_add(1_000_000, Ordering::Relaxed)
    };
    let running = tokio::spawn(regulator.run(Arc::clone(&throttle), counter, stop.clone()));
    until(&throttle, 1_000).await;

    let server = fleet.server_of(fleet.shard(1));
    server.kill9().await.unwrap();
    until(&throttle, 300).await;
    server.restart().await.unwrap();
    until(&throttle, 1_000).await;

    stop.cancel();
    tokio::time::timeout(CONDITION_MAX, running)
        .await
        .unwrap()
        .unwrap();
}
