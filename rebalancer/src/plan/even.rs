//! Makes bytes and load even with the fewest moved bytes.
//!
//! While a shard is above its share, the move is taken that brings the fleet furthest for each byte it moves; of
//! moves that are equally good the larger one, so that there are few. What later moves made superfluous is taken out again,
//! and each move is exchanged for a cheaper one where that does the same. A tenant moves at most once, and never to a
//! shard that ends up as badly off as the one it left. Best packing is not to be had in reasonable time: this is a greedy plan
//! of which no move can be left out.

use std::collections::{BTreeMap, BTreeSet};

use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

use super::{Draft, Left, TenantEntry, words};

/// What a move costs beside its bytes: slots, verification, a pause. In bytes, to compare with them.
const MOVE_COST_BYTES: f64 = (16_u64 << 20) as f64;

/// The least that a move must bring of what it could bring, given the tenant's size and load.
const WORTH_MIN: f64 = 0.2;

/// Receivers that are looked at for each tenant: the emptiest.
const RECEIVERS_MAX: usize = 8;

/// Differences below this are rounding.
const EPSILON: f64 = 1e-9;

/// Drafts the moves that make things even.
pub(super) fn draft(draft: &mut Draft<'_>) {
    let first = draft.moves.len();
    let mut moving = draft.moving();
    let mut stuck = BTreeMap::new();
    while let Some(choice) = choose(draft, &moving, &mut stuck) {
        moving.insert(choice.tenant.tenant);
        draft.push(choice.tenant, choice.destination, None);
    }
    leave_out(draft, first);
    exchange(draft, first);
    leave_out(draft, first);
    for shard in draft.ledger.receivers().collect::<Vec<_>>() {
        if let Some(burden) = draft.ledger.above(shard) {
            let limit = stuck.remove(&shard).flatten();
            let why = words::still_above(draft, shard, burden, limit);
            draft.left.push(Left {
                tenant: None,
                shard,
                why,
            });
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Choice<'a> {
    tenant: &'a TenantEntry,
    destination: ShardId,
    /// What it brings for what it costs, in steps coarse enough that rounding decides nothing.
    rate: u64,
    gain: f64,
    unpins: bool,
    same_zone: bool,
    /// Fuller is worse.
    fill: f64,
}

impl Choice<'_> {
    fn beats(&self, other: &Choice<'_>) -> bool {
        let gain = |choice: &Choice<'_>| (choice.gain * 1e6) as u64;
        let key =
            |choice: &Choice<'_>| (choice.rate, choice.unpins, gain(choice), choice.same_zone);
        // The first of equals stays: tenants come by id, receivers by number.
        key(self)
            .cmp(&key(other))
            .then_with(|| other.fill.total_cmp(&self.fill))
            .is_gt()
    }
}

/// The next move; `None`: nobody is above its share, or nothing that is left helps. A shard that is stuck is noted with
/// the limit that kept its best move back, if one did.
fn choose<'a>(
    draft: &Draft<'a>,
    moving: &BTreeSet<TenantId>,
    stuck: &mut BTreeMap<ShardId, Option<String>>,
) -> Option<Choice<'a>> {
    loop {
        let ledger = &draft.ledger;
        // The worst off first: its best move is the fleet's next.
        let above = ledger
            .receivers()
            .filter(|shard| !stuck.contains_key(shard) && ledger.above(*shard).is_some());
        let source = above.max_by(|a, b| {
            let excess = |shard: &ShardId| ledger.excess(*shard);
            excess(a).total_cmp(&excess(b)).then(b.cmp(a))
        })?;
        let receivers = emptiest(draft, source);
        let mut limit = None;
        let mut best: Option<Choice<'a>> = None;
        for tenant in draft.homes.get(&source).into_iter().flatten() {
            if moving.contains(&tenant.tenant) || !is_free(tenant) {
                continue;
            }
            let Some(choice) = best_for(draft, tenant, &receivers) else {
                continue;
            };
            if best.as_ref().is_none_or(|best| choice.beats(best)) {
                match draft.limit_hit(tenant) {
                    None => best = Some(choice),
                    hit => limit = hit,
                }
            }
        }
        if best.is_some() {
            return best;
        }
        stuck.insert(source, limit);
    }
}

/// Whether it may be moved to make things even: an operator's pin is not touched for that.
fn is_free(tenant: &TenantEntry) -> bool {
    tenant.obstacle.is_none() && tenant.pin.is_none_or(|reason| reason.may_move())
}

