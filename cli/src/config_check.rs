//! `tenantry config check`: every setting, its value, its source; then everything that is wrong.

use crate::args::ConfigCommand;
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::Printer;

/// Prints the settings even when some are wrong: the source of a bad value is what the reader is looking for.
pub(crate) fn run(
    command: &ConfigCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let ConfigCommand::Check = command;
    let loaded = sources.load()?;
    printer.list(&loaded.resolved)?;
    match loaded.failure() {
        Some(failure) => Err(failure),
        None => Ok(Exit::Ok),
    }
}
