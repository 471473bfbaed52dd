//! One role per process: each command reads its settings, hands them to its crate's `run`, and ends when that returns.

use std::fmt::Display;

use tokio_util::sync::CancellationToken;

use crate::config::{Settings, Sources};
use crate::exit::{Exit, Failure};
use crate::{shutdown, telemetry};

/// Settings, logging and signals, the same for every role.
fn prepare(sources: &Sources) -> Result<(Settings, CancellationToken), Failure> {
    let settings = sources.settings()?;
    telemetry::install(&settings.log.filter, settings.log.format)?;
    Ok((settings, shutdown::on_signal(|| {})?))
}

fn ended<E: Display>(role: &str, result: Result<(), E>) -> Result<Exit, Failure> {
    match result {
        Ok(()) => Ok(Exit::Ok),
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("the {role} stopped: {error}"),
        )),
    }
}

/// `tenantry rebalancer`
pub(crate) async fn rebalancer(sources: Sources) -> Result<Exit, Failure> {
    let (settings, shutdown) = prepare(&sources)?;
    let config = tenantry_rebalancer::Config {
        catalog_url: settings.catalog_url()?.to_owned(),
    };
    ended(
        "rebalancer",
        tenantry_rebalancer::run(config, shutdown).await,
    )
}

/// `tenantry console`
pub(crate) async fn console(sources: Sources) -> Result<Exit, Failure> {
    let (settings, shutdown) = prepare(&sources)?;
    let config = tenantry_console::Config {
        catalog_url: settings.catalog_url()?.to_owned(),
        listen: settings.console.listen,
    };
    ended("console", tenantry_console::run(config, shutdown).await)
}
