//! A tenant's rows arrive as they were, whatever they are made of; what is not copied is not there.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/moving.rs"]
mod moving;

use std::sync::Arc;
use std::time::Duration;

use common::{define_on_both, fleet, table, text};
use moving::{Moving, OTHER, TENANT};
use tenantry_rebalancer::copy::{CopyError, analyze};
use tenantry_rebalancer::throttle::Throttle;
use tenantry_testkit::Fleet;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_shape_of_a_table_arrives() {
    let fleet = fleet().await;
    define_on_both(&fleet, include_str!("shapes/tables.sql")).await;
    let mut moving = Moving::start(fleet).await;
    // Several chunks of each table that has more than a few rows.
    moving.options.chunk_rows_max = 70;
    for tenant in [TENANT, OTHER] {
        let rows = include_str!("shapes/rows.sql").replace(":tenant", tenant);
        moving.source.batch_execute(&rows).await.unwrap();
    }
    let others = include_str!("shapes/rows.sql").replace(":tenant", OTHER);
    moving.destination.batch_execute(&others).await.unwrap();
    let (rows, of_others) = (
        moving.rows(&moving.source, TENANT).await,
        moving.rows(&moving.destination, OTHER).await,
    );

    let report = moving.copy().await.unwrap();
    assert_eq!(report.rows, rows.unsigned_abs());
    assert_eq!(moving.rows(&moving.destination, TENANT).await, rows);
    assert_eq!(moving.rows(&moving.destination, OTHER).await, of_others);
    let verified = moving.compare().await;
    assert!(verified.is_equal(), "{:?}", verified.mismatches);
    assert_eq!(verified.rows, report.rows);

    // Triggers fired for the rows inserted by hand, at most: not for those that were copied.
    let fired = "SELECT count(*) FROM public.fired WHERE tenant = 42";
    assert_eq!(text(&moving.destination, fired).await, "0");
    // A generated column was computed where the row arrived.
    let computed =
        format!("SELECT bool_and(twice = n * 2) FROM public.computed WHERE tenant_id = {TENANT}");
    assert_eq!(text(&moving.destination, &computed).await, "true");
    analyze(
        &common::endpoint(moving.fleet.shard(1)),
        &moving.tables.tables,
    )
    .await
    .unwrap();
    let counted = "SELECT reltuples > 0 FROM pg_class WHERE oid = 'public.computed'::regclass";
    assert_eq!(text(&moving.destination, counted).await, "true");
}

#[tokio::test]
async fn a_tenant_without_rows_and_one_with_a_single_row_arrive() {
    let moving = Moving::start(fleet().await).await;
    let empty = moving.copy().await.unwrap();
    assert_eq!((empty.rows, empty.deleted), (0, 0));
    assert!(moving.compare().await.is_equal());
    // It is complete: nothing is copied again, not even what came since.
    let one = format!(
        "INSERT INTO public.stores (tenant_id, name, email) VALUES ({TENANT}, 'a', 'a@example.com')"
    );
    moving.source.batch_execute(&one).await.unwrap();
    assert_eq!(moving.copy().await.unwrap().rows, 0);

    let single = Moving::start(fleet().await).await;
    single.source.batch_execute(&one).await.unwrap();
    assert_eq!(single.copy().await.unwrap().rows, 1);
    assert!(single.compare().await.is_equal());
}

/// A tenant with enough rows for many chunks, on servers that can be killed.
async fn numbered(fleet: Fleet, rows: u32) -> Moving {
    define_on_both(
        &fleet,
        "CREATE TABLE items (tenant_id bigint NOT NULL, id int, name text COLLATE \"C\" NOT NULL, PRIMARY KEY (tenant_id, name, id));
         CREATE TABLE few (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id))",
    )
    .await;
    let mut moving = Moving::start(fleet).await;
    moving
        .source
        .batch_execute(&format!(
            "INSERT INTO public.items SELECT t, i, md5(i::text) FROM generate_series(1, {rows}) i, (VALUES ({TENANT}), ({OTHER})) v (t);
             INSERT INTO public.few SELECT {TENANT}, i FROM generate_series(1, 10) i"
        ))
        .await
        .unwrap();
    moving.options.chunk_rows_max = 500;
    moving
}

#[tokio::test]
async fn a_copy_that_died_with_the_destination_is_continued() {
    let fleet = Fleet::builder()
        .agent(false)
        .separate_servers(true)
        .start()
        .await
        .unwrap();
    let mut moving = numbered(fleet, 20_000).await;
    let total = moving.rows(&moving.source, TENANT).await;
    // Slow enough to be killed in the middle.
    moving.throttle = Arc::new(Throttle::bytes_per_second(200_000));
    let copier = moving.open().await.unwrap();
    let mut progress = copier.progress();
    let cancel = CancellationToken::new();
    let killed = async {
        progress
            .wait_for(|progress| progress.rows() >= 3_000)
            .await
            .unwrap();
        let server = moving.fleet.server_of(moving.fleet.shard(1));
        server.kill9().await.unwrap();
        server.restart().await.unwrap();
    };
    let (copied, ()) =
        tokio::time::timeout(LIMIT, async { tokio::join!(copier.run(&cancel), killed) })
            .await
            .unwrap();
    let error = copied.unwrap_err();
    assert!(matches!(error, CopyError::Destination { .. }), "{error:?}");

    moving.reconnect().await;
    moving.throttle = Arc::new(Throttle::off());
    let there = moving.rows(&moving.destination, TENANT).await;
    assert!((3_000..total).contains(&there), "{there} of {total}");
    // What an applier may have inserted meanwhile, behind the last chunk.
    moving
        .destination
        .batch_execute(&format!(
            "INSERT INTO public.items VALUES ({TENANT}, 0, 'zzz')"
        ))
        .await
        .unwrap();
    let ledger = "SELECT sum(rows) FROM tenantry.move_chunk";
    let recorded: i64 = text(&moving.destination, ledger).await.parse().unwrap();
    assert_eq!(
        recorded, there,
        "the ledger says exactly which rows are there"
    );

    let report = moving.copy().await.unwrap();
    assert_eq!(report.rows, total.unsigned_abs());
    assert!(report.deleted >= 1);
    let verified = moving.compare().await;
    assert!(verified.is_equal(), "{:?}", verified.mismatches);
    let contiguous = "SELECT bool_and(n = max + 1) FROM (
        SELECT count(*) n, max(chunk) FROM tenantry.move_chunk GROUP BY relation) c";
    assert_eq!(text(&moving.destination, contiguous).await, "true");
}

