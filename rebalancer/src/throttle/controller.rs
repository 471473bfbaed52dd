//! Which rate follows from what was measured: additive increase, multiplicative decrease. No clock, no shard.

/// What the other tenants of a shard feel: how long a small transaction takes there, divided by what it took before the
/// move began. 1 is as if nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Pressure(pub f64);

/// What the controller may choose from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes per second to start with.
    pub start: u64,
    /// Never less: a move that does not proceed holds a slot and a snapshot for ever.
    pub least: u64,
    /// Never more; none is no limit.
    pub most: Option<u64>,
    /// Added at each observation that is below the target, in bytes per second.
    pub step: u64,
    /// What others may feel.
    pub target: Pressure,
}

impl Default for Limits {
    /// Starts at 16 MB/s, adds 4 MB/s, keeps others below 1.25 times their latency.
    fn default() -> Self {
        Self {
            start: 16_000_000,
            least: 1_000_000,
            most: None,
            step: 4_000_000,
            target: Pressure(1.25),
        }
    }
}

/// How far the rate may fall at once.
const CUT_MOST: f64 = 0.5;
/// A pressure between the target and so much above it is noise: the rate stays.
const TOLERANCE: f64 = 1.1;

/// Chooses the rate.
#[derive(Debug, Clone)]
pub struct Controller {
    limits: Limits,
    rate: u64,
}

impl Controller {
    /// Starts at the limits' start.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let mut controller = Self {
            limits,
            rate: limits.start,
        };
        controller.settle(limits.start);
        controller
    }

    /// The present rate in bytes per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Takes what was measured since the last call, the highest of both shards, and what was used of the rate, in bytes
    /// per second. A rate that nobody uses up says nothing about what the shards would bear, so it is not raised.
    pub fn observe(&mut self, pressure: Pressure, used: u64) -> u64 {
        let target = self.limits.target.0;
        if pressure.0 <= target {
            if used >= self.rate / 2 {
                self.settle(self.rate.saturating_add(self.limits.step));
            }
        } else if pressure.0 > target * TOLERANCE {
            // In proportion to the excess: a shard that is five times as slow needs more than a nudge.
            let factor = (target / pressure.0).max(CUT_MOST);
            self.settle((self.rate as f64 * factor) as u64);
        }
        self.rate
    }

    fn settle(&mut self, rate: u64) {
        let most = self.limits.most.unwrap_or(u64::MAX);
        self.rate = rate.max(self.limits.least).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        start: 10,
        least: 2,
        most: Some(40),
        step: 5,
        target: Pressure(1.25),
    };

    #[test]
    fn the_rate_grows_by_steps_and_falls_by_factors() {
        let mut controller = Controller::new(LIMITS);
        assert_eq!(controller.observe(Pressure(1.0), 10), 15);
        assert_eq!(controller.observe(Pressure(1.2), 15), 20);
        // Within tolerance.
        assert_eq!(controller.observe(Pressure(1.3), 20), 20);
        assert_eq!(controller.observe(Pressure(1.5625), 20), 16);
        assert_eq!(controller.observe(Pressure(100.0), 16), 8);
    }

    #[test]
    fn the_rate_stays_within_its_limits() {
        let mut controller = Controller::new(LIMITS);
        for _ in 0..20 {
            let rate = controller.rate();
            controller.observe(Pressure(0.5), rate);
        }
        assert_eq!(controller.rate(), 40);
        for _ in 0..20 {
            controller.observe(Pressure(f64::INFINITY), 40);
        }
        assert_eq!(controller.rate(), 2);
    }

    #[test]
    fn a_rate_that_nobody_uses_is_not_raised_and_still_cut() {
        let mut controller = Controller::new(LIMITS);
        assert_eq!(controller.observe(Pressure(1.0), 1), 10);
        assert_eq!(controller.observe(Pressure(2.5), 1), 5);
    }
}
