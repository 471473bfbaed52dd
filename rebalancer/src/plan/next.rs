//! Which of the planned moves may start now.

use std::collections::{BTreeMap, BTreeSet};

use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

use super::{Limits, PlannedMove};

/// A move that is under way, whoever asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveMove {
    /// Who moves.
    pub tenant: TenantId,
    /// From where.
    pub source: ShardId,
    /// To where.
    pub destination: ShardId,
    /// Whether the tenant has arrived, so that only the way back and the cleaning are left.
    pub arrived: bool,
}

/// A planned move that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Who is to move.
    pub tenant: TenantId,
    /// From where.
    pub source: ShardId,
    /// To where.
    pub destination: ShardId,
}

impl From<&PlannedMove> for Waiting {
    fn from(planned: &PlannedMove) -> Self {
        Self {
            tenant: planned.tenant,
            source: planned.source,
            destination: planned.destination,
        }
    }
}

/// Moves on one shard.
#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    working: usize,
    open: usize,
}

/// The places in `planned` of those that may start beside what is under way, in the plan's order: a move that has to
/// wait for its shards lets later ones pass.
pub fn next_moves(
    planned: impl IntoIterator<Item = Waiting>,
    live: &[LiveMove],
    limits: &Limits,
) -> Vec<usize> {
    let mut at: BTreeMap<ShardId, Crowd> = BTreeMap::new();
    for live in live {
        for shard in [live.source, live.destination] {
            let crowd = at.entry(shard).or_default();
            crowd.open += 1;
            crowd.working += usize::from(!live.arrived);
        }
    }
    let working = live.iter().filter(|live| !live.arrived).count();
    let mut free = limits.at_once_max.saturating_sub(working);
    let mut chosen: Vec<usize> = Vec::new();
    let mut moving: BTreeSet<TenantId> = live.iter().map(|live| live.tenant).collect();
    for (index, planned) in planned.into_iter().enumerate() {
        if free == 0 {
            break;
        }
        let ends = [planned.source, planned.destination];
        let is_full = ends.iter().any(|shard| {
            let crowd = at.get(shard).copied().unwrap_or_default();
            crowd.working >= limits.per_shard_max || crowd.open >= limits.per_shard_open_max
        });
        if is_full || !moving.insert(planned.tenant) {
            continue;
        }
        for shard in ends {
            let crowd = at.entry(shard).or_default();
            crowd.open += 1;
            crowd.working += 1;
        }
        chosen.push(index);
        free -= 1;
    }
    chosen
}
