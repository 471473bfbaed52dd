//! Simulated shards: a pool of 8, statements of 5 ms, arrivals by chance. Seeds are in every message.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

const POOL: f64 = 8.0;
const STATEMENT: f64 = 0.005;

/// How often something happens that happens `mean` times on average.
fn poisson(random: &mut StdRng, mean: f64) -> f64 {
    // In parts, because e^-mean must not vanish.
    let (mut left, mut count) = (mean, 0.0);
    while left > 0.0 {
        let part = left.min(30.0);
        left -= part;
        let (limit, mut product) = ((-part).exp(), random.random::<f64>());
        while product > limit {
            count += 1.0;
            product *= random.random::<f64>();
        }
    }
    count
}

/// A shard whose tenants ask so often each, statements per second.
struct Shard {
    random: StdRng,
    rates: Vec<f64>,
    heat: Heat<usize>,
    limits: HeatLimits,
    second: usize,
}

impl Shard {
    fn new(seed: u64, rates: Vec<f64>) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            rates,
            heat: Heat::default(),
            limits: HeatLimits::default(),
            second: 0,
        }
    }

    /// Half of the pool, split evenly.
    fn even(seed: u64, tenants: usize) -> Self {
        let each = POOL / 2.0 / STATEMENT / tenants as f64;
        Self::new(seed, vec![each; tenants])
    }

    /// Half of the pool, split by Zipf's law with exponent 0.99.
    fn zipf(seed: u64, tenants: usize) -> Self {
        let weights: Vec<f64> = (1..=tenants)
            .map(|rank| (rank as f64).powf(-0.99))
            .collect();
        let sum: f64 = weights.iter().sum();
        let rate = |weight: &f64| POOL / 2.0 / STATEMENT * weight / sum;
        Self::new(seed, weights.iter().map(rate).collect())
    }

    /// One second; a pool that is asked for more than it has gives the least demanding what they want.
    fn second(&mut self) -> Vec<Verdict<usize>> {
        self.second += 1;
        let mut wanted: Vec<(usize, f64)> = Vec::new();
        for (tenant, rate) in self.rates.iter().enumerate() {
            wanted.push((tenant, poisson(&mut self.random, *rate) * STATEMENT));
        }
        wanted.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (mut left, mut waiting) = (POOL, wanted.len());
        let mut tenants = Vec::new();
        for (tenant, wants) in wanted {
            let busy = wants.min(left / waiting as f64);
            left -= busy;
            waiting -= 1;
            if busy > 0.0 {
                tenants.push(TenantSample {
                    tenant,
                    busy,
                    transactions: busy / STATEMENT,
                });
            }
        }
        // As routers tell it: the busiest by name.
        tenants.sort_by(|a, b| b.busy.total_cmp(&a.busy));
        tenants.truncate(256);
        let sample = ShardSample {
            seconds: 1.0,
            busy: POOL - left,
            tenants,
            is_dedicated: false,
        };
        self.heat.step(sample, &self.limits)
    }

    fn seconds(&mut self, count: usize) -> Vec<Verdict<usize>> {
        (0..count).flat_map(|_| self.second()).collect()
    }
}

#[test]
fn ten_minutes_of_zipf_are_no_alarm() {
    for (tenants, seeds) in [(200, 3), (2000, 1)] {
        for seed in 0..seeds {
            let mut shard = Shard::zipf(seed, tenants);
            let verdicts = shard.seconds(600);
            assert!(
                verdicts.is_empty(),
                "seed {seed}, {tenants} tenants: {verdicts:#?}"
            );
        }
    }
}

#[test]
fn a_hundredfold_aggressor_is_found_within_three_seconds() {
    for seed in 0..50 {
        for aggressors in [1, 5] {
            let mut shard = Shard::even(seed, 200);
            assert!(shard.seconds(60).is_empty(), "seed {seed}");
            for rate in shard.rates.iter_mut().take(aggressors) {
                *rate *= 100.0;
            }
            let verdicts = shard.seconds(3);
            let mut hot: Vec<usize> = verdicts.iter().map(|verdict| verdict.tenant).collect();
            hot.sort_unstable();
            let expected: Vec<usize> = (0..aggressors).collect();
            assert_eq!(hot, expected, "seed {seed}");
            for verdict in &verdicts {
                assert!(
                    verdict.is_hot && verdict.share > 0.05,
                    "seed {seed}: {verdict:?}"
                );
            }
        }
    }
}

#[test]
fn among_unequal_tenants_a_small_one_that_grows_is_found() {
    for seed in 0..20 {
        let mut shard = Shard::zipf(seed, 200);
        shard.seconds(60);
        shard.rates[150] *= 100.0;
        let verdicts = shard.seconds(3);
        let hot: Vec<usize> = verdicts.iter().map(|verdict| verdict.tenant).collect();
        assert_eq!(hot, [150], "seed {seed}");
    }
}

