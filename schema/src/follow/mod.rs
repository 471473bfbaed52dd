//! Follows the catalog: routers and agents hold the whole fleet in memory, and this keeps it current.
//!
//! A session loads the fleet once, then applies the change log, transaction by transaction: LISTEN wakes it, a poll is
//! the safety net. Whatever does not fit (a gap, an unknown change, a catalog with another history) leads to a full
//! load, never to a guess. While the catalog is away the last fleet stays published, and a process that starts then
//! begins with its snapshot file. Nothing here may make a reader of the fleet wait.

mod backoff;
mod snapshots;
mod status;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

use crate::catalog::{
    CHANGE_CHANNEL, CatalogError, Changes, Origin, TrimPolicy, changes_after, load, open, origin,
    parse_url, trim_some,
};
use crate::causes::one_line;
use crate::change::ChangeGroup;
use crate::fleet::{ApplyError, Fleet};

use backoff::Backoff;
use snapshots::{SnapshotWriter, load_snapshot};
pub use status::{FleetSource, FollowStatus};

/// What to follow, and how.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// The catalog, as a libpq URI or keyword string.
    pub catalog_url: String,
    /// Where the fleet is kept for a start without the catalog; `None`: nowhere.
    pub snapshot_file: Option<PathBuf>,
    /// How patient to be.
    pub timing: FollowTiming,
}

impl FollowConfig {
    /// Follows this catalog without a snapshot file.
    pub fn new(catalog_url: impl Into<String>) -> Self {
        Self {
            catalog_url: catalog_url.into(),
            snapshot_file: None,
            timing: FollowTiming::default(),
        }
    }
}

/// Bounds on waiting.
#[derive(Debug, Clone, Copy)]
pub struct FollowTiming {
    /// The log is read at least so often, should a notification be lost.
    pub poll: Duration,
    /// A catalog that takes longer to connect or to answer a read of the log is given up and connected to anew.
    pub answer_max: Duration,
    /// As `answer_max`, for a load of the whole fleet.
    pub load_max: Duration,
    /// The first wait before connecting again; it doubles up to `retry_max`.
    pub retry_min: Duration,
    /// The longest wait before connecting again.
    pub retry_max: Duration,
    /// How often the log is trimmed.
    pub trim: Duration,
    /// The least time between two writes of the snapshot file; a slow disk stretches it.
    pub snapshot_min: Duration,
}

impl Default for FollowTiming {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            answer_max: Duration::from_secs(5),
            load_max: Duration::from_secs(120),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            trim: Duration::from_secs(60),
            snapshot_min: Duration::from_secs(1),
        }
    }
}

/// One follower. [`Follower::run`] owns it until shutdown.
pub struct Follower<P> {
    config: Config,
    timing: FollowTiming,
    publish: P,
    status: watch::Sender<FollowStatus>,
    snapshots: Option<SnapshotWriter>,
    snapshot_file: Option<PathBuf>,
    current: Option<Current>,
    reload_not_before: Instant,
    trim_not_before: Instant,
}

/// The fleet that is published.
struct Current {
    fleet: Arc<Fleet>,
    /// The history its sequence counts in; `None` for a snapshot, whose history is not known.
    origin: Option<Origin>,
}

impl<P: FnMut(Arc<Fleet>) + Send> Follower<P> {
    /// A follower that hands each new fleet to `publish`, and then tells of it through `status`.
    pub fn new(
        config: FollowConfig,
        publish: P,
        status: watch::Sender<FollowStatus>,
    ) -> Result<Self, CatalogError> {
        let FollowConfig {
            catalog_url,
            snapshot_file,
            timing,
        } = config;
        let mut config = parse_url(&catalog_url)?;
        config.connect_timeout(timing.answer_max);
        Ok(Self {
            config,
            timing,
            publish,
            status,
            snapshots: None,
            snapshot_file,
            current: None,
            reload_not_before: Instant::now(),
            trim_not_before: Instant::now() + timing.trim,
        })
    }

