//! Tenants that are about to move: which of their transactions wait, which are in flight, and what this router has found
//! out by itself.
//!
//! A hold makes a cutover quick and decides nothing: the fence on the shard does. So everything here may be lost, late
//! or missing on one router; its clients wait a little longer then. A tenant gets here by the rebalancer
//! ([`crate::control`]), or because a session has met its fence ([`follow()`]).
//!
//! While no tenant moves a transaction costs one relaxed load, [`Holds::alert`].

mod follow;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tenantry_schema::control::{Held, MoveNotice, Released};
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

pub(crate) use self::follow::{follow, warm_up};
pub(crate) use self::refusal::{OwnerState, TenantRefusal};

/// How long a move is remembered that is over, for those who ask what happened.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Some tenant moves.
const MOVES: u8 = 1;
/// Nobody would tell this router of a move in time.
const UNWARNED: u8 = 2;

/// What a transaction has to mind; read once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alert(u8);

impl Alert {
    /// Nothing: no tenant moves, and this router would know.
    pub(crate) fn is_quiet(self) -> bool {
        self.0 == 0
    }

    /// Some tenant moves: look whether it is this one.
    pub(crate) fn some_move(self) -> bool {
        self.0 & MOVES != 0
    }
}

/// All tenants that this router knows to be moving.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    alert: AtomicU8,
    moves: Mutex<HashMap<TenantId, Arc<TenantMove>>>,
}

/// One tenant that moves.
#[derive(Debug)]
pub(crate) struct TenantMove {
    tenant: TenantId,
    inner: Mutex<Inner>,
    /// Wakes those who wait for the end of the hold.
    changed: watch::Sender<()>,
    /// Transactions between their first statement and their end.
    in_flight: watch::Sender<usize>,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    move_id: Option<Uuid>,
    source: Option<ShardId>,
    destination: Option<ShardId>,
    hold: Option<HoldState>,
    /// Until when it is known that the tenant moves.
    known_until: Instant,
    /// Somebody here looks where the tenant is.
    is_followed: bool,
    /// Transactions that wait.
    waiting: usize,
    /// Those that have waited since the hold began, and the longest of them.
    held: u64,
    longest: Duration,
    replays: u64,
    follows: u64,
}

#[derive(Debug, Clone, Copy)]
struct HoldState {
    since: Instant,
    until: Instant,
    /// A session has met the fence; else the rebalancer asked for it.
    by_fence: bool,
}

/// How far a move is, as this router sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Prepared,
    Held,
    /// A session here has met the fence.
    Fenced,
    Released,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Held => "held",
            Self::Fenced => "fenced",
            Self::Released => "released",
        }
    }
}

/// A move as operators see it.
#[derive(Debug, Clone)]
pub(crate) struct ShownMove {
    pub(crate) tenant: TenantId,
    pub(crate) move_id: Option<Uuid>,
    pub(crate) phase: Phase,
    pub(crate) source: Option<ShardId>,
    pub(crate) destination: Option<ShardId>,
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) held: u64,
    pub(crate) longest: Duration,
    /// For how long the hold in force has lasted, and for how long it may.
    pub(crate) hold: Option<(Duration, Duration)>,
    pub(crate) replays: u64,
    pub(crate) follows: u64,
}

/// The tenant was held for longer than a transaction may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldTooLong(pub(crate) Duration);

/// A transaction of a tenant that moves, until it ends.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<TenantMove>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

impl Holds {
    pub(crate) fn alert(&self) -> Alert {
        // Nothing is read on the strength of it but what has a lock of its own.
        Alert(self.alert.load(Ordering::Relaxed))
    }

    /// Whether a rebalancer would reach this router in time. If not, sessions keep what they send, to send it again.
    pub(crate) fn set_warned(&self, warned: bool) {
        if warned {
            self.alert.fetch_and(!UNWARNED, Ordering::Relaxed);
        } else {
            self.alert.fetch_or(UNWARNED, Ordering::Relaxed);
        }
    }

    /// The tenant's move, if it moves.
    pub(crate) fn of(&self, tenant: TenantId) -> Option<Arc<TenantMove>> {
        if !self.alert().some_move() {
            return None;
        }
        self.moves.lock().get(&tenant).cloned()
    }

    fn entry(&self, tenant: TenantId, now: Instant) -> Arc<TenantMove> {
        let mut moves = self.moves.lock();
        let entry = moves
            .entry(tenant)
            .or_insert_with(|| Arc::new(TenantMove::new(tenant, now)));
        self.alert.fetch_or(MOVES, Ordering::Relaxed);
        Arc::clone(entry)
    }

    /// A cutover of this move is near.
    pub(crate) fn prepare(&self, notice: &MoveNotice, lasts: Duration, now: Instant) {
        let entry = self.entry(notice.tenant, now);
        let mut inner = entry.inner.lock();
        inner.take_notice(notice);
        inner.known_until = inner.known_until.max(now + lasts);
        if inner.hold.is_none_or(|hold| hold.until <= now) {
            inner.phase = Phase::Prepared;
        }
    }

