//! What operators do: pause and resume, kill, reconnect, reload, shut down. Each says in the log
//! who did it and what came of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::shard::{Shard, ShardId};
use tenantry_wire::backend::{ErrorFields, Severity};
use tenantry_wire::sqlstate;

use super::command::{Command, Shutdown};
use super::complaint::Complaint;
use super::dialogue::Outcome;
use crate::activity::ClientRecord;
use crate::config::Changeable;
use crate::reload::ReloadError;
use crate::router::Router;

/// Between two looks at a condition that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Runs a command that changes something.
pub(super) async fn act(
    router: &Arc<Router>,
    asker: &Arc<ClientRecord>,
    command: &Command,
) -> Result<Outcome, Complaint> {
    let who = &asker.origin().role.name;
    let client = asker.id();
    let peer = asker.origin().peer.map(|peer| peer.to_string());
    tracing::info!(audit = true, role = %who, client, peer, ?command, "console command");
    let result = run(router, asker, command).await;
    match &result {
        Ok(_) => {
            tracing::info!(audit = true, role = %who, client, ?command, "console command done")
        }
        Err(error) => {
            let error = &error.message;
            tracing::warn!(audit = true, role = %who, client, ?command, error, "console command failed");
        }
    }
    result
}

async fn run(
    router: &Arc<Router>,
    asker: &Arc<ClientRecord>,
    command: &Command,
) -> Result<Outcome, Complaint> {
    match command {
        Command::Pause(name) => {
            let shard = optional(router, name)?;
            router.pools.pause(shard, true);
            wait(|| connections(router, shard, |_| true) == 0).await;
            Ok(done("PAUSE"))
        }
        Command::Resume(name) => {
            let shard = optional(router, name)?;
            if !is_gated(router, shard) {
                return Err(not_in_state(name.as_deref(), "paused"));
            }
            router.pools.pause(shard, false);
            Ok(done("RESUME"))
        }
        Command::Disable(name) => {
            let shard = named(router, name)?.id;
            router.pools.disable(shard, true);
            Ok(done("DISABLE"))
        }
        Command::Enable(name) => {
            let shard = named(router, name)?.id;
            router.pools.disable(shard, false);
            Ok(done("ENABLE"))
        }
        Command::Reconnect(name) => {
            let shard = optional(router, name)?;
            outdate(router, shard);
            Ok(done("RECONNECT"))
        }
        Command::WaitClose(name) => {
            let shard = optional(router, name)?;
            wait(|| connections(router, shard, |record| record.is_close_needed()) == 0).await;
            Ok(done("WAIT_CLOSE"))
        }
        Command::Kill(name) => {
            let shard = optional(router, name)?;
            router.pools.pause(shard, true);
            for client in clients_of(router, shard) {
                if client.id() != asker.id() {
                    client.kill();
                }
            }
            outdate(router, shard);
            Ok(done("KILL"))
        }
        Command::KillClient(number) => match router.activity.client_numbered(*number) {
            Some(client) => {
                client.kill();
                Ok(done("KILL"))
            }
            None => Err(Complaint::error(
                sqlstate::UNDEFINED_OBJECT,
                format!("there is no client {number}"),
            )
            .with_hint("SHOW CLIENTS has the numbers in its column id")),
        },
        Command::Reload => reload(router, asker).await,
        Command::Shutdown(how) => Ok(shutdown(router, *how)),
        other => Err(Complaint::error(
            sqlstate::INTERNAL_ERROR,
            format!("{other:?} changes nothing"),
        )),
    }
}

async fn reload(router: &Arc<Router>, asker: &Arc<ClientRecord>) -> Result<Outcome, Complaint> {
    let changes = router.reload_from_source(&asker.origin().role.name).await;
    let changes = changes.map_err(|error| {
        let hint = match error {
            ReloadError::NoSource => "restart it with the new values",
            ReloadError::Problems(_) => {
                "nothing was changed; `tenantry config check` shows sources"
            }
        };
        Complaint::error(sqlstate::INVALID_PARAMETER_VALUE, error.to_string()).with_hint(hint)
    })?;
    let notices = changes
        .iter()
        .map(|change| {
            let (severity, code) = match change.changeable {
                Changeable::Live => (Severity::Notice, sqlstate::SUCCESSFUL_COMPLETION),
                Changeable::Restart => (Severity::Warning, sqlstate::WARNING),
            };
            ErrorFields::new(severity, code, change.to_string())
        })
        .collect();
    Ok(Outcome {
        notices,
        ..done("RELOAD")
    })
}

