//! The events of one pool, and what follows from each.

use std::collections::BTreeSet;

use super::level::Level;
use super::tenants::{Asker, Finish, Tenant, Tenants};
use super::virtual_time::{Virtual, Weight};
use super::waiters::{WaiterId, Waiters};
use super::{Bounds, Grant, Load, Near, QueueFull, TenantLoad, Ticket};

/// What a tenant can owe, microseconds of its own holding: so much later than at its turn it comes at most.
pub(super) const DEBT_US_MAX: u64 = 1_000_000;
/// After so long, microseconds, one that waits comes at the latest, however many others wait and share the pool's time.
const LATE_US: u64 = 10_000_000;
/// The part of an even split by which virtual time goes on whoever is served.
const CREEP: u64 = 4;
/// The most of one request that counts for that, microseconds.
const CREEP_US_MAX: u64 = 1_000_000;
/// What a request is expected to take while nothing is known, microseconds.
const ESTIMATE_US: u32 = 1000;
/// Longest estimate, microseconds.
const ESTIMATE_US_MAX: u64 = 1_000_000;
/// A tenant is alone when nobody else was granted a connection for so long, microseconds.
const ALONE_US: u64 = 1_000_000;

/// Decides for one pool. `W` is what finds a waiter again, `P` names what a connection can be near to.
#[derive(Debug)]
pub struct Scheduler<W, P> {
    bounds: Bounds,
    pub(super) tenants: Tenants,
    pub(super) waiters: Waiters<W, P>,
    /// Tenants that wait: by the virtual time at which their next request would be done, no later than that, then
    /// by age. What a tenant holds makes its time go on, so its key is brought up to date when it is the first.
    pub(super) backlog: BTreeSet<(Virtual, u64, u32)>,
    pub(super) virtual_now: Virtual,
    pub(super) now_us: u64,
    pub(super) held: usize,
    /// Of these, granted to others than newcomers.
    pub(super) beyond: usize,
    level: Level,
    /// What requests take, microseconds.
    estimate_us: u32,
    /// Who was granted a connection last, and since when it is always the same one.
    last: u32,
    alone_since_us: u64,
}

