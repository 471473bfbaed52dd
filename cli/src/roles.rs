//! One role per process: each command reads its settings, hands them to its crate's `run`, and ends when that returns.

use std::error::Error;

use tokio_util::sync::CancellationToken;

use crate::config::{Settings, Sources};
use crate::exit::{Exit, Explain, Failure};
use crate::{shutdown, telemetry};

/// Settings, logging and signals, the same for every role.
fn prepare(sources: &Sources) -> Result<(Settings, CancellationToken), Failure> {
    let settings = sources.settings()?;
    telemetry::install(&settings.log.filter, settings.log.format)?;
    Ok((settings, shutdown::on_signal()?))
}

fn ended<E>(role: &str, result: Result<(), E>) -> Result<Exit, Failure>
where
    E: Error + Send + Sync + 'static,
{
    result
        .explain(|| format!("the {role} stopped"))
        .map(|()| Exit::Ok)
}

/// `tenantry router`
pub(crate) async fn router(sources: Sources) -> Result<Exit, Failure> {
    let (settings, shutdown) = prepare(&sources)?;
    ended(
        "router",
        tenantry_router::run(settings.router()?, shutdown).await,
    )
}

/// `tenantry agent`
pub(crate) async fn agent(sources: Sources) -> Result<Exit, Failure> {
    let (settings, shutdown) = prepare(&sources)?;
    ended(
        "agent",
        tenantry_shard_agent::run(settings.agent()?, shutdown).await,
    )
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
