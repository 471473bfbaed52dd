//! `tenantry-bench proxy-cost`: what the router costs per query, beside PgBouncer and beside no proxy at all.
//!
//! pgbench runs the same script through each in turn, round by round, so that whatever else the machine does meets all
//! of them. Both proxies serve the same guarded tables with signed binds, so PostgreSQL does the same work behind
//! either; what the guard itself costs is measured without a proxy.

mod bed;
mod cells;
mod pgbench;
pub(crate) mod pgbouncer;
pub(crate) mod processor;
mod report;
mod router;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use self::bed::Bed;
pub(crate) use self::bed::{DATABASE, router_config};
use self::cells::{Cell, Measured, Sample, Target};
use self::pgbench::{Address, Pgbench, Protocol, Script};
use self::pgbouncer::Installed;
pub(crate) use self::router::{PartArgs, RouterProcess, Without, run_part};
use crate::report::Finish;

/// Fewer rounds prove nothing.
const ROUNDS_MIN: u32 = 5;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Times that each cell is measured.
    #[arg(long, default_value_t = ROUNDS_MIN)]
    rounds: u32,
    /// How long pgbench runs each time.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Only the cells that have bars at 16 clients, for a second each.
    #[arg(long)]
    quick: bool,
    /// Only these scripts.
    #[arg(long = "script", value_enum, value_name = "NAME")]
    scripts: Vec<Script>,
    /// Only these protocols.
    #[arg(long = "protocol", value_enum, value_name = "NAME")]
    protocols: Vec<Protocol>,
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
    /// What is to be measured.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = cells::all(self.quick);
        cells.retain(|cell| {
            (self.scripts.is_empty() || self.scripts.contains(&cell.script))
                && (self.protocols.is_empty() || self.protocols.contains(&cell.protocol))
        });
        cells
    }

    fn seconds(&self) -> u32 {
        if self.quick { 1 } else { self.seconds }
    }
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let installed = Installed::find(args.pgbouncer.as_deref())?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    // The shard agent works in this runtime while pgbench is waited for.
    let bed = runtime.block_on(Bed::start(&installed, args.without))?;
    let measured = measure(args, &installed, &bed)?;
    report::report(args, &installed, &measured).finish(&args.finish)
}

fn measure(args: &Args, installed: &Installed, bed: &Bed) -> anyhow::Result<Vec<Measured>> {
    let server = bed.fleet.server_of(bed.fleet.shard(0));
    let pgbench = Pgbench::find(server.install(), bed.folder.path())?;
    let mut measured: Vec<Measured> = args.cells().into_iter().map(Measured::new).collect();
    // Pools and caches fill before anything counts.
    for cell in &measured {
        for target in cell.cell.targets() {
            let address = address(bed, installed, cell.cell, *target);
            let Cell {
                script, protocol, ..
            } = cell.cell;
            if cell.cell.clients >= 16 {
                pgbench.run(&address, script, protocol, cell.cell.clients, 1)?;
            }
        }
    }
    for round in 0..args.rounds {
        for cell in &mut measured {
            let targets = cell.cell.targets();
            for step in 0..targets.len() {
                // Nobody is always the one that runs after another.
                let target = targets[(step + round as usize) % targets.len()];
                let sample = sample(args, installed, bed, &pgbench, cell.cell, target)?;
                cell.add(target, sample);
            }
        }
    }
    Ok(measured)
}

fn sample(
    args: &Args,
    installed: &Installed,
    bed: &Bed,
    pgbench: &Pgbench,
    cell: Cell,
    target: Target,
) -> anyhow::Result<Sample> {
    let proxy = match target {
        Target::Router => Some(bed.router(by_session(installed, cell)).pid()),
        Target::PgBouncer => Some(bed.pgbouncer.pid()),
        Target::Direct | Target::Unguarded => None,
    };
    let proxy_used = || proxy.map(processor::of_process).transpose();
    let postmaster = bed.postmaster()?;
    let address = address(bed, installed, cell, target);
    let before = (
        proxy_used()?.unwrap_or_default(),
        processor::of_tree(postmaster)?,
    );
    let run = pgbench.run(
        &address,
        cell.script,
        cell.protocol,
        cell.clients,
        args.seconds(),
    )?;
    let after = (
        proxy_used()?.unwrap_or_default(),
        processor::of_tree(postmaster)?,
    );
    let each = 1.0 / run.transactions.max(1) as f64;
    Ok(Sample {
        transactions: run.transactions,
        per_second: run.per_second,
        proxy: (after.0 - before.0).microseconds() * each,
        postgres: (after.1 - before.1).microseconds() * each,
    })
}

/// Whether PgBouncer has to pool by sessions to serve this.
fn by_session(installed: &Installed, cell: Cell) -> bool {
    cell.protocol == Protocol::Prepared && !installed.pools_prepared
}

fn address(bed: &Bed, installed: &Installed, cell: Cell, target: Target) -> Address {
    match target {
        Target::Router => {
            bed.through_router(cell.script != Script::Mix, by_session(installed, cell))
        }
        Target::PgBouncer => bed.through_pgbouncer(by_session(installed, cell)),
        Target::Direct => bed.direct(),
        Target::Unguarded => bed.unguarded(),
    }
}
