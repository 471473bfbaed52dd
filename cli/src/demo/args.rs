//! The command line of `tenantry demo`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::Period;

/// `tenantry demo …`
#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Start a whole fleet on this machine, and create it the first time
    Up(UpArgs),
    /// Stop it
    Down(DownArgs),
    /// Say what is running
    Status(PlaceArgs),
    /// Drive shop traffic through the router and measure it
    Load(LoadArgs),
}

/// Which demo.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlaceArgs {
    /// Directory of the demo; default /var/lib/tenantry/demo for root, else ~/.local/share/tenantry/demo
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `tenantry demo up`
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// First port: the router listens here, HTTP on +1, the catalog on +10, shards from +11 [default: 6432, later
    /// what it was]
    #[arg(long, value_name = "PORT")]
    pub(crate) port_base: Option<u16>,
    /// Shards beside one spare [default: 4, later what it was]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) shards: Option<u16>,
    /// Stores to create [default: 200, later what it was]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) tenants: Option<u32>,
    /// Return once it is ready and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Run as the background process of a detached demo
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) background: bool,
}

/// `tenantry demo down`
#[derive(Args, Clone, Debug)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Remove the directory and all data in it
    #[arg(long)]
    pub(crate) purge: bool,
}

/// `tenantry demo load`
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Concurrent shoppers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub(crate) clients: usize,
    /// How long, such as `30s` or `5m`
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) duration: Period,
    /// Seed of the shoppers' choices; printed, so that a run can be repeated
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}
