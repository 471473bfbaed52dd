//! What one tenant uses of its limits on this router, and whether it may use more.
//!
//! Exists only for tenants that have a limit which is counted. Sessions hold it by `Arc` and touch atomics only; who
//! makes it, and what its terms are, is the registry's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tenantry_schema::limits::{LimitKind, Limits};
use tenantry_schema::tenant::TenantId;

use super::bucket::{Bucket, Rate};
use super::share::{self, Demand};

/// What is told before anything is known of how long the tenant's transactions take.
const TRANSACTION_GUESS: Duration = Duration::from_millis(50);

/// What of a tenant's limits this router gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Over the whole fleet.
    limits: Limits,
    rate: Option<Rate>,
    queries_per_second: f64,
    transactions: u32,
    connections: u32,
}

/// A tenant is at a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) kind: LimitKind,
    /// Over the whole fleet.
    pub(crate) limit: u32,
    /// This router's part of it.
    pub(crate) share: u32,
    /// What this router was asked for in this second, or has now.
    pub(crate) observed: u64,
    pub(crate) retry: Duration,
}

/// What the router was asked for, of one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Demands {
    /// Per second.
    pub(crate) queries: f64,
    /// At once, at most.
    pub(crate) transactions: u32,
    /// Asked for and refused, and held.
    pub(crate) connections: Demand,
}

/// One tenant's.
#[derive(Debug)]
pub(crate) struct Limiter {
    tenant: TenantId,
    started: Instant,
    terms: ArcSwap<Terms>,
    bucket: Bucket,
    running: AtomicU32,
    connected: AtomicU32,
    /// Since the last look at the demand: statements asked for, most transactions at once, connections refused.
    asked: AtomicU64,
    running_max: AtomicU32,
    unconnected: AtomicU32,
    /// Of the time before that look, statements per second.
    asked_before: AtomicU64,
    /// How long transactions take, smoothed.
    transaction_us: AtomicU64,
}

impl Limiter {
    pub(super) fn new(tenant: TenantId, terms: Terms) -> Self {
        Self {
            tenant,
            started: Instant::now(),
            terms: ArcSwap::from_pointee(terms),
            bucket: Bucket::default(),
            running: AtomicU32::new(0),
            connected: AtomicU32::new(0),
            asked: AtomicU64::new(0),
            running_max: AtomicU32::new(0),
            unconnected: AtomicU32::new(0),
            asked_before: AtomicU64::new(0),
            transaction_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.tenant
    }

    pub(crate) fn limits(&self) -> Limits {
        self.terms.load().limits
    }

    /// This router's part of each limit.
    pub(crate) fn shares(&self) -> [(LimitKind, Option<f64>); 3] {
        let terms = self.terms.load();
        let counted = |kind, share: u32| (kind, terms.limits.value(kind).map(|_| share.into()));
        [
            (
                LimitKind::QueriesPerSecond,
                terms.rate.map(|_| terms.queries_per_second),
            ),
            counted(LimitKind::Transactions, terms.transactions),
            counted(LimitKind::Connections, terms.connections),
        ]
    }

    /// Statements that it asked for in the last second.
    pub(crate) fn asked(&self) -> u64 {
        self.asked_before.load(Ordering::Relaxed)
    }

    /// Transactions and connections that it has here now.
    pub(crate) fn in_use(&self) -> (u32, u32) {
        let load = |count: &AtomicU32| count.load(Ordering::Relaxed);
        (load(&self.running), load(&self.connected))
    }

    /// Other limits, or another part of them. What has been taken is as many statements at another rate.
    pub(super) fn set_terms(&self, terms: Terms) {
        let before = self.terms.swap(Arc::new(terms));
        if let (Some(from), Some(to)) = (before.rate, terms.rate)
            && from != to
        {
            self.bucket.rescale(from, to, self.now_ns());
        }
    }

    /// Whether nothing would be lost with it: nobody uses it, and it owes nothing.
    pub(super) fn is_forgettable(&self) -> bool {
        let (running, connected) = self.in_use();
        running == 0 && connected == 0 && self.bucket.is_full(self.now_ns())
    }

    /// How much of its limits is asked for, at most of any of them; beyond 1 something was refused.
    pub(super) fn pressure(&self, demands: &Demands) -> f64 {
        let terms = self.terms.load();
        let of = |asked: f64, kind| {
            let limit = terms.limits.value(kind);
            limit.map_or(0.0, |limit| asked / f64::from(limit.max(1)))
        };
        of(demands.queries, LimitKind::QueriesPerSecond)
            .max(of(demands.transactions.into(), LimitKind::Transactions))
            .max(of(demands.connections.asked, LimitKind::Connections))
    }

    /// What was asked for since the last look, `elapsed` ago.
    pub(super) fn take_demands(&self, elapsed: Duration) -> Demands {
        let asked = self.asked.swap(0, Ordering::Relaxed);
        let per_second = asked as f64 / elapsed.as_secs_f64().max(0.001);
        self.asked_before
            .store(per_second.ceil() as u64, Ordering::Relaxed);
        let (running, held) = self.in_use();
        let refused = self.unconnected.swap(0, Ordering::Relaxed);
        Demands {
            queries: per_second,
            transactions: self.running_max.swap(running, Ordering::Relaxed),
            connections: Demand {
                asked: f64::from(held.saturating_add(refused)),
                held,
            },
        }
    }

    /// A place for one more connection.
    pub(super) fn connect(self: &Arc<Self>) -> Result<Connected, Over> {
        let terms = self.terms.load();
        match enter(&self.connected, terms.connections) {
            Ok(_) => Ok(Connected(Arc::clone(self))),
            Err(observed) => {
                self.unconnected.fetch_add(1, Ordering::Relaxed);
                Err(terms.over(
                    LimitKind::Connections,
                    terms.connections,
                    observed.into(),
                    Duration::from_secs(1),
                ))
            }
        }
    }

    /// One more transaction, with its first statement.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Permit, Over> {
        let terms = self.terms.load();
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let permit = self.permit()?;
        if let Some(rate) = terms.rate {
            let taken = self.bucket.take(rate, self.now_ns());
            taken.map_err(|retry| self.too_many(&terms, asked, retry))?;
        }
        Ok(permit)
    }

