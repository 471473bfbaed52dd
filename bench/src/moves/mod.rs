//! `tenantry-bench move`: a tenant goes from shard to shard and back while its clients and its neighbours' work. What
//! they notice, and whether every booking that was acknowledged is there, once.

pub(crate) mod bed;
mod cases;
pub(crate) mod clients;
pub(crate) mod ledger;
mod report;
pub(crate) mod storm;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::proxy::Without;
use crate::report::Finish;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cutovers of each case.
    #[arg(long, default_value_t = 20)]
    cutovers: usize,
    /// Rows of the tenant that moves.
    #[arg(long, default_value_t = 100_000)]
    rows: i64,
    /// Four cutovers of each case, fewer rows and cases: about three minutes.
    #[arg(long)]
    quick: bool,
    /// Only this case.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Option<cases::Kind>,
    /// Decides every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    finish: Finish,
    /// Leave a part of the design out.
    #[arg(long, value_enum, value_name = "NAME")]
    without: Option<Without>,
}

impl Args {
    fn cutovers(&self) -> usize {
        if self.quick { 4 } else { self.cutovers }
    }

    fn rows(&self) -> i64 {
        if self.quick { 20_000 } else { self.rows }
    }
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcomes = runtime.block_on(cases::run(args))?;
    report::report(args, &outcomes).finish(&args.finish)
}
