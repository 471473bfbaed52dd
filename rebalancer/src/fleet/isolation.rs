//! Follows the isolation policy: looks at hot and isolated tenants each second, records what is decided, and plans the moves
//! where the policy says so.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use tenantry_schema::catalog::moves::{MoveFilter, MoveKind, MoveState, NewMove};
use tenantry_schema::catalog::{
    Catalog, CatalogError, ISOLATION_ACTOR, MergedShard, NewIsolationEvent, WatchedTenant,
};
use tenantry_schema::pin::PinReason;
use tenantry_schema::ring::Ring;
use tenantry_schema::shard::{ShardId, ShardKind};
use tenantry_schema::tenant::TenantId;

use super::FleetError;
use super::inventory::{entry, hindrance};
use crate::policy::{
    Act, Decision, HotTenant, IsolatedTenant, Mode, Policy, Rule, ShardNow, Situation, decide,
};

/// Tenants of each shard whose load is looked at: the busiest.
const LOOKED_AT: u32 = 50;

/// What was decided last about each tenant, so that the same is not recorded each second.
#[derive(Debug, Default)]
pub struct Isolation {
    defaults: Policy,
    last: BTreeMap<TenantId, (Act, Rule, Mode)>,
}

impl Isolation {
    /// Follows this policy, as far as the catalog says nothing else.
    pub fn new(defaults: Policy) -> Self {
        Self {
            defaults,
            ..Self::default()
        }
    }

    /// Looks, decides, records, and plans moves where the policy says so.
    pub async fn advance(&mut self, catalog: &Catalog) -> Result<(), FleetError> {
        let policy = policy(&self.defaults, catalog.isolation_policy().await?)?;
        if policy.mode == Mode::Off {
            self.last.clear();
            return Ok(());
        }
        let watched = catalog.watched_tenants().await?;
        if watched.is_empty() {
            self.last.clear();
            return Ok(());
        }
        let situation = situation(catalog, &watched).await?;
        let decisions = decide(&policy, &situation);
        self.last
            .retain(|id, _| decisions.iter().any(|decision| decision.tenant == *id));
        for decision in &decisions {
            self.follow(catalog, policy.mode, decision).await?;
        }
        Ok(())
    }

