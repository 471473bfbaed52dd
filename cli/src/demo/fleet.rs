//! The demo's PostgreSQL servers: one for the catalog, one for each shard.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tenantry_cluster::{Server, ServerError, ServerOptions, StopMode, start_many, stop_many};
use tenantry_schema::secrets::Password;
use tenantry_schema::shard::ShardKind;

use super::place::Place;
use super::ports::PortPlan;
use crate::exit::{Exit, Explain, Failure};

/// Empty shards kept ready beside the shared ones.
pub(super) const SPARES: u16 = 1;

/// Database of the catalog on its server, and of each shard on its own.
pub(super) const CATALOG_DATABASE: &str = "tenantry";
pub(super) const SHARD_DATABASE: &str = "shop";

/// Name of the catalog's server.
const CATALOG: &str = "catalog";

/// Settings of each server. Six of them share a laptop: less memory than one alone would take, and connections for
/// the router, the agent and a curious operator.
const SERVER_SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "64MB"),
    ("max_connections", "120"),
    ("max_wal_size", "1GB"),
];

/// A shard as planned, before it has a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardPlan {
    pub(super) name: String,
    pub(super) kind: ShardKind,
    /// Position in the port plan.
    pub(super) index: u16,
}

/// The shards of a demo, spares last.
pub(super) fn shard_plans(shards: u16) -> Vec<ShardPlan> {
    let shared = (1..=shards).map(|number| (format!("shard-{number}"), ShardKind::Shared));
    let spare = (1..=SPARES).map(|number| (format!("spare-{number}"), ShardKind::Spare));
    shared
        .chain(spare)
        .zip(0..)
        .map(|((name, kind), index)| ShardPlan { name, kind, index })
        .collect()
}

/// The running servers. Dropping them stops them.
pub(super) struct Servers {
    pub(super) catalog: Server,
    pub(super) shards: Vec<(ShardPlan, Server)>,
}

impl Servers {
    /// Starts all of them at once; the first time this creates their data directories.
    pub(super) async fn start(
        place: &Place,
        ports: PortPlan,
        shards: u16,
    ) -> Result<Self, Failure> {
        prepare(place)?;
        let plans = shard_plans(shards);
        // One password for all, so that the agent can bootstrap whatever shard is added to one of them. Servers that
        // exist keep the one they were made with.
        let password = Password::generate();
        let options =
            |name: &str, port| options(place, name, port).superuser_password(password.expose());
        let catalog = options(CATALOG, ports.catalog());
        let rest = plans
            .iter()
            .map(|plan| options(&plan.name, ports.shard(plan.index)));
        let mut servers = start_many(std::iter::once(catalog).chain(rest).collect())
            .await
            .map_err(not_started)?;
        let shards = servers.split_off(1);
        let catalog = servers
            .pop()
            .ok_or_else(|| Failure::precondition("the catalog's server did not start"))?;
        Ok(Self {
            catalog,
            shards: plans.into_iter().zip(shards).collect(),
        })
    }

    /// Stops all of them at once, with their data safely on disk.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let mut all: Vec<Server> = self.shards.into_iter().map(|(_, server)| server).collect();
        // The catalog goes last in the list, but all go at the same time: nobody is using them any more.
        all.push(self.catalog);
        stop_many(&all, StopMode::Fast)
            .await
            .explain(|| "the demo's PostgreSQL servers do not stop".to_owned())
    }
}

/// What the caller can mend before trying again is told apart from what broke.
fn not_started(error: ServerError) -> Failure {
    match error {
        ServerError::Discover(_)
        | ServerError::NoAccount { .. }
        | ServerError::Unreachable { .. }
        | ServerError::PortTaken { .. } => Failure::precondition(error.to_string()),
        broken => {
            Failure::new(Exit::Failed, "the demo's PostgreSQL servers do not start").because(broken)
        }
    }
}

fn options(place: &Place, name: &str, port: u16) -> ServerOptions {
    let options = ServerOptions::durable(place.server(name)).port(port);
    SERVER_SETTINGS
        .iter()
        .fold(options, |options, (name, value)| {
            options.setting(*name, value)
        })
}

/// Makes the directories passable, not readable: the account that runs the servers must get to its own below them.
fn prepare(place: &Place) -> Result<(), Failure> {
    fs::create_dir_all(place.servers())
        .explain(|| format!("{} cannot be created", place.servers().display()))?;
    for dir in [place.dir(), &place.servers()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
            .explain(|| format!("{} cannot be made passable", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_come_after_the_shards() {
        let names: Vec<String> = shard_plans(2).into_iter().map(|plan| plan.name).collect();
        assert_eq!(names, ["shard-1", "shard-2", "spare-1"]);
    }
}
