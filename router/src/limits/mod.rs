//! Limits and kill switches of tenants, as sessions meet them.
//!
//! A session keeps a [`Gate`]: what it has found for its tenant, valid until the fleet's limits change or the session
//! switches. So a tenant without limits costs a comparison per transaction: no lock, no look-up. Nothing here waits:
//! who may not go on is refused and told when to come again.

mod bucket;
mod gate;
mod limiter;
mod share;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tenantry_schema::catalog::LoadAsked;
use tenantry_schema::limits::{LimitKind, Limits};
use tenantry_schema::tenant::TenantId;

pub(crate) use self::gate::{Gate, Killed, TimeLimits};
use self::limiter::Terms;
pub(crate) use self::limiter::{Demands, Limiter, Over};
use self::share::Demand;

/// The limits that are counted, and so need a [`Limiter`].
const COUNTED: [LimitKind; 3] = [
    LimitKind::QueriesPerSecond,
    LimitKind::Transactions,
    LimitKind::Connections,
];

/// What other routers were asked for is forgotten when it was not told for so long: they are gone, or the catalog is.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// The limiters of one router.
#[derive(Debug, Default)]
pub(crate) struct Limiters {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    limiters: HashMap<TenantId, Arc<Limiter>>,
    others: Others,
    /// What this router was asked for when it was last asked, by tenant.
    own: HashMap<TenantId, Demands>,
    looked: Option<Instant>,
}

/// What other routers were asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Others {
    /// The numbers of all live routers, this one's included, in order.
    pub(crate) routers: Vec<u16>,
    /// This one's.
    pub(crate) own: u16,
    pub(crate) demands: HashMap<TenantId, HashMap<u16, Demands>>,
    /// When that was.
    pub(crate) told: Option<Instant>,
}

impl Limiters {
    /// The limiter of a tenant; `None`: none of its limits is counted.
    pub(crate) fn limiter(&self, tenant: TenantId, limits: Limits) -> Option<Arc<Limiter>> {
        if COUNTED.iter().all(|kind| limits.value(*kind).is_none()) {
            return None;
        }
        let mut inner = self.inner.lock();
        let terms = inner.terms(tenant, limits);
        let limiter = inner
            .limiters
            .entry(tenant)
            .or_insert_with(|| Arc::new(Limiter::new(tenant, terms)));
        if limiter.limits() != limits {
            limiter.set_terms(terms);
        }
        Some(Arc::clone(limiter))
    }

    /// What each tenant asked for since the last call; forgets those that nobody asks for any more.
    pub(crate) fn take_demands(&self) -> Vec<(TenantId, Demands)> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        let elapsed = inner
            .looked
            .replace(now)
            .map_or(Duration::from_secs(1), |looked| now - looked);
        let demands: Vec<(TenantId, Demands)> = inner
            .limiters
            .iter()
            .map(|(tenant, limiter)| (*tenant, limiter.take_demands(elapsed)))
            .collect();
        inner.own = demands.iter().copied().collect();
        inner.limiters.retain(|tenant, limiter| {
            let asked = demands.iter().find(|(id, _)| id == tenant);
            Arc::strong_count(limiter) > 1 || asked.is_some_and(|(_, asked)| !asked.is_none())
        });
        demands
    }

    /// Other routers have told what they are asked for: this one's part of each limit is another.
    pub(crate) fn share(&self, others: Others) {
        let mut inner = self.inner.lock();
        inner.others = others;
        for limiter in inner.limiters.values() {
            limiter.set_terms(inner.terms(limiter.tenant(), limiter.limits()));
        }
    }

    /// Every limiter, by tenant.
    pub(crate) fn all(&self) -> Vec<Arc<Limiter>> {
        let mut all: Vec<_> = self.inner.lock().limiters.values().cloned().collect();
        all.sort_by_key(|limiter| limiter.tenant());
        all
    }
}

impl Inner {
    fn terms(&self, tenant: TenantId, limits: Limits) -> Terms {
        Terms::of(limits, |kind| self.demands(tenant, kind))
    }

    /// What all live routers were asked for of one limit, and this one's place among them.
    fn demands(&self, tenant: TenantId, kind: LimitKind) -> (Vec<Demand>, usize) {
        let own = self
            .own
            .get(&tenant)
            .map_or_else(Demand::default, |asked| asked.of(kind));
        let fresh = self
            .others
            .told
            .is_some_and(|told| told.elapsed() <= TOLD_MAX);
        if self.others.routers.is_empty() {
            return (vec![own], 0);
        }
        let theirs = self.others.demands.get(&tenant).filter(|_| fresh);
        let demand = |router: &u16| {
            if *router == self.others.own && theirs.is_some_and(|all| !all.contains_key(router)) {
                return own;
            }
            theirs
                .and_then(|all| all.get(router))
                .map_or_else(Demand::default, |asked| asked.of(kind))
        };
        let place = self
            .others
            .routers
            .iter()
            .position(|router| *router == self.others.own);
        (
            self.others.routers.iter().map(demand).collect(),
            place.unwrap_or_default(),
        )
    }
}

impl Demands {
    /// Of one limit.
    fn of(&self, kind: LimitKind) -> Demand {
        match kind {
            LimitKind::QueriesPerSecond => Demand {
                asked: self.queries,
                held: 0,
            },
            LimitKind::Transactions => Demand {
                asked: self.transactions.into(),
                held: 0,
            },
            LimitKind::Connections => self.connections,
            _ => Demand::default(),
        }
    }

    /// As the router tells it, and as others told it.
    pub(crate) fn tell(&self) -> LoadAsked {
        LoadAsked {
            queries: self.queries as f32,
            transactions: self.transactions,
            connections: self.connections.asked as u32,
            held: self.connections.held,
        }
    }

    pub(crate) fn told(asked: LoadAsked) -> Self {
        Self {
            queries: asked.queries.into(),
            transactions: asked.transactions,
            connections: Demand {
                asked: asked.connections.into(),
                held: asked.held,
            },
        }
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
