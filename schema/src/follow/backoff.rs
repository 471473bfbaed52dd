//! How long to wait before connecting again.

use std::time::Duration;

use rand::RngExt as _;

/// Doubles from a first wait to a bound, each wait shortened by up to a half at random: the routers of a fleet lose
/// the catalog at one moment and must not return at one.
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
        }
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max);
        let mut nominal = min;
        for _ in 0..12 {
            let wait = backoff.next_wait();
            assert!(
                nominal / 2 <= wait && wait <= nominal,
                "{wait:?} of {nominal:?}"
            );
            nominal = (nominal * 2).min(max);
        }
        assert_eq!(nominal, max);
        backoff.reset();
        assert!(backoff.next_wait() <= min);
    }
}
