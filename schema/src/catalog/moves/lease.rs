//! Leadership among processes of a kind: a row with an epoch that grows whenever the lead passes on.
//!
//! The lease's time keeps two processes from working at once as a rule; the epoch is what makes it certain, since every
//! write of a leader compares it in its own transaction.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::TransitionError;
use crate::catalog::{Catalog, CatalogError};

/// The leader's name of whoever moves tenants.
pub const REBALANCER: &str = "rebalancer";

/// The version of a lead; it only grows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaseEpoch(pub u64);

impl std::fmt::Display for LeaseEpoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Catalog {
    /// Takes or prolongs the lead of this name for `lasts`. `None`: another holder has it. A holder that comes back
    /// before anyone took over keeps its epoch. The caller counts its time from before the call.
    pub async fn take_lead(
        &self,
        name: &str,
        holder: Uuid,
        lasts: Duration,
    ) -> Result<Option<LeaseEpoch>, CatalogError> {
        let client = self.client().await?;
        let take = "INSERT INTO tenantry.leader AS l (name, epoch, holder, until) \
                    VALUES ($1, 1, $2, clock_timestamp() + make_interval(secs => $3)) \
                    ON CONFLICT (name) DO UPDATE SET until = excluded.until, holder = excluded.holder, \
                        epoch = l.epoch + (l.holder <> excluded.holder)::integer \
                    WHERE l.holder = excluded.holder OR l.until < clock_timestamp() RETURNING epoch";
        let row = client
            .query_opt(take, &[&name, &holder, &lasts.as_secs_f64()])
            .await?;
        Ok(row.map(|row| LeaseEpoch(row.get::<_, i64>(0).unsigned_abs())))
    }

    /// Gives the lead back, so that the next process need not wait for its end.
    pub async fn yield_lead(&self, name: &str, holder: Uuid) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let release =
            "UPDATE tenantry.leader SET until = '-infinity' WHERE name = $1 AND holder = $2";
        client.execute(release, &[&name, &holder]).await?;
        Ok(())
    }
}

/// Fails unless `lease` is the lead's epoch, and keeps it so until the transaction ends.
pub(super) async fn check_lease(
    transaction: &Transaction<'_>,
    lease: LeaseEpoch,
) -> Result<(), TransitionError> {
    let select = "SELECT epoch FROM tenantry.leader WHERE name = $1 FOR SHARE";
    let row = transaction.query_opt(select, &[&REBALANCER]).await?;
    match row.map(|row| row.get::<_, i64>(0).unsigned_abs()) {
        Some(epoch) if epoch == lease.0 => Ok(()),
        _ => Err(TransitionError::Overtaken { lease }),
    }
}
