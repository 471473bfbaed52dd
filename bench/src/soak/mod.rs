//! `tenantry-bench soak`: clients that are killed at random, servers that come and go, cancels at any moment. Every row
//! says whose it is; at the end nothing may be left behind.

mod client;
mod left;
mod trouble;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::Fleet;
use tokio::time::{Instant, sleep};

use self::client::{Counts, Worker};
use self::left::Left;
use self::trouble::Troubles;
use crate::proxy::processor::resident_bytes;
use crate::proxy::{RouterProcess, Without, router_config};
use crate::report::{Bar, Finish, Report};
use crate::svg;

const ROLE: &str = "soak";
const PASSWORD: &str = "soak";
const TENANTS: usize = 12;
const SHARDS: usize = 2;
/// Server connections of a shard: fewer than clients, so that they change hands.
const POOL_SIZE: usize = 12;
/// Fewest operations for each minute.
const OPERATIONS_PER_MINUTE_MIN: f64 = 1500.0;
/// The router's memory counts from here on, as part of the run.
const WARM_UP: f64 = 0.4;
/// What the router may grow by after that.
const GROWTH_MIB_MAX: f64 = 16.0;
/// Shorter than a raw client waits for a message.
const QUERY_WAIT: Duration = Duration::from_secs(10);
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Clients at once.
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// Decides every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    finish: Finish,
    /// Leave a part of the design out.
    #[arg(long, value_enum, value_name = "NAME")]
    without: Option<Without>,
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = runtime.block_on(soak(args))?;
    report.finish(&args.finish)
}

/// What was found.
struct Found {
    counts: Arc<Counts>,
    troubles: Troubles,
    left: Left,
    rows: u64,
    strange_rows: u64,
    abandoned_rows: u64,
    /// Seconds and MiB.
    memory: Vec<(f64, f64)>,
}

async fn soak(args: &Args) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let builder = Fleet::builder().shards(SHARDS).tenants(TENANTS);
    let fleet = builder.separate_servers(true).start().await?;
    fleet
        .add_role(ROLE, PASSWORD, RoleKind::Service, Vec::new())
        .await?;
    let http = tenantry_cluster::free_port().context("no free port")?;
    let http = SocketAddr::from(([127, 0, 0, 1], http));
    let mut config = router_config(&fleet, POOL_SIZE);
    config.http_listen = http;
    config.timeouts.query_wait = QUERY_WAIT;
    let router = RouterProcess::start(&config, args.without, folder.path())?;

    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let deadline = Instant::now() + length;
    let counts = Arc::new(Counts::default());
    let tenants: Vec<String> = fleet
        .tenants()
        .iter()
        .map(|tenant| fleet.id_text(tenant.id))
        .collect();
    let tenants = Arc::new(tenants);
    let workers: Vec<_> = (0..args.clients)
        .map(|number| {
            let worker = Worker {
                number,
                seed: args.seed.wrapping_mul(1_000_003),
                router: SocketAddr::from(([127, 0, 0, 1], router.port)),
                tenants: Arc::clone(&tenants),
                counts: Arc::clone(&counts),
                deadline,
            };
            tokio::spawn(worker.run())
        })
        .collect();
    let troubles = Troubles::default();
    let restart_every = (length / 5).clamp(Duration::from_secs(8), Duration::from_secs(60));
    let (made, memory) = tokio::join!(
        trouble::make(&fleet, &troubles, restart_every, deadline, args.seed),
        watch_memory(router.pid(), deadline)
    );
    made?;
    for worker in workers {
        worker.await?;
    }
    let left = left::look(&fleet, http).await?;
    let (rows, strange_rows, abandoned_rows) = left::rows(&fleet).await?;
    Ok(report(
        args,
        &Found {
            counts,
            troubles,
            left,
            rows,
            strange_rows,
            abandoned_rows,
            memory: memory?,
        },
    ))
}

async fn watch_memory(pid: u32, deadline: Instant) -> anyhow::Result<Vec<(f64, f64)>> {
    let start = Instant::now();
    let mut samples = Vec::new();
    while Instant::now() < deadline {
        let mebibytes = resident_bytes(pid)? as f64 / f64::from(1 << 20);
        samples.push((start.elapsed().as_secs_f64(), mebibytes));
        sleep(SAMPLE_EVERY).await;
    }
    Ok(samples)
}

