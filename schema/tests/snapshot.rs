//! The snapshot file: what goes in comes out, and what is damaged is refused, wherever the damage is.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tenantry_schema::directory::{DirectoryBuilder, DirectoryChange, TenantRow};
use tenantry_schema::fleet::{Fleet, FleetSettings, Role, RoleKind, RoleLimits};
use tenantry_schema::limits::{FleetLimits, KillMode, KillSwitch, Limit, LimitKind, Limits};
use tenantry_schema::ring::Ring;
use tenantry_schema::shard::{Shard, ShardAddress, ShardId, ShardKind, ShardState};
use tenantry_schema::snapshot::{self, SnapshotError};
use tenantry_schema::tenant::{Epoch, Isolation, TenantId, TenantKey, TenantState};

fn id(key: TenantKey, number: u64) -> TenantId {
    let spread = u128::from(number) * 0x0123_4567_89ab_cdef_0123_4567;
    TenantId::from_u128(if key == TenantKey::Uuid {
        spread
    } else {
        number.into()
    })
    .unwrap()
}

fn row(key: TenantKey, number: u64) -> TenantRow {
    TenantRow {
        id: id(key, number),
        slug: format!("store-{number}"),
        state: if number.is_multiple_of(7) {
            TenantState::Suspended
        } else {
            TenantState::Active
        },
        isolation: if number.is_multiple_of(11) {
            Isolation::Silo
        } else {
            Isolation::Pooled
        },
        epoch: Epoch(if number.is_multiple_of(13) {
            1 << 40
        } else {
            number
        }),
        plan: (number.is_multiple_of(3)).then(|| format!("plan-{}", number % 4)),
        is_demo: number.is_multiple_of(2),
        is_simulation: number.is_multiple_of(5),
        suspended_reason: (number.is_multiple_of(7)).then(|| "unpaid".to_owned()),
        suspended_at: (number.is_multiple_of(7))
            .then(|| jiff::Timestamp::from_millisecond(1_700_000_000_123).unwrap()),
    }
}

fn shard(number: u16) -> Shard {
    let address = |port| ShardAddress {
        host: "10.0.0.1".into(),
        port,
        database: "shop".into(),
    };
    Shard {
        id: ShardId::new(number).unwrap(),
        name: format!("s{number}").parse().unwrap(),
        kind: ShardKind::Shared,
        state: ShardState::Active,
        weight: 1,
        address: address(5432),
        replicas: vec![address(5433)],
        zone: Some("a".into()),
    }
}

/// Base and overlay both have tenants; some of the base's are altered and removed.
fn fleet(key: TenantKey, tenants: u64) -> Fleet {
    let mut builder = DirectoryBuilder::new(key);
    for number in 1..=tenants {
        let pin = (number.is_multiple_of(10)).then(|| ShardId::new(2).unwrap());
        builder.push_tenant(&row(key, number).record(pin)).unwrap();
        builder
            .push_hostname(&format!("www.store-{number}.example"), id(key, number))
            .unwrap();
    }
    let changes = [
        DirectoryChange::UpsertTenant(row(key, tenants + 1)),
        DirectoryChange::UpsertHostname {
            name: "new.example".into(),
            tenant: id(key, tenants + 1),
        },
        DirectoryChange::Pin {
            tenant: id(key, 1),
            shard: ShardId::new(1).unwrap(),
        },
        DirectoryChange::Unpin(id(key, 10)),
        DirectoryChange::RemoveHostname("www.store-2.example".into()),
        DirectoryChange::RemoveTenant(id(key, 3)),
    ];
    let role = Role {
        name: "shop".into(),
        verifier: "SCRAM-SHA-256$4096:c2FsdA==$a:b".into(),
        kind: RoleKind::Tenant,
        tenants: vec![id(key, 5)],
        limits: RoleLimits {
            max_connections: Some(9),
            ..RoleLimits::default()
        },
        valid_until: Some(jiff::Timestamp::from_second(1_900_000_000).unwrap()),
    };
    let mut fleet = Fleet::empty(FleetSettings::new(key));
    fleet.shards = Arc::new(
        (1..=3)
            .map(|number| (ShardId::new(number).unwrap(), Arc::new(shard(number))))
            .collect(),
    );
    fleet.ring = Arc::new(Ring::new(
        (1..=3).map(|number| (ShardId::new(number).unwrap(), 1)),
    ));
    fleet.roles = Arc::new([(role.name.clone(), Arc::new(role))].into());
    fleet.directory = builder.build().unwrap().apply(&changes).unwrap();
    fleet.limits = Arc::new(limits(id(key, 5)));
    fleet.sequence = 4711;
    fleet.limits_sequence = 4711;
    fleet
}

