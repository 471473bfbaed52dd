//! What each tenant gets in the long run, and how long it may have to wait for it.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{asker, check};
use crate::admission::{Bounds, Near, QueueFull, Scheduler, Ticket, Weight};

const SECOND: u64 = 1_000_000;

fn bounds(size: usize, reserve: usize) -> Bounds {
    Bounds {
        size,
        reserve,
        queue_max: 100_000,
        tenant_queue_max: 100_000,
        adapts: false,
    }
}

/// One that always has requests waiting.
#[derive(Debug, Clone, Copy)]
struct Greedy {
    percent: u32,
    held_us_max: u64,
}

/// Tenants that are never satisfied, each holding connections for random times.
struct Contest {
    tenants: Vec<Greedy>,
    scheduler: Scheduler<usize, u8>,
    held: Vec<(Ticket, usize, u64)>,
    /// Time of connections given back, by tenant.
    served_us: Vec<u64>,
    /// What a connection that comes back is near to.
    near: Option<usize>,
    longest_wait_us: Vec<u64>,
    now_us: u64,
    random: StdRng,
}

impl Contest {
    fn new(bounds: Bounds, tenants: Vec<Greedy>) -> Self {
        let count = tenants.len();
        let mut contest = Self {
            scheduler: Scheduler::new(bounds),
            held: Vec::new(),
            served_us: vec![0; count],
            near: None,
            longest_wait_us: vec![0; count],
            now_us: 0,
            random: StdRng::seed_from_u64(4),
            tenants,
        };
        for tenant in 0..count {
            for _ in 0..bounds.size + 20 {
                contest.ask(tenant);
            }
        }
        contest
    }

    fn ask(&mut self, tenant: usize) {
        let weight = Weight::of_percent(self.tenants[tenant].percent);
        let place = u8::try_from(tenant % 2).unwrap();
        match self.scheduler.request(asker(tenant), weight, self.now_us) {
            Some(ticket) => self.hold(ticket, tenant),
            None => {
                (self.scheduler)
                    .wait(asker(tenant), weight, place, tenant, self.now_us)
                    .unwrap();
            }
        }
    }

    fn hold(&mut self, ticket: Ticket, tenant: usize) {
        let most = self.tenants[tenant].held_us_max;
        let until = self.now_us + self.random.random_range(1..=most);
        self.held.push((ticket, tenant, until));
    }

    /// One connection comes back, and everything that follows from it.
    fn step(&mut self) {
        let next = (0..self.held.len()).min_by_key(|at| self.held[*at].2);
        let (ticket, tenant, until) = self.held.swap_remove(next.unwrap());
        self.now_us = until;
        self.served_us[tenant] += until - ticket.since_us;
        self.scheduler.release(ticket, None, until);
        let near = self.near.map(|near| Near {
            asker: Some(asker(near)),
            place: u8::try_from(near % 2).unwrap(),
        });
        while let Some(grant) = self.scheduler.next(near, until) {
            let waited = until - grant.since_us;
            let longest = &mut self.longest_wait_us[grant.handle];
            *longest = waited.max(*longest);
            self.hold(grant.ticket, grant.handle);
            self.ask(grant.handle);
        }
    }

    /// What a tenant has had until now, what it holds included, for a tenant of the usual weight.
    fn service(&self, tenant: usize) -> i64 {
        let held = self.held.iter().filter(|(_, holder, _)| *holder == tenant);
        let held: u64 = held
            .map(|(ticket, _, _)| self.now_us - ticket.since_us)
            .sum();
        let us = (self.served_us[tenant] + held) * 100 / u64::from(self.tenants[tenant].percent);
        i64::try_from(us).unwrap()
    }

    fn share(&self, tenant: usize) -> u64 {
        let all: u64 = self.served_us.iter().sum();
        self.served_us[tenant] * 1000 / all
    }
}

fn greedy() -> impl Strategy<Value = Greedy> {
    let weights = prop::sample::select(vec![25, 50, 100, 100, 200, 400]);
    (weights, 100..20_000_u64).prop_map(|(percent, held_us_max)| Greedy {
        percent,
        held_us_max,
    })
}

