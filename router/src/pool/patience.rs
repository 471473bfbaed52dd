//! How long a session has been waiting for a connection, without the time that its pool was paused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Pool;

/// How long a pool has been paused.
#[derive(Debug, Default)]
pub(super) struct Paused {
    /// Altogether, before the present pause; microseconds.
    total_us: AtomicU64,
    /// When the present one began; 0: there is none.
    since_us: AtomicU64,
}

impl Paused {
    /// Whoever sets the gate says so, one at a time.
    pub(super) fn set(&self, paused: bool, now_us: u64) {
        let since = self.since_us.load(Ordering::Relaxed);
        if paused && since == 0 {
            self.since_us.store(now_us.max(1), Ordering::Relaxed);
        } else if !paused && since != 0 {
            let lasted = now_us.saturating_sub(since);
            self.total_us.fetch_add(lasted, Ordering::Relaxed);
            self.since_us.store(0, Ordering::Relaxed);
        }
    }

    fn total(&self, now_us: u64) -> u64 {
        let present = match self.since_us.load(Ordering::Relaxed) {
            0 => 0,
            since => now_us.saturating_sub(since),
        };
        self.total_us.load(Ordering::Relaxed) + present
    }
}

/// One session's, for one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    started: Instant,
    /// For how long the pool had been paused then, microseconds.
    paused_us: u64,
    /// For how long it waits, if not for as long as the configuration says.
    limit: Option<Duration>,
}

impl Patience {
    pub(super) fn begin(pool: &Pool, limit: Option<Duration>) -> Self {
        Self {
            started: Instant::now(),
            paused_us: pool.paused.total(pool.now_us()),
            limit,
        }
    }

    pub(super) fn waited(&self, pool: &Pool) -> Duration {
        let paused = pool.paused.total(pool.now_us());
        let paused = Duration::from_micros(paused.saturating_sub(self.paused_us));
        self.started.elapsed().saturating_sub(paused)
    }

    /// How much longer it waits.
    pub(super) fn left(&self, pool: &Pool) -> Duration {
        let limit = pool.limits.load().query_wait;
        let limit = self.limit.map_or(limit, |own| own.min(limit));
        limit.saturating_sub(self.waited(pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pauses_count_and_the_present_one_as_far_as_it_has_come() {
        let paused = Paused::default();
        paused.set(false, 5);
        assert_eq!(paused.total(10), 0);
        paused.set(true, 10);
        assert_eq!(paused.total(13), 3);
        // Told twice, as by PAUSE of a shard and PAUSE of all.
        paused.set(true, 20);
        assert_eq!(paused.total(30), 20);
        paused.set(false, 30);
        assert_eq!(paused.total(1000), 20);
        paused.set(true, 1000);
        paused.set(false, 1005);
        assert_eq!(paused.total(2000), 25);
    }
}
