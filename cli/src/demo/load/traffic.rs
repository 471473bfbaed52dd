//! Who shops, where, and what for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::market::Market;
use super::session::Session;
use super::stats::Stats;

/// How often a transaction is tried again when the server says that nothing of it happened.
const RETRIES_MAX: u32 = 5;

/// Pause before a lost connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What a shopper does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    Browse,
    Search,
    Cart,
    Checkout,
}

impl Action {
    pub(super) const ALL: [Self; 4] = [Self::Browse, Self::Search, Self::Cart, Self::Checkout];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Browse => "browse",
            Self::Search => "search",
            Self::Cart => "cart",
            Self::Checkout => "checkout",
        }
    }

    /// Of a hundred visits: most look, few buy.
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..100) {
            0..70 => Self::Browse,
            70..85 => Self::Search,
            85..95 => Self::Cart,
            _ => Self::Checkout,
        }
    }
}

/// One client of the router.
pub(super) struct Shopper {
    market: Arc<Market>,
    stats: Arc<Mutex<Stats>>,
    rng: StdRng,
    session: Option<Session>,
}

impl Shopper {
    pub(super) fn new(market: Arc<Market>, stats: Arc<Mutex<Stats>>, seed: u64) -> Self {
        Self {
            market,
            stats,
            rng: StdRng::seed_from_u64(seed),
            session: None,
        }
    }

    /// One visit after the other until `stop`, which is heeded between transactions.
    pub(super) async fn shop(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let market = Arc::clone(&self.market);
            let action = Action::draw(&mut self.rng);
            let store = market.store(&mut self.rng);
            self.visit(store, action, &stop).await;
        }
    }

    /// Does one thing, again if need be, and records how it went.
    async fn visit(&mut self, store: &str, action: Action, stop: &CancellationToken) {
        let started = Instant::now();
        for attempt in 0..=RETRIES_MAX {
            let error = match self.attempt(store, action).await {
                Ok(()) => return self.stats.lock().success(action, started.elapsed()),
                Err(error) => error,
            };
            let lost = self.session.as_ref().is_none_or(Session::is_closed);
            if lost {
                self.session = None;
            }
            if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) && attempt < RETRIES_MAX {
                self.stats.lock().retry();
                continue;
            }
            let code = error.code().map_or("connection", SqlState::code);
            tracing::debug!(store, action = action.name(), %error, "transaction failed");
            self.stats.lock().failure(action, code);
            if lost {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                }
            }
            return;
        }
    }

    async fn attempt(&mut self, store: &str, action: Action) -> Result<(), tokio_postgres::Error> {
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(Session::open(&self.market).await?),
        };
        session
            .transact(store, action, &self.market, &mut self.rng)
            .await
    }
}
