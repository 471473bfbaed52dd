//! Figures, bars and charts of `proxy-cost`.

use super::Args;
use super::ROUNDS_MIN;
use super::bed::TENANTS;
use super::cells::{Cell, Measured, Target};
use super::pgbouncer::Installed;
use crate::report::{Bar, Report, Table};
use crate::svg;

/// Of each run; fewer say little about one of them.
const TRANSACTIONS_MIN: u64 = 200;
/// The router's throughput over PgBouncer's. Both share the machine with pgbench and PostgreSQL.
const THROUGHPUT_MIN: f64 = 1.0;

pub(crate) fn report(args: &Args, installed: &Installed, measured: &[Measured]) -> Report {
    let mut report = Report {
        name: "proxy-cost",
        method: method(args, installed),
        ..Report::default()
    };
    report.tables.push(proxies(measured));
    if measured.iter().any(|cell| cell.has(Target::Unguarded)) {
        report.tables.push(guard(measured));
    }
    bars(&mut report, measured);
    charts(&mut report, measured);
    report
}

fn method(args: &Args, installed: &Installed) -> Vec<String> {
    let mut method = vec![
        format!(
            "One shard with the guard on, PostgreSQL, pgbench and both proxies on this machine ({} processors); {} rounds of {} s per cell, targets in turn; medians.",
            std::thread::available_parallelism().map_or(0, usize::from),
            args.rounds,
            args.seconds(),
        ),
        format!(
            "PgBouncer {}, in {} mode for prepared statements, in transaction mode otherwise; 20 server connections for either proxy, or one per client where PgBouncer pools by sessions.",
            installed.version,
            if installed.pools_prepared { "transaction" } else { "session" },
        ),
        "Both proxies serve the same guarded tables. Every connection of PgBouncer's is bound to one tenant by its connect_query, with a valid signature: PostgreSQL does the same work behind either.".to_owned(),
        "Processor time: user and system time of the proxy's process over the run, logins included, divided by pgbench's transactions. A ratio is the median of the ratios of each round.".to_owned(),
        "The select is that of pgbench -S, the other script pgbench's TPC-B-like one (one transaction, seven statements), both at scale 10.".to_owned(),
        format!(
            "\"{TENANTS} tenants\": one service role; BEGIN, SET LOCAL tenantry.tenant, the select, COMMIT. PgBouncer's connections stay with their one tenant there and SET LOCAL names a setting that nobody reads.",
        ),
        "PostgreSQL does not fsync: what is measured is work, not a disk.".to_owned(),
    ];
    if let Some(without) = args.without {
        method.push(format!("WITHOUT {}: the check must fail", without.name()));
    }
    method
}

fn proxies(measured: &[Measured]) -> Table {
    let rows = measured.iter().map(|cell| {
        let cost = |target| cell.median(target, |sample| sample.proxy);
        let rate = |target| cell.median(target, |sample| sample.per_second);
        let direct = if cell.has(Target::Direct) {
            format!("{:.0}", rate(Target::Direct))
        } else {
            "—".to_owned()
        };
        vec![
            cell.cell.name(),
            format!("{:.1}", cost(Target::Router)),
            format!("{:.1}", cost(Target::PgBouncer)),
            format!("{:.2}", cell.ratio(|sample| sample.proxy)),
            format!("{:.0}", rate(Target::Router)),
            format!("{:.0}", rate(Target::PgBouncer)),
            format!("{:.2}", cell.ratio(|sample| sample.per_second)),
            direct,
        ]
    });
    Table {
        title: "Proxy: processor time per transaction (µs) and transactions per second".to_owned(),
        head: [
            "script, protocol, clients",
            "router µs",
            "PgBouncer µs",
            "ratio",
            "router tps",
            "PgBouncer tps",
            "ratio",
            "no proxy tps",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: rows.collect(),
    }
}

fn guard(measured: &[Measured]) -> Table {
    let rows = measured
        .iter()
        .filter(|cell| cell.has(Target::Unguarded))
        .map(|cell| {
            let cost = |target| cell.median(target, |sample| sample.postgres);
            let rate = |target| cell.median(target, |sample| sample.per_second);
            let (with, without) = (cost(Target::Direct), cost(Target::Unguarded));
            vec![
                cell.cell.name(),
                format!("{without:.1}"),
                format!("{with:.1}"),
                format!("{:.1}", with - without),
                format!("{:.0}", rate(Target::Unguarded)),
                format!("{:.0}", rate(Target::Direct)),
                format!("{:.1}", cost(Target::Router)),
                format!("{:.1}", cost(Target::PgBouncer)),
            ]
        });
    Table {
        title: "Guard: PostgreSQL's processor time per transaction (µs), all its processes"
            .to_owned(),
        head: [
            "script, protocol, clients",
            "no guard µs",
            "guard µs",
            "difference µs",
            "no guard tps",
            "guard tps",
            "guard behind router µs",
            "guard behind PgBouncer µs",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: rows.collect(),
    }
}

fn bars(report: &mut Report, measured: &[Measured]) {
    let fewest = |count: fn(&Measured) -> u64| measured.iter().map(count).min().unwrap_or_default();
    report.bars.push(Bar::at_least(
        "rounds",
        fewest(Measured::rounds),
        u64::from(ROUNDS_MIN),
    ));
    report.bars.push(Bar::at_least(
        "transactions of the shortest run",
        fewest(Measured::transactions_min),
        TRANSACTIONS_MIN,
    ));
    for cell in measured {
        let Some(cost_max) = cell.cell.cost_max() else {
            continue;
        };
        let name = cell.cell.name();
        report.bars.push(Bar::at_most(
            &format!("processor time, {name}"),
            "of PgBouncer's",
            cell.ratio(|sample| sample.proxy),
            cost_max,
        ));
        report.bars.push(Bar::no_less(
            &format!("throughput, {name}"),
            "of PgBouncer's",
            cell.ratio(|sample| sample.per_second),
            THROUGHPUT_MIN,
        ));
    }
}

fn charts(report: &mut Report, measured: &[Measured]) {
    for (file, title, unit, figure) in [
        (
            "proxy-cost.svg",
            "Processor time of the proxy per transaction",
            "µs",
            (|sample| sample.proxy) as fn(&super::Sample) -> f64,
        ),
        (
            "proxy-throughput.svg",
            "Transactions per second",
            "/s",
            |sample| sample.per_second,
        ),
    ] {
        let with_bars = |cell: &&Measured| cell.cell.cost_max().is_some();
        let groups: Vec<svg::Group> = measured
            .iter()
            .filter(with_bars)
            .map(|cell| svg::Group {
                name: short_name(cell.cell),
                values: vec![
                    cell.median(Target::Router, figure),
                    cell.median(Target::PgBouncer, figure),
                ],
            })
            .collect();
        let chart = svg::groups(title, unit, &["router", "PgBouncer"], &groups);
        report
            .charts
            .push((file.to_owned(), title.to_owned(), chart));
    }
}

fn short_name(cell: Cell) -> String {
    format!(
        "{} {} {}",
        cell.script.name(),
        cell.protocol.name(),
        cell.clients
    )
}
