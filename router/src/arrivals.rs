//! Connections that have not logged in yet: how many there may be at once, and how fast they may come and fail from one
//! address.
//!
//! A client that means it has logged in within milliseconds, a connection that floods stays until the login time is
//! over. So at the bound the oldest makes room for the newest, and a flood of half-open connections keeps nobody out:
//! each has the time that it takes to open as many more. Sessions are counted elsewhere and notice nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Addresses remembered at once, 100 bytes each. Beyond it, those that nothing is held against are forgotten first.
const ADDRESSES_MAX: usize = 16 << 10;

/// The connections of one router that have not logged in.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    waiting: Mutex<Waiting>,
    connections: Rates,
    failures: Rates,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// Oldest first.
    oldest: BTreeMap<u64, Arc<Notify>>,
}

/// One connection that has not logged in. Dropping it counts it out.
#[derive(Debug)]
pub(crate) struct Arrival {
    arrivals: Arc<Arrivals>,
    number: u64,
    pushed_out: Arc<Notify>,
}

impl Arrivals {
    /// Counts a connection in. Beyond `max` the oldest is told to go.
    pub(crate) fn enter(self: &Arc<Self>, max: usize) -> Arrival {
        let pushed_out = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        while waiting.oldest.len() >= max {
            let Some((_, oldest)) = waiting.oldest.pop_first() else {
                break;
            };
            oldest.notify_one();
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.oldest.insert(number, Arc::clone(&pushed_out));
        Arrival {
            arrivals: Arc::clone(self),
            number,
            pushed_out,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().oldest.len()
    }

    /// Counts a connection against its address's `per_second`. The error is when it may come again.
    pub(crate) fn connected(&self, from: IpAddr, per_second: usize) -> Result<(), Duration> {
        let rate = Rate::per(per_second, Duration::from_secs(1));
        self.connections.take(from, rate, Instant::now())
    }

    /// Counts a failed login against its address's `per_minute`.
    pub(crate) fn failed(&self, from: IpAddr, per_minute: usize) {
        let rate = Rate::per(per_minute, Duration::from_secs(60));
        // Whether there was one left matters to the next login only.
        let _ = self.failures.take(from, rate, Instant::now());
    }

    /// Whether the address may try to log in. The error is when it may.
    pub(crate) fn may_log_in(&self, from: IpAddr, per_minute: usize) -> Result<(), Duration> {
        let rate = Rate::per(per_minute, Duration::from_secs(60));
        self.failures.check(from, rate, Instant::now())
    }
}

impl Arrival {
    /// Resolves when this connection has to make room for a newer one.
    pub(crate) async fn pushed_out(&self) {
        self.pushed_out.notified().await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.waiting.lock().oldest.remove(&self.number);
    }
}

/// How many within a time, and how fast they come back.
#[derive(Debug, Clone, Copy)]
struct Rate {
    max: f64,
    per_second: f64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "limits are small numbers")]
    fn per(count: usize, period: Duration) -> Option<Self> {
        (count > 0).then(|| Self {
            max: count as f64,
            per_second: count as f64 / period.as_secs_f64(),
        })
    }
}

/// Token buckets by address.
#[derive(Debug, Default)]
struct Rates {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            tokens: rate.max,
            at: now,
        }
    }

    fn refilled(self, rate: Rate, now: Instant) -> Self {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second;
        Self {
            tokens: (self.tokens + earned).min(rate.max),
            at: now,
        }
    }

    fn wait(self, rate: Rate) -> Result<(), Duration> {
        if self.tokens >= 1.0 {
            Ok(())
        } else {
            Err(Duration::from_secs_f64(
                (1.0 - self.tokens) / rate.per_second,
            ))
        }
    }
}