/// How far the router's largest size of the last fifth exceeds that of the fifth after its warm-up.
fn growth(memory: &[(f64, f64)]) -> f64 {
    let length = memory.last().map_or(0.0, |(at, _)| *at);
    let largest = |from: f64, to: f64| {
        memory
            .iter()
            .filter(|(at, _)| *at >= from * length && *at <= to * length)
            .map(|(_, size)| *size)
            .fold(0.0, f64::max)
    };
    largest(0.8, 1.0) - largest(WARM_UP, WARM_UP + 0.2)
}

fn report(args: &Args, found: &Found) -> Report {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &found.counts;
    let mut report = Report {
        name: "soak",
        method: vec![
            format!(
                "{} clients for {} minutes, {TENANTS} tenants on {SHARDS} servers, pools of {POOL_SIZE}; the router is a process of its own.",
                args.clients, args.minutes
            ),
            "Clients name a tenant for each transaction and check whose every row is; a mark shows that the answer is to their statement.".to_owned(),
            "Clients leave by a TCP reset in the middle of messages, results, transactions and COPY; cancel requests come at any moment; server sessions are terminated, and a whole server is killed and started again.".to_owned(),
            format!("Memory: VmRSS; growth is the largest size of the last fifth less the largest of the fifth after the first {:.0} %.", WARM_UP * 100.0),
        ],
        ..Report::default()
    };
    if let Some(without) = args.without {
        report
            .method
            .push(format!("WITHOUT {}: the check must fail", without.name()));
    }
    for (what, value) in [
        ("operations", load(&counts.operations)),
        ("sessions", load(&counts.sessions)),
        ("rows checked", load(&counts.rows_checked)),
        ("connections reset", load(&counts.resets)),
        ("cancel requests", load(&counts.cancels)),
        (
            "errors of the design's table",
            load(&counts.expected_errors),
        ),
        (
            "server sessions terminated",
            load(&found.troubles.terminated),
        ),
        (
            "servers killed and restarted",
            load(&found.troubles.restarts),
        ),
        ("inserts acknowledged", load(&counts.acknowledged)),
        ("rows at the end", found.rows),
    ] {
        report.figure(what, value.to_string());
    }
    bars(args, found, &mut report);
    let points: Vec<(f64, f64)> = found.memory.clone();
    report.charts.push((
        "soak-memory.svg".to_owned(),
        "Resident memory of the router over the run".to_owned(),
        svg::line("Resident memory of the router", "MiB", "s", &points),
    ));
    report
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "minutes times operations"
)]
fn bars(args: &Args, found: &Found, report: &mut Report) {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &found.counts;
    let none = |what: &str, value: u64| Bar::at_most(what, "", value as f64, 0.0);
    let least = (args.minutes * OPERATIONS_PER_MINUTE_MIN) as u64;
    let lost = load(&counts.acknowledged).saturating_sub(found.rows);
    report.bars.extend([
        Bar::at_least("operations", load(&counts.operations), least),
        Bar::at_least("connections reset", load(&counts.resets), least / 100),
        Bar::at_least("servers restarted", load(&found.troubles.restarts), 1),
        none("answers that are another's", load(&counts.strangers)),
        none("rows that are another tenant's", found.strange_rows),
        none("rows of abandoned transactions", found.abandoned_rows),
        none("acknowledged inserts lost", lost),
        none("unexplained errors and silence", load(&counts.unexpected)),
        none("leaked server sessions", found.left.stray_sessions),
        none("connections not back in a pool", found.left.not_idle),
        none("transactions left open", found.left.open_transactions),
        none("advisory locks left", found.left.advisory_locks),
        none("client sessions left", found.left.clients),
        Bar::at_most(
            "growth of the router after warm-up",
            "MiB",
            growth(&found.memory),
            GROWTH_MIB_MAX,
        ),
    ]);
}

#[cfg(test)]
mod tests {
    use super::growth;

    #[test]
    fn growth_is_of_the_end_over_the_middle() {
        let flat: Vec<(f64, f64)> = (0..100).map(|at| (f64::from(at), 10.0)).collect();
        assert!(growth(&flat).abs() < 1e-9);
        let rising: Vec<(f64, f64)> = (0..101).map(|at| (f64::from(at), f64::from(at))).collect();
        assert!((growth(&rising) - 40.0).abs() < 1e-9);
    }
}
