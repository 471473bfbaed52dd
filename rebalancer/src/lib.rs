//! The rebalancer: moves tenants between shards while they are in use, and isolates a hot tenant on a dedicated shard
//! while it is hot.
//!
//! It is the only part that changes where a tenant lives. It reads placement and pins from the catalog, plans moves
//! without side effects, and drives each through a state machine whose every transition is committed to the catalog
//! before it is acted upon, so that a process killed at any step is resumed by the next one. It connects to shards
//! directly, with a role of its own, and never through the router; the router learns of a move from the catalog's
//! change log like of any other change.
//!
//! Several may run: one leads, by a lease in the catalog, and the others wait for it. See docs/protocol.md.

pub mod apply;
pub mod clean;
mod config;
pub mod copy;
mod exec;
pub mod fleet;
mod janitor;
mod leader;
pub mod machine;
pub mod plan;
pub mod policy;
pub mod preflight;
pub mod replication;
pub mod routers;
pub mod sequences;
pub mod shard;
mod supervisor;
pub mod tables;
mod takeover;
pub mod throttle;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::catalog::{Catalog, CatalogError};
use tenantry_schema::secrets::{SecretsError, SecretsFile};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::exec::Context;
use crate::routers::Routers;

pub use config::{Config, LeftOut};
pub use exec::fault::{FaultAction, FaultPoint};

/// A catalog that is away at the start is asked again after so long.
const CATALOG_AGAIN: Duration = Duration::from_millis(500);

/// Why the rebalancer stopped on its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The catalog's address makes no sense.
    #[error("the catalog cannot be used")]
    Catalog(#[from] CatalogError),
    /// Without secrets there is no way into any shard.
    #[error("the secrets file cannot be used")]
    Secrets(#[from] SecretsError),
    /// The control token holds characters that no header may.
    #[error("the control token of the secrets file is not usable in HTTP")]
    Token,
}

/// Runs until `shutdown` is cancelled.
///
/// # Errors
/// Something is configured so that it can never work. A catalog or a shard that is away is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let catalog = Catalog::lazy(&config.catalog_url)?;
    let secrets = SecretsFile::load(&config.secrets_file)?;
    let routers = match &secrets.control_token {
        Some(token) => Some(Routers::new(token).map_err(|_invalid| RunError::Token)?),
        None => {
            tracing::warn!(
                "the secrets file has no control_token: clients of a tenant that moves meet its fence"
            );
            None
        }
    };
    tracing::info!("rebalancer started");
    let settings = loop {
        match catalog.settings().await {
            Ok(settings) => break settings,
            Err(error) => tracing::warn!(%error, "the catalog does not answer yet"),
        }
        if shutdown
            .run_until_cancelled(sleep(CATALOG_AGAIN))
            .await
            .is_none()
        {
            return Ok(());
        }
    };
    let context = Arc::new(Context {
        config,
        catalog,
        settings,
        routers,
    });
    supervisor::run(context, shutdown).await;
    tracing::info!("rebalancer stopped");
    Ok(())
}