    async fn follow(
        &mut self,
        catalog: &Catalog,
        mode: Mode,
        decision: &Decision,
    ) -> Result<(), FleetError> {
        let now = (decision.act, decision.rule, mode);
        if self.last.get(&decision.tenant) == Some(&now) {
            return Ok(());
        }
        let planned = match (mode, decision.act.destination()) {
            (Mode::Act, Some(to)) => match plan(catalog, decision, to).await {
                Ok(id) => Some(id),
                // Somebody was faster: the next look sees what has become of it.
                Err(error @ (CatalogError::Refused { .. } | CatalogError::AlreadyExists(_))) => {
                    tracing::info!(tenant = decision.slug, %error, "a hot tenant is not moved after all");
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            },
            _ => None,
        };
        let (act, why) = (decision.act.as_str(), &*decision.why);
        tracing::info!(
            tenant = decision.slug,
            act,
            why,
            "decided by the isolation policy"
        );
        let event = NewIsolationEvent {
            tenant: decision.tenant,
            shard: decision.shard,
            act,
            destination: decision.act.destination(),
            mode: if mode == Mode::Act {
                "act"
            } else {
                "recommend"
            },
            planned,
            rule: decision.rule.as_str(),
            why,
        };
        catalog.record_isolation(&event).await?;
        self.last.insert(decision.tenant, now);
        Ok(())
    }
}

/// The policy with what the catalog says of it.
fn policy(defaults: &Policy, said: Value) -> Result<Policy, FleetError> {
    let not_understood = |source| FleetError::NotUnderstood {
        what: "the isolation policy".to_owned(),
        source,
    };
    let mut value = serde_json::to_value(defaults).map_err(not_understood)?;
    if let (Value::Object(value), Value::Object(said)) = (&mut value, said) {
        value.extend(said);
    }
    let policy: Policy = serde_json::from_value(value).map_err(not_understood)?;
    policy.check()?;
    Ok(policy)
}

async fn plan(
    catalog: &Catalog,
    decision: &Decision,
    to: ShardId,
) -> Result<tenantry_schema::catalog::moves::MoveId, CatalogError> {
    let new = NewMove {
        kind: match decision.act {
            Act::Isolate { .. } => MoveKind::Isolate,
            Act::Relieve { .. } => MoveKind::Rebalance,
            Act::Return { .. } | Act::Wait => MoveKind::Move,
        },
        reason: Some(&decision.why),
        ..NewMove::new(decision.tenant, to, ISOLATION_ACTOR)
    };
    Ok(catalog.create_move(&new).await?.id)
}

async fn situation(
    catalog: &Catalog,
    watched: &[WatchedTenant],
) -> Result<Situation, CatalogError> {
    let loads = catalog.merged_shards(LOOKED_AT).await?;
    let pinned: BTreeMap<ShardId, u64> = catalog.pinned_tenants().await?.into_iter().collect();
    let shards = catalog.list_shards().await?;
    let ring = catalog.ring().await?;
    let live = catalog.moves(&MoveFilter::live()).await?;
    let working = live.iter().filter(|live| {
        let settled = matches!(
            live.status.state,
            MoveState::Probation | MoveState::Cleaning
        );
        live.actor == ISOLATION_ACTOR && !settled
    });
    let load_of = |shard| loads.iter().find(|load| load.shard == shard);
    let shards = shards.iter().map(|shard| {
        let load = load_of(shard.id);
        let tenants = match shard.kind {
            ShardKind::Shared => load.map_or(0, |load| load.tenants.len()),
            ShardKind::Dedicated | ShardKind::Spare => {
                let pinned = pinned.get(&shard.id).copied().unwrap_or_default();
                usize::try_from(pinned).unwrap_or(usize::MAX)
            }
        };
        ShardNow {
            entry: entry(shard),
            busy: load.map_or(0.0, |load| load.busy),
            tenants,
        }
    });
    let mut situation = Situation {
        now: Timestamp::now(),
        shards: shards.collect(),
        hot: Vec::new(),
        isolated: Vec::new(),
        under_way: working.count(),
    };
    for tenant in watched {
        sort_in(&mut situation, tenant, &ring, &loads);
    }
    Ok(situation)
}

/// Puts a tenant among the isolated or the hot.
fn sort_in(situation: &mut Situation, tenant: &WatchedTenant, ring: &Ring, loads: &[MergedShard]) {
    let Some(shard) = tenant
        .pin
        .map(|(shard, _)| shard)
        .or_else(|| ring.shard_of(tenant.tenant))
    else {
        return;
    };
    let load = loads.iter().find(|load| load.shard == shard);
    let busy = load.and_then(|load| load.tenants.iter().find(|(id, ..)| *id == tenant.tenant));
    let busy = busy.map_or(0.0, |(_, busy, _)| *busy);
    let obstacle = hindrance(tenant.is_moving, tenant.state, tenant.isolation);
    let is_on_its_way = tenant.is_moving && tenant.is_automatic;
    let is_isolated = tenant
        .pin
        .is_some_and(|(_, reason)| reason == PinReason::Isolate);
    if is_isolated || (is_on_its_way && tenant.hot.is_none()) {
        situation.isolated.push(IsolatedTenant {
            tenant: tenant.tenant,
            slug: tenant.slug.clone(),
            shard,
            is_automatic: tenant.is_automatic,
            cold_since: match tenant.hot {
                Some(_) => None,
                None => tenant.cooled_at.max(tenant.pinned_at),
            },
            busy,
            ring: ring.shard_of(tenant.tenant),
            moved_at: tenant.moved_at,
            obstacle,
        });
    } else if let Some((since, evidence)) = &tenant.hot {
        let all = load.map_or(0.0, |load| load.busy);
        let share = if all > 0.0 {
            (busy / all).min(1.0)
        } else {
            0.0
        };
        // A tenant that is held up by its shard's load may show less of it now than when it was found.
        let found = |name: &str| {
            evidence
                .get(name)
                .and_then(Value::as_f64)
                .unwrap_or_default()
        };
        let is_told = busy > 0.0;
        situation.hot.push(HotTenant {
            tenant: tenant.tenant,
            slug: tenant.slug.clone(),
            shard,
            since: *since,
            share: if is_told { share } else { found("share") },
            busy: if is_told { busy } else { found("busy") },
            bytes: tenant.bytes,
            pin: tenant.pin.map(|(_, reason)| reason),
            moved_at: tenant.moved_at,
            obstacle,
        });
    }
}
