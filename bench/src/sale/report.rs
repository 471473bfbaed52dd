//! The report of `tenantry-bench flash-sale`.

use tenantry_schema::shard::ShardKind;

use super::{Args, CALM_EACH, POOL_SIZE, STORE, STORE_BEFORE, Sale, TENANTS, TIMES};
use crate::neighbours::load::Outcome;
use crate::report::{Bar, Report};
use crate::svg;

const ISOLATED_S_MAX: f64 = 60.0;
const OTHERS_P95_MAX: f64 = 1.5;
const THROUGHPUT_MIN: f64 = 2.0;
const REQUESTS_MIN: u64 = 10_000;
/// Seconds of the sale from which its throughput beside the neighbours is taken, before a move can have begun.
const BESIDE: std::ops::Range<usize> = 1..4;
/// Seconds at the end from which its throughput on a shard of its own is taken.
const ALONE: usize = 5;

pub(super) fn report(args: &Args, sale: &Sale) -> Report {
    let mut report = Report {
        name: "flash-sale",
        method: method(args),
        ..Report::default()
    };
    let store = &sale.sale[STORE];
    let (before, after) = (
        mean(store.per_second.get(BESIDE).unwrap_or_default()),
        mean(&store.per_second[store.per_second.len().saturating_sub(ALONE)..]),
    );
    let others = [p95(&sale.calm), p95(&sale.sale)];
    report.figure(
        "size of the store",
        format!("{} MB", sale.store_bytes / 1_000_000),
    );
    report.figure(
        "others' p95 without the sale",
        format!("{:.2} ms", others[0]),
    );
    report.figure(
        "others' p95 from its first second on",
        format!("{:.2} ms", others[1]),
    );
    report.figure("the store beside its neighbours", format!("{before:.0} /s"));
    report.figure("the store on its own shard", format!("{after:.0} /s"));
    for one in &sale.moves {
        let reason = one.reason.clone().unwrap_or_default();
        report.figure(format!("move, {}", one.status.state), reason);
        for hold in one.progress.holds.iter().filter(|hold| hold.committed) {
            report.figure("pause at cutover", format!("{:.1} ms", hold.hold_ms));
        }
    }
    let errors: u64 = sale
        .calm
        .iter()
        .chain(&sale.sale)
        .map(|one| one.errors)
        .sum();
    let requests: u64 = sale.sale.iter().map(|one| one.answered).sum();
    report.bars.extend([
        Bar::at_least("requests", requests, REQUESTS_MIN),
        Bar::at_most("errors", "", errors as f64, 0.0),
        Bar::at_most(
            "from the first second to isolated",
            "s",
            sale.isolated_after.unwrap_or(f64::INFINITY),
            ISOLATED_S_MAX,
        ),
        Bar::at_least(
            "the spare is the store's dedicated shard",
            u64::from(sale.kind == Some(ShardKind::Dedicated)),
            1,
        ),
        Bar::at_most(
            "others' p95 during the sale",
            "x",
            others[1] / others[0].max(f64::MIN_POSITIVE),
            OTHERS_P95_MAX,
        ),
        Bar::no_less(
            "the store's throughput on its own shard",
            "x",
            after / before.max(1.0),
            THROUGHPUT_MIN,
        ),
    ]);
    let points = store.per_second.iter().enumerate();
    let points: Vec<(f64, f64)> = points
        .map(|(at, count)| (at as f64, *count as f64))
        .collect();
    let title = "Requests of the store per second of its sale";
    report.charts.push((
        "flash-sale.svg".to_owned(),
        title.to_owned(),
        svg::line(title, "/s", "s", &points),
    ));
    report
}

fn method(args: &Args) -> Vec<String> {
    let mut method = vec![
        format!(
            "{TENANTS} tenants on one shard with a pool of {POOL_SIZE}, statements that wait 5 ms, {CALM_EACH} requests a second each at random moments; the store has {STORE_BEFORE} and goes to {TIMES} times that at once, with a spare ready."
        ),
        "Router and rebalancer are processes of their own, with the policy that isolates what is hot. A request counts from the moment it came.".to_owned(),
    ];
    if let Some(without) = args.without {
        method.push(format!("WITHOUT {}: the check must fail", without.name()));
    }
    method
}

fn mean(seconds: &[u64]) -> f64 {
    seconds.iter().sum::<u64>() as f64 / seconds.len().max(1) as f64
}

/// p95 of all but the store, milliseconds.
fn p95(phase: &[Outcome]) -> f64 {
    let others = phase.iter().enumerate().filter(|(at, _)| *at != STORE);
    let mut all: Vec<u64> = others
        .flat_map(|(_, one)| one.took_us.iter().copied())
        .collect();
    all.sort_unstable();
    let at = all.len() * 95 / 100;
    all.get(at).copied().unwrap_or_default() as f64 / 1e3
}
