//! The command line of `tenantry shard`.

use clap::{Args, Subcommand, ValueEnum};

use crate::moves::WaitArgs;
use crate::rebalance::LimitArgs;

/// `tenantry shard …`
#[derive(Debug, Subcommand)]
pub(crate) enum ShardCommand {
    /// List shards
    List,
    /// Show one shard
    Show {
        /// Name or number
        shard: String,
    },
    /// Add a shard; tenants that exist stay where they live, new ones follow the new ring
    Add(AddArgs),
    /// Empty a shard: no new tenant comes, and those that are there move to other shards while they are used
    Drain(DrainArgs),
    /// Make a shard active again; moves off it that are under way are finished
    Resume {
        /// Name or number
        shard: String,
    },
    /// Keep a shard as it is: no new tenant comes, and no move begins or ends there; its tenants go on
    SetReadonly {
        /// Name or number
        shard: String,
    },
    /// Take an empty shard out of the fleet
    Remove(RemoveArgs),
}

/// `tenantry shard drain`
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// Name or number
    pub(crate) shard: String,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Only show who would move where, and why
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// `tenantry shard remove`
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Name or number
    pub(crate) shard: String,
    /// Its name, typed out
    #[arg(long, value_name = "NAME")]
    pub(crate) confirm: String,
    /// Its server is gone for good: do not look into its database
    #[arg(long)]
    pub(crate) gone: bool,
}

/// `tenantry shard add`
#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// Name of the shard
    pub(crate) name: String,
    /// Host of its PostgreSQL server
    #[arg(long)]
    pub(crate) host: String,
    /// Port of its PostgreSQL server
    #[arg(long, default_value_t = 5432)]
    pub(crate) port: u16,
    /// Its database
    #[arg(long)]
    pub(crate) database: String,
    /// What it is for
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kind: Kind,
    /// Share of the ring, for shared shards
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) weight: u32,
    /// Failure domain
    #[arg(long)]
    pub(crate) zone: Option<String>,
}

/// What a shard is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Holds many tenants and is on the ring
    #[default]
    Shared,
    /// Holds one tenant
    Dedicated,
    /// Empty, kept ready to become dedicated
    Spare,
}
