//! One role per process: each command reads its settings, hands them to its crate's `run`, and ends when that returns.

use std::error::Error;
use std::sync::Arc;

use tenantry_router::{Fresh, ReadConfig};
use tokio::signal::unix::{SignalKind, signal};
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
    let settings = sources.settings()?;
    let filter = telemetry::install(&settings.log.filter, settings.log.format)?;
    let shutdown = shutdown::on_signal()?;
    let mut reload = signal(SignalKind::hangup())?;
    let source: ReadConfig = Arc::new(move || read_again(&sources, &filter));
    let running = tenantry_router::start_from(settings.router()?, Some(source))
        .await
        .explain(|| "the router did not start".to_owned())?;
    tracing::info!(pg = %running.pg_addr, http = %running.http_addr, "router is listening");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = running.replaced() => {
                running.stop_replaced(&shutdown).await;
                return Ok(Exit::Ok);
            }
            how = running.asked_to_stop() => {
                running.stop_as(how, &shutdown).await;
                return Ok(Exit::Ok);
            }
            // What came of it is logged; a reload that fails changes nothing.
            _ = reload.recv() => drop(running.reload().await),
        }
    }
    running.stop().await;
    Ok(Exit::Ok)
}

/// The whole configuration once more; nothing is in force before all of it is valid.
fn read_again(sources: &Sources, filter: &telemetry::Filter) -> Result<Fresh, Vec<String>> {
    let said = |failure: Failure| {
        let text = failure.to_string();
        vec![text.strip_prefix("error: ").unwrap_or(&text).to_owned()]
    };
    let loaded = sources.load().map_err(said)?;
    if !loaded.problems.is_empty() {
        return Err(loaded.problems.iter().map(ToString::to_string).collect());
    }
    let settings = loaded.settings;
    let config = settings.router().map_err(said)?;
    let adopt = filter
        .prepare(settings.log.filter, settings.log.format)
        .map_err(said)?;
    Ok(Fresh {
        config,
        adopt: Box::new(adopt),
    })
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
    ended(
        "rebalancer",
        tenantry_rebalancer::run(settings.rebalancer()?, shutdown).await,
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
