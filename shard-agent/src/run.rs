//! The agent's main loop: follows the catalog and keeps one worker per shard.
//!
//! A tenant begins as `provisioning`; the worker of its shard inserts its owner row, then the catalog says `active`.
//! Any number of agents may run: every effect is idempotent. An unreachable shard delays its own tenants only, and an
//! unreachable catalog delays new tenants only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::catalog::{Catalog, CatalogError, parse_url};
use tenantry_schema::fleet::Fleet;
use tenantry_schema::follow::{FollowConfig, FollowStatus, Follower};
use tenantry_schema::secrets::{SecretsError, SecretsFile};
use tenantry_schema::shard::{Shard, ShardId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::worker::{Newcomer, Worker};

/// The catalog is asked for provisioning tenants at least so often, should a notification be lost.
const POLL: Duration = Duration::from_secs(1);

/// What an agent needs to know.
#[derive(Clone)]
pub struct Config {
    /// Connection URI of the catalog database.
    pub catalog_url: String,
    /// The secrets file; read again for each connection to a shard.
    pub secrets_file: PathBuf,
    /// A superuser of the shards' servers: user, password and TLS are taken from this URI, host, port and database from
    /// the shard. With it the agent bootstraps shards that are not; without it they wait until someone does.
    pub admin_url: Option<String>,
}

impl fmt::Debug for Config {
    /// Leaves the URIs out: they hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("secrets_file", &self.secrets_file)
            .finish_non_exhaustive()
    }
}

/// Why an agent cannot start. Once it runs, failures are retried.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The catalog's URI is none.
    #[error("the catalog's address is not usable")]
    CatalogUrl(#[source] CatalogError),
    /// The administrator's URI is none.
    #[error("the administrator's address is not usable")]
    AdminUrl(#[source] CatalogError),
    /// The secrets file cannot be used.
    #[error("the secrets are not usable")]
    Secrets(#[from] SecretsError),
}

/// What workers share.
pub(crate) struct Shared {
    pub(crate) catalog: Catalog,
    pub(crate) secrets_file: PathBuf,
    pub(crate) admin: Option<tokio_postgres::Config>,
}

/// Runs until `shutdown` is cancelled.
///
/// # Errors
/// [`RunError`], before anything is begun.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    SecretsFile::load(&config.secrets_file)?;
    let admin = config.admin_url.as_deref().map(parse_url).transpose();
    let shared = Arc::new(Shared {
        catalog: Catalog::lazy(&config.catalog_url).map_err(RunError::CatalogUrl)?,
        secrets_file: config.secrets_file,
        admin: admin.map_err(RunError::AdminUrl)?,
    });
    let (publish, fleets) = watch::channel(None);
    let (status, _) = watch::channel(FollowStatus::default());
    let publish = move |fleet| drop(publish.send_replace(Some(fleet)));
    let follower = Follower::new(FollowConfig::new(&config.catalog_url), publish, status)
        .map_err(RunError::CatalogUrl)?;

    tracing::info!("shard agent started");
    let follower = tokio::spawn(follower.run(shutdown.clone()));
    let mut workers = Workers::new(shared, shutdown.clone());
    shutdown.run_until_cancelled(workers.serve(fleets)).await;
    workers.stop().await;
    if let Err(error) = follower.await {
        tracing::error!(%error, "following the catalog ended badly");
    }
    tracing::info!("shard agent stopped");
    Ok(())
}

/// The workers, by shard.
struct Workers {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    by_shard: BTreeMap<ShardId, Handle>,
    tasks: JoinSet<()>,
    /// Whether the last question to the catalog failed: an outage is logged once.
    is_catalog_lost: bool,
    is_catalog_migrated: bool,
}

struct Handle {
    shard: Arc<Shard>,
    /// The tenants to admit; the latest list counts.
    newcomers: watch::Sender<Vec<Newcomer>>,
    stop: CancellationToken,
}

impl Workers {
    fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self {
            shared,
            shutdown,
            by_shard: BTreeMap::new(),
            tasks: JoinSet::new(),
            is_catalog_lost: false,
            is_catalog_migrated: false,
        }
    }

    /// Keeps up with the fleet, for ever.
    async fn serve(&mut self, mut fleets: watch::Receiver<Option<Arc<Fleet>>>) {
        loop {
            let fleet = fleets.borrow_and_update().clone();
            if let Some(fleet) = fleet {
                self.match_shards(&fleet);
            }
            match self.hand_out().await {
                Ok(()) => self.is_catalog_lost = false,
                Err(error) if self.is_catalog_lost => {
                    tracing::debug!(%error, "the catalog does not answer yet");
                }
                Err(error) => {
                    self.is_catalog_lost = true;
                    tracing::warn!(%error, "the catalog does not answer: new tenants wait");
                }
            }
            tokio::select! {
                changed = fleets.changed() => if changed.is_err() {
                    // The follower has gone, which it does at shutdown only: the poll remains.
                    tokio::time::sleep(POLL).await;
                },
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Starts and ends workers until there is one for each shard, at its present address.
    fn match_shards(&mut self, fleet: &Fleet) {
        self.by_shard.retain(|id, handle| {
            let stays = fleet
                .shard(*id)
                .is_some_and(|shard| shard.address == handle.shard.address);
            if !stays {
                handle.stop.cancel();
            }
            stays
        });
        for (id, shard) in fleet.shards.iter() {
            self.by_shard.entry(*id).or_insert_with(|| {
                let (newcomers, receiver) = watch::channel(Vec::new());
                let stop = self.shutdown.child_token();
                let worker = Worker::new(
                    Arc::clone(&self.shared),
                    Arc::clone(shard),
                    fleet.settings.clone(),
                    receiver,
                );
                self.tasks.spawn(worker.run(stop.clone()));
                Handle {
                    shard: Arc::clone(shard),
                    newcomers,
                    stop,
                }
            });
        }
        // Collects workers that were stopped.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Tells each worker which tenants wait for their owner rows.
    async fn hand_out(&mut self) -> Result<(), CatalogError> {
        if !self.is_catalog_migrated {
            self.shared.catalog.migrate().await?;
            self.is_catalog_migrated = true;
        }
        let mut placed = self.shared.catalog.provisioning().await?;
        for (id, handle) in &self.by_shard {
            let waiting: Vec<Newcomer> = placed
                .remove(id)
                .unwrap_or_default()
                .iter()
                .map(|tenant| Newcomer {
                    tenant: tenant.id,
                    epoch: tenant.epoch,
                })
                .collect();
            handle.newcomers.send_if_modified(|current| {
                let is_news = *current != waiting;
                *current = waiting;
                is_news
            });
        }
        Ok(())
    }

    async fn stop(mut self) {
        for handle in self.by_shard.values() {
            handle.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }
}
