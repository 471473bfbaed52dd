//! What is remembered of each tenant that asks, holds or waits, and of some that did lately.
//!
//! A tenant that does nothing is forgotten when it has been idle for a minute, or sooner if more
//! than a few thousand others came after it; so memory is bounded by the pool, its queue and
//! that number, and not by the tenants of the fleet.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use tenantry_schema::tenant::TenantId;

use super::level::Usual;
use super::scheduler::DEBT_US_MAX;
use super::virtual_time::{Rate, Virtual, Weight};
use super::waiters::{NOWHERE, Queue};

/// Idle tenants that are remembered.
pub(super) const IDLE_MAX: usize = 4096;
/// For how long, microseconds.
const IDLE_US_MAX: u64 = 60_000_000;
/// Idle tenants that one arrival forgets at most.
const FORGOTTEN_AT_ONCE: usize = 2;

/// Who asks: a tenant, or all sessions that have none.
pub type Asker = Option<TenantId>;

/// One that asks, holds or waits, or did.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) asker: Asker,
    pub(super) weight: Weight,
    pub(super) rate: Rate,
    /// What it has had, without what it holds.
    pub(super) served: Virtual,
    pub(super) held: u32,
    /// The sum of the moments at which it was granted what it holds, microseconds.
    granted_us: u64,
    /// The sum of the estimates of what it holds, microseconds.
    estimated_us: u64,
    /// What its next request is expected to take, microseconds.
    pub(super) estimate_us: u32,
    pub(super) queue: Queue,
    /// Where the first of its queue comes at the latest.
    pub(super) latest: Virtual,
    /// Under which key it stands among those that wait.
    pub(super) key: Option<(Virtual, u64)>,
    pub(super) usual: Usual,
    idle_us: u64,
    /// Neighbours among the idle, or the next free place.
    older: u32,
    newer: u32,
}

impl Tenant {
    fn new(asker: Asker, weight: Weight, estimate_us: u32) -> Self {
        Self {
            asker,
            weight,
            rate: Rate::of(weight),
            served: Virtual::ZERO,
            held: 0,
            granted_us: 0,
            estimated_us: 0,
            estimate_us,
            queue: Queue::default(),
            latest: Virtual::ZERO,
            key: None,
            usual: Usual::default(),
            idle_us: 0,
            older: NOWHERE,
            newer: NOWHERE,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held == 0 && self.queue.is_empty()
    }

    /// What it has had until now. What it holds counts as estimated, and as it is once that is passed.
    pub(super) fn had(&self, now: u64) -> Virtual {
        let elapsed = (u64::from(self.held) * now).saturating_sub(self.granted_us);
        self.served + self.rate.charge(elapsed.max(self.estimated_us))
    }

    /// What it will have had once its next request is done.
    pub(super) fn finish(&self, now: u64) -> Virtual {
        self.had(now) + self.rate.charge(u64::from(self.estimate_us))
    }

    /// When the next request of one that waits counts as done.
    pub(super) fn due(&self, now: u64) -> Virtual {
        self.finish(now).min(self.latest)
    }

    /// The first of its queue comes no later than what it can owe from now.
    pub(super) fn comes_by(&mut self, virtual_now: Virtual) {
        self.latest = virtual_now + self.rate.charge(DEBT_US_MAX);
    }

    pub(super) fn set_weight(&mut self, weight: Weight) {
        self.weight = weight;
        self.rate = Rate::of(weight);
    }

    pub(super) fn take(&mut self, now: u64) {
        self.held += 1;
        self.granted_us += now;
        self.estimated_us += u64::from(self.estimate_us);
    }

    /// Gives back what was granted at `since` with this estimate, and pays for `us` of it.
    pub(super) fn give_back(&mut self, since: u64, estimate_us: u32, us: u64) {
        self.held = self.held.saturating_sub(1);
        self.granted_us = self.granted_us.saturating_sub(since);
        self.estimated_us = self.estimated_us.saturating_sub(u64::from(estimate_us));
        self.served += self.rate.charge(us);
    }
}

/// All that are remembered, by place and by name.
#[derive(Debug)]
pub(super) struct Tenants {
    places: Vec<Tenant>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: u32,
    oldest: u32,
    newest: u32,
    idle: usize,
}

impl Tenants {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            by_name: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: NOWHERE,
            oldest: NOWHERE,
            newest: NOWHERE,
            idle: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn at(&self, place: u32) -> Option<&Tenant> {
        self.places.get(place as usize)
    }

