//! The report of `tenantry-bench move`.

use super::cases::{Cutover, Kind, Outcome};
use super::{Args, bed};
use crate::report::{Bar, Report, Table};
use crate::svg;

const MEDIAN_MS_MAX: f64 = 10.0;
const LONGEST_MS_MAX: f64 = 80.0;
const OWN_P99_MAX: f64 = 3.0;
/// Both shards, router, rebalancer and clients share the processors.
const OTHERS_P95_MAX: f64 = 1.5;
const CUTOVERS_MIN: u64 = 20;
const CUTOVERS_MIN_QUICK: u64 = 4;
const TRANSACTIONS_MIN: u64 = 5_000;

pub(super) fn report(args: &Args, outcomes: &[Outcome]) -> Report {
    let mut report = Report {
        name: "move",
        method: method(args),
        ..Report::default()
    };
    report.tables.push(pauses(outcomes));
    report.tables.push(latencies(outcomes));
    for outcome in outcomes {
        bars(args, outcome, &mut report);
        for told in outcome.errors.iter().take(5) {
            report.figure(format!("error, {}", outcome.kind.title()), told.clone());
        }
    }
    let longest: Vec<(String, f64)> = outcomes
        .iter()
        .map(|outcome| {
            let name = outcome.kind.title().to_owned();
            (name, Spread::of(&outcome.cutovers, pause).longest)
        })
        .collect();
    report.charts.push((
        "move-pause.svg".to_owned(),
        "Longest pause at cutover".to_owned(),
        svg::bars("Longest pause at cutover", "ms", LONGEST_MS_MAX, &longest),
    ));
    report
}

fn method(args: &Args) -> Vec<String> {
    let mut method = vec![
        format!(
            "Two shards on servers of their own, fsync on; a tenant of {} rows among {} others; router and rebalancer are processes of their own. Everything shares the machine's processors.",
            args.rows(),
            bed::NEIGHBOURS
        ),
        "Twelve clients of the tenant book and read at random moments, answered or not, in extended protocol and in explicit transactions; each keeps a ledger of what was acknowledged. At the end every row of every client is compared with it.".to_owned(),
        "Pause: from the hold at the routers, or the fence if that is earlier, to the release. Seen by clients: the longest answer among all that came or were waited for within it and 10 ms around it; it contains their own work.".to_owned(),
        "Own and others: the tenant's p99 and its neighbours' p95 during whole moves, copy and verification included, over the same without a move.".to_owned(),
    ];
    if let Some(without) = args.without {
        method.push(format!("WITHOUT {}: the check must fail", without.name()));
    }
    method
}

/// What clients wait for at most, as routers and rebalancer measure it.
fn pause(cutover: &Cutover) -> f64 {
    cutover.report.hold_ms.max(cutover.report.fence_ms)
}

fn seen(cutover: &Cutover) -> f64 {
    cutover.client_ms
}

struct Spread {
    shortest: f64,
    median: f64,
    longest: f64,
}

impl Spread {
    fn of(cutovers: &[Cutover], value: fn(&Cutover) -> f64) -> Self {
        let mut all: Vec<f64> = cutovers.iter().map(value).collect();
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or(f64::INFINITY);
        Self {
            shortest: at(0),
            median: at(all.len() / 2),
            longest: at(all.len().saturating_sub(1)),
        }
    }

    fn cells(&self) -> [String; 3] {
        [self.shortest, self.median, self.longest].map(|value| format!("{value:.1}"))
    }
}

fn pauses(outcomes: &[Outcome]) -> Table {
    let head = [
        "case",
        "cutovers",
        "pause min ms",
        "median",
        "max",
        "seen by clients min ms",
        "median",
        "max",
        "given up",
        "lock attempts",
    ];
    let row = |outcome: &Outcome| {
        let attempts: u32 = outcome
            .cutovers
            .iter()
            .map(|cutover| cutover.report.lock_attempts)
            .sum();
        let mut row = vec![
            outcome.kind.title().to_owned(),
            outcome.cutovers.len().to_string(),
        ];
        row.extend(Spread::of(&outcome.cutovers, pause).cells());
        row.extend(Spread::of(&outcome.cutovers, seen).cells());
        row.push(outcome.given_up.len().to_string());
        row.push(attempts.to_string());
        row
    };
    Table {
        title: "Pauses".to_owned(),
        head: head.map(str::to_owned).to_vec(),
        rows: outcomes.iter().map(row).collect(),
    }
}

fn latencies(outcomes: &[Outcome]) -> Table {
    let head = [
        "case",
        "transactions",
        "own median us, without",
        "during",
        "own p99 us, without",
        "during",
        "others' p95 us, without",
        "during",
        "a move takes s",
    ];
    let row = |outcome: &Outcome| {
        let [(median, p99), (median_during, p99_during)] = outcome.own;
        let took = outcome.took_s.iter().sum::<f64>() / outcome.took_s.len().max(1) as f64;
        let mut row = vec![
            outcome.kind.title().to_owned(),
            outcome.transactions.to_string(),
        ];
        let figures = [
            median,
            median_during,
            p99,
            p99_during,
            outcome.others[0],
            outcome.others[1],
        ];
        row.extend(figures.map(|value| format!("{value:.0}")));
        row.push(format!("{took:.1}"));
        row
    };
    Table {
        title: "Latencies".to_owned(),
        head: head.map(str::to_owned).to_vec(),
        rows: outcomes.iter().map(row).collect(),
    }
}

fn bars(args: &Args, outcome: &Outcome, report: &mut Report) {
    let name = outcome.kind.title();
    let what = |what: &str| format!("{name}: {what}");
    let none = |text: &str, count: u64| Bar::at_most(&what(text), "", count as f64, 0.0);
    let least = if args.quick {
        CUTOVERS_MIN_QUICK
    } else {
        CUTOVERS_MIN
    };
    let pauses = Spread::of(&outcome.cutovers, pause);
    let ratio = |of: f64, over: f64| of / over.max(1.0);
    report.bars.extend([
        Bar::at_least(&what("cutovers"), outcome.cutovers.len() as u64, least),
        Bar::at_least(
            &what("transactions"),
            outcome.transactions,
            TRANSACTIONS_MIN,
        ),
        none("errors", outcome.errors.len() as u64),
        none("bookings lost", outcome.differences.lost),
        none(
            "bookings doubled or strange",
            outcome.differences.strange + outcome.differences.unbalanced,
        ),
        none("rows left behind", outcome.left.unsigned_abs()),
    ]);
    if outcome.kind != Kind::Large {
        let median = Bar::at_most(&what("pause, median"), "ms", pauses.median, MEDIAN_MS_MAX);
        report.bars.push(median);
    }
    report.bars.extend([
        Bar::at_most(
            &what("pause, longest"),
            "ms",
            pauses.longest,
            LONGEST_MS_MAX,
        ),
        Bar::at_most(
            &what("own p99 during moves"),
            "x",
            ratio(outcome.own[1].1, outcome.own[0].1),
            OWN_P99_MAX,
        ),
        Bar::at_most(
            &what("others' p95 during moves"),
            "x",
            ratio(outcome.others[1], outcome.others[0]),
            OTHERS_P95_MAX,
        ),
    ]);
}