impl<W, P: Copy + Eq> Scheduler<W, P> {
    /// For a pool of which nothing is held.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            tenants: Tenants::new(),
            waiters: Waiters::new(),
            backlog: BTreeSet::new(),
            virtual_now: Virtual::START,
            now_us: 0,
            held: 0,
            beyond: 0,
            level: Level::new(bounds.size - bounds.reserve()),
            estimate_us: ESTIMATE_US,
            last: 0,
            alone_since_us: 0,
            bounds,
        }
    }

    /// Other bounds, from now on. What is held beyond them stays until it is released.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        if bounds.size > 0 {
            self.level.set_most(bounds.size - bounds.reserve());
        }
        self.bounds = bounds;
    }

    /// A connection at once, unless this has to wait.
    pub fn request(&mut self, asker: Asker, weight: Weight, now_us: u64) -> Option<Ticket> {
        self.advance(now_us);
        if self.held >= self.bounds.size {
            return None;
        }
        let (place, finish) = self.arrive(asker, weight);
        let tenant = self.tenants.at(place)?;
        let key = finish.at.min(self.virtual_now + tenant.debt_max);
        let is_first = tenant.queue.is_empty()
            && (self.backlog.first()).is_none_or(|(first, _, _)| key < *first);
        // It has no queue if it is the first.
        let was_idle = tenant.held == 0;
        if !is_first || !self.admits(key) {
            return None;
        }
        if was_idle {
            self.tenants.activated(weight);
        }
        self.grant(place, key, finish)
    }

    /// Waits for a turn; only after [`Scheduler::request`] has answered `None`.
    ///
    /// # Errors
    /// If too many wait already; the handle is dropped.
    pub fn wait(
        &mut self,
        asker: Asker,
        weight: Weight,
        place: P,
        handle: W,
        now_us: u64,
    ) -> Result<WaiterId, QueueFull> {
        self.advance(now_us);
        let (at, _) = self.arrive(asker, weight);
        let pool_full = QueueFull::Pool {
            limit: self.bounds.queue_max,
            waiting: self.waiters.len(),
        };
        let tenant = self.tenants.at(at).ok_or(pool_full)?;
        let mut queue = tenant.queue;
        self.check_queue(queue.len())?;
        self.activate(at);
        let number = self
            .waiters
            .enter(&mut queue, at, self.now_us, place, handle);
        let id = number.ok_or(pool_full)?;
        let is_first = queue.len() == 1;
        let late = self.late();
        if let Some(tenant) = self.tenants.at_mut(at) {
            tenant.queue = queue;
            if is_first {
                tenant.comes_by(late);
            }
        }
        if is_first {
            self.file(at);
        }
        Ok(id)
    }

    /// Whose turn it is, if there is a connection for it. To be asked after every event until nobody's is, and now and
    /// then while some wait, for virtual time goes on without events.
    ///
    /// `near` says what is free, so that it need not be bound to another tenant or moved to another thread when
    /// that would make nobody wait who should not.
    pub fn next(&mut self, near: Option<Near<P>>, now_us: u64) -> Option<Grant<W, P>> {
        self.advance(now_us);
        if self.backlog.is_empty() || self.held >= self.bounds.size {
            return None;
        }
        let (key, first) = self.first()?;
        if !self.admits(key) {
            return None;
        }
        let (key, place) = match near {
            Some(near) => self.nearest(near, key, first),
            None => (key, first),
        };
        let id = self.nearest_waiter(near, place)?;
        self.unfile(place);
        let tenant = self.tenants.at_mut(place)?;
        let waiter = self.waiters.leave(&mut tenant.queue, id)?;
        let (asker, more) = (tenant.asker, !tenant.queue.is_empty());
        let finish = self.tenants.at(place)?.finish(self.now_us);
        let ticket = self.grant(place, key, finish)?;
        if more {
            let late = self.late();
            if let Some(tenant) = self.tenants.at_mut(place) {
                tenant.comes_by(late);
            }
            self.file(place);
        }
        Some(Grant {
            handle: waiter.handle,
            asker,
            place: waiter.place,
            ticket,
            since_us: waiter.since_us,
        })
    }

    /// A connection is held no longer. `worked_us` is for how long the shard worked in that time, if that is known.
    pub fn release(&mut self, ticket: Ticket, worked_us: Option<u64>, now_us: u64) {
        self.advance(now_us);
        let now = self.now_us;
        let us = now.saturating_sub(ticket.since_us);
        if let Some(tenant) = self.tenants.at_mut(ticket.tenant) {
            // By an eighth for the tenant, slower for the pool, which is what a tenant starts with.
            tenant.estimate_us = learn(tenant.estimate_us, us, 3);
            self.estimate_us = learn(self.estimate_us, us, 6);
            if let Some(worked) = worked_us.filter(|_| self.bounds.adapts) {
                self.level
                    .worked(&mut tenant.usual, ticket.since_us, worked, now);
            }
        }
        self.put_back(&ticket, us);
    }

    /// A connection was granted and not used: nobody pays for it.
    pub fn give_up(&mut self, ticket: Ticket, now_us: u64) {
        self.advance(now_us);
        self.put_back(&ticket, 0);
    }

    /// A waiter waits no longer; `None` if it has had its turn.
    pub fn withdraw(&mut self, id: WaiterId, now_us: u64) -> Option<W> {
        self.advance(now_us);
        let place = self.waiters.waiter(id)?.tenant;
        let tenant = self.tenants.at_mut(place)?;
        let waiter = self.waiters.leave(&mut tenant.queue, id)?;
        self.unfile(place);
        if self.tenants.at(place)?.queue.is_empty() {
            self.tenants.deactivate(place, self.now_us);
        } else {
            // The next in line inherits the moment at which it comes at the latest.
            self.file(place);
        }
        Some(waiter.handle)
    }

    /// All waiters, none of whom waits any longer.
    pub fn withdraw_all(&mut self, now_us: u64) -> Vec<W> {
        let mut all = Vec::with_capacity(self.waiters.len());
        while let Some((_, _, place)) = self.backlog.first() {
            let queue = self.tenants.at(*place).map(|tenant| tenant.queue);
            let first = queue.and_then(|queue| self.waiters.first(&queue).map(|(id, _)| id));
            match first.and_then(|id| self.withdraw(id, now_us)) {
                Some(handle) => all.push(handle),
                // An empty queue does not stand in the backlog.
                None => break,
            }
        }
        all
    }

    /// What the pool is doing.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            held: self.held,
            waiting: self.waiters.len(),
            tenants_waiting: self.backlog.len(),
            tenants_active: self.tenants.active(),
            level: self.level.level(),
        }
    }

    /// What each tenant is doing that holds or waits.
    pub fn tenants(&self) -> impl Iterator<Item = TenantLoad> {
        let active = self.tenants.iter().filter(|tenant| !tenant.is_idle());
        active.map(|tenant| self.load_of(tenant))
    }

    /// What one tenant is doing, if it holds or waits.
    #[must_use]
    pub fn tenant(&self, asker: Asker) -> Option<TenantLoad> {
        let tenant = self.tenants.at(self.tenants.find(asker)?)?;
        (!tenant.is_idle()).then(|| self.load_of(tenant))
    }

    fn load_of(&self, tenant: &Tenant) -> TenantLoad {
        let share = tenant.weight.percent() * 1000 / self.tenants.active_percent().max(1);
        TenantLoad {
            asker: tenant.asker,
            held: tenant.held as usize,
            waiting: tenant.queue.len(),
            share_permille: u32::try_from(share).unwrap_or(u32::MAX),
        }
    }

    /// Time goes on.
    fn advance(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// The place of one that asks, and when its next request would be done. Unless it waits already it starts from now:
    /// that is at the pool's virtual time or, if it has had more, later.
    fn arrive(&mut self, asker: Asker, weight: Weight) -> (u32, Finish) {
        let (now, virtual_now) = (self.now_us, self.virtual_now);
        let place = self.tenants.enter(asker, weight, self.estimate_us, now);
        if let Some(tenant) = self.tenants.at(place)
            && tenant.weight != weight
        {
            self.reweigh(place, weight);
        }
        let Some(tenant) = self.tenants.at_mut(place) else {
            return (place, Finish::default());
        };
        let mut finish = tenant.finish(now);
        if tenant.queue.is_empty() && finish.at < virtual_now {
            tenant.served += virtual_now - finish.at;
            finish.at = virtual_now;
        }
        (place, finish)
    }

    #[cold]
    fn reweigh(&mut self, place: u32, weight: Weight) {
        let Some(tenant) = self.tenants.at_mut(place) else {
            return;
        };
        let (before, is_idle) = (tenant.weight, tenant.is_idle());
        tenant.set_weight(weight);
        if !is_idle {
            self.tenants.deactivated(before);
            self.tenants.activated(weight);
        }
    }

    /// The pool's virtual time now, and how far it gets at most while one waits that is to come at last.
    fn late(&self) -> (Virtual, Virtual) {
        let size = u64::try_from(self.bounds.size).unwrap_or(u64::MAX);
        let goes_on = Virtual::shared(LATE_US.saturating_mul(size), self.tenants.active_percent());
        (self.virtual_now, goes_on)
    }

    /// Whether one whose next request would be done at this time may have a connection.
    pub(super) fn admits(&mut self, key: Virtual) -> bool {
        let size = self.bounds.size;
        if self.held >= size {
            return false;
        }
        if key <= self.virtual_now {
            return true;
        }
        // Where there is nobody to protect a slow shard is the tenant's own affair.
        let alone = self.now_us.saturating_sub(self.alone_since_us) > ALONE_US;
        self.held + self.bounds.reserve() < size && (alone || !self.level.is_reached(self.beyond))
    }

    /// One connection for a tenant whose request would be done at this time.
    fn grant(&mut self, place: u32, key: Virtual, finish: Finish) -> Option<Ticket> {
        let now = self.now_us;
        let beyond = key > self.virtual_now;
        let tenant = self.tenants.at_mut(place)?;
        // What it owes beyond the bound is remitted.
        tenant.served = tenant.served - (finish.at - key);
        let start = key - finish.cost;
        let estimate_us = tenant.estimate_us;
        tenant.take(now);
        self.virtual_now = self.virtual_now.max(start);
        if self.last != place {
            self.last = place;
            self.alone_since_us = now;
        }
        self.held += 1;
        self.beyond += usize::from(beyond);
        Some(Ticket {
            tenant: place,
            since_us: now,
            estimate_us,
            beyond,
        })
    }

    fn put_back(&mut self, ticket: &Ticket, us: u64) {
        self.held = self.held.saturating_sub(1);
        self.beyond = self.beyond.saturating_sub(usize::from(ticket.beyond));
        if !ticket.beyond {
            // Virtual time creeps with what newcomers have had, as it is given back: nobody makes it theirs by holding on.
            let held = us.min(CREEP_US_MAX) / CREEP;
            self.virtual_now += Virtual::shared(held, self.tenants.active_percent());
        }
        let Some(tenant) = self.tenants.at_mut(ticket.tenant) else {
            return;
        };
        tenant.give_back(ticket.since_us, ticket.estimate_us, us);
        if tenant.queue.is_empty() {
            self.tenants.deactivate(ticket.tenant, self.now_us);
        } else {
            // It may have been charged too much, and come earlier now.
            self.unfile(ticket.tenant);
            self.file(ticket.tenant);
        }
    }

    fn check_queue(&self, own: usize) -> Result<(), QueueFull> {
        let Bounds {
            queue_max,
            tenant_queue_max,
            ..
        } = self.bounds;
        let waiting = self.waiters.len();
        if waiting >= queue_max {
            let limit = queue_max;
            return Err(QueueFull::Pool { limit, waiting });
        }
        // Of what others leave, half: so many greedy tenants as there may be, there is room for one more.
        let left = queue_max - (waiting - own);
        let limit = tenant_queue_max.min(left.div_ceil(2));
        if own >= limit {
            return Err(QueueFull::Tenant {
                limit,
                waiting: own,
            });
        }
        Ok(())
    }

    /// It holds or waits from now on.
    fn activate(&mut self, place: u32) {
        if let Some(tenant) = self.tenants.at(place)
            && tenant.is_idle()
        {
            let weight = tenant.weight;
            self.tenants.activated(weight);
        }
    }
}

/// An estimate after one more measurement, which counts for one part in `2^bits`.
fn learn(estimate_us: u32, us: u64, bits: u32) -> u32 {
    let us = us.min(ESTIMATE_US_MAX);
    let old = u64::from(estimate_us);
    // Rounded away from what is known, so that small differences are learnt as well.
    let learnt = if us > old {
        old + ((us - old - 1) >> bits) + 1
    } else {
        old - ((old - us + (1 << bits) - 1) >> bits)
    };
    u32::try_from(learnt.max(1)).unwrap_or(u32::MAX)
}
