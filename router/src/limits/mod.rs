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

    /// What each tenant asked for since the last call, those that are nearest to their limits first; forgets those that
    /// nobody asks for any more.
    pub(crate) fn take_demands(&self) -> Vec<(TenantId, Demands)> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        let elapsed = inner
            .looked
            .replace(now)
            .map_or(Duration::from_secs(1), |looked| now - looked);
        let asked = inner.limiters.iter().map(|(tenant, limiter)| {
            let demands = limiter.take_demands(elapsed);
            (limiter.pressure(&demands), *tenant, demands)
        });
        let mut asked: Vec<(f64, TenantId, Demands)> = asked.collect();
        let own: HashMap<_, _> = asked
            .iter()
            .map(|(_, tenant, asked)| (*tenant, *asked))
            .collect();
        inner.limiters.retain(|tenant, limiter| {
            let is_asked = own.get(tenant).is_some_and(|asked| !asked.is_none());
            is_asked || Arc::strong_count(limiter) > 1 || !limiter.is_forgettable()
        });
        inner.own = own;
        drop(inner);
        asked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let demands = asked.into_iter().map(|(_, tenant, asked)| (tenant, asked));
        demands.collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tenant(number: i64) -> TenantId {
        TenantId::from_bigint(number).unwrap()
    }

    fn limits(json: &str) -> Limits {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_tenant_that_rests_for_a_second_still_owes() {
        let limiters = Limiters::default();
        let slow = limits(r#"{"queries_per_second": 1, "query_burst": 2}"#);
        let limiter = limiters.limiter(tenant(1), slow).unwrap();
        drop(limiter.begin().unwrap());
        limiter.charge(8);
        drop(limiter);
        // Told, and then nothing to tell any more.
        for _ in 0..3 {
            limiters.take_demands();
        }
        let again = limiters.limiter(tenant(1), slow).unwrap();
        assert!(again.begin().is_err(), "it was forgotten");
        // One that owes nothing goes.
        let fast = limits(r#"{"queries_per_second": 1000000000}"#);
        drop(limiters.limiter(tenant(2), fast).unwrap());
        for _ in 0..3 {
            limiters.take_demands();
        }
        let left: Vec<_> = limiters.all().iter().map(|left| left.tenant()).collect();
        assert_eq!(left, [tenant(1)]);
    }

    #[test]
    fn who_is_nearest_to_its_limit_is_told_first() {
        let limiters = Limiters::default();
        let ten = limits(r#"{"transactions": 10}"#);
        let held: Vec<_> = (1..=40)
            .map(|number| {
                let limiter = limiters.limiter(tenant(number), ten).unwrap();
                let permits = (0..number % 10).map(|_| limiter.permit().unwrap());
                permits.collect::<Vec<_>>()
            })
            .collect();
        let told = limiters.take_demands();
        let first: Vec<TenantId> = told.iter().take(4).map(|(tenant, _)| *tenant).collect();
        assert_eq!(first, [tenant(9), tenant(19), tenant(29), tenant(39)]);
        assert!(told.is_sorted_by_key(|(_, asked)| std::cmp::Reverse(asked.transactions)));
        drop(held);
    }

    #[test]
    fn other_limits_change_what_is_owed() {
        let limiters = Limiters::default();
        let slow = limits(r#"{"queries_per_second": 1, "query_burst": 1}"#);
        let limiter = limiters.limiter(tenant(1), slow).unwrap();
        limiter.charge(9);
        assert!(limiter.begin().is_err());
        let fast = limits(r#"{"queries_per_second": 100000}"#);
        let same = limiters.limiter(tenant(1), fast).unwrap();
        assert!(same.begin().is_ok());
    }
}
