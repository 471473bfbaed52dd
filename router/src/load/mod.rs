//! What tenants use of shards, as all routers see it together: told to the catalog each second, merged there.
//!
//! Nothing here is on the way of a query: what sessions have counted is looked at once a second. One of the routers,
//! whichever has the catalog's lock for it, looks for hot tenants in what all of them have told.

pub(crate) mod heat;
mod sample;
mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tenantry_schema::catalog::{Catalog, CatalogError, FleetDemand, RouterId};
use tenantry_schema::causes::one_line;
use tenantry_schema::tenant::TenantId;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::sample::Sampler;
use self::watch::Watch;
use crate::limits::{Demands, Others};
use crate::router::Router;

/// How often it is told.
const PERIOD: Duration = Duration::from_secs(1);
/// A catalog that takes longer is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How often what was told long ago is forgotten.
const TRIM_PERIOD: Duration = Duration::from_secs(600);

/// Tells each second what this router did, until `shutdown` or until a successor serves in its place.
pub(crate) async fn publish(router: Arc<Router>, shutdown: CancellationToken) {
    let mut publisher = match Publisher::new(&router) {
        Ok(publisher) => publisher,
        Err(error) => {
            tracing::warn!(error = one_line(&error), "the load will not be told");
            return;
        }
    };
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = router.replaced.cancelled() => return,
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        match timeout(ANSWER_MAX, publisher.turn(&router)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = one_line(&error), "the load was not told"),
            Err(_elapsed) => tracing::debug!("telling the load timed out"),
        }
    }
}

struct Publisher {
    catalog: Catalog,
    sampler: Sampler,
    watch: Watch,
    trimmed: Instant,
}

impl Publisher {
    fn new(router: &Router) -> Result<Self, CatalogError> {
        Ok(Self {
            catalog: Catalog::lazy(&router.config().catalog_url)?,
            sampler: Sampler::new(),
            watch: Watch::default(),
            trimmed: Instant::now(),
        })
    }

    async fn turn(&mut self, router: &Router) -> Result<(), CatalogError> {
        let demands = router.limiters.take_demands();
        let own = router.registered.load(Ordering::Acquire);
        if own == 0 || !router.serves.load(Ordering::Acquire) || !router.fleet.is_known() {
            return Ok(());
        }
        let load = self
            .sampler
            .sample(&router.activity, &router.fleet.current(), &demands);
        let limited: Vec<TenantId> = demands.iter().map(|(tenant, _)| *tenant).collect();
        let told = self.catalog.publish_load(own, &load, &limited).await?;
        router.limiters.share(others(own, told));
        self.watch.turn(&self.catalog, router).await?;
        let hot = self.catalog.hot_tenants().await?;
        router.hot.store(Arc::new(hot));
        if self.trimmed.elapsed() >= TRIM_PERIOD {
            self.trimmed = Instant::now();
            self.catalog.trim_load(own).await?;
            self.catalog.trim_heat().await?;
        }
        Ok(())
    }
}

fn others(own: RouterId, told: FleetDemand) -> Others {
    let mut others = Others {
        routers: told.routers,
        own,
        told: Some(std::time::Instant::now()),
        ..Others::default()
    };
    for (tenant, router, asked) in told.asked {
        let demands = Demands::told(asked);
        others
            .demands
            .entry(tenant)
            .or_default()
            .insert(router, demands);
    }
    others
}
