//! Work that concerns the fleet as a whole: rebalancings are made move by move, hot tenants are isolated by policy, and
//! tenants are weighed.
//!
//! Only the leader does it. Nothing here moves a tenant: moves are planned in the catalog, like an operator's, and made
//! by whoever makes moves. So nothing is lost when this stops at any line: the next look finds what was planned, and a plan
//! made twice is refused by the catalog, which lets a tenant have one move at a time.

mod inventory;
mod isolation;
mod rebalance;
mod weigh;

use std::path::PathBuf;
use std::time::Duration;

use tenantry_schema::catalog::moves::LeaseEpoch;
use tenantry_schema::catalog::{Catalog, CatalogError};
use tenantry_schema::secrets::SecretsError;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use inventory::inventory;
pub use isolation::Isolation;
pub use rebalance::{Rebalancing, begin, drained_ring, planned_moves};
pub use weigh::{BusyMeter, WeighError, weigh_shard};

use crate::policy::Policy;
use crate::shard::ShardEndpoint;

/// Between two looks at rebalancings and at hot tenants.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at how busy tenants are.
const BUSY_LOOK: Duration = Duration::from_secs(10);
/// Between two weighings of a shard.
const WEIGH_EVERY: Duration = Duration::from_secs(600);
/// Between two looks for shards that have not been weighed.
const WEIGH_LOOK: Duration = Duration::from_secs(5);

/// What the work needs.
#[derive(Clone)]
pub struct FleetWork {
    /// The catalog, over a connection of its own: this work must not hold up moves.
    pub catalog: Catalog,
    /// Passwords of the shards.
    pub secrets_file: PathBuf,
    /// When hot tenants are isolated, as far as the catalog says nothing else.
    pub policy: Policy,
}

/// Why a look came to nothing; the next one may succeed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// What the catalog holds of a plan or a policy is not understood.
    #[error("{what} is not understood")]
    NotUnderstood {
        /// Of what.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The policy contradicts itself.
    #[error("the isolation policy cannot be followed")]
    Policy(#[from] crate::policy::PolicyError),
    /// The secrets cannot be read.
    #[error("the secrets of shards cannot be read")]
    Secrets(#[from] SecretsError),
}

/// Does the work while this process leads, until `shutdown`. Failures are logged, and tried again at the next look.
pub async fn run(
    work: FleetWork,
    lead: watch::Receiver<Option<LeaseEpoch>>,
    shutdown: CancellationToken,
) {
    let stopped = shutdown.cancelled();
    let all = async {
        tokio::join!(
            rebalancing(&work, lead.clone()),
            isolating(&work, lead.clone()),
            metering(&work, lead.clone()),
            weighing(&work, lead.clone()),
        )
    };
    // Every step is a statement of its own, or a transaction: it may be cut off anywhere.
    tokio::select! {
        () = stopped => {}
        _ = all => {}
    }
}

async fn rebalancing(work: &FleetWork, lead: watch::Receiver<Option<LeaseEpoch>>) {
    let mut clock = Clock::new(LOOK, lead);
    let mut rebalancing = Rebalancing::default();
    while clock.next().await {
        clock.told("rebalancings", rebalancing.advance(&work.catalog).await);
    }
}

async fn isolating(work: &FleetWork, lead: watch::Receiver<Option<LeaseEpoch>>) {
    let mut clock = Clock::new(LOOK, lead);
    let mut isolation = Isolation::new(work.policy.clone());
    while clock.next().await {
        clock.told("isolation", isolation.advance(&work.catalog).await);
    }
}

async fn metering(work: &FleetWork, lead: watch::Receiver<Option<LeaseEpoch>>) {
    let mut clock = Clock::new(BUSY_LOOK, lead);
    let mut meter = BusyMeter::default();
    while clock.next().await {
        clock.told("load", meter.advance(&work.catalog).await);
    }
}

async fn weighing(work: &FleetWork, lead: watch::Receiver<Option<LeaseEpoch>>) {
    let mut clock = Clock::new(WEIGH_LOOK, lead);
    let mut weighed = std::collections::BTreeMap::new();
    while clock.next().await {
        let done = weigh::weigh_due(work, &mut weighed, WEIGH_EVERY).await;
        clock.told("weighing", done);
    }
}

/// Ticks while this process leads, and says each new trouble once.
struct Clock {
    ticks: tokio::time::Interval,
    lead: watch::Receiver<Option<LeaseEpoch>>,
    trouble: Option<String>,
}

impl Clock {
    fn new(every: Duration, lead: watch::Receiver<Option<LeaseEpoch>>) -> Self {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            lead,
            trouble: None,
        }
    }

    /// Waits for the next tick as a leader. `false`: there will be none.
    async fn next(&mut self) -> bool {
        loop {
            self.ticks.tick().await;
            if self.lead.borrow_and_update().is_some() {
                return true;
            }
            if self.lead.changed().await.is_err() {
                return false;
            }
        }
    }

    fn told(&mut self, what: &'static str, done: Result<(), FleetError>) {
        let trouble = done
            .err()
            .map(|error| tenantry_schema::causes::one_line(&error));
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => tracing::warn!(what, trouble, "work on the fleet has to wait"),
                None => tracing::info!(what, "work on the fleet goes on"),
            }
            self.trouble = trouble;
        }
    }
}

/// Every shard that can be connected to, with the password of the rebalancer's role there. Shards without secrets are
/// left out: the file may be older than they are.
pub(crate) async fn endpoints(work: &FleetWork) -> Result<Vec<ShardEndpoint>, FleetError> {
    let secrets = tenantry_schema::secrets::SecretsFile::load(&work.secrets_file)?;
    let shards = work.catalog.list_shards().await?;
    let reachable = shards
        .into_iter()
        .filter(|shard| shard.state != tenantry_schema::shard::ShardState::Down);
    let endpoints = reachable.filter_map(|shard| {
        let own = secrets.shard(shard.name.as_str())?;
        Some(ShardEndpoint::new(shard, own))
    });
    Ok(endpoints.collect())
}
