//! Any events in any order: after each of them the books are right and nobody waits in vain.

use proptest::prelude::*;

use super::{asker, check};
use crate::admission::{Bounds, Near, Scheduler, Ticket, WaiterId, Weight};

#[derive(Debug, Clone)]
enum Step {
    Ask {
        tenant: usize,
        percent: u32,
        place: u8,
    },
    Release(prop::sample::Index),
    GiveUp(prop::sample::Index),
    Withdraw(prop::sample::Index),
    WithdrawAll,
    Wait(u64),
    Resize {
        size: usize,
        reserve: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_usize, prop::sample::select(vec![10, 100, 400]), 0..3_u8)
            .prop_map(|(tenant, percent, place)| Step::Ask { tenant, percent, place }),
        5 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        1 => any::<prop::sample::Index>().prop_map(Step::Withdraw),
        4 => (0..50_000_u64).prop_map(Step::Wait),
        1 => (0..12_usize, 0..4_usize).prop_map(|(size, reserve)| Step::Resize { size, reserve }),
        1 => Just(Step::Wait(100_000_000)),
        1 => Just(Step::WithdrawAll),
    ]
}

/// Everything that a pool would know.
struct Bed {
    scheduler: Scheduler<u64, u8>,
    now_us: u64,
    asked: u64,
    held: Vec<Ticket>,
    waiting: Vec<(WaiterId, u64)>,
}

impl Bed {
    fn take(&mut self, step: Step) {
        let now = self.now_us;
        let mut near = None;
        match step {
            Step::Ask {
                tenant,
                percent,
                place,
            } => {
                self.asked += 1;
                let weight = Weight::of_percent(percent);
                match self.scheduler.request(asker(tenant), weight, now) {
                    Some(ticket) => self.held.push(ticket),
                    None => {
                        let waits =
                            (self.scheduler).wait(asker(tenant), weight, place, self.asked, now);
                        self.waiting.extend(waits.map(|id| (id, self.asked)));
                    }
                }
            }
            Step::Release(which) if !self.held.is_empty() => {
                let at = which.index(self.held.len());
                let ticket = self.held.swap_remove(at);
                near = Some(Near {
                    asker: Some(asker(at % 6)),
                    place: u8::try_from(at % 3).unwrap(),
                });
                let worked = ticket.since_us % 7;
                self.scheduler.release(ticket, Some(worked * 1000), now);
            }
            Step::GiveUp(which) if !self.held.is_empty() => {
                let at = which.index(self.held.len());
                self.scheduler.give_up(self.held.swap_remove(at), now);
            }
            Step::Withdraw(which) if !self.waiting.is_empty() => {
                let at = which.index(self.waiting.len());
                let (id, number) = self.waiting.swap_remove(at);
                assert_eq!(self.scheduler.withdraw(id, now), Some(number));
                assert_eq!(self.scheduler.withdraw(id, now), None);
            }
            Step::WithdrawAll => {
                let mut all = self.scheduler.withdraw_all(now);
                all.sort_unstable();
                let mut known: Vec<_> = self.waiting.drain(..).map(|(_, number)| number).collect();
                known.sort_unstable();
                assert_eq!(all, known);
            }
            Step::Resize { size, reserve } => self.scheduler.set_bounds(bounds(size, reserve)),
            Step::Wait(us) => self.now_us += us,
            Step::Release(_) | Step::GiveUp(_) | Step::Withdraw(_) => {}
        }
        self.grant(near);
    }

    fn grant(&mut self, near: Option<Near<u8>>) {
        while let Some(grant) = self.scheduler.next(near, self.now_us) {
            let waiting = self.waiting.len();
            self.waiting.retain(|(_, number)| *number != grant.handle);
            assert_eq!(self.waiting.len(), waiting - 1, "granted to nobody");
            self.held.push(grant.ticket);
        }
        check(&mut self.scheduler);
        let load = self.scheduler.load();
        assert_eq!(load.held, self.held.len());
        assert_eq!(load.waiting, self.waiting.len());
    }
}

fn bounds(size: usize, reserve: usize) -> Bounds {
    Bounds {
        size,
        reserve,
        queue_max: 40,
        tenant_queue_max: 15,
        adapts: true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_books_are_right(
        size in 0..12_usize,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut bed = Bed {
            scheduler: Scheduler::new(bounds(size, 2)),
            now_us: 0,
            asked: 0,
            held: Vec::new(),
            waiting: Vec::new(),
        };
        for step in steps {
            bed.take(step);
        }
        // Everyone who waits gets a turn once there is a pool and what is held comes back.
        bed.take(Step::Resize { size: 8, reserve: 2 });
        for _ in 0..1000 {
            bed.now_us += 1000;
            while let Some(ticket) = bed.held.pop() {
                bed.scheduler.release(ticket, None, bed.now_us);
            }
            bed.grant(None);
        }
        prop_assert!(bed.waiting.is_empty() && bed.held.is_empty());
        prop_assert_eq!(bed.scheduler.load().tenants_active, 0);
    }
}
