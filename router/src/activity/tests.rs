//! What is counted stays counted, whoever ends when.

#![allow(clippy::unwrap_used)]

use tenantry_schema::tenant::TenantId;

use super::tenants::TENANTS_MAX;
use super::*;

fn totals(n: u64) -> Totals {
    Totals {
        transactions: n,
        transaction_us: n * 10,
        ..Totals::default()
    }
}

#[test]
fn folding_keeps_the_sum_and_the_largest() {
    let load = TenantLoad::default();
    let count = i64::try_from(TENANTS_MAX).unwrap() * 2;
    for id in 1..=count {
        let large = if id == 7 { 1_000_000 } else { 1 };
        load.add(TenantId::from_bigint(id).unwrap(), &totals(large));
    }
    let (top, others) = load.top(3);
    assert_eq!(top.first().unwrap().0.as_bigint(), Some(7));
    let sum: u64 = top.iter().map(|(_, usage)| usage.transactions).sum();
    assert_eq!(
        sum + others.transactions,
        u64::try_from(count).unwrap() - 1 + 1_000_000
    );
    assert!(load.len() <= TENANTS_MAX);
}
