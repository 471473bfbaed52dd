//! The command line of `tenantry tenant`.

use clap::{Args, Subcommand};
use tenantry_schema::tenant::TenantState;

use crate::config::Period;
use crate::limits::LimitArgs;
use crate::moves::{IsolateArgs, RelocateArgs};

/// `tenantry tenant …`
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant; its shard follows from the ring
    Create(CreateArgs),
    /// List tenants in order of id
    List(ListArgs),
    /// Show one tenant
    Show(NamedArgs),
    /// Say which shard a tenant lives on, and why
    Locate(NamedArgs),
    /// Show which tenants use the fleet most
    Top(TopArgs),
    /// Refuse a tenant's statements until it is resumed
    Suspend(SuspendArgs),
    /// Let a suspended tenant work again
    Resume(NamedArgs),
    /// Show which tenants are hot: those that take their shard over
    Hot(HotArgs),
    /// Show or change what a tenant may use
    #[command(subcommand)]
    Limit(LimitCommand),
    /// Give a tenant another plan
    SetPlan(SetPlanArgs),
    /// Move a tenant to another shard while it is used
    Move(RelocateArgs),
    /// Give a tenant a shard of its own while it is used
    Isolate(IsolateArgs),
}

/// `tenantry tenant hot`
#[derive(Args, Debug)]
pub(crate) struct HotArgs {
    /// Who turned hot and cold, newest first, instead of who is hot now
    #[arg(long)]
    pub(crate) events: bool,
    /// What the isolation policy recommended or did about them, newest first
    #[arg(long, conflicts_with = "events")]
    pub(crate) decisions: bool,
    /// At most so many events or decisions
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
}

/// `tenantry tenant limit …`
#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Show a tenant's limits: its own, and its plan's where it has none
    Show(NamedArgs),
    /// Give a tenant limits of its own; what is not named stays as it is
    Set(SetLimitArgs),
    /// Take a tenant's own limits away; its plan's are in force again
    Clear(NamedArgs),
}

/// `tenantry tenant limit set`
#[derive(Args, Debug)]
pub(crate) struct SetLimitArgs {
    /// Id, slug or hostname
    pub(crate) tenant: String,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// `tenantry tenant set-plan`
#[derive(Args, Debug)]
pub(crate) struct SetPlanArgs {
    /// Id, slug or hostname
    pub(crate) tenant: String,
    /// Name of the plan
    pub(crate) plan: String,
}

/// Which tenant.
#[derive(Args, Debug)]
pub(crate) struct NamedArgs {
    /// Id, slug or hostname
    pub(crate) tenant: String,
}

/// `tenantry tenant create`
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Short name: a letter, then letters, digits and hyphens, 63 at most
    pub(crate) slug: String,
    /// Id; chosen by the catalog if absent
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Plan, which carries default limits
    #[arg(long)]
    pub(crate) plan: Option<String>,
    /// A hostname of the tenant; may be repeated
    #[arg(long = "hostname", value_name = "NAME")]
    pub(crate) hostnames: Vec<String>,
    /// Wait until the tenant's shard has taken it in
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "wait")]
    pub(crate) timeout: Period,
}

/// `tenantry tenant list`
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only tenants in this state
    #[arg(long, value_parser = state)]
    pub(crate) state: Option<TenantState>,
    /// Only tenants that live on this shard
    #[arg(long, value_name = "NAME")]
    pub(crate) shard: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Begin after this id
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
}

/// `tenantry tenant top`
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Ask this router at its HTTP address instead of the catalog; may be repeated
    #[arg(long = "router", value_name = "HOST:PORT")]
    pub(crate) routers: Vec<String>,
    /// At most so many tenants
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
    /// Go on, and show what was used in each interval
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long an interval is
    #[arg(long, value_name = "TIME", default_value = "2s", requires = "watch")]
    pub(crate) interval: Period,
}

/// `tenantry tenant suspend`
#[derive(Args, Debug)]
pub(crate) struct SuspendArgs {
    /// Id, slug or hostname
    pub(crate) tenant: String,
    /// Told to the tenant's clients
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

fn state(text: &str) -> Result<TenantState, String> {
    text.parse().map_err(|_| {
        let names: Vec<&str> = TenantState::ALL
            .into_iter()
            .map(TenantState::as_str)
            .collect();
        format!("expected one of {}", names.join(", "))
    })
}
