//! Server connections of one shard, shared by all sessions of this router.
//!
//! A connection keeps its last tenant; a session prefers one that is bound to its tenant already.
//! Sessions that find none wait in order, for a bounded time, in a bounded queue.

mod clean;
mod gate;
mod pools;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tenantry_schema::causes::one_line;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

pub(crate) use self::clean::{LeftBehind, clean, give_back_if_clean};
pub(crate) use self::gate::Gate;
pub(crate) use self::pools::Pools;

use crate::config::Config;
use crate::error::Refusal;
use crate::server::{self, Bound, ConnectError, Server, ServerLogin};

/// After saturation of the server itself, how long to wait before asking it again.
const SATURATION_PAUSE: Duration = Duration::from_millis(20);

/// How long a waiter may be passed over for one whose thread polls the connection that is free.
const PASSED_OVER_MAX: Duration = Duration::from_millis(5);
/// Waiters that are looked at to find one of the same thread.
const LOOKED_AT_MAX: usize = 16;

/// Bounds of one pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolLimits {
    pub(crate) size: usize,
    pub(crate) queue_max: usize,
    pub(crate) query_wait: Duration,
    pub(crate) connect: Duration,
    pub(crate) idle: Duration,
    pub(crate) retry: Duration,
    /// Whether a connection that is given back stays bound to its tenant.
    pub(crate) keeps_bind: bool,
    /// Whether a connection that is given back is proven clean or closed.
    pub(crate) cleans: bool,
}

impl PoolLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            size: config.pool_size,
            queue_max: config.pool_queue_max,
            query_wait: config.timeouts.query_wait,
            connect: config.timeouts.server_connect,
            idle: config.timeouts.server_idle,
            retry: config.timeouts.server_retry,
            keeps_bind: !config.left_out.kept_bind,
            cleans: !config.left_out.cleanup,
        }
    }
}

/// What a pool is doing right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    pub(crate) open: usize,
    pub(crate) idle: usize,
    pub(crate) waiting: usize,
    pub(crate) gate: Gate,
}

/// The connections to one shard.
#[derive(Debug)]
pub(crate) struct Pool {
    login: ServerLogin,
    limits: Arc<ArcSwap<PoolLimits>>,
    inner: Mutex<Inner>,
}

/// Invariant: `open` counts idle and leased connections and those being opened; it never grows
/// beyond the pool's size, and falls to it where a reload made the pool smaller. Nobody waits while
/// a connection is idle.
#[derive(Debug, Default)]
struct Inner {
    #[expect(clippy::vec_box, reason = "a lease takes and returns the box as it is")]
    idle: Vec<Box<Server>>,
    open: usize,
    waiters: VecDeque<Waiter>,
    gate: Gate,
    /// Until when the shard is left alone, and why.
    down: Option<(Instant, String)>,
}

/// A session that waits.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    thread: ThreadId,
    sender: oneshot::Sender<Grant>,
}

/// What a waiter gets.
#[derive(Debug)]
enum Grant {
    Connection(Lease),
    /// The right to open one.
    Slot(Slot),
}

/// The right to one connection, counted in `open`; dropping it passes it on.
#[derive(Debug)]
struct Slot {
    /// `None` once the right has been handed over with its connection.
    pool: Option<Arc<Pool>>,
}

impl Slot {
    fn new(pool: &Arc<Pool>) -> Self {
        Self {
            pool: Some(Arc::clone(pool)),
        }
    }

    /// Ends without passing the right on: the connection keeps its place in `open`.
    fn keep(mut self) -> Option<Arc<Pool>> {
        self.pool.take()
    }
}

/// A connection in use. Dropping it closes the connection; [`Lease::give_back`] returns it.
#[derive(Debug)]
pub(crate) struct Lease {
    server: Option<Box<Server>>,
    slot: Option<Slot>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.slot_free();
        }
    }
}

impl Lease {
    fn new(server: Box<Server>, slot: Slot) -> Self {
        Self {
            server: Some(server),
            slot: Some(slot),
        }
    }

    /// The same connection, polled by the thread that asks; `None` if the system refuses, which closes it.
    fn move_here(mut self) -> Option<Self> {
        let server = self.server.take()?;
        match server.move_here() {
            Ok(server) => {
                self.server = Some(server);
                Some(self)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a server connection over from another thread");
                None
            }
        }
    }

    /// The connection. It is there until the lease is given back.
    pub(crate) fn server(&mut self) -> Option<&mut Server> {
        self.server.as_deref_mut()
    }

    /// Returns a connection that is proven clean.
    pub(crate) fn give_back(mut self) {
        if let (Some(server), Some(slot)) = (self.server.take(), self.slot.take())
            && let Some(pool) = slot.keep()
        {
            pool.put_back(server);
        }
    }

    pub(crate) fn pool(&self) -> Option<&Arc<Pool>> {
        self.slot.as_ref().and_then(|slot| slot.pool.as_ref())
    }
}

