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
/// Places that one arrival looks at, to forget who has been idle for long;
const STALE_LOOKED_AT: usize = 2;
/// and where too many are idle, at most.
const LOOKED_AT_MAX: usize = 64;

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
    /// What it can owe.
    pub(super) debt_max: Virtual,
    /// Since when it is idle, if it is, and since which lap of the hand.
    idle_us: u64,
    idle_lap: u32,
    place: Place,
}

/// Whose a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// That of a tenant.
    Taken,
    /// Nobody's; with the next place that is nobody's.
    Free(u32),
}

/// When a request would be done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Finish {
    /// In virtual time.
    pub(super) at: Virtual,
    /// What it costs of that.
    pub(super) cost: Virtual,
}

impl Tenant {
    fn new(asker: Asker, weight: Weight, estimate_us: u32) -> Self {
        let rate = Rate::of(weight);
        Self {
            asker,
            weight,
            rate,
            served: Virtual::ZERO,
            held: 0,
            granted_us: 0,
            estimated_us: 0,
            estimate_us,
            queue: Queue::default(),
            latest: Virtual::ZERO,
            key: None,
            usual: Usual::default(),
            debt_max: rate.charge(DEBT_US_MAX),
            idle_us: 0,
            idle_lap: 0,
            place: Place::Taken,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held == 0 && self.queue.is_empty()
    }

    /// What it has had until now. What it holds counts as estimated, and as it is once that is passed.
    pub(super) fn had(&self, now: u64) -> Virtual {
        if self.held == 0 {
            return self.served;
        }
        let elapsed = (u64::from(self.held) * now).saturating_sub(self.granted_us);
        self.served + self.rate.charge(elapsed.max(self.estimated_us))
    }

    /// What it will have had once its next request is done.
    pub(super) fn finish(&self, now: u64) -> Finish {
        let cost = self.rate.charge(u64::from(self.estimate_us));
        Finish {
            at: self.had(now) + cost,
            cost,
        }
    }

    /// When the next request of one that waits counts as done.
    pub(super) fn due(&self, now: u64) -> Virtual {
        self.finish(now).at.min(self.latest)
    }

    /// The first of its queue comes no later than what it can owe from now, nor than the pool's time gets meanwhile.
    pub(super) fn comes_by(&mut self, (virtual_now, goes_on): (Virtual, Virtual)) {
        self.latest = virtual_now + self.debt_max.min(goes_on);
    }

    pub(super) fn set_weight(&mut self, weight: Weight) {
        self.weight = weight;
        self.rate = Rate::of(weight);
        self.debt_max = self.rate.charge(DEBT_US_MAX);
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
///
/// Who is forgotten is found by a hand that goes around all places: who has been idle for long, or where too many are
/// idle, who has done nothing for a whole lap of the hand. So a tenant that comes and goes with each of its
/// requests, as all do while there is room, is not moved in any list.
#[derive(Debug)]
pub(super) struct Tenants {
    places: Vec<Tenant>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: u32,
    hand: usize,
    /// The hand's laps; they wrap.
    lap: u32,
    /// Those that hold or wait, and their weight together, hundredths.
    active: usize,
    active_percent: u64,
}

impl Tenants {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            by_name: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: NOWHERE,
            hand: 0,
            lap: 0,
            active: 0,
            active_percent: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// How many hold or wait.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// The weight of those that hold or wait together, hundredths.
    pub(super) fn active_percent(&self) -> u64 {
        self.active_percent
    }

    /// A tenant that was idle holds or waits from now on.
    pub(super) fn activated(&mut self, weight: Weight) {
        self.active += 1;
        self.active_percent += weight.percent();
    }

    /// A tenant of this weight is idle from now on, or of another weight.
    pub(super) fn deactivated(&mut self, weight: Weight) {
        self.active -= 1;
        self.active_percent -= weight.percent();
    }

    /// If it neither holds nor waits any more, it is idle since `now`.
    pub(super) fn deactivate(&mut self, place: u32, now: u64) {
        let lap = self.lap;
        if let Some(tenant) = self.at_mut(place)
            && tenant.is_idle()
        {
            tenant.idle_us = now;
            tenant.idle_lap = lap;
            let weight = tenant.weight;
            self.deactivated(weight);
        }
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
        match self.find(asker) {
            Some(place) => place,
            None => self.remember(Tenant::new(asker, weight, estimate_us), now),
        }
    }

    #[cold]
    fn remember(&mut self, mut tenant: Tenant, now: u64) -> u32 {
        self.forget(now);
        tenant.idle_us = now;
        tenant.idle_lap = self.lap;
        let asker = tenant.asker;
        let place = match self.places.get_mut(self.free as usize) {
            Some(free) => {
                let place = self.free;
                self.free = match free.place {
                    Place::Free(next) => next,
                    Place::Taken => NOWHERE,
                };
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
        place
    }

    /// Forgets some of those that have been idle for too long, or as many as there are too many.
    fn forget(&mut self, now: u64) {
        for looked in 0..LOOKED_AT_MAX.min(self.places.len()) {
            let full = self.by_name.len() - self.active >= IDLE_MAX;
            // Not further than it must: a hand that always went as far would come to the same places in each lap.
            if !full && looked >= STALE_LOOKED_AT {
                return;
            }
            if self.hand >= self.places.len() {
                self.hand = 0;
                self.lap = self.lap.wrapping_add(1);
            }
            let at = self.hand;
            self.hand += 1;
            let Some(tenant) = self.places.get(at) else {
                return;
            };
            let stale = now.saturating_sub(tenant.idle_us) > IDLE_US_MAX;
            let passed = full && self.lap.wrapping_sub(tenant.idle_lap) >= 2;
            if (stale || passed) && tenant.place == Place::Taken && tenant.is_idle() {
                self.free_place(at);
            }
        }
    }

    fn free_place(&mut self, at: usize) {
        let Some(tenant) = self.places.get_mut(at) else {
            return;
        };
        let hash = self.hasher.hash_one(tenant.asker);
        tenant.place = Place::Free(self.free);
        if let Ok(entry) = (self.by_name).find_entry(hash, |place| *place as usize == at) {
            self.free = *entry.get();
            entry.remove();
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
            // However little time they take.
            tenants.enter(asker(number), Weight::USUAL, 1000, 0);
        }
        let most = IDLE_MAX + 4 * IDLE_MAX / LOOKED_AT_MAX;
        assert!(tenants.len() <= most && tenants.places.len() <= most);
        assert!(tenants.find(asker(1)).is_none());
        assert!(tenants.find(asker(1_000_000)).is_some());
    }

    #[test]
    fn who_is_idle_for_long_is_forgotten_and_who_is_not_idle_never() {
        let mut tenants = Tenants::new();
        let busy = tenants.enter(asker(1), Weight::USUAL, 1000, 0);
        tenants.at_mut(busy).unwrap().take(0);
        tenants.activated(Weight::USUAL);
        tenants.enter(asker(2), Weight::USUAL, 1000, 0);
        tenants.enter(asker(3), Weight::USUAL, 1000, 2 * IDLE_US_MAX);
        assert_eq!(tenants.find(asker(1)), Some(busy));
        assert!(tenants.find(asker(2)).is_none());
        assert_eq!(tenants.iter().count(), 2);
    }

    /// Thousands of others that came once do not push out one that comes all the time.
    #[test]
    fn who_comes_again_and_again_is_not_forgotten_for_who_came_once() {
        let mut tenants = Tenants::new();
        let mut most = 0;
        for now in 1..100_000 {
            let often = tenants.enter(asker(1), Weight::USUAL, 7, now);
            let tenant = tenants.at_mut(often).unwrap();
            tenant.take(now);
            tenants.activated(Weight::USUAL);
            let tenant = tenants.at_mut(often).unwrap();
            tenant.give_back(now, 7, 1);
            assert_eq!(tenant.served, Virtual::of_us(now), "it was forgotten");
            tenants.deactivate(often, now);
            let once = i64::try_from(now).unwrap() + 1;
            tenants.enter(asker(once), Weight::USUAL, 1000, now);
            most = most.max(tenants.places.len());
        }
        assert!(most <= IDLE_MAX + 4 * IDLE_MAX / LOOKED_AT_MAX, "{most}");
    }

    /// At a second time a tenant is found where it was, and its place is used anew after it was forgotten.
    #[test]
    fn places_are_used_anew() {
        let mut tenants = Tenants::new();
        let first = tenants.enter(asker(1), Weight::USUAL, 1000, 0);
        assert_eq!(tenants.enter(asker(1), Weight::USUAL, 1000, 5), first);
        tenants.forget(2 * IDLE_US_MAX);
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
