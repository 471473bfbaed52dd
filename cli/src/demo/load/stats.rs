//! Measuring: what each kind of transaction took, and what went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

use super::traffic::Action;
use crate::output::record;

/// Longest latency told apart from longer ones, microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Two significant digits are enough for a report, and keep a histogram at a few kilobytes.
const DIGITS: u8 = 2;

/// Measurements of some stretch of time by some number of clients.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    timings: BTreeMap<Action, Timing>,
    /// Failures by SQLSTATE, or by a word when the server sent none.
    errors: BTreeMap<String, u64>,
    /// Transactions run again because nothing of them had happened (40001).
    retries: u64,
}

#[derive(Clone, Debug)]
struct Timing {
    micros: Histogram<u64>,
    errors: u64,
}

impl Stats {
    pub(super) fn new() -> Result<Self, CreationError> {
        let mut timings = BTreeMap::new();
        for action in Action::ALL {
            let micros = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS)?;
            timings.insert(action, Timing { micros, errors: 0 });
        }
        Ok(Self {
            timings,
            errors: BTreeMap::new(),
            retries: 0,
        })
    }

    /// A transaction that committed.
    pub(super) fn success(&mut self, action: Action, took: Duration) {
        if let Some(timing) = self.timings.get_mut(&action) {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            timing.micros.saturating_record(micros);
        }
    }

    /// A transaction that failed for good.
    pub(super) fn failure(&mut self, action: Action, code: &str) {
        if let Some(timing) = self.timings.get_mut(&action) {
            timing.errors += 1;
        }
        *self.errors.entry(code.to_owned()).or_default() += 1;
    }

    /// A transaction that is tried once more.
    pub(super) fn retry(&mut self) {
        self.retries += 1;
    }

    /// Moves everything from `other` to here, which leaves `other` empty and its memory in place.
    pub(super) fn drain_from(&mut self, other: &mut Self) {
        for (action, theirs) in &mut other.timings {
            if let Some(ours) = self.timings.get_mut(action) {
                // Bounds and precision are the same everywhere, so adding cannot fail.
                let _ = ours.micros.add(&theirs.micros);
                ours.errors += theirs.errors;
            }
            theirs.micros.reset();
            theirs.errors = 0;
        }
        for (code, count) in std::mem::take(&mut other.errors) {
            *self.errors.entry(code).or_default() += count;
        }
        self.retries += std::mem::take(&mut other.retries);
    }

    /// The figures of `elapsed`: one line per action and one over all.
    pub(super) fn report(&self, clients: usize, tenants: usize, elapsed: Duration) -> Report {
        let seconds = elapsed.as_secs_f64().max(f64::EPSILON);
        let mut actions: Vec<Line> = Vec::new();
        let mut total: Option<Timing> = None;
        for (action, timing) in &self.timings {
            actions.push(timing.line(action.name(), seconds));
            match &mut total {
                None => total = Some(timing.clone()),
                Some(total) => {
                    let _ = total.micros.add(&timing.micros);
                    total.errors += timing.errors;
                }
            }
        }
        let total = total.map_or_else(Line::default, |total| total.line("total", seconds));
        Report {
            clients,
            tenants,
            seconds: round(seconds),
            total,
            actions,
            errors: self.errors.clone(),
            retries: self.retries,
        }
    }
}

impl Timing {
    fn line(&self, name: &'static str, seconds: f64) -> Line {
        let at = |quantile: f64| round(self.micros.value_at_quantile(quantile) as f64 / 1_000.0);
        let measured = !self.micros.is_empty();
        Line {
            action: name,
            transactions: self.micros.len(),
            per_second: round(self.micros.len() as f64 / seconds),
            p50_ms: measured.then(|| at(0.50)),
            p95_ms: measured.then(|| at(0.95)),
            p99_ms: measured.then(|| at(0.99)),
            errors: self.errors,
        }
    }
}

/// Two decimals: the histogram knows no more.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) clients: usize,
    pub(super) tenants: usize,
    pub(super) seconds: f64,
    pub(super) total: Line,
    pub(super) actions: Vec<Line>,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) retries: u64,
}

record!(Report { clients => "CLIENTS", tenants => "TENANTS", seconds => "SECONDS", retries => "RETRIES", errors => "ERRORS" });

/// Figures of one kind of transaction.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Line {
    pub(super) action: &'static str,
    pub(super) transactions: u64,
    pub(super) per_second: f64,
    /// Absent when nothing was measured.
    pub(super) p50_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) errors: u64,
}

record!(Line {
    action => "ACTION", transactions => "TRANSACTIONS", per_second => "PER SECOND",
    p50_ms => "P50 MS", p95_ms => "P95 MS", p99_ms => "P99 MS", errors => "ERRORS",
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn figures_add_up_over_clients_and_windows() {
        let mut total = Stats::new().unwrap();
        for client in 1..=2_u64 {
            let mut stats = Stats::new().unwrap();
            stats.success(Action::Browse, Duration::from_millis(client));
            stats.success(Action::Checkout, Duration::from_millis(10 * client));
            stats.failure(Action::Checkout, "57P03");
            stats.retry();
            total.drain_from(&mut stats);
            assert_eq!((stats.errors.len(), stats.retries), (0, 0));
        }
        let report = total.report(2, 5, Duration::from_secs(2));
        assert_eq!(
            (
                report.total.transactions,
                report.total.errors,
                report.retries
            ),
            (4, 2, 2)
        );
        assert_eq!(report.total.per_second, 2.0);
        assert_eq!(report.errors, BTreeMap::from([("57P03".to_owned(), 2)]));
        let checkout = report
            .actions
            .iter()
            .find(|line| line.action == "checkout")
            .unwrap();
        assert!(checkout.p99_ms.unwrap() >= 19.0, "{checkout:?}");
        let search = report
            .actions
            .iter()
            .find(|line| line.action == "search")
            .unwrap();
        assert_eq!(search.p50_ms, None);
    }
}
