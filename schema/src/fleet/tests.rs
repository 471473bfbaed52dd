//! How change groups turn one fleet into the next.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::change::PinnedTenants;
use crate::directory::TenantRow;
use crate::ring::RingMember;
use crate::shard::{ShardAddress, ShardKind, ShardState};
use crate::tenant::{Isolation, TenantState};

fn id(number: i64) -> TenantId {
    TenantId::from_bigint(number).unwrap()
}

fn shard_id(number: u16) -> ShardId {
    ShardId::new(number).unwrap()
}

fn shard(number: u16) -> ChangeBody {
    ChangeBody::Shard(Shard {
        id: shard_id(number),
        name: format!("s{number}").parse().unwrap(),
        kind: ShardKind::Shared,
        state: ShardState::Active,
        weight: 1,
        address: ShardAddress {
            host: "127.0.0.1".into(),
            port: 5432,
            database: "shop".into(),
        },
        replicas: Vec::new(),
        zone: None,
    })
}

fn ring(members: &[u16]) -> ChangeBody {
    let member = |number: &u16| RingMember {
        shard: shard_id(*number),
        weight: 1,
    };
    ChangeBody::Ring {
        members: members.iter().map(member).collect(),
    }
}

fn tenant(number: i64) -> ChangeBody {
    ChangeBody::Tenant(TenantRow {
        id: id(number),
        slug: format!("t{number}"),
        state: TenantState::Active,
        isolation: Isolation::Pooled,
        epoch: Epoch(1),
        plan: None,
        is_demo: false,
        is_simulation: false,
        suspended_reason: None,
        suspended_at: None,
    })
}

fn group(first_seq: u64, changes: Vec<ChangeBody>) -> ChangeGroup {
    ChangeGroup {
        first_seq,
        last_seq: first_seq + changes.len() as u64 - 1,
        changes,
    }
}

/// Two shards on the ring and tenants 1 to 100.
fn fleet() -> Fleet {
    let start = Fleet::empty(FleetSettings::new(TenantKey::Bigint));
    let fleet = start
        .apply(&group(1, vec![shard(1), shard(2), ring(&[1, 2])]))
        .unwrap();
    fleet
        .apply(&group(4, (1..=100).map(tenant).collect()))
        .unwrap()
}

fn placement(fleet: &Fleet, number: i64) -> Option<Placement> {
    fleet.place(&fleet.directory.by_id(id(number)).unwrap())
}

#[test]
fn a_ring_change_moves_nobody_when_its_pins_come_with_it() {
    let before = fleet();
    let wider = Ring::new([(shard_id(1), 1), (shard_id(2), 1), (shard_id(3), 1)]);
    let stays = |number: &i64| before.ring.shard_of(id(*number)) == wider.shard_of(id(*number));
    let pins_on = |number: u16| PinnedTenants {
        shard: shard_id(number),
        tenants: (1..=100)
            .filter(|tenant| !stays(tenant))
            .filter(|tenant| before.ring.shard_of(id(*tenant)) == Some(shard_id(number)))
            .map(id)
            .collect(),
    };
    let pins = ChangeBody::BulkPins {
        pins: vec![pins_on(1), pins_on(2)],
    };
    let after = before
        .apply(&group(
            104,
            vec![shard(3), ring(&[1, 2, 3]), pins, tenant(101)],
        ))
        .unwrap();
    let mut pinned = 0;
    for number in 1..=100 {
        let (old, new) = (
            placement(&before, number).unwrap(),
            placement(&after, number).unwrap(),
        );
        assert_eq!((old.shard, old.epoch), (new.shard, new.epoch));
        assert_eq!(new.pinned, !stays(&number));
        pinned += i32::from(new.pinned);
    }
    assert!((15..55).contains(&pinned), "{pinned}");
    assert_eq!(
        placement(&after, 101).unwrap().shard,
        wider.shard_of(id(101)).unwrap()
    );
    // The older fleet is what it was.
    assert_eq!(before.ring.members().len(), 2);
    assert_eq!(before.directory.len(), 100);
}

