//! Figures, bars and the chart of `neighbours`.

use super::load::Outcome;
use super::scheduling::{MEASURED, QUEUED};
use super::{
    AGGRESSORS, Args, CALM, COMPUTES, Installed, Measured, POOL_SIZE, Proxy, Storm, TENANTS, TIMES,
    WAITS,
};
use crate::report::{Bar, Report, Table};
use crate::svg;

/// The others' p95 relative to their p95 without an aggressor. In theory about 1.2; 1.25 is what is aimed at.
const RATIO_MAX: f64 = 1.5;
/// Part of the capacity that is used while five aggressors ask for more than there is.
const USED_MIN: f64 = 0.8;
/// Part of a connection for one whose share is one, less what is left to newcomers.
const MODEST_MIN: f64 = 0.7;
const SCHEDULING_US_MAX: f64 = 50.0;
/// Requests of the others in the shortest phase.
const REQUESTS_MIN: u64 = 2000;

const NAMES: [&str; 3] = ["calm", "one aggressor", "five aggressors"];

/// The tenants that are no aggressors in any phase.
fn others(phase: &[Outcome]) -> &[Outcome] {
    &phase[AGGRESSORS..]
}

/// Milliseconds of a sorted sample.
fn percentile(sorted: &[u64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (sorted.len() as f64 * part) as usize;
    let us = sorted.get(index.min(sorted.len().saturating_sub(1)));
    us.copied().unwrap_or_default() as f64 / 1000.0
}

fn sorted(outcomes: &[Outcome]) -> Vec<u64> {
    let mut all: Vec<u64> = (outcomes.iter().flat_map(|one| &one.took_us))
        .copied()
        .collect();
    all.sort_unstable();
    all
}

fn p95(phase: &[Outcome]) -> f64 {
    percentile(&sorted(others(phase)), 0.95)
}

impl Storm {
    /// p95 of the others in a phase, relative to the calm one.
    fn ratio(&self, phase: usize) -> f64 {
        p95(&self.phases[phase]) / p95(&self.phases[0]).max(f64::MIN_POSITIVE)
    }
}

pub(super) fn report(args: &Args, installed: &Installed, measured: &Measured) -> Report {
    let mut report = Report {
        name: "neighbours",
        method: method(args, installed),
        ..Report::default()
    };
    for (statement, per_second) in &measured.capacity {
        report.figure(
            format!("capacity of `{statement}`"),
            format!("{per_second:.0} /s"),
        );
    }
    report.figure(
        "scheduling of one request, free connection",
        format!("{:.0} ns", measured.cost.uncontended_ns),
    );
    report.figure(
        format!("scheduling of one request behind {QUEUED} of another tenant, median"),
        format!("{:.2} µs", measured.cost.median_us),
    );
    for statement in [WAITS, COMPUTES] {
        let storms = measured.storms.iter();
        let storms: Vec<_> = storms.filter(|one| one.statement == statement).collect();
        if !storms.is_empty() {
            report.tables.push(table(statement, &storms, args));
        }
    }
    bars(&mut report, args, measured);
    chart(&mut report, measured);
    report
}

fn method(args: &Args, installed: &Installed) -> Vec<String> {
    let mut method = vec![
        format!(
            "{TENANTS} tenants on one shard, a pool of {POOL_SIZE}; requests at random moments (Poisson), together {:.0} % of the capacity, which is measured through the router first. One tenant goes to {TIMES:.0} times its load, then {AGGRESSORS} at once; {} s each.",
            CALM * 100.0,
            args.length().as_secs()
        ),
        format!(
            "The others are the same {} tenants in every phase. A request counts from the moment it came, whether or not a client was free for it.",
            TENANTS - AGGRESSORS
        ),
        format!("`{WAITS}`: the capacity is the pool's, whoever uses the processors."),
        format!(
            "PgBouncer {} in transaction mode with the same number of connections to the same server, one queue for all.",
            installed.version
        ),
        format!(
            "Scheduling: the pool's scheduler alone, {MEASURED} requests of one tenant while {QUEUED} of another wait, each from its coming to its turn."
        ),
    ];
    if !args.quick {
        method.push(format!(
            "`{COMPUTES}`: clients, proxy and PostgreSQL share {} processors; reported, not held.",
            std::thread::available_parallelism().map_or(0, usize::from)
        ));
    }
    if let Some(without) = args.without {
        method.push(format!("WITHOUT {}: the check must fail", without.name()));
    }
    method
}

fn table(statement: &str, storms: &[&Storm], args: &Args) -> Table {
    let mut rows = Vec::new();
    for storm in storms {
        for (number, phase) in storm.phases.iter().enumerate() {
            let all = sorted(others(phase));
            let errors: u64 = others(phase).iter().map(|one| one.errors).sum();
            let rate = |outcomes: &[Outcome]| {
                let answered: u64 = outcomes.iter().map(|one| one.answered).sum();
                answered as f64 / args.length().as_secs_f64()
            };
            let aggressors = [0, 1, AGGRESSORS][number];
            rows.push(vec![
                format!("{}, {}", storm.proxy.name(), NAMES[number]),
                format!("{:.2}", percentile(&all, 0.5)),
                format!("{:.2}", percentile(&all, 0.95)),
                format!("{:.2}", percentile(&all, 0.99)),
                format!("{:.2}", storm.ratio(number)),
                errors.to_string(),
                format!("{:.0}", rate(others(phase))),
                format!("{:.0}", rate(&phase[..aggressors])),
            ]);
        }
    }
    Table {
        title: format!(
            "`{statement}`: what the others notice (ms), and requests answered per second"
        ),
        head: [
            "proxy, phase",
            "p50",
            "p95",
            "p99",
            "p95 ratio",
            "errors",
            "others /s",
            "aggressors /s",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
    }
}

fn bars(report: &mut Report, args: &Args, measured: &Measured) {
    let is_held = |one: &&Storm| one.proxy == Proxy::Router && one.statement == WAITS;
    if let Some(storm) = measured.storms.iter().find(is_held) {
        let requests = storm.phases.iter().map(|phase| sorted(others(phase)).len());
        let fewest = requests.min().unwrap_or_default() as u64;
        report.bars.push(Bar::at_least(
            "requests of the others in a phase",
            fewest,
            REQUESTS_MIN,
        ));
        for (phase, name) in NAMES.iter().enumerate().skip(1) {
            report.bars.push(Bar::at_most(
                &format!("others' p95, {name}"),
                "of the calm one",
                storm.ratio(phase),
                RATIO_MAX,
            ));
        }
        let errors: u64 = (storm.phases.iter().flat_map(|phase| others(phase)))
            .map(|one| one.errors)
            .sum();
        report
            .bars
            .push(Bar::at_most("errors of the others", "", errors as f64, 0.0));
        let full = &storm.phases[2];
        let answered: u64 = full.iter().map(|one| one.answered).sum();
        let capacity = measured.capacity.iter().find(|(of, _)| *of == WAITS);
        let capacity = capacity.map_or(f64::INFINITY, |(_, per_second)| *per_second);
        report.bars.push(Bar::no_less(
            "used while five aggressors ask for more",
            "of the capacity",
            answered as f64 / args.length().as_secs_f64() / capacity,
            USED_MIN,
        ));
        let least = full[..AGGRESSORS].iter().map(|one| one.answered).min();
        report.bars.push(Bar::at_least(
            "requests of the aggressor that got least",
            least.unwrap_or_default(),
            1,
        ));
    }
    report.bars.extend([
        Bar::no_less(
            "a share of one connection, seven tenants flooding",
            "connections",
            measured.modest,
            MODEST_MIN,
        ),
        Bar::at_most(
            "scheduling behind a long queue, 99.9 % of requests",
            "µs",
            measured.cost.p999_us,
            SCHEDULING_US_MAX,
        ),
    ]);
}

fn chart(report: &mut Report, measured: &Measured) {
    let of = |proxy| {
        let mut storms = measured.storms.iter();
        storms.find(|one| one.proxy == proxy && one.statement == WAITS)
    };
    let (Some(router), Some(pgbouncer)) = (of(Proxy::Router), of(Proxy::PgBouncer)) else {
        return;
    };
    let groups: Vec<svg::Group> = (NAMES.iter().enumerate())
        .map(|(number, name)| svg::Group {
            name: (*name).to_owned(),
            values: vec![p95(&router.phases[number]), p95(&pgbouncer.phases[number])],
        })
        .collect();
    let title = "p95 of the tenants that are no aggressors";
    let chart = svg::groups(title, "ms", &["router", "PgBouncer"], &groups);
    report
        .charts
        .push(("neighbours.svg".to_owned(), title.to_owned(), chart));
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_of_the_sample() {
        let sample: Vec<u64> = (1..=100).map(|ms| ms * 1000).collect();
        assert!((percentile(&sample, 0.95) - 96.0).abs() < 1e-9);
        assert!((percentile(&sample, 1.0) - 100.0).abs() < 1e-9);
        assert!(percentile(&[], 0.5).abs() < 1e-9);
    }
}
