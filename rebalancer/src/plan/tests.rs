//! What plans look like, as text that is compared, and what holds for every plan, tried on random fleets.
#![allow(clippy::unwrap_used, clippy::panic)]

mod golden;
mod packing;
mod properties;

use std::fmt::Write as _;

use super::*;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn shard_id(number: u16) -> ShardId {
    ShardId::new(number).unwrap()
}

fn tenant_id(number: i64) -> TenantId {
    TenantId::from_bigint(number).unwrap()
}

/// An active shared shard of weight 1, named `s1` and so on.
fn shared(number: u16) -> ShardEntry {
    ShardEntry {
        id: shard_id(number),
        name: format!("s{number}"),
        kind: ShardKind::Shared,
        state: ShardState::Active,
        weight: 1,
        zone: None,
    }
}

/// A tenant that the ring has put where it lives.
fn tenant(number: i64, shard: u16, bytes: u64, busy: f64) -> TenantEntry {
    TenantEntry {
        tenant: tenant_id(number),
        slug: format!("store-{number}"),
        shard: shard_id(shard),
        pin: None,
        ring: Some(shard_id(shard)),
        bytes: Some(bytes),
        busy,
        obstacle: None,
    }
}

/// A tenant that a ring change has pinned.
fn behind(number: i64, shard: u16, ring: u16, bytes: u64) -> TenantEntry {
    TenantEntry {
        pin: Some(PinReason::Ring),
        ring: Some(shard_id(ring)),
        ..tenant(number, shard, bytes, 0.0)
    }
}

/// A plan as people would be shown it.
fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for planned in &plan.moves {
        let (slug, source, destination) = (&planned.slug, planned.source, planned.destination);
        writeln!(text, "{slug}: {source} -> {destination}: {}", planned.why).unwrap();
    }
    if !plan.unpins.is_empty() {
        let unpins = plan
            .unpins
            .iter()
            .map(|tenant| tenant.as_u128().to_string());
        writeln!(text, "unpinned: {}", unpins.collect::<Vec<_>>().join(" ")).unwrap();
    }
    for left in &plan.left {
        let who = left
            .tenant
            .map_or_else(String::new, |id| format!("{} ", id.as_u128()));
        writeln!(text, "left: {who}on {}: {}", left.shard, left.why).unwrap();
    }
    for forecast in &plan.shards {
        let Forecast {
            name,
            tenants,
            bytes,
            busy,
            fill,
            ..
        } = forecast;
        let (before, after) = (bytes_in_words(bytes.0), bytes_in_words(bytes.1));
        write!(
            text,
            "{name}: {} -> {} tenants, {before} -> {after}",
            tenants.0, tenants.1
        )
        .unwrap();
        write!(text, ", busy {:.1} -> {:.1}", busy.0, busy.1).unwrap();
        if let Some((before, after)) = fill {
            write!(text, ", bytes {:.2} -> {:.2}", before.bytes, after.bytes).unwrap();
            write!(text, ", load {:.2} -> {:.2}", before.load, after.load).unwrap();
        }
        text.push('\n');
    }
    text
}
