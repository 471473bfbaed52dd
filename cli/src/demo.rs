//! `tenantry demo`: the whole system on one machine, with real PostgreSQL servers and made-up stores.
//!
//! One process runs every role and owns the servers, so that ending it, in whatever way, ends all of them. The
//! directory keeps the data; a later `demo up` goes on where the last one stopped. Nothing outside the directory is
//! written, and nothing but this machine can connect.

mod args;
mod banner;
mod crew;
mod data;
mod descriptor;
mod detach;
mod down;
mod fleet;
mod founding;
mod load;
mod place;
mod ports;
mod status;
mod stores;
mod system;
mod up;

pub(crate) use args::DemoCommand;

use crate::exit::{Exit, Failure};
use crate::output::Printer;

/// Runs `tenantry demo …`.
///
/// It reads no configuration, so that a file or a variable meant for the real fleet cannot reach into it. `log` is
/// the filter given on the command line.
pub(crate) async fn run(
    command: DemoCommand,
    log: Option<&str>,
    printer: Printer,
) -> Result<Exit, Failure> {
    match command {
        DemoCommand::Up(args) if args.detach => detach::up(args, log, printer).await,
        DemoCommand::Up(args) => up::run(args, log, printer).await,
        DemoCommand::Down(args) => down::run(args).await,
        DemoCommand::Status(args) => status::run(args, printer).await,
        DemoCommand::Load(args) => load::run(args, printer).await,
    }
}
