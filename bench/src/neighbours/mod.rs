//! `tenantry-bench neighbours`: two hundred tenants at a steady load on one shard, one of them at a hundred times its
//! load, then five: what the others notice, through the router and through PgBouncer.
//!
//! The shard's capacity is that of its pool: statements that mostly wait. On few processors everything else shares them,
//! and the clients' own work would be measured instead. Statements that compute are measured beside that.

pub(crate) mod load;
mod report;
mod scheduling;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, Login};

use self::load::{Clients, Door, Outcome, Phase};
use self::scheduling::Cost;
use crate::proxy::pgbouncer::{self, Backend, Installed, PgBouncer};
use crate::proxy::{DATABASE, RouterProcess, Without, router_config};
use crate::report::Finish;

const ROLE: &str = "neighbours";
const PASSWORD: &str = "neighbours";
const TENANTS: usize = 200;
/// Tenants that are aggressors at some time; none of them is among the others in any phase.
const AGGRESSORS: usize = 5;
/// How many times its usual load an aggressor has.
const TIMES: f64 = 100.0;
const POOL_SIZE: usize = 8;
/// Part of the capacity that all tenants take together when all is calm.
const CALM: f64 = 0.5;
/// Clients of a tenant and of an aggressor. A tenant is at four requests of five milliseconds a second.
const CLIENTS: usize = 2;
const AGGRESSORS_CLIENTS: usize = 100;
/// Clients of the one with a connection's worth of share, when seven neighbours flood the pool.
const MODEST: usize = AGGRESSORS;
/// Five milliseconds of waiting.
const WAITS: &str = "SELECT pg_sleep(0.005)";
/// Some milliseconds of computing.
const COMPUTES: &str = "SELECT sum(i) FROM generate_series(1, 15000) i";

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Length of each phase in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Shorter phases, and only statements that wait: about a minute.
    #[arg(long)]
    quick: bool,
    /// Decides every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The PgBouncer to compare with, if not the one that is found.
    #[arg(long, value_name = "PROGRAM")]
    pgbouncer: Option<PathBuf>,
    #[command(flatten)]
    finish: Finish,
    /// Leave a part of the design out.
    #[arg(long, value_enum, value_name = "NAME")]
    without: Option<Without>,
}

impl Args {
    fn length(&self) -> Duration {
        Duration::from_secs(if self.quick { 8 } else { self.seconds })
    }
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let installed = Installed::find(args.pgbouncer.as_deref())?;
    let cost = scheduling::measure()?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let measured = runtime.block_on(measure(args, &installed, cost))?;
    report::report(args, &installed, &measured).finish(&args.finish)
}

/// What is in front of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    Router,
    PgBouncer,
}

impl Proxy {
    fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::PgBouncer => "PgBouncer",
        }
    }
}

/// One statement through one proxy: all calm, one aggressor, five.
struct Storm {
    proxy: Proxy,
    statement: &'static str,
    phases: [Vec<Outcome>; 3],
}

struct Measured {
    cost: Cost,
    /// Statements per second that the pool could do, by statement.
    capacity: Vec<(&'static str, f64)>,
    storms: Vec<Storm>,
    /// Part of a connection that one of eight tenants got while the other seven flooded the pool.
    modest: f64,
}

async fn measure(args: &Args, installed: &Installed, cost: Cost) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let fleet = Fleet::builder()
        .shards(1)
        .tenants(TENANTS)
        .setting("max_connections", 100)
        .start()
        .await?;
    fleet
        .add_role(ROLE, PASSWORD, RoleKind::Service, Vec::new())
        .await?;
    let config = router_config(&fleet, POOL_SIZE);
    let router = RouterProcess::start(&config, args.without, folder.path())?;
    let pgbouncer = start_pgbouncer(installed, &fleet, folder.path()).await?;
    let mut counts = vec![CLIENTS; TENANTS];
    counts[..AGGRESSORS].fill(AGGRESSORS_CLIENTS);
    let doors = [
        (Proxy::Router, through_router(&fleet, router.port)),
        (Proxy::PgBouncer, through_pgbouncer(pgbouncer.port)),
    ];
    let mut statements = vec![WAITS];
    if !args.quick {
        statements.push(COMPUTES);
    }
    let (mut storms, mut capacity, mut modest) = (Vec::new(), Vec::new(), 0.0);
    for (proxy, door) in doors {
        let mut clients = Clients::connect(&door, &counts).await?;
        if proxy == Proxy::Router {
            for statement in &statements {
                capacity.push((*statement, capacity_of(&mut clients, statement).await?));
            }
            modest = share_of_one(&mut clients, args.length()).await?;
        }
        for (statement, capacity) in &capacity {
            let phases = storm(args, &mut clients, statement, *capacity).await?;
            storms.push(Storm {
                proxy,
                statement,
                phases,
            });
        }
    }
    Ok(Measured {
        cost,
        capacity,
        storms,
        modest,
    })
}

