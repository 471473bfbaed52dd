//! What each shard has and what its share would be: the arithmetic under every plan.
//!
//! A shard's share of bytes and of load follows from its weight against the weights of the shards it shares with: all that
//! take tenants, or under [`ZoneRule::Stay`] those of its zone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tenantry_schema::shard::ShardId;

use super::{Burden, Limits, ShardEntry, TenantEntry, ZoneRule};

/// How much of its share a shard has: 1 is exactly that.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fill {
    /// Of the bytes.
    pub bytes: f64,
    /// Of the load.
    pub load: f64,
}

impl Fill {
    /// The burden that is further up, and how far.
    pub fn highest(self) -> (Burden, f64) {
        if self.load > self.bytes {
            (Burden::Load, self.load)
        } else {
            (Burden::Bytes, self.bytes)
        }
    }

    /// Of one burden.
    pub fn of(self, burden: Burden) -> f64 {
        match burden {
            Burden::Bytes => self.bytes,
            Burden::Load => self.load,
        }
    }
}

/// What one shard has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) tenants: usize,
    pub(super) bytes: f64,
    pub(super) busy: f64,
    /// Its group, if it takes tenants; and its part of the group's weight.
    share: Option<(usize, f64)>,
}

/// What a group of shards has together.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    weight: f64,
    bytes: f64,
    busy: f64,
}

