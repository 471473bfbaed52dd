//! How fast rows are copied, compared and deleted, beside `psql | psql`. Figures, not a test: run it by hand, alone on a
//! machine, with `cargo test --release -p tenantry-rebalancer --test row_rates -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;
#[path = "common/moving.rs"]
mod moving;

use std::process::Command;
use std::time::{Duration, Instant};

use common::define_on_both;
use moving::{Moving, TENANT};
use tenantry_rebalancer::clean::Standing;
use tenantry_rebalancer::copy::{analyze, forget};
use tenantry_testkit::{Fleet, FleetShard};

/// Of the tenant; as many belong to 200 others.
const ROWS: u32 = 1_000_000;

async fn stocked() -> Moving {
    let fleet = Fleet::builder()
        .agent(false)
        .separate_servers(true)
        .setting("shared_buffers", "512MB")
        .setting("max_wal_size", "8GB")
        .setting("fsync", "on")
        .setting("synchronous_commit", "on")
        .setting("full_page_writes", "on")
        .start()
        .await
        .unwrap();
    define_on_both(
        &fleet,
        "CREATE TABLE items (tenant_id bigint NOT NULL, id bigint NOT NULL, title text NOT NULL, body text NOT NULL, price numeric(12, 2),
             tags text[] NOT NULL, attributes jsonb NOT NULL, created_at timestamptz NOT NULL, PRIMARY KEY (tenant_id, id));
         CREATE INDEX items_newest ON items (tenant_id, created_at DESC)",
    )
    .await;
    let moving = Moving::start(fleet).await;
    moving
        .source
        .batch_execute(&format!(
            "INSERT INTO public.items
             SELECT CASE WHEN i % 2 = 0 THEN {TENANT} ELSE 1000 + i % 200 END, i, 'Title of item ' || i, repeat(md5(i::text), 8), i / 100.0,
                    ARRAY['tag ' || i % 10, 'tag ' || i % 100], jsonb_build_object('colour', i % 16, 'size', 'XL'),
                    timestamptz '2026-01-01' + i * interval '1 s'
             FROM generate_series(1, 2 * {ROWS}) i"
        ))
        .await
        .unwrap();
    moving
        .source
        .batch_execute("VACUUM ANALYZE public.items")
        .await
        .unwrap();
    moving
}

/// `psql COPY TO | psql COPY FROM` of the tenant's rows, without triggers and foreign keys as ours.
fn psql(moving: &Moving) -> Duration {
    let password = |shard: &FleetShard| shard.secrets().passwords.agent.expose().to_owned();
    let run = |shard: &FleetShard, options: &str, sql: &str| {
        let address = &shard.shard().address;
        let mut command = Command::new("psql");
        command
            .env("PGPASSWORD", password(shard))
            .env("PGOPTIONS", options)
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "tenantry_agent"])
            .args(["-h", &address.host, "-p", &address.port.to_string()])
            .args(["-d", &address.database, "-c", sql]);
        command
    };
    let (source, destination) = (moving.fleet.shard(0), moving.fleet.shard(1));
    let out = format!("COPY (SELECT * FROM public.items WHERE tenant_id = {TENANT}) TO STDOUT");
    let started = Instant::now();
    let mut sending = run(source, "", &out)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let into = run(
        destination,
        "-c session_replication_role=replica",
        "COPY public.items FROM STDIN",
    )
    .stdin(sending.stdout.take().unwrap())
    .status()
    .unwrap();
    assert!(into.success() && sending.wait().unwrap().success());
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test"]
async fn rows_per_second() {
    let moving = stocked().await;
    for round in 1..=3 {
        let theirs = psql(&moving);
        delete(&moving).await;
        let started = Instant::now();
        let report = moving.copy().await.unwrap();
        let ours = started.elapsed();
        let megabytes = report.bytes as f64 / 1e6;
        println!(
            "round {round}: psql {theirs:.2?}, copy {ours:.2?} ({:.2}x, {:.0} MB/s, {} rows, {megabytes:.0} MB)",
            theirs.as_secs_f64() / ours.as_secs_f64(),
            megabytes / ours.as_secs_f64(),
            report.rows
        );
        let tables = &moving.tables.tables;
        analyze(&common::endpoint(moving.fleet.shard(1)), tables)
            .await
            .unwrap();
        let started = Instant::now();
        let verified = moving.compare().await;
        println!(
            "         compared {} rows in {:.2?}",
            verified.rows,
            started.elapsed()
        );
        assert!(verified.is_equal());
        let started = Instant::now();
        delete(&moving).await;
        println!("         deleted in {:.2?}", started.elapsed());
    }
}

/// Everything at the destination, and the ledger.
async fn delete(moving: &Moving) {
    moving.clean(1, Standing::Importing).await.unwrap();
    forget(&moving.destination, moving.move_id).await.unwrap();
    moving
        .destination
        .batch_execute("VACUUM public.items")
        .await
        .unwrap();
}