#[tokio::test]
async fn a_chunk_behind_a_gap_is_copied_again() {
    let moving = numbered(fleet().await, 5_000).await;
    moving.copy().await.unwrap();
    // As after a crash: the second chunk was not committed, the third was, and the end was not reached.
    moving
        .destination
        .batch_execute(&format!(
            "WITH gap AS (DELETE FROM tenantry.move_chunk WHERE relation = 'public.items' AND (chunk = 1 OR chunk > 3))
             DELETE FROM public.items i WHERE tenant_id = {TENANT}
               AND name > (SELECT upper_key[1] FROM tenantry.move_chunk WHERE relation = 'public.items' AND chunk = 0)
               AND name <= (SELECT upper_key[1] FROM tenantry.move_chunk WHERE relation = 'public.items' AND chunk = 1)"
        ))
        .await
        .unwrap();
    let report = moving.copy().await.unwrap();
    assert!(report.deleted > 0);
    assert_eq!(report.rows, 5_010);
    assert!(moving.compare().await.is_equal());
}

#[tokio::test]
async fn a_cancelled_copy_leaves_whole_chunks() {
    let mut moving = numbered(fleet().await, 20_000).await;
    moving.throttle = Arc::new(Throttle::bytes_per_second(200_000));
    let copier = moving.open().await.unwrap();
    let mut progress = copier.progress();
    let cancel = CancellationToken::new();
    let cancelling = async {
        progress
            .wait_for(|progress| progress.rows() >= 2_000)
            .await
            .unwrap();
        cancel.cancel();
    };
    let (copied, ()) = tokio::time::timeout(LIMIT, async {
        tokio::join!(copier.run(&cancel), cancelling)
    })
    .await
    .unwrap();
    assert!(matches!(copied, Err(CopyError::Cancelled)));
    moving.throttle = Arc::new(Throttle::off());
    let report = moving.copy().await.unwrap();
    assert_eq!(report.rows, 20_010);
    assert!(moving.compare().await.is_equal());
}

#[tokio::test]
async fn a_copy_that_was_overtaken_writes_nothing_more() {
    let mut moving = numbered(fleet().await, 20_000).await;
    moving.throttle = Arc::new(Throttle::bytes_per_second(200_000));
    let copier = moving.open().await.unwrap();
    let mut progress = copier.progress();
    let cancel = CancellationToken::new();
    let overtaking = async {
        progress
            .wait_for(|progress| progress.rows() >= 1_000)
            .await
            .unwrap();
        let drop = format!(
            "SELECT tenantry.drop_import({TENANT}, '{}')",
            moving.move_id
        );
        moving.destination.batch_execute(&drop).await.unwrap();
    };
    let (copied, ()) = tokio::time::timeout(LIMIT, async {
        tokio::join!(copier.run(&cancel), overtaking)
    })
    .await
    .unwrap();
    let error = copied.unwrap_err();
    assert!(matches!(error, CopyError::NotImporting { .. }), "{error:?}");
    // Nor does another begin.
    let error = moving.copy().await.unwrap_err();
    assert!(matches!(error, CopyError::Clean(_)), "{error:?}");
}

#[tokio::test]
async fn progress_tells_rows_chunks_and_the_end() {
    let moving = numbered(fleet().await, 3_000).await;
    moving.source.batch_execute("ANALYZE").await.unwrap();
    let copier = moving.open().await.unwrap();
    let progress = copier.progress();
    let before = progress.borrow().clone();
    assert!(before.fraction() < 0.01);
    let items = before
        .tables
        .iter()
        .find(|table| table.relation == "public.items")
        .unwrap();
    assert!((2_000..4_000).contains(&items.rows_estimated), "{items:?}");
    assert!(items.bytes_estimated > 0);
    copier.run(&CancellationToken::new()).await.unwrap();
    let after = progress.borrow().clone();
    assert_eq!(after.rows(), 3_010);
    assert!(after.bytes() > 0);
    assert!((1.0 - after.fraction()).abs() < f64::EPSILON);
    assert!(after.tables.iter().all(|table| table.complete()));
}

#[tokio::test]
async fn a_table_without_a_key_is_refused() {
    let fleet = fleet().await;
    define_on_both(
        &fleet,
        "CREATE TABLE loose (tenant_id bigint NOT NULL, id int)",
    )
    .await;
    let moving = Moving::start(fleet).await;
    assert!(table(&moving.tables, "loose").key.is_empty());
    assert!(
        matches!(moving.open().await, Err(CopyError::NoKey { table }) if table == "public.loose")
    );
}
