//! Virtual time: how much a tenant has had, measured by its weight.
//!
//! A tenant of the usual weight that holds one connection for a microsecond gets on by one
//! microsecond of virtual time; one of twice the weight by half of that.

use std::ops::{Add, AddAssign, Sub};

/// Steps of virtual time in a microsecond of the usual weight, so that the charges of heavier tenants do not
/// round to nothing.
const STEPS: u64 = 16;
/// Bits after the point of a [`Rate`].
const RATE_BITS: u32 = 16;

/// What a tenant's share is measured by, in hundredths of the usual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// Of a tenant of which nothing else is said.
    pub const USUAL: Self = Self(100);

    /// So many hundredths of the usual weight, from 1 to 100,000; what is beyond counts as the bound.
    #[must_use]
    pub fn of_percent(percent: u32) -> Self {
        Self(percent.clamp(1, 100_000))
    }

    pub(super) fn percent(self) -> u64 {
        u64::from(self.0)
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::USUAL
    }
}

/// A point, or a stretch, of virtual time.
///
/// 64 bits are enough for a tenant of the least weight that holds a hundred connections for a year and a half
/// without a pause; beyond that it saturates, and tenants that got so far count alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Virtual(u64);

impl Virtual {
    pub(super) const ZERO: Self = Self(0);
    /// Where the time of a pool begins: so late that no tenant comes before zero when a debt is remitted.
    pub(super) const START: Self = Self(1 << 62);

    /// Of the usual weight.
    pub(super) const fn of_us(us: u64) -> Self {
        Self(us.saturating_mul(STEPS))
    }

    /// What `us` of service are for each, shared by tenants of so much weight together.
    pub(super) fn shared(us: u64, percent: u64) -> Self {
        let steps = us.saturating_mul(STEPS * Weight::USUAL.percent());
        Self(steps.checked_div(percent).unwrap_or(0))
    }
}

impl Add for Virtual {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Virtual {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Never below zero.
impl Sub for Virtual {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// How fast a tenant's virtual time goes: steps for each microsecond of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(u64);

impl Rate {
    pub(super) fn of(weight: Weight) -> Self {
        Self(((STEPS * Weight::USUAL.percent()) << RATE_BITS) / weight.percent())
    }

    /// What so many microseconds of a connection are charged.
    pub(super) fn charge(self, us: u64) -> Virtual {
        match us.checked_mul(self.0) {
            Some(steps) => Virtual(steps >> RATE_BITS),
            // More than a day, at the least weight: a little less precise.
            None => Virtual((us >> RATE_BITS).saturating_mul(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_of_twice_the_weight_pays_half() {
        for us in [1, 17, 5_000, 3_600_000_000] {
            let usual = Rate::of(Weight::USUAL).charge(us);
            assert_eq!(usual, Virtual::of_us(us));
            assert_eq!(
                Rate::of(Weight::of_percent(200)).charge(2 * us),
                usual,
                "{us}"
            );
            assert_eq!(
                Rate::of(Weight::of_percent(50)).charge(us),
                usual + usual,
                "{us}"
            );
        }
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(Weight::of_percent(0), Weight::of_percent(1));
        assert_eq!(Weight::of_percent(u32::MAX), Weight::of_percent(100_000));
        assert!(Weight::of_percent(100_000) > Weight::of_percent(99_900));
        let least = Rate::of(Weight::of_percent(1));
        assert_eq!(least.charge(u64::MAX), Virtual(u64::MAX));
        assert_eq!(Virtual(u64::MAX) + Virtual::of_us(1), Virtual(u64::MAX));
        assert_eq!(Virtual::ZERO - Virtual::of_us(1), Virtual::ZERO);
        assert_eq!(Virtual::shared(5, 0), Virtual::ZERO);
    }

    #[test]
    fn what_is_shared_by_two_is_half_for_each() {
        assert_eq!(Virtual::shared(1000, 200), Virtual::of_us(500));
        assert_eq!(Virtual::shared(1000, 100), Virtual::of_us(1000));
    }
}
