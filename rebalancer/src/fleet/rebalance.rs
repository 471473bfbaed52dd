//! Makes rebalancings: begins their moves within the limits, tries again what failed, plans anew while a shard that is
//! being emptied is not empty, and says what it waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tenantry_schema::catalog::moves::{
    Move, MoveFilter, MoveKind, MovePolicy, MoveState, NewMove, Side,
};
use tenantry_schema::catalog::{
    Catalog, CatalogError, NewRebalance, NewRebalanceMove, Rebalance, RebalanceId, RebalanceMove,
    RebalanceState,
};
use tenantry_schema::ring::Ring;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

use super::{FleetError, inventory};
use crate::plan::{Goal, Inventory, Limits, LiveMove, Plan, Waiting, count, next_moves, plan};

/// How often a planned move is begun before it is given up.
const ATTEMPTS_MAX: u32 = 3;
/// How long after a failure it is begun again, for each failure before.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// Between two plans for a shard that is not empty yet: they read the whole fleet.
const REPLAN_EVERY: Duration = Duration::from_secs(15);
/// Who asks for the moves.
const ACTOR: &str = "rebalancer";

/// Writes a plan into the catalog as a rebalancing, for the rebalancer to make.
pub async fn begin(
    catalog: &Catalog,
    plan: &Plan,
    limits: &Limits,
    actor: &str,
) -> Result<Rebalance, CatalogError> {
    let new = NewRebalance {
        goal: json!(plan.goal),
        shard: emptied(plan.goal),
        limits: json!(limits),
        summary: json!({"shards": plan.shards, "left": plan.left, "bytes": plan.bytes()}),
        moves: planned_moves(plan),
        unpins: plan.unpins.clone(),
        actor,
    };
    catalog.begin_rebalance(&new).await
}

/// The moves of a plan as the catalog keeps them.
pub fn planned_moves(plan: &Plan) -> Vec<NewRebalanceMove> {
    let moves = plan.moves.iter().map(|planned| NewRebalanceMove {
        tenant: planned.tenant,
        source: planned.source,
        destination: planned.destination,
        bytes: planned.bytes,
        busy: planned.busy,
        why: planned.why.clone(),
    });
    moves.collect()
}

/// What the ring would say without this shard: a plan to empty it can be shown before it leaves the ring.
pub fn drained_ring(inventory: &mut Inventory, ring: &Ring, shard: ShardId) {
    let others = ring.members().iter().filter(|member| member.shard != shard);
    let without = Ring::new(others.map(|member| (member.shard, member.weight)));
    for tenant in &mut inventory.tenants {
        tenant.ring = without.shard_of(tenant.tenant);
    }
}

fn emptied(goal: Goal) -> Option<ShardId> {
    match goal {
        Goal::Drain(shard) => Some(shard),
        Goal::Balance | Goal::Pins | Goal::Even => None,
    }
}

/// Where a planned move is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Ready,
    /// It failed and is begun again, not before then.
    Retry(Timestamp, String),
    UnderWay,
    Over,
    Failed,
}

fn stage(planned: &RebalanceMove) -> Stage {
    if planned.skipped.is_some() {
        return Stage::Over;
    }
    let Some(last) = &planned.last else {
        return Stage::Ready;
    };
    let Some(finished_at) = last.finished_at else {
        return Stage::UnderWay;
    };
    match last.state {
        MoveState::Done => Stage::Over,
        // An operator took it back, and would not thank for another attempt.
        MoveState::RolledBack => Stage::Failed,
        _ if planned.attempts >= ATTEMPTS_MAX => Stage::Failed,
        _ => {
            let attempts = i32::try_from(planned.attempts).unwrap_or(i32::MAX);
            let why = last.error.clone().unwrap_or_else(|| last.state.to_string());
            Stage::Retry(finished_at + RETRY_AFTER * attempts, why)
        }
    }
}

/// What is remembered between two looks; losing it costs nothing but an early plan.
#[derive(Debug, Default)]
pub struct Rebalancing {
    replanned: BTreeMap<RebalanceId, Instant>,
}

