//! What is measured: scripts, protocols and numbers of clients, and what came out of each.

use super::bed::CLIENTS_MAX;
use super::pgbench::{Protocol, Script};

/// One row of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) script: Script,
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    /// Whether it is also run without a proxy.
    direct: bool,
}

/// Through what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Router,
    PgBouncer,
    /// No proxy, guarded tables, a signed bind.
    Direct,
    /// No proxy, no guard.
    Unguarded,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) transactions: u64,
    pub(crate) per_second: f64,
    /// Microseconds of processor time per transaction, of the proxy.
    pub(crate) proxy: f64,
    /// The same of all of PostgreSQL.
    pub(crate) postgres: f64,
}

/// A cell and its runs, round by round.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    samples: Vec<(Target, Sample)>,
}

const CLIENTS: [u32; 3] = [1, 16, CLIENTS_MAX];
const KINDS: [(Script, Protocol); 6] = [
    (Script::Select, Protocol::Simple),
    (Script::Select, Protocol::Extended),
    (Script::Select, Protocol::Prepared),
    (Script::Tpcb, Protocol::Simple),
    (Script::Tpcb, Protocol::Prepared),
    (Script::Mix, Protocol::Simple),
];

/// All cells, or only those that have bars at 16 clients.
pub(crate) fn all(quick: bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (script, protocol) in KINDS {
        for clients in CLIENTS {
            let cell = Cell {
                script,
                protocol,
                clients,
                direct: !quick && clients == 16 && script != Script::Mix,
            };
            if !quick || (clients == 16 && cell.cost_max().is_some()) {
                cells.push(cell);
            }
        }
    }
    cells
}

impl Cell {
    pub(crate) fn name(self) -> String {
        format!(
            "{}, {}, {} clients",
            self.script.name(),
            self.protocol.name(),
            self.clients
        )
    }

    pub(crate) fn targets(self) -> &'static [Target] {
        if self.direct {
            &[
                Target::Router,
                Target::PgBouncer,
                Target::Direct,
                Target::Unguarded,
            ]
        } else {
            &[Target::Router, Target::PgBouncer]
        }
    }

    /// The most that the router may use of PgBouncer's processor time, where there is a bar.
    pub(crate) fn cost_max(self) -> Option<f64> {
        match (self.script, self.protocol) {
            _ if self.clients == 1 => None,
            (Script::Select, Protocol::Simple | Protocol::Extended) => Some(1.1),
            (Script::Select, Protocol::Prepared) => Some(0.85),
            (Script::Tpcb, _) => Some(0.9),
            (Script::Mix, _) => None,
        }
    }
}

impl Measured {
    pub(crate) fn new(cell: Cell) -> Self {
        Self {
            cell,
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, target: Target, sample: Sample) {
        self.samples.push((target, sample));
    }

    /// The runs through one target, in order of rounds.
    fn of(&self, target: Target) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |(of, _)| *of == target)
            .map(|(_, sample)| sample)
    }

    pub(crate) fn has(&self, target: Target) -> bool {
        self.of(target).next().is_some()
    }

    pub(crate) fn rounds(&self) -> u64 {
        self.of(Target::Router).count() as u64
    }

    /// Transactions of the run that had the fewest.
    pub(crate) fn transactions_min(&self) -> u64 {
        let all = self.samples.iter().map(|(_, sample)| sample.transactions);
        all.min().unwrap_or_default()
    }

    pub(crate) fn median(&self, target: Target, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.of(target).map(figure).collect())
    }

    /// The router's figure over PgBouncer's of the same round, the median of all rounds.
    pub(crate) fn ratio(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        let pairs = self.of(Target::Router).zip(self.of(Target::PgBouncer));
        median(
            pairs
                .map(|(ours, theirs)| figure(ours) / figure(theirs))
                .collect(),
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_form_keeps_every_kind_of_bar() {
        let bars = |cells: Vec<Cell>| {
            let mut bars: Vec<_> = cells
                .into_iter()
                .filter(|cell| cell.cost_max().is_some())
                .map(|cell| (cell.script.name(), cell.protocol.name()))
                .collect();
            bars.dedup();
            bars
        };
        assert_eq!(bars(all(true)), bars(all(false)));
    }

    #[test]
    fn a_ratio_pairs_the_runs_of_a_round() {
        let mut measured = Measured::new(all(true)[0]);
        for (ours, theirs) in [(1.0, 2.0), (10.0, 10.0), (30.0, 20.0)] {
            for (target, proxy) in [(Target::Router, ours), (Target::PgBouncer, theirs)] {
                let sample = Sample {
                    transactions: 1,
                    per_second: 1.0,
                    proxy,
                    postgres: 0.0,
                };
                measured.add(target, sample);
            }
        }
        assert!((measured.ratio(|sample| sample.proxy) - 1.0).abs() < 1e-9);
        assert!((measured.median(Target::Router, |sample| sample.proxy) - 10.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}
