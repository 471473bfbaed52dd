//! Measures what other tenants feel, and sets the rate of a [`Throttle`] by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{Controller, Limits, Pressure, Throttle};
use crate::shard::{ConnectError, ShardEndpoint, connect};

const PROBE: &str = include_str!("probe.sql");
/// Transactions for a baseline: about a second of them.
const BASELINE: u32 = 40;
const BASELINE_INTERVAL: Duration = Duration::from_millis(25);
const INTERVAL: Duration = Duration::from_millis(25);
/// A decision each half second, however few transactions fit in it: the slower a shard, the sooner it matters.
const WINDOW: u32 = 20;
/// A transaction that takes longer is not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Differences below are scheduling and not load: a baseline counts at least this much.
const BASELINE_LEAST: Duration = Duration::from_millis(1);
/// The quantile compared, in percent: rare spikes are the disk's, and a median hides a queue.
const QUANTILE: usize = 80;

/// Why a window has no result.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("the shard does not answer")]
    Silent,
    #[error("the probe failed")]
    Sql(#[from] tokio_postgres::Error),
}

/// Probes of both shards, with baselines. Make it before the move begins.
pub struct Regulator {
    shards: Vec<Probed>,
    limits: Limits,
}

struct Probed {
    endpoint: ShardEndpoint,
    session: Client,
    baseline: Duration,
}

impl Regulator {
    /// Connects to the shards and measures for about a second what they are like without the move.
    ///
    /// # Errors
    /// A shard does not answer.
    pub async fn prepare(
        endpoints: &[ShardEndpoint],
        limits: Limits,
    ) -> Result<Self, ConnectError> {
        let prepared = endpoints.iter().map(Probed::prepare);
        let shards = futures_util::future::try_join_all(prepared).await?;
        Ok(Self { shards, limits })
    }

    /// Regulates until told to stop. A shard that does not answer counts as one under great pressure; it is connected to
    /// anew.
    pub async fn run(
        mut self,
        throttle: Arc<Throttle>,
        moved: impl Fn() -> u64,
        stop: CancellationToken,
    ) {
        let mut controller = Controller::new(self.limits);
        throttle.set_rate(Some(controller.rate()));
        let mut before = (Instant::now(), moved());
        loop {
            let windows = self.shards.iter_mut().map(Probed::pressure);
            let measured = stop.run_until_cancelled(futures_util::future::join_all(windows));
            let Some(measured) = measured.await else {
                return;
            };
            let pressure = measured
                .into_iter()
                .fold(0.0, |high, Pressure(p)| p.max(high));
            let now = (Instant::now(), moved());
            let seconds = (now.0 - before.0).as_secs_f64().max(0.001);
            let used = now.1.saturating_sub(before.1) as f64 / seconds;
            before = now;
            let rate = controller.observe(Pressure(pressure), used as u64);
            tracing::debug!(pressure, used, rate, "throttle");
            throttle.set_rate(Some(rate));
        }
    }
}

impl Probed {
    async fn prepare(endpoint: &ShardEndpoint) -> Result<Self, ConnectError> {
        let session = connect(endpoint).await?;
        let mut probed = Self {
            endpoint: endpoint.clone(),
            session,
            baseline: Duration::ZERO,
        };
        let times = probed.times(BASELINE, BASELINE_INTERVAL).await;
        probed.baseline = times
            .map_or(BASELINE_LEAST, |times| quantile(times, QUANTILE))
            .max(BASELINE_LEAST);
        Ok(probed)
    }

    /// One window.
    async fn pressure(&mut self) -> Pressure {
        match self.times(WINDOW, INTERVAL).await {
            Ok(times) => {
                Pressure(quantile(times, QUANTILE).as_secs_f64() / self.baseline.as_secs_f64())
            }
            Err(error) => {
                tracing::debug!(shard = %self.endpoint.name, %error, "a probe failed");
                if let Ok(session) = connect(&self.endpoint).await {
                    self.session = session;
                } else {
                    // Nothing to measure, and nothing to hurry: the next window comes after its usual time.
                    tokio::time::sleep(INTERVAL * WINDOW).await;
                }
                Pressure(f64::INFINITY)
            }
        }
    }

    async fn times(&self, count: u32, pause: Duration) -> Result<Vec<Duration>, ProbeError> {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut times = Vec::with_capacity(count as usize);
        let until = Instant::now() + pause * count;
        while times.len() < count as usize && (times.is_empty() || Instant::now() < until) {
            ticks.tick().await;
            let start = Instant::now();
            tokio::time::timeout(ANSWER_MAX, self.session.simple_query(PROBE))
                .await
                .map_err(|_| ProbeError::Silent)??;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}

fn quantile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let ms = |n| Duration::from_millis(n);
        assert_eq!(quantile((1..=10).map(ms).collect(), 80), ms(9));
        assert_eq!(quantile(vec![ms(3)], 80), ms(3));
        assert_eq!(quantile(Vec::new(), 80), Duration::ZERO);
    }
}
