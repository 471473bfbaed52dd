//! The protocol of a move under a model checker: the step function that production uses, on a world of two shards, a
//! catalog, two rebalancers and clients that try everywhere.
//!
//! Every order of events is tried, within bounds: a process dies before or after an effect took place, an answer is
//! lost, a statement of a dead process is executed later, another process takes over while the first one still works,
//! a deadline passes, a router finishes what a rebalancer began, an operator changes his mind. docs/protocol.md says
//! what is assumed, and what the properties mean.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod world;

use stateright::{Checker, Model, Property};
use tenantry_rebalancer::machine::invariants::{check, has_exit};
use tenantry_schema::catalog::moves::{MoveCommand, MoveState, Side};

use world::{Act, Bounds, World};

struct Moves(Bounds);

/// What holds in every world.
const ALWAYS: [&str; 5] = [
    "at most one shard accepts writes",
    "no acknowledged write is lost",
    "every state has an exit",
    "nothing happens that the machine does not expect",
    "what is over leaves nothing",
];

impl Model for Moves {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.0.ignore_epochs)]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        world.acts(&self.0, acts);
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        next.act(act);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALWAYS[0], |_, world: &World| {
                check(&world.journal, world.owners()).is_ok()
            }),
            Property::always(ALWAYS[1], |_, world: &World| {
                [Side::Source, Side::Destination]
                    .into_iter()
                    .all(|side| !world.serves(side) || world.has_all(side))
            }),
            Property::always(ALWAYS[2], |_, world: &World| world.machines().all(has_exit)),
            Property::always(
                "nothing happens that the machine does not expect",
                |_, world: &World| world.defect.is_none(),
            ),
            Property::always(ALWAYS[4], |_, world: &World| {
                !world.journal.state.is_final() || world.is_clean()
            }),
            Property::sometimes("a move is done", |_, world: &World| {
                world.journal.state == MoveState::Done && world.acked.count_ones() > 1
            }),
            Property::sometimes("a move is rolled back", |_, world: &World| {
                world.journal.state == MoveState::RolledBack && world.acked.count_ones() > 1
            }),
            Property::sometimes("a move is aborted", |_, world: &World| {
                world.journal.state == MoveState::Aborted
            }),
        ]
    }
}

fn explore(name: &str, bounds: Bounds) -> impl Checker<Moves> {
    let checker = Moves(bounds).checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} distinct worlds, {} deep",
        checker.unique_state_count(),
        checker.max_depth()
    );
    checker
}

/// What an operator can say that changes where a move goes.
const TURNS: &[MoveCommand] = &[
    MoveCommand::Cancel,
    MoveCommand::Reverse,
    MoveCommand::Complete,
];

#[test]
fn a_fault_anywhere_and_a_successor_anywhere() {
    let bounds = Bounds {
        faults: 1,
        takeovers: 1,
        ..Bounds::default()
    };
    holds(&explore("fault and successor", bounds));
}

#[test]
fn a_fault_anywhere_while_an_operator_changes_his_mind() {
    let bounds = Bounds {
        faults: 1,
        commands: TURNS,
        ..Bounds::default()
    };
    let checker = explore("fault and command", bounds);
    holds(&checker);
    for end in [
        "a move is done",
        "a move is rolled back",
        "a move is aborted",
    ] {
        checker.assert_any_discovery(end);
    }
}

#[test]
fn a_deadline_passes_anywhere_while_an_operator_changes_his_mind() {
    let bounds = Bounds {
        expiries: 1,
        takeovers: 1,
        commands: TURNS,
        writes: 1,
        ..Bounds::default()
    };
    holds(&explore("deadline and command", bounds));
}

/// Everything at once; docs/protocol.md has the figures.
#[test]
#[ignore = "takes many minutes"]
fn two_faults_a_successor_and_a_command() {
    let bounds = Bounds {
        faults: 2,
        takeovers: 1,
        commands: TURNS,
        expiries: 1,
        ..Bounds::default()
    };
    holds(&explore("everything", bounds));
}

/// The model would notice: with fences that ignore the epoch, what a dead process had sent takes effect.
#[test]
fn without_the_epoch_a_late_statement_is_found() {
    let bounds = Bounds {
        faults: 1,
        takeovers: 1,
        ignore_epochs: true,
        writes: 1,
        ..Bounds::default()
    };
    let broken = broken(&explore("without epochs", bounds));
    assert!(!broken.is_empty(), "a broken protocol passes");
}

fn broken(checker: &impl Checker<Moves>) -> Vec<String> {
    let found = checker.discoveries();
    let found = found.iter().filter(|(name, _)| ALWAYS.contains(name));
    found
        .map(|(name, path)| format!("{name}: {:#?}", path.clone().into_actions()))
        .collect()
}

fn holds(checker: &impl Checker<Moves>) {
    let broken = broken(checker);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