    /// From now on no transaction of the tenant begins here.
    pub(crate) fn hold(
        &self,
        notice: &MoveNotice,
        lasts: Duration,
        now: Instant,
    ) -> Arc<TenantMove> {
        let entry = self.entry(notice.tenant, now);
        {
            let mut inner = entry.inner.lock();
            inner.take_notice(notice);
            inner.phase = Phase::Held;
            inner.begin_hold(now, lasts, false);
        }
        entry.changed.send_replace(());
        entry
    }

    /// The move's hold is over. `home`: the tenant is where it was, and there may be another attempt.
    pub(crate) fn release(&self, tenant: TenantId, move_id: Uuid, now: Instant) -> Released {
        let Some(entry) = self.of(tenant) else {
            return Released::default();
        };
        let mut inner = entry.inner.lock();
        if inner.move_id.is_some_and(|known| known != move_id) {
            return Released::default();
        }
        // Those who wait still have waited until now.
        let longest = match inner.hold {
            Some(hold) if inner.waiting > 0 => inner.longest.max(now - hold.since),
            _ => inner.longest,
        };
        let released = Released {
            held: inner.held + inner.waiting as u64,
            longest_us: u64::try_from(longest.as_micros()).unwrap_or(u64::MAX),
        };
        inner.hold = None;
        inner.phase = Phase::Released;
        inner.known_until = now + REMEMBERED;
        drop(inner);
        entry.changed.send_replace(());
        released
    }

    /// The move is over. Whether it was known.
    pub(crate) fn forget(&self, tenant: TenantId, move_id: Uuid) -> bool {
        let mut moves = self.moves.lock();
        let is_it = |entry: &Arc<TenantMove>| entry.inner.lock().move_id == Some(move_id);
        if !moves.get(&tenant).is_some_and(is_it) {
            return false;
        }
        let entry = moves.remove(&tenant);
        self.note_moves(&moves);
        drop(moves);
        if let Some(entry) = entry {
            entry.end_hold();
        }
        true
    }

    /// A session has met the tenant's fence on `shard`: its transactions wait until somebody has found out where it is.
    /// True: that is up to the caller, who calls [`follow()`].
    pub(crate) fn meet_fence(
        &self,
        tenant: TenantId,
        shard: ShardId,
        met: &TenantRefusal,
        limit: Duration,
        now: Instant,
    ) -> bool {
        let entry = self.entry(tenant, now);
        let mut inner = entry.inner.lock();
        inner.replays += 1;
        if inner.is_held(now) {
            return false;
        }
        inner.move_id = met.move_id.or(inner.move_id);
        inner.source = Some(shard);
        inner.destination = met.shard.or(inner.destination);
        inner.phase = Phase::Fenced;
        inner.begin_hold(now, limit, true);
        inner.known_until = inner.known_until.max(now + REMEMBERED);
        !std::mem::replace(&mut inner.is_followed, true)
    }

    /// Drops what is over and done with.
    pub(crate) fn prune(&self, now: Instant) {
        if !self.alert().some_move() {
            return;
        }
        let mut moves = self.moves.lock();
        moves.retain(|_, entry| {
            let inner = entry.inner.lock();
            inner.known_until > now
                || inner.is_held(now)
                || inner.waiting > 0
                || inner.is_followed
                || *entry.in_flight.borrow() > 0
        });
        self.note_moves(&moves);
    }

    fn note_moves(&self, moves: &HashMap<TenantId, Arc<TenantMove>>) {
        if moves.is_empty() {
            self.alert.fetch_and(!MOVES, Ordering::Relaxed);
        }
    }

    /// Another process hears from the rebalancer now: nobody would end these holds.
    pub(crate) fn end_all(&self) {
        let all: Vec<_> = self.moves.lock().values().cloned().collect();
        for entry in all {
            entry.end_hold();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.moves.lock().len()
    }

    pub(crate) fn shown(&self, now: Instant) -> Vec<ShownMove> {
        let all: Vec<_> = self.moves.lock().values().cloned().collect();
        let mut shown: Vec<_> = all.iter().map(|entry| entry.shown(now)).collect();
        shown.sort_by_key(|shown| shown.tenant);
        shown
    }
}

impl TenantMove {
    fn new(tenant: TenantId, now: Instant) -> Self {
        Self {
            tenant,
            inner: Mutex::new(Inner {
                phase: Phase::Prepared,
                move_id: None,
                source: None,
                destination: None,
                hold: None,
                known_until: now,
                is_followed: false,
                waiting: 0,
                held: 0,
                longest: Duration::ZERO,
                replays: 0,
                follows: 0,
            }),
            changed: watch::Sender::new(()),
            in_flight: watch::Sender::new(0),
        }
    }