#[test]
fn a_pin_wins_over_the_ring_until_it_is_removed() {
    let fleet = fleet();
    let home = placement(&fleet, 1).unwrap();
    let elsewhere = shard_id(3 - home.shard.number());
    let pinned = fleet
        .apply(&group(
            104,
            vec![ChangeBody::Pin {
                tenant: id(1),
                shard: elsewhere,
            }],
        ))
        .unwrap();
    let answer = placement(&pinned, 1).unwrap();
    assert_eq!((answer.shard, answer.pinned), (elsewhere, true));
    let unpinned = pinned
        .apply(&group(105, vec![ChangeBody::PinRemoved { tenant: id(1) }]))
        .unwrap();
    assert_eq!(placement(&unpinned, 1), Some(home));
}

#[test]
fn an_empty_ring_places_pinned_tenants_only() {
    let fleet = fleet()
        .apply(&group(
            104,
            vec![
                ring(&[]),
                ChangeBody::Pin {
                    tenant: id(1),
                    shard: shard_id(2),
                },
            ],
        ))
        .unwrap();
    assert_eq!(placement(&fleet, 1).unwrap().shard, shard_id(2));
    assert_eq!(placement(&fleet, 2), None);
}

#[test]
fn a_gap_is_never_guessed_over() {
    let fleet = fleet();
    for first in [0, 1, 103, 105] {
        let error = fleet.apply(&group(first, vec![tenant(101)])).unwrap_err();
        assert_eq!(
            error,
            ApplyError::Gap {
                expected: 104,
                found: first
            }
        );
    }
    let torn = ChangeGroup {
        first_seq: 104,
        last_seq: 106,
        changes: vec![tenant(101)],
    };
    assert!(matches!(fleet.apply(&torn), Err(ApplyError::Count { .. })));
    let empty = ChangeGroup {
        first_seq: 104,
        last_seq: 103,
        changes: Vec::new(),
    };
    assert!(matches!(fleet.apply(&empty), Err(ApplyError::Count { .. })));
}

#[test]
fn what_cannot_be_is_refused() {
    let fleet = fleet();
    let refused = |change| fleet.apply(&group(104, vec![change])).unwrap_err();
    assert_eq!(
        refused(ring(&[1, 9])),
        ApplyError::UnknownShard(shard_id(9))
    );
    assert_eq!(
        refused(ChangeBody::ShardRemoved { id: shard_id(2) }),
        ApplyError::UnknownShard(shard_id(2))
    );
    let settings = ChangeBody::Settings(FleetSettings::new(TenantKey::Uuid));
    assert!(matches!(refused(settings), ApplyError::KeyChanged { .. }));
    let pin = ChangeBody::Pin {
        tenant: id(999),
        shard: shard_id(1),
    };
    assert!(matches!(
        refused(pin),
        ApplyError::Directory(BuildError::UnknownTenant { .. })
    ));
}

#[test]
fn roles_come_and_go() {
    let role = Role {
        name: "shop".into(),
        verifier: "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy".into(),
        kind: RoleKind::Tenant,
        tenants: vec![id(1)],
        limits: RoleLimits::default(),
        valid_until: None,
    };
    assert!(role.may_act_for(id(1)) && !role.may_act_for(id(2)));
    assert!(!format!("{role:?}").contains("SCRAM"), "{role:?}");
    let fleet = fleet()
        .apply(&group(104, vec![ChangeBody::Role(role)]))
        .unwrap();
    assert!(fleet.roles.contains_key("shop"));
    let fleet = fleet
        .apply(&group(
            105,
            vec![ChangeBody::RoleRemoved {
                name: "shop".into(),
            }],
        ))
        .unwrap();
    assert!(fleet.roles.is_empty());
    assert_eq!(fleet.sequence, 105);
}
