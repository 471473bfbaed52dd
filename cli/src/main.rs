//! The `tenantry` binary: parses the command line, runs one command, ends with its exit code.

mod args;
mod catalog;
mod completion;
mod config;
mod config_check;
mod demo;
mod doctor;
mod exit;
mod init;
mod kill_switch;
mod limits;
mod moves;
mod output;
mod plan;
mod rebalance;
mod role;
mod roles;
mod shard;
mod shutdown;
mod telemetry;
mod tenant;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::output::Printer;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::note(&failure);
            failure.exit().into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let exit = runtime.block_on(dispatch(cli));
    // Blocking work that outlives its command, such as a name lookup, must not hold up the exit.
    runtime.shutdown_background();
    exit
}

async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let printer = Printer::new(cli.global.output);
    let sources = cli.sources();
    match cli.command {
        Command::Init(args) => init::run(args, &sources, printer).await,
        Command::Router(_) => roles::router(sources).await,
        Command::Agent(_) => roles::agent(sources).await,
        Command::Rebalancer => roles::rebalancer(sources).await,
        Command::Console(_) => roles::console(sources).await,
        Command::Demo(command) => demo::run(command, cli.global.log.as_deref(), printer).await,
        Command::Tenant(command) => tenant::run(command, &sources, printer).await,
        Command::Shard(command) => shard::run(command, &sources, printer).await,
        Command::Move(command) => moves::run(command, &sources, printer).await,
        Command::Rebalance(command) => rebalance::run(command, &sources, printer).await,
        Command::Plan(command) => plan::run(command, &sources, printer).await,
        Command::KillSwitch(command) => kill_switch::run(command, &sources, printer).await,
        Command::Role(command) => role::run(command, &sources, printer).await,
        Command::Doctor => doctor::run(&sources, printer).await,
        Command::Config(command) => config_check::run(&command, &sources, printer),
        Command::Completion { shell } => completion::run(shell, printer),
    }
}
