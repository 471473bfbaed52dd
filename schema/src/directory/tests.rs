//! The directory against a plain model of it: maps that hold everything as it is now.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tenant::{Epoch, Isolation, TenantState};

fn id(number: i64) -> TenantId {
    TenantId::from_bigint(number).unwrap()
}

fn row(number: i64, slug: &str) -> TenantRow {
    TenantRow {
        id: id(number),
        slug: slug.to_owned(),
        state: TenantState::Active,
        isolation: Isolation::Pooled,
        epoch: Epoch(1),
        plan: None,
        is_demo: false,
        is_simulation: false,
        suspended_reason: None,
        suspended_at: None,
    }
}

fn shard(number: u16) -> ShardId {
    ShardId::new(number).unwrap()
}

#[test]
fn finds_by_each_name() {
    let mut builder = DirectoryBuilder::new(TenantKey::Bigint);
    builder.push_hostname("blue-hat.example", id(7)).unwrap();
    builder.push_pin(id(7), shard(3));
    builder
        .push_tenant(&row(7, "blue-hat").record(None))
        .unwrap();
    builder
        .push_tenant(&row(8, "red-hat").record(Some(shard(4))))
        .unwrap();
    let directory = builder.build().unwrap();
    assert_eq!(directory.len(), 2);
    for text in ["7", "blue-hat", "blue-hat.example", "BLUE-hat.Example."] {
        let found = directory.resolve(TenantKey::Bigint, text).unwrap();
        assert_eq!(
            (found.id, found.slug, found.pin),
            (id(7), "blue-hat", Some(shard(3))),
            "{text}"
        );
    }
    assert_eq!(directory.by_id(id(8)).unwrap().pin, Some(shard(4)));
    for text in [
        "9",
        "07",
        "blue",
        "BLUE-HAT",
        "",
        ".",
        "other.example",
        "blue-hat.example..",
    ] {
        assert_eq!(directory.resolve(TenantKey::Bigint, text), None, "{text}");
    }
    assert_eq!(
        directory.resolve(TenantKey::Bigint, &"x".repeat(100_000)),
        None
    );
    assert_eq!(directory.by_hostname(&"X.".repeat(100_000)), None);
}

#[test]
fn keeps_what_few_tenants_have() {
    let mut odd = row(1, "odd");
    odd.epoch = Epoch(u64::MAX);
    odd.plan = Some("plus".into());
    odd.state = TenantState::Suspended;
    odd.isolation = Isolation::Silo;
    odd.is_simulation = true;
    odd.suspended_reason = Some("unpaid".into());
    odd.suspended_at = Some(jiff::Timestamp::from_second(1_700_000_000).unwrap());
    let mut builder = DirectoryBuilder::new(TenantKey::Uuid);
    builder.push_tenant(&odd.record(Some(shard(4095)))).unwrap();
    let directory = builder.build().unwrap();
    assert_eq!(
        directory.by_id(id(1)).unwrap(),
        odd.record(Some(shard(4095)))
    );
}

#[test]
fn more_plans_than_have_numbers() {
    let mut builder = DirectoryBuilder::new(TenantKey::Bigint);
    for number in 1..=70_000 {
        let mut row = row(number, &format!("t{number}"));
        row.plan = Some(format!("plan-{number}"));
        builder.push_tenant(&row.record(None)).unwrap();
    }
    let directory = builder.build().unwrap();
    for number in [1, 65_535, 65_536, 70_000] {
        let plan = format!("plan-{number}");
        assert_eq!(
            directory.by_id(id(number)).unwrap().plan,
            Some(plan.as_str())
        );
    }
}

