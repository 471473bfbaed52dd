//! Which of the planned moves may start now.

use std::collections::BTreeMap;

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
}

/// The places in `planned` of those that may start beside what is under way, in the plan's order: a move that has to
/// wait for its shards lets later ones pass.
pub fn next_moves<'a>(
    planned: impl IntoIterator<Item = &'a PlannedMove>,
    live: &[LiveMove],
    limits: &Limits,
) -> Vec<usize> {
    let mut at: BTreeMap<ShardId, usize> = BTreeMap::new();
    for live in live {
        *at.entry(live.source).or_default() += 1;
        *at.entry(live.destination).or_default() += 1;
    }
    let mut free = limits.at_once_max.saturating_sub(live.len());
    let mut chosen = Vec::new();
    for (index, planned) in planned.into_iter().enumerate() {
        if free == 0 {
            break;
        }
        let is_busy = |shard| {
            at.get(&shard)
                .is_some_and(|count| *count >= limits.per_shard_max)
        };
        let moves = live.iter().any(|live| live.tenant == planned.tenant);
        if moves || is_busy(planned.source) || is_busy(planned.destination) {
            continue;
        }
        *at.entry(planned.source).or_default() += 1;
        *at.entry(planned.destination).or_default() += 1;
        chosen.push(index);
        free -= 1;
    }
    chosen
}
