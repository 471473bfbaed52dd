//! Counters with one writer and many readers, and histograms of the same kind.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What was done, as plain numbers.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) struct Totals {
            $($(#[$doc])* pub(crate) $name: u64),+
        }

        impl AddAssign for Totals {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }

        impl Totals {
            /// What has been added since `earlier`.
            pub(crate) fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name)),+ }
            }
        }

        /// What was done, written by one task at a time and read by anyone.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64),+
        }

        impl Counters {
            /// Only for the one task that owns these counters now.
            pub(crate) fn add(&self, more: &Totals) {
                $(if more.$name > 0 {
                    add(&self.$name, more.$name);
                })+
            }

            pub(crate) fn totals(&self) -> Totals {
                Totals { $($name: self.$name.load(Ordering::Relaxed)),+ }
            }
        }
    };
}

counted! {
    transactions,
    statements,
    /// Errors that the client was sent.
    errors,
    /// Rows that statements returned or changed.
    rows,
    /// Bytes from the client.
    received,
    /// Bytes to the client.
    sent,
    /// Time that server connections were held.
    transaction_us,
    /// Time in which servers worked for the client.
    request_us,
    /// Time waited for a server connection.
    wait_us,
    /// Named statements that the client prepared.
    client_parses,
    /// Named statements that the router prepared on a server.
    server_parses,
    /// Executions of a named statement.
    binds,
}

impl Counters {
    /// Time in which servers worked, microseconds.
    pub(super) fn request_us(&self) -> u64 {
        self.request_us.load(Ordering::Relaxed)
    }
}

/// Adds without a read-modify-write: there is one writer.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// Buckets of a duration: powers of two from 64 microseconds to 67 seconds, and what is longer.
pub(crate) const BUCKETS: usize = 22;
const FIRST: u32 = 6;

/// The upper bound of a bucket, seconds; the last has none.
pub(crate) fn bucket_seconds(index: usize) -> f64 {
    if index + 1 >= BUCKETS {
        return f64::MAX;
    }
    let micros = 1_u64 << (FIRST as usize + index);
    std::time::Duration::from_micros(micros).as_secs_f64()
}

fn bucket(us: u64) -> usize {
    // The first power of two that is not smaller.
    let power = us.max(1).next_power_of_two().ilog2();
    (power.saturating_sub(FIRST) as usize).min(BUCKETS - 1)
}

/// Durations by bucket, written by one task at a time.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Durations {
    /// Only for the one task that owns these counters now.
    pub(crate) fn note(&self, us: u64) {
        if let Some(count) = self.counts.get(bucket(us)) {
            add(count, 1);
        }
        add(&self.sum_us, us);
    }

    pub(crate) fn read(&self) -> Histogram {
        let mut histogram = Histogram {
            sum_us: self.sum_us.load(Ordering::Relaxed),
            ..Histogram::default()
        };
        for (count, atomic) in histogram.counts.iter_mut().zip(&self.counts) {
            *count = atomic.load(Ordering::Relaxed);
        }
        histogram
    }
}

/// Durations by bucket, as plain numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    pub(crate) counts: [u64; BUCKETS],
    pub(crate) sum_us: u64,
}

impl AddAssign for Histogram {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_us += other.sum_us;
    }
}

impl Histogram {
    /// What has been added since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut histogram = self.clone();
        for (count, earlier) in histogram.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(earlier);
        }
        histogram.sum_us = self.sum_us.saturating_sub(earlier.sum_us);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_under_the_first_bound_that_is_not_smaller() {
        for (us, expected) in [(0, 0), (64, 0), (65, 1), (128, 1), (129, 2), (1 << 26, 20)] {
            assert_eq!(bucket(us), expected, "{us}");
        }
        assert_eq!(bucket((1 << 26) + 1), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX >> 1), BUCKETS - 1);
        for index in 0..BUCKETS - 1 {
            let bound = 64_u64 << index;
            assert_eq!(bucket(bound), index);
            let seconds = bucket_seconds(index);
            assert!((seconds - std::time::Duration::from_micros(bound).as_secs_f64()).abs() < 1e-9);
        }
    }
}