/// What two may differ by: what each can be granted at one instant, by what it takes or is thought to take at first,
/// and what is given away for nearness.
fn difference_max(size: usize, one: Greedy, other: Greedy) -> i64 {
    let own = |tenant: Greedy| tenant.held_us_max.max(1000) * 100 / u64::from(tenant.percent);
    let granted = (size as u64 + 1) * (own(one) + own(other));
    i64::try_from(granted + 2000).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Over any stretch of time, because the difference never leaves a band.
    #[test]
    fn the_service_of_any_two_differs_by_a_constant(
        size in 1..10_usize,
        tenants in prop::collection::vec(greedy(), 2..6),
        near in prop::option::of(0..2_usize),
    ) {
        let mut contest = Contest::new(bounds(size, 0), tenants);
        contest.near = near;
        let count = contest.tenants.len();
        let mut bands = vec![(i64::MAX, i64::MIN); count * count];
        while contest.now_us < 10 * SECOND {
            contest.step();
            for one in 0..count {
                for other in 0..one {
                    let difference = contest.service(one) - contest.service(other);
                    let (least, most) = &mut bands[one * count + other];
                    (*least, *most) = (difference.min(*least), difference.max(*most));
                }
            }
        }
        for one in 0..count {
            for other in 0..one {
                let (least, most) = bands[one * count + other];
                let bound = difference_max(size, contest.tenants[one], contest.tenants[other]);
                prop_assert!(most - least <= bound, "{} > {bound}", most - least);
            }
        }
        check(&mut contest.scheduler);
    }
}

#[test]
fn shares_follow_weights() {
    let tenant = |percent| Greedy {
        percent,
        held_us_max: 10_000,
    };
    let mut contest = Contest::new(bounds(8, 2), vec![tenant(100), tenant(200), tenant(500)]);
    while contest.now_us < 60 * SECOND {
        contest.step();
    }
    for (tenant, share) in [(0, 125), (1, 250), (2, 625)] {
        assert!(
            contest.share(tenant).abs_diff(share) <= 5,
            "{tenant}: {}",
            contest.share(tenant)
        );
    }
}

/// A hundred tenants that want everything, and one whose weight is worth one connection of eight.
#[test]
fn a_share_of_one_connection_is_one_connection() {
    let hungry = Greedy {
        percent: 7,
        held_us_max: 10_000,
    };
    let mut tenants = vec![hungry; 100];
    tenants.push(Greedy {
        percent: 100,
        held_us_max: 10_000,
    });
    let mut contest = Contest::new(bounds(8, 2), tenants);
    while contest.now_us < 60 * SECOND {
        contest.step();
    }
    // One part of eight.
    assert!(
        contest.share(100).abs_diff(125) <= 5,
        "{}",
        contest.share(100)
    );
    let least = (0..100).map(|tenant| contest.share(tenant)).min();
    assert!(least >= Some(7), "{least:?}");
}

/// Whoever the connections are near to, the others wait no longer than a round and the time for which they may be
/// passed over.
#[test]
fn nearness_starves_nobody() {
    let tenant = Greedy {
        percent: 100,
        held_us_max: 1000,
    };
    let mut contest = Contest::new(bounds(4, 0), vec![tenant; 6]);
    contest.near = Some(0);
    while contest.now_us < 20 * SECOND {
        contest.step();
    }
    for tenant in 0..6 {
        assert!(contest.share(tenant).abs_diff(166) <= 3, "{tenant}");
        // 24 of each wait, 4 are served at once, half a millisecond each.
        assert!(
            contest.longest_wait_us[tenant] < 50_000,
            "{:?}",
            contest.longest_wait_us
        );
    }
}

/// Newcomers without end, each of whom comes first by right, and one tenant that is no newcomer.
struct Stream {
    scheduler: Scheduler<usize, u8>,
    held: Vec<(Ticket, u64)>,
    now_us: u64,
    /// Since when the one tenant waits.
    since_us: Option<u64>,
    waited_us: u64,
    turns: usize,
}

impl Stream {
    const TENANT: usize = 0;

    /// A millisecond passes.
    fn step(&mut self) {
        self.now_us += 1000;
        for at in (0..self.held.len()).rev() {
            if self.held[at].1 <= self.now_us {
                let (ticket, _) = self.held.swap_remove(at);
                self.scheduler.release(ticket, None, self.now_us);
            }
        }
        while self.since_us.is_none() {
            self.ask(Self::TENANT);
        }
        while let Some(grant) = self.scheduler.next(None, self.now_us) {
            self.held.push((grant.ticket, self.now_us + 10_000));
            if grant.handle == Self::TENANT {
                let since = self.since_us.take().unwrap();
                self.waited_us = self.waited_us.max(self.now_us - since);
                self.turns += 1;
            }
        }
    }

    /// Asks for ten milliseconds.
    fn ask(&mut self, tenant: usize) {
        let (name, usual, now) = (asker(tenant), Weight::USUAL, self.now_us);
        if let Some(ticket) = self.scheduler.request(name, usual, now) {
            self.held.push((ticket, now + 10_000));
            return;
        }
        self.scheduler.wait(name, usual, 0, tenant, now).unwrap();
        if tenant == Self::TENANT {
            self.since_us = Some(now);
        }
    }
}

