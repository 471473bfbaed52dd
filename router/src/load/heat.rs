//! Which tenants are hot: a pure detector over the load of shards, second by second.
//!
//! No clock and no IO: a sample per shard goes in with the time it covers, verdicts with their evidence come out. What a
//! verdict is for (isolating a tenant, moving it back) is the rebalancer's.
//!
//! **Hot** is a tenant whose share of its shard's busy time was at least `share` over the whole of `window`, or that
//! was at least `growth` times as busy as it used to be, over `window` as well. Both only where it keeps some part of a
//! server connection busy all the time (`busy_min`), alone or in company: half of nothing harms nobody. Growth counts from a
//! baseline that follows slowly and not at all while the tenant is hot, and only in statements that are many: one long
//! report is no flash sale.
//!
//! **Cold again** is a hot tenant whose share stayed below `cold_share` for `cold_window`, so that one on the edge does not
//! flap; or that kept less than `busy_min` busy for so long, which is how one cools that has a shard of its own.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use serde::Serialize;

use crate::config::Hot;

/// Tenants of a shard whose baseline is known at once. The least busy are forgotten first.
const REMEMBERED_MAX: usize = 4096;

/// What counts as hot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeatLimits {
    /// Share of a shard's busy time from which a tenant is hot.
    pub(crate) share: f64,
    /// For so long.
    pub(crate) window: Duration,
    /// How many times its baseline a tenant may be.
    pub(crate) growth: f64,
    /// Growth counts from this share on.
    pub(crate) growth_share: f64,
    /// Share of a shard's busy time below which a hot tenant cools.
    pub(crate) cold_share: f64,
    /// For so long.
    pub(crate) cold_window: Duration,
    /// Server connections that a hot tenant keeps busy on average.
    pub(crate) busy_min: f64,
    /// How fast a baseline follows: what was is half forgotten after this time.
    pub(crate) baseline: Duration,
}

impl Default for HeatLimits {
    fn default() -> Self {
        Self {
            share: 0.3,
            window: Duration::from_secs(2),
            growth: 10.0,
            growth_share: 0.05,
            cold_share: 0.15,
            cold_window: Duration::from_secs(30),
            busy_min: 0.25,
            baseline: Duration::from_secs(60),
        }
    }
}

impl HeatLimits {
    /// As configured.
    pub(crate) fn of(hot: &Hot) -> Self {
        Self {
            share: hot.share_percent as f64 / 100.0,
            window: hot.window,
            growth: hot.growth as f64,
            cold_share: hot.cold_share_percent as f64 / 100.0,
            cold_window: hot.cold_window,
            ..Self::default()
        }
    }
}

/// Transactions in the window from which growth is growth.
const GROWTH_TRANSACTIONS_MIN: f64 = 20.0;

/// What one tenant did in the time of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TenantSample<T> {
    /// Who.
    pub(crate) tenant: T,
    /// Time that it held server connections, seconds.
    pub(crate) busy: f64,
    /// Transactions that it ended.
    pub(crate) transactions: f64,
}

/// What happened on one shard in some stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShardSample<T> {
    /// How long that was, seconds.
    pub(crate) seconds: f64,
    /// Time that all tenants held server connections, seconds.
    pub(crate) busy: f64,
    /// The tenants that did most of it; the rest need no names.
    pub(crate) tenants: Vec<TenantSample<T>>,
    /// It is one tenant's own, which harms nobody there.
    pub(crate) is_dedicated: bool,
}

/// Why a tenant is hot, or is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// Its share passed the threshold for the window.
    Share,
    /// It grew faster than the bound.
    Growth,
    /// It has cooled down.
    Cooled,
}

/// A tenant turned hot, or cold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict<T> {
    /// Who.
    #[serde(skip)]
    pub(crate) tenant: T,
    /// Hot now, or cold.
    #[serde(skip)]
    pub(crate) is_hot: bool,
    /// Why.
    pub(crate) why: Why,
    /// Its share of the shard's busy time over the window.
    pub(crate) share: f64,
    /// Server connections that it kept busy.
    pub(crate) busy: f64,
    /// The same of the whole shard.
    pub(crate) shard_busy: f64,
    /// What it used to keep busy.
    pub(crate) baseline: f64,
    /// Transactions per second.
    pub(crate) transactions: f64,
    /// The window, seconds.
    pub(crate) window: f64,
}

/// The detector of one shard.
#[derive(Debug)]
pub(crate) struct Heat<T> {
    /// Samples of the last windows, newest last.
    samples: VecDeque<ShardSample<T>>,
    tenants: HashMap<T, Known>,
    /// Time since the first sample, seconds.
    age: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Server connections that it kept busy, smoothed.
    baseline: f64,
    is_hot: bool,
    /// For how long its share has been low, seconds.
    low: f64,
}

impl<T> Default for Heat<T> {
    fn default() -> Self {
        Self {
            samples: VecDeque::new(),
            tenants: HashMap::new(),
            age: 0.0,
        }
    }
}

/// A tenant over the window.
#[derive(Debug, Clone, Copy)]
struct Seen {
    share: f64,
    busy: f64,
    transactions: f64,
    /// Its share over each sample of the window.
    least_share: f64,
}

impl<T: Copy + Eq + Hash + Ord> Heat<T> {
    /// The tenants that are hot now.
    pub(crate) fn hot(&self) -> impl Iterator<Item = T> {
        self.tenants
            .iter()
            .filter(|(_, known)| known.is_hot)
            .map(|(tenant, _)| *tenant)
    }

    /// A hot tenant comes from another shard.
    pub(crate) fn adopt(&mut self, tenant: T) {
        self.tenants.entry(tenant).or_default().is_hot = true;
    }

