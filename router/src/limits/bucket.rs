//! A token bucket in one word: so many at once, then so many per second.
//!
//! Pure: time comes in as nanoseconds that do not run backwards by much. It is kept as the time at which the bucket
//! would be full again, so that taking is one compare-and-swap and waiting costs nothing. What was used without
//! asking can be charged afterwards; the bucket then owes, within [`DEBT_NS_MAX`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a bucket owes at most, as time to wait: a batch of a million statements locks nobody out for hours.
const DEBT_NS_MAX: u64 = 10_000_000_000;

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time for one token; positive.
    interval_ns: u64,
    /// Time for as many as it holds.
    depth_ns: u64,
}

impl Rate {
    /// So many per second, and so many at once; one of each at least.
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        // Saturates: a rate of next to nothing is one token in centuries.
        let interval_ns = ((1e9 / per_second.max(1e-9)) as u64).max(1);
        let depth_ns = (interval_ns as f64 * burst.max(1.0)) as u64;
        Self {
            interval_ns,
            depth_ns: depth_ns.max(interval_ns),
        }
    }

    fn cost(self, tokens: u64) -> u64 {
        self.interval_ns.saturating_mul(tokens)
    }
}

/// One bucket; full at first.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Takes one token. The error is how long it takes until there is one.
    pub(crate) fn take(&self, rate: Rate, now_ns: u64) -> Result<(), Duration> {
        let taken = self.change(|full_at| {
            let next = full_at.max(now_ns).saturating_add(rate.interval_ns);
            (next - now_ns <= rate.depth_ns).then_some(next)
        });
        taken.map(drop).map_err(|full_at| {
            let next = full_at.max(now_ns).saturating_add(rate.interval_ns);
            Duration::from_nanos(next.saturating_sub(now_ns.saturating_add(rate.depth_ns)))
        })
    }

    /// Takes tokens that have been used already, whether there are any or not.
    pub(crate) fn charge(&self, rate: Rate, tokens: u64, now_ns: u64) {
        let owed_max = now_ns
            .saturating_add(rate.depth_ns)
            .saturating_add(DEBT_NS_MAX.max(rate.interval_ns));
        // Never refused.
        let _ = self.change(|full_at| {
            let next = full_at.max(now_ns).saturating_add(rate.cost(tokens));
            Some(next.min(owed_max).max(full_at))
        });
    }

    /// The rate is another from now on: what has been taken counts as so many tokens, not as so much time.
    pub(crate) fn rescale(&self, from: Rate, to: Rate, now_ns: u64) {
        let most = to.depth_ns.saturating_add(DEBT_NS_MAX);
        // Never refused.
        let _ = self.change(|full_at| {
            let taken = u128::from(full_at.saturating_sub(now_ns));
            let taken = taken * u128::from(to.interval_ns) / u128::from(from.interval_ns);
            let taken = u64::try_from(taken).unwrap_or(u64::MAX).min(most);
            Some(now_ns.saturating_add(taken))
        });
    }

    /// Whether nothing of it is taken.
    pub(crate) fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns
    }

    /// As [`Bucket::take`], without taking it.
    pub(crate) fn peek(&self, rate: Rate, now_ns: u64) -> Result<(), Duration> {
        let full_at = self.full_at_ns.load(Ordering::Relaxed);
        let next = full_at.max(now_ns).saturating_add(rate.interval_ns);
        let full = now_ns.saturating_add(rate.depth_ns);
        if next <= full {
            Ok(())
        } else {
            Err(Duration::from_nanos(next - full))
        }
    }

    fn change(&self, step: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.full_at_ns
            .try_update(Ordering::Relaxed, Ordering::Relaxed, step)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_was_taken_is_as_many_tokens_at_another_rate() {
        let (slow, fast) = (Rate::new(1.0, 1.0), Rate::new(1000.0, 1000.0));
        let bucket = Bucket::default();
        bucket.take(slow, 0).unwrap();
        bucket.charge(slow, 5, 0);
        assert_eq!(bucket.peek(slow, 0), Err(Duration::from_secs(6)));
        // Of a thousand six are taken: there is plenty, and nothing is forgotten.
        bucket.rescale(slow, fast, 0);
        assert_eq!(bucket.peek(fast, 0), Ok(()));
        assert!(!bucket.is_full(5_999_999) && bucket.is_full(6_000_000));
        bucket.rescale(fast, slow, 0);
        assert_eq!(bucket.peek(slow, 0), Err(Duration::from_secs(6)));
        // A debt stays within its bound.
        bucket.charge(fast, 100_000, 0);
        bucket.rescale(fast, slow, 0);
        let wait = bucket.peek(slow, 0).unwrap_err();
        assert!(
            wait <= Duration::from_nanos(DEBT_NS_MAX) + Duration::from_secs(1),
            "{wait:?}"
        );
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10.0, 5.0));
        for _ in 0..5 {
            bucket.take(rate, 0).unwrap();
        }
        assert_eq!(bucket.take(rate, 0), Err(Duration::from_millis(100)));
        assert!(bucket.peek(rate, SECOND / 10 - 1).is_err());
        assert!(bucket.peek(rate, SECOND / 10).is_ok());
        bucket.take(rate, SECOND / 10).unwrap();
        assert_eq!(
            bucket.take(rate, SECOND / 10 + 30_000_000),
            Err(Duration::from_millis(70))
        );
        // Full again, and no fuller.
        for _ in 0..5 {
            bucket.take(rate, 100 * SECOND).unwrap();
        }
        bucket.take(rate, 100 * SECOND).unwrap_err();
    }

    #[test]
    fn a_charge_is_owed_within_bounds() {
        let (bucket, rate) = (Bucket::default(), Rate::new(100.0, 1.0));
        bucket.charge(rate, 51, 0);
        assert_eq!(bucket.take(rate, 0), Err(Duration::from_millis(510)));
        bucket.charge(rate, u64::MAX, 0);
        let wait = bucket.take(rate, 0).unwrap_err();
        assert!(wait <= Duration::from_millis(10_010), "{wait:?}");
        bucket.take(rate, 11 * SECOND).unwrap();
    }

    #[test]
    fn rates_of_any_size_are_sound() {
        for per_second in [0.0, 1e-12, 0.5, 1e9, 1e12, f64::INFINITY] {
            let (bucket, rate) = (Bucket::default(), Rate::new(per_second, 0.0));
            bucket.take(rate, 7).unwrap();
        }
    }

    proptest! {
        /// In any stretch of time no more is given than the burst and what the rate brings, and who waits as long as he
        /// was told gets one.
        #[test]
        fn never_more_than_the_rate(
            per_second in 1_u32..5000, burst in 1_u32..100, gaps in proptest::collection::vec(0_u64..20_000_000, 1..300)
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(per_second.into(), burst.into()));
            let (mut now, mut given) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                match bucket.take(rate, now) {
                    Ok(()) => given.push(now),
                    Err(wait) => {
                        let wait = u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(wait > 0);
                        prop_assert!(bucket.peek(rate, now + wait - 1).is_err());
                        prop_assert!(bucket.peek(rate, now + wait).is_ok());
                    }
                }
            }
            for (index, from) in given.iter().enumerate() {
                for (count, until) in given.iter().skip(index).enumerate() {
                    let brought = (until - from) / rate.interval_ns + u64::from(burst);
                    prop_assert!(count < usize::try_from(brought).unwrap() + 1);
                }
            }
        }
    }
}
