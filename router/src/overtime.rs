//! Time limits of sessions: who has passed one is found by looking at all of them now and then,
//! so that a statement in time costs no timer.
//!
//! Only finds and calls; what becomes of a session that is called is the session's driver's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::activity::{ClientRecord, ClientState};
use crate::config::Timeouts;
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
}

impl Overtime {
    const ALL: [Self; 4] = [
        Self::Statement,
        Self::Transaction,
        Self::IdleInTransaction,
        Self::IdleClient,
    ];

    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == value)
    }

    /// The limit; zero is none.
    pub(crate) fn limit(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Statement => timeouts.query,
            Self::Transaction => timeouts.transaction,
            Self::IdleInTransaction => timeouts.idle_transaction,
            Self::IdleClient => timeouts.client_idle,
        }
    }

    /// The name of the setting.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Statement => "query_timeout",
            Self::Transaction => "transaction_timeout",
            Self::IdleInTransaction => "idle_transaction_timeout",
            Self::IdleClient => "client_idle_timeout",
        }
    }
}

/// As PostgreSQL's own timeouts say it.
impl fmt::Display for Overtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Statement => "canceling statement due to statement timeout",
            Self::Transaction => "terminating transaction due to transaction timeout",
            Self::IdleInTransaction => "terminating transaction due to idle-in-transaction timeout",
            Self::IdleClient => "terminating connection due to idle-session timeout",
        })
    }
}

/// Calls every session that has passed a limit, until `shutdown`.
pub(crate) async fn watch(router: Arc<Router>, shutdown: CancellationToken) {
    loop {
        let timeouts = router.config().timeouts.clone();
        let period = period(&timeouts);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(period.unwrap_or(LOOK_MAX)) => {}
        }
        if period.is_some() {
            let now = router.activity.clock.now_us();
            router.activity.each_client(|record| {
                if record.origin().is_pooled()
                    && let Some(overtime) = passed(record, &timeouts, now)
                {
                    record.call(overtime, now);
                }
            });
        }
    }
}

/// `None`: there is no limit at all.
fn period(timeouts: &Timeouts) -> Option<Duration> {
    let limits = Overtime::ALL.map(|kind| kind.limit(timeouts));
    let shortest = limits.into_iter().filter(|limit| !limit.is_zero()).min()?;
    Some((shortest / LOOKS_PER_LIMIT).clamp(LOOK_MIN, LOOK_MAX))
}

/// The limit that a session has passed.
fn passed(record: &ClientRecord, timeouts: &Timeouts, now: u64) -> Option<Overtime> {
    let stretch = record.stretch(now);
    let over = |kind: Overtime, since: u64| {
        let limit = kind.limit(timeouts);
        let spent = Duration::from_micros(now.saturating_sub(since));
        (!limit.is_zero() && spent > limit).then_some(kind)
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
