//! `demo up --detach`: starts the demo as a process of its own and returns once that is ready.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::args::UpArgs;
use super::descriptor::Descriptor;
use super::place::Place;
use super::{banner, down};
use crate::exit::{Exit, Explain, Failure};
use crate::output::{Printer, note};
use crate::shutdown;

/// Longest wait for a demo to become ready. A first start takes seconds; a slow machine with thousands of stores,
/// minutes.
const READY_MAX: Duration = Duration::from_secs(300);

/// Between looks at the descriptor.
const POLL: Duration = Duration::from_millis(25);

/// Lines of the log shown when the start fails.
const TAIL_LINES: usize = 12;

/// Starts the background process, waits for it, prints the banner.
pub(super) async fn up(args: UpArgs, log: Option<&str>, printer: Printer) -> Result<Exit, Failure> {
    let place = Place::new(args.place.dir.clone())?;
    // Refuses here what the child would refuse, where the caller sees the reason first hand.
    drop(place.acquire()?);
    let log_start = std::fs::metadata(place.log()).map_or(0, |meta| meta.len());
    let interrupted = shutdown::on_signal()?;
    let mut child = spawn(&args, log, &place)?;
    let descriptor = tokio::select! {
        ready = wait_ready(&mut child, &place, log_start) => ready?,
        () = interrupted.cancelled() => {
            // Whoever interrupts the start does not want the demo to go on behind his back.
            down::end(&place, child.id().cast_signed()).await?;
            child.wait()?;
            return Err(Failure::new(Exit::Failed, "interrupted; the demo was stopped"));
        }
    };
    note(format_args!(
        "the demo runs in the background, its log is {}",
        place.log().display()
    ));
    banner::print(&descriptor, &place, printer)?;
    Ok(Exit::Ok)
}

fn spawn(args: &UpArgs, filter: Option<&str>, place: &Place) -> Result<Child, Failure> {
    let program =
        std::env::current_exe().explain(|| "the path of this program is unknown".to_owned())?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(place.log())
        .explain(|| format!("{} cannot be opened", place.log().display()))?;
    let mut command = Command::new(program);
    command
        .args(["demo", "up", "--background", "--dir"])
        .arg(place.dir());
    if let Some(filter) = filter {
        command.arg("--log").arg(filter);
    }
    let mut number = |flag: &str, value: Option<u32>| {
        if let Some(value) = value {
            command.arg(flag).arg(value.to_string());
        }
    };
    number("--port-base", args.port_base.map(u32::from));
    number("--shards", args.shards.map(u32::from));
    number("--tenants", args.tenants);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .explain(|| "the background process could not be started".to_owned())
}

/// Waits until the child has published its descriptor. A child that ends instead hands over its exit code and last
/// words.
async fn wait_ready(
    child: &mut Child,
    place: &Place,
    log_start: u64,
) -> Result<Descriptor, Failure> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            let exit = match status.code() {
                Some(2) => Exit::Usage,
                Some(4) => Exit::Precondition,
                Some(5) => Exit::NotAllowed,
                Some(7) => Exit::Transient,
                _ => Exit::Failed,
            };
            let tail = tail(&place.log(), log_start).unwrap_or_default();
            return Err(Failure::new(
                exit,
                format!("the demo did not start; its last words:\n{tail}"),
            ));
        }
        if place.descriptor().is_file()
            && let Ok(descriptor) = Descriptor::read(place)
            && descriptor.pid == child.id()
        {
            return Ok(descriptor);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "the demo is not ready after {} s; it goes on starting",
                    READY_MAX.as_secs()
                ),
            )
            .hint(format!("watch {}", place.log().display())));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last lines written since `start`.
fn tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines[from..]
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect())
}