impl Rebalancing {
    /// Brings every rebalancing that is not over one step on.
    pub async fn advance(&mut self, catalog: &Catalog) -> Result<(), FleetError> {
        let mut live = catalog.rebalances(true, u32::MAX).await?;
        self.replanned
            .retain(|id, _| live.iter().any(|rebalance| rebalance.id == *id));
        if live.is_empty() {
            return Ok(());
        }
        let moves = catalog.moves(&MoveFilter::live()).await?;
        let mut under_way: Vec<LiveMove> = moves.iter().map(live_move).collect();
        // The oldest first: it has waited longest.
        live.reverse();
        for rebalance in &live {
            self.step(catalog, rebalance, &mut under_way).await?;
        }
        Ok(())
    }

    async fn step(
        &mut self,
        catalog: &Catalog,
        rebalance: &Rebalance,
        under_way: &mut Vec<LiveMove>,
    ) -> Result<(), FleetError> {
        let id = rebalance.id;
        let limits: Limits = understood(rebalance.limits.clone(), || {
            format!("limits of rebalancing {id}")
        })?;
        let goal: Goal = understood(rebalance.goal.clone(), || {
            format!("goal of rebalancing {id}")
        })?;
        let planned = catalog.rebalance_moves(id).await?;
        let stages: Vec<Stage> = planned.iter().map(stage).collect();
        let has = |wanted: fn(&Stage) -> bool| stages.iter().any(wanted);
        if rebalance.state == RebalanceState::Stopping {
            if has(|stage| *stage == Stage::UnderWay) {
                let why = "the moves that are under way";
                return Ok(catalog.rebalance_waits(id, Some(why)).await?);
            }
            catalog
                .finish_rebalance(id, RebalanceState::Stopped)
                .await?;
            return Ok(());
        }
        let now = Timestamp::now();
        let ready = planned
            .iter()
            .zip(&stages)
            .filter(|(_, stage)| match stage {
                Stage::Ready => true,
                Stage::Retry(at, _) => *at <= now,
                _ => false,
            });
        let ready: Vec<&RebalanceMove> = ready.map(|(planned, _)| planned).collect();
        let mut begun = 0;
        let mut refusal = None;
        for index in next_moves(
            ready.iter().map(|planned| waiting(planned)),
            under_way,
            &limits,
        ) {
            match begin_move(catalog, rebalance, ready[index], &limits).await? {
                Begun::Yes => {
                    under_way.push(LiveMove {
                        tenant: ready[index].tenant,
                        source: ready[index].source,
                        destination: ready[index].destination,
                        arrived: false,
                    });
                    begun += 1;
                }
                Begun::Skipped => begun += 1,
                Begun::Later(why) => refusal = Some(why),
            }
        }
        if begun > 0 || has(|stage| *stage == Stage::UnderWay) || !ready.is_empty() {
            let left = ready.len() - begun;
            let why = refusal.or_else(|| {
                (left > 0)
                    .then(|| format!("{} for a free place on their shards", count(left, "move")))
            });
            return Ok(catalog.rebalance_waits(id, why.as_deref()).await?);
        }
        if let Some(why) = first_retry(&stages) {
            return Ok(catalog.rebalance_waits(id, Some(&why)).await?);
        }
        self.finish(catalog, rebalance, goal, &limits, &planned, &stages)
            .await
    }

    /// All planned moves are over, one way or the other.
    async fn finish(
        &mut self,
        catalog: &Catalog,
        rebalance: &Rebalance,
        goal: Goal,
        limits: &Limits,
        planned: &[RebalanceMove],
        stages: &[Stage],
    ) -> Result<(), FleetError> {
        let id = rebalance.id;
        let failed = planned
            .iter()
            .zip(stages)
            .filter(|(_, stage)| **stage == Stage::Failed);
        let failed: BTreeSet<TenantId> = failed.map(|(planned, _)| planned.tenant).collect();
        let over = if failed.is_empty() {
            RebalanceState::Done
        } else {
            RebalanceState::Failed
        };
        if emptied(goal).is_none() {
            catalog.finish_rebalance(id, over).await?;
            return Ok(());
        }
        if self
            .replanned
            .get(&id)
            .is_some_and(|at| at.elapsed() < REPLAN_EVERY)
        {
            return Ok(());
        }
        self.replanned.insert(id, Instant::now());
        let mut again = plan(&inventory(catalog).await?, goal, limits);
        again
            .moves
            .retain(|planned| !failed.contains(&planned.tenant));
        if !again.moves.is_empty() {
            let more = planned_moves(&again);
            tracing::info!(%id, moves = more.len(), "a shard that is being emptied has tenants left; more moves are planned");
            // The next look is at what is planned now.
            self.replanned.remove(&id);
            return Ok(catalog.extend_rebalance(id, &more).await?);
        }
        match again.left.first() {
            Some(left) => {
                let why = format!(
                    "{} left on the shard: {}",
                    count(again.left.len(), "tenant"),
                    left.why
                );
                catalog.rebalance_waits(id, Some(&why)).await?;
            }
            None => {
                catalog.finish_rebalance(id, over).await?;
            }
        }
        Ok(())
    }
}

