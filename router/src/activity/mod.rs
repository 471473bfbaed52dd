//! Who is connected, what they do right now, and what has been done: the router's memory of its
//! own work, for the console and for metrics.
//!
//! Cheap where queries pass: every session writes only counters of its own, or of the server
//! connection that it alone holds, with relaxed stores and without a lock. Whoever looks adds them
//! up. What a session or connection did is kept in totals when it ends, under the lock that also
//! guards looking, so that nothing is counted twice or lost. Nothing here decides anything.

mod called;
mod client;
mod counters;
mod logins;
mod meter;
mod server;
mod tenants;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tenantry_schema::shard::ShardId;

pub(crate) use self::called::{Call, Called};
pub(crate) use self::client::{ClientOrigin, ClientRecord, ClientState};
pub(crate) use self::counters::{Histogram, Totals, bucket_seconds};
pub(crate) use self::logins::{LoginGuard, Logins};
pub(crate) use self::meter::Meter;
pub(crate) use self::server::{ServerOrigin, ServerRecord, ServerState};
pub(crate) use self::tenants::{TenantLoad, TenantUsage, Touched};

/// The clock of one router: microseconds since it started fit an atomic, an [`Instant`] does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            started_at: Timestamp::now(),
        }
    }

    /// Microseconds since the router started.
    pub(crate) fn now_us(&self) -> u64 {
        // In 64 bits, which are half a million years.
        let elapsed = self.started.elapsed();
        elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros())
    }

    /// The time of day of a reading of [`Clock::now_us`].
    pub(crate) fn timestamp(&self, us: u64) -> Timestamp {
        let since = Duration::from_micros(us);
        self.started_at.checked_add(since).unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.started_at
    }
}

/// All sessions and server connections of one router.
#[derive(Debug)]
pub(crate) struct Activity {
    pub(crate) clock: Clock,
    clients: Mutex<Clients>,
    servers: Mutex<Servers>,
    pub(crate) tenants: TenantLoad,
    periods: Mutex<Periods>,
    last_server: AtomicU64,
    /// Server connections that could not be opened, by cause.
    connect_failures: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct Clients {
    live: HashMap<u32, Arc<ClientRecord>>,
    /// What sessions that have ended did.
    ended: Totals,
}

/// Totals as they were at the last two beginnings of a period.
#[derive(Debug, Default)]
struct Periods {
    earlier: (u64, BTreeMap<ShardId, ShardTotals>),
    last: (u64, BTreeMap<ShardId, ShardTotals>),
}

/// Averages are over one to two periods.
const PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Servers {
    live: HashMap<u64, Arc<ServerRecord>>,
    /// What was done over connections that are closed, by shard.
    closed: BTreeMap<ShardId, ShardTotals>,
}

/// What was done on one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardTotals {
    pub(crate) totals: Totals,
    /// Times a connection was given to a session.
    pub(crate) assigned: u64,
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    /// Sum of the ages of closed connections, microseconds.
    pub(crate) lifetime_us: u64,
    /// From lease to release.
    pub(crate) transactions: Histogram,
    /// From the start of a request to its last reply.
    pub(crate) requests: Histogram,
}

impl ShardTotals {
    fn add(&mut self, record: &ServerRecord) {
        self.totals += record.counters.totals();
        self.assigned += record.assigned();
        self.opened += 1;
        self.transactions += record.transactions.read();
        self.requests += record.requests.read();
    }
}

impl ShardTotals {
    /// What was done since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            totals: self.totals.since(&earlier.totals),
            assigned: self.assigned.saturating_sub(earlier.assigned),
            opened: self.opened.saturating_sub(earlier.opened),
            closed: self.closed.saturating_sub(earlier.closed),
            lifetime_us: self.lifetime_us.saturating_sub(earlier.lifetime_us),
            transactions: self.transactions.since(&earlier.transactions),
            requests: self.requests.since(&earlier.requests),
        }
    }
}

