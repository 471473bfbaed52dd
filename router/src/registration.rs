//! The router's entry in the catalog: its number, a sign of life, and where its peers find it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tenantry_schema::catalog::{Catalog, CatalogError, NewRouter};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ROUTER_NUMBER_MAX};
use crate::router::Router;

/// Where a router listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) pg: SocketAddr,
    pub(crate) control: SocketAddr,
}

/// How long a start waits for the catalog to give the router its number.
const REGISTRATION_TIME: Duration = Duration::from_secs(2);
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);

/// The router's number: configured, the catalog's, or, while the catalog is away, one that the
/// name decides. Two routers with one number confuse nobody's data, only their cancels.
pub(crate) async fn number(config: &Config, listening: Places) -> u16 {
    if config.number != 0 {
        return config.number;
    }
    let registered = timeout(REGISTRATION_TIME, async {
        let catalog = Catalog::connect(&config.catalog_url).await?;
        let control = control_address(config, listening.control);
        register(&catalog, config, listening, control, None).await
    });
    match registered.await {
        Ok(Ok(number)) => number,
        other => {
            let error = match other {
                Ok(Err(error)) => error.to_string(),
                _ => "timed out".to_owned(),
            };
            tracing::warn!(error, "the catalog did not give the router its number");
            let mut hasher = DefaultHasher::new();
            config.name.hash(&mut hasher);
            let hash = hasher.finish() % u64::from(ROUTER_NUMBER_MAX);
            u16::try_from(hash).unwrap_or_default() + 1
        }
    }
}

async fn register(
    catalog: &Catalog,
    config: &Config,
    listening: Places,
    control_address: Option<String>,
    number: Option<u16>,
) -> Result<u16, CatalogError> {
    let peer_address = peer_address(config, listening.pg);
    let router = NewRouter {
        name: &config.name,
        number,
        control_address: control_address.as_deref(),
        peer_address: peer_address.as_deref(),
    };
    catalog.register_router(router).await
}

/// Where other routers reach this one: as configured, or where it listens unless that is every
/// address of the machine.
fn peer_address(config: &Config, listening: SocketAddr) -> Option<String> {
    let own = || (!listening.ip().is_unspecified()).then(|| listening.to_string());
    config.peer_address.clone().or_else(own)
}

/// Where the rebalancer reaches this router, by the same rule.
fn control_address(config: &Config, listening: SocketAddr) -> Option<String> {
    let own = || (!listening.ip().is_unspecified()).then(|| listening.to_string());
    config.control_address.clone().or_else(own)
}

/// Tells the catalog that the router lives and how far it has followed, and learns of the others.
/// A catalog that is away costs nothing but the next attempt. A router that was `replaced` leaves
/// the entry to its successor.
pub(crate) async fn heartbeat(router: Arc<Router>, listening: Places, shutdown: CancellationToken) {
    let mut tick = interval(HEARTBEAT_PERIOD);
    let mut registered: Option<(Catalog, u16)> = None;
    loop {
        tokio::select! {
            biased;
            // The successor has the entry now.
            () = router.replaced.cancelled() => return,
            () = shutdown.cancelled() => break,
            _ = tick.tick() => {}
        }
        let beat = timeout(
            HEARTBEAT_PERIOD,
            beat(&router, listening, registered.take()),
        );
        match beat.await {
            Ok(Ok(now)) => registered = now,
            Ok(Err(error)) => tracing::debug!(%error, "heartbeat did not reach the catalog"),
            Err(_elapsed) => tracing::debug!("heartbeat timed out"),
        }
    }
    // Before it serves, the entry is its predecessor's.
    if let Some((catalog, id)) = registered
        && router.serves.load(Ordering::Acquire)
        && let Err(error) = catalog.unregister_router(id).await
    {
        tracing::debug!(%error, "the catalog was not told that the router ends");
    }
}

async fn beat(
    router: &Router,
    listening: Places,
    registered: Option<(Catalog, u16)>,
) -> Result<Option<(Catalog, u16)>, CatalogError> {
    let number = router.cancels.number();
    let (catalog, id) = match registered {
        Some(registered) => registered,
        None => {
            let config = Arc::clone(&router.config());
            let catalog = Catalog::connect(&config.catalog_url).await?;
            let control = router
                .control_token()
                .and_then(|_| control_address(&config, listening.control));
            if control.is_none() {
                tracing::warn!(
                    "no control plane: tenants that move are not held here; it needs a control_token in the secrets file, and router.control_address where it listens on every address"
                );
            }
            let id = register(&catalog, &config, listening, control, Some(number)).await?;
            if id != number {
                tracing::warn!(
                    number,
                    catalog = id,
                    "another router has this router's number: cancel requests that reach the wrong one are lost"
                );
            }
            (catalog, id)
        }
    };
    let sequence = router.fleet.current().sequence;
    let known = catalog.heartbeat_router(id, sequence).await?;
    let registered = if known { id } else { 0 };
    router.registered.store(registered, Ordering::Release);
    router.peers.update(number, catalog.list_routers().await?);
    Ok(known.then_some((catalog, id)))
}
