//! Isolation of hot tenants: the policy, what was decided by it, and what it looks at.
//!
//! What the policy means is the rebalancer's; here it is JSON of which only that it is an object is known.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use super::moves::MoveId;
use super::{Catalog, CatalogError};
use crate::pin::PinReason;
use crate::shard::ShardId;
use crate::tenant::{Isolation, TenantId, TenantState};

/// Who asks for the moves that the policy makes.
pub const ISOLATION_ACTOR: &str = "isolation-policy";

/// A tenant that is hot, or that was isolated, and what stands in a move's way.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedTenant {
    /// Its id.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// Its state.
    pub state: TenantState,
    /// Its isolation.
    pub isolation: Isolation,
    /// Where it is pinned, and why.
    pub pin: Option<(ShardId, PinReason)>,
    /// When it was pinned.
    pub pinned_at: Option<Timestamp>,
    /// Since when it is hot, and the evidence.
    pub hot: Option<(Timestamp, Value)>,
    /// When it cooled last.
    pub cooled_at: Option<Timestamp>,
    /// What its rows take, if that was measured.
    pub bytes: Option<u64>,
    /// Whether a move of it is not over.
    pub is_moving: bool,
    /// When a move of it was over last.
    pub moved_at: Option<Timestamp>,
    /// Whether the policy asked for the last move of it that began with an isolation.
    pub is_automatic: bool,
}

/// A decision to record.
#[derive(Debug, Clone, PartialEq)]
pub struct NewIsolationEvent<'a> {
    /// About whom.
    pub tenant: TenantId,
    /// Where it lives.
    pub shard: ShardId,
    /// `isolate`, `relieve`, `return` or `wait`.
    pub act: &'a str,
    /// To where.
    pub destination: Option<ShardId>,
    /// `recommend` or `act`.
    pub mode: &'a str,
    /// The move that was planned for it.
    pub planned: Option<MoveId>,
    /// The rule that decided.
    pub rule: &'a str,
    /// Why, in words.
    pub why: &'a str,
}

/// A decision as it was recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IsolationEvent {
    /// Its place.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// About whom.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// Where it lived.
    pub shard: ShardId,
    /// `isolate`, `relieve`, `return` or `wait`.
    pub act: String,
    /// To where.
    pub destination: Option<ShardId>,
    /// `recommend` or `act`.
    pub mode: String,
    /// The move that was planned for it.
    pub planned: Option<MoveId>,
    /// The rule that decided.
    pub rule: String,
    /// Why, in words.
    pub why: String,
}

impl Catalog {
    /// The policy: what differs from the rebalancer's defaults.
    pub async fn isolation_policy(&self) -> Result<Value, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT policy FROM tenantry.isolation_policy";
        Ok(client
            .query_opt(select, &[])
            .await?
            .map_or_else(|| json!({}), |row| row.get(0)))
    }

    /// Replaces the policy.
    pub async fn set_isolation_policy(
        &self,
        policy: &Value,
        actor: &str,
    ) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let upsert = "WITH old AS (SELECT policy FROM tenantry.isolation_policy), written AS ( \
                          INSERT INTO tenantry.isolation_policy AS p (policy) VALUES ($1) \
                          ON CONFLICT (only_row) DO UPDATE SET policy = excluded.policy, updated_at = clock_timestamp()) \
                      INSERT INTO tenantry.audit (actor, action, target_kind, target, before, after) \
                      VALUES ($2, 'isolation.policy', 'policy', 'isolation', (SELECT policy FROM old), $1)";
        client.execute(upsert, &[policy, &actor]).await?;
        Ok(())
    }

    /// The tenants that are hot, and those that have a shard of their own for having been.
    pub async fn watched_tenants(&self) -> Result<Vec<WatchedTenant>, CatalogError> {
        let client = self.client().await?;
        let select = include_str!("sql/watched_tenants.sql");
        let rows = client.query(select, &[&ISOLATION_ACTOR]).await?;
        rows.iter().map(watched_of).collect()
    }

    /// How many tenants are pinned to each shard or on the way to it. Shards of the ring have others besides.
    pub async fn pinned_tenants(&self) -> Result<Vec<(ShardId, u64)>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT shard, count(DISTINCT tenant) FROM ( \
                          SELECT shard, tenant FROM tenantry.pin \
                          UNION ALL \
                          SELECT destination, tenant FROM tenantry.move WHERE finished_at IS NULL \
                          UNION ALL \
                          SELECT source, tenant FROM tenantry.move WHERE finished_at IS NULL) p \
                      GROUP BY shard ORDER BY shard";
        let rows = client.query(select, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs()))
            .collect())
    }

    /// Records a decision.
    pub async fn record_isolation(
        &self,
        event: &NewIsolationEvent<'_>,
    ) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let client = self.client().await?;
        let insert = "INSERT INTO tenantry.isolation_event (tenant, shard, act, destination, mode, move, rule, why) \
                      SELECT t.id, $2, $3, $4, $5, $6, $7, $8 FROM tenantry.tenant t \
                      WHERE t.id = $1::text::tenantry.tenant_key";
        let tenant = event.tenant.display(key).to_string();
        let planned = event.planned.map(|id| id.0);
        client
            .execute(
                insert,
                &[
                    &tenant,
                    &event.shard,
                    &event.act,
                    &event.destination,
                    &event.mode,
                    &planned,
                    &event.rule,
                    &event.why,
                ],
            )
            .await?;
        Ok(())
    }

    /// What was decided, newest first.
    pub async fn isolation_events(&self, limit: u32) -> Result<Vec<IsolationEvent>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT e.id, e.at, e.tenant, t.slug, e.shard, e.act, e.destination, e.mode, e.move, e.rule, e.why \
                      FROM tenantry.isolation_event e JOIN tenantry.tenant t ON t.id = e.tenant \
                      ORDER BY e.id DESC LIMIT $1";
        let rows = client.query(select, &[&i64::from(limit)]).await?;
        Ok(rows.iter().map(event_of).collect())
    }
}

fn event_of(row: &Row) -> IsolationEvent {
    IsolationEvent {
        id: row.get(0),
        at: row.get(1),
        tenant: row.get(2),
        slug: row.get(3),
        shard: row.get(4),
        act: row.get(5),
        destination: row.get(6),
        mode: row.get(7),
        planned: row.get::<_, Option<Uuid>>(8).map(MoveId),
        rule: row.get(9),
        why: row.get(10),
    }
}

fn watched_of(row: &Row) -> Result<WatchedTenant, CatalogError> {
    let slug: String = row.get(1);
    let wrong = |cause| CatalogError::row("tenant", &slug, cause);
    let (state, isolation): (&str, &str) = (row.get(2), row.get(3));
    let (shard, reason): (Option<ShardId>, Option<&str>) = (row.get(4), row.get(5));
    let reason = reason
        .map(str::parse::<PinReason>)
        .transpose()
        .map_err(wrong)?;
    let (since, evidence): (Option<Timestamp>, Option<Value>) = (row.get(7), row.get(8));
    Ok(WatchedTenant {
        tenant: row.get(0),
        state: state.parse().map_err(wrong)?,
        isolation: isolation.parse().map_err(wrong)?,
        pin: shard.zip(reason),
        pinned_at: row.get(6),
        hot: since.zip(evidence),
        cooled_at: row.get(9),
        bytes: row.get::<_, Option<i64>>(10).map(i64::unsigned_abs),
        is_moving: row.get(11),
        moved_at: row.get(12),
        is_automatic: row.get(13),
        slug,
    })
}
