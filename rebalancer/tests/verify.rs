//! A comparison finds every kind of difference, names its rows, and sees snapshots only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/moving.rs"]
mod moving;

use std::sync::Arc;

use common::{define_on_both, endpoint, fleet};
use moving::{Moving, TENANT};
use tenantry_rebalancer::shard::Snapshot;
use tenantry_rebalancer::throttle::Throttle;
use tenantry_rebalancer::verify::{Comparison, Difference, Side};
use tokio_util::sync::CancellationToken;

const ROWS: u32 = 65_000;

async fn copied() -> Moving {
    let fleet = fleet().await;
    define_on_both(
        &fleet,
        "CREATE TABLE items (tenant_id bigint NOT NULL, id int, n numeric, note text, PRIMARY KEY (tenant_id, id))",
    )
    .await;
    let moving = Moving::start(fleet).await;
    moving
        .source
        .batch_execute(&format!(
            "INSERT INTO public.items SELECT {TENANT}, i * 2, 1.0, 'note ' || i FROM generate_series(1, {ROWS}) i"
        ))
        .await
        .unwrap();
    moving.copy().await.unwrap();
    moving
}

#[tokio::test]
async fn rows_that_differ_are_named() {
    let moving = copied().await;
    let equal = moving.compare().await;
    assert!(equal.is_equal());
    assert_eq!(equal.rows, u64::from(ROWS));
    assert!(equal.chunks > 3);

    moving
        .destination
        .batch_execute(&format!(
            "DELETE FROM public.items WHERE id = 2;
             UPDATE public.items SET n = 1.00 WHERE id = 40000;
             UPDATE public.items SET note = NULL WHERE id = 100000;
             UPDATE public.items SET id = id - 1 WHERE id = 130000;
             INSERT INTO public.items VALUES ({TENANT}, 900001, 1.0, 'more')"
        ))
        .await
        .unwrap();
    let report = moving.compare().await;
    let found: Vec<_> = report
        .mismatches
        .iter()
        .map(|mismatch| (mismatch.key[0].as_str(), mismatch.difference))
        .collect();
    assert_eq!(
        found,
        [
            ("2", Difference::Missing),
            ("40000", Difference::Changed),
            ("100000", Difference::Changed),
            ("129999", Difference::Extra),
            ("130000", Difference::Missing),
            ("900001", Difference::Extra),
        ]
    );
    assert_eq!(report.mismatched_rows, 6);
    assert_eq!(
        report.mismatches[1].to_string(),
        "public.items (40000) differs"
    );
}

#[tokio::test]
async fn many_differences_are_counted_and_some_named() {
    let moving = copied().await;
    moving
        .destination
        .batch_execute("DELETE FROM public.items WHERE id > 60000")
        .await
        .unwrap();
    let report = moving.compare().await;
    assert_eq!(report.mismatched_rows, u64::from(ROWS) - 30_000);
    assert_eq!(report.mismatches.len(), 20);
    // And with everything on the other side only.
    moving
        .source
        .batch_execute("DELETE FROM public.items")
        .await
        .unwrap();
    let report = moving.compare().await;
    assert!(!report.is_equal());
    assert!(
        report
            .mismatches
            .iter()
            .all(|mismatch| mismatch.difference == Difference::Extra)
    );
}

#[tokio::test]
async fn what_happens_after_the_snapshots_is_not_seen() {
    let moving = copied().await;
    let (one, two) = (
        endpoint(moving.fleet.shard(0)),
        endpoint(moving.fleet.shard(1)),
    );
    let (ours, theirs) = (
        Snapshot::export(&one).await.unwrap(),
        Snapshot::export(&two).await.unwrap(),
    );
    let side = |endpoint, snapshot: &Snapshot| Side {
        endpoint,
        snapshot: snapshot.id().to_owned(),
    };
    let comparison = Comparison::open(
        &side(one, &ours),
        &side(two, &theirs),
        moving.tables.clone(),
        TENANT,
        Arc::new(Throttle::off()),
    )
    .await
    .unwrap();
    // The exporters are not needed any more, and both sides go on.
    drop((ours, theirs));
    moving
        .source
        .batch_execute("UPDATE public.items SET note = 'later'")
        .await
        .unwrap();
    moving
        .destination
        .batch_execute("DELETE FROM public.items")
        .await
        .unwrap();
    let progress = comparison.progress();
    let report = comparison.run(&CancellationToken::new()).await.unwrap();
    assert!(report.is_equal(), "{:?}", report.mismatches);
    assert_eq!(*progress.borrow(), u64::from(ROWS));
}