#[test]
fn a_stream_of_newcomers_starves_nobody() {
    for size in [1, 4, 8] {
        let mut stream = Stream {
            scheduler: Scheduler::new(bounds(size, 2)),
            held: Vec::new(),
            now_us: 0,
            since_us: None,
            waited_us: 0,
            turns: 0,
        };
        for slot in 1..20_000 {
            // A newcomer whenever a connection becomes free: they alone could use all there is.
            for connection in 0..size {
                if (slot + connection * 3) % 10 == 0 {
                    stream.ask(slot * size + connection);
                }
            }
            stream.step();
        }
        let Stream {
            turns, waited_us, ..
        } = stream;
        println!("{size}: {turns} turns, {waited_us} us at most");
        assert!(turns > 20, "size {size}: {turns} turns");
        assert!(waited_us < 2 * SECOND, "size {size}: {waited_us} us");
    }
}

/// Three connections of four idle in transaction for ten seconds: the fourth is not theirs as well.
#[test]
fn what_is_held_is_paid_for_while_it_is_held() {
    let mut scheduler: Scheduler<usize, u8> = Scheduler::new(bounds(4, 0));
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.extend(scheduler.request(asker(0), Weight::USUAL, 0));
    }
    let mut turns = [0; 2];
    let mut held = scheduler.request(asker(1), Weight::USUAL, 0);
    for _ in 0..5 {
        for tenant in 0..2 {
            scheduler
                .wait(asker(tenant), Weight::USUAL, 0, tenant, 0)
                .unwrap();
        }
    }
    for now in (10_000..500_000).step_by(10_000) {
        scheduler.release(held.take().unwrap(), None, now);
        let grant = scheduler.next(None, now).unwrap();
        turns[grant.handle] += 1;
        held = Some(grant.ticket);
        scheduler
            .wait(asker(grant.handle), Weight::USUAL, 0, grant.handle, now)
            .unwrap();
    }
    assert_eq!(turns[0], 0, "{turns:?}");
    assert_eq!(idle.len(), 3);
    // Once they have been given back, what was held for half a second is owed and no more.
    for ticket in idle {
        scheduler.release(ticket, None, 500_000);
    }
    check_drains(&mut scheduler, 500_000);
}

/// Everyone gets a turn when there are connections.
fn check_drains(scheduler: &mut Scheduler<usize, u8>, mut now: u64) {
    for _ in 0..1000 {
        while let Some(grant) = scheduler.next(None, now) {
            scheduler.release(grant.ticket, None, now + 1000);
        }
        now += 1000;
    }
    assert_eq!(scheduler.load().waiting, 0);
}

/// An hour idle in transaction is not an hour of waiting afterwards.
#[test]
fn a_debt_is_bounded() {
    let mut scheduler: Scheduler<usize, u8> = Scheduler::new(bounds(2, 0));
    let hour = 3600 * SECOND;
    let debtor = scheduler.request(asker(0), Weight::USUAL, 0).unwrap();
    let mut held = scheduler.request(asker(1), Weight::USUAL, 0).unwrap();
    for tenant in 0..10 {
        scheduler
            .wait(asker(tenant), Weight::USUAL, 0, tenant, hour)
            .unwrap();
    }
    let mut now = hour;
    scheduler.release(debtor, None, now);
    let mut other = scheduler.next(None, now).unwrap();
    // Others are served all the time.
    while other.handle != 0 {
        scheduler
            .wait(asker(other.handle), Weight::USUAL, 0, other.handle, now)
            .unwrap();
        let before = std::mem::replace(&mut held, other.ticket);
        now += 5000;
        scheduler.release(before, None, now);
        other = scheduler.next(None, now).unwrap();
        assert!(now - hour < 10 * SECOND, "still waits");
    }
}

/// However many others wait: what it owes is bounded in time as everybody knows it, not only in the pool's.
#[test]
fn who_holds_on_is_served_beside_any_number_of_others() {
    let others = Greedy {
        percent: 100,
        held_us_max: 20_000,
    };
    let mut contest = Contest::new(bounds(8, 1), Vec::new());
    // A session that listens, for instance: as long as it does its tenant pays for it.
    let holds = 0;
    let held = contest.scheduler.request(asker(holds), Weight::USUAL, 0);
    let held = held.unwrap();
    for tenant in 0..600 {
        contest.tenants.push(others);
        contest.served_us.push(0);
        contest.longest_wait_us.push(0);
        for _ in 0..20 {
            if tenant != holds {
                contest.ask(tenant);
            }
        }
    }
    while contest.now_us < 2 * SECOND {
        contest.step();
    }
    let asked_us = contest.now_us;
    contest.ask(holds);
    while contest.served_us[holds] == 0 {
        contest.step();
        assert!(
            contest.now_us - asked_us < 20 * SECOND,
            "it waits and waits"
        );
    }
    contest.scheduler.give_up(held, contest.now_us);
}