impl Pool {
    pub(crate) fn new(login: ServerLogin, limits: Arc<ArcSwap<PoolLimits>>, gate: Gate) -> Self {
        Self {
            login,
            limits,
            inner: Mutex::new(Inner {
                gate,
                ..Inner::default()
            }),
        }
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
            waiting: inner.waiters.len(),
            gate: inner.gate,
        }
    }

    /// A connection, preferably bound to `tenant`. Waits as long as `query_wait` allows.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
    ) -> Result<Lease, Refusal> {
        let started = Instant::now();
        loop {
            let slot = match self.try_acquire(tenant)? {
                Attempt::Connection(lease) => match lease.move_here() {
                    Some(lease) => return Ok(lease),
                    None => continue,
                },
                Attempt::Slot(slot) => slot,
                Attempt::Wait(receiver) => match self.wait(receiver, started).await? {
                    Grant::Connection(lease) => match lease.move_here() {
                        Some(lease) => return Ok(lease),
                        None => continue,
                    },
                    Grant::Slot(slot) => slot,
                },
            };
            let connect = self.limits.load().connect;
            // Large, and rarely needed: a session that waits would carry it along.
            let opening = Box::pin(server::open(&self.login));
            match timeout(connect, opening).await {
                Ok(Ok(server)) => {
                    self.inner.lock().down = None;
                    return Ok(Lease::new(Box::new(server), slot));
                }
                Ok(Err(error)) if error.is_saturation() => {
                    self.login.activity.connect_failed(error.cause());
                    drop(slot);
                    tokio::time::sleep(SATURATION_PAUSE).await;
                    if started.elapsed() > self.limits.load().query_wait {
                        return Err(self.queue_timeout(started));
                    }
                }
                Ok(Err(error)) => return Err(self.note_down(&error)),
                Err(_elapsed) => return Err(self.note_down(&ConnectError::Timeout)),
            }
        }
    }

    /// A connection that is idle right now, without waiting or opening one.
    pub(crate) fn take_idle(self: &Arc<Self>, tenant: Option<TenantId>) -> Option<Lease> {
        let lease = self.take_quiet(&mut self.inner.lock(), tenant);
        lease?.move_here()
    }

    fn take_quiet(self: &Arc<Self>, inner: &mut Inner, tenant: Option<TenantId>) -> Option<Lease> {
        if inner.gate != Gate::Open {
            return None;
        }
        while let Some(server) = inner.take_idle(tenant) {
            if server.is_quiet() {
                return Some(Lease::new(server, Slot::new(self)));
            }
            inner.open -= 1;
        }
        None
    }

    fn try_acquire(self: &Arc<Self>, tenant: Option<TenantId>) -> Result<Attempt, Refusal> {
        // One lock for looking and queueing: nobody may be given back a connection in between.
        let mut inner = self.inner.lock();
        if let Some(lease) = self.take_quiet(&mut inner, tenant) {
            return Ok(Attempt::Connection(lease));
        }
        if let Some((until, reason)) = &inner.down {
            if Instant::now() < *until {
                return Err(self.down(reason.clone()));
            }
            inner.down = None;
        }
        if inner.gate == Gate::Disabled {
            return Err(self.disabled());
        }
        if inner.room(self.limits.load().size) > 0 {
            inner.open += 1;
            return Ok(Attempt::Slot(Slot::new(self)));
        }
        inner.waiters.retain(|waiter| !waiter.sender.is_closed());
        if inner.waiters.len() >= self.limits.load().queue_max {
            return Err(Refusal::QueueFull {
                shard: self.shard_name(),
                waiting: inner.waiters.len(),
            });
        }
        let (sender, receiver) = oneshot::channel();
        inner.waiters.push_back(Waiter {
            since: Instant::now(),
            thread: thread::current().id(),
            sender,
        });
        Ok(Attempt::Wait(receiver))
    }

    async fn wait(
        &self,
        mut receiver: oneshot::Receiver<Grant>,
        started: Instant,
    ) -> Result<Grant, Refusal> {
        let left = self
            .limits
            .load()
            .query_wait
            .saturating_sub(started.elapsed());
        let mut left = left;
        loop {
            match timeout(left, &mut receiver).await {
                Ok(Ok(grant)) => return Ok(grant),
                Ok(Err(_)) => return Err(self.disabled()),
                // A pause is no fault of who waits: the time begins anew.
                Err(_elapsed) if self.stats().gate == Gate::Paused => {
                    left = self.limits.load().query_wait;
                }
                Err(_elapsed) => return Err(self.queue_timeout(started)),
            }
        }
    }

    fn queue_timeout(&self, started: Instant) -> Refusal {
        Refusal::QueueTimeout {
            shard: self.shard_name(),
            waited: started.elapsed(),
            waiting: self.stats().waiting,
            pool_size: self.limits.load().size,
        }
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

    fn note_down(&self, error: &ConnectError) -> Refusal {
        let reason = one_line(error);
        self.login.activity.connect_failed(error.cause());
        tracing::warn!(shard = %self.login.shard.name, %reason, "cannot open a server connection");
        self.inner.lock().down = Some((Instant::now() + self.limits.load().retry, reason.clone()));
        self.down(reason)
    }

    /// The pool's size has changed: who waits gets what was added, idle connections beyond the new
    /// size are closed. Leased ones beyond it are closed as they come back.
    pub(crate) fn resize(self: &Arc<Self>) {
        let size = self.limits.load().size;
        let added = {
            let mut inner = self.inner.lock();
            let beyond = inner.open.saturating_sub(size).min(inner.idle.len());
            let kept = inner.idle.len() - beyond;
            inner.idle.truncate(kept);
            inner.open -= beyond;
            let added = inner.room(size).min(inner.waiters.len());
            inner.open += added;
            added
        };
        for _ in 0..added {
            self.slot_free();
        }
    }

    /// Whether connections are cleaned: always, but in a measurement of what that is for.
    pub(crate) fn cleans(&self) -> bool {
        self.limits.load().cleans
    }

    fn put_back(self: &Arc<Self>, mut server: Box<Server>) {
        let outdated = server.listed.record().is_close_needed();
        let PoolLimits {
            size, keeps_bind, ..
        } = **self.limits.load();
        if !keeps_bind {
            server.link.state.bound = Bound::Unknown;
        }
        let thread = server.thread;
        let mut grant = Grant::Connection(Lease::new(server, Slot::new(self)));
        loop {
            let waiter = {
                let mut inner = self.inner.lock();
                if inner.open > size || inner.gate != Gate::Open || outdated {
                    // Dropping the grant gives its place up.
                    return;
                }
                let Some(waiter) = inner.next_waiter(thread) else {
                    if let Grant::Connection(mut lease) = grant
                        && let (Some(server), Some(slot)) = (lease.server.take(), lease.slot.take())
                    {
                        inner.idle.push(server);
                        slot.keep();
                    }
                    return;
                };
                waiter
            };
            match waiter.sender.send(grant) {
                Ok(()) => return,
                Err(returned) => grant = returned,
            }
        }
    }

    /// A connection was closed, or never opened: the right to one goes to who waits longest.
    fn slot_free(self: &Arc<Self>) {
        let size = self.limits.load().size;
        loop {
            let waiter = {
                let mut inner = self.inner.lock();
                let wanted = inner.open <= size && inner.gate == Gate::Open;
                let Some(waiter) = inner.waiters.pop_front_if(|_| wanted) else {
                    inner.open -= 1;
                    return;
                };
                waiter
            };
            match waiter.sender.send(Grant::Slot(Slot::new(self))) {
                Ok(()) => return,
                // The right is still ours: it must not be passed on by its own drop.
                Err(Grant::Slot(slot)) => {
                    slot.keep();
                }
                Err(Grant::Connection(lease)) => drop(lease),
            }
        }
    }

    /// Closes connections that have been idle too long, and those that have died.
    pub(crate) fn prune(&self) {
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
    Connection(Lease),
    Slot(Slot),
    Wait(oneshot::Receiver<Grant>),
}

impl Inner {
    /// Connections that may be opened now.
    fn room(&self, size: usize) -> usize {
        match self.gate {
            Gate::Open => size.saturating_sub(self.open),
            Gate::Paused | Gate::Disabled => 0,
        }
    }

    /// The most recently used connection of this tenant, or else of anyone; of this thread rather than of another,
    /// because moving one costs less than binding one.
    fn take_idle(&mut self, tenant: Option<TenantId>) -> Option<Box<Server>> {
        let (wanted, here) = (Bound::Known(tenant), thread::current().id());
        let mut best = None;
        for (at, server) in self.idle.iter().enumerate().rev() {
            let fit = (server.link.state.bound == wanted, server.thread == here);
            if best.is_none_or(|(_, found)| fit > found) {
                best = Some((at, fit));
            }
            if fit == (true, true) {
                break;
            }
        }
        best.map(|(at, _)| self.idle.remove(at))
    }

    /// Who gets a connection of this thread: of those who wait the longest the first on the same thread, unless
    /// someone else has waited for too long.
    fn next_waiter(&mut self, thread: ThreadId) -> Option<Waiter> {
        let first = self.waiters.front()?;
        if first.since.elapsed() > PASSED_OVER_MAX {
            return self.waiters.pop_front();
        }
        let near = self.waiters.iter().take(LOOKED_AT_MAX);
        let same = near.enumerate().find(|(_, waiter)| waiter.thread == thread);
        let at = same.map_or(0, |(at, _)| at);
        self.waiters.remove(at)
    }
}