#[test]
fn it_is_cold_after_the_window_and_not_on_the_edge() {
    let mut shard = Shard::even(1, 200);
    shard.seconds(60);
    shard.rates[7] *= 100.0;
    assert_eq!(shard.seconds(3).len(), 1);
    // It pauses for less than the window, again and again: still hot, and told once.
    for _ in 0..4 {
        shard.rates[7] /= 100.0;
        assert_eq!(shard.seconds(20), []);
        shard.rates[7] *= 100.0;
        assert_eq!(shard.seconds(10), []);
    }
    shard.rates[7] /= 100.0;
    assert_eq!(shard.seconds(29), []);
    let cold = shard.seconds(4);
    assert_eq!(cold.len(), 1);
    assert_eq!(
        (cold[0].tenant, cold[0].is_hot, cold[0].why),
        (7, false, Why::Cooled)
    );
    assert_eq!(shard.heat.hot().count(), 0);
}

#[test]
fn what_harms_nobody_is_not_hot() {
    // All of a shard that does next to nothing.
    let mut shard = Shard::new(1, vec![20.0]);
    assert_eq!(shard.seconds(120), []);
    // One report of ten seconds among many small statements is no growth.
    let mut shard = Shard::even(2, 200);
    shard.seconds(60);
    let one = TenantSample {
        tenant: 900,
        busy: 1.0,
        transactions: 0.0,
    };
    for _ in 0..10 {
        let sample = ShardSample {
            seconds: 1.0,
            busy: 5.0,
            tenants: vec![one],
            is_dedicated: false,
        };
        assert_eq!(shard.heat.step(sample, &shard.limits), []);
    }
}

#[test]
fn who_takes_over_knows_who_is_hot() {
    let mut heat = Heat::default();
    heat.adopt(3_usize);
    let idle = ShardSample {
        seconds: 1.0,
        busy: 0.0,
        tenants: Vec::new(),
        is_dedicated: true,
    };
    let limits = HeatLimits::default();
    let verdicts: Vec<_> = (0..40)
        .flat_map(|_| heat.step(idle.clone(), &limits))
        .collect();
    assert_eq!(verdicts.len(), 1);
    assert!(!verdicts[0].is_hot);
}

#[test]
fn the_evidence_reads_well() {
    let mut heat = Heat::default();
    let limits = HeatLimits::default();
    let sample = ShardSample {
        seconds: 1.0,
        busy: 8.0,
        tenants: vec![TenantSample {
            tenant: 5,
            busy: 6.0,
            transactions: 1200.0,
        }],
        is_dedicated: false,
    };
    assert_eq!(heat.step(sample.clone(), &limits), []);
    let verdicts = heat.step(sample, &limits);
    let mut evidence = serde_json::to_value(&verdicts[0]).unwrap();
    let baseline = evidence["baseline"].as_f64().unwrap();
    assert!((baseline - 6.0).abs() < 1e-9, "{baseline}");
    evidence["baseline"] = 6.0.into();
    let expected = serde_json::json!({
        "why": "share", "share": 0.75, "busy": 6.0, "shard_busy": 8.0, "baseline": 6.0,
        "transactions": 1200.0, "window": 2.0,
    });
    assert_eq!(evidence, expected);
}

proptest! {
    /// Whatever happens: a tenant is never told hot or cold twice in a row, and never hot without the load for it.
    #[test]
    fn verdicts_alternate_and_have_evidence(
        seconds in proptest::collection::vec(
            (0.2_f64..3.0, proptest::collection::vec((0_usize..12, 0.0_f64..4.0, 0.0_f64..900.0), 0..8)), 1..200)
    ) {
        let limits = HeatLimits { cold_window: Duration::from_secs(5), ..HeatLimits::default() };
        let mut heat = Heat::default();
        let mut hot = std::collections::BTreeSet::new();
        for (seconds, tenants) in seconds {
            let mut named: Vec<TenantSample<usize>> = Vec::new();
            for (tenant, busy, transactions) in tenants {
                if !named.iter().any(|sample| sample.tenant == tenant) {
                    named.push(TenantSample { tenant, busy, transactions });
                }
            }
            let busy = named.iter().map(|sample| sample.busy).sum();
            for verdict in heat.step(ShardSample { seconds, busy, tenants: named, is_dedicated: false }, &limits) {
                if verdict.is_hot {
                    prop_assert!(hot.insert(verdict.tenant));
                    prop_assert!(verdict.busy >= limits.busy_min);
                    prop_assert!(verdict.share >= limits.growth_share);
                } else {
                    prop_assert!(hot.remove(&verdict.tenant));
                    prop_assert!(verdict.share < limits.cold_share || verdict.busy < limits.busy_min);
                }
            }
            let known: std::collections::BTreeSet<usize> = heat.hot().collect();
            prop_assert_eq!(&known, &hot);
        }
    }
}
