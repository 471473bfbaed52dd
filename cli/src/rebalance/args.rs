//! The command line of `tenantry rebalance`, and the limits that `tenantry shard drain` shares with it.

use clap::{Args, Subcommand, ValueEnum};
use tenantry_rebalancer::plan::{Goal as PlannerGoal, Limits, ZoneRule};

use crate::config::{ByteSize, Period};
use crate::moves::WaitArgs;

/// `tenantry rebalance …`
#[derive(Debug, Subcommand)]
pub(crate) enum RebalanceCommand {
    /// Show which tenants would move where, and why; nothing is done
    Plan(PlanArgs),
    /// Make the plan and let the rebalancer carry it out
    Start(StartArgs),
    /// Show how far a rebalancing is and what it waits for
    Status(StatusArgs),
    /// Begin no more moves; those under way go on
    Stop(StopArgs),
}

/// `tenantry rebalance plan`
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// What the plan is to reach
    #[arg(long, value_enum, default_value_t)]
    pub(super) goal: Goal,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
}

/// `tenantry rebalance start`
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(super) plan: PlanArgs,
    /// Only show the plan
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// `tenantry rebalance status`
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Id of the rebalancing; if absent, the one that is under way, else the newest
    pub(super) id: Option<String>,
    /// Its moves, one by one
    #[arg(long)]
    pub(super) moves: bool,
    /// The last rebalancings, newest first
    #[arg(long, conflicts_with_all = ["id", "moves"])]
    pub(super) all: bool,
}

/// `tenantry rebalance stop`
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Id of the rebalancing; if absent, the one that is under way
    pub(super) id: Option<String>,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// What a plan is to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// Tenants go where the ring wants them, then bytes and load are made even
    #[default]
    Balance,
    /// Only that tenants go where the ring wants them, so that their pins can go
    Pins,
    /// Only that bytes and load become even
    Even,
}

impl From<Goal> for PlannerGoal {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::Balance => Self::Balance,
            Goal::Pins => Self::Pins,
            Goal::Even => Self::Even,
        }
    }
}

/// What bounds a plan and its execution.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Moves in the plan
    #[arg(long, value_name = "N", default_value_t = Limits::default().moves_max)]
    moves_max: usize,
    /// Bytes that the plan moves: `200GiB`
    #[arg(long, value_name = "SIZE")]
    bytes_max: Option<ByteSize>,
    /// Moves at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().at_once_max)]
    at_once: usize,
    /// Moves at once from or to one shard
    #[arg(long, value_name = "N", default_value_t = Limits::default().per_shard_max)]
    per_shard: usize,
    /// How long the way back of each move is kept open
    #[arg(long, value_name = "TIME", default_value = "10s")]
    probation: Period,
    /// How far above its share a shard may be, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
    tolerance: u8,
    /// Tenants stay in their zone
    #[arg(long)]
    stay_in_zone: bool,
}

impl LimitArgs {
    /// As the planner takes them.
    pub(crate) fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            moves_max: self.moves_max,
            bytes_max: self.bytes_max.map_or(default.bytes_max, |size| size.0),
            per_shard_max: self.per_shard.max(1),
            at_once_max: self.at_once.max(1),
            probation_s: self.probation.0.as_secs(),
            tolerance: f64::from(self.tolerance) / 100.0,
            zones: if self.stay_in_zone {
                ZoneRule::Stay
            } else {
                ZoneRule::Prefer
            },
            ..default
        }
    }
}
