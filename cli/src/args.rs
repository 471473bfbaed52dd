//! The command tree. Doc comments here are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Flag, Sources};
use crate::demo::DemoCommand;
use crate::init::InitArgs;
use crate::kill_switch::KillSwitchCommand;
use crate::moves::MoveCommand;
use crate::output::Format;
use crate::plan::PlanCommand;
use crate::rebalance::RebalanceCommand;
use crate::role::RoleCommand;
use crate::shard::ShardCommand;
use crate::tenant::TenantCommand;

/// One multi-tenant database out of many PostgreSQL servers.
#[derive(Debug, Parser)]
#[command(
    name = "tenantry",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 precondition, 5 not allowed, 6 wait timed out, 7 transient."
)]
pub(crate) struct Cli {
    /// Flags every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file; default ./tenantry.toml, then /etc/tenantry/tenantry.toml
    #[arg(long, global = true, value_name = "FILE", env = "TENANTRY_CONFIG")]
    config: Option<PathBuf>,
    /// Catalog database (setting `catalog.url`)
    #[arg(long, global = true, value_name = "URL")]
    catalog: Option<String>,
    /// Keys and passwords of the shards (setting `secrets.file`)
    #[arg(long, global = true, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Any other setting, as in the file: `--set router.pool_size=40`
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// What is logged to stderr, as a tracing filter (setting `log.filter`)
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// Commands by noun or role.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole system on this machine, with real PostgreSQL servers
    #[command(subcommand)]
    Demo(DemoCommand),
    /// Make an empty database the catalog of a new fleet
    Init(InitArgs),
    /// Run a router: the data plane clients connect to
    Router(RouterArgs),
    /// Run the agent that looks after the shards
    Agent(AgentArgs),
    /// Run the rebalancer that moves tenants between shards
    Rebalancer,
    /// Run the operators' HTTP API and dashboards
    Console(ConsoleArgs),
    /// Create, find, suspend, resume and move tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Plans and the limits of their tenants
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Stop a tenant or the fleet from writing, or from working, in an emergency
    #[command(subcommand)]
    KillSwitch(KillSwitchCommand),
    /// Follow moves of tenants between shards, and decide about them
    #[command(subcommand)]
    Move(MoveCommand),
    /// Even bytes and load over the shards
    #[command(subcommand)]
    Rebalance(RebalanceCommand),
    /// List, add, empty and remove shards
    #[command(subcommand)]
    Shard(ShardCommand),
    /// Create and change the roles that clients log in as
    #[command(subcommand)]
    Role(RoleCommand),
    /// Check the fleet: catalog, shards, guard, placement, routers
    Doctor,
    /// Inspect the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a shell completion script
    Completion {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

/// `tenantry router`
#[derive(Args, Debug)]
pub(crate) struct RouterArgs {
    /// Address for PostgreSQL clients (setting `router.listen`)
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address for HTTP (setting `router.http_listen`)
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// Directory snapshot (setting `router.snapshot_file`)
    #[arg(long, value_name = "FILE")]
    snapshot_file: Option<String>,
}

/// `tenantry agent`
#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    /// Superuser on the shards, to bootstrap them (setting `agent.admin_url`)
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
}

/// `tenantry console`
#[derive(Args, Debug)]
pub(crate) struct ConsoleArgs {
    /// Address of the API and the dashboards (setting `console.listen`)
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

/// `tenantry config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check every setting and show its value and source; secrets are masked
    Check,
}

impl Cli {
    /// Where this run's configuration comes from. `--set` comes first, so that a flag of its own wins over it.
    pub(crate) fn sources(&self) -> Sources {
        let global = &self.global;
        let mut flags: Vec<Flag> = global
            .set
            .iter()
            .map(|(key, value)| Flag {
                name: "--set",
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        let mut flag = |name: &'static str, key: &str, value: Option<&str>| {
            flags.extend(value.map(|value| Flag {
                name,
                key: key.to_owned(),
                value: value.to_owned(),
            }));
        };
        flag("--catalog", "catalog.url", global.catalog.as_deref());
        let secrets = global.secrets.as_ref().map(|path| path.to_string_lossy());
        flag("--secrets", "secrets.file", secrets.as_deref());
        flag("--log", "log.filter", global.log.as_deref());
        match &self.command {
            Command::Router(router) => {
                flag("--listen", "router.listen", router.listen.as_deref());
                flag(
                    "--http-listen",
                    "router.http_listen",
                    router.http_listen.as_deref(),
                );
                flag(
                    "--snapshot-file",
                    "router.snapshot_file",
                    router.snapshot_file.as_deref(),
                );
            }
            Command::Agent(agent) => {
                flag("--admin-url", "agent.admin_url", agent.admin_url.as_deref())
            }
            Command::Console(console) => {
                flag("--listen", "console.listen", console.listen.as_deref())
            }
            _ => {}
        }
        Sources {
            file: global.config.clone(),
            flags,
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_of_its_own_wins_over_set() {
        let cli = Cli::parse_from([
            "tenantry",
            "--set",
            "router.listen=a",
            "router",
            "--listen",
            "b",
        ]);
        let last = cli
            .sources()
            .flags
            .pop()
            .map(|flag| (flag.name, flag.value));
        assert_eq!(last, Some(("--listen", "b".to_owned())));
    }
}
