//! Finishes a plan: replays its moves in their order and says of each, in words and numbers, why it is there.

use std::collections::BTreeMap;

use tenantry_schema::shard::ShardId;

use super::ledger::Ledger;
use super::{Burden, Cause, Draft, DraftMove, Forecast, Goal, Plan, PlannedMove, words};

/// The plan that a draft has become.
pub(super) fn finish(mut draft: Draft<'_>, goal: Goal) -> Plan {
    let mut ledger = draft.start.clone();
    let drafted = std::mem::take(&mut draft.moves);
    let mut moves = Vec::with_capacity(drafted.len());
    for planned in &drafted {
        moves.push(explained(&draft, &mut ledger, *planned));
    }
    // Who moves to make things even gets a pin to where it goes.
    draft
        .unpins
        .retain(|tenant| moves.iter().all(|planned| planned.tenant != *tenant));
    draft.unpins.sort_unstable();
    Plan {
        goal,
        shards: forecasts(&draft, &ledger),
        moves,
        unpins: draft.unpins,
        left: draft.left,
    }
}

/// Books the move and describes what it does to both shards.
fn explained(draft: &Draft<'_>, ledger: &mut Ledger<'_>, planned: DraftMove<'_>) -> PlannedMove {
    let DraftMove {
        tenant,
        destination,
        cause,
    } = planned;
    let source = tenant.shard;
    let cause = cause.unwrap_or_else(|| {
        let highest = || {
            ledger
                .fill(source)
                .map_or(Burden::Bytes, |fill| fill.highest().0)
        };
        Cause::Above(ledger.above(source).unwrap_or_else(highest))
    });
    let before = ledger.clone();
    ledger.shift(tenant, source, destination);
    let (from, to) = (draft.name(source), draft.name(destination));
    let (slug, size) = (&tenant.slug, words::size(tenant));
    let burden = match cause {
        Cause::Above(burden) => burden,
        Cause::Ring | Cause::Drain if tenant.size() == 0 && tenant.busy > 0.0 => Burden::Load,
        Cause::Ring | Cause::Drain => Burden::Bytes,
    };
    let arrives = arrival((&before, ledger), destination, burden, &to);
    let why = match cause {
        Cause::Above(burden) => {
            let left = level(ledger, source, burden);
            let state = standing(&before, source, burden);
            format!("{from} has {state}; without {slug} ({size}) it has {left:.2}, and {arrives}")
        }
        Cause::Ring => format!(
            "the ring wants {slug} ({size}) on {to}, where a pin on {from} kept it from going; {arrives}"
        ),
        Cause::Drain if tenant.ring == Some(destination) => {
            format!("{from} is being emptied; the ring wants {slug} ({size}) on {to}; {arrives}")
        }
        Cause::Drain => {
            format!("{from} is being emptied; {to} has most room for {slug} ({size}); {arrives}")
        }
    };
    PlannedMove {
        tenant: tenant.tenant,
        slug: slug.clone(),
        source,
        destination,
        bytes: tenant.bytes,
        busy: tenant.busy,
        cause,
        why,
    }
}

/// `1.62 of its share of bytes (12 GiB of 7.7 GiB)`.
fn standing(ledger: &Ledger<'_>, shard: ShardId, burden: Burden) -> String {
    let share = ledger.share(shard).unwrap_or_default();
    let amount = ledger
        .account(shard)
        .map_or((0.0, 0.0), |account| (account.bytes, account.busy));
    format!(
        "{:.2} of its share of {} ({})",
        level(ledger, shard, burden),
        words::name(burden),
        words::of_share(burden, amount, share)
    )
}

/// `s3 goes from 0.41 to 0.68 of its share of bytes`.
fn arrival(
    (before, after): (&Ledger<'_>, &Ledger<'_>),
    shard: ShardId,
    burden: Burden,
    name: &str,
) -> String {
    let (from, to) = (level(before, shard, burden), level(after, shard, burden));
    format!(
        "{name} goes from {from:.2} to {to:.2} of its share of {}",
        words::name(burden)
    )
}

fn level(ledger: &Ledger<'_>, shard: ShardId, burden: Burden) -> f64 {
    ledger.fill(shard).map_or(0.0, |fill| fill.of(burden))
}

fn forecasts(draft: &Draft<'_>, end: &Ledger<'_>) -> Vec<Forecast> {
    let named: BTreeMap<ShardId, _> = draft
        .shards
        .iter()
        .map(|(id, entry)| (*id, entry.name.clone()))
        .collect();
    let forecasts = named.into_iter().filter_map(|(shard, name)| {
        let (before, after) = (draft.start.account(shard)?, end.account(shard)?);
        Some(Forecast {
            shard,
            name,
            tenants: (before.tenants, after.tenants),
            bytes: (before.bytes as u64, after.bytes as u64),
            busy: (before.busy, after.busy),
            fill: draft.start.fill(shard).zip(end.fill(shard)),
        })
    });
    forecasts.collect()
}
