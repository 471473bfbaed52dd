//! Rebalancings: a plan of many moves, kept while the rebalancer makes them.
//!
//! The catalog knows nothing of how plans are made: goal, limits and summary are the planner's, as JSON. What became of
//! each planned move is not stored twice: it is read off the moves whose batch is the rebalancing.

mod types;

use serde_json::json;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use super::moves::MoveId;
use super::{Catalog, CatalogError, ring};
use crate::shard::ShardId;
use crate::tenant::{TenantId, TenantKey};

pub use types::{
    NewRebalance, NewRebalanceMove, Rebalance, RebalanceAttempt, RebalanceId, RebalanceMove,
    RebalanceState,
};

const COLUMNS: &str = "r.id, r.goal, r.shard, r.state, r.limits, r.summary, r.waiting, r.actor, r.created_at, r.finished_at";

impl Catalog {
    /// Begins a rebalancing: writes the plan, and takes away the pins that are not needed. Refused while another one of
    /// the fleet, or of the same shard, is not over.
    pub async fn begin_rebalance(&self, new: &NewRebalance<'_>) -> Result<Rebalance, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute("SET LOCAL lock_timeout = '10s'")
            .await?;
        let id = RebalanceId(Uuid::now_v7());
        let insert = "INSERT INTO tenantry.rebalance (id, goal, shard, limits, summary, actor) \
                      VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        let begun = transaction
            .execute(
                insert,
                &[
                    &id.0,
                    &new.goal,
                    &new.shard,
                    &new.limits,
                    &new.summary,
                    &new.actor,
                ],
            )
            .await?;
        if begun == 0 {
            return Err(CatalogError::Refused {
                message: match new.shard {
                    Some(_) => "the shard is being emptied already".to_owned(),
                    None => "a rebalancing is under way already".to_owned(),
                },
                hint: Some(
                    "See `tenantry rebalance status`; stop it with `tenantry rebalance stop`."
                        .to_owned(),
                ),
            });
        }
        insert_moves(&transaction, key, id, 0, &new.moves).await?;
        let unpinned = unpin(&transaction, key, &new.unpins).await?;
        let after = json!({"goal": new.goal, "moves": new.moves.len(), "unpinned": unpinned});
        let audit = "INSERT INTO tenantry.audit (actor, action, target_kind, target, after) \
                     VALUES ($1, 'rebalance.start', 'rebalance', $2, $3)";
        transaction
            .execute(audit, &[&new.actor, &id.to_string(), &after])
            .await?;
        let select = format!("SELECT {COLUMNS} FROM tenantry.rebalance r WHERE r.id = $1");
        let begun = rebalance_of(&transaction.query_one(&select, &[&id.0]).await?)?;
        transaction.commit().await?;
        Ok(begun)
    }

