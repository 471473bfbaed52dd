//! The scheduler of a pool asks for no memory on the way of a query, counted by an allocator of this test's own.

#![allow(clippy::unwrap_used)]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tenantry_router::admission::{Bounds, Scheduler, Weight};
use tenantry_schema::tenant::TenantId;

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TENANTS: i64 = 1000;

/// A connection for each of a thousand tenants in turn, given back after a millisecond.
fn round(scheduler: &mut Scheduler<(), u8>, now: &mut u64) {
    for number in 1..=TENANTS {
        let asker = Some(TenantId::from_bigint(number).unwrap());
        let ticket = scheduler.request(asker, Weight::USUAL, *now).unwrap();
        *now += 1000;
        scheduler.release(ticket, Some(900), *now);
        assert!(scheduler.next(None, *now).is_none());
    }
}

/// One test in this process: what others allocate would be counted here.
#[test]
fn a_connection_that_is_free_costs_no_memory() {
    let mut scheduler = Scheduler::new(Bounds {
        size: 8,
        reserve: 2,
        queue_max: 100,
        tenant_queue_max: 50,
        adapts: true,
    });
    let mut now = 0;
    round(&mut scheduler, &mut now);
    let region = Region::new(COUNTED);
    for _ in 0..10 {
        round(&mut scheduler, &mut now);
    }
    let change = region.change();
    assert_eq!(change.allocations + change.reallocations, 0);
    // A million tenants that come once leave what a few thousand need.
    for number in 1..=1_000_000 {
        let asker = Some(TenantId::from_bigint(number).unwrap());
        let ticket = scheduler.request(asker, Weight::USUAL, now).unwrap();
        scheduler.release(ticket, None, now);
    }
    let kept = region.change();
    let kept = kept.bytes_allocated.saturating_sub(kept.bytes_deallocated);
    assert!(kept < 2 << 20, "{kept} bytes");
}
