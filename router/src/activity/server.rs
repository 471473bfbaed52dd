//! One server connection as others see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tenantry_schema::guard::role;
use tenantry_schema::shard::Shard;

use super::Clock;
use super::counters::{Counters, Durations};

/// What a server connection is used for right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// A session holds it.
    Active,
    /// It is in its pool.
    Idle,
}

impl ServerState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
        }
    }
}

/// What is known of a server connection when it is opened.
#[derive(Debug)]
pub(crate) struct ServerOrigin {
    pub(crate) shard: Arc<Shard>,
    pub(crate) user: String,
    /// Process id of the backend.
    pub(crate) pid: i32,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// TLS version and cipher; empty without encryption.
    pub(crate) tls: String,
}

/// One server connection. Written by whoever holds it, which is one task at a time.
#[derive(Debug)]
pub(crate) struct ServerRecord {
    id: u64,
    origin: ServerOrigin,
    clock: Clock,
    opened_us: u64,
    /// Number of the session that holds it; 0 is none.
    client: AtomicU32,
    since_us: AtomicU64,
    /// Up to when the time that it is held has been counted.
    counted_us: AtomicU64,
    assigned: AtomicU64,
    /// Named statements that it holds.
    prepared: AtomicU64,
    /// It is to be closed when it comes back.
    close_needed: AtomicBool,
    pub(super) counters: Counters,
    pub(super) transactions: Durations,
    pub(super) requests: Durations,
}

impl ServerRecord {
    pub(super) fn new(id: u64, origin: ServerOrigin, clock: Clock) -> Self {
        let now = clock.now_us();
        Self {
            id,
            origin,
            clock,
            opened_us: now,
            client: AtomicU32::new(0),
            since_us: AtomicU64::new(now),
            counted_us: AtomicU64::new(now),
            assigned: AtomicU64::new(0),
            prepared: AtomicU64::new(0),
            close_needed: AtomicBool::new(false),
            counters: Counters::default(),
            transactions: Durations::default(),
            requests: Durations::default(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn origin(&self) -> &ServerOrigin {
        &self.origin
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn shard(&self) -> &Arc<Shard> {
        &self.origin.shard
    }

    pub(crate) fn opened_us(&self) -> u64 {
        self.opened_us
    }

    pub(crate) fn since_us(&self) -> u64 {
        self.since_us.load(Ordering::Relaxed)
    }

    /// How long it has been in its state.
    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_micros(self.clock.now_us().saturating_sub(self.since_us()))
    }

    /// Up to when the time that it is held has been counted.
    pub(crate) fn counted_us(&self) -> u64 {
        self.counted_us.load(Ordering::Relaxed)
    }

    /// The time that it is held has been counted up to now.
    pub(super) fn counted(&self, now: u64) {
        self.counted_us.store(now, Ordering::Relaxed);
    }

    /// The session that holds it.
    pub(crate) fn client(&self) -> Option<u32> {
        Some(self.client.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    pub(crate) fn state(&self) -> ServerState {
        match self.client() {
            Some(_) => ServerState::Active,
            None => ServerState::Idle,
        }
    }

    pub(crate) fn assigned(&self) -> u64 {
        self.assigned.load(Ordering::Relaxed)
    }

    pub(crate) fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }

    pub(crate) fn totals(&self) -> super::Totals {
        self.counters.totals()
    }

    /// For how long it has worked for all its sessions together, microseconds.
    pub(crate) fn worked_us(&self) -> u64 {
        self.counters.request_us()
    }

    /// Whether it is a pool's, and not an operator's session's own.
    pub(crate) fn is_pooled(&self) -> bool {
        self.origin.user == role::APP
    }

    /// Closed instead of being given back to its pool.
    pub(crate) fn is_close_needed(&self) -> bool {
        self.close_needed.load(Ordering::Relaxed)
    }

    pub(crate) fn need_close(&self) {
        self.close_needed.store(true, Ordering::Relaxed);
    }

    pub(super) fn leased(&self, client: u32, now: u64) {
        self.client.store(client, Ordering::Relaxed);
        self.since_us.store(now, Ordering::Relaxed);
        self.counted(now);
        self.assigned.store(self.assigned() + 1, Ordering::Relaxed);
    }

    pub(super) fn released(&self, prepared: u64, now: u64) {
        self.client.store(0, Ordering::Relaxed);
        self.since_us.store(now, Ordering::Relaxed);
        self.prepared.store(prepared, Ordering::Relaxed);
    }
}
