//! Writes the snapshot file beside the following, and reads it at a start without the catalog.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::causes::one_line;
use crate::fleet::Fleet;
use crate::snapshot::{self, SnapshotError};

/// A write that took long is followed by a pause of so many times its length, so that a large fleet does not keep the
/// disk busy.
const PAUSE_PER_WRITE: u32 = 20;

/// A task that writes the newest fleet it was offered, at most so often.
pub(super) struct SnapshotWriter {
    newest: watch::Sender<Option<Arc<Fleet>>>,
    task: JoinHandle<()>,
}

impl SnapshotWriter {
    pub(super) fn spawn(path: PathBuf, pause_min: Duration) -> Self {
        let (newest, offered) = watch::channel(None);
        Self {
            newest,
            task: tokio::spawn(write_offered(path, pause_min, offered)),
        }
    }

    /// Replaces what waits to be written.
    pub(super) fn offer(&self, fleet: Arc<Fleet>) {
        self.newest.send_replace(Some(fleet));
    }

    /// Writes what still waits, and ends.
    pub(super) async fn finish(self) {
        drop(self.newest);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the snapshot writer was interrupted");
        }
    }
}

async fn write_offered(
    path: PathBuf,
    pause_min: Duration,
    mut offered: watch::Receiver<Option<Arc<Fleet>>>,
) {
    loop {
        // An offer that was not seen is reported before the end is.
        let open = offered.changed().await.is_ok();
        let fleet = offered.borrow_and_update().clone();
        let Some(fleet) = fleet.filter(|_| open) else {
            return;
        };
        let started = Instant::now();
        write(path.clone(), fleet).await;
        let pause = pause_min.max(started.elapsed() * PAUSE_PER_WRITE);
        // The end cuts the pause short; the last offer is written then.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closed(&offered) => {}
        }
    }
}

/// Resolves when no more offers can come.
async fn closed(offered: &watch::Receiver<Option<Arc<Fleet>>>) {
    let mut offered = offered.clone();
    while offered.changed().await.is_ok() {}
}

async fn write(path: PathBuf, fleet: Arc<Fleet>) {
    let sequence = fleet.sequence;
    let written = tokio::task::spawn_blocking(move || snapshot::save(&fleet, &path)).await;
    match written {
        Ok(Ok(())) => tracing::debug!(sequence, "wrote the snapshot file"),
        Ok(Err(error)) => {
            tracing::warn!(error = one_line(&error), "cannot write the snapshot file")
        }
        Err(error) => tracing::error!(%error, "writing the snapshot file was interrupted"),
    }
}

/// The file's fleet; `None` when there is no file, the reason when it is refused.
pub(super) async fn load_snapshot(path: PathBuf) -> Result<Option<Fleet>, String> {
    let loaded = tokio::task::spawn_blocking(move || snapshot::load(&path)).await;
    match loaded {
        Ok(Ok(fleet)) => Ok(Some(fleet)),
        Ok(Err(error)) if SnapshotError::is_absent(&error) => Ok(None),
        Ok(Err(error)) => Err(one_line(&error)),
        Err(error) => Err(one_line(&error)),
    }
}
