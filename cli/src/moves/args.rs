//! The command lines of `tenantry move`, `tenantry tenant move` and `tenantry tenant isolate`.

use clap::{Args, Subcommand, ValueEnum};
use tenantry_schema::catalog::moves::{IdlePolicy, MovePolicy, SwitchPolicy};

use crate::config::Period;

/// `tenantry move …`
#[derive(Debug, Subcommand)]
pub(crate) enum MoveCommand {
    /// List moves, newest first
    List(ListArgs),
    /// Show one move: where it is, what it waits for, how long clients waited
    Show(ShowArgs),
    /// Follow a move until it is over
    Watch(WatchArgs),
    /// Cut over now, where the move was planned with --manual
    Switch(AskArgs),
    /// After the cutover: bring the tenant back to where it was, with what was written since
    Reverse(AskArgs),
    /// End the time in which the way back is kept open
    Complete(AskArgs),
    /// Before the cutover: undo the move
    Cancel(AskArgs),
    /// Go no further than where the move is
    Pause(AskArgs),
    /// Go on after a pause, or try again after a failure
    Resume(AskArgs),
}

/// `tenantry move list`
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those that are not over
    #[arg(long)]
    pub(super) live: bool,
    /// Only those of this tenant: id, slug or hostname
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
    /// Only those of this rebalancing
    #[arg(long, value_name = "ID")]
    pub(super) rebalance: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) limit: u32,
}

/// `tenantry move show`
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Id of the move, or a tenant for its newest one
    pub(super) id: String,
    /// Its history with the evidence, oldest first
    #[arg(long)]
    pub(super) events: bool,
}

/// `tenantry move watch`
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Id of the move, or a tenant for its newest one
    pub(super) id: String,
    /// What to wait for
    #[arg(long, value_enum, default_value_t)]
    pub(super) until: Until,
    /// Give up watching after this time; the move goes on
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(super) timeout: Period,
}

/// What a move is watched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// The tenant is served by the destination
    Arrived,
    /// The way back is closed and the source is clean
    #[default]
    Over,
}

/// `tenantry move switch` and its like
#[derive(Args, Debug)]
pub(crate) struct AskArgs {
    /// Id of the move, or a tenant for its newest one
    pub(super) id: String,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// Whether to wait.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArgs {
    /// Wait until it is done, and show how far it is meanwhile
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait; what was begun goes on
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "wait")]
    pub(crate) timeout: Period,
}

/// `tenantry tenant move`
#[derive(Args, Debug)]
pub(crate) struct RelocateArgs {
    /// Id, slug or hostname
    pub(crate) tenant: String,
    /// Name or number of the shard; if absent, where the ring wants it, else the least loaded shared shard
    #[arg(long, value_name = "SHARD")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
}

/// `tenantry tenant isolate`
#[derive(Args, Debug)]
pub(crate) struct IsolateArgs {
    /// Id, slug or hostname
    pub(crate) tenant: String,
    /// Name or number of a spare; if absent, one of the tenant's zone first, and the least loaded shared shard if none is left
    #[arg(long, value_name = "SHARD")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
}

/// How a move is made.
#[derive(Args, Debug)]
pub(crate) struct HowArgs {
    /// Why; kept with the move
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Leave the cutover to `tenantry move switch`
    #[arg(long)]
    manual: bool,
    /// End sessions that stay idle in a transaction of the tenant when the cutover needs its lock, instead of waiting for them
    #[arg(long)]
    end_idle: bool,
    /// How long clients may wait in one cutover; past it the tenant goes on at the source and the cutover is tried again
    #[arg(long, value_name = "TIME")]
    pause_budget: Option<Period>,
    /// How long the way back is kept open
    #[arg(long, value_name = "TIME")]
    probation: Option<Period>,
    /// Copy and clean as fast as the servers go, whatever their other tenants feel
    #[arg(long)]
    unthrottled: bool,
    /// Only say what would be planned
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

impl HowArgs {
    /// As the catalog keeps it.
    pub(crate) fn policy(&self) -> MovePolicy {
        MovePolicy {
            switch: if self.manual {
                SwitchPolicy::Manual
            } else {
                SwitchPolicy::Auto
            },
            idle: if self.end_idle {
                IdlePolicy::Terminate
            } else {
                IdlePolicy::Wait
            },
            pause_budget_ms: self
                .pause_budget
                .map(|budget| u32::try_from(budget.0.as_millis()).unwrap_or(u32::MAX)),
            probation_s: self.probation.map(|probation| probation.0.as_secs()),
            unthrottled: self.unthrottled,
        }
    }
}
