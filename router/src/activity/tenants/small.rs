//! One part of the table of loads: entries of 48 bytes in a dense list, and an index of four bytes each into it.
//!
//! A hash map of whole entries would be up to half empty; here only the index is. An entry's counters are 32 bits wide;
//! when one would overflow, what the entry has goes over to wide counters and it starts again from nothing.

use std::collections::hash_map::Entry as Slot;

use hashbrown::HashTable;
use tenantry_schema::tenant::TenantId;

use super::{COUNTS, Few, TenantUsage, Touched, spread};

/// The list grows by one in so many: what is unused is the price of its growth.
const GROWTH: usize = 16;
/// Tenants of one part that are remembered as used lately.
const TOUCHED_MAX: usize = 1024;

/// The number of errors leaves two bits of its counter to flags.
const ERRORS: usize = 2;
/// The tenant is among those that were used lately.
const TOUCHED: u32 = 1 << 31;
/// The tenant has wide counters too.
const WIDE: u32 = 1 << 30;
const FLAGS: u32 = TOUCHED | WIDE;

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: [u64; 2],
    counts: [u32; COUNTS],
}

impl Entry {
    fn new(tenant: TenantId) -> Self {
        let id = tenant.as_u128();
        Self {
            id: [id as u64, (id >> 64) as u64],
            counts: [0; COUNTS],
        }
    }

    fn id(&self) -> u128 {
        let [low, high] = self.id;
        u128::from(high) << 64 | u128::from(low)
    }

    fn has(&self, flag: u32) -> bool {
        self.counts[ERRORS] & flag != 0
    }

    fn set(&mut self, flag: u32) {
        self.counts[ERRORS] |= flag;
    }

    fn clear(&mut self, flag: u32) {
        self.counts[ERRORS] &= !flag;
    }

    fn usage(&self) -> TenantUsage {
        let mut counts = self.counts;
        counts[ERRORS] &= !FLAGS;
        TenantUsage::from_counts(counts.map(u64::from))
    }

    /// Sets the counters if they hold these numbers.
    fn store(&mut self, usage: &TenantUsage) -> bool {
        let flags = self.counts[ERRORS] & FLAGS;
        let mut counts = [0; COUNTS];
        for (count, wide) in counts.iter_mut().zip(usage.counts()) {
            let Ok(narrow) = u32::try_from(wide) else {
                return false;
            };
            *count = narrow;
        }
        if counts[ERRORS] & FLAGS != 0 {
            return false;
        }
        counts[ERRORS] |= flags;
        self.counts = counts;
        true
    }
}

/// One part.
#[derive(Debug, Default)]
pub(super) struct Part {
    entries: Vec<Entry>,
    /// Places in `entries` by hash.
    index: HashTable<u32>,
    wide: Few<TenantUsage>,
    /// Places of those that were used lately, and what they had used before.
    touched: Vec<(u32, TenantUsage)>,
}

impl Part {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let wide = size_of::<(TenantId, TenantUsage)>() + 1;
        self.entries.capacity() * size_of::<Entry>()
            + self.index.allocation_size()
            + self.wide.capacity() * wide * 8 / 7
            + self.touched.capacity() * size_of::<(u32, TenantUsage)>()
    }

    /// Adds to a tenant's; whether it is new.
    pub(super) fn add(&mut self, hash: u64, tenant: TenantId, more: &TenantUsage) -> bool {
        let (place, is_new) = self.place(hash, tenant);
        let Some(entry) = self.entries.get_mut(place as usize) else {
            return false;
        };
        if !entry.has(TOUCHED) && self.touched.len() < TOUCHED_MAX {
            let mut before = entry.usage();
            if entry.has(WIDE)
                && let Some(wide) = self.wide.get(&tenant)
            {
                before.merge(wide);
            }
            entry.set(TOUCHED);
            self.touched.push((place, before));
        }
        let mut usage = entry.usage();
        usage.merge(more);
        if !entry.store(&usage) {
            entry.store(&TenantUsage::default());
            entry.set(WIDE);
            match self.wide.entry(tenant) {
                Slot::Occupied(mut wide) => wide.get_mut().merge(&usage),
                Slot::Vacant(vacant) => drop(vacant.insert(usage)),
            }
        }
        is_new
    }

    fn place(&mut self, hash: u64, tenant: TenantId) -> (u32, bool) {
        let id = tenant.as_u128();
        let entries = &self.entries;
        let is_it = |place: &u32| entry_id(entries, *place) == Some(id);
        if let Some(place) = self.index.find(hash, is_it) {
            return (*place, false);
        }
        if self.entries.len() == self.entries.capacity() {
            let more = (self.entries.len() / GROWTH).max(4);
            self.entries.reserve_exact(more);
        }
        let place = self.entries.len() as u32;
        self.entries.push(Entry::new(tenant));
        let entries = &self.entries;
        self.index.insert_unique(hash, place, |place| {
            entry_id(entries, *place).map_or(0, spread)
        });
        (place, true)
    }

    pub(super) fn find(&self, hash: u64, tenant: TenantId) -> Option<TenantUsage> {
        let id = tenant.as_u128();
        let is_it = |place: &u32| entry_id(&self.entries, *place) == Some(id);
        let place = *self.index.find(hash, is_it)?;
        self.entries
            .get(place as usize)
            .and_then(|entry| self.usage(entry))
            .map(|(_, usage)| usage)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TenantId, TenantUsage)> {
        self.entries.iter().filter_map(|entry| self.usage(entry))
    }

    fn usage(&self, entry: &Entry) -> Option<(TenantId, TenantUsage)> {
        let tenant = TenantId::from_u128(entry.id())?;
        let mut usage = entry.usage();
        if entry.has(WIDE)
            && let Some(wide) = self.wide.get(&tenant)
        {
            usage.merge(wide);
        }
        Some((tenant, usage))
    }

    pub(super) fn take_touched(&mut self, into: &mut Vec<Touched>) {
        for (place, before) in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(place as usize) else {
                continue;
            };
            entry.clear(TOUCHED);
            let entry = *entry;
            if let Some((tenant, total)) = self.usage(&entry) {
                into.push(Touched {
                    tenant,
                    total,
                    lately: total.since(&before),
                });
            }
        }
    }

    /// Forgets half of the tenants, those that used the least; answers what they used together. What was used lately is
    /// forgotten with them, and told of nobody this once.
    pub(super) fn fold(&mut self) -> TenantUsage {
        let mut all: Vec<(TenantId, TenantUsage)> = self.iter().collect();
        all.sort_unstable_by_key(|(tenant, usage)| (std::cmp::Reverse(usage.busy_us), *tenant));
        let mut folded = TenantUsage::default();
        let kept = all.len() / 2;
        for (_, usage) in all.drain(kept..) {
            folded.merge(&usage);
        }
        *self = Self::default();
        for (tenant, usage) in all {
            self.add(spread(tenant.as_u128()), tenant, &usage);
        }
        for entry in &mut self.entries {
            entry.clear(TOUCHED);
        }
        self.touched.clear();
        folded
    }
}

fn entry_id(entries: &[Entry], place: u32) -> Option<u128> {
    entries.get(place as usize).map(Entry::id)
}
