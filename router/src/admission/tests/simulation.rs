//! A shard, a pool and its tenants in simulated time: the same every time, however busy the machine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{RESERVE, asker, check};
use crate::admission::{Bounds, Scheduler, Ticket, Weight};

const SECOND: u64 = 1_000_000;

/// What one tenant asks for: requests at random (Poisson) moments.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    per_second: f64,
    /// So many times as many in the second half.
    storm: f64,
    /// What a request takes on a shard that does nothing else.
    us: u64,
    weight: Weight,
}

/// What a shard is made of.
#[derive(Debug, Clone, Copy)]
struct Shard {
    /// Statements share so many processors; `None`: each has its own, as if it slept.
    processors: Option<f64>,
}

/// What one tenant got.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// From the request to its end, microseconds.
    took_us: Vec<u64>,
    refused: usize,
    /// Time that it held connections.
    held_us: u64,
}

#[derive(Debug)]
struct Job {
    tenant: usize,
    asked_us: u64,
    work_us: f64,
}

#[derive(Debug)]
struct Running {
    job: Job,
    ticket: Ticket,
    since_us: u64,
    left_us: f64,
}

struct Simulation<'a> {
    pool: Pool,
    traffic: &'a [Traffic],
    scheduler: Scheduler<Job, u8>,
    running: Vec<Running>,
    arrivals: BinaryHeap<Reverse<(u64, usize)>>,
    random: StdRng,
    now_us: u64,
    storm_from_us: u64,
    measured_from_us: u64,
    outcomes: Vec<Outcome>,
}

/// So long, of which the calm half is not measured.
fn simulate(pool: Pool, traffic: &[Traffic], seconds: u64) -> Vec<Outcome> {
    let mut simulation = Simulation {
        pool,
        traffic,
        scheduler: Scheduler::new(pool.bounds),
        running: Vec::new(),
        arrivals: BinaryHeap::new(),
        random: StdRng::seed_from_u64(20_261_120),
        now_us: 0,
        storm_from_us: seconds * SECOND / 2,
        // A second for everything to settle: what is asserted is how it stays.
        measured_from_us: seconds * SECOND / 2 + SECOND,
        outcomes: vec![Outcome::default(); traffic.len()],
    };
    for tenant in 0..traffic.len() {
        simulation.arrive_later(tenant);
    }
    simulation.run(seconds * SECOND);
    simulation.outcomes
}

