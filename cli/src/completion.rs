//! `tenantry completion`: a script for the caller's shell.

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::Printer;

/// Prints the completion script for `shell`.
pub(crate) fn run(shell: clap_complete::Shell, printer: Printer) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tenantry", &mut script);
    printer.raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
