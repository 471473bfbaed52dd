//! One client session as others see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tenantry_schema::fleet::Role;
use tenantry_schema::tenant::TenantId;

use super::Clock;
use super::counters::Counters;
use crate::limits::TimeLimits;
use crate::overtime::Overtime;

/// What a session does right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ClientState {
    /// It has asked nothing and holds no transaction.
    Idle,
    /// A server works for it, or it is working on the router itself.
    Active,
    /// It waits for a server connection.
    Waiting,
    /// Its transaction is open and it asks nothing.
    IdleInTransaction,
}

impl ClientState {
    pub(crate) const ALL: [Self; 4] = [
        Self::Idle,
        Self::Active,
        Self::Waiting,
        Self::IdleInTransaction,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::IdleInTransaction => "idle in transaction",
        }
    }
}

/// What is known of a session at its start.
#[derive(Debug)]
pub(crate) struct ClientOrigin {
    /// Its number, unique in this router while it lasts.
    pub(crate) id: u32,
    /// The process id that the client was told.
    pub(crate) pid: i32,
    pub(crate) role: Arc<Role>,
    pub(crate) database: String,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// TLS version and cipher; empty without encryption.
    pub(crate) tls: String,
    pub(crate) application_name: String,
    pub(crate) tenant: Option<TenantId>,
    /// The trace that the client's connection belongs to.
    pub(crate) trace: Option<String>,
}

impl ClientOrigin {
    /// Whether it is an operator's on the router itself.
    pub(crate) fn is_console(&self) -> bool {
        self.database == crate::config::CONSOLE_DATABASE
    }

    /// Whether it works on tenants' rows over pooled connections.
    pub(crate) fn is_pooled(&self) -> bool {
        // The fleet's database has no slash in its name, unlike shard/NAME.
        !self.is_console() && !self.database.contains('/')
    }
}

/// One session. Atomics have one writer, the session's own task.
#[derive(Debug)]
pub(crate) struct ClientRecord {
    origin: ClientOrigin,
    clock: Clock,
    connected_us: u64,
    state: AtomicU8,
    since_us: AtomicU64,
    /// When it last ceased to be idle.
    begun_us: AtomicU64,
    request_us: AtomicU64,
    /// Number of the server connection that it holds; 0 is none.
    server: AtomicU64,
    /// SQLSTATE of the last error, in the low five bytes; 0 is none.
    sqlstate: AtomicU64,
    /// Named statements that the client has prepared.
    statements: AtomicU64,
    pub(super) counters: Counters,
    changing: Mutex<Changing>,
    progress: Progress,
    killed: AtomicBool,
    /// The time limit that the session is called for; 0 is none.
    overtime: AtomicU8,
    /// Its tenant's time limits: of statements in the upper half, of transactions in the lower, milliseconds.
    time_limits: AtomicU64,
    pub(super) waker: AtomicWaker,
}

/// How long a session that was called has for it, microseconds.
const CALL_AGAIN_US: u64 = 2_000_000;

/// How a session that is never at rest gets on: a client may pipeline for hours without any one
/// statement taking long.
#[derive(Debug, Default)]
struct Progress {
    /// Requests answered, and transactions ended; they wrap.
    requests: AtomicU32,
    transactions: AtomicU32,
    requests_seen: Seen,
    transactions_seen: Seen,
    /// When the session was last called.
    called_us: AtomicU64,
}

/// When a counter was first seen at its present value, by the one task that looks.
#[derive(Debug, Default)]
struct Seen {
    value: AtomicU32,
    at_us: AtomicU64,
}

impl Seen {
    fn since(&self, counter: &AtomicU32, now: u64) -> u64 {
        let value = counter.load(Ordering::Relaxed);
        if self.value.swap(value, Ordering::Relaxed) != value {
            self.at_us.store(now, Ordering::Relaxed);
        }
        self.at_us.load(Ordering::Relaxed)
    }
}

/// Since when, microseconds of the router's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// It is in its present state.
    pub(crate) state: u64,
    /// Its statement runs, at the latest.
    pub(crate) statement: u64,
    /// Its transaction is open, at the latest.
    pub(crate) transaction: u64,
}

/// What changes now and then and does not fit an atomic. Written when it changes only.
#[derive(Debug, Clone)]
pub(crate) struct Changing {
    pub(crate) tenant: Option<TenantId>,
    pub(crate) application_name: String,
}

