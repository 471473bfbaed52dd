//! Where one tenant should go, when an operator names the tenant only.

use std::collections::BTreeSet;

use tenantry_schema::shard::{ShardId, ShardKind, ShardState};
use tenantry_schema::tenant::TenantId;

use super::{Inventory, ShardEntry, TenantEntry, words};

/// What an operator wants for a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Another shared shard.
    Elsewhere,
    /// A shard of its own.
    Own,
}

/// A place for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub shard: ShardId,
    /// Whether it will have that shard to itself.
    pub own: bool,
    /// Why there, in words.
    pub why: String,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// It is not in the inventory: it lives nowhere.
    #[error("the tenant lives on no shard")]
    Homeless,
    /// Every other shard is out of the question.
    #[error("there is no other shared shard that takes tenants")]
    NoShard,
}

/// Chooses a shard. A shard of its own is a spare, of its own zone if there is one, that is not among `taken`; without one
/// left, and for [`Wish::Elsewhere`], it is the ring's choice if the tenant is not there, else the least loaded shared
/// shard.
pub fn target(
    inventory: &Inventory,
    tenant: TenantId,
    wish: Wish,
    taken: &BTreeSet<ShardId>,
) -> Result<Target, NoTarget> {
    let found = inventory.tenants.iter().find(|one| one.tenant == tenant);
    let tenant = found.ok_or(NoTarget::Homeless)?;
    let mut before = String::new();
    if wish == Wish::Own {
        if let Some(spare) = free_spare(inventory, tenant, taken) {
            return Ok(Target {
                shard: spare.id,
                own: true,
                why: format!("the spare {} becomes its own", spare.name),
            });
        }
        before.push_str("no spare is left; ");
    } else if let Some(home) = tenant.ring.filter(|home| *home != tenant.shard) {
        let entry = inventory.shards.iter().find(|shard| shard.id == home);
        if let Some(entry) = entry.filter(|entry| entry.takes_tenants()) {
            return Ok(Target {
                shard: home,
                own: false,
                why: format!("the ring wants it on {}", entry.name),
            });
        }
    }
    let others = inventory
        .shards
        .iter()
        .filter(|shard| shard.id != tenant.shard && shard.takes_tenants());
    let least = others.map(|shard| (shard, burden(inventory, shard)));
    let least = least.min_by(|(a, (a_busy, a_bytes)), (b, (b_busy, b_bytes))| {
        let weigh = |burden: f64, shard: &ShardEntry| burden / f64::from(shard.weight);
        weigh(*a_busy, a)
            .total_cmp(&weigh(*b_busy, b))
            .then(weigh(*a_bytes, a).total_cmp(&weigh(*b_bytes, b)))
            .then(a.id.cmp(&b.id))
    });
    let (shard, (busy, bytes)) = least.ok_or(NoTarget::NoShard)?;
    Ok(Target {
        shard: shard.id,
        own: false,
        why: format!(
            "{before}{} is the least loaded shared shard: {busy:.1} connections busy, {}",
            shard.name,
            words::bytes(bytes as u64)
        ),
    })
}

fn free_spare<'a>(
    inventory: &'a Inventory,
    tenant: &TenantEntry,
    taken: &BTreeSet<ShardId>,
) -> Option<&'a ShardEntry> {
    let home = inventory.shards.iter().find(|one| one.id == tenant.shard);
    let zone = home.and_then(|home| home.zone.as_deref());
    let lives = |shard: ShardId| inventory.tenants.iter().any(|one| one.shard == shard);
    let spares = inventory.shards.iter().filter(|shard| {
        shard.kind == ShardKind::Spare
            && shard.state == ShardState::Active
            && !taken.contains(&shard.id)
            && !lives(shard.id)
    });
    spares.min_by_key(|shard| (shard.zone.as_deref() != zone, shard.id))
}

/// Busy connections and bytes of a shard's tenants.
fn burden(inventory: &Inventory, shard: &ShardEntry) -> (f64, f64) {
    let here = inventory
        .tenants
        .iter()
        .filter(|tenant| tenant.shard == shard.id);
    here.fold((0.0, 0.0), |(busy, bytes), tenant| {
        (busy + tenant.busy, bytes + tenant.size() as f64)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shard(number: u16, kind: ShardKind, zone: &str) -> ShardEntry {
        ShardEntry {
            id: ShardId::new(number).unwrap(),
            name: format!("s{number}"),
            kind,
            state: ShardState::Active,
            weight: 1,
            zone: Some(zone.to_owned()),
        }
    }

    fn tenant(number: i64, shard: u16, busy: f64) -> TenantEntry {
        TenantEntry {
            tenant: TenantId::from_bigint(number).unwrap(),
            slug: format!("store-{number}"),
            shard: ShardId::new(shard).unwrap(),
            pin: None,
            ring: Some(ShardId::new(shard).unwrap()),
            bytes: Some(1 << 30),
            busy,
            obstacle: None,
        }
    }

    fn fleet() -> Inventory {
        Inventory {
            shards: vec![
                shard(1, ShardKind::Shared, "a"),
                shard(2, ShardKind::Shared, "a"),
                shard(3, ShardKind::Shared, "b"),
                shard(8, ShardKind::Spare, "b"),
                shard(9, ShardKind::Spare, "a"),
            ],
            tenants: vec![tenant(1, 1, 3.0), tenant(2, 2, 2.0), tenant(3, 3, 0.5)],
        }
    }

    fn chosen(fleet: &Inventory, wish: Wish, taken: &[u16]) -> (u16, String) {
        let taken = taken.iter().map(|number| ShardId::new(*number).unwrap());
        let who = fleet.tenants[0].tenant;
        let target = target(fleet, who, wish, &taken.collect()).unwrap();
        (target.shard.number(), target.why)
    }

    #[test]
    fn a_spare_of_its_zone_comes_first_and_the_least_loaded_shard_last() {
        let fleet = fleet();
        let own = |taken: &[u16]| chosen(&fleet, Wish::Own, taken);
        assert_eq!(own(&[]).0, 9);
        assert_eq!(own(&[9]), (8, "the spare s8 becomes its own".to_owned()));
        let (shard, why) = own(&[8, 9]);
        assert_eq!(shard, 3);
        insta::assert_snapshot!(why, @"no spare is left; s3 is the least loaded shared shard: 0.5 connections busy, 1.0 GiB");
    }

    #[test]
    fn elsewhere_is_where_the_ring_wants_it() {
        let mut fleet = fleet();
        assert_eq!(chosen(&fleet, Wish::Elsewhere, &[]).0, 3);
        fleet.tenants[0].ring = Some(ShardId::new(2).unwrap());
        let wanted = (2, "the ring wants it on s2".to_owned());
        assert_eq!(chosen(&fleet, Wish::Elsewhere, &[]), wanted);
        fleet.shards[1].state = ShardState::Draining;
        assert_eq!(chosen(&fleet, Wish::Elsewhere, &[]).0, 3);
        fleet.shards[2].state = ShardState::Down;
        let who = fleet.tenants[0].tenant;
        let none = target(&fleet, who, Wish::Elsewhere, &BTreeSet::new());
        assert_eq!(none, Err(NoTarget::NoShard));
    }
}
