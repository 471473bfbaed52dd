//! `demo down`: ends the demo's process, makes sure that its servers are gone, and removes the data if asked to.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tenantry_cluster::{Server, ServerError, StopMode};

use super::args::DownArgs;
use super::place::Place;
use crate::exit::{Exit, Explain, Failure};
use crate::output::note;

/// How long a demo may take to drain and stop its servers before it is killed.
const STOP_MAX: Duration = Duration::from_secs(45);

/// How long the kernel may take to end a killed process.
const KILL_MAX: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(25);

/// Stops what runs; a demo that does not run is no error.
pub(super) async fn run(args: DownArgs) -> Result<Exit, Failure> {
    let place = Place::new(args.place.dir)?;
    if place.state()?.is_none() {
        return Err(Failure::not_found(format!(
            "there is no demo in {}",
            place.dir().display()
        )));
    }
    match place.holder()? {
        Some(pid) => end(&place, pid).await?,
        None => note("the demo was not running"),
    }
    stop_servers(&place).await?;
    if args.purge {
        place.purge()?;
        note(format_args!("removed {}", place.dir().display()));
    } else {
        note(format_args!("the data stays in {}", place.dir().display()));
    }
    Ok(Exit::Ok)
}

/// Asks the process to stop, and ends it when it does not.
pub(super) async fn end(place: &Place, pid: i32) -> Result<(), Failure> {
    for (signal, patience) in [(Signal::TERM, STOP_MAX), (Signal::KILL, KILL_MAX)] {
        send(pid, signal)?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            // The lock and not the process id tells: an id can be reused, a lock held by nobody is free.
            if place.holder()?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(Failure::new(
        Exit::TimedOut,
        format!("process {pid} does not end"),
    ))
}

fn send(pid: i32, signal: Signal) -> Result<(), Failure> {
    let Some(target) = Pid::from_raw(pid) else {
        return Err(Failure::new(
            Exit::Failed,
            "the demo's lock file names no process",
        ));
    };
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(rustix::io::Errno::PERM) => Err(Failure::new(
            Exit::NotAllowed,
            format!("process {pid} belongs to another user"),
        )),
        Err(error) => Err(error).explain(|| format!("process {pid} cannot be signalled")),
    }
}

/// Stops servers that outlived their demo, which takes a kill -9 of everything around them.
pub(super) async fn stop_servers(place: &Place) -> Result<(), Failure> {
    let entries = match std::fs::read_dir(place.servers()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).explain(|| format!("{} cannot be read", place.servers().display()));
        }
    };
    for entry in entries {
        let dir = entry?.path();
        match Server::adopt(&dir) {
            Ok(server) => server
                .stop(StopMode::Fast)
                .await
                .explain(|| format!("the server in {} does not stop", dir.display()))?,
            Err(ServerError::NotRunning { .. }) => {}
            Err(error) => {
                return Err(error)
                    .explain(|| format!("the server in {} cannot be examined", dir.display()));
            }
        }
    }
    Ok(())
}
