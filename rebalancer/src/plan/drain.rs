//! Empties a shard: everybody on it goes to where there is room.

use tenantry_schema::shard::ShardId;

use super::{Cause, Draft, TenantEntry, words};

/// Drafts a move for each tenant of the shard, the largest first, because the small ones fill the gaps. The ring's choice
/// is taken where it leaves that shard within its tolerance: no pin is left then. Otherwise the emptiest shard is.
pub(super) fn draft(draft: &mut Draft<'_>, shard: ShardId) {
    let mut tenants: Vec<&TenantEntry> = draft.homes.get(&shard).cloned().unwrap_or_default();
    tenants.sort_by(|a, b| {
        let part = |tenant| weight(draft, tenant);
        part(b).total_cmp(&part(a)).then(a.tenant.cmp(&b.tenant))
    });
    let gives = draft
        .shards
        .get(&shard)
        .is_some_and(|entry| entry.gives_tenants());
    let count = tenants.len();
    for (index, tenant) in tenants.into_iter().enumerate() {
        if let Some(obstacle) = tenant.obstacle {
            draft.leave(tenant, obstacle.in_words());
        } else if !gives {
            let state = draft.shards.get(&shard).map(|entry| entry.state);
            let state = state.map_or("gone", |state| state.as_str());
            draft.leave(
                tenant,
                format!("moves write on the shard they start from, and it is {state}"),
            );
        } else if let Some(limit) = draft.limit_hit(tenant) {
            draft.leave(
                tenant,
                format!(
                    "{limit}; {} in all are left on the shard",
                    words::count(count - index, "tenant")
                ),
            );
            return;
        } else if let Some(destination) = destination(draft, tenant) {
            draft.push(tenant, destination, Some(Cause::Drain));
        } else {
            draft.leave(
                tenant,
                "no shard takes it: there is no other active shared shard that may have it",
            );
        }
    }
}

/// How much of all that leaves this tenant is.
fn weight(draft: &Draft<'_>, tenant: &TenantEntry) -> f64 {
    let Some(account) = draft.ledger.account(tenant.shard) else {
        return 0.0;
    };
    let part = |amount: f64, all: f64| if all > 0.0 { amount / all } else { 0.0 };
    part(tenant.size() as f64, account.bytes).max(part(tenant.busy, account.busy))
}

fn destination(draft: &Draft<'_>, tenant: &TenantEntry) -> Option<ShardId> {
    let source = tenant.shard;
    let mut best: Option<(ShardId, f64, bool)> = None;
    for shard in draft.ledger.receivers() {
        if shard == source || !draft.zones_allow(source, shard) {
            continue;
        }
        let level = level_with(draft, shard, tenant)?;
        if tenant.ring == Some(shard) && level <= 1.0 + draft.limits.tolerance / 2.0 {
            return Some(shard);
        }
        let same_zone = draft.same_zone(source, shard);
        let better = best.is_none_or(|(_, lowest, zone)| {
            level < lowest - 1e-12 || (level < lowest + 1e-6 && same_zone && !zone)
        });
        if better {
            best = Some((shard, level, same_zone));
        }
    }
    best.map(|(shard, ..)| shard)
}

/// How full a shard would be with this tenant, of what its share will be once everybody has arrived.
fn level_with(draft: &Draft<'_>, shard: ShardId, tenant: &TenantEntry) -> Option<f64> {
    let account = draft.ledger.account(shard)?;
    let (bytes, busy) = draft.ledger.share(shard)?;
    let leaving = draft.ledger.account(tenant.shard)?;
    let part = draft.ledger.part_of_group(shard)?;
    let level = |amount: f64, fair: f64| if fair > 0.0 { amount / fair } else { 0.0 };
    let size = tenant.size() as f64;
    let bytes = level(account.bytes + size, bytes + leaving.bytes * part);
    let load = level(account.busy + tenant.busy, busy + leaving.busy * part);
    // Where nothing is measured yet, by the number of tenants.
    let crowd = account.tenants as f64 / part * 1e-9;
    Some(bytes.max(load) + crowd)
}