    /// Follows until `shutdown`, then writes the snapshot a last time. Failures are retried, told through the status
    /// and logged once per outage.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.snapshots = self
            .snapshot_file
            .clone()
            .map(|path| SnapshotWriter::spawn(path, self.timing.snapshot_min));
        let mut backoff = Backoff::new(self.timing.retry_min, self.timing.retry_max);
        loop {
            let error = tokio::select! {
                () = shutdown.cancelled() => break,
                error = self.session(&mut backoff) => error,
            };
            self.lost(&error);
            if self.current.is_none() && !matches!(error, CatalogError::NotInitialised) {
                self.start_from_snapshot().await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
        self.status.send_modify(|status| status.connected = false);
        if let Some(snapshots) = self.snapshots.take() {
            snapshots.finish().await;
        }
    }

    /// One connection's life; answers why it ended.
    async fn session(&mut self, backoff: &mut Backoff) -> CatalogError {
        match self.follow(backoff).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow(
        &mut self,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, CatalogError> {
        let wake = Arc::new(Notify::new());
        let mut client = open(&self.config, Some(Arc::clone(&wake))).await?;
        let answer_max = self.timing.answer_max;
        // Before the first read, so that nothing is committed unheard between the two.
        let listen = format!("LISTEN {CHANGE_CHANNEL}");
        in_time(answer_max, async {
            Ok(client.batch_execute(&listen).await?)
        })
        .await?;
        let here = in_time(answer_max, origin(&client)).await?;
        if self
            .current
            .as_ref()
            .and_then(|current| current.origin.as_ref())
            != Some(&here)
        {
            if self.current.is_some() {
                tracing::info!(
                    "the catalog's history is not the one followed before: loading the fleet anew"
                );
            }
            self.reload(&mut client).await?;
        }
        loop {
            self.catch_up(&mut client).await?;
            backoff.reset();
            self.reached();
            self.trim(&client).await;
            // Either way the log is read: a notification only says when.
            drop(timeout(self.timing.poll, wake.notified()).await);
        }
    }

    /// Keeps the log short. Whoever follows does it, so it is done while anyone does; who may not, need not.
    async fn trim(&mut self, client: &Client) {
        if Instant::now() < self.trim_not_before {
            return;
        }
        self.trim_not_before = Instant::now() + self.timing.trim;
        let trimming = trim_some(client, TrimPolicy::default());
        match in_time(self.timing.answer_max, trimming).await {
            Ok(0) => {}
            Ok(trimmed) => tracing::debug!(trimmed, "trimmed the change log"),
            Err(error) => {
                tracing::debug!(error = one_line(&error), "cannot trim the change log");
            }
        }
    }

    /// Applies what the log has, to its end.
    async fn catch_up(&mut self, client: &mut Client) -> Result<(), CatalogError> {
        loop {
            let Some(fleet) = self
                .current
                .as_ref()
                .map(|current| Arc::clone(&current.fleet))
            else {
                return self.reload(client).await;
            };
            let changes = in_time(
                self.timing.answer_max,
                changes_after(client, fleet.sequence),
            )
            .await?;
            match changes {
                Changes::Groups(groups) if groups.is_empty() => return Ok(()),
                Changes::Groups(groups) => match apply(fleet, groups).await? {
                    Ok(next) => self.publish_next(next),
                    Err(error) => {
                        tracing::warn!(%error, "a change does not fit: loading the fleet anew");
                        self.reload(client).await?;
                    }
                },
                Changes::Reload(why) => {
                    tracing::info!(
                        why,
                        "the change log cannot be continued: loading the fleet anew"
                    );
                    self.reload(client).await?;
                }
            }
        }
    }

    /// Loads the whole fleet. Loads take at most half of the time, however often they are asked for.
    async fn reload(&mut self, client: &mut Client) -> Result<(), CatalogError> {
        tokio::time::sleep_until(self.reload_not_before.into()).await;
        let started = Instant::now();
        let mut loading = pin!(in_time(self.timing.load_max, load(client)));
        let loaded = match timeout(self.timing.answer_max, &mut loading).await {
            Ok(loaded) => loaded?,
            Err(_) => {
                if self.current.is_none() {
                    self.start_from_snapshot().await;
                }
                loading.await?
            }
        };
        let took = started.elapsed();
        self.reload_not_before = Instant::now() + took;
        tracing::info!(
            tenants = loaded.fleet.directory.len(),
            sequence = loaded.fleet.sequence,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "loaded the fleet from the catalog"
        );
        self.status.send_modify(|status| status.loads += 1);
        self.current = Some(Current {
            fleet: Arc::new(loaded.fleet),
            origin: Some(loaded.origin),
        });
        self.publish_current(FleetSource::Catalog);
        Ok(())
    }

    fn publish_next(&mut self, fleet: Fleet) {
        if let Some(current) = &mut self.current {
            current.fleet = Arc::new(fleet);
        }
        self.publish_current(FleetSource::Catalog);
    }

    fn publish_current(&mut self, source: FleetSource) {
        let Some(current) = &self.current else { return };
        (self.publish)(Arc::clone(&current.fleet));
        // After the fleet: who waits for a sequence in the status finds it published.
        let sequence = current.fleet.sequence;
        self.status.send_modify(|status| {
            status.sequence = Some(sequence);
            status.source = Some(source);
        });
        if let (FleetSource::Catalog, Some(snapshots)) = (source, &self.snapshots) {
            snapshots.offer(Arc::clone(&current.fleet));
        }
    }

    /// Begins with the file, if there is a good one, and only while there is nothing better.
    async fn start_from_snapshot(&mut self) {
        let Some(path) = self.snapshot_file.clone() else {
            return;
        };
        match load_snapshot(path).await {
            Ok(Some(fleet)) => {
                tracing::warn!(
                    tenants = fleet.directory.len(),
                    sequence = fleet.sequence,
                    "the catalog does not answer: serving from the snapshot file"
                );
                self.current = Some(Current {
                    fleet: Arc::new(fleet),
                    origin: None,
                });
                self.publish_current(FleetSource::Snapshot);
            }
            Ok(None) => {}
            Err(refusal) => {
                let seen = self.status.borrow().snapshot_error.as_deref() == Some(&refusal);
                if !seen {
                    tracing::error!(
                        refusal,
                        "the snapshot file is refused; the next load from the catalog rebuilds it"
                    );
                }
                self.status
                    .send_modify(|status| status.snapshot_error = Some(refusal));
            }
        }
    }

    /// The log's end was seen.
    fn reached(&self) {
        if !self.status.borrow().connected {
            tracing::info!("following the catalog");
        }
        // Who watches is woken by news only, not by each poll.
        self.status.send_if_modified(|status| {
            let news = !status.connected;
            status.connected = true;
            status.last_error = None;
            status.snapshot_error = None;
            status.contact = Some(Instant::now());
            news
        });
    }

    fn lost(&self, error: &CatalogError) {
        let text = one_line(error);
        let before = self.status.borrow().clone();
        if before.connected || before.last_error.as_deref() != Some(&text) {
            tracing::warn!(
                error = text,
                "the catalog is away; what is known stays in use"
            );
        }
        self.status.send_modify(|status| {
            status.connected = false;
            status.last_error = Some(text);
        });
    }
}

/// Off this thread, because folding an overlay into millions of tenants takes a second.
async fn apply(
    fleet: Arc<Fleet>,
    groups: Vec<ChangeGroup>,
) -> Result<Result<Fleet, ApplyError>, CatalogError> {
    let applied = tokio::task::spawn_blocking(move || {
        let mut next = Fleet::clone(&fleet);
        for group in &groups {
            next = next.apply(group)?;
        }
        Ok(next)
    });
    applied
        .await
        .map_err(|_| CatalogError::Interrupted("applying changes"))
}

async fn in_time<T>(
    within: Duration,
    work: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    timeout(within, work)
        .await
        .unwrap_or(Err(CatalogError::Silent { within }))
}