    pub(super) fn at_mut(&mut self, place: u32) -> Option<&mut Tenant> {
        self.places.get_mut(place as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Tenant> {
        let places = self.by_name.iter();
        places.filter_map(|place| self.at(*place))
    }

    pub(super) fn find(&self, asker: Asker) -> Option<u32> {
        let hash = self.hasher.hash_one(asker);
        let is_it = |place: &u32| self.at(*place).is_some_and(|tenant| tenant.asker == asker);
        self.by_name.find(hash, is_it).copied()
    }

    /// The place of one that asks; one that is not remembered gets a place.
    pub(super) fn enter(
        &mut self,
        asker: Asker,
        weight: Weight,
        estimate_us: u32,
        now: u64,
    ) -> u32 {
        if let Some(place) = self.find(asker) {
            return place;
        }
        self.forget(now, FORGOTTEN_AT_ONCE);
        let tenant = Tenant::new(asker, weight, estimate_us);
        let place = match self.places.get_mut(self.free as usize) {
            Some(free) => {
                let place = std::mem::replace(&mut self.free, free.newer);
                *free = tenant;
                place
            }
            None => {
                self.places.push(tenant);
                // More tenants than that cannot wait: each takes an entry of 32 bits there as well.
                u32::try_from(self.places.len() - 1).unwrap_or(NOWHERE)
            }
        };
        let (places, hasher) = (&self.places, &self.hasher);
        let hash_of = |place: &u32| {
            let tenant = places.get(*place as usize);
            hasher.hash_one(tenant.and_then(|tenant| tenant.asker))
        };
        self.by_name
            .insert_unique(hasher.hash_one(asker), place, hash_of);
        self.put_idle(place, now);
        place
    }

    /// It does nothing any more.
    pub(super) fn put_idle(&mut self, place: u32, now: u64) {
        let older = self.newest;
        if let Some(tenant) = self.at_mut(place) {
            tenant.idle_us = now;
            tenant.older = older;
            tenant.newer = NOWHERE;
        }
        match self.at_mut(older) {
            Some(tenant) => tenant.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
        self.idle += 1;
    }

    /// It asks.
    pub(super) fn take_idle(&mut self, place: u32) {
        let Some(tenant) = self.at(place) else { return };
        let (older, newer) = (tenant.older, tenant.newer);
        match self.at_mut(older) {
            Some(tenant) => tenant.newer = newer,
            None => self.oldest = newer,
        }
        match self.at_mut(newer) {
            Some(tenant) => tenant.older = older,
            None => self.newest = older,
        }
        self.idle -= 1;
    }

    /// Forgets some of those that have been idle for too long or are too many.
    pub(super) fn forget(&mut self, now: u64, most: usize) {
        for _ in 0..most {
            let place = self.oldest;
            let Some(tenant) = self.at(place) else { return };
            let stale = now.saturating_sub(tenant.idle_us) > IDLE_US_MAX;
            if !stale && self.idle < IDLE_MAX {
                return;
            }
            let hash = self.hasher.hash_one(tenant.asker);
            self.take_idle(place);
            if let Ok(entry) = self.by_name.find_entry(hash, |at| *at == place) {
                entry.remove();
            }
            let free = std::mem::replace(&mut self.free, place);
            if let Some(tenant) = self.at_mut(place) {
                tenant.newer = free;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(number: i64) -> Asker {
        Some(TenantId::from_bigint(number).unwrap())
    }

    #[test]
    fn a_million_tenants_are_not_remembered() {
        let mut tenants = Tenants::new();
        for number in 1..=1_000_000 {
            tenants.enter(asker(number), Weight::USUAL, 1000, 0);
        }
        assert_eq!(tenants.len(), IDLE_MAX);
        assert!(tenants.places.len() <= IDLE_MAX + 1);
        assert!(tenants.find(asker(1)).is_none());
        assert!(tenants.find(asker(1_000_000)).is_some());
    }

    #[test]
    fn who_is_idle_for_long_is_forgotten_and_who_is_not_idle_never() {
        let mut tenants = Tenants::new();
        let busy = tenants.enter(asker(1), Weight::USUAL, 1000, 0);
        tenants.take_idle(busy);
        tenants.enter(asker(2), Weight::USUAL, 1000, 0);
        tenants.enter(asker(3), Weight::USUAL, 1000, 2 * IDLE_US_MAX);
        assert_eq!(tenants.find(asker(1)), Some(busy));
        assert!(tenants.find(asker(2)).is_none());
        assert_eq!(tenants.iter().count(), 2);
    }

    /// At a second time a tenant is found where it was, and its place is used anew after it was forgotten.
    #[test]
    fn places_are_used_anew() {
        let mut tenants = Tenants::new();
        let first = tenants.enter(asker(1), Weight::USUAL, 1000, 0);
        assert_eq!(tenants.enter(asker(1), Weight::USUAL, 1000, 5), first);
        tenants.forget(2 * IDLE_US_MAX, 1);
        assert_eq!(tenants.enter(None, Weight::USUAL, 1000, 5), first);
    }

    #[test]
    fn what_is_held_counts_as_estimated_and_then_as_it_is() {
        let mut tenant = Tenant::new(None, Weight::USUAL, 1000);
        tenant.take(0);
        tenant.take(0);
        assert_eq!(tenant.had(0), Virtual::of_us(2000));
        assert_eq!(tenant.had(500), Virtual::of_us(2000));
        assert_eq!(tenant.had(5000), Virtual::of_us(10_000));
        tenant.give_back(0, 1000, 5000);
        assert_eq!(tenant.had(5000), Virtual::of_us(10_000));
        tenant.give_back(0, 1000, 6000);
        assert_eq!(tenant.had(9000), Virtual::of_us(11_000));
    }
}