fn through_router(fleet: &Fleet, port: u16) -> Door {
    let tenants = fleet.tenants().iter();
    let logins = tenants.map(|tenant| {
        let database = format!("{DATABASE}/{}", fleet.id_text(tenant.id));
        Login::new(ROLE, PASSWORD, database)
    });
    Door {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        logins: logins.collect(),
    }
}

fn through_pgbouncer(port: u16) -> Door {
    let login = Login::new(pgbouncer::USER, "", pgbouncer::TRANSACTION);
    Door {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        logins: vec![login; TENANTS],
    }
}

async fn start_pgbouncer(
    installed: &Installed,
    fleet: &Fleet,
    folder: &std::path::Path,
) -> anyhow::Result<PgBouncer> {
    let shard = fleet.shard(0);
    let backend = Backend {
        port: fleet.server_of(shard).port(),
        database: shard.name().as_str(),
        user: tenantry_schema::guard::role::APP,
        password: shard.secrets().passwords.app.expose(),
        // The statements touch no tenant's rows.
        connect_query: "SELECT 1",
        pool_size: POOL_SIZE,
        sessions: 1,
    };
    PgBouncer::start(installed, &backend, folder).await
}

/// Statements per second when tenants that are many ask for all there is.
async fn capacity_of(clients: &mut Clients, statement: &'static str) -> anyhow::Result<f64> {
    const LENGTH: Duration = Duration::from_secs(3);
    let tenants: Vec<usize> = (AGGRESSORS..AGGRESSORS + 24).collect();
    let answers = clients.flood(&tenants, statement, LENGTH).await?;
    Ok(answers.iter().sum::<u64>() as f64 / LENGTH.as_secs_f64())
}

/// The part of a connection that a tenant with two clients gets beside seven that ask for more than their shares, five of
/// them with a hundred clients.
async fn share_of_one(clients: &mut Clients, length: Duration) -> anyhow::Result<f64> {
    let tenants: Vec<usize> = (0..POOL_SIZE).collect();
    let answers = clients.flood(&tenants, WAITS, length / 2).await?;
    let all: u64 = answers.iter().sum();
    Ok(answers[MODEST] as f64 * POOL_SIZE as f64 / all.max(1) as f64)
}

async fn storm(
    args: &Args,
    clients: &mut Clients,
    statement: &'static str,
    capacity: f64,
) -> anyhow::Result<[Vec<Outcome>; 3]> {
    let calm = vec![capacity * CALM / TENANTS as f64; TENANTS];
    let mut phases = [Vec::new(), Vec::new(), Vec::new()];
    for (number, (aggressors, outcome)) in
        [0, 1, AGGRESSORS].into_iter().zip(&mut phases).enumerate()
    {
        let mut per_second = calm.clone();
        for rate in &mut per_second[..aggressors] {
            *rate *= TIMES;
        }
        let phase = Phase {
            statement,
            per_second,
            length: args.length(),
            seed: args.seed + number as u64,
        };
        *outcome = clients.run(&phase).await?;
    }
    Ok(phases)
}