impl std::ops::AddAssign<&Self> for ShardTotals {
    fn add_assign(&mut self, other: &Self) {
        self.totals += other.totals;
        self.assigned += other.assigned;
        self.opened += other.opened;
        self.closed += other.closed;
        self.lifetime_us += other.lifetime_us;
        self.transactions += other.transactions.clone();
        self.requests += other.requests.clone();
    }
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            clock: Clock::start(),
            clients: Mutex::new(Clients::default()),
            servers: Mutex::new(Servers::default()),
            tenants: TenantLoad::default(),
            periods: Mutex::new(Periods::default()),
            last_server: AtomicU64::new(0),
            connect_failures: Mutex::default(),
        }
    }

    /// A session begins; it is listed until the guard is dropped.
    pub(crate) fn client(self: &Arc<Self>, origin: ClientOrigin) -> ClientGuard {
        let record = Arc::new(ClientRecord::new(origin, self.clock));
        let mut clients = self.clients.lock();
        clients.live.insert(record.id(), Arc::clone(&record));
        ClientGuard {
            activity: Arc::clone(self),
            record,
        }
    }

    /// A server connection was opened; it is listed until the guard is dropped.
    pub(crate) fn server(self: &Arc<Self>, origin: ServerOrigin) -> ServerGuard {
        let id = self.last_server.fetch_add(1, Ordering::Relaxed) + 1;
        let record = Arc::new(ServerRecord::new(id, origin, self.clock));
        let mut servers = self.servers.lock();
        servers.live.insert(id, Arc::clone(&record));
        ServerGuard {
            activity: Arc::clone(self),
            record,
        }
    }

    /// A server connection could not be opened.
    pub(crate) fn connect_failed(&self, cause: &'static str) {
        *self.connect_failures.lock().entry(cause).or_default() += 1;
    }

    pub(crate) fn connect_failures(&self) -> BTreeMap<&'static str, u64> {
        self.connect_failures.lock().clone()
    }

    /// Every session, by number.
    pub(crate) fn clients(&self) -> Vec<Arc<ClientRecord>> {
        let mut all: Vec<_> = self.clients.lock().live.values().cloned().collect();
        all.sort_by_key(|record| record.id());
        all
    }

    /// Looks at every session, in no order. Sessions begin and end when it is done.
    pub(crate) fn each_client(&self, look: impl FnMut(&ClientRecord)) {
        let clients = self.clients.lock();
        clients.live.values().map(AsRef::as_ref).for_each(look);
    }

    pub(crate) fn client_numbered(&self, id: u32) -> Option<Arc<ClientRecord>> {
        self.clients.lock().live.get(&id).cloned()
    }

    /// Every server connection, oldest first.
    pub(crate) fn servers(&self) -> Vec<Arc<ServerRecord>> {
        let mut all: Vec<_> = self.servers.lock().live.values().cloned().collect();
        all.sort_by_key(|record| record.id());
        all
    }

    /// What all sessions did since the router started.
    pub(crate) fn client_totals(&self) -> Totals {
        let clients = self.clients.lock();
        let mut totals = clients.ended;
        for record in clients.live.values() {
            totals += record.counters.totals();
        }
        totals
    }

    /// Begins a period of the averages if the last is over. To be called now and then.
    pub(crate) fn tick(&self) {
        let now = self.clock.now_us();
        let mut periods = self.periods.lock();
        if Duration::from_micros(now - periods.last.0) >= PERIOD {
            let totals = self.shard_totals();
            periods.earlier = std::mem::replace(&mut periods.last, (now, totals));
        }
    }

    /// What averages are taken from: the totals as they were, and how many microseconds ago.
    pub(crate) fn period(&self) -> (BTreeMap<ShardId, ShardTotals>, u64) {
        let (at, totals) = self.periods.lock().earlier.clone();
        (totals, self.clock.now_us() - at)
    }

    /// What was done on each shard since the router started.
    pub(crate) fn shard_totals(&self) -> BTreeMap<ShardId, ShardTotals> {
        let servers = self.servers.lock();
        let mut shards = servers.closed.clone();
        for record in servers.live.values() {
            shards.entry(record.shard().id).or_default().add(record);
        }
        shards
    }
}

/// Keeps a session listed.
#[derive(Debug)]
pub(crate) struct ClientGuard {
    activity: Arc<Activity>,
    record: Arc<ClientRecord>,
}

impl ClientGuard {
    pub(crate) fn record(&self) -> &Arc<ClientRecord> {
        &self.record
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        let mut clients = self.activity.clients.lock();
        clients.live.remove(&self.record.id());
        clients.ended += self.record.counters.totals();
    }
}

/// Keeps a server connection listed.
#[derive(Debug)]
pub(crate) struct ServerGuard {
    activity: Arc<Activity>,
    record: Arc<ServerRecord>,
}

impl ServerGuard {
    pub(crate) fn record(&self) -> &Arc<ServerRecord> {
        &self.record
    }
}

impl Drop for ServerGuard {
    fn drop(&mut self) {
        let age = self.activity.clock.now_us() - self.record.opened_us();
        let mut servers = self.activity.servers.lock();
        servers.live.remove(&self.record.id());
        let closed = servers.closed.entry(self.record.shard().id).or_default();
        closed.add(&self.record);
        closed.closed += 1;
        closed.lifetime_us += age;
    }
}

#[cfg(test)]
mod tests;
