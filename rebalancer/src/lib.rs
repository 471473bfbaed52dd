//! The rebalancer: moves tenants between shards while they are in use, and isolates a hot tenant on a dedicated shard
//! while it is hot.
//!
//! It is the only part that changes where a tenant lives. It reads placement and pins from the catalog, plans moves
//! without side effects, and drives each through a state machine whose every transition is committed to the catalog
//! before it is acted upon, so that a process killed at any step is resumed by the next one. It connects to shards
//! directly, with a role of its own, and never through the router; the router learns of a move from the catalog's
//! change log like of any other change.
//!
//! This version schedules no moves: a tenant stays where its pin or the ring puts it. [`run`] holds the role's place
//! in the process tree.

pub mod apply;
pub mod clean;
pub mod copy;
pub mod fleet;
pub mod machine;
pub mod plan;
pub mod policy;
pub mod preflight;
pub mod replication;
pub mod routers;
pub mod sequences;
pub mod shard;
pub mod tables;
pub mod throttle;
pub mod verify;

use std::fmt;

use tokio_util::sync::CancellationToken;

/// What a rebalancer needs to know.
#[derive(Clone)]
pub struct Config {
    /// Connection URI of the catalog database.
    pub catalog_url: String,
}

impl fmt::Debug for Config {
    /// Leaves the URL out: it holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Why the rebalancer stopped on its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {}

/// Runs until `shutdown` is cancelled. No moves are scheduled, and the log says so.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let Config { catalog_url: _ } = config;
    tracing::info!("rebalancer started; no moves are scheduled");
    shutdown.cancelled().await;
    tracing::info!("rebalancer stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn runs_until_told_to_stop() {
        let shutdown = CancellationToken::new();
        let config = Config {
            catalog_url: "postgresql://user:secret@localhost/catalog".to_owned(),
        };
        assert!(!format!("{config:?}").contains("secret"));
        let running = tokio::spawn(run(config, shutdown.clone()));
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