    /// A place among the tenant's transactions, statements apart.
    pub(super) fn permit(self: &Arc<Self>) -> Result<Permit, Over> {
        let terms = self.terms.load();
        let entered = enter(&self.running, terms.transactions).map_err(|observed| {
            let wanted = observed.saturating_add(1);
            self.running_max.fetch_max(wanted, Ordering::Relaxed);
            terms.over(
                LimitKind::Transactions,
                terms.transactions,
                observed.into(),
                self.transaction_time(),
            )
        });
        entered.map(|running| self.permitted(running))
    }

    /// One more transaction that has begun already, whether there is a place for it or not.
    pub(super) fn count_transaction(self: &Arc<Self>) -> Permit {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.permitted(running)
    }

    /// One more connection that is there already, whether there is a place for it or not.
    pub(super) fn count_connection(self: &Arc<Self>) -> Connected {
        self.connected.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    fn permitted(self: &Arc<Self>, running: u32) -> Permit {
        self.running_max.fetch_max(running, Ordering::Relaxed);
        Permit {
            limiter: Arc::clone(self),
            began: Instant::now(),
        }
    }

    /// One more transaction on a connection that is kept. Its statements are charged when they have run.
    pub(super) fn go_on(&self) -> Result<(), Over> {
        let terms = self.terms.load();
        let Some(rate) = terms.rate else {
            return Ok(());
        };
        let asked = self.asked.load(Ordering::Relaxed);
        self.bucket
            .peek(rate, self.now_ns())
            .map_err(|retry| self.too_many(&terms, asked, retry))
    }

    /// So many statements were run beyond those that began a transaction. Whether there is a token for another.
    pub(super) fn charge(&self, statements: u64) -> bool {
        self.asked.fetch_add(statements, Ordering::Relaxed);
        let Some(rate) = self.terms.load().rate else {
            return true;
        };
        let now = self.now_ns();
        self.bucket.charge(rate, statements, now);
        self.bucket.peek(rate, now).is_ok()
    }

    fn too_many(&self, terms: &Terms, asked: u64, retry: Duration) -> Over {
        let observed = asked.max(self.asked_before.load(Ordering::Relaxed));
        let share = terms.queries_per_second.ceil() as u32;
        terms.over(LimitKind::QueriesPerSecond, share, observed, retry)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn transaction_time(&self) -> Duration {
        match self.transaction_us.load(Ordering::Relaxed) {
            0 => TRANSACTION_GUESS,
            us => Duration::from_micros(us),
        }
    }
}

impl Terms {
    /// The part of these limits that the router at the given place among the demands may give.
    pub(super) fn of(
        limits: Limits,
        mut demands: impl FnMut(LimitKind) -> (Vec<Demand>, usize),
    ) -> Self {
        let mut counted = |kind| match limits.value(kind) {
            Some(limit) => {
                let (demands, own) = demands(kind);
                share::count(limit, &demands, own)
            }
            None => u32::MAX,
        };
        let (transactions, connections) = (
            counted(LimitKind::Transactions),
            counted(LimitKind::Connections),
        );
        let mut queries_per_second = f64::INFINITY;
        let rate = limits.value(LimitKind::QueriesPerSecond).map(|limit| {
            let (demands, own) = demands(LimitKind::QueriesPerSecond);
            queries_per_second = share::rate(limit.into(), &demands, own);
            let burst = limits.value(LimitKind::QueryBurst).unwrap_or(limit);
            Rate::new(queries_per_second, share::rate(burst.into(), &demands, own))
        });
        Self {
            limits,
            rate,
            queries_per_second,
            transactions,
            connections,
        }
    }

    fn over(&self, kind: LimitKind, share: u32, observed: u64, retry: Duration) -> Over {
        Over {
            kind,
            limit: self.limits.value(kind).unwrap_or(u32::MAX),
            share,
            observed,
            retry,
        }
    }
}

/// Adds one unless there are so many; answers how many there are now. So does the error.
fn enter(count: &AtomicU32, max: u32) -> Result<u32, u32> {
    count
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < max).then_some(count + 1)
        })
        .map(|before| before + 1)
}

/// A transaction of a tenant whose transactions are counted.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
    began: Instant,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.running.fetch_sub(1, Ordering::Relaxed);
        let took = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before = self.limiter.transaction_us.load(Ordering::Relaxed);
        // Lost updates of others do not matter: it is a hint.
        let smoothed = if before == 0 {
            took
        } else {
            before - before / 8 + took / 8
        };
        self.limiter
            .transaction_us
            .store(smoothed, Ordering::Relaxed);
    }
}

/// A connection of a tenant whose connections are counted.
#[derive(Debug)]
pub(crate) struct Connected(Arc<Limiter>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}