#[test]
fn one_that_is_alone_gets_all_but_the_reserve_and_a_newcomer_that() {
    let mut scheduler: Scheduler<(), u8> = Scheduler::new(bounds(8, 2));
    let mut held = Vec::new();
    for _ in 0..20 {
        held.extend(scheduler.request(asker(0), Weight::USUAL, 0));
    }
    assert_eq!(held.len(), 6);
    held.extend(scheduler.request(asker(1), Weight::USUAL, 0));
    held.extend(scheduler.request(asker(1), Weight::USUAL, 0));
    assert_eq!(held.len(), 7, "a newcomer is one for a single request");
    held.extend(scheduler.request(None, Weight::USUAL, 0));
    assert_eq!(held.len(), 8);
    // The pool is at its end.
    assert!(scheduler.request(asker(3), Weight::USUAL, 0).is_none());
}

#[test]
fn one_that_holds_on_does_not_come_into_the_reserve() {
    let mut scheduler: Scheduler<(), u8> = Scheduler::new(bounds(8, 1));
    let mut held = Vec::new();
    for _ in 0..20 {
        held.extend(scheduler.request(asker(0), Weight::USUAL, 0));
    }
    assert_eq!(held.len(), 7);
    scheduler.wait(asker(0), Weight::USUAL, 0, (), 0).unwrap();
    for second in 1..3600 {
        assert!(
            scheduler.next(None, second * SECOND).is_none(),
            "{second} s"
        );
    }
    let newcomer = scheduler.request(asker(1), Weight::USUAL, 3600 * SECOND);
    assert!(newcomer.is_some(), "the reserve is there");
}

#[test]
fn a_tenant_fills_half_of_a_queue() {
    let mut scheduler: Scheduler<(), u8> = Scheduler::new(Bounds {
        queue_max: 10,
        tenant_queue_max: 7,
        ..bounds(1, 0)
    });
    let _held = scheduler.request(asker(0), Weight::USUAL, 0);
    let mut wait = |tenant| {
        scheduler
            .wait(asker(tenant), Weight::USUAL, 0, (), 0)
            .map(drop)
    };
    for _ in 0..5 {
        assert_eq!(wait(0), Ok(()));
    }
    let full = |limit, waiting| Err(QueueFull::Tenant { limit, waiting });
    assert_eq!(wait(0), full(5, 5));
    for _ in 0..3 {
        assert_eq!(wait(1), Ok(()));
    }
    assert_eq!(wait(1), full(3, 3));
    for tenant in 2..4 {
        assert_eq!(wait(tenant), Ok(()));
    }
    let full = QueueFull::Pool {
        limit: 10,
        waiting: 10,
    };
    assert_eq!(wait(4), Err(full));
}

#[test]
fn a_tenants_own_bound_holds_in_an_empty_queue() {
    let mut scheduler: Scheduler<(), u8> = Scheduler::new(Bounds {
        tenant_queue_max: 1,
        ..bounds(1, 0)
    });
    let _held = scheduler.request(asker(0), Weight::USUAL, 0);
    assert!(scheduler.wait(asker(0), Weight::USUAL, 0, (), 0).is_ok());
    let full = QueueFull::Tenant {
        limit: 1,
        waiting: 1,
    };
    assert_eq!(scheduler.wait(asker(0), Weight::USUAL, 0, (), 0), Err(full));
}

/// Ten thousand of one tenant wait; of another that comes then, the first is next all the same.
#[test]
fn a_long_queue_is_its_owners_affair() {
    let mut scheduler: Scheduler<usize, u8> = Scheduler::new(bounds(1, 0));
    let held = scheduler.request(asker(0), Weight::USUAL, 0).unwrap();
    for _ in 0..10_000 {
        scheduler.wait(asker(0), Weight::USUAL, 0, 0, 0).unwrap();
    }
    scheduler.wait(asker(1), Weight::USUAL, 0, 1, 4000).unwrap();
    scheduler.release(held, None, 5000);
    assert_eq!(scheduler.next(None, 5000).unwrap().handle, 1);
}
