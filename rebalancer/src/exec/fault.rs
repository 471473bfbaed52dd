//! Fault points: where a test or a drill lets a process die, or stand still while something else dies.
//!
//! They are named by what is about to happen or has just happened: `before fence`, `after fence` (done, and nobody was
//! told), `stored FENCING`. A configuration file cannot set one.

use std::path::PathBuf;
use std::time::Duration;

/// Where to fail, and how.
#[derive(Debug, Clone)]
pub struct FaultPoint {
    /// Its name.
    pub at: String,
    /// What happens there, the first time.
    pub action: FaultAction,
}

/// What happens at a fault point.
#[derive(Debug, Clone)]
pub enum FaultAction {
    /// The process ends at once, without a word to anyone.
    Abort,
    /// The rebalancer drops everything it has under way and ends with an error.
    Stop,
    /// The file is written; the move goes on when it is gone.
    Park(PathBuf),
}

const LOOK: Duration = Duration::from_millis(5);

impl FaultPoint {
    /// Fails if this is the place. `true`: stop.
    pub(super) async fn reach(&self, place: &str) -> bool {
        if self.at != place {
            return false;
        }
        tracing::warn!(place, "fault point");
        match &self.action {
            FaultAction::Abort => std::process::abort(),
            FaultAction::Stop => true,
            FaultAction::Park(file) => {
                park(file, place).await;
                false
            }
        }
    }
}

/// Only once: a file that could not be written, or whose companion says it was there before, parks nobody.
async fn park(file: &PathBuf, place: &str) {
    let passed = file.with_extension("passed");
    if passed.exists()
        || std::fs::write(&passed, place).is_err()
        || std::fs::write(file, place).is_err()
    {
        return;
    }
    while file.exists() {
        tokio::time::sleep(LOOK).await;
    }
}
