//! Server connections of one shard, shared by all sessions of this router.
//!
//! A connection keeps its last tenant; a session prefers one that is bound to its tenant already.
//! Sessions that find none wait for a bounded time in a bounded queue. Who gets a connection is decided by
//! [`crate::admission`]; here are the connections, and the waking of those whose turn it is.

mod clean;
mod connections;
mod down;
mod gate;
mod lease;
mod limits;
mod patience;
mod pools;
mod sample;
mod waiting;

use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tenantry_schema::causes::one_line;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) use self::clean::{LeftBehind, clean, give_back_if_clean};
pub(crate) use self::gate::Gate;
pub(crate) use self::lease::Lease;
pub(crate) use self::limits::PoolLimits;
pub(crate) use self::pools::Pools;
pub(crate) use self::sample::Sample;

use self::connections::{Inner, Turn};
use self::lease::{Grant, Slot};
use self::patience::{Patience, Paused};
use self::waiting::Waiting;
use crate::admission::{Load, Near, QueueFull, Scheduler, TenantLoad, Ticket, Weight};
use crate::error::Refusal;
use crate::server::{self, Bound, ConnectError, Server, ServerLogin};
use crate::threads;

/// After saturation of the server itself, how long to wait before asking it again.
const SATURATION_PAUSE: Duration = Duration::from_millis(20);

/// Who asks for a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Applicant {
    /// `None` for a session without one.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) weight: Weight,
}

/// What a pool is doing right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    pub(crate) open: usize,
    pub(crate) idle: usize,
    pub(crate) load: Load,
    /// Connections that are left to newcomers.
    pub(crate) reserve: usize,
    pub(crate) gate: Gate,
}

/// Why a pool that was replaced gives no connection; whoever asks finds the new one.
const RETIRED: &str = "its address or password has changed";

/// The connections to one shard.
#[derive(Debug)]
pub(crate) struct Pool {
    login: ServerLogin,
    limits: Arc<ArcSwap<PoolLimits>>,
    paused: Paused,
    inner: Mutex<Inner>,
}

impl Pool {
    pub(crate) fn new(login: ServerLogin, limits: Arc<ArcSwap<PoolLimits>>, gate: Gate) -> Self {
        let now = **limits.load();
        let paused = Paused::default();
        paused.set(gate == Gate::Paused, login.activity.clock.now_us());
        Self {
            login,
            limits,
            paused,
            inner: Mutex::new(Inner {
                idle: Vec::new(),
                open: 0,
                scheduler: Scheduler::new(now.bounds(gate)),
                gate,
                retired: false,
                limits: now,
                down: None,
                alive_us: None,
            }),
        }
    }

    /// Another pool has taken its place: it gives out no connection, and those in use are closed as they come back.
    pub(crate) fn is_retired(&self) -> bool {
        self.inner.lock().retired
    }

    pub(crate) fn shard_id(&self) -> ShardId {
        self.login.shard.id
    }

    pub(crate) fn login(&self) -> &ServerLogin {
        &self.login
    }

    pub(crate) fn shard_name(&self) -> String {
        self.login.shard.name.to_string()
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let inner = self.inner.lock();
        PoolStats {
            open: inner.open,
            idle: inner.idle.len(),
            load: inner.scheduler.load(),
            reserve: inner.limits.bounds(Gate::Open).reserve(),
            gate: inner.gate,
        }
    }

    /// What each tenant is doing that holds or waits for connections.
    pub(crate) fn tenants(&self) -> Vec<TenantLoad> {
        self.inner.lock().scheduler.tenants().collect()
    }

    /// A connection, preferably bound to the tenant. Waits as long as `query_wait` allows.
    pub(crate) async fn acquire(self: &Arc<Self>, applicant: Applicant) -> Result<Lease, Refusal> {
        self.acquire_within(applicant, None).await
    }