fn limits(tenant: TenantId) -> FleetLimits {
    let mut limits = FleetLimits::default();
    let mut own = Limits::default();
    own.set(LimitKind::Transactions, Limit::Unlimited);
    own.set(LimitKind::QueriesPerSecond, Limit::At(u32::MAX));
    limits.set_tenant(tenant, own);
    own.set(LimitKind::Transactions, Limit::At(8));
    limits.set_plan("plan-1", own);
    for (whose, mode) in [(None, KillMode::ReadOnly), (Some(tenant), KillMode::Refuse)] {
        limits.set_switch(KillSwitch {
            tenant: whose,
            mode,
            reason: Some("upgrade".into()),
            since: jiff::Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
            until: None,
        });
    }
    limits
}

fn rows(fleet: &Fleet) -> Vec<(TenantRow, Option<ShardId>)> {
    let mut rows: Vec<_> = fleet
        .directory
        .tenants()
        .map(|record| (record.to_row(), record.pin))
        .collect();
    rows.sort_by_key(|(row, _)| row.id);
    rows
}

fn hostnames(fleet: &Fleet) -> Vec<(&str, TenantId)> {
    let mut hostnames: Vec<_> = fleet.directory.hostnames().collect();
    hostnames.sort_unstable();
    hostnames
}

fn assert_same(one: &Fleet, other: &Fleet) {
    assert_eq!(one.settings, other.settings);
    assert_eq!(one.shards, other.shards);
    assert_eq!(one.ring, other.ring);
    assert_eq!(one.roles, other.roles);
    assert_eq!(one.limits, other.limits);
    assert_eq!(one.sequence, other.sequence);
    assert_eq!(one.limits_sequence, other.limits_sequence);
    assert_eq!(rows(one), rows(other));
    assert_eq!(hostnames(one), hostnames(other));
}

#[test]
fn what_goes_in_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.snapshot");
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let before = fleet(key, 200);
        snapshot::save(&before, &path).unwrap();
        let after = snapshot::load(&path).unwrap();
        assert_same(&before, &after);
        // A snapshot of a snapshot is the same again: the overlay was kept apart from the base.
        assert_eq!(
            before.directory.overlay_len(),
            after.directory.overlay_len()
        );
        for number in 1..=201 {
            let slug = format!("store-{number}");
            let (old, new) = (
                before.directory.by_slug(&slug),
                after.directory.by_slug(&slug),
            );
            assert_eq!(old, new);
            assert_eq!(
                old.and_then(|record| before.place(&record)),
                new.and_then(|record| after.place(&record))
            );
        }
    }
}