fn shutdown(router: &Router, how: Shutdown) -> Outcome {
    router.ask_to_stop(how);
    Outcome {
        // Who waits for all clients to leave must not stay.
        ends: true,
        ..done("SHUTDOWN")
    }
}

/// Connections of a shard are closed: idle ones now, others when they come back.
fn outdate(router: &Router, shard: Option<ShardId>) {
    for record in router.activity.servers() {
        if record.is_pooled() && shard.is_none_or(|shard| record.shard().id == shard) {
            record.need_close();
        }
    }
    router.pools.close_idle(shard);
}

/// Sessions that hold a connection of the shard, or whose tenant lives on it; without a shard, all.
fn clients_of(router: &Router, shard: Option<ShardId>) -> Vec<Arc<ClientRecord>> {
    let fleet = router.fleet.current();
    let servers = router.activity.servers();
    let holders: HashSet<u32> = servers
        .iter()
        .filter(|record| Some(record.shard().id) == shard)
        .filter_map(|record| record.client())
        .collect();
    let mut clients = router.activity.clients();
    clients.retain(|client| {
        if client.origin().is_console() {
            return false;
        }
        let Some(shard) = shard else { return true };
        let tenant = client.changing().tenant;
        let record = tenant.and_then(|tenant| fleet.directory.by_id(tenant));
        let lives_there = record
            .and_then(|record| fleet.place(&record))
            .is_some_and(|placement| placement.shard == shard);
        lives_there || holders.contains(&client.id())
    });
    clients
}

/// Connections of pools; an operator's own, in `shard/NAME`, never comes back to one.
fn connections(
    router: &Router,
    shard: Option<ShardId>,
    counted: impl Fn(&crate::activity::ServerRecord) -> bool,
) -> usize {
    let servers = router.activity.servers();
    let of_shard = servers
        .iter()
        .filter(|record| record.is_pooled())
        .filter(|record| shard.is_none_or(|shard| record.shard().id == shard));
    of_shard.filter(|record| counted(record)).count()
}

async fn wait(reached: impl Fn() -> bool) {
    while !reached() {
        tokio::time::sleep(LOOK).await;
    }
}

fn is_gated(router: &Router, shard: Option<ShardId>) -> bool {
    match shard {
        Some(shard) => router.pools.is_paused(Some(shard)),
        None => {
            let fleet = router.fleet.current();
            let mut shards = fleet.shards.keys();
            router.pools.is_paused(None) || shards.any(|shard| router.pools.is_paused(Some(*shard)))
        }
    }
}

fn optional(router: &Router, name: &Option<String>) -> Result<Option<ShardId>, Complaint> {
    let shard = name.as_deref().map(|name| named(router, name));
    Ok(shard.transpose()?.map(|shard| shard.id))
}

fn named(router: &Router, name: &str) -> Result<Arc<Shard>, Complaint> {
    let fleet = router.fleet.current();
    fleet.shard_named(name).cloned().ok_or_else(|| {
        Complaint::error(
            sqlstate::UNDEFINED_OBJECT,
            format!("there is no shard \"{name}\""),
        )
        .with_hint("SHOW SHARDS lists them")
    })
}

fn not_in_state(name: Option<&str>, state: &str) -> Complaint {
    let what = match name {
        Some(name) => format!("shard \"{name}\" is not {state}"),
        None => format!("the router is not {state}"),
    };
    Complaint::error(sqlstate::INVALID_PARAMETER_VALUE, what)
        .with_hint("SHOW DATABASES tells what is paused or disabled")
}

fn done(tag: &'static str) -> Outcome {
    Outcome {
        tag,
        ..Outcome::default()
    }
}
