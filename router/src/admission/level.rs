//! How much of a pool is given out while its shard is slow: a limit that follows measured latency.
//!
//! Each tenant's work is compared with what the same tenant's work usually takes, on a logarithmic
//! scale: tenants whose statements differ a thousandfold can be averaged, and one report that
//! takes ten seconds does not pass for a slow shard. Where the average says that work takes
//! 1.7 times as long as usual, the level falls by a quarter; where it is near the usual, the level
//! grows by one. Additive increase and multiplicative decrease need no model of the shard, and
//! the gap between the two thresholds keeps a small whole number from swinging
//! (docs/adr/0021).

/// Fraction bits of a logarithm.
const ONE: i32 = 1 << 8;
/// Work that takes this much longer than usual is that of a saturated shard: 1.7 times.
const SATURATED: i32 = ONE * 3 / 4;
/// Up to this the shard has room: 1.3 times.
const RELAXED: i32 = ONE * 4 / 10;

/// Shortest time between two decisions, microseconds.
const PERIOD_US: u64 = 100_000;
/// Measurements older than this say nothing, microseconds.
const PERIOD_US_MAX: u64 = 1_000_000;
/// Least measurements for a decision.
const SAMPLES_MIN: u32 = 16;

/// After so many measurements a tenant's usual time changes slowly.
const SETTLED: u16 = 512;
/// Least measurements before a tenant's usual time is compared with.
const KNOWN: u16 = 8;
/// Once settled it takes one measurement in this time, microseconds, so that a tenant at a hundred
/// times its load does not learn within a second that slow is usual.
const LEARNING_US: u64 = 100_000;

/// The binary logarithm, within a tenth.
fn log2(us: u64) -> i32 {
    let us = us.max(1);
    let power = us.ilog2();
    // The bits below the highest are the fraction, by linear interpolation.
    let fraction = ((us << (63 - power)) >> 55) & 0xff;
    i32::try_from(power).unwrap_or(0) * ONE + i32::try_from(fraction).unwrap_or(0)
}

/// What the work of one tenant usually takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usual {
    /// Mean logarithm, with eight more bits of fraction.
    mean: i32,
    samples: u16,
    learnt_us: u64,
}

impl Usual {
    /// How much longer than usual this took, as a logarithm; `None` while too little is known.
    fn compare(&mut self, us: u64, now: u64, saturated: bool) -> Option<i32> {
        let log = log2(us);
        let excess = log - (self.mean >> 8);
        let known = self.samples >= KNOWN;
        if self.samples == 0 {
            self.mean = log << 8;
        }
        let settled = self.samples >= SETTLED;
        if !settled || now.saturating_sub(self.learnt_us) >= LEARNING_US {
            self.learnt_us = now;
            self.samples = (self.samples + 1).min(SETTLED);
            // What is slow now shall not become usual before the shard has had time to recover.
            let doubt = if saturated && excess > 0 { 4 } else { 1 };
            self.mean += ((log << 8) - self.mean) / (i32::from(self.samples) * doubt);
        }
        known.then_some(excess)
    }
}

/// Connections that tenants may hold beyond what is due to newcomers.
#[derive(Debug)]
pub(super) struct Level {
    level: usize,
    least: usize,
    most: usize,
    /// A request was refused a connection for the level alone, since the last decision.
    limits: bool,
    /// When the level changed; what was granted before does not show what came of it.
    changed_us: u64,
    began_us: u64,
    samples: u32,
    excess: i64,
}

impl Level {
    pub(super) fn new(most: usize) -> Self {
        Self {
            level: most,
            least: least(most),
            most,
            limits: false,
            changed_us: 0,
            began_us: 0,
            samples: 0,
            excess: 0,
        }
    }

    /// Other bounds: a level that was at its highest stays so.
    pub(super) fn set_most(&mut self, most: usize) {
        self.level = if self.level >= self.most {
            most
        } else {
            self.level.min(most)
        };
        self.least = least(most);
        self.most = most;
        self.level = self.level.max(self.least);
    }

    pub(super) fn level(&self) -> usize {
        self.level
    }

    /// Whether so many connections are as many as may be held.
    pub(super) fn is_reached(&mut self, held: usize) -> bool {
        let reached = held >= self.level;
        self.limits |= reached && self.level < self.most;
        reached
    }

    /// Work that was granted a connection at `since` took `worked_us`, and ends `now`.
    pub(super) fn worked(&mut self, usual: &mut Usual, since: u64, worked_us: u64, now: u64) {
        let saturated = self.level < self.most;
        let Some(excess) = usual.compare(worked_us, now, saturated) else {
            return;
        };
        if since < self.changed_us {
            return;
        }
        if now.saturating_sub(self.began_us) > PERIOD_US_MAX {
            self.decide_slowly(now);
        }
        self.samples += 1;
        // One that waited for something else than the processor weighs no more than four times the usual.
        self.excess += i64::from(excess.clamp(-2 * ONE, 2 * ONE));
        if self.samples >= SAMPLES_MIN && now.saturating_sub(self.began_us) >= PERIOD_US {
            self.decide(now);
        }
    }

