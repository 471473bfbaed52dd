//! What is broken, and when: every step of a move, with every process and every connection between two.

use clap::ValueEnum;
use tenantry_schema::catalog::moves::MoveState;

/// The way a move takes in a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Course {
    /// To its end.
    There,
    /// Taken back in probation.
    Back,
    /// Cancelled before the cutover.
    Cancelled,
}

/// A step of a move: the fault comes before it begins, when everything before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) course: Course,
    pub(super) state: MoveState,
    /// As the rebalancer names it.
    pub(super) effect: &'static str,
}

impl Point {
    /// As it is told to the rebalancer, and shown.
    pub(super) fn name(self) -> String {
        format!("{}/{}", self.state, self.effect)
    }

    /// Every step.
    pub(super) fn all() -> Vec<Self> {
        use MoveState as State;
        let there: &[(State, &[&str])] = &[
            (State::Planned, &["preflight"]),
            (
                State::Prepared,
                &["prepare_destination", "create_publication", "create_slot"],
            ),
            (State::Copying, &["copy"]),
            (State::Catchup, &["analyze", "catch_up"]),
            (State::Verified, &["verify"]),
            (State::Ready, &["prepare_reverse", "prewarm", "await_gate"]),
            (State::Fencing, &["hold", "fence", "await_marker"]),
            (
                State::Drained,
                &["advance_sequences", "hand_over", "activate", "release"],
            ),
            (State::Committed, &["drop_forward", "start_reverse"]),
            (State::Probation, &["verify_final", "await_probation"]),
            (State::Cleaning, &["drop_objects", "clean", "forget"]),
        ];
        let back: &[(State, &[&str])] = &[(
            State::RollingBack,
            &[
                "prewarm",
                "await_gate",
                "hold",
                "fence",
                "await_marker",
                "advance_sequences",
                "hand_over",
                "activate",
                "release",
                "drop_objects",
                "clean",
                "forget",
            ],
        )];
        let cancelled: &[(State, &[&str])] = &[(
            State::Aborting,
            &[
                "unfence",
                "release",
                "drop_objects",
                "drop_import",
                "forget",
            ],
        )];
        let courses = [
            (Course::There, there),
            (Course::Back, back),
            (Course::Cancelled, cancelled),
        ];
        let mut points = Vec::new();
        for (course, states) in courses {
            for (state, effects) in states {
                points.extend(effects.iter().map(|effect| Self {
                    course,
                    state: *state,
                    effect,
                }));
            }
        }
        points
    }
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(super) enum Fault {
    /// kill -9 of the rebalancer; another one starts.
    KillRebalancer,
    /// kill -9 of the router; it starts again.
    KillRouter,
    /// kill -9 of the agent; it starts again.
    KillAgent,
    /// kill -9 of the source's server, all processes; it starts again.
    KillSource,
    /// The same of the destination's.
    KillDestination,
    /// The same of the catalog's.
    KillCatalog,
    /// No connection between rebalancer and source for some seconds.
    CutRebalancerSource,
    /// Between rebalancer and destination.
    CutRebalancerDestination,
    /// Between rebalancer and catalog.
    CutRebalancerCatalog,
    /// Between rebalancer and router.
    CutRebalancerRouter,
    /// Between router and source.
    CutRouterSource,
    /// Between router and destination.
    CutRouterDestination,
    /// Between router and catalog.
    CutRouterCatalog,
    /// Between agent and both shards and the catalog.
    CutAgent,
}

impl Fault {
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether clients lose connections or transactions by it, whatever a move does.
    pub(super) fn hits_clients(self) -> bool {
        matches!(
            self,
            Self::KillRouter
                | Self::KillSource
                | Self::KillDestination
                | Self::CutRouterSource
                | Self::CutRouterDestination
        )
    }
}

/// What is tried: everything, or each state and each fault at least once.
pub(super) fn trials(all: bool) -> Vec<(Point, Fault)> {
    let points = Point::all();
    let faults = Fault::value_variants();
    if all {
        let pairs = points.iter();
        return pairs
            .flat_map(|point| faults.iter().map(|fault| (*point, *fault)))
            .collect();
    }
    // A step of each state in turn with the next fault in turn; the cutover's steps, all with the rebalancer's death.
    let mut chosen: Vec<(Point, Fault)> = Vec::new();
    let mut next = 0;
    let mut last = None;
    for point in &points {
        let is_cutover = matches!(point.state, MoveState::Fencing | MoveState::Drained);
        if last != Some((point.course, point.state)) {
            last = Some((point.course, point.state));
            chosen.push((*point, faults[next % faults.len()]));
            next += 1;
        }
        if is_cutover && point.course == Course::There {
            chosen.push((*point, Fault::KillRebalancer));
        }
    }
    let missing: Vec<Fault> = faults
        .iter()
        .filter(|fault| chosen.iter().all(|(_, used)| used != *fault))
        .copied()
        .collect();
    let cutover = points.iter().find(|point| point.effect == "await_marker");
    chosen.extend(
        missing
            .into_iter()
            .filter_map(|fault| Some((*cutover?, fault))),
    );
    chosen.dedup();
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_reduced_form_has_every_state_and_every_fault() {
        let states: BTreeSet<_> = Point::all()
            .iter()
            .map(|point| (point.course, point.state))
            .collect();
        let chosen = trials(false);
        let seen: BTreeSet<_> = chosen
            .iter()
            .map(|(point, _)| (point.course, point.state))
            .collect();
        assert_eq!(seen, states);
        let faults: BTreeSet<_> = chosen.iter().map(|(_, fault)| *fault).collect();
        assert_eq!(faults.len(), Fault::value_variants().len());
        assert_eq!(
            trials(true).len(),
            Point::all().len() * Fault::value_variants().len()
        );
    }
}