impl ClientRecord {
    pub(super) fn new(mut origin: ClientOrigin, clock: Clock) -> Self {
        let now = clock.now_us();
        let changing = Changing {
            tenant: origin.tenant,
            application_name: std::mem::take(&mut origin.application_name),
        };
        Self {
            origin,
            clock,
            connected_us: now,
            state: AtomicU8::new(ClientState::Idle as u8),
            since_us: AtomicU64::new(now),
            begun_us: AtomicU64::new(now),
            request_us: AtomicU64::new(now),
            server: AtomicU64::new(0),
            sqlstate: AtomicU64::new(0),
            statements: AtomicU64::new(0),
            counters: Counters::default(),
            changing: Mutex::new(changing),
            progress: Progress::default(),
            killed: AtomicBool::new(false),
            overtime: AtomicU8::new(0),
            time_limits: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.origin.id
    }

    pub(crate) fn origin(&self) -> &ClientOrigin {
        &self.origin
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn connected_us(&self) -> u64 {
        self.connected_us
    }

    pub(crate) fn state(&self) -> ClientState {
        let state = self.state.load(Ordering::Relaxed);
        let found = ClientState::ALL.into_iter().find(|s| *s as u8 == state);
        found.unwrap_or(ClientState::Idle)
    }

    /// When the present state began.
    pub(crate) fn since_us(&self) -> u64 {
        self.since_us.load(Ordering::Relaxed)
    }

    /// When the last request began.
    pub(crate) fn request_us(&self) -> u64 {
        self.request_us.load(Ordering::Relaxed)
    }

    pub(crate) fn server(&self) -> Option<u64> {
        Some(self.server.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// How long it has been waiting for a server connection, microseconds.
    pub(crate) fn waiting_us(&self) -> u64 {
        match self.state() {
            ClientState::Waiting => self.clock.now_us().saturating_sub(self.since_us()),
            _ => 0,
        }
    }

    pub(crate) fn totals(&self) -> super::Totals {
        self.counters.totals()
    }

    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    pub(crate) fn changing(&self) -> Changing {
        self.changing.lock().clone()
    }

    /// SQLSTATE of the last error that the client was sent.
    pub(crate) fn sqlstate(&self) -> Option<String> {
        let packed = self.sqlstate.load(Ordering::Relaxed).to_be_bytes();
        let code = packed.get(3..)?;
        (code != [0; 5]).then(|| String::from_utf8_lossy(code).into_owned())
    }

    pub(super) fn set_state(&self, state: ClientState, now: u64) {
        if self.state() == ClientState::Idle {
            self.begun_us.store(now, Ordering::Relaxed);
        }
        self.state.store(state as u8, Ordering::Relaxed);
        self.since_us.store(now, Ordering::Relaxed);
        if matches!(state, ClientState::Active | ClientState::Waiting) {
            self.request_us.store(now, Ordering::Relaxed);
        }
    }

    pub(super) fn set_server(&self, server: u64) {
        self.server.store(server, Ordering::Relaxed);
    }

    pub(super) fn set_statements(&self, statements: u64) {
        self.statements.store(statements, Ordering::Relaxed);
    }

    pub(super) fn set_sqlstate(&self, code: [u8; 5]) {
        let [a, b, c, d, e] = code;
        let packed = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
        self.sqlstate.store(packed, Ordering::Relaxed);
    }

    /// For whom it works.
    pub(crate) fn tenant(&self) -> Option<TenantId> {
        self.changing.lock().tenant
    }

    /// The time limits of its tenant.
    pub(crate) fn time_limits(&self) -> TimeLimits {
        let packed = self.time_limits.load(Ordering::Relaxed);
        TimeLimits {
            statement_ms: (packed >> 32) as u32,
            transaction_ms: packed as u32,
        }
    }

    pub(crate) fn set_time_limits(&self, limits: TimeLimits) {
        let packed = u64::from(limits.statement_ms) << 32 | u64::from(limits.transaction_ms);
        self.time_limits.store(packed, Ordering::Relaxed);
    }

    pub(super) fn set_tenant(&self, tenant: Option<TenantId>) {
        self.changing.lock().tenant = tenant;
    }

    pub(super) fn set_application_name(&self, name: &str) {
        name.clone_into(&mut self.changing.lock().application_name);
    }

    /// A request was answered to its end, in or outside a transaction.
    pub(super) fn set_progress(&self, requests: u32, transactions: u32) {
        self.progress.requests.store(requests, Ordering::Relaxed);
        let ended = &self.progress.transactions;
        ended.store(transactions, Ordering::Relaxed);
    }

    /// Since when the session has been doing what it does. Only for the one task that watches the
    /// time limits.
    pub(crate) fn stretch(&self, now: u64) -> Stretch {
        let state = self.since_us();
        let progress = &self.progress;
        Stretch {
            state,
            statement: progress
                .requests_seen
                .since(&progress.requests, now)
                .max(state),
            transaction: progress
                .transactions_seen
                .since(&progress.transactions, now)
                .max(self.begun_us.load(Ordering::Relaxed)),
        }
    }

    /// Calls the session for having passed a time limit, and again if that was of no use. Only for
    /// the one task that watches the time limits.
    pub(crate) fn call(&self, overtime: Overtime, now: u64) {
        let called = self.progress.called_us.load(Ordering::Relaxed);
        if called >= self.since_us() && now.saturating_sub(called) < CALL_AGAIN_US {
            return;
        }
        self.progress.called_us.store(now, Ordering::Relaxed);
        self.overtime.store(overtime as u8, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn take_overtime(&self) -> Option<Overtime> {
        if self.overtime.load(Ordering::Acquire) == 0 {
            return None;
        }
        Overtime::from_u8(self.overtime.swap(0, Ordering::AcqRel))
    }

    /// Makes the session end, wherever it is.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}
