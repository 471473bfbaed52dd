//! The one router that looks for hot tenants: feeds the detector with what all routers told, records what it finds.
//!
//! Which router that is, a lock in the catalog decides; when its connection ends another takes over, and knows from the
//! catalog who is hot.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::Value;
use tenantry_schema::catalog::{Catalog, CatalogError, HeatChange, MergedShard};
use tenantry_schema::fleet::Fleet;
use tenantry_schema::shard::{ShardId, ShardKind};
use tenantry_schema::tenant::TenantId;

use super::heat::{Heat, HeatLimits, ShardSample, TenantSample, Verdict};
use crate::router::Router;

/// Tenants of each shard that are looked at; who is hot is among them.
const LOOKED_AT: u32 = 256;

/// What is known while this router is the one.
#[derive(Debug, Default)]
pub(super) struct Watch {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    looked: Instant,
    shards: HashMap<ShardId, Heat<TenantId>>,
    /// Found, and not recorded yet.
    unrecorded: Vec<HeatChange>,
}

impl Watch {
    /// Looks, if it is this router's part.
    pub(super) async fn turn(
        &mut self,
        catalog: &Catalog,
        router: &Router,
    ) -> Result<(), CatalogError> {
        if !catalog.watches_heat().await? {
            self.held = None;
            return Ok(());
        }
        let merged = catalog.merged_shards(LOOKED_AT).await?;
        let held = match &mut self.held {
            Some(held) => held,
            None => self.held.insert(Held::begin(catalog).await?),
        };
        let limits = HeatLimits::of(&router.config().hot);
        held.look(merged, &router.fleet.current(), &limits);
        // Kept until the catalog has it.
        catalog.record_heat(&held.unrecorded).await?;
        held.unrecorded.clear();
        Ok(())
    }
}

impl Held {
    async fn begin(catalog: &Catalog) -> Result<Self, CatalogError> {
        let mut shards: HashMap<ShardId, Heat<TenantId>> = HashMap::new();
        for hot in catalog.hot_tenants().await? {
            shards.entry(hot.shard).or_default().adopt(hot.tenant);
        }
        tracing::info!("this router looks for hot tenants");
        Ok(Self {
            looked: Instant::now(),
            shards,
            unrecorded: Vec::new(),
        })
    }

    fn look(&mut self, merged: Vec<MergedShard>, fleet: &Fleet, limits: &HeatLimits) {
        let now = Instant::now();
        let seconds = (now - std::mem::replace(&mut self.looked, now)).as_secs_f64();
        self.follow_moves(fleet);
        self.shards
            .retain(|shard, _| fleet.shards.contains_key(shard));
        for load in merged {
            let Some(shard) = fleet.shard(load.shard) else {
                continue;
            };
            let tenants = load.tenants.into_iter();
            let sample = ShardSample {
                seconds,
                busy: load.busy * seconds,
                tenants: tenants
                    .map(|(tenant, busy, transactions)| TenantSample {
                        tenant,
                        busy: busy * seconds,
                        transactions: transactions * seconds,
                    })
                    .collect(),
                is_dedicated: shard.kind == ShardKind::Dedicated,
            };
            let heat = self.shards.entry(load.shard).or_default();
            for verdict in heat.step(sample, limits) {
                tell(&verdict, &shard.name.to_string(), fleet);
                self.unrecorded.push(HeatChange {
                    tenant: verdict.tenant,
                    shard: load.shard,
                    is_hot: verdict.is_hot,
                    evidence: serde_json::to_value(&verdict).unwrap_or(Value::Null),
                });
            }
        }
    }

    /// Who was hot where it lived is hot where it lives.
    fn follow_moves(&mut self, fleet: &Fleet) {
        let mut moved = Vec::new();
        for (shard, heat) in &mut self.shards {
            let hot: Vec<TenantId> = heat.hot().collect();
            for tenant in hot {
                let record = fleet.directory.by_id(tenant);
                let now = record.and_then(|record| fleet.place(&record));
                match now {
                    Some(placement) if placement.shard == *shard => {}
                    Some(placement) => {
                        heat.forget_tenant(tenant);
                        moved.push((placement.shard, tenant));
                    }
                    None => {
                        heat.forget_tenant(tenant);
                    }
                }
            }
        }
        for (shard, tenant) in moved {
            self.shards.entry(shard).or_default().adopt(tenant);
        }
    }
}

fn tell(verdict: &Verdict<TenantId>, shard: &str, fleet: &Fleet) {
    let tenant = verdict.tenant.display(fleet.settings.tenant_key);
    let (share, busy) = (verdict.share, verdict.busy);
    if verdict.is_hot {
        tracing::warn!(%tenant, shard, share, busy, why = ?verdict.why, "a tenant is hot");
    } else {
        tracing::info!(%tenant, shard, share, busy, "a tenant is cold again");
    }
}