#[test]
fn refuses_what_contradicts_itself() {
    let build = |fill: &dyn Fn(&mut DirectoryBuilder)| {
        let mut builder = DirectoryBuilder::new(TenantKey::Bigint);
        builder.push_tenant(&row(1, "one").record(None)).unwrap();
        fill(&mut builder);
        builder.build().map(|directory| directory.len())
    };
    let tenant = |builder: &mut DirectoryBuilder, row: TenantRow| {
        builder.push_tenant(&row.record(None)).unwrap();
    };
    assert_eq!(build(&|_| ()), Ok(1));
    assert_eq!(
        build(&|builder| tenant(builder, row(1, "two"))),
        Err(BuildError::DuplicateId(id(1), TenantKey::Bigint))
    );
    assert_eq!(
        build(&|builder| tenant(builder, row(2, "one"))),
        Err(BuildError::DuplicateSlug("one".into()))
    );
    assert_eq!(
        build(&|builder| {
            builder.push_hostname("a.example", id(1)).unwrap();
            builder.push_hostname("a.example", id(1)).unwrap();
        }),
        Err(BuildError::DuplicateHostname("a.example".into()))
    );
    for fill in [
        &(|builder: &mut DirectoryBuilder| builder.push_hostname("a.example", id(2)).unwrap())
            as &dyn Fn(&mut DirectoryBuilder),
        &|builder| builder.push_pin(id(2), shard(1)),
    ] {
        assert!(matches!(build(fill), Err(BuildError::UnknownTenant { .. })));
    }
    let mut builder = DirectoryBuilder::new(TenantKey::Bigint);
    let mut wide = row(1, "wide");
    wide.id = TenantId::from_u128(u128::MAX).unwrap();
    assert_eq!(
        builder.push_tenant(&wide.record(None)),
        Err(BuildError::NotABigint)
    );
}

#[test]
fn versions_are_independent() {
    let before = Directory::empty(TenantKey::Bigint);
    let after = before
        .apply(&[DirectoryChange::UpsertTenant(row(1, "one"))])
        .unwrap();
    let renamed = after
        .apply(&[DirectoryChange::UpsertTenant(row(1, "uno"))])
        .unwrap();
    assert_eq!((before.len(), after.len(), renamed.len()), (0, 1, 1));
    assert!(before.by_slug("one").is_none());
    assert_eq!(after.by_slug("one").unwrap().id, id(1));
    assert!(renamed.by_slug("one").is_none());
    assert_eq!(renamed.by_slug("uno").unwrap().id, id(1));
}

#[test]
fn a_full_overlay_becomes_a_base() {
    let changes: Vec<_> = (1..=OVERLAY_ENTRIES_MIN as i64 + 1)
        .map(|number| DirectoryChange::UpsertTenant(row(number, &format!("t{number}"))))
        .collect();
    let directory = Directory::empty(TenantKey::Bigint).apply(&changes).unwrap();
    assert_eq!(directory.overlay_len(), 0);
    assert_eq!(directory.len(), changes.len());
    assert_eq!(directory.by_slug("t77").unwrap().id, id(77));
}

/// What a directory must answer, kept as plainly as possible.
#[derive(Debug, Clone, Default)]
struct Model {
    tenants: BTreeMap<TenantId, (TenantRow, Option<ShardId>)>,
    hostnames: BTreeMap<String, TenantId>,
}

impl Model {
    fn apply(&mut self, change: &DirectoryChange) {
        match change {
            DirectoryChange::UpsertTenant(row) => {
                let pin = self.tenants.get(&row.id).and_then(|(_, pin)| *pin);
                self.tenants.insert(row.id, (row.clone(), pin));
            }
            DirectoryChange::RemoveTenant(id) => {
                self.tenants.remove(id);
            }
            DirectoryChange::UpsertHostname { name, tenant } => {
                self.hostnames.insert(name.clone(), *tenant);
            }
            DirectoryChange::RemoveHostname(name) => {
                self.hostnames.remove(name);
            }
            DirectoryChange::Pin { tenant, shard } => {
                if let Some((_, pin)) = self.tenants.get_mut(tenant) {
                    *pin = Some(*shard);
                }
            }
            DirectoryChange::Unpin(tenant) => {
                if let Some((_, pin)) = self.tenants.get_mut(tenant) {
                    *pin = None;
                }
            }
        }
    }

