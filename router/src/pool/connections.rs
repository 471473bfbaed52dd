//! The connections of one pool and who waits for them: what stands under its lock.

use std::sync::Arc;
use std::thread::ThreadId;

use tenantry_schema::tenant::TenantId;
use tokio::sync::oneshot;

use super::down::Down;
use super::lease::{Grant, Lease, Slot};
use super::{Applicant, Gate, Pool, PoolLimits};
use crate::admission::{Near, Scheduler, Ticket};
use crate::server::{Bound, Server};

/// Invariant: `open` counts idle and leased connections and those being opened, which is what the scheduler has granted
/// and what is idle; it never grows beyond the pool's size, and falls to it where a reload made the pool smaller.
#[derive(Debug)]
pub(super) struct Inner {
    #[expect(clippy::vec_box, reason = "a lease takes and returns the box as it is")]
    pub(super) idle: Vec<Box<Server>>,
    pub(super) open: usize,
    pub(super) scheduler: Scheduler<oneshot::Sender<Grant>, ThreadId>,
    pub(super) gate: Gate,
    /// Another pool has taken its place.
    pub(super) retired: bool,
    /// Those of all pools, as of the last resize.
    pub(super) limits: PoolLimits,
    /// No connection could be opened lately.
    pub(super) down: Option<Down>,
    /// When a connection last came back or was opened, microseconds.
    pub(super) alive_us: Option<u64>,
}

/// One whose turn it is, and what it gets.
pub(super) type Turn = (oneshot::Sender<Grant>, Grant);

impl Inner {
    pub(super) fn request(&mut self, applicant: Applicant, now: u64) -> Option<Ticket> {
        let asker = self.asker(applicant);
        self.scheduler.request(asker, applicant.weight, now)
    }

    /// For whom the scheduler counts what this one holds.
    pub(super) fn asker(&self, applicant: Applicant) -> Option<TenantId> {
        applicant.tenant.filter(|_| self.limits.is_fair)
    }

    /// Among the idle ones, unless it is one too many or the last of its kind: that is returned.
    pub(super) fn keep(&mut self, server: Box<Server>) -> Option<Box<Server>> {
        let outdated = server.listed.record().is_close_needed();
        let wanted = self.gate == Gate::Open && !self.retired;
        if self.open > self.limits.size || !wanted || outdated {
            self.open -= 1;
            return Some(server);
        }
        self.idle.push(server);
        None
    }

    /// Whose turn it is, and what is there for it.
    pub(super) fn next(
        &mut self,
        pool: &Arc<Pool>,
        near: Option<Near<ThreadId>>,
        now: u64,
    ) -> Option<Turn> {
        let next = self.scheduler.next(near, now)?;
        let slot = Slot::new(Arc::clone(pool), next.ticket);
        let grant = match self.take_quiet(next.asker, next.place) {
            Some(server) => Grant::Connection(Lease::new(server, slot)),
            None => {
                self.open += 1;
                Grant::Slot(slot)
            }
        };
        Some((next.handle, grant))
    }

    /// An idle connection that has not died meanwhile.
    pub(super) fn take_quiet(
        &mut self,
        tenant: Option<TenantId>,
        thread: ThreadId,
    ) -> Option<Box<Server>> {
        while let Some(server) = self.take_idle(tenant, thread) {
            if server.is_quiet() {
                return Some(server);
            }
            self.open -= 1;
        }
        None
    }

    /// The most recently used connection of this tenant, or else of anyone; of this thread rather than of another,
    /// because moving one costs less than binding one.
    pub(super) fn take_idle(
        &mut self,
        tenant: Option<TenantId>,
        thread: ThreadId,
    ) -> Option<Box<Server>> {
        let wanted = Bound::Known(tenant);
        let mut best = None;
        for (at, server) in self.idle.iter().enumerate().rev() {
            let fit = (server.link.state.bound == wanted, server.thread == thread);
            if best.is_none_or(|(_, found)| fit > found) {
                best = Some((at, fit));
            }
            if fit == (true, true) {
                break;
            }
        }
        best.map(|(at, _)| self.idle.remove(at))
    }
}
