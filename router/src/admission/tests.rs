//! The scheduler against its promises: what holds after every event, and what holds in the long run.

mod fairness;
mod invariants;
mod simulation;

use std::fmt::Debug;

use tenantry_schema::tenant::TenantId;

use super::{Asker, Scheduler};

/// Connections left to newcomers by default.
const RESERVE: usize = 1;

fn asker(number: usize) -> Asker {
    let number = i64::try_from(number).unwrap() + 1;
    Some(TenantId::from_bigint(number).unwrap())
}

/// What holds after every event, once nobody is next.
fn check<W: Debug, P: Copy + Eq + Debug>(scheduler: &mut Scheduler<W, P>) {
    let tenants: Vec<_> = scheduler.tenants.iter().collect();
    let held: usize = tenants.iter().map(|tenant| tenant.held as usize).sum();
    assert_eq!(held, scheduler.held);
    assert!(scheduler.beyond <= held);
    let waiting: usize = tenants.iter().map(|tenant| tenant.queue.len()).sum();
    assert_eq!(waiting, scheduler.waiters.len());
    let active: Vec<_> = tenants.iter().filter(|tenant| !tenant.is_idle()).collect();
    assert_eq!(active.len(), scheduler.tenants.active());
    let percent: u64 = active.iter().map(|tenant| tenant.weight.percent()).sum();
    assert_eq!(percent, scheduler.tenants.active_percent());
    for tenant in &tenants {
        assert_eq!(tenant.key.is_some(), !tenant.queue.is_empty());
    }
    let filed = tenants.iter().filter(|tenant| tenant.key.is_some()).count();
    assert_eq!(filed, scheduler.backlog.len());
    // Nobody waits beside a free connection that it may have.
    if let Some((key, _)) = scheduler.first() {
        assert!(!scheduler.admits(key), "{scheduler:?}");
    }
}
