//! `tenantry-bench move-faults`: at every step of a move, every process is killed and every connection cut. The move ends,
//! nothing is left behind, and every booking that was acknowledged is there, once.

mod doors;
mod left;
mod matrix;
mod report;
mod trial;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

use self::matrix::Fault;
use self::trial::Trial;
use self::world::World;
use crate::proxy::Without;
use crate::report::Finish;

/// What to try.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every step with every fault, instead of each at least once.
    #[arg(long)]
    all: bool,
    /// Only this fault.
    #[arg(long, value_enum, value_name = "FAULT")]
    fault: Option<Fault>,
    /// Only steps whose `STATE/effect` contains this.
    #[arg(long, value_name = "TEXT")]
    point: Option<String>,
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
    let trials = runtime.block_on(try_all(args))?;
    report::report(args, &trials).finish(&args.finish)
}

async fn try_all(args: &Args) -> anyhow::Result<Vec<Trial>> {
    let is_narrowed = args.fault.is_some() || args.point.is_some();
    let mut chosen = matrix::trials(args.all || is_narrowed);
    chosen.retain(|(point, fault)| {
        args.fault.is_none_or(|only| only == *fault)
            && (args.point.as_ref()).is_none_or(|only| point.name().contains(only))
    });
    let mut world = World::start(args.without).await?;
    let mut trials: Vec<Trial> = Vec::new();
    for (number, (point, fault)) in (1..).zip(chosen) {
        let trial = trial::run(&mut world, number, point, fault, args.seed).await?;
        let verdict = if trial.holds() { "ok" } else { "FAILED" };
        // Without a standard error there is nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "{:32} {:28} {:?} in {:.1} s {verdict}",
            point.name(),
            fault.name(),
            trial.end,
            trial.took_s
        );
        let is_over = trial.end.is_ok();
        trials.push(trial);
        if !is_over {
            // A move that does not end is in the way of the next.
            world = World::start(args.without).await?;
        }
    }
    Ok(trials)
}