impl Rates {
    fn take(&self, from: IpAddr, rate: Option<Rate>, now: Instant) -> Result<(), Duration> {
        let Some(rate) = rate else { return Ok(()) };
        let from = network(from);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&from) {
            make_room(&mut buckets, rate, now);
        }
        let bucket = buckets
            .entry(from)
            .or_insert_with(|| Bucket::full(rate, now));
        *bucket = bucket.refilled(rate, now);
        bucket.wait(rate)?;
        bucket.tokens -= 1.0;
        Ok(())
    }

    fn check(&self, from: IpAddr, rate: Option<Rate>, now: Instant) -> Result<(), Duration> {
        let Some(rate) = rate else { return Ok(()) };
        match self.buckets.lock().get(&network(from)) {
            Some(bucket) => bucket.refilled(rate, now).wait(rate),
            None => Ok(()),
        }
    }
}

/// Forgets the addresses that nothing is held against, and if that is none, the half that was heard of longest ago.
fn make_room(buckets: &mut HashMap<IpAddr, Bucket>, rate: Rate, now: Instant) {
    buckets.retain(|_, bucket| bucket.refilled(rate, now).tokens < rate.max);
    if buckets.len() >= ADDRESSES_MAX {
        let mut times: Vec<Instant> = buckets.values().map(|bucket| bucket.at).collect();
        let (_, middle, _) = times.select_nth_unstable(ADDRESSES_MAX / 2);
        let middle = *middle;
        buckets.retain(|_, bucket| bucket.at > middle);
    }
}

/// What one owner of addresses has: an address of IPv4, a network of 64 bits of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let arrivals = Arc::new(Arrivals::default());
        let first = arrivals.enter(2);
        let second = arrivals.enter(2);
        assert!(first.pushed_out().now_or_never().is_none());
        let third = arrivals.enter(2);
        assert!(first.pushed_out().now_or_never().is_some());
        assert!(second.pushed_out().now_or_never().is_none());
        assert_eq!(arrivals.len(), 2);
        drop(second);
        let fourth = arrivals.enter(2);
        assert!(third.pushed_out().now_or_never().is_none());
        drop((first, third, fourth));
        assert_eq!(arrivals.len(), 0);
    }

    #[test]
    fn tokens_come_back_with_time() {
        let rates = Rates::default();
        let rate = Rate::per(2, Duration::from_secs(1));
        let from = IpAddr::from([192, 0, 2, 1]);
        let start = Instant::now();
        assert!(rates.check(from, rate, start).is_ok());
        assert!(rates.take(from, rate, start).is_ok());
        assert!(rates.take(from, rate, start).is_ok());
        let wait = rates.take(from, rate, start).unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert!(
            rates
                .take(IpAddr::from([192, 0, 2, 2]), rate, start)
                .is_ok()
        );
        let later = start + Duration::from_millis(501);
        assert!(rates.take(from, rate, later).is_ok());
        assert!(rates.check(from, rate, later).is_err());
        assert!(rates.take(from, None, later).is_ok());
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let rates = Rates::default();
        let rate = Rate::per(1, Duration::from_secs(1));
        let now = Instant::now();
        let take = |text: &str| rates.take(text.parse().unwrap(), rate, now).is_ok();
        assert!(take("2001:db8::1"));
        assert!(!take("2001:db8::ffff:2"));
        assert!(take("2001:db8:0:1::1"));
        assert!(take("192.0.2.1"));
        assert!(!take("::ffff:192.0.2.1"));
    }

    #[test]
    fn memory_is_bounded() {
        let rates = Rates::default();
        let rate = Rate::per(1, Duration::from_secs(3600));
        let start = Instant::now();
        for n in 0..u32::try_from(ADDRESSES_MAX).unwrap() * 2 {
            let now = start + Duration::from_micros(u64::from(n));
            assert!(rates.take(IpAddr::from(n.to_be_bytes()), rate, now).is_ok());
            assert!(rates.buckets.lock().len() <= ADDRESSES_MAX);
        }
        let last = u32::try_from(ADDRESSES_MAX).unwrap() * 2 - 1;
        let now = start + Duration::from_secs(1);
        assert!(
            rates
                .take(IpAddr::from(last.to_be_bytes()), rate, now)
                .is_err()
        );
    }
}