    /// A tenant is here no more; whether it was hot.
    pub(crate) fn forget_tenant(&mut self, tenant: T) -> bool {
        self.tenants
            .remove(&tenant)
            .is_some_and(|known| known.is_hot)
    }

    /// Takes the next stretch of time in; answers who turned hot or cold in it, in order of tenant.
    pub(crate) fn step(&mut self, sample: ShardSample<T>, limits: &HeatLimits) -> Vec<Verdict<T>> {
        let seconds = sample.seconds;
        if seconds <= 0.0 {
            return Vec::new();
        }
        self.age += seconds;
        self.samples.push_back(sample);
        self.trim(limits.window.as_secs_f64());
        let window: f64 = self.samples.iter().map(|sample| sample.seconds).sum();
        let shard_busy: f64 = self.samples.iter().map(|sample| sample.busy).sum();
        // Less than a window is no evidence.
        let is_whole = window + 1e-6 >= limits.window.as_secs_f64();
        let is_dedicated = self.samples.iter().any(|sample| sample.is_dedicated);
        let mut verdicts = Vec::new();
        for (tenant, seen) in self.seen(shard_busy) {
            let verdict = |is_hot, why, baseline| Verdict {
                tenant,
                is_hot,
                why,
                share: seen.share,
                busy: seen.busy / window,
                shard_busy: shard_busy / window,
                baseline,
                transactions: seen.transactions / window,
                window,
            };
            let is_old = self.age >= limits.baseline.as_secs_f64() / 4.0;
            // A baseline begins at nothing, and so is too low while it is young.
            let followed = 1.0 - 0.5_f64.powf((self.age - seconds) / half_life(limits));
            let known = self.tenants.entry(tenant).or_default();
            let baseline = known.baseline / followed.max(1e-9);
            if known.is_hot {
                if seen.share >= limits.cold_share && seen.busy / window >= limits.busy_min {
                    known.low = 0.0;
                    continue;
                }
                known.low += seconds;
                if known.low + 1e-6 >= limits.cold_window.as_secs_f64() {
                    known.is_hot = false;
                    known.low = 0.0;
                    known.baseline = seen.busy / window;
                    verdicts.push(verdict(false, Why::Cooled, known.baseline));
                }
                continue;
            }
            let busy = seen.busy / window;
            let why = if !is_whole || is_dedicated || busy < limits.busy_min {
                None
            } else if seen.least_share >= limits.share {
                Some(Why::Share)
            } else if is_old
                && seen.share >= limits.growth_share
                && seen.transactions >= GROWTH_TRANSACTIONS_MIN
                && busy >= limits.growth * baseline
            {
                Some(Why::Growth)
            } else {
                None
            };
            if let Some(why) = why {
                known.is_hot = true;
                known.low = 0.0;
                verdicts.push(verdict(true, why, baseline));
            } else {
                known.follow(busy, seconds, limits);
            }
        }
        self.forget();
        verdicts.sort_by_key(|verdict| verdict.tenant);
        verdicts
    }

    /// Keeps the last samples that make up a window.
    fn trim(&mut self, window: f64) {
        let mut total: f64 = self.samples.iter().map(|sample| sample.seconds).sum();
        while let Some(first) = self.samples.front() {
            if total - first.seconds + 1e-6 < window {
                break;
            }
            total -= first.seconds;
            self.samples.pop_front();
        }
    }

    /// Every tenant of the window, and those that are known from before.
    fn seen(&self, shard_busy: f64) -> Vec<(T, Seen)> {
        let nothing = Seen {
            share: 0.0,
            busy: 0.0,
            transactions: 0.0,
            least_share: 0.0,
        };
        let known = self.tenants.keys().map(|tenant| (*tenant, nothing));
        let mut all: HashMap<T, Seen> = known.collect();
        let mut present: HashMap<T, (usize, f64)> = HashMap::new();
        for sample in &self.samples {
            for tenant in &sample.tenants {
                let seen = all.entry(tenant.tenant).or_insert(nothing);
                seen.busy += tenant.busy;
                seen.transactions += tenant.transactions;
                let share = share(tenant.busy, sample.busy);
                let (count, least) = present.entry(tenant.tenant).or_insert((0, f64::INFINITY));
                *count += 1;
                *least = least.min(share);
            }
        }
        for (tenant, seen) in &mut all {
            seen.share = share(seen.busy, shard_busy);
            seen.least_share = match present.get(tenant) {
                Some((count, least)) if *count == self.samples.len() => *least,
                _ => 0.0,
            };
        }
        all.into_iter().collect()
    }

    /// Bounds the memory.
    fn forget(&mut self) {
        if self.tenants.len() <= REMEMBERED_MAX {
            return;
        }
        let mut busy: Vec<(T, f64)> = self
            .tenants
            .iter()
            .filter(|(_, known)| !known.is_hot)
            .map(|(tenant, known)| (*tenant, known.baseline))
            .collect();
        busy.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        for (tenant, _) in busy.iter().take(self.tenants.len() - REMEMBERED_MAX / 2) {
            self.tenants.remove(tenant);
        }
    }
}

impl Known {
    fn follow(&mut self, busy: f64, seconds: f64, limits: &HeatLimits) {
        let kept = 0.5_f64.powf(seconds / half_life(limits));
        self.baseline = self.baseline * kept + busy * (1.0 - kept);
    }
}

fn half_life(limits: &HeatLimits) -> f64 {
    limits.baseline.as_secs_f64().max(1.0)
}

fn share(busy: f64, of: f64) -> f64 {
    if of > 0.0 { (busy / of).min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;
