//! Transitions: the only way a move changes.

use serde_json::Value;
use tokio_postgres::Transaction as SqlTransaction;

use super::by_id;
use super::lease::{LeaseEpoch, check_lease};
use super::placement::{place, spare_again};
use super::types::{Move, MoveId, MoveProgress, MoveStatus};
use crate::catalog::{Catalog, CatalogError};
use crate::tenant::TenantKey;

/// A change of a move.
#[derive(Debug, Clone, Copy)]
pub struct Transition<'a> {
    /// The move as it was read or last changed.
    pub from: &'a Move,
    /// What it is to be. Where `lives_at` or the placement's epoch changes, pin and epoch change with it.
    pub next: &'a MoveStatus,
    /// What it tells of itself.
    pub progress: &'a MoveProgress,
    /// The lead under which this is done.
    pub lease: LeaseEpoch,
    /// Evidence for the history.
    pub detail: &'a Value,
    /// The command that this follows.
    pub command: Option<i64>,
}

/// Why a move was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TransitionError {
    /// Somebody else leads now: whoever gets this does nothing more with any move.
    #[error("the lead of epoch {lease} was taken over")]
    Overtaken {
        /// The epoch that was.
        lease: LeaseEpoch,
    },
    /// The move is not as the caller thinks; it must be read again.
    #[error("move {id} has changed since version {version}")]
    Changed {
        /// Which.
        id: MoveId,
        /// What the caller had.
        version: u64,
    },
    /// The catalog. After [`CatalogError::Lost`] the change may have been made: the version tells.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl From<tokio_postgres::Error> for TransitionError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Catalog(error.into())
    }
}

impl Catalog {
    /// Changes a move if it still is what the caller read and the caller still leads.
    pub async fn transition(&self, change: &Transition<'_>) -> Result<Move, TransitionError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute("SET LOCAL lock_timeout = '10s'")
            .await?;
        check_lease(&transaction, change.lease).await?;
        let id = change.from.id;
        if !update(&transaction, change).await? {
            let version = change.from.version;
            return Err(TransitionError::Changed { id, version });
        }
        follow(&transaction, key, change).await?;
        let changed = by_id(&transaction, id).await?;
        transaction.commit().await?;
        Ok(changed.ok_or_else(|| CatalogError::not_found("move", id.to_string()))?)
    }

    /// Records what a live move tells of itself.
    pub async fn record_move_progress(
        &self,
        id: MoveId,
        lease: LeaseEpoch,
        progress: &MoveProgress,
    ) -> Result<(), TransitionError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        check_lease(&transaction, lease).await?;
        let update = "UPDATE tenantry.move SET progress = $2, updated_at = clock_timestamp() \
                      WHERE id = $1 AND finished_at IS NULL";
        transaction
            .execute(update, &[&id.0, &json(progress)])
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Records something that happened within a state.
    pub async fn note_move(
        &self,
        id: MoveId,
        lease: LeaseEpoch,
        detail: &Value,
    ) -> Result<(), TransitionError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        check_lease(&transaction, lease).await?;
        let insert = "INSERT INTO tenantry.move_event (move, from_state, to_state, detail) \
                      SELECT m.id, m.state, m.state, $2 FROM tenantry.move m WHERE m.id = $1";
        transaction.execute(insert, &[&id.0, &detail]).await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn update(
    transaction: &SqlTransaction<'_>,
    change: &Transition<'_>,
) -> Result<bool, TransitionError> {
    let next = change.next;
    let epoch = next.placement_epoch;
    let changed = transaction
        .execute(
            include_str!("../sql/change_move.sql"),
            &[
                &change.from.id.0,
                &i64::try_from(change.from.version).unwrap_or(i64::MAX),
                &i64::try_from(change.lease.0).unwrap_or(i64::MAX),
                &next.state.as_str(),
                &next.lives_at.as_str(),
                &epoch.map(|epoch| i64::try_from(epoch.0).unwrap_or(i64::MAX)),
                &next.paused,
                &next.switch_asked,
                &next.way_back,
                &i32::try_from(next.attempts).unwrap_or(i32::MAX),
                &next.error,
                &next.probation_until,
                &json(change.progress),
                &next.state.is_final(),
                &change.from.status.state.as_str(),
                &change.detail,
            ],
        )
        .await?;
    Ok(changed > 0)
}

/// What belongs to the change beyond the move's row and its event.
async fn follow(
    transaction: &SqlTransaction<'_>,
    key: TenantKey,
    change: &Transition<'_>,
) -> Result<(), TransitionError> {
    let (from, next) = (change.from, change.next);
    if let Some(command) = change.command {
        let take = "UPDATE tenantry.move_command SET taken_at = clock_timestamp() WHERE id = $1 AND move = $2";
        transaction.execute(take, &[&command, &from.id.0]).await?;
    }
    let placed = (from.status.lives_at, from.status.placement_epoch);
    if let Some(epoch) = next.placement_epoch
        && placed != (next.lives_at, next.placement_epoch)
    {
        place(transaction, key, from, next.lives_at, epoch).await?;
    }
    if next.state.is_final() {
        let refuse = "UPDATE tenantry.move_command SET taken_at = clock_timestamp(), refusal = 'the move was over' \
                      WHERE move = $1 AND taken_at IS NULL";
        transaction.execute(refuse, &[&from.id.0]).await?;
        let audit = "INSERT INTO tenantry.audit (actor, action, target_kind, target, before, after) \
                     VALUES ('rebalancer', 'move.finish', 'move', $1, $2, $3)";
        let before = json(&serde_json::json!({ "state": from.status.state }));
        let after = serde_json::json!({ "state": next.state, "lives_at": next.lives_at, "error": next.error });
        transaction
            .execute(audit, &[&from.id.to_string(), &before, &after])
            .await?;
        spare_again(transaction, from.shard(next.lives_at.other())).await?;
    }
    Ok(())
}

/// Plain data of ours always is JSON.
fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