impl Simulation<'_> {
    fn run(&mut self, until_us: u64) {
        let mut events = 0;
        while self.now_us < until_us {
            let done = self.next_done();
            let arrival = self.arrivals.peek().map(|Reverse((at, _))| *at);
            match (arrival, done) {
                (Some(arrival), Some((done, _))) if arrival <= done => self.arrive(arrival),
                (_, Some((done, at))) => self.end(done, at),
                (Some(arrival), None) => self.arrive(arrival),
                (None, None) => return,
            }
            events += 1;
            if events % 997 == 0 {
                check(&mut self.scheduler);
            }
        }
    }

    fn speed(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let running = self.running.len().max(1) as f64;
        let processors = self.pool.shard.processors.unwrap_or(running);
        (processors / running).min(1.0)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    fn next_done(&self) -> Option<(u64, usize)> {
        let least = (self.running.iter().enumerate())
            .min_by(|(_, one), (_, other)| one.left_us.total_cmp(&other.left_us))?;
        let left = (least.1.left_us / self.speed()).ceil() as u64;
        Some((self.now_us + left, least.0))
    }

    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn go_to(&mut self, now_us: u64) {
        let done = (now_us - self.now_us) as f64 * self.speed();
        for running in &mut self.running {
            running.left_us -= done;
        }
        self.now_us = now_us;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    fn arrive_later(&mut self, tenant: usize) {
        let uniform: f64 = self.random.random_range(f64::MIN_POSITIVE..1.0);
        let traffic = self.traffic[tenant];
        let times = if self.now_us < self.storm_from_us {
            1.0
        } else {
            traffic.storm
        };
        let wait = -uniform.ln() / (traffic.per_second * times) * 1e6;
        let at = self.now_us + wait as u64;
        self.arrivals.push(Reverse((at, tenant)));
    }

    fn arrive(&mut self, at: u64) {
        self.go_to(at);
        let Some(Reverse((_, tenant))) = self.arrivals.pop() else {
            return;
        };
        self.arrive_later(tenant);
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let work_us = self.traffic[tenant].us as f64 * self.random.random_range(0.95..1.15);
        let job = Job {
            tenant,
            asked_us: at,
            work_us,
        };
        let name = if self.pool.fair { asker(tenant) } else { None };
        let weight = self.traffic[tenant].weight;
        match self.scheduler.request(name, weight, at) {
            Some(ticket) => self.start(job, ticket),
            None => {
                if self.scheduler.wait(name, weight, 0, job, at).is_err() {
                    self.outcomes[tenant].refused += 1;
                }
            }
        }
        self.dispatch();
    }

    fn end(&mut self, at: u64, index: usize) {
        self.go_to(at);
        let Running {
            job,
            ticket,
            since_us,
            ..
        } = self.running.swap_remove(index);
        let outcome = &mut self.outcomes[job.tenant];
        if job.asked_us >= self.measured_from_us {
            outcome.took_us.push(at - job.asked_us);
        }
        if at >= self.measured_from_us {
            outcome.held_us += at - since_us.max(self.measured_from_us);
        }
        self.scheduler.release(ticket, Some(at - since_us), at);
        self.dispatch();
    }

    fn dispatch(&mut self) {
        while let Some(grant) = self.scheduler.next(None, self.now_us) {
            self.start(grant.handle, grant.ticket);
        }
    }

    fn start(&mut self, job: Job, ticket: Ticket) {
        self.running.push(Running {
            left_us: job.work_us,
            since_us: self.now_us,
            job,
            ticket,
        });
    }
}

/// So many tenants alike, who take `load` of a pool together.
fn alike(tenants: usize, size: usize, load: f64, us: u64) -> Vec<Traffic> {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let per_second = load * size as f64 * 1e6 / us as f64 / tenants as f64;
    let one = Traffic {
        per_second,
        storm: 1.0,
        us,
        weight: Weight::USUAL,
    };
    vec![one; tenants]
}

fn p95_us(outcomes: &[Outcome]) -> f64 {
    let all = outcomes.iter().flat_map(|one| &one.took_us);
    let mut all: Vec<u64> = all.copied().collect();
    all.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let us = all[all.len() * 95 / 100] as f64;
    us
}

/// How the tenants share a pool.
#[derive(Debug, Clone, Copy)]
struct Pool {
    bounds: Bounds,
    shard: Shard,
    /// Whether they are told apart at all.
    fair: bool,
}

impl Pool {
    fn of(size: usize) -> Self {
        Self {
            bounds: Bounds {
                size,
                reserve: RESERVE,
                queue_max: 10_000,
                tenant_queue_max: 5000,
                adapts: true,
            },
            shard: Shard { processors: None },
            fair: true,
        }
    }

    /// p95 of all but the first `aggressors` when these have so many times their load, relative to their p95 when
    /// they have not.
    fn ratio(self, calm: &[Traffic], aggressors: usize, times: f64) -> f64 {
        let seconds = 30;
        let before = simulate(self, calm, seconds);
        let mut storm = calm.to_vec();
        for traffic in &mut storm[..aggressors] {
            traffic.storm = times;
        }
        let after = simulate(self, &storm, seconds);
        let (hot, others) = after.split_at(aggressors);
        if self.fair {
            let refused: usize = others.iter().map(|outcome| outcome.refused).sum();
            assert_eq!(refused, 0, "an innocent tenant was refused");
        }
        for one in hot {
            assert!(!one.took_us.is_empty(), "an aggressor got nothing");
        }
        let ratio = p95_us(others) / p95_us(&before[aggressors..]);
        let got: Vec<_> = hot.iter().map(|one| one.held_us / 14_000).collect();
        println!("{aggressors} at {times}x: ratio {ratio:.3}, aggressors held {got:?} permille");
        ratio
    }
}

/// The bar of two hundred tenants on a pool of eight. In theory it is near 1.2.
#[test]
fn others_hardly_notice_one_aggressor_nor_five() {
    let calm = alike(200, 8, 0.5, 5000);
    assert!(Pool::of(8).ratio(&calm, 1, 100.0) < 1.25);
    assert!(Pool::of(8).ratio(&calm, 5, 100.0) < 1.3);
}

#[test]
fn thousands_of_tenants_hardly_notice_ten() {
    let calm = alike(3000, 20, 0.5, 5000);
    assert!(Pool::of(20).ratio(&calm, 10, 1000.0) < 1.15);
}

/// What the bars are held against: one queue for all.
#[test]
fn without_fairness_everyone_suffers() {
    let calm = alike(200, 8, 0.5, 5000);
    let unfair = Pool {
        fair: false,
        ..Pool::of(8)
    };
    assert!(unfair.ratio(&calm, 5, 100.0) > 10.0);
}

/// Statements that share two processors in a pool of twenty: all at once would make each ten times slower.
#[test]
fn a_slow_shard_is_given_less_and_newcomers_gain_by_it() {
    let calm = alike(200, 2, 0.5, 2000);
    let processors = Some(2.0);
    let mut pool = Pool {
        shard: Shard { processors },
        ..Pool::of(20)
    };
    let adapted = pool.ratio(&calm, 5, 100.0);
    pool.bounds.adapts = false;
    let stubborn = pool.ratio(&calm, 5, 100.0);
    assert!(adapted < stubborn * 0.7, "{adapted} {stubborn}");
}
