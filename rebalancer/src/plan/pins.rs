//! Brings tenants to where the ring wants them, after a ring change has pinned them to where they lived.

use tenantry_schema::pin::PinReason;

use super::{Cause, Draft, TenantEntry, words};

/// Drafts a move for each pin that the ring left behind, the smallest tenant first: pins go early, and what a limit cuts off
/// is what costs most. Pins that say what the ring says go without a move.
pub(super) fn draft(draft: &mut Draft<'_>) {
    let mut behind: Vec<&TenantEntry> = Vec::new();
    for tenant in draft.homes.values().flatten() {
        // Where a move brought it, it was brought on purpose; there the pin goes only if the ring agrees.
        if !tenant.pin.is_some_and(|reason| reason.may_move()) || tenant.obstacle.is_some() {
            continue;
        }
        if tenant.ring == Some(tenant.shard) {
            draft.unpins.push(tenant.tenant);
        } else if tenant.pin == Some(PinReason::Ring) {
            behind.push(tenant);
        }
    }
    behind.sort_by_key(|tenant| (tenant.size(), tenant.tenant));
    let count = behind.len();
    for (index, tenant) in behind.into_iter().enumerate() {
        let Some(home) = tenant.ring else {
            continue;
        };
        let takes = draft
            .shards
            .get(&home)
            .is_some_and(|shard| shard.takes_tenants());
        let gives = draft
            .shards
            .get(&tenant.shard)
            .is_some_and(|shard| shard.gives_tenants());
        if !takes || !gives {
            let shard = if takes { tenant.shard } else { home };
            let why = match draft.shards.get(&shard) {
                Some(shard) => format!(
                    "the ring wants it elsewhere, but {} is {}",
                    shard.name, shard.state
                ),
                None => "the ring wants it on a shard that is not there".to_owned(),
            };
            draft.leave(tenant, why);
        } else if !draft.zones_allow(tenant.shard, home) {
            draft.leave(
                tenant,
                "the ring wants it in another zone, and tenants are to stay in theirs",
            );
        } else if let Some(limit) = draft.limit_hit(tenant) {
            let why = format!(
                "{limit}; {} in all are behind a pin of the ring's",
                words::count(count - index, "tenant")
            );
            draft.leave(tenant, why);
            return;
        } else {
            draft.push(tenant, home, Some(Cause::Ring));
        }
    }
}
