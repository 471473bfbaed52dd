//! The command line of `tenantry shard`.

use clap::{Args, Subcommand, ValueEnum};

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
