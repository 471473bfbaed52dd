//! Reload of the configuration: all or nothing, and unnoticed by whoever is working.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{config, setup_with};
use parking_lot::Mutex;
use tenantry_router::{Changeable, Config, Fresh, ReadConfig, ReloadError};
use tenantry_testkit::{Fleet, error_of};

/// A source of configurations that a test exchanges.
fn source(config: &Arc<Mutex<Config>>) -> ReadConfig {
    let config = Arc::clone(config);
    Arc::new(move || {
        Ok(Fresh {
            config: config.lock().clone(),
            adopt: Box::new(Vec::new),
        })
    })
}

#[tokio::test]
async fn a_problem_changes_nothing_and_all_are_named() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |_| ()).await;
    let configured = Arc::new(Mutex::new(config(&setup.fleet)));
    let started = configured.lock().clone();
    let router = tenantry_router::start_from(started, Some(source(&configured)))
        .await
        .unwrap();
    {
        let mut config = configured.lock();
        config.pool_size = 0;
        config.clients_max = 0;
        config.pool_queue_max = 7;
    }
    let error = router.reload().await.unwrap_err();
    let ReloadError::Problems(problems) = &error else {
        unreachable!("{error}");
    };
    assert_eq!(
        problems,
        &[
            "`pool_size` must be at least 1".to_owned(),
            "`clients_max` must be at least 1".to_owned()
        ]
    );
    {
        let mut config = configured.lock();
        config.pool_size = 20;
        config.clients_max = 20_000;
        config.name = "another".to_owned();
    }
    let changes = router.reload().await.unwrap();
    let changes: Vec<_> = changes
        .iter()
        .map(|change| (change.to_string(), change.changeable))
        .collect();
    assert_eq!(
        changes,
        [
            (
                "router.name: router-1 -> another (at the next start)".to_owned(),
                Changeable::Restart
            ),
            (
                // The first reload did not change it.
                "router.pool_queue_max: 10000 -> 7".to_owned(),
                Changeable::Live
            ),
        ]
    );
    router.stop().await;
    let fixed = setup.router.unwrap();
    assert!(matches!(fixed.reload().await, Err(ReloadError::NoSource)));
}

/// A pool that grows and shrinks while everyone works; a waiting session profits from the growth.
#[tokio::test]
async fn pools_change_their_size_under_load() {
    let mut setup = setup_with(Fleet::builder().shards(1).tenants(2), |_| ()).await;
    let mut first = config(&setup.fleet);
    first.pool_size = 1;
    first.timeouts.query_wait = Duration::from_secs(20);
    let configured = Arc::new(Mutex::new(first.clone()));
    let router = tenantry_router::start_from(first, Some(source(&configured)))
        .await
        .unwrap();
    let mut follow = router.follow.clone();
    follow
        .wait_for(|status| status.sequence.is_some())
        .await
        .unwrap();
    setup.address = router.pg_addr;

    let mut holder = setup.raw_for(0).await;
    holder.query("BEGIN; SELECT 1").await.unwrap();
    let mut waiting = setup.raw_for(1).await;
    let waiting = tokio::spawn(async move { waiting.query("SELECT 2").await.unwrap() });
    configured.lock().pool_size = 3;
    router.reload().await.unwrap();
    assert_eq!(error_of(&waiting.await.unwrap()), None);
    assert_eq!(error_of(&holder.query("COMMIT").await.unwrap()), None);

    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for index in 0..8 {
        let mut client = setup.raw_for(index % 2).await;
        let stop = Arc::clone(&stop);
        workers.push(tokio::spawn(async move {
            let mut ran = 0;
            while !stop.load(Ordering::Relaxed) {
                let messages = client
                    .query("BEGIN; SELECT count(*) FROM events; COMMIT")
                    .await
                    .unwrap();
                assert_eq!(error_of(&messages), None);
                ran += 1;
            }
            ran
        }));
    }
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    for size in [4, 1, 6, 2, 1] {
        configured.lock().pool_size = size;
        router.reload().await.unwrap();
        // The second router of this fleet has no sessions and so no connections.
        let limit = i64::try_from(size).unwrap();
        loop {
            let open: i64 = admin
                .query_one(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantry-router' OR usename = 'tenantry_app'",
                    &[],
                )
                .await
                .unwrap()
                .get(0);
            if open <= limit && open > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        assert!(worker.await.unwrap() > 0);
    }
    router.stop().await;
}
