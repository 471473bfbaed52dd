//! A stopping router lets transactions end, and no longer.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::setup;
use tenantry_testkit::{RawClient, error_of};

#[tokio::test]
async fn sessions_end_at_their_transaction_boundary() {
    let mut setup = setup().await;
    let mut idle = setup.raw_for(0).await;
    let mut busy = setup.raw_for(1).await;
    busy.query("BEGIN; INSERT INTO events (kind, subject) VALUES ('a', 'b')")
        .await
        .unwrap();
    let router = setup.router.take().unwrap();
    let stopping = tokio::spawn(router.stop());

    let last = idle.until_closed().await.unwrap();
    let error = error_of(&last).unwrap();
    assert_eq!(
        (error.code.as_str(), error.severity.name()),
        ("57P01", "FATAL")
    );
    assert!(
        RawClient::login(setup.address, &setup.login("shop"))
            .await
            .is_err()
    );

    // The open transaction goes on, and its session ends with it.
    assert_eq!(
        error_of(&busy.query("SELECT count(*) FROM events").await.unwrap()),
        None
    );
    assert_eq!(error_of(&busy.query("COMMIT").await.unwrap()), None);
    let last = busy.until_closed().await.unwrap();
    assert_eq!(error_of(&last).unwrap().code, "57P01");
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_never_ends_is_ended() {
    let mut setup = common::setup_with(
        tenantry_testkit::Fleet::builder().shards(1).tenants(1),
        |config| config.timeouts.drain = std::time::Duration::from_millis(200),
    )
    .await;
    let mut busy = setup.raw_for(0).await;
    busy.query("BEGIN; SELECT count(*) FROM events")
        .await
        .unwrap();
    let router = setup.router.take().unwrap();
    router.stop().await;
    let last = busy.until_closed().await.unwrap();
    assert_eq!(error_of(&last).unwrap().code, "57P01");
    let left = setup.fleet.shard(0).admin().await.unwrap();
    let open = left
        .query_one(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app' AND xact_start IS NOT NULL",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(open.get::<_, i64>(0), 0);
}
