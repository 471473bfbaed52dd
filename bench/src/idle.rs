//! `tenantry-bench idle`: what a connected client that says nothing costs the router, and what a server connection does.
//!
//! Each client has logged in and has run a statement with a result of some size, so that what it once needed and does
//! not give back is counted.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tenantry_router::Config;
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, Login, RawClient};
use tokio::time::sleep;

use crate::proxy::processor::resident_bytes;
use crate::proxy::{DATABASE, RouterProcess, Without, router_config};
use crate::report::{Bar, Finish, Report};

const KIB_PER_CLIENT_MAX: f64 = 8.0;
const CLIENTS_MIN: u64 = 5000;
const ROLE: &str = "idle";
const PASSWORD: &str = "idle";
/// Clients that come and go before anything counts, so that pools and caches are filled.
const BEFORE: usize = 200;
/// Logins at a time.
const AT_ONCE: usize = 64;
/// Server connections opened at once, to learn what one costs.
const SERVERS: usize = 64;
/// A client's one statement; its result is larger than what most clients ask for.
const STATEMENT: &str = "SELECT repeat('x', 12000)";
/// How often memory is looked at, and how many times in a row it must be the same.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: u32 = 6;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Clients that are connected at once.
    #[arg(long, default_value_t = 5000)]
    clients: usize,
    #[command(flatten)]
    finish: Finish,
    /// Leave a part of the design out.
    #[arg(long, value_enum, value_name = "NAME")]
    without: Option<Without>,
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = runtime.block_on(measure(args))?;
    report.finish(&args.finish)
}

async fn measure(args: &Args) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let fleet = Fleet::builder()
        .shards(1)
        .tenants(1)
        .setting("max_connections", 2 * SERVERS + 100)
        .start()
        .await?;
    fleet
        .add_role(ROLE, PASSWORD, RoleKind::Service, Vec::new())
        .await?;
    let config = Config {
        // The only tenant takes all connections.
        pool_reserve: 0,
        ..router_config(&fleet, SERVERS)
    };
    let router = RouterProcess::start(&config, args.without, folder.path())?;
    let address = SocketAddr::from(([127, 0, 0, 1], router.port));
    drop(connect(address, BEFORE).await?);
    let empty = settled(router.pid()).await?;

    let clients = connect(address, args.clients).await?;
    let idle = settled(router.pid()).await?;
    drop((clients, router));

    let other = RouterProcess::start(&config, args.without, folder.path())?;
    let address = SocketAddr::from(([127, 0, 0, 1], other.port));
    let mut clients = connect(address, SERVERS).await?;
    let before = settled(other.pid()).await?;
    for client in &mut clients {
        client.query("BEGIN; SELECT 1").await?;
    }
    for client in &mut clients {
        client.query("COMMIT").await?;
    }
    let opened = settled(other.pid()).await?;
    Ok(report(args, empty, idle, opened.saturating_sub(before)))
}

fn report(args: &Args, empty: u64, idle: u64, servers: u64) -> Report {
    let kibibytes = |bytes: u64| bytes as f64 / 1024.0;
    let clients = args.clients.max(1) as f64;
    let per_client = kibibytes(idle.saturating_sub(empty)) / clients;
    let mut report = Report {
        name: "idle",
        method: vec![
            "Resident memory (VmRSS) of the router's process, its allocator's slack included, the kernel's socket buffers not.".to_owned(),
            format!("Every client has logged in and has read one result of 12,000 bytes; {BEFORE} clients have come and gone before."),
            format!("Server connections: {SERVERS} transactions open at once, less what the same clients took before."),
        ],
        ..Report::default()
    };
    if let Some(without) = args.without {
        let line = format!("WITHOUT {}: the check must fail", without.name());
        report.method.push(line);
    }
    report.figure(
        "router without clients",
        format!("{:.0} KiB", kibibytes(empty)),
    );
    report.figure(
        format!("router with {} idle clients", args.clients),
        format!("{:.0} KiB", kibibytes(idle)),
    );
    report.figure(
        "per idle server connection",
        format!("{:.1} KiB", kibibytes(servers) / SERVERS as f64),
    );
    report.bars.extend([
        Bar::at_least("idle clients", args.clients as u64, CLIENTS_MIN),
        Bar::at_most(
            "memory per idle client",
            "KiB",
            per_client,
            KIB_PER_CLIENT_MAX,
        ),
    ]);
    report
}

/// Clients that have logged in and have run one statement.
async fn connect(address: SocketAddr, count: usize) -> anyhow::Result<Vec<RawClient>> {
    let login = Login::new(ROLE, PASSWORD, format!("{DATABASE}/1"));
    let login = &login;
    stream::iter(0..count)
        .map(|_| async move {
            let mut client = RawClient::login(address, login).await?;
            client.query(STATEMENT).await?;
            anyhow::Ok(client)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Resident bytes once they no longer change.
async fn settled(pid: u32) -> anyhow::Result<u64> {
    let mut last = resident_bytes(pid)?;
    let mut same = 0;
    while same < LOOKS {
        sleep(LOOK).await;
        let now = resident_bytes(pid)?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
