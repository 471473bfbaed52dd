//! `tenantry-bench`: load scenarios. Each states its bars and its least number of operations, prints its figures, and
//! ends with a verdict; with `--check` a missed bar is a failure.

mod catalog;
mod directory;
mod faults;
mod idle;
mod moves;
mod neighbours;
mod part;
mod proxy;
mod rebalancer;
mod report;
mod sale;
mod soak;
mod svg;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(
    name = "tenantry-bench",
    version,
    about = "Load scenarios and their bars"
)]
struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Loading and following the catalog, and changing the ring.
    Catalog(catalog::Args),
    /// Memory, load time and lookup latency of the directory that every router holds.
    Directory(directory::Args),
    /// One measurement of `directory`, in a process of its own.
    #[command(hide = true)]
    DirectoryPart(directory::PartArgs),
    /// Processor time per query and throughput of the router, beside PgBouncer.
    ProxyCost(proxy::Args),
    /// A store at a hundred times its load is isolated while it sells.
    FlashSale(sale::Args),
    /// Memory per idle client of the router, and per idle server connection.
    Idle(idle::Args),
    /// A tenant goes from shard to shard under load: pauses, latencies, and every booking accounted for.
    Move(moves::Args),
    /// Every process killed and every connection cut at every step of a move.
    MoveFaults(faults::Args),
    /// One tenant at a hundred times its load, then five: what the others notice.
    Neighbours(neighbours::Args),
    /// Clients killed at random, servers that come and go: nothing crosses, nothing is left.
    Soak(soak::Args),
    /// The router that `proxy-cost` and `idle` measure, in a process of its own.
    #[command(hide = true)]
    RouterPart(proxy::PartArgs),
    /// The rebalancer of the scenarios, in a process of its own.
    #[command(hide = true)]
    RebalancerPart(rebalancer::PartArgs),
    /// The shard agent of the scenarios, in a process of its own.
    #[command(hide = true)]
    AgentPart(rebalancer::PartArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().scenario {
        Scenario::Catalog(args) => catalog::run(&args),
        Scenario::Directory(args) => directory::run(&args),
        Scenario::DirectoryPart(args) => directory::run_part(&args).map(|()| ExitCode::SUCCESS),
        Scenario::ProxyCost(args) => proxy::run(&args),
        Scenario::FlashSale(args) => sale::run(&args),
        Scenario::Idle(args) => idle::run(&args),
        Scenario::Move(args) => moves::run(&args),
        Scenario::MoveFaults(args) => faults::run(&args),
        Scenario::Neighbours(args) => neighbours::run(&args),
        Scenario::Soak(args) => soak::run(&args),
        Scenario::RouterPart(args) => proxy::run_part(&args).map(|()| ExitCode::SUCCESS),
        Scenario::AgentPart(args) => rebalancer::run_agent_part(&args).map(|()| ExitCode::SUCCESS),
        Scenario::RebalancerPart(args) => rebalancer::run_part(&args).map(|()| ExitCode::SUCCESS),
    }
}