    /// Whether the catalog's constraints would let this change happen now.
    fn admits(&self, change: &DirectoryChange) -> bool {
        match change {
            DirectoryChange::UpsertTenant(row) => {
                let mut others = self.tenants.values().map(|(other, _)| other);
                others.all(|other| other.id == row.id || other.slug != row.slug)
            }
            DirectoryChange::RemoveTenant(id) => self.hostnames.values().all(|tenant| tenant != id),
            DirectoryChange::UpsertHostname { tenant, .. }
            | DirectoryChange::Pin { tenant, .. } => self.tenants.contains_key(tenant),
            DirectoryChange::RemoveHostname(_) | DirectoryChange::Unpin(_) => true,
        }
    }

    fn check(&self, directory: &Directory) {
        assert_eq!(directory.len(), self.tenants.len());
        for number in 1..=TENANTS {
            let expected = self
                .tenants
                .get(&id(number))
                .map(|(row, pin)| row.record(*pin));
            assert_eq!(directory.by_id(id(number)), expected);
        }
        for number in 0..SLUGS {
            let slug = format!("s{number}");
            let mut tenants = self.tenants.values();
            let expected = tenants.find(|(row, _)| row.slug == slug);
            let found = directory.by_slug(&slug);
            assert_eq!(found, expected.map(|(row, pin)| row.record(*pin)));
        }
        for number in 0..HOSTNAMES {
            let name = format!("h{number}.example");
            let expected = self.hostnames.get(&name).copied();
            assert_eq!(
                directory.by_hostname(&name).map(|record| record.id),
                expected
            );
        }
        let mut tenants: Vec<_> = directory
            .tenants()
            .map(|record| (record.id, record.to_row()))
            .collect();
        tenants.sort_by_key(|(id, _)| *id);
        assert!(
            tenants
                .iter()
                .map(|(_, row)| row)
                .eq(self.tenants.values().map(|(row, _)| row))
        );
        let hostnames: BTreeMap<_, _> = directory
            .hostnames()
            .map(|(name, tenant)| (name.to_owned(), tenant))
            .collect();
        assert_eq!(hostnames, self.hostnames);
    }
}

const TENANTS: i64 = 12;
const SLUGS: u32 = 16;
const HOSTNAMES: u32 = 10;

fn any_change() -> impl Strategy<Value = DirectoryChange> {
    let tenant = || (1..=TENANTS).prop_map(id);
    let hostname = || (0..HOSTNAMES).prop_map(|number| format!("h{number}.example"));
    prop_oneof![
        4 => (1..=TENANTS, 0..SLUGS, any::<bool>()).prop_map(|(number, slug, suspended)| {
            let mut row = row(number, &format!("s{slug}"));
            if suspended {
                row.state = TenantState::Suspended;
                row.suspended_reason = Some("test".into());
            }
            DirectoryChange::UpsertTenant(row)
        }),
        1 => tenant().prop_map(DirectoryChange::RemoveTenant),
        3 => (hostname(), tenant()).prop_map(|(name, tenant)| DirectoryChange::UpsertHostname { name, tenant }),
        1 => hostname().prop_map(DirectoryChange::RemoveHostname),
        2 => (tenant(), 1u16..5).prop_map(|(tenant, number)| DirectoryChange::Pin { tenant, shard: shard(number) }),
        1 => tenant().prop_map(DirectoryChange::Unpin),
    ]
}

proptest! {
    #[test]
    fn answers_as_the_model_does(
        steps in prop::collection::vec((any_change(), 0u8..8), 1..80),
    ) {
        let mut model = Model::default();
        let mut directory = Directory::empty(TenantKey::Bigint);
        for (change, fold) in steps {
            if !model.admits(&change) {
                continue;
            }
            model.apply(&change);
            directory = directory.apply(&[change]).unwrap();
            if fold == 0 {
                directory = directory.compacted().unwrap();
            }
            model.check(&directory);
        }
        model.check(&directory.compacted().unwrap());
    }
}
