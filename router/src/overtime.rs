//! Time limits of sessions: who has passed one is found by looking at all of them now and then,
//! so that a statement in time costs no timer.
//!
//! Only finds and calls; what becomes of a session that is called is the session's driver's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tenantry_schema::fleet::Fleet;
use tenantry_schema::limits::{KillMode, LimitKind};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::activity::{ClientRecord, ClientState};
use crate::config::Timeouts;
use crate::limits::TimeLimits;
use crate::router::Router;

/// How often sessions are looked at: so many times within the shortest limit, within these bounds.
const LOOKS_PER_LIMIT: u32 = 20;
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A time limit of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Overtime {
    /// A statement runs too long.
    Statement = 1,
    /// A transaction is open too long.
    Transaction,
    /// A transaction is open and its client silent.
    IdleInTransaction,
    /// A client is silent between transactions.
    IdleClient,
    /// No limit of time: its tenant's kill switch refuses what it does.
    Killed,
}

impl Overtime {
    const ALL: [Self; 5] = [
        Self::Statement,
        Self::Transaction,
        Self::IdleInTransaction,
        Self::IdleClient,
        Self::Killed,
    ];

    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == value)
    }

    /// The limit, the router's or the tenant's, whichever is shorter; `None`: there is none.
    pub(crate) fn limit(self, timeouts: &Timeouts, tenants: TimeLimits) -> Option<Limit> {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let (name, own, of_tenant) = match self {
            Self::Statement => ("query_timeout", timeouts.query, ms(tenants.statement_ms)),
            Self::Transaction => (
                "transaction_timeout",
                timeouts.transaction,
                ms(tenants.transaction_ms),
            ),
            Self::IdleInTransaction => (
                "idle_transaction_timeout",
                timeouts.idle_transaction,
                Duration::ZERO,
            ),
            Self::IdleClient => ("client_idle_timeout", timeouts.client_idle, Duration::ZERO),
            Self::Killed => return None,
        };
        if !of_tenant.is_zero() && (own.is_zero() || of_tenant < own) {
            let name = match self {
                Self::Statement => "statement_time of the tenant",
                _ => "transaction_time of the tenant",
            };
            return Some(Limit {
                name,
                time: of_tenant,
            });
        }
        (!own.is_zero()).then_some(Limit { name, time: own })
    }
}

/// A limit and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The setting's name.
    pub(crate) name: &'static str,
    pub(crate) time: Duration,
}

/// As PostgreSQL's own timeouts say it.
impl fmt::Display for Overtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Statement => "canceling statement due to statement timeout",
            Self::Transaction => "terminating transaction due to transaction timeout",
            Self::IdleInTransaction => "terminating transaction due to idle-in-transaction timeout",
            Self::IdleClient => "terminating connection due to idle-session timeout",
            Self::Killed => "canceling statement due to the kill switch",
        })
    }
}

/// Calls every session that has passed a limit, or whose tenant's kill switch refuses what it does, until `shutdown`.
pub(crate) async fn watch(router: Arc<Router>, shutdown: CancellationToken) {
    let mut published = router.fleet.subscribe();
    let mut seen = Seen::default();
    loop {
        let timeouts = router.config().timeouts.clone();
        let period = period(&timeouts, seen.shortest);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(period.unwrap_or(LOOK_MAX)) => {}
            // Limits change at once for what runs, too.
            Ok(()) = published.changed() => {}
        }
        seen.renew(&router);
        if period.is_none() && seen.shortest.is_none() && !seen.refuses {
            continue;
        }
        let now = router.activity.clock.now_us();
        let fleet = router.fleet.current();
        router.activity.each_client(|record| {
            if !record.origin().is_pooled() {
                return;
            }
            if let Some(overtime) = passed(record, &timeouts, now) {
                record.call(overtime, now);
            } else if seen.refuses && is_refused(record, &fleet) {
                record.call(Overtime::Killed, now);
            }
        });
    }
}

/// The limits of tenants as they were last looked at.
#[derive(Debug, Default)]
struct Seen {
    version: u64,
    /// The shortest time limit of any tenant.
    shortest: Option<Duration>,
    /// Some kill switch refuses somebody.
    refuses: bool,
}

impl Seen {
    /// Gives every session its tenant's time limits if they may be others than before.
    fn renew(&mut self, router: &Router) {
        let version = router.fleet.limits_version();
        if version == self.version {
            return;
        }
        self.version = version;
        let fleet = router.fleet.current();
        let limits = &fleet.limits;
        self.refuses = limits
            .switches
            .values()
            .any(|switch| switch.mode == KillMode::Refuse);
        let all = limits.plans.values().chain(limits.tenants.values());
        let times = all.flat_map(|limits| {
            [LimitKind::StatementTime, LimitKind::TransactionTime].map(|kind| limits.value(kind))
        });
        self.shortest = times
            .flatten()
            .min()
            .map(|ms| Duration::from_millis(ms.into()));
        router.activity.each_client(|record| {
            let tenant = record.tenant().and_then(|id| fleet.directory.by_id(id));
            let limits = tenant.map(|tenant| fleet.limits_of(&tenant));
            record.set_time_limits(TimeLimits::of(&limits.unwrap_or_default()));
        });
    }
}

/// Whether its tenant's kill switch refuses a session that has something open. Others are refused when they begin.
fn is_refused(record: &ClientRecord, fleet: &Fleet) -> bool {
    matches!(
        record.state(),
        ClientState::Active | ClientState::IdleInTransaction
    ) && {
        let now = Timestamp::now();
        let switch = fleet.kill_switch(record.tenant(), now);
        switch.is_some_and(|switch| switch.mode_at(now) == KillMode::Refuse)
    }
}

/// `None`: there is no limit at all.
fn period(timeouts: &Timeouts, tenants: Option<Duration>) -> Option<Duration> {
    let own = Overtime::ALL
        .into_iter()
        .filter_map(|kind| kind.limit(timeouts, TimeLimits::default()))
        .map(|limit| limit.time);
    let shortest = own.chain(tenants).min()?;
    Some((shortest / LOOKS_PER_LIMIT).clamp(LOOK_MIN, LOOK_MAX))
}

/// The limit that a session has passed.
fn passed(record: &ClientRecord, timeouts: &Timeouts, now: u64) -> Option<Overtime> {
    let stretch = record.stretch(now);
    let tenants = record.time_limits();
    let over = |kind: Overtime, since: u64| {
        let limit = kind.limit(timeouts, tenants)?;
        let spent = Duration::from_micros(now.saturating_sub(since));
        (spent > limit.time).then_some(kind)
    };
    match record.state() {
        ClientState::Idle => over(Overtime::IdleClient, stretch.state),
        // Waiting for a server connection has a limit of its own.
        ClientState::Waiting => None,
        ClientState::Active => over(Overtime::Statement, stretch.statement)
            .or_else(|| over(Overtime::Transaction, stretch.transaction)),
        ClientState::IdleInTransaction => over(Overtime::IdleInTransaction, stretch.state)
            .or_else(|| over(Overtime::Transaction, stretch.transaction)),
    }
}
