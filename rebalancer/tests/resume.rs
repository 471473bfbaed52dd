//! A copy that was interrupted goes on under a new snapshot while the tenant writes, and loses and doubles nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod streaming;

use std::sync::Arc;

use common::{endpoint, read};
use streaming::{LIMIT, MOVE, Moving};
use tenantry_rebalancer::copy::{Copier, CopyError, CopyJob, CopyOptions};
use tenantry_rebalancer::replication::{Lsn, SlotKind, SnapshotAction, Walsender};
use tenantry_rebalancer::throttle::Throttle;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// Rows at first, with gaps between their keys.
const ROWS: u32 = 4_000;
const GAP: u32 = 10;
/// Rows of a chunk, and those there when the copy is interrupted.
const CHUNK: u64 = 100;
const INTERRUPTED_AT: u64 = 1_000;
/// Bytes per second: a first copy takes longer than its interruption.
const SLOWLY: u64 = 40_000;

/// A snapshot of the source at a known position; the connection keeps it.
struct At {
    position: Lsn,
    snapshot: String,
    _walsender: Walsender,
}

async fn snapshot(moving: &Moving, name: &str) -> At {
    let source = endpoint(moving.fleet.shard(0));
    let mut walsender = Walsender::connect(&source).await.unwrap();
    let created = walsender
        .create_slot(name, SlotKind::Temporary, SnapshotAction::Export)
        .await
        .unwrap();
    At {
        position: created.consistent_point,
        snapshot: created.snapshot.unwrap(),
        _walsender: walsender,
    }
}

async fn copier(moving: &Moving, at: &At, throttle: Throttle) -> Copier {
    let job = CopyJob {
        source: endpoint(moving.fleet.shard(0)),
        destination: endpoint(moving.fleet.shard(1)),
        tables: read(moving.fleet.shard(0)).await,
        tenant: "1".to_owned(),
        move_id: MOVE,
        snapshot: at.snapshot.clone(),
        snapshot_lsn: at.position.to_string().parse().unwrap(),
        throttle: Arc::new(throttle),
        options: CopyOptions {
            chunk_rows_max: CHUNK,
            ..CopyOptions::default()
        },
    };
    Copier::open(job).await.unwrap()
}

/// Inserts, updates and deletes all over the key, until told to stop; returns the number of transactions.
async fn write(client: Client, stop: CancellationToken) -> u32 {
    let mut n = 0_u32;
    while !stop.is_cancelled() {
        n += 1;
        let row = |salt: u32| (n.wrapping_mul(7_919).wrapping_add(salt) % ROWS) * GAP;
        let transaction = format!(
            "BEGIN;
             INSERT INTO items VALUES (1, {0}, 'new {n}') ON CONFLICT (tenant_id, id) DO UPDATE SET note = excluded.note;
             UPDATE items SET note = 'changed {n}' WHERE tenant_id = 1 AND id = {1};
             DELETE FROM items WHERE tenant_id = 1 AND id = {2};
             COMMIT",
            row(0) + n % GAP,
            row(1_234),
            row(2_345)
        );
        client.batch_execute(&transaction).await.unwrap();
    }
    n
}

#[tokio::test]
async fn an_interrupted_copy_goes_on_under_writes() {
    let moving = Moving::start(
        "CREATE TABLE items (tenant_id bigint NOT NULL, id int, note text, PRIMARY KEY (tenant_id, id))",
    )
    .await;
    let rows = format!(
        "INSERT INTO items SELECT 1, g * {GAP}, 'row ' || g FROM generate_series(1, {ROWS}) g"
    );
    moving.write(&rows).await;
    let writer = moving.writer().await;
    writer
        .batch_execute("SET search_path = public")
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let writing = tokio::spawn(write(writer, stop.clone()));

    // A copy dies with rows of some chunks at the destination.
    let first = snapshot(&moving, "first").await;
    let interrupted = copier(&moving, &first, Throttle::bytes_per_second(SLOWLY)).await;
    let mut progress = interrupted.progress();
    let cancel = CancellationToken::new();
    let dying = async {
        progress
            .wait_for(|progress| progress.rows() >= INTERRUPTED_AT)
            .await
            .unwrap();
        cancel.cancel();
    };
    let (copied, ()) = timeout(LIMIT, async {
        tokio::join!(interrupted.run(&cancel), dying)
    })
    .await
    .unwrap();
    assert!(matches!(copied, Err(CopyError::Cancelled)), "{copied:?}");

    // Those rows, and no others for sure, are brought to the position of a new snapshot.
    let bringing = moving
        .forward_with(|config| {
            config.from = first.position;
            config.is_partial = true;
        })
        .await;
    let mut halt = timeout(LIMIT, bringing.halt()).await.unwrap().unwrap();
    let behind = GAP * ROWS * 2;
    moving
        .write(&format!("INSERT INTO items VALUES (1, {behind}, 'far')"))
        .await;
    let second = snapshot(&moving, "second").await;
    timeout(LIMIT, halt.advance_to(second.position))
        .await
        .unwrap()
        .unwrap();
    timeout(LIMIT, bringing.stop()).await.unwrap().unwrap();
    drop(halt);

    // The rest is copied; what was applied where no chunk is yet gives way.
    let rest = copier(&moving, &second, Throttle::off()).await;
    let report = timeout(LIMIT, rest.run(&CancellationToken::new()))
        .await
        .unwrap()
        .unwrap();
    assert!(report.deleted >= 1, "{report:?}");

    let following = moving
        .forward_with(|config| config.from = second.position)
        .await;
    stop.cancel();
    let transactions = writing.await.unwrap();
    assert!(transactions > 10, "{transactions}");
    moving.caught_up(&following).await;
    moving.same_rows().await;
    timeout(LIMIT, following.stop()).await.unwrap().unwrap();
}