    /// Whether no transaction of the tenant may begin.
    pub(crate) fn is_held(&self) -> bool {
        self.inner.lock().is_held(Instant::now())
    }

    /// Whether the guard is asked before each transaction.
    pub(crate) fn is_probed(&self) -> bool {
        self.inner.lock().phase != Phase::Released
    }

    /// A transaction that began before it was known that the tenant moves.
    pub(crate) fn count(self: &Arc<Self>) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(Arc::clone(self))
    }

    /// A transaction begins, unless the tenant is held.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        let inner = self.inner.lock();
        if inner.is_held(Instant::now()) {
            return None;
        }
        // With the lock: who holds after this sees it.
        self.in_flight.send_modify(|count| *count += 1);
        Some(InFlight(Arc::clone(self)))
    }

    /// Waits while the tenant is held, `limit` counted from `since`. Answers how long this wait was.
    pub(crate) async fn pass(
        &self,
        since: Instant,
        limit: Duration,
    ) -> Result<Duration, HeldTooLong> {
        let mut changed = self.changed.subscribe();
        let waiting = Waiting::begin(self);
        loop {
            changed.mark_unchanged();
            let now = Instant::now();
            let hold = self.inner.lock().hold;
            let Some(hold) = hold.filter(|hold| hold.until > now) else {
                return Ok(waiting.began.elapsed());
            };
            if since + limit <= now {
                return Err(HeldTooLong(now - since));
            }
            let until = hold.until.min(since + limit);
            // The sender is this tenant's own.
            let _ = timeout_at(until, changed.changed()).await;
        }
    }

    /// Waits until no transaction is in flight, at most for `limit`.
    pub(crate) async fn drained(&self, limit: Duration) -> Held {
        let mut in_flight = self.in_flight.subscribe();
        // Either way what is left is told.
        let _ = timeout(limit, in_flight.wait_for(|count| *count == 0)).await;
        Held {
            in_flight: *in_flight.borrow(),
            waiting: self.inner.lock().waiting,
        }
    }

    fn end_hold(&self) {
        self.inner.lock().hold = None;
        self.changed.send_replace(());
    }

    /// Whoever followed the tenant has found it, or gives up: a hold for that alone ends. `placed`: it lives elsewhere,
    /// so any hold does.
    fn followed(&self, placed: Option<ShardId>) {
        {
            let mut inner = self.inner.lock();
            inner.is_followed = false;
            if let Some(shard) = placed {
                inner.follows += 1;
                inner.destination = Some(shard);
                inner.phase = Phase::Released;
            }
            if placed.is_some() || inner.hold.is_some_and(|hold| hold.by_fence) {
                inner.hold = None;
            }
        }
        self.changed.send_replace(());
    }

    fn shown(&self, now: Instant) -> ShownMove {
        let inner = self.inner.lock();
        let hold = inner.hold.filter(|hold| hold.until > now);
        ShownMove {
            tenant: self.tenant,
            move_id: inner.move_id,
            phase: inner.phase,
            source: inner.source,
            destination: inner.destination,
            in_flight: *self.in_flight.borrow(),
            waiting: inner.waiting,
            held: inner.held,
            longest: inner.longest,
            hold: hold.map(|hold| (now - hold.since, hold.until - hold.since)),
            replays: inner.replays,
            follows: inner.follows,
        }
    }
}

impl Inner {
    fn take_notice(&mut self, notice: &MoveNotice) {
        if self.move_id != Some(notice.move_id) {
            (self.replays, self.follows) = (0, 0);
        }
        self.move_id = Some(notice.move_id);
        self.source = Some(notice.source);
        self.destination = Some(notice.destination);
    }

    fn begin_hold(&mut self, now: Instant, lasts: Duration, by_fence: bool) {
        let since = match self.hold {
            Some(hold) if hold.until > now => hold.since,
            _ => {
                (self.held, self.longest) = (0, Duration::ZERO);
                now
            }
        };
        let until = now + lasts;
        self.hold = Some(HoldState {
            since,
            until,
            by_fence,
        });
        self.known_until = self.known_until.max(until);
    }

    fn is_held(&self, now: Instant) -> bool {
        self.hold.is_some_and(|hold| hold.until > now)
    }
}

/// One that waits, counted until it does no longer, however that comes.
struct Waiting<'m> {
    of: &'m TenantMove,
    began: Instant,
}

impl<'m> Waiting<'m> {
    fn begin(of: &'m TenantMove) -> Self {
        of.inner.lock().waiting += 1;
        Self {
            of,
            began: Instant::now(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.began.elapsed();
        let mut inner = self.of.inner.lock();
        inner.waiting -= 1;
        inner.held += 1;
        inner.longest = inner.longest.max(waited);
    }
}
