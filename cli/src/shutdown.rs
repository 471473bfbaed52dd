//! Turns signals into a shutdown request.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::output::note;

/// Exit status of a process that gave up waiting on a second signal: 128 plus SIGINT's number, as shells report it.
const INTERRUPTED: i32 = 130;

/// A token cancelled by the first SIGINT or SIGTERM. A second one ends the process at once, for whoever does not want
/// to wait for the drain.
pub(crate) fn on_signal() -> Result<CancellationToken, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                received = interrupt.recv() => received,
                received = terminate.recv() => received,
            }
        };
        if next().await.is_none() {
            return;
        }
        note("shutting down; signal again to stop at once");
        token.cancel();
        if next().await.is_some() {
            give_up();
        }
    });
    Ok(shutdown)
}

/// Ends the process as it stands. Nothing outlives it: a demo's servers have watchers that end them with their owner.
#[allow(
    clippy::disallowed_methods,
    reason = "skipping every destructor is what a second signal asks for"
)]
fn give_up() -> ! {
    std::process::exit(INTERRUPTED)
}