    /// The same within `limit`, if that is shorter.
    pub(crate) async fn acquire_within(
        self: &Arc<Self>,
        applicant: Applicant,
        limit: Option<Duration>,
    ) -> Result<Lease, Refusal> {
        let patience = Patience::begin(self, limit);
        loop {
            let slot = match self.try_acquire(applicant)? {
                Attempt::Granted(grant) => grant,
                Attempt::Wait(waiting) => waiting.turn(applicant, patience).await?,
            };
            let slot = match slot {
                Grant::Connection(lease) => match lease.move_here() {
                    Some(lease) => return Ok(lease),
                    None => continue,
                },
                Grant::Slot(slot) => slot,
            };
            let connect = self.limits.load().connect;
            // Large, and rarely needed: a session that waits would carry it along.
            let opening = Box::pin(server::open(&self.login));
            let error = match timeout(connect, opening).await {
                Ok(Ok(server)) => {
                    self.opened();
                    return Ok(Lease::new(Box::new(server), slot));
                }
                Ok(Err(error)) => error,
                Err(_elapsed) => ConnectError::Timeout,
            };
            self.login.activity.connect_failed(error.cause());
            if error.is_saturation() {
                drop(slot);
                tokio::time::sleep(SATURATION_PAUSE).await;
                if patience.left(self).is_zero() {
                    return Err(self.queue_timeout(applicant, patience.waited(self)));
                }
            } else if let Some(refusal) = self.note_down(&error) {
                return Err(refusal);
            }
        }
    }

    /// A connection that is idle right now, without waiting or opening one.
    pub(crate) fn take_idle(self: Arc<Self>, applicant: Applicant) -> Option<Lease> {
        let (server, ticket) = {
            let mut inner = self.inner.lock();
            if inner.idle.is_empty() || inner.retired {
                return None;
            }
            let now = self.now_us();
            let ticket = inner.request(applicant, now)?;
            match inner.take_quiet(applicant.tenant, threads::here()) {
                Some(server) => (server, ticket),
                None => {
                    inner.scheduler.give_up(ticket, now);
                    return None;
                }
            }
        };
        Lease::new(server, Slot::new(self, ticket)).move_here()
    }

    fn try_acquire(self: &Arc<Self>, applicant: Applicant) -> Result<Attempt, Refusal> {
        let (now, here) = (self.now_us(), threads::here());
        // One lock for looking and queueing: nobody may be given back a connection in between.
        let mut inner = self.inner.lock();
        if inner.retired {
            return Err(self.down(RETIRED.to_owned()));
        }
        let refusal = inner.refusal(now).map(str::to_owned);
        if let Some(ticket) = inner.request(applicant, now) {
            match (inner.take_quiet(applicant.tenant, here), refusal) {
                (Some(server), _) => {
                    let lease = Lease::new(server, Slot::new(Arc::clone(self), ticket));
                    return Ok(Attempt::Granted(Grant::Connection(lease)));
                }
                (None, None) if inner.may_open() => {
                    inner.open += 1;
                    return Ok(Attempt::Granted(Grant::Slot(Slot::new(
                        Arc::clone(self),
                        ticket,
                    ))));
                }
                (None, refusal) => {
                    inner.scheduler.give_up(ticket, now);
                    // What was idle has died.
                    inner.bound();
                    let refusal = refusal.or_else(|| inner.refusal(now).map(str::to_owned));
                    if let Some(reason) = refusal {
                        return Err(self.down(reason));
                    }
                }
            }
        } else if let Some(reason) = refusal {
            return Err(self.down(reason));
        }
        if inner.gate == Gate::Disabled {
            return Err(self.disabled());
        }
        let (sender, receiver) = oneshot::channel();
        let asker = inner.asker(applicant);
        let waits = (inner.scheduler).wait(asker, applicant.weight, here, sender, now);
        let id = waits.map_err(|full| self.queue_full(full))?;
        // Time has gone on since anyone asked: it may be somebody's turn, and perhaps this one's.
        let next = inner.next(self, None, now);
        drop(inner);
        self.wake(next, None);
        Ok(Attempt::Wait(Waiting::new(self, id, receiver)))
    }

    fn now_us(&self) -> u64 {
        self.login.activity.clock.now_us()
    }

    fn queue_timeout(&self, applicant: Applicant, waited: Duration) -> Refusal {
        let inner = self.inner.lock();
        let tenant = inner.scheduler.tenant(inner.asker(applicant));
        Refusal::QueueTimeout {
            shard: self.shard_name(),
            waited,
            waiting: inner.scheduler.load().waiting,
            tenant_waiting: tenant.map_or(0, |tenant| tenant.waiting),
            tenant_held: tenant.map_or(0, |tenant| tenant.held),
            pool_size: inner.limits.size,
        }
    }

    fn queue_full(&self, full: QueueFull) -> Refusal {
        let shard = self.shard_name();
        match full {
            QueueFull::Pool { limit, waiting } => Refusal::QueueFull {
                shard,
                limit,
                waiting,
            },
            QueueFull::Tenant { limit, waiting } => Refusal::TenantQueueFull {
                shard,
                limit,
                waiting,
            },
        }
    }

