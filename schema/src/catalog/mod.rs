//! The catalog: the PostgreSQL database that holds the fleet's truth, and its typed client.
//!
//! The schema is in `migrations/`; every table a router must learn of writes the change log by trigger, so a row
//! inserted with psql and one written here take the same way. Nothing in this module is on the data path: callers
//! must keep working, from what they hold in memory, while every method here fails.

mod audit;
mod changes;
mod connection;
mod copy;
mod error;
mod isolation;
mod limits;
mod load;
mod measures;
mod migrate;
pub mod moves;
mod rebalance;
mod ring;
mod roles;
mod routers;
mod shards;
mod tenants;
mod usage;

use std::sync::{Arc, OnceLock};

use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio_postgres::{Client, Config};

use crate::fleet::FleetSettings;

pub use audit::{AuditEntry, AuditRecord};
pub use changes::{CHANGE_CHANNEL, Changes, TrimPolicy};
pub(crate) use changes::{changes_after, trim_some};
pub(crate) use connection::open;
pub use connection::parse_url;
pub use error::CatalogError;
pub use isolation::{ISOLATION_ACTOR, IsolationEvent, NewIsolationEvent, WatchedTenant};
pub use limits::{Plan, SwitchThrow, ThrownSwitch};
pub(crate) use load::{Origin, load, origin};
pub use measures::{Census, CensusTenant};
pub use migrate::{MigrateReport, latest_version};
pub use rebalance::{
    NewRebalance, NewRebalanceMove, Rebalance, RebalanceAttempt, RebalanceId, RebalanceMove,
    RebalanceState,
};
pub use routers::{NewRouter, RegisteredRouter, RouterId};
pub use shards::{AddedShard, NewShard};
pub use tenants::{NewTenant, Tenant, TenantPage};
pub use usage::{
    FleetDemand, HeatChange, HeatEvent, LoadAsked, LoadTotals, MergedLoad, MergedShard, RouterLoad,
    ShardLoad, TenantLoad,
};

/// A handle to the catalog; clones share one connection, which is made anew when it was lost.
///
/// Statements of one handle run one after another: this is control work. A future that is dropped midway rolls its
/// transaction back.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    client: Mutex<Option<Client>>,
    /// Immutable once the catalog is initialised.
    settings: OnceLock<FleetSettings>,
}

impl Catalog {
    /// Connects, which proves that the catalog answers; `url` is a libpq URI or keyword string.
    pub async fn connect(url: &str) -> Result<Self, CatalogError> {
        let catalog = Self::lazy(url)?;
        drop(catalog.client().await?);
        Ok(catalog)
    }

    /// A handle that connects at its first use.
    pub fn lazy(url: &str) -> Result<Self, CatalogError> {
        let shared = Shared {
            config: parse_url(url)?,
            client: Mutex::new(None),
            settings: OnceLock::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What the fleet was built with.
    pub async fn settings(&self) -> Result<FleetSettings, CatalogError> {
        if let Some(settings) = self.shared.settings.get() {
            return Ok(settings.clone());
        }
        let client = self.client().await?;
        let settings = migrate::settings(&*client)
            .await?
            .ok_or(CatalogError::NotInitialised)?;
        Ok(self.shared.settings.get_or_init(|| settings).clone())
    }

    /// The connection, for the duration of one operation.
    async fn client(&self) -> Result<MappedMutexGuard<'_, Client>, CatalogError> {
        let mut slot = self.shared.client.lock().await;
        if slot.as_ref().is_none_or(Client::is_closed) {
            *slot = Some(connection::open(&self.shared.config, None).await?);
        }
        MutexGuard::try_map(slot, Option::as_mut).map_err(|_| CatalogError::NotInitialised)
    }
}
