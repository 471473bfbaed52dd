//! `demo status`: what is running, as seen from outside.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::args::PlaceArgs;
use super::descriptor::Descriptor;
use super::place::Place;
use super::ports::{PortPlan, local};
use crate::exit::{Exit, Failure};
use crate::output::{Printer, record};

/// How long a local listener may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// What there is to know about a demo.
#[derive(Debug, Serialize)]
struct Status {
    /// `running`, `starting`, `degraded` (running, but not everything answers) or `stopped`.
    state: &'static str,
    dir: PathBuf,
    pid: Option<i32>,
    tenants: u32,
    shards: u16,
    /// Parts that accept connections.
    up: Vec<String>,
    /// Parts that do not.
    down: Vec<String>,
    service_url: Option<String>,
    http: Option<String>,
}

record!(Status {
    state => "STATE", dir => "DIRECTORY", pid => "PROCESS", tenants => "TENANTS", shards => "SHARDS",
    up => "UP", down => "DOWN", service_url => "SERVICE URL", http => "HTTP",
});

/// Prints the status; ends with code 1 when the demo runs but not all of it answers.
pub(super) async fn run(args: PlaceArgs, printer: Printer) -> Result<Exit, Failure> {
    let place = Place::new(args.dir)?;
    let Some(state) = place.state()? else {
        return Err(
            Failure::not_found(format!("there is no demo in {}", place.dir().display()))
                .hint("start one with `tenantry demo up`"),
        );
    };
    let pid = place.holder()?;
    let (up, down) = match pid {
        Some(_) => {
            probe(
                PortPlan::new(state.port_base, state.shards + super::fleet::SPARES)?,
                state.shards,
            )
            .await
        }
        None => (Vec::new(), Vec::new()),
    };
    let descriptor = Descriptor::read(&place).ok().filter(|_| pid.is_some());
    let word = match (pid, &descriptor) {
        (None, _) => "stopped",
        (Some(_), None) => "starting",
        (Some(_), Some(_)) if down.is_empty() => "running",
        (Some(_), Some(_)) => "degraded",
    };
    printer.one(&Status {
        state: word,
        dir: place.dir().to_owned(),
        pid,
        tenants: state.tenants,
        shards: state.shards,
        up,
        down,
        service_url: descriptor.as_ref().map(|found| found.urls.service.clone()),
        http: descriptor.map(|found| found.http),
    })?;
    Ok(if word == "degraded" {
        Exit::Failed
    } else {
        Exit::Ok
    })
}

/// Tries each listener once, all at a time.
async fn probe(ports: PortPlan, shards: u16) -> (Vec<String>, Vec<String>) {
    let named = super::fleet::shard_plans(shards)
        .into_iter()
        .map(|shard| (shard.name, ports.shard(shard.index)));
    let parts = [
        ("router".to_owned(), ports.router()),
        ("http".to_owned(), ports.http()),
        ("catalog".to_owned(), ports.catalog()),
    ]
    .into_iter()
    .chain(named);
    let tried = parts.map(|(name, port)| async move {
        let connected = timeout(CONNECT_MAX, TcpStream::connect(local(port))).await;
        (name, matches!(connected, Ok(Ok(_))))
    });
    let (up, down): (Vec<_>, Vec<_>) = futures_util::future::join_all(tried)
        .await
        .into_iter()
        .partition(|(_, connected)| *connected);
    let names = |parts: Vec<(String, bool)>| parts.into_iter().map(|(name, _)| name).collect();
    (names(up), names(down))
}