    /// Adds moves at the end of a running rebalancing's plan.
    pub async fn extend_rebalance(
        &self,
        id: RebalanceId,
        moves: &[NewRebalanceMove],
    ) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // Keeps another writer out, so that no place in the plan is given twice.
        let lock = "SELECT state FROM tenantry.rebalance WHERE id = $1 FOR UPDATE";
        let row = transaction.query_opt(lock, &[&id.0]).await?;
        let row = row.ok_or_else(|| CatalogError::not_found("rebalancing", id.to_string()))?;
        if row.get::<_, &str>(0) == RebalanceState::Running.as_str() {
            let last = "SELECT coalesce(max(ordinal), 0) FROM tenantry.rebalance_move WHERE rebalance = $1";
            let last: i32 = transaction.query_one(last, &[&id.0]).await?.get(0);
            insert_moves(&transaction, key, id, last, moves).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// The rebalancing of this id.
    pub async fn rebalance(&self, id: RebalanceId) -> Result<Rebalance, CatalogError> {
        let client = self.client().await?;
        let select = format!("SELECT {COLUMNS} FROM tenantry.rebalance r WHERE r.id = $1");
        let row = client.query_opt(&select, &[&id.0]).await?;
        rebalance_of(&row.ok_or_else(|| CatalogError::not_found("rebalancing", id.to_string()))?)
    }

    /// Rebalancings, newest first: all that are not over, or the last `limit`.
    pub async fn rebalances(&self, live: bool, limit: u32) -> Result<Vec<Rebalance>, CatalogError> {
        let client = self.client().await?;
        let select = format!(
            "SELECT {COLUMNS} FROM tenantry.rebalance r WHERE NOT $1 OR r.finished_at IS NULL \
             ORDER BY r.created_at DESC, r.id DESC LIMIT $2"
        );
        let rows = client.query(&select, &[&live, &i64::from(limit)]).await?;
        rows.iter().map(rebalance_of).collect()
    }

    /// The plan of a rebalancing and what became of it, in order.
    pub async fn rebalance_moves(
        &self,
        id: RebalanceId,
    ) -> Result<Vec<RebalanceMove>, CatalogError> {
        let client = self.client().await?;
        let rows = client
            .query(include_str!("sql/rebalance_moves.sql"), &[&id.0])
            .await?;
        rows.iter().map(planned_of).collect()
    }

    /// Says that a planned move is not made after all, and why.
    pub async fn skip_rebalance_move(
        &self,
        id: RebalanceId,
        ordinal: u32,
        why: &str,
    ) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let update =
            "UPDATE tenantry.rebalance_move SET skipped = $3 WHERE rebalance = $1 AND ordinal = $2";
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        client.execute(update, &[&id.0, &ordinal, &why]).await?;
        Ok(())
    }

    /// Says what a rebalancing waits for.
    pub async fn rebalance_waits(
        &self,
        id: RebalanceId,
        why: Option<&str>,
    ) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let update = "UPDATE tenantry.rebalance SET waiting = $2, updated_at = clock_timestamp() \
                      WHERE id = $1 AND waiting IS DISTINCT FROM $2";
        client.execute(update, &[&id.0, &why]).await?;
        Ok(())
    }

    /// Lets a rebalancing begin no more moves.
    pub async fn stop_rebalance(
        &self,
        id: RebalanceId,
        actor: &str,
    ) -> Result<Rebalance, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let update = format!(
            "UPDATE tenantry.rebalance r SET state = 'stopping', updated_at = clock_timestamp() \
             WHERE id = $1 AND state = 'running' RETURNING {COLUMNS}"
        );
        let Some(row) = transaction.query_opt(&update, &[&id.0]).await? else {
            let select = "SELECT state FROM tenantry.rebalance WHERE id = $1";
            let row = transaction.query_opt(select, &[&id.0]).await?;
            let row = row.ok_or_else(|| CatalogError::not_found("rebalancing", id.to_string()))?;
            return Err(CatalogError::Refused {
                message: format!("the rebalancing is {}", row.get::<_, &str>(0)),
                hint: None,
            });
        };
        let stopped = rebalance_of(&row)?;
        let audit = "INSERT INTO tenantry.audit (actor, action, target_kind, target) \
                     VALUES ($1, 'rebalance.stop', 'rebalance', $2)";
        transaction
            .execute(audit, &[&actor, &id.to_string()])
            .await?;
        transaction.commit().await?;
        Ok(stopped)
    }

    /// Ends a rebalancing. `false`: it was over.
    pub async fn finish_rebalance(
        &self,
        id: RebalanceId,
        state: RebalanceState,
    ) -> Result<bool, CatalogError> {
        let client = self.client().await?;
        let finish = "WITH ended AS ( \
                          UPDATE tenantry.rebalance SET state = $2, waiting = NULL, finished_at = clock_timestamp(), \
                                 updated_at = clock_timestamp() \
                          WHERE id = $1 AND finished_at IS NULL RETURNING id) \
                      INSERT INTO tenantry.audit (actor, action, target_kind, target, after) \
                      SELECT 'rebalancer', 'rebalance.finish', 'rebalance', id::text, jsonb_build_object('state', $2::text) \
                      FROM ended";
        Ok(client.execute(finish, &[&id.0, &state.as_str()]).await? > 0)
    }
}

