//! Random sessions, each run directly on PostgreSQL and through the router: the answers must be the same.
//!
//! Three clients of two tenants share one or two server connections, so that connections change hands between
//! transactions. `TENANTRY_TEST_SEED` repeats a run, `TENANTRY_TEST_SESSIONS` makes it longer. A script that fails is
//! shrunk and printed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod generate;
mod messages;
mod play;
mod shrink;

use std::time::{Duration, Instant};

use play::{Difference, Stage, TENANTS, create_twin, writer};
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::Fleet;

/// Scripts of a normal run.
const SCRIPTS: u64 = 300;
/// Where a normal run starts: the same for everybody, so that a failure is of the change at hand.
const SEED: u64 = 1_000;
/// Time for a normal run; a busy machine gets through fewer scripts.
const TIME_MAX: Duration = Duration::from_secs(50);
const SCRIPTS_MIN: u64 = 50;
/// Failures after which a run ends.
const FAILURES_MAX: u64 = 5;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::test]
async fn random_sessions_are_answered_as_postgresql_does() {
    let seed = from_env("TENANTRY_TEST_SEED", SEED);
    println!("TENANTRY_TEST_SEED={seed}");
    let fleet = Fleet::builder()
        .shards(1)
        .tenants(TENANTS)
        .start()
        .await
        .unwrap();
    let role = fleet.add_role("shop", common::PASSWORD, RoleKind::Service, Vec::new());
    role.await.unwrap();
    let mut running = Vec::new();
    for pool_size in 1..=2 {
        let mut config = common::config(&fleet);
        config.pool_size = pool_size;
        config.number = u16::try_from(pool_size).unwrap();
        config.name = format!("router-{pool_size}");
        config.snapshot_file = None;
        running.push(common::start(config).await);
    }
    let shard = fleet.shard(0);
    let mut stage = Stage {
        routers: running.iter().map(|router| router.pg_addr).collect(),
        server: fleet.server_of(shard).address(),
        routed: Vec::new(),
        plain: Vec::new(),
        tenants: Vec::new(),
    };
    for index in 0..TENANTS {
        let tenant = fleet.tenants()[index].id;
        stage.routed.push(writer(shard, tenant).await);
        stage
            .plain
            .push(create_twin(fleet.server_of(shard), index).await);
        stage.tenants.push(fleet.id_text(tenant));
    }

    let mut failures = Vec::new();
    let started = Instant::now();
    let mut compared = 0;
    let sessions = from_env("TENANTRY_TEST_SESSIONS", SCRIPTS);
    for number in 0..sessions {
        if sessions == SCRIPTS && started.elapsed() > TIME_MAX {
            break;
        }
        compared += 1;
        let script = generate::script(seed.wrapping_add(number));
        if let Some(found) = stage.compare(&script).await {
            failures.push(describe(&shrink::shrink(&stage, found).await));
            let failures_max = from_env("TENANTRY_TEST_FAILURES", FAILURES_MAX);
            if failures.len() as u64 >= failures_max {
                break;
            }
        }
    }
    println!("{compared} scripts in {:?}", started.elapsed());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(
        compared >= SCRIPTS_MIN.min(sessions),
        "only {compared} scripts in {TIME_MAX:?}"
    );
}

fn describe(difference: &Difference) -> String {
    use std::fmt::Write as _;
    let script = &difference.script;
    let mut text = format!(
        "--- TENANTRY_TEST_SEED={} TENANTRY_TEST_SESSIONS=1, pool of {}\n",
        script.seed, script.pool
    );
    for step in &script.steps {
        writeln!(text, "client {}: {:?}", step.client, step.messages).unwrap();
    }
    writeln!(text, "step {}", difference.step).unwrap();
    for line in &difference.expected {
        writeln!(text, "  expected {line}").unwrap();
    }
    for line in &difference.found {
        writeln!(text, "  found    {line}").unwrap();
    }
    text
}
