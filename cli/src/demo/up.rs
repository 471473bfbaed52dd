//! `demo up` in the foreground: starts everything, waits, stops everything.

use super::args::UpArgs;
use super::place::{LAYOUT, Place, State};
use super::ports::PortPlan;
use super::{banner, down};
use crate::config::LogFormat;
use crate::exit::{Exit, Failure};
use crate::output::Printer;
use crate::{shutdown, telemetry};

const PORT_BASE_DEFAULT: u16 = 6432;
const SHARDS_DEFAULT: u16 = 4;
const TENANTS_DEFAULT: u32 = 200;

/// Runs the demo until a signal or until one of its parts fails.
pub(super) async fn run(
    args: UpArgs,
    log: Option<&str>,
    printer: Printer,
) -> Result<Exit, Failure> {
    if args.background {
        // A session of its own, so that closing the terminal does not reach it. Fails only for a process that leads
        // one.
        let _ = rustix::process::setsid();
    }
    // In the foreground the steps of the start are told anyway; only what goes wrong is added to them.
    let filter = log.unwrap_or(if args.background { "info" } else { "warn" });
    telemetry::install(filter, LogFormat::Text)?;
    let place = Place::new(args.place.dir.clone())?;
    let running = place.acquire()?;
    let state = settle(&args, place.state()?)?;
    let ports = PortPlan::new(state.port_base, state.shards + super::fleet::SPARES)?;
    down::stop_servers(&place).await?;
    ports.check_free()?;
    let shutdown = shutdown::on_signal()?;
    let outcome = super::system::run(&place, state, ports, shutdown, |descriptor| {
        banner::print(descriptor, &place, printer)
    })
    .await;
    // The lock goes with the process and not before: `demo down` takes its end for the demo's.
    std::mem::forget(running);
    outcome
}

/// What to run: what was asked for, else what the demo was made with, else the defaults. Only the ports may change
/// later.
fn settle(args: &UpArgs, saved: Option<State>) -> Result<State, Failure> {
    let Some(saved) = saved.filter(|saved| saved.complete) else {
        return Ok(State {
            version: LAYOUT,
            port_base: args.port_base.unwrap_or(PORT_BASE_DEFAULT),
            shards: args.shards.unwrap_or(SHARDS_DEFAULT),
            tenants: args.tenants.unwrap_or(TENANTS_DEFAULT),
            complete: false,
        });
    };
    let shards_differ = args.shards.is_some_and(|shards| shards != saved.shards);
    let tenants_differ = args.tenants.is_some_and(|tenants| tenants != saved.tenants);
    if shards_differ || tenants_differ {
        return Err(Failure::precondition(format!(
            "this demo was made with {} shards and {} stores",
            saved.shards, saved.tenants
        ))
        .hint("leave the numbers out to go on with it, remove it with `tenantry demo down --purge`, or use another --dir"));
    }
    Ok(State {
        port_base: args.port_base.unwrap_or(saved.port_base),
        ..saved
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::demo::args::PlaceArgs;

    fn args(port_base: Option<u16>, shards: Option<u16>) -> UpArgs {
        UpArgs {
            place: PlaceArgs { dir: None },
            port_base,
            shards,
            tenants: None,
            detach: false,
            background: false,
        }
    }

    #[test]
    fn a_saved_demo_keeps_its_size_and_may_change_its_ports() {
        let first = settle(&args(None, Some(2)), None).unwrap();
        assert_eq!(
            (first.port_base, first.shards, first.tenants),
            (6432, 2, 200)
        );
        let saved = State {
            complete: true,
            ..first
        };
        let again = settle(&args(Some(7000), None), Some(saved.clone())).unwrap();
        assert_eq!(
            (again.port_base, again.shards, again.complete),
            (7000, 2, true)
        );
        assert_eq!(
            settle(&args(None, Some(3)), Some(saved.clone()))
                .unwrap_err()
                .exit(),
            Exit::Precondition
        );
        let torn = State {
            complete: false,
            ..saved
        };
        assert_eq!(settle(&args(None, Some(3)), Some(torn)).unwrap().shards, 3);
    }
}