#[test]
fn the_file_is_its_owners_and_nothing_is_left_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.snapshot");
    snapshot::save(&fleet(TenantKey::Bigint, 3), &path).unwrap();
    snapshot::save(&fleet(TenantKey::Bigint, 5), &path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn an_absent_file_is_told_from_a_bad_one() {
    let directory = tempfile::tempdir().unwrap();
    let absent = snapshot::load(&directory.path().join("none")).unwrap_err();
    assert!(absent.is_absent(), "{absent}");
    let missing_folder = directory.path().join("no/folder");
    assert!(snapshot::save(&fleet(TenantKey::Bigint, 3), &missing_folder).is_err());
    let path = directory.path().join("other");
    fs::write(&path, "a".repeat(100)).unwrap();
    assert!(matches!(
        snapshot::load(&path),
        Err(SnapshotError::NotASnapshot)
    ));
}

/// The bytes of a sound snapshot, and the error for other bytes in its place.
fn refusal(path: &Path, bytes: &[u8]) -> SnapshotError {
    fs::write(path, bytes).unwrap();
    match snapshot::load(path) {
        Ok(_) => panic!("a damaged snapshot was loaded"),
        Err(error) => error,
    }
}

#[test]
fn each_damage_has_its_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.snapshot");
    snapshot::save(&fleet(TenantKey::Bigint, 40), &path).unwrap();
    let sound = fs::read(&path).unwrap();
    let altered = |at: usize, with: u8| {
        let mut bytes = sound.clone();
        bytes[at] = with;
        bytes
    };
    assert!(matches!(refusal(&path, &[]), SnapshotError::Torn { .. }));
    assert!(matches!(
        refusal(&path, &sound[..20]),
        SnapshotError::Torn { .. }
    ));
    assert!(matches!(
        refusal(&path, &sound[..sound.len() - 1]),
        SnapshotError::Torn { .. }
    ));
    assert!(matches!(
        refusal(&path, &[&sound[..], b"x"].concat()),
        SnapshotError::Torn { .. }
    ));
    assert!(matches!(
        refusal(&path, &altered(0, b'x')),
        SnapshotError::NotASnapshot
    ));
    assert!(matches!(
        refusal(&path, &altered(8, 200)),
        SnapshotError::UnsupportedVersion(200)
    ));
    assert!(matches!(
        refusal(&path, &altered(9, 2)),
        SnapshotError::HeaderDamaged
    ));
    assert!(matches!(
        refusal(&path, &altered(17, !sound[17])),
        SnapshotError::HeaderDamaged
    ));
    assert!(matches!(
        refusal(&path, &altered(99, !sound[99])),
        SnapshotError::BodyDamaged { .. }
    ));
}

/// Every bit of the header, and one of each byte behind it.
#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.snapshot");
    snapshot::save(&fleet(TenantKey::Bigint, 3), &path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let header_bits = (0..36).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    let body_bits = (36..bytes.len()).map(|at| (at, at % 8));
    for (at, bit) in header_bits.chain(body_bits) {
        bytes[at] ^= 1 << bit;
        refusal(&path, &bytes);
        bytes[at] ^= 1 << bit;
    }
    fs::write(&path, &bytes).unwrap();
    snapshot::load(&path).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_anywhere_is_refused(
        tenants in 3u64..300,
        uuid in any::<bool>(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let key = if uuid { TenantKey::Uuid } else { TenantKey::Bigint };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.snapshot");
        snapshot::save(&fleet(key, tenants), &path).unwrap();
        let sound = fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        flipped[at.index(sound.len())] ^= 1 << bit;
        refusal(&path, &flipped);
        refusal(&path, &sound[..cut.index(sound.len())]);
    }
}

/// Routers in several containers are all process 1, and may keep their snapshots in one directory.
#[test]
fn writers_do_not_meet_in_one_file_and_what_killed_ones_left_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.snapshot");
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    let place = |name: &str, written: SystemTime| {
        let file = fs::File::create(directory.path().join(name)).unwrap();
        file.set_modified(written).unwrap();
    };
    place("fleet.snapshot.1.new", old);
    place("fleet.snapshot.2.new", SystemTime::now());
    place("other.snapshot.1.new", old);
    place("fleet.snapshot.kept", old);
    let known = fleet(TenantKey::Bigint, 2000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    snapshot::save(&known, &path).unwrap();
                    assert_same(&snapshot::load(&path).unwrap(), &known);
                }
            });
        }
    });
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "fleet.snapshot",
            "fleet.snapshot.2.new",
            "fleet.snapshot.kept",
            "other.snapshot.1.new"
        ]
    );
}