    fn decide(&mut self, now: u64) {
        let mean = self.excess / i64::from(self.samples.max(1));
        let level = if mean > i64::from(SATURATED) {
            (self.level * 3 / 4).max(self.least)
        } else if mean < i64::from(RELAXED) && self.limits {
            (self.level + 1).min(self.most)
        } else {
            self.level
        };
        if level < self.level {
            self.changed_us = now;
        }
        self.level = level;
        self.begin(now);
    }

    /// A period has ended with little work done. That is too little to be slow by, but whoever waits for the level must
    /// not wait for work that the level keeps back.
    fn decide_slowly(&mut self, now: u64) {
        let mean = self.excess / i64::from(self.samples.max(1));
        if self.limits && mean <= i64::from(SATURATED) {
            self.level = (self.level + 1).min(self.most);
        }
        self.begin(now);
    }

    fn begin(&mut self, now: u64) {
        self.began_us = now;
        self.samples = 0;
        self.excess = 0;
        self.limits = false;
    }
}

/// An eighth is never taken away: some work has to go on to show whether the shard is still slow.
fn least(most: usize) -> usize {
    most.div_ceil(8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many requests of one tenant, one after the other each millisecond, which take so long.
    fn work(level: &mut Level, usual: &mut Usual, clock: &mut u64, requests: u32, us: u64) {
        for _ in 0..requests {
            *clock += 1000;
            level.is_reached(level.level);
            level.worked(usual, *clock, us, *clock);
        }
    }

    #[test]
    fn logarithms_are_near() {
        for us in [1_u64, 2, 3, 10, 999, 5000, 70_000, 1 << 40] {
            let near = f64::from(log2(us)) / f64::from(ONE);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let exact = (us as f64).log2();
            assert!((near - exact).abs() < 0.1, "{us}: {near} {exact}");
        }
    }

    #[test]
    fn little_work_raises_a_level_that_holds_others_back() {
        let (mut level, mut usual, mut clock) = (Level::new(8), Usual::default(), 0);
        work(&mut level, &mut usual, &mut clock, 1000, 5000);
        work(&mut level, &mut usual, &mut clock, 1000, 50_000);
        assert!(level.level() < 8);
        // One report each second and a half.
        let mut reports = Usual::default();
        for _ in 0..20 {
            clock += 1_500_000;
            level.is_reached(level.level);
            level.worked(&mut reports, clock, 300_000, clock);
        }
        assert_eq!(level.level(), 8);
    }

    #[test]
    fn a_saturated_shard_lowers_the_level_to_an_eighth_and_no_further() {
        let (mut level, mut usual, mut clock) = (Level::new(8), Usual::default(), 0);
        work(&mut level, &mut usual, &mut clock, 1000, 5000);
        assert_eq!(level.level(), 8);
        work(&mut level, &mut usual, &mut clock, 3000, 15_000);
        assert_eq!(level.level(), 1);
    }

    #[test]
    fn the_level_comes_back() {
        let (mut level, mut usual, mut clock) = (Level::new(20), Usual::default(), 0);
        work(&mut level, &mut usual, &mut clock, 1000, 5000);
        work(&mut level, &mut usual, &mut clock, 2000, 20_000);
        assert_eq!(level.level(), 3);
        work(&mut level, &mut usual, &mut clock, 3000, 6000);
        assert_eq!(level.level(), 20);
    }

    #[test]
    fn between_the_thresholds_the_level_rests() {
        let (mut level, mut usual, mut clock) = (Level::new(20), Usual::default(), 0);
        work(&mut level, &mut usual, &mut clock, 1000, 5000);
        work(&mut level, &mut usual, &mut clock, 700, 20_000);
        let reached = level.level();
        assert!((3..20).contains(&reached));
        work(&mut level, &mut usual, &mut clock, 2000, 7500);
        assert_eq!(level.level(), reached);
    }

    #[test]
    fn a_tenant_of_mixed_statements_is_no_slow_shard() {
        let (mut level, mut usual, mut clock) = (Level::new(8), Usual::default(), 0);
        for round in 0..5000_u32 {
            let us = if round % 7 == 0 { 400_000 } else { 300 };
            work(&mut level, &mut usual, &mut clock, 1, us);
            assert_eq!(level.level(), 8, "{round}");
        }
    }

    #[test]
    fn what_stays_slow_becomes_usual_in_minutes() {
        let (mut level, mut usual, mut clock) = (Level::new(8), Usual::default(), 0);
        work(&mut level, &mut usual, &mut clock, 1000, 5000);
        work(&mut level, &mut usual, &mut clock, 60_000, 15_000);
        assert_eq!(level.level(), 1, "after a minute");
        work(&mut level, &mut usual, &mut clock, 600_000, 15_000);
        assert_eq!(level.level(), 8, "after ten more");
    }

    #[test]
    fn a_pool_of_one_is_given_out_whatever_happens() {
        let (mut level, mut usual, mut clock) = (Level::new(1), Usual::default(), 0);
        work(&mut level, &mut usual, &mut clock, 1000, 5000);
        work(&mut level, &mut usual, &mut clock, 1000, 500_000);
        assert!(!level.is_reached(0));
    }

    #[test]
    fn other_bounds_keep_a_level_that_was_at_its_highest_there() {
        let mut level = Level::new(8);
        level.set_most(20);
        assert_eq!(level.level(), 20);
        level.set_most(0);
        assert_eq!(level.level(), 1);
    }
}