async fn insert_moves(
    transaction: &Transaction<'_>,
    key: TenantKey,
    id: RebalanceId,
    after: i32,
    moves: &[NewRebalanceMove],
) -> Result<(), CatalogError> {
    let insert = "INSERT INTO tenantry.rebalance_move (rebalance, ordinal, tenant, source, destination, bytes, busy, why) \
                  VALUES ($1, $2, $3::text::tenantry.tenant_key, $4, $5, $6, $7::float8::real, $8)";
    let insert = transaction.prepare(insert).await?;
    for (ordinal, planned) in (after.saturating_add(1)..).zip(moves) {
        let tenant = planned.tenant.display(key).to_string();
        let bytes = planned
            .bytes
            .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let (source, destination) = (&planned.source, &planned.destination);
        transaction
            .execute(
                &insert,
                &[
                    &id.0,
                    &ordinal,
                    &tenant,
                    source,
                    destination,
                    &bytes,
                    &planned.busy,
                    &planned.why,
                ],
            )
            .await?;
    }
    Ok(())
}

/// Takes away those of these tenants' pins that are not an operator's and say what the ring says. Nobody moves.
async fn unpin(
    transaction: &Transaction<'_>,
    key: TenantKey,
    tenants: &[TenantId],
) -> Result<u64, CatalogError> {
    if tenants.is_empty() {
        return Ok(0);
    }
    // The ring must not change between the look and the deed.
    transaction
        .batch_execute("SELECT FROM tenantry.ring FOR SHARE")
        .await?;
    let ring = ring::ring(transaction).await?;
    let placed: Vec<(String, ShardId)> = tenants
        .iter()
        .filter_map(|id| Some((id.display(key).to_string(), ring.shard_of(*id)?)))
        .collect();
    let (ids, shards): (Vec<String>, Vec<ShardId>) = placed.into_iter().unzip();
    let delete = "DELETE FROM tenantry.pin p \
                  USING unnest($1::text[], $2::smallint[]) AS u (tenant, shard) \
                  WHERE p.tenant = u.tenant::tenantry.tenant_key AND p.shard = u.shard AND p.reason IN ('ring', 'move')";
    Ok(transaction.execute(delete, &[&ids, &shards]).await?)
}

fn rebalance_of(row: &Row) -> Result<Rebalance, CatalogError> {
    let id = RebalanceId(row.get(0));
    let state: &str = row.get(3);
    let state = state.parse();
    Ok(Rebalance {
        id,
        goal: row.get(1),
        shard: row.get(2),
        state: state.map_err(|cause| CatalogError::row("rebalance", id.to_string(), cause))?,
        limits: row.get(4),
        summary: row.get(5),
        waiting: row.get(6),
        actor: row.get(7),
        created_at: row.get(8),
        finished_at: row.get(9),
    })
}

fn planned_of(row: &Row) -> Result<RebalanceMove, CatalogError> {
    let attempts: i64 = row.get(9);
    let last: Option<Uuid> = row.get(10);
    let attempt = |id: Uuid| -> Result<RebalanceAttempt, CatalogError> {
        let state: &str = row.get(11);
        let state = state.parse();
        Ok(RebalanceAttempt {
            id: MoveId(id),
            state: state.map_err(|cause| CatalogError::row("move", id.to_string(), cause))?,
            error: row.get(12),
            finished_at: row.get(13),
        })
    };
    Ok(RebalanceMove {
        ordinal: row.get::<_, i32>(0).unsigned_abs(),
        tenant: row.get(1),
        slug: row.get(2),
        source: row.get(3),
        destination: row.get(4),
        bytes: row.get::<_, Option<i64>>(5).map(i64::unsigned_abs),
        busy: row.get(6),
        why: row.get(7),
        skipped: row.get(8),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        last: last.map(attempt).transpose()?,
    })
}
