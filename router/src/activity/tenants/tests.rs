//! Nothing is lost, nothing is rounded, and a tenant takes no more room than it may.

#![allow(clippy::unwrap_used)]

use super::*;

fn id(number: u64) -> TenantId {
    TenantId::from_u128(u128::from(number) + 1).unwrap()
}

fn totals(busy: u64) -> Totals {
    Totals {
        transactions: 1,
        statements: 2,
        rows: 3,
        transaction_us: busy,
        ..Totals::default()
    }
}

#[test]
fn a_tenant_takes_at_most_64_bytes() {
    // Just after the index has grown it is emptiest.
    for tenants in [100_000_u64, 230_000, 250_000, 450_000] {
        let load = TenantLoad::default();
        for tenant in 0..tenants {
            load.add(id(tenant), &totals(5));
        }
        load.take_touched();
        assert_eq!(load.len() as u64, tenants);
        let each = load.bytes() as f64 / tenants as f64;
        assert!(each <= 64.0, "{each} bytes for each of {tenants}");
    }
}

#[test]
fn the_busiest_are_exact_and_the_sum_stays_right() {
    let load = TenantLoad::default();
    let tenants = TENANTS_MAX as u64 * 5 / 4;
    let top = |tenant: u64| 1_000_000 - tenant;
    for tenant in 0..1000 {
        load.add(id(tenant), &totals(top(tenant) - 7));
    }
    for tenant in 1000..tenants {
        load.add(id(tenant), &totals(1));
    }
    for tenant in 0..1000 {
        load.add(id(tenant), &totals(7));
    }
    assert!(load.len() <= TENANTS_MAX);
    let (busiest, others) = load.top(1000);
    for (place, (tenant, usage)) in busiest.iter().enumerate() {
        assert_eq!(
            (*tenant, usage.busy_us),
            (id(place as u64), top(place as u64))
        );
        assert_eq!((usage.transactions, usage.rows), (2, 6));
    }
    assert_eq!(others.transactions, tenants - 1000);
    assert_eq!(others.busy_us, tenants - 1000);
}

#[test]
fn counters_do_not_overflow() {
    let load = TenantLoad::default();
    let most = u64::from(u32::MAX);
    let all = Totals {
        transactions: most,
        statements: most,
        errors: most,
        rows: most,
        transaction_us: most,
        wait_us: most,
        received: most,
        sent: most,
        ..Totals::default()
    };
    for round in 1..=5 {
        load.add(id(3), &all);
        load.add(id(3), &totals(1));
        let usage = load.of(id(3));
        assert_eq!(usage.errors, round * most);
        assert_eq!(usage.busy_us, round * (most + 1));
        assert_eq!(usage.statements, round * (most + 2));
    }
    assert_eq!(load.of(id(4)), TenantUsage::default());
    assert_eq!(load.len(), 1);
}

#[test]
fn what_was_used_lately_is_told_once() {
    let load = TenantLoad::default();
    load.add(id(1), &totals(10));
    load.add(id(1), &totals(10));
    load.add(id(2), &totals(u64::from(u32::MAX) + 5));
    let mut touched = load.take_touched();
    touched.sort_by_key(|touched| touched.tenant);
    assert_eq!(touched.len(), 2);
    assert_eq!(touched[0].lately.busy_us, 20);
    assert_eq!(touched[1].lately, touched[1].total);
    assert!(load.take_touched().is_empty());
    load.add(id(2), &totals(4));
    let touched = load.take_touched();
    assert_eq!((touched[0].tenant, touched[0].lately.busy_us), (id(2), 4));
    assert_eq!(touched[0].total.busy_us, u64::from(u32::MAX) + 9);
}
