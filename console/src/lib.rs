//! The console: the operators' HTTP API (`/v1`) and the dashboards.
//!
//! It reads and writes the catalog and nothing else. It is never on the data path, holds no state that is not in the
//! catalog, and may be stopped at any time without a query noticing. Whatever it can do the command line can do too,
//! through the same catalog client.
//!
//! This version serves no requests: [`run`] holds the role's place in the process tree and does not open its address,
//! so that a health check of it fails rather than pretends.

use std::fmt;
use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

/// What a console needs to know.
#[derive(Clone)]
pub struct Config {
    /// Connection URI of the catalog database.
    pub catalog_url: String,
    /// Address of the API and the dashboards.
    pub listen: SocketAddr,
}

impl fmt::Debug for Config {
    /// Leaves the URL out: it holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// Why the console stopped on its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {}

/// Runs until `shutdown` is cancelled. No requests are served, and the log says so.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let Config {
        catalog_url: _,
        listen,
    } = config;
    tracing::info!(%listen, "console started; it serves no requests yet and leaves its address closed");
    shutdown.cancelled().await;
    tracing::info!("console stopped");
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
            listen: ([127, 0, 0, 1], 0).into(),
        };
        assert!(!format!("{config:?}").contains("secret"));
        let running = tokio::spawn(run(config, shutdown.clone()));
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
