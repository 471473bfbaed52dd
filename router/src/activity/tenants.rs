//! Load by tenant: who uses how much of this router.
//!
//! A table in parts, each behind its own lock, written once when a server connection is given up. An entry is 48 bytes
//! (`small`); a tenant that outgrows it has wide counters beside it, so nothing is ever rounded. Bounded: beyond
//! [`TENANTS_MAX`] the tenants with the least time on servers are folded into one entry for all others, so that the sum
//! stays right and those with the most stay exact.

mod small;

use std::collections::HashMap;

use parking_lot::Mutex;
use tenantry_schema::tenant::TenantId;

use self::small::Part;
use super::Totals;

const PARTS: usize = 64;
/// Tenants told apart at once.
pub(crate) const TENANTS_MAX: usize = 512 * 1024;
const PER_PART_MAX: usize = TENANTS_MAX / PARTS;

macro_rules! usage {
    ($($(#[$doc:meta])* $name:ident = $from:ident),+ $(,)?) => {
        /// What one tenant used since the router started, or since it was last told apart.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) struct TenantUsage {
            $($(#[$doc])* pub(crate) $name: u64),+
        }

        impl TenantUsage {
            fn of(totals: &Totals) -> Self {
                Self { $($name: totals.$from),+ }
            }

            fn counts(&self) -> [u64; COUNTS] {
                [$(self.$name),+]
            }

            fn from_counts(counts: [u64; COUNTS]) -> Self {
                let [$($name),+] = counts;
                Self { $($name),+ }
            }
        }
    };
}

/// How many numbers a [`TenantUsage`] has.
const COUNTS: usize = 8;

usage! {
    transactions = transactions,
    statements = statements,
    errors = errors,
    /// Returned or changed.
    rows = rows,
    /// Time that server connections were held.
    busy_us = transaction_us,
    wait_us = wait_us,
    received = received,
    sent = sent,
}

impl TenantUsage {
    pub(crate) fn merge(&mut self, other: &Self) {
        let mut counts = self.counts();
        for (count, more) in counts.iter_mut().zip(other.counts()) {
            *count = count.saturating_add(more);
        }
        *self = Self::from_counts(counts);
    }

    /// What has been added since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts();
        for (count, less) in counts.iter_mut().zip(earlier.counts()) {
            *count = count.saturating_sub(less);
        }
        Self::from_counts(counts)
    }
}

/// A tenant that was used lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) tenant: TenantId,
    /// What it used in all.
    pub(crate) total: TenantUsage,
    /// What of that since the last look.
    pub(crate) lately: TenantUsage,
}

/// Usage by tenant.
#[derive(Debug)]
pub(crate) struct TenantLoad {
    parts: [Mutex<Part>; PARTS],
    others: Mutex<TenantUsage>,
}

impl Default for TenantLoad {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            others: Mutex::default(),
        }
    }
}

impl TenantLoad {
    pub(crate) fn add(&self, tenant: TenantId, totals: &Totals) {
        let hash = spread(tenant.as_u128());
        let Some(part) = self.parts.get(part_of(hash)) else {
            return;
        };
        let mut part = part.lock();
        if part.add(hash, tenant, &TenantUsage::of(totals)) && part.len() > PER_PART_MAX {
            let folded = part.fold();
            self.others.lock().merge(&folded);
        }
    }

    pub(crate) fn of(&self, tenant: TenantId) -> TenantUsage {
        let hash = spread(tenant.as_u128());
        let part = self.parts.get(part_of(hash)).map(Mutex::lock);
        part.and_then(|part| part.find(hash, tenant))
            .unwrap_or_default()
    }

    /// The `limit` tenants that held servers longest, and all others together.
    pub(crate) fn top(&self, limit: usize) -> (Vec<(TenantId, TenantUsage)>, TenantUsage) {
        let mut top: Vec<(TenantId, TenantUsage)> = Vec::new();
        let mut others = *self.others.lock();
        let order =
            |(tenant, usage): &(TenantId, TenantUsage)| (std::cmp::Reverse(usage.busy_us), *tenant);
        for part in &self.parts {
            let part = part.lock();
            top.extend(part.iter());
            drop(part);
            // After each part, so that a million tenants are never copied at once.
            if top.len() > limit {
                top.sort_unstable_by_key(order);
                for (_, usage) in top.drain(limit..) {
                    others.merge(&usage);
                }
            }
        }
        top.sort_unstable_by_key(order);
        (top, others)
    }

    /// The tenants that were used since this was last asked, as far as one second's are remembered.
    pub(crate) fn take_touched(&self) -> Vec<Touched> {
        let mut all = Vec::new();
        for part in &self.parts {
            part.lock().take_touched(&mut all);
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// Memory that it takes, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(|part| part.lock().bytes()).sum();
        parts + size_of::<Self>()
    }
}

/// By tenant, for what few have.
type Few<T> = HashMap<TenantId, T>;

/// Taken from the middle of the hash: the table inside a part uses both ends.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

/// Mixes all bits of an id; ids are not chosen by clients.
fn spread(id: u128) -> u64 {
    let [a, b] = [id as u64, (id >> 64) as u64];
    let mut x = a ^ b.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
