//! Load by tenant: who uses how much of this router.
//!
//! A map in parts, each behind its own lock, written once when a server connection is given up.
//! Bounded: beyond [`TENANTS_MAX`] the tenants with the least time on servers are folded into one
//! entry for all others, so that the sum stays right.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::Mutex;
use tenantry_schema::tenant::TenantId;

use super::Totals;

const PARTS: usize = 64;
/// Tenants told apart at once.
pub(crate) const TENANTS_MAX: usize = 64 * 1024;
const PER_PART_MAX: usize = TENANTS_MAX / PARTS;

/// What one tenant used since the router started, or since it was last told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TenantUsage {
    pub(crate) transactions: u64,
    pub(crate) statements: u64,
    pub(crate) errors: u64,
    /// Time that server connections were held.
    pub(crate) busy_us: u64,
    pub(crate) wait_us: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl TenantUsage {
    fn add(&mut self, totals: &Totals) {
        self.transactions += totals.transactions;
        self.statements += totals.statements;
        self.errors += totals.errors;
        self.busy_us += totals.transaction_us;
        self.wait_us += totals.wait_us;
        self.received += totals.received;
        self.sent += totals.sent;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.statements += other.statements;
        self.errors += other.errors;
        self.busy_us += other.busy_us;
        self.wait_us += other.wait_us;
        self.received += other.received;
        self.sent += other.sent;
    }
}

type Part = HashMap<TenantId, TenantUsage, BuildHasherDefault<Spread>>;

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
        let Some(part) = self.parts.get(part_of(tenant)) else {
            return;
        };
        let mut part = part.lock();
        if let Some(usage) = part.get_mut(&tenant) {
            return usage.add(totals);
        }
        if part.len() >= PER_PART_MAX {
            self.fold(&mut part);
        }
        part.entry(tenant).or_default().add(totals);
    }

    /// Half of a full part, that of the tenants that used the least, becomes `others`.
    fn fold(&self, part: &mut Part) {
        let mut busy: Vec<u64> = part.values().map(|usage| usage.busy_us).collect();
        let middle = busy.len() / 2;
        let (_, median, _) = busy.select_nth_unstable(middle);
        let median = *median;
        let mut others = self.others.lock();
        let mut keep_equal = middle;
        part.retain(|_, usage| {
            let keep = usage.busy_us > median || (usage.busy_us == median && keep_equal > 0);
            if keep {
                keep_equal = keep_equal.saturating_sub(1);
            } else {
                others.merge(usage);
            }
            keep
        });
    }

    pub(crate) fn of(&self, tenant: TenantId) -> TenantUsage {
        let part = self.parts.get(part_of(tenant)).map(Mutex::lock);
        part.and_then(|part| part.get(&tenant).copied())
            .unwrap_or_default()
    }

    /// The `limit` tenants that held servers longest, and all others together.
    pub(crate) fn top(&self, limit: usize) -> (Vec<(TenantId, TenantUsage)>, TenantUsage) {
        let mut all: Vec<(TenantId, TenantUsage)> = Vec::new();
        for part in &self.parts {
            let part = part.lock();
            all.extend(part.iter().map(|(tenant, usage)| (*tenant, *usage)));
        }
        all.sort_unstable_by_key(|(tenant, usage)| (std::cmp::Reverse(usage.busy_us), *tenant));
        let mut others = *self.others.lock();
        for (_, usage) in all.iter().skip(limit) {
            others.merge(usage);
        }
        all.truncate(limit);
        (all, others)
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}

/// Taken from the middle of the hash: the map inside a part uses both ends.
fn part_of(tenant: TenantId) -> usize {
    (spread(tenant.as_u128()) >> 32) as usize % PARTS
}

/// Mixes all bits of an id; ids are not chosen by clients.
fn spread(id: u128) -> u64 {
    let [a, b] = [id as u64, (id >> 64) as u64];
    let mut x = a ^ b.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// [`spread`] as a hasher.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut word = [0; 16];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u128(u128::from_ne_bytes(word));
        }
    }

    fn write_u128(&mut self, id: u128) {
        self.0 ^= spread(id);
    }
}
