//! What a rebalancer is told: where the catalog is, and how much it may do at once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::exec::fault::FaultPoint;
use crate::policy::Policy;

/// Configuration of one rebalancer process.
#[derive(Clone)]
pub struct Config {
    /// Connection URI of the catalog database; carries a password, so it is never printed.
    pub catalog_url: String,
    /// File with the passwords of the shards and the control token.
    pub secrets_file: PathBuf,
    /// Where transactions are kept that are too large for memory until they commit.
    pub spill_dir: PathBuf,
    /// How long clients may wait in one cutover, unless the move says otherwise.
    pub pause_budget: Duration,
    /// How long the way back is kept open, unless the move says otherwise.
    pub probation: Duration,
    /// Moves at once.
    pub moves_max: usize,
    /// Moves at once from or to one shard.
    pub moves_per_shard_max: usize,
    /// Length of the leader's lease: how long moves stand still when a rebalancer dies.
    pub lease: Duration,
    /// When hot tenants are isolated, as far as the catalog says nothing else.
    pub policy: Policy,
    /// For drills and tests: where to fail.
    pub fault_point: Option<FaultPoint>,
    /// For measurements only; no configuration file can set it.
    pub left_out: LeftOut,
}

/// Parts of the design to do without, so that a measurement can show what each is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// A tenant is handed over before everything that it wrote has arrived.
    pub marker: bool,
    /// Slots and publications stay.
    pub clearing: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            catalog_url: String::new(),
            secrets_file: PathBuf::new(),
            spill_dir: std::env::temp_dir(),
            pause_budget: Duration::from_millis(80),
            probation: Duration::from_secs(600),
            moves_max: 8,
            moves_per_shard_max: 2,
            lease: Duration::from_secs(5),
            policy: Policy::default(),
            fault_point: None,
            left_out: LeftOut::default(),
        }
    }
}

impl fmt::Debug for Config {
    /// Leaves the URL out: it holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("secrets_file", &self.secrets_file)
            .field("pause_budget", &self.pause_budget)
            .field("probation", &self.probation)
            .field("moves_max", &self.moves_max)
            .field("moves_per_shard_max", &self.moves_per_shard_max)
            .field("lease", &self.lease)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
