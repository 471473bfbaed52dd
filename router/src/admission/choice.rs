//! Whose turn it is among those that wait, and which of several that are due alike is nearest to
//! the connection that is free.
//!
//! Being near is a hint: it changes the order within a bound and never who may have a connection.

use super::Near;
use super::scheduler::Scheduler;
use super::virtual_time::Virtual;
use super::waiters::WaiterId;

/// Tenants whose place is brought up to date in one decision. Only those that hold connections need it.
const REFRESHED_MAX: usize = 64;
/// For how long a waiter may be passed over for one that is nearer to the connection, microseconds.
const PASSED_OVER_US_MAX: u64 = 5000;
/// Tenants, and waiters of one tenant, that are looked at to find one that is nearer.
const LOOKED_AT_MAX: usize = 16;
/// How much later in virtual time a tenant that is nearer may be.
const SLACK: Virtual = Virtual::of_us(1000);

impl<W, P: Copy + Eq> Scheduler<W, P> {
    /// Among those that wait, by what it has had and by its oldest waiter.
    pub(super) fn file(&mut self, place: u32) {
        let now = self.now_us;
        if let Some(tenant) = self.tenants.at_mut(place)
            && let Some((_, first)) = self.waiters.first(&tenant.queue)
        {
            let key = tenant.due(now);
            tenant.key = Some((key, first.number));
            self.backlog.insert((key, first.number, place));
        }
    }

    pub(super) fn unfile(&mut self, place: u32) {
        if let Some(tenant) = self.tenants.at_mut(place)
            && let Some((key, number)) = tenant.key.take()
        {
            self.backlog.remove(&(key, number, place));
        }
    }

    /// The tenant whose turn it would be.
    pub(super) fn first(&mut self) -> Option<(Virtual, u32)> {
        for _ in 0..REFRESHED_MAX {
            let (filed, _, place) = *self.backlog.first()?;
            let tenant = self.tenants.at(place)?;
            if tenant.due(self.now_us) <= filed {
                return Some((filed, place));
            }
            self.unfile(place);
            self.file(place);
        }
        self.backlog.first().map(|(key, _, place)| (*key, *place))
    }

    /// A tenant that is near, among those that are due about as soon as the first.
    pub(super) fn nearest(&mut self, near: Near<P>, key: Virtual, first: u32) -> (Virtual, u32) {
        let mut best = (key, first);
        let mut best_fit = self.fit(near, first);
        if self.is_overdue(first) {
            return best;
        }
        let now = self.now_us;
        let is_newcomer = key <= self.virtual_now;
        for (filed, _, place) in self.backlog.iter().skip(1).take(LOOKED_AT_MAX - 1) {
            if *filed > key + SLACK || (is_newcomer && *filed > self.virtual_now) {
                break;
            }
            let fit = self.fit(near, *place);
            if fit <= best_fit {
                continue;
            }
            let Some(tenant) = self.tenants.at(*place) else {
                continue;
            };
            let due = tenant.due(now);
            if due <= key + SLACK && (!is_newcomer || due <= self.virtual_now) {
                (best, best_fit) = ((due, *place), fit);
            }
        }
        best
    }

    /// How near a tenant is: binding costs more than moving.
    pub(super) fn fit(&self, near: Near<P>, place: u32) -> (bool, bool) {
        let Some(tenant) = self.tenants.at(place) else {
            return (false, false);
        };
        let mut waiters = self.waiters.of(&tenant.queue).take(LOOKED_AT_MAX);
        (
            near.asker == Some(tenant.asker),
            waiters.any(|(_, waiter)| waiter.place == near.place),
        )
    }

    /// Whether the first of a tenant's queue has been waiting for too long to be passed over.
    pub(super) fn is_overdue(&self, place: u32) -> bool {
        let tenant = self.tenants.at(place);
        let first = tenant.and_then(|tenant| self.waiters.first(&tenant.queue));
        first.is_none_or(|(_, waiter)| {
            self.now_us.saturating_sub(waiter.since_us) > PASSED_OVER_US_MAX
        })
    }

    /// Of one tenant's waiters the one that is near, or else the first.
    pub(super) fn nearest_waiter(&self, near: Option<Near<P>>, place: u32) -> Option<WaiterId> {
        let queue = self.tenants.at(place)?.queue;
        if let Some(near) = near
            && !self.is_overdue(place)
        {
            let mut waiters = self.waiters.of(&queue).take(LOOKED_AT_MAX);
            if let Some((id, _)) = waiters.find(|(_, waiter)| waiter.place == near.place) {
                return Some(id);
            }
        }
        self.waiters.first(&queue).map(|(id, _)| id)
    }
}
