//! The report of `tenantry-bench move-faults`: a table of what came of each pair of step and fault.

use super::Args;
use super::trial::Trial;
use crate::report::{Bar, Report, Table};

/// Fewest trials of the reduced form.
const TRIALS_MIN: u64 = 20;
const TRANSACTIONS_MIN: u64 = 1_000;
/// A move that met a fault goes on within so long.
const TOOK_S_MAX: f64 = 60.0;

pub(super) fn report(args: &Args, trials: &[Trial]) -> Report {
    let mut report = Report {
        name: "move-faults",
        method: vec![
            "Each role is a process, each shard and the catalog a server of its own; every pair of them is connected through a proxy that can be shut.".to_owned(),
            "In each trial a tenant with twelve clients that book is moved. The rebalancer stops before one step, with everything before it stored; something is killed with SIGKILL or a connection refused and reset for two seconds; then it goes on, or another one starts.".to_owned(),
            "A step that was not reached is a failure. At the end of each trial both shards are searched for slots, publications, progress, owner rows and rows where the tenant does not live, and every booking of every client so far is compared.".to_owned(),
            "Errors count where the fault itself does not cut clients off: kills of router and shards, and cuts between them, do.".to_owned(),
        ],
        ..Report::default()
    };
    if let Some(without) = args.without {
        let line = format!("WITHOUT {}: the check must fail", without.name());
        report.method.push(line);
    }
    report.tables.push(table(trials));
    for trial in trials.iter().filter(|trial| !trial.holds()) {
        let name = format!("{}, {}", trial.point.name(), trial.fault.name());
        let mut what: Vec<String> = trial.end.as_ref().err().cloned().into_iter().collect();
        what.extend(trial.left.iter().cloned());
        what.extend(trial.errors.iter().take(3).cloned());
        if trial.differences.all() > 0 {
            what.push(format!("{:?}", trial.differences));
        }
        report.figure(name, what.join("; "));
    }
    let count = |of: fn(&Trial) -> u64| trials.iter().map(of).sum::<u64>();
    let none = |what: &str, value: u64| Bar::at_most(what, "", value as f64, 0.0);
    let slowest = trials.iter().map(|trial| trial.took_s).fold(0.0, f64::max);
    report.bars.extend([
        Bar::at_least("trials", trials.len() as u64, TRIALS_MIN),
        Bar::at_least(
            "transactions",
            count(|one| one.transactions),
            TRANSACTIONS_MIN,
        ),
        none(
            "steps not reached, moves without an end",
            count(|one| u64::from(one.end.is_err())),
        ),
        none("things left behind", count(|one| one.left.len() as u64)),
        none("bookings lost", count(|one| one.differences.lost)),
        none(
            "bookings doubled or strange",
            count(|one| one.differences.strange + one.differences.unbalanced),
        ),
        none("unexplained errors", count(|one| one.errors.len() as u64)),
        Bar::at_most(
            "from the fault to the end, longest",
            "s",
            slowest,
            TOOK_S_MAX,
        ),
    ]);
    report
}

fn table(trials: &[Trial]) -> Table {
    let head = [
        "step",
        "fault",
        "end",
        "after s",
        "bookings compared",
        "errors",
    ];
    let row = |trial: &Trial| {
        let end = match &trial.end {
            Ok(state) => state.to_string(),
            Err(_) => "NONE".to_owned(),
        };
        vec![
            trial.point.name(),
            trial.fault.name(),
            end,
            format!("{:.1}", trial.took_s),
            trial.differences.rows.to_string(),
            trial.errors.len().to_string(),
        ]
    };
    Table {
        title: "Steps and faults".to_owned(),
        head: head.map(str::to_owned).to_vec(),
        rows: trials.iter().map(row).collect(),
    }
}
