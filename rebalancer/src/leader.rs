//! Who moves tenants: one of several rebalancers, by a lease in the catalog.
//!
//! Time keeps two from working at once as a rule: a leader that cannot prolong its lease stops before it ends, counted on
//! its own clock from before it asked. What makes it certain is the epoch that every write of the journal compares, and
//! the epoch of the owner row that a fence names.

use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::catalog::moves::{LeaseEpoch, REBALANCER};
use tenantry_schema::catalog::{Catalog, CatalogError};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// What is left of a lease when its holder stops using it.
const MARGIN: u32 = 5;

/// The lead while this process has it.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    /// Its version.
    pub(crate) epoch: LeaseEpoch,
    until: Arc<watch::Sender<Instant>>,
}

impl Lead {
    /// Whether the lead is this process's for that much longer.
    pub(crate) fn holds_for(&self, time: Duration) -> bool {
        *self.until.borrow() > Instant::now() + time
    }

    /// Waits for the moment from which on it may be somebody else's.
    pub(crate) async fn lost(&self) {
        let mut until = self.until.subscribe();
        loop {
            let end = *until.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(end) => {
                    if *until.borrow() <= Instant::now() {
                        return;
                    }
                }
                changed = until.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Asks for the lead and keeps it.
pub(crate) struct Candidate {
    catalog: Catalog,
    holder: Uuid,
    lasts: Duration,
    lead: Option<Lead>,
}

impl Candidate {
    /// A process that would lead, with leases of this length.
    pub(crate) fn new(catalog: Catalog, lasts: Duration) -> Self {
        Self {
            catalog,
            holder: Uuid::new_v4(),
            lasts,
            lead: None,
        }
    }

    /// How often [`Candidate::ask`] is to be called.
    pub(crate) fn interval(&self) -> Duration {
        self.lasts / 4
    }

    /// Takes or prolongs the lead. `None`: somebody else has it.
    ///
    /// # Errors
    /// The catalog does not answer; a lead that is there stays until its end.
    pub(crate) async fn ask(&mut self) -> Result<Option<Lead>, CatalogError> {
        let asked = Instant::now();
        let taken = self.catalog.take_lead(REBALANCER, self.holder, self.lasts);
        let Some(epoch) = taken.await? else {
            self.lead = None;
            return Ok(None);
        };
        let until = asked + self.lasts - self.lasts / MARGIN;
        match &self.lead {
            Some(lead) if lead.epoch == epoch => {
                lead.until.send_replace(until);
            }
            _ => {
                let until = Arc::new(watch::Sender::new(until));
                self.lead = Some(Lead { epoch, until });
            }
        }
        Ok(self.lead.clone())
    }

    /// Gives the lead back.
    ///
    /// # Errors
    /// The catalog does not answer.
    pub(crate) async fn give_back(&mut self) -> Result<(), CatalogError> {
        self.lead = None;
        self.catalog.yield_lead(REBALANCER, self.holder).await
    }
}