/// Every shard's account.
#[derive(Debug, Clone)]
pub(super) struct Ledger<'a> {
    accounts: BTreeMap<ShardId, Account>,
    totals: Vec<Total>,
    limits: &'a Limits,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(
        shards: &[ShardEntry],
        homes: &BTreeMap<ShardId, Vec<&TenantEntry>>,
        emptied: Option<ShardId>,
        limits: &'a Limits,
    ) -> Self {
        let mut groups: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let mut totals: Vec<Total> = Vec::new();
        let mut accounts = BTreeMap::new();
        for shard in shards {
            let mut share = None;
            if shard.takes_tenants() && emptied != Some(shard.id) {
                let zone = match limits.zones {
                    ZoneRule::Prefer => None,
                    ZoneRule::Stay => shard.zone.as_deref(),
                };
                let group = *groups.entry(zone).or_insert_with(|| {
                    totals.push(Total::default());
                    totals.len() - 1
                });
                totals[group].weight += f64::from(shard.weight);
                share = Some((group, f64::from(shard.weight)));
            }
            let account = Account {
                tenants: 0,
                bytes: 0.0,
                busy: 0.0,
                share,
            };
            accounts.insert(shard.id, account);
        }
        let mut ledger = Self {
            accounts,
            totals,
            limits,
        };
        for tenant in homes.values().flatten() {
            ledger.add(tenant, tenant.shard, 1.0);
        }
        ledger
    }

    /// Books a tenant from one shard to another.
    pub(super) fn shift(&mut self, tenant: &TenantEntry, from: ShardId, to: ShardId) {
        self.add(tenant, from, -1.0);
        self.add(tenant, to, 1.0);
    }

    fn add(&mut self, tenant: &TenantEntry, shard: ShardId, sign: f64) {
        let Some(account) = self.accounts.get_mut(&shard) else {
            return;
        };
        if sign > 0.0 {
            account.tenants += 1;
        } else {
            account.tenants = account.tenants.saturating_sub(1);
        }
        let (bytes, busy) = (sign * tenant.size() as f64, sign * tenant.busy);
        // Rounding must not leave less than nothing behind.
        account.bytes = (account.bytes + bytes).max(0.0);
        account.busy = (account.busy + busy).max(0.0);
        if let Some((group, _)) = account.share {
            let total = &mut self.totals[group];
            total.bytes = (total.bytes + bytes).max(0.0);
            total.busy = (total.busy + busy).max(0.0);
        }
    }

    pub(super) fn account(&self, shard: ShardId) -> Option<Account> {
        self.accounts.get(&shard).copied()
    }

    /// The shards that have a share.
    pub(super) fn receivers(&self) -> impl Iterator<Item = ShardId> + '_ {
        let sharing = self
            .accounts
            .iter()
            .filter(|(_, account)| account.share.is_some());
        sharing.map(|(shard, _)| *shard)
    }

    /// Bytes and busy connections that are this shard's share; `None`: it has none.
    pub(super) fn share(&self, shard: ShardId) -> Option<(f64, f64)> {
        let (group, _) = self.accounts.get(&shard)?.share?;
        let (total, part) = (self.totals[group], self.part_of_group(shard)?);
        Some((total.bytes * part, total.busy * part))
    }

    /// A shard's part of its group's weight; `None`: it has no share.
    pub(super) fn part_of_group(&self, shard: ShardId) -> Option<f64> {
        let (group, weight) = self.accounts.get(&shard)?.share?;
        Some(weight / self.totals[group].weight)
    }

    /// How much of its share a shard has.
    pub(super) fn fill(&self, shard: ShardId) -> Option<Fill> {
        let account = self.account(shard)?;
        self.fill_with(shard, account.bytes, account.busy)
    }

    /// How much of its share a shard would have with this tenant on it.
    pub(super) fn fill_after(&self, shard: ShardId, tenant: &TenantEntry) -> Option<Fill> {
        let account = self.account(shard)?;
        let (bytes, busy) = (tenant.size() as f64, tenant.busy);
        self.fill_with(shard, account.bytes + bytes, account.busy + busy)
    }

    fn fill_with(&self, shard: ShardId, bytes: f64, busy: f64) -> Option<Fill> {
        let (fair_bytes, fair_busy) = self.share(shard)?;
        Some(Fill {
            bytes: ratio(bytes, fair_bytes),
            load: ratio(busy, fair_busy),
        })
    }

    /// The burden of which a shard has more than the limits tolerate, the worse one first.
    pub(super) fn above(&self, shard: ShardId) -> Option<Burden> {
        let account = self.account(shard)?;
        let (bytes, busy) = self.share(shard)?;
        let fill = self.fill(shard)?;
        let limits = self.limits;
        let over = |amount: f64, fair: f64, slack: f64| {
            amount - fair > (fair * limits.tolerance).max(slack)
        };
        let by_bytes = over(account.bytes, bytes, limits.slack_bytes as f64);
        let by_load = over(account.busy, busy, limits.slack_busy);
        match (by_bytes, by_load) {
            (true, true) => Some(fill.highest().0),
            (true, false) => Some(Burden::Bytes),
            (false, true) => Some(Burden::Load),
            (false, false) => None,
        }
    }

    /// How far the shards are above what is aimed at: the sum over shards and burdens, each as a part of its total.
    pub(super) fn imbalance(&self) -> f64 {
        self.receivers().map(|shard| self.excess(shard)).sum()
    }

    /// One shard's part of [`Ledger::imbalance`].
    pub(super) fn excess(&self, shard: ShardId) -> f64 {
        self.excess_with(shard, 0.0, 0.0)
    }

    /// The same if the shard had so much more.
    pub(super) fn excess_with(&self, shard: ShardId, bytes: f64, busy: f64) -> f64 {
        let Some(account) = self.account(shard) else {
            return 0.0;
        };
        let Some((group, weight)) = account.share else {
            return 0.0;
        };
        let (total, limits) = (self.totals[group], self.limits);
        let part = weight / total.weight;
        // Half of the tolerance, so that a shard that was brought down is not above again at once.
        let aim =
            |all: f64, slack: f64| all * part + (all * part * limits.tolerance).max(slack) / 2.0;
        let above = |amount: f64, all: f64, slack: f64| {
            if all > 0.0 {
                (amount - aim(all, slack)).max(0.0) / all
            } else {
                0.0
            }
        };
        above(
            account.bytes + bytes,
            total.bytes,
            limits.slack_bytes as f64,
        ) + above(account.busy + busy, total.busy, limits.slack_busy)
    }

    /// What this tenant is of what its shard's group has, in the measure of [`Ledger::imbalance`].
    pub(super) fn part(&self, shard: ShardId, tenant: &TenantEntry) -> f64 {
        let Some((group, _)) = self.account(shard).and_then(|account| account.share) else {
            return 0.0;
        };
        let total = self.totals[group];
        ratio(tenant.size() as f64, total.bytes) + ratio(tenant.busy, total.busy)
    }

    /// All bytes of the shard's group.
    pub(super) fn group_bytes(&self, shard: ShardId) -> f64 {
        let group = self.account(shard).and_then(|account| account.share);
        group.map_or(0.0, |(group, _)| self.totals[group].bytes)
    }
}

fn ratio(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}