    /// Why nobody waits here any longer.
    fn sent_away(&self) -> Refusal {
        let reason = self.inner.lock().last_reason();
        reason.map_or_else(|| self.disabled(), |reason| self.down(reason))
    }

    fn disabled(&self) -> Refusal {
        self.down("an operator has disabled it".to_owned())
    }

    fn down(&self, reason: String) -> Refusal {
        Refusal::ShardDown {
            shard: self.shard_name(),
            reason,
        }
    }

    fn note_down(self: &Arc<Self>, error: &ConnectError) -> Option<Refusal> {
        let reason = one_line(error);
        tracing::warn!(shard = %self.login.shard.name, %reason, "cannot open a server connection");
        self.failed(reason)
    }

    /// The pool's bounds have changed: who waits gets what was added, idle connections beyond the new size are closed.
    /// Leased ones beyond it are closed as they come back.
    pub(crate) fn resize(self: &Arc<Self>) {
        let limits = **self.limits.load();
        let closed = {
            let mut inner = self.inner.lock();
            inner.limits = limits;
            inner.bound();
            let beyond = inner.open.saturating_sub(limits.size);
            let kept = inner.idle.len().saturating_sub(beyond);
            let closed = inner.idle.split_off(kept);
            inner.open -= closed.len();
            closed
        };
        drop(closed);
        self.serve();
    }

    /// Whether connections are cleaned: always, but in a measurement of what that is for.
    pub(crate) fn cleans(&self) -> bool {
        self.limits.load().cleans
    }

    fn put_back(
        self: &Arc<Self>,
        mut server: Box<Server>,
        ticket: Ticket,
        worked_us: Option<u64>,
        now: u64,
    ) {
        let (near, closed, next) = {
            let mut inner = self.inner.lock();
            inner.alive_us = Some(now);
            inner.scheduler.release(ticket, worked_us, now);
            if !inner.limits.keeps_bind {
                server.link.state.bound = Bound::Unknown;
            }
            let near = Near {
                asker: match server.link.state.bound {
                    Bound::Known(tenant) => Some(tenant),
                    Bound::Unknown => None,
                },
                place: server.thread,
            };
            let closed = inner.keep(server);
            (near, closed, inner.next(self, Some(near), now))
        };
        drop(closed);
        if next.is_some() {
            self.wake(next, Some(near));
        }
    }

    /// A connection was closed, or never opened.
    fn slot_free(self: &Arc<Self>, ticket: Ticket) {
        let now = self.now_us();
        {
            let mut inner = self.inner.lock();
            inner.scheduler.release(ticket, None, now);
            inner.open -= 1;
        }
        self.lost();
        self.serve();
    }

    /// Wakes those whose turn it is.
    fn serve(self: &Arc<Self>) {
        let now = self.now_us();
        let next = self.inner.lock().next(self, None, now);
        self.wake(next, None);
    }

    /// Wakes one and those whose turn it is then. Without the lock, which they need.
    fn wake(self: &Arc<Self>, mut next: Option<Turn>, near: Option<Near<ThreadId>>) {
        while let Some((sender, grant)) = next {
            if let Err(unwanted) = sender.send(grant) {
                self.take_back(unwanted);
            }
            let now = self.now_us();
            next = self.inner.lock().next(self, near, now);
        }
    }

    /// What was granted to one that is gone.
    fn take_back(&self, grant: Grant) {
        let now = self.now_us();
        let (server, slot) = match grant {
            Grant::Connection(lease) => lease.into_parts(),
            Grant::Slot(slot) => (None, Some(slot)),
        };
        let Some((_, ticket)) = slot.and_then(Slot::keep) else {
            return;
        };
        let mut inner = self.inner.lock();
        inner.scheduler.give_up(ticket, now);
        let closed = match server {
            Some(server) => inner.keep(server),
            None => {
                inner.open -= 1;
                None
            }
        };
        drop(inner);
        drop(closed);
    }

    /// Closes connections that have been idle too long, and those that have died.
    pub(crate) fn prune(self: &Arc<Self>) {
        // Virtual time has gone on: it may be somebody's turn, and time to try a server again.
        self.look_again();
        let mut inner = self.inner.lock();
        let before = inner.idle.len();
        let limit = self.limits.load().idle;
        inner
            .idle
            .retain(|server| server.listed.record().lasts() < limit && server.is_quiet());
        inner.open -= before - inner.idle.len();
    }
}

enum Attempt {
    Granted(Grant),
    Wait(Waiting),
}
