//! What it costs the scheduler of a pool to serve one tenant while ten thousand requests of another wait.

use std::time::Instant;

use anyhow::Context as _;
use tenantry_router::admission::{Bounds, Scheduler, Weight};
use tenantry_schema::tenant::TenantId;

/// Requests of the one tenant that wait.
pub(super) const QUEUED: usize = 10_000;
/// Requests of the other that are measured.
pub(super) const MEASURED: usize = 20_000;
const POOL: usize = 8;

/// Microseconds of scheduling for each request of the other tenant: from its coming to its turn.
#[derive(Debug)]
pub(super) struct Cost {
    pub(super) median_us: f64,
    pub(super) p999_us: f64,
    /// Of a request that finds a connection and nobody who waits, with giving it back, nanoseconds.
    pub(super) uncontended_ns: f64,
}

pub(super) fn measure() -> anyhow::Result<Cost> {
    let tenant = |number| TenantId::from_bigint(number).map(Some);
    let (greedy, quiet) = (tenant(1)?, tenant(2)?);
    let mut scheduler: Scheduler<bool, u8> = Scheduler::new(Bounds {
        size: POOL,
        reserve: 1,
        queue_max: 4 * QUEUED,
        tenant_queue_max: 4 * QUEUED,
        adapts: true,
    });
    let mut held = Vec::new();
    let mut now = 0;
    while let Some(ticket) = scheduler.request(greedy, Weight::USUAL, now) {
        held.push(ticket);
    }
    while scheduler.load().waiting < QUEUED {
        let waits = scheduler.wait(greedy, Weight::USUAL, 0, false, now);
        waits.ok().context("the queue is full")?;
    }
    let mut costs = Vec::with_capacity(MEASURED);
    while costs.len() < MEASURED {
        now += 600;
        let start = Instant::now();
        let mut granted = scheduler.request(quiet, Weight::USUAL, now);
        if granted.is_none() {
            let waits = scheduler.wait(quiet, Weight::USUAL, 0, true, now);
            waits.ok().context("the queue is full")?;
        }
        // A connection comes back, of whoever has it for longest.
        if !held.is_empty() {
            scheduler.release(held.remove(0), Some(500), now);
        }
        let mut served = granted.is_some();
        while let Some(grant) = scheduler.next(None, now) {
            served |= grant.handle;
            if grant.handle {
                granted = Some(grant.ticket);
            } else {
                held.push(grant.ticket);
            }
        }
        let cost = start.elapsed();
        if served {
            costs.push(cost.as_secs_f64() * 1e6);
        }
        if let Some(ticket) = granted {
            scheduler.release(ticket, Some(500), now + 500);
        }
        while scheduler.load().waiting < QUEUED {
            let waits = scheduler.wait(greedy, Weight::USUAL, 0, false, now);
            waits.ok().context("the queue is full")?;
        }
    }
    costs.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = (costs.len() as f64 * part) as usize;
        costs.get(index).copied().unwrap_or_default()
    };
    Ok(Cost {
        median_us: at(0.5),
        p999_us: at(0.999),
        uncontended_ns: uncontended()?,
    })
}

fn uncontended() -> anyhow::Result<f64> {
    const ROUNDS: u32 = 1_000_000;
    let mut scheduler: Scheduler<(), u8> = Scheduler::new(Bounds {
        size: POOL,
        reserve: 1,
        queue_max: QUEUED,
        tenant_queue_max: QUEUED,
        adapts: true,
    });
    let start = Instant::now();
    for round in 0..ROUNDS {
        let now = u64::from(round) * 200;
        let asker = TenantId::from_bigint(i64::from(round % 200) + 1)?;
        let ticket = scheduler.request(Some(asker), Weight::USUAL, now);
        let ticket = ticket.context("nothing is held, and nothing is granted")?;
        scheduler.release(ticket, Some(150), now + 150);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS))
}
