//! How fast changes are applied and how long a marker takes: figures for a quiet machine, on demand.
//!
//!     cargo nextest run -p tenantry-rebalancer --test rates --run-ignored only --no-capture
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;
mod streaming;

use std::time::{Duration, Instant};

use streaming::Moving;
use tenantry_rebalancer::apply::ApplierHandle;

const TABLES: &str = "
CREATE TABLE sales (
    tenant_id bigint, id bigint, customer bigint, status text, total numeric(12,2), placed timestamptz DEFAULT now(),
    note text, PRIMARY KEY (tenant_id, id));
CREATE INDEX ON sales (tenant_id, customer);
CREATE INDEX ON sales (tenant_id, placed);";

async fn rate(moving: &Moving, applier: &ApplierHandle, what: &str, transactions: u32, sql: &str) {
    let halt = applier.halt().await.unwrap();
    let (changes, groups) = counted(applier);
    let writer = moving.writer().await;
    writer
        .batch_execute("SET synchronous_commit = off")
        .await
        .unwrap();
    for n in 0..transactions {
        writer
            .batch_execute(&sql.replace("$n", &n.to_string()))
            .await
            .unwrap();
    }
    let began = Instant::now();
    drop(halt);
    applier.probe(&moving.from).await.unwrap();
    let took = began.elapsed();
    let (after, groups_after) = counted(applier);
    let changes = after - changes;
    println!(
        "{what}: {changes} changes in {took:?}, {:.0} per second, {} groups",
        changes as f64 / took.as_secs_f64(),
        groups_after - groups
    );
}

fn counted(applier: &ApplierHandle) -> (u64, u64) {
    let status = applier.status();
    let status = status.borrow();
    (status.changes, status.groups)
}

async fn markers(moving: &Moving, applier: &ApplierHandle, what: &str) {
    let mut ways: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let times = applier.probe(&moving.from).await.unwrap();
        ways.push(times.applied);
    }
    ways.sort();
    println!(
        "{what}: min {:?} median {:?} p95 {:?} max {:?}",
        ways[0], ways[100], ways[190], ways[199]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn rates() {
    let moving = Moving::start(TABLES).await;
    let applier = moving
        .forward_with(|config| config.memory_bytes = 64 << 20)
        .await;
    markers(&moving, &applier, "markers, idle").await;
    for (what, transactions, sql) in [
        (
            "single-row inserts",
            20_000,
            "INSERT INTO sales (tenant_id, id, customer, status, total, note) VALUES (1, $n, $n % 100, 'new', $n, 'a note')",
        ),
        ("single-row updates", 20_000, "UPDATE sales SET status = 'paid', total = total + 1 WHERE tenant_id = 1 AND id = $n"),
        (
            "order-like transactions",
            5_000,
            "BEGIN; INSERT INTO sales (tenant_id, id, customer, status, total) SELECT 1, 1000000 + $n * 4 + g, g, 'new', g FROM generate_series(1, 3) g;
             UPDATE sales SET status = 'shipped' WHERE tenant_id = 1 AND id = $n; DELETE FROM sales WHERE tenant_id = 1 AND id = $n + 10000; COMMIT",
        ),
        ("one large update", 1, "UPDATE sales SET note = note || '.' WHERE tenant_id = 1"),
    ] {
        rate(&moving, &applier, what, transactions, sql).await;
    }
    let large = moving.writer().await;
    let large = tokio::spawn(async move {
        let began = Instant::now();
        large
            .batch_execute("INSERT INTO sales SELECT 2, g, g % 100, 'new', g, now(), 'a note' FROM generate_series(1, 400000) g")
            .await
            .unwrap();
        began.elapsed()
    });
    let mut longest = Duration::ZERO;
    let mut probes = 0;
    // Beyond its commit, which is when a stream without pieces would begin to send it.
    let mut left = 100;
    while left > 0 {
        if large.is_finished() {
            left -= 1;
        }
        longest = longest.max(applier.probe(&moving.from).await.unwrap().applied);
        probes += 1;
    }
    println!(
        "markers beside a transaction of another tenant with 400,000 rows, {:?}: {probes}, max {longest:?}",
        large.await.unwrap()
    );
    let writing = {
        let config = moving.fleet.shard(0).admin_config().clone();
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut n: u64 = 0;
            let mut tick = tokio::time::interval(Duration::from_micros(770));
            while !stopped.is_cancelled() {
                tick.tick().await;
                n += 1;
                let sql = format!(
                    "UPDATE sales SET total = total + 1 WHERE tenant_id = 1 AND id = {}",
                    n % 20_000
                );
                client.batch_execute(&sql).await.unwrap();
            }
            n
        });
        (stop, task)
    };
    markers(&moving, &applier, "markers beside 1,300 updates per second").await;
    writing.0.cancel();
    println!("{} updates", writing.1.await.unwrap());
    applier.stop().await.unwrap();
}
