//! The rebalancer in a process of its own, so that it can be killed where it is.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tenantry_rebalancer::{Config, FaultAction, FaultPoint, LeftOut};
use tenantry_testkit::Fleet;
use tokio_util::sync::CancellationToken;

use crate::part::Part;
use crate::proxy::Without;

/// The hidden subcommands' names.
const PART: &str = "rebalancer-part";
pub(crate) const AGENT_PART: &str = "agent-part";

/// How long moves stand still when a rebalancer dies.
const LEASE: Duration = Duration::from_secs(2);

/// What the process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) catalog_url: String,
    pub(crate) secrets_file: PathBuf,
    /// Before this step, `STATE/effect`, the file is written, and nothing happens until it is gone.
    pub(crate) park: Option<(String, PathBuf)>,
    /// What is left out.
    pub(crate) without: Option<String>,
}

impl Wanted {
    /// For this fleet.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        Self {
            catalog_url: fleet.catalog_url(),
            secrets_file: fleet.secrets_path(),
            park: None,
            without: None,
        }
    }

    /// A part of the design is left out.
    pub(crate) fn without(mut self, without: Option<Without>) -> Self {
        self.without = without.map(Without::name);
        self
    }

    pub(crate) fn start(&self, folder: &Path) -> anyhow::Result<Part> {
        Part::start(PART, self, &[], folder)
    }
}

/// The part's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct PartArgs {
    /// What it is told, as JSON.
    wanted: PathBuf,
}

fn read(args: &PartArgs) -> anyhow::Result<Wanted> {
    let text = std::fs::read(&args.wanted).context("cannot read what is wanted")?;
    Ok(serde_json::from_slice(&text)?)
}

/// Runs a rebalancer until standard input ends.
pub(crate) fn run_part(args: &PartArgs) -> anyhow::Result<()> {
    let wanted = read(args)?;
    let without = wanted.without.as_deref();
    let config = Config {
        catalog_url: wanted.catalog_url,
        secrets_file: wanted.secrets_file,
        lease: LEASE,
        fault_point: wanted.park.map(|(at, file)| FaultPoint {
            at,
            action: FaultAction::Park(file),
        }),
        left_out: LeftOut {
            marker: without == Some("marker"),
            clearing: without == Some("clearing"),
        },
        ..Config::default()
    };
    until_input_ends(|stop| async { Ok(tenantry_rebalancer::run(config, stop).await?) })
}

/// Runs a shard agent until standard input ends.
pub(crate) fn run_agent_part(args: &PartArgs) -> anyhow::Result<()> {
    let wanted = read(args)?;
    let config = tenantry_shard_agent::Config {
        catalog_url: wanted.catalog_url,
        secrets_file: wanted.secrets_file,
        admin_url: None,
    };
    until_input_ends(|stop| async { Ok(tenantry_shard_agent::run(config, stop).await?) })
}

fn until_input_ends<F>(role: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let stop = CancellationToken::new();
    let running = runtime.spawn(role(stop.clone()));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stop.cancel();
    runtime.block_on(running)?
}
