//! Configuration reload: read anew, check everything, and only then change what is in force.
//!
//! Where a configuration comes from (files, environment, flags) is the command line's business and
//! arrives here as a [`ReadConfig`]. A reload with any problem changes nothing.

use std::sync::Arc;

use tenantry_schema::causes::one_line;

use crate::config::{Change, Changeable, Config};
use crate::router::Router;

/// A configuration as it was read anew.
pub struct Fresh {
    /// The router's own part.
    pub config: Config,
    /// Puts the rest (logging) into force and says what changed; called only when all is valid.
    pub adopt: Box<dyn FnOnce() -> Vec<Change> + Send>,
}

/// Reads the configuration anew from wherever it came; the error lists every problem.
pub type ReadConfig = Arc<dyn Fn() -> Result<Fresh, Vec<String>> + Send + Sync>;

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The router was started from values and not from files.
    #[error("this router was started without a configuration that can be read again")]
    NoSource,
    /// Every problem of the new configuration.
    #[error("the configuration has problems and was not changed: {}", .0.join("; "))]
    Problems(Vec<String>),
}

/// Reloads one router's configuration. Reading files blocks, so it happens beside the runtime's
/// threads.
pub(crate) async fn reload(
    router: &Arc<Router>,
    source: Option<ReadConfig>,
    asked_by: &str,
) -> Result<Vec<Change>, ReloadError> {
    let outcome = match source {
        Some(source) => read_and_apply(router, source).await,
        None => Err(ReloadError::NoSource),
    };
    router.metrics.reloaded(outcome.is_ok());
    match &outcome {
        Ok(changes) => {
            for change in changes {
                match change.changeable {
                    Changeable::Live => tracing::info!(asked_by, %change, "setting reloaded"),
                    Changeable::Restart => {
                        tracing::warn!(asked_by, %change, "setting needs a restart");
                    }
                }
            }
            tracing::info!(asked_by, changed = changes.len(), "configuration reloaded");
        }
        Err(error) => tracing::error!(asked_by, %error, "configuration not reloaded"),
    }
    outcome
}

async fn read_and_apply(
    router: &Arc<Router>,
    source: ReadConfig,
) -> Result<Vec<Change>, ReloadError> {
    let fresh = tokio::task::spawn_blocking(move || source())
        .await
        .map_err(|error| ReloadError::Problems(vec![one_line(&error)]))?
        .map_err(ReloadError::Problems)?;
    let mut changes = router.reload(&fresh.config).map_err(|problems| {
        ReloadError::Problems(problems.iter().map(ToString::to_string).collect())
    })?;
    changes.extend((fresh.adopt)());
    Ok(changes)
}