/// The best destination of one tenant.
fn best_for<'a>(
    draft: &Draft<'a>,
    tenant: &'a TenantEntry,
    receivers: &[ShardId],
) -> Option<Choice<'a>> {
    let ledger = &draft.ledger;
    let source = tenant.shard;
    let (bytes, busy) = (tenant.size() as f64, tenant.busy);
    let relief = ledger.excess(source) - ledger.excess_with(source, -bytes, -busy);
    if relief <= EPSILON {
        return None;
    }
    let before = ledger.fill(source)?.highest().1;
    let mut best: Option<Choice<'a>> = None;
    for &destination in receivers {
        let burden = ledger.excess_with(destination, bytes, busy) - ledger.excess(destination);
        let gain = relief - burden;
        let fill = ledger.fill_after(destination, tenant)?.highest().1;
        if gain <= EPSILON || gain < WORTH_MIN * ledger.part(source, tenant) || fill >= before {
            continue;
        }
        let rate =
            gain * ledger.group_bytes(source).max(MOVE_COST_BYTES) / (bytes + MOVE_COST_BYTES);
        let choice = Choice {
            tenant,
            destination,
            rate: (rate * 1e3).round() as u64,
            gain,
            unpins: tenant.ring == Some(destination),
            same_zone: draft.same_zone(source, destination),
            fill,
        };
        if best.as_ref().is_none_or(|best| choice.beats(best)) {
            best = Some(choice);
        }
    }
    best
}

/// The emptiest shards that a tenant of `source` may go to, by number.
fn emptiest(draft: &Draft<'_>, source: ShardId) -> Vec<ShardId> {
    let mut found: Vec<(f64, ShardId)> = draft
        .ledger
        .receivers()
        .filter(|shard| *shard != source && draft.zones_allow(source, *shard))
        .filter_map(|shard| Some((draft.ledger.fill(shard)?.highest().1, shard)))
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    found.truncate(RECEIVERS_MAX);
    let mut shards: Vec<ShardId> = found.into_iter().map(|(_, shard)| shard).collect();
    shards.sort_unstable();
    shards
}

/// Takes out what the plan does as well without, the dearest first, until no move can be left out.
fn leave_out(draft: &mut Draft<'_>, first: usize) {
    loop {
        let mut order: Vec<usize> = (first..draft.moves.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(draft.moves[*index].tenant.size()));
        let dropped = order.into_iter().find(|index| {
            let planned = draft.moves[*index];
            let (tenant, there) = (planned.tenant, planned.destination);
            let before = draft.ledger.imbalance();
            draft.ledger.shift(tenant, there, tenant.shard);
            let is_idle = draft.ledger.imbalance() <= before + EPSILON;
            if !is_idle {
                draft.ledger.shift(tenant, tenant.shard, there);
            }
            is_idle
        });
        let Some(index) = dropped else { return };
        let planned = draft.moves.remove(index);
        draft.bytes -= planned.tenant.size();
    }
}

/// Exchanges each move for that of a smaller tenant where the fleet is no worse off.
fn exchange(draft: &mut Draft<'_>, first: usize) {
    let mut moving = draft.moving();
    for index in first..draft.moves.len() {
        let planned = draft.moves[index];
        let (tenant, there) = (planned.tenant, planned.destination);
        let allowed = draft.ledger.imbalance() + EPSILON;
        draft.ledger.shift(tenant, there, tenant.shard);
        let chosen = cheaper(draft, tenant, there, allowed, &moving).unwrap_or(tenant);
        draft.ledger.shift(chosen, chosen.shard, there);
        draft.bytes = draft.bytes - tenant.size() + chosen.size();
        draft.moves[index].tenant = chosen;
        moving.remove(&tenant.tenant);
        moving.insert(chosen.tenant);
    }
}

/// The smallest tenant of the same shard that does what `tenant` was to do.
fn cheaper<'a>(
    draft: &Draft<'a>,
    tenant: &TenantEntry,
    there: ShardId,
    allowed: f64,
    moving: &BTreeSet<TenantId>,
) -> Option<&'a TenantEntry> {
    let (ledger, here) = (&draft.ledger, tenant.shard);
    let rest = ledger.imbalance() - ledger.excess(here) - ledger.excess(there);
    let does = |other: &TenantEntry| {
        let (bytes, busy) = (other.size() as f64, other.busy);
        let leaves = ledger.excess_with(here, -bytes, -busy);
        rest + leaves + ledger.excess_with(there, bytes, busy) <= allowed
    };
    let others = draft.homes.get(&here)?.iter().copied().filter(|other| {
        other.size() < tenant.size()
            && is_free(other)
            && !moving.contains(&other.tenant)
            && does(other)
    });
    others.min_by_key(|other| (other.size(), other.tenant))
}