fn live_move(live: &Move) -> LiveMove {
    let arrived = live.status.lives_at == Side::Destination
        && matches!(
            live.status.state,
            MoveState::Probation | MoveState::Cleaning
        );
    LiveMove {
        tenant: live.tenant,
        source: live.source,
        destination: live.destination,
        arrived,
    }
}

fn waiting(planned: &RebalanceMove) -> Waiting {
    Waiting {
        tenant: planned.tenant,
        source: planned.source,
        destination: planned.destination,
    }
}

/// The next attempt, in words.
fn first_retry(stages: &[Stage]) -> Option<String> {
    let retries = stages.iter().filter_map(|stage| match stage {
        Stage::Retry(at, why) => Some((at, why)),
        _ => None,
    });
    let (at, why) = retries.min()?;
    let at = at.strftime("%H:%M:%S");
    Some(format!(
        "another attempt at {at} UTC of a move that failed: {why}"
    ))
}

#[derive(Debug)]
enum Begun {
    Yes,
    Skipped,
    /// Not now, and why.
    Later(String),
}

async fn begin_move(
    catalog: &Catalog,
    rebalance: &Rebalance,
    planned: &RebalanceMove,
    limits: &Limits,
) -> Result<Begun, FleetError> {
    let new = NewMove {
        tenant: planned.tenant,
        destination: planned.destination,
        kind: match rebalance.shard {
            Some(_) => MoveKind::Drain,
            None => MoveKind::Rebalance,
        },
        reason: Some(&planned.why),
        actor: ACTOR,
        batch: Some(rebalance.id.0),
        policy: MovePolicy {
            probation_s: Some(limits.probation_s),
            ..MovePolicy::default()
        },
    };
    // What was planned for one shard is not made from another.
    let tenant = match catalog.tenant_by_id(planned.tenant).await {
        Ok(tenant) => tenant,
        Err(CatalogError::NotFound { .. }) => {
            return skip(catalog, rebalance, planned, "the tenant is gone").await;
        }
        Err(error) => return Err(error.into()),
    };
    let home = catalog
        .locate(&tenant)
        .await?
        .map(|placement| placement.shard);
    if home == Some(planned.destination) {
        return skip(catalog, rebalance, planned, "it lives there already").await;
    }
    if home != Some(planned.source) {
        return skip(catalog, rebalance, planned, "it has moved elsewhere since").await;
    }
    match catalog.create_move(&new).await {
        Ok(_) => Ok(Begun::Yes),
        Err(CatalogError::AlreadyExists(why)) => Ok(Begun::Later(why)),
        Err(CatalogError::Refused { message, .. }) => {
            if catalog.live_move_of(planned.tenant).await?.is_some() {
                Ok(Begun::Later(format!(
                    "another move of {} is under way",
                    planned.slug
                )))
            } else {
                skip(catalog, rebalance, planned, &message).await
            }
        }
        Err(CatalogError::NotFound { what, key }) => {
            skip(
                catalog,
                rebalance,
                planned,
                &format!("{what} {key} is gone"),
            )
            .await
        }
        Err(error) => Err(error.into()),
    }
}

async fn skip(
    catalog: &Catalog,
    rebalance: &Rebalance,
    planned: &RebalanceMove,
    why: &str,
) -> Result<Begun, FleetError> {
    tracing::info!(tenant = planned.slug, why, "a planned move is not made");
    catalog
        .skip_rebalance_move(rebalance.id, planned.ordinal, why)
        .await?;
    Ok(Begun::Skipped)
}

fn understood<T: serde::de::DeserializeOwned>(
    value: serde_json::Value,
    what: impl FnOnce() -> String,
) -> Result<T, FleetError> {
    serde_json::from_value(value).map_err(|source| FleetError::NotUnderstood {
        what: what(),
        source,
    })
}
