//! How fast a move may work: a rate in bytes per second that everyone who moves rows asks before each piece of work.
//!
//! The rate follows what other tenants feel. [`Regulator`] times a small transaction of its own on both shards, before
//! the move for a baseline and then again and again, and lets [`Controller`], which is pure, raise the rate a little
//! while they are well and cut it when they are not.

mod controller;
mod regulator;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

pub use controller::{Controller, Limits, Pressure};
pub use regulator::Regulator;

/// What may be spent at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// Who waits looks at the rate again after so long: it may have been raised.
const NAP_MAX: Duration = Duration::from_millis(50);

/// A rate that several workers share.
#[derive(Debug)]
pub struct Throttle {
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes per second; none is no limit.
    rate: Option<u64>,
    /// Bytes that may be spent now; negative while what was spent is being paid back.
    balance: f64,
    /// When the balance was true.
    at: Instant,
}

impl Throttle {
    /// No limit.
    #[must_use]
    pub fn off() -> Self {
        Self::with(None)
    }

    /// Starts with this many bytes per second.
    #[must_use]
    pub fn bytes_per_second(rate: u64) -> Self {
        Self::with(Some(rate))
    }

    fn with(rate: Option<u64>) -> Self {
        let bucket = Bucket {
            rate,
            balance: 0.0,
            at: Instant::now(),
        };
        Self {
            bucket: Mutex::new(bucket),
        }
    }

    /// The present rate in bytes per second; none is no limit.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.with_bucket(|bucket| bucket.rate)
    }

    /// Sets the rate for what is taken from now on, and for those who wait.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.with_bucket(|bucket| {
            bucket.refill(Instant::now());
            bucket.rate = rate;
        });
    }

    /// Waits until so many bytes may be moved. Cancel-safe: what was taken stays taken.
    pub async fn take(&self, bytes: u64) {
        let mut wait = self.with_bucket(|bucket| bucket.spend(bytes, Instant::now()));
        while !wait.is_zero() {
            sleep(wait.min(NAP_MAX)).await;
            wait = self.with_bucket(|bucket| bucket.spend(0, Instant::now()));
        }
    }

    fn with_bucket<T>(&self, work: impl FnOnce(&mut Bucket) -> T) -> T {
        work(&mut self.bucket.lock())
    }
}

impl Bucket {
    /// Spends, and says how long until the balance is even.
    fn spend(&mut self, bytes: u64, now: Instant) -> Duration {
        self.refill(now);
        let Some(rate) = self.rate else {
            self.balance = 0.0;
            return Duration::ZERO;
        };
        self.balance -= bytes as f64;
        if self.balance >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-self.balance / rate.max(1) as f64).max(Duration::from_millis(1))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        if let Some(rate) = self.rate {
            let most = rate as f64 * BURST.as_secs_f64();
            self.balance = (self.balance + elapsed * rate as f64).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bucket(rate: Option<u64>, at: Instant) -> Bucket {
        Bucket {
            rate,
            balance: 0.0,
            at,
        }
    }

    #[test]
    fn what_is_spent_is_paid_back_at_the_rate() {
        let start = Instant::now();
        let mut bucket = bucket(Some(1_000), start);
        assert_eq!(bucket.spend(500, start), Duration::from_millis(500));
        let later = start + Duration::from_millis(200);
        assert_eq!(bucket.spend(0, later), Duration::from_millis(300));
        assert_eq!(
            bucket.spend(0, start + Duration::from_millis(600)),
            Duration::ZERO
        );
    }

    #[test]
    fn a_long_pause_earns_a_short_burst_only() {
        let start = Instant::now();
        let mut bucket = bucket(Some(1_000), start);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(bucket.spend(100, later), Duration::ZERO);
        assert_eq!(bucket.spend(100, later), Duration::from_millis(100));
    }

    #[test]
    fn many_takers_together_keep_the_rate() {
        let start = Instant::now();
        let mut bucket = bucket(Some(1_000_000), start);
        let mut now = start;
        for _ in 0..100 {
            now += bucket.spend(10_000, now);
        }
        let took = now.duration_since(start).as_secs_f64();
        assert!((0.99..1.11).contains(&took), "{took}");
    }

    #[tokio::test]
    async fn who_waits_notices_a_new_rate() {
        let throttle = Throttle::bytes_per_second(1);
        let lift = async { throttle.set_rate(None) };
        let both = async { tokio::join!(throttle.take(1_000_000), lift) };
        tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .unwrap();
        assert_eq!(throttle.rate(), None);
    }
}
