//! Who gets a connection of one pool next: weighted fair queueing on the time that connections are
//! held.
//!
//! A pure scheduler: no socket, no clock, no lock. Time comes in as microseconds that never run
//! backwards, events come in as calls, decisions come out as values. Whoever drives it reports each
//! request, each connection that comes back and each waiter that leaves, and after each of these
//! asks [`Scheduler::next`] until it answers `None`.
//!
//! **What is shared** is the time that server connections are held. Each tenant has a virtual time, what it
//! has had divided by its weight: what it gave back counts as long as it was held, what it holds counts as
//! estimated from its past, and as it is once that is passed. So an idle transaction is paid for while it
//! lasts, and many requests granted at one instant are told apart.
//!
//! **Who is next**: the tenant whose next request would be done first, in virtual time. A tenant that comes back
//! after doing nothing starts where the pool's own virtual time is, neither owed the past nor behind it.
//! The pool's virtual time is that of the request granted last; it also creeps by a quarter of what newcomers give back,
//! split evenly, so that an endless stream of them cannot hold it, and with it everyone else, back.
//!
//! **Newcomers** are those whose next request is done before the pool's virtual time: they have had less than
//! those that are served. They may take any free connection. All others leave the last few, the reserve, and
//! stop at a level that falls while the shard is slow (`level`). Nobody else waits beside a free
//! connection.
//!
//! **Bounds**: a tenant's lead over another that waits is bounded by what one can be granted at once; what a tenant
//! owes, by a second of its weight, so that nobody is locked out for what was; each queue, and the memory for tenants.
//! docs/adr/0021 has the reasons and the constants.

mod choice;
mod level;
mod scheduler;
mod tenants;
mod virtual_time;
mod waiters;

#[cfg(test)]
mod tests;

pub use self::scheduler::Scheduler;
pub use self::tenants::Asker;
pub use self::virtual_time::Weight;
pub use self::waiters::WaiterId;

/// Bounds of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections; none while the pool is paused.
    pub size: usize,
    /// Of these, how many are left to newcomers; at most a quarter of the pool.
    pub reserve: usize,
    /// Requests that may wait.
    pub queue_max: usize,
    /// Requests of one tenant that may wait. None takes more than half of what others leave of the queue.
    pub tenant_queue_max: usize,
    /// Whether a slow shard is given less.
    pub adapts: bool,
}

/// The right to one connection. It goes back by [`Scheduler::release`] or [`Scheduler::give_up`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is lost is a connection that is lost"]
pub struct Ticket {
    /// Place of its tenant in the table, which keeps it as long as the tenant holds anything.
    tenant: u32,
    since_us: u64,
    estimate_us: u32,
    /// Granted to one that was no newcomer.
    beyond: bool,
}

impl Ticket {
    /// When it was granted, microseconds.
    #[must_use]
    pub fn since_us(&self) -> u64 {
        self.since_us
    }
}

/// Why a request may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFull {
    /// Too many wait for this pool.
    Pool {
        /// How many may.
        limit: usize,
        /// How many do.
        waiting: usize,
    },
    /// Too many of this tenant wait.
    Tenant {
        /// How many may, now.
        limit: usize,
        /// How many do.
        waiting: usize,
    },
}

/// What a connection that came back is near to: to serve others with it costs a little more.
#[derive(Debug, Clone, Copy)]
pub struct Near<P> {
    /// For whom it is bound, if that is known.
    pub asker: Option<Asker>,
    /// Who polls its socket.
    pub place: P,
}

/// A waiter's turn.
#[derive(Debug)]
pub struct Grant<W, P> {
    /// What the waiter left to be found by.
    pub handle: W,
    /// Its tenant.
    pub asker: Asker,
    /// Its place.
    pub place: P,
    /// Its right.
    pub ticket: Ticket,
    /// Since when it has been waiting, microseconds.
    pub since_us: u64,
}

/// What a pool is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections granted.
    pub held: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Tenants that have a request waiting.
    pub tenants_waiting: usize,
    /// Tenants that hold or wait.
    pub tenants_active: usize,
    /// Connections that others than newcomers may hold now.
    pub level: usize,
}

/// What one tenant is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantLoad {
    /// The tenant.
    pub asker: Asker,
    /// Connections it holds.
    pub held: usize,
    /// Its requests that wait.
    pub waiting: usize,
    /// Thousandths of the pool that are its share among those that hold or wait now.
    pub share_permille: u32,
}

impl Bounds {
    /// The reserve as far as the pool has room for one.
    pub(crate) fn reserve(&self) -> usize {
        self.reserve.min(self.size / 4)
    }
}
