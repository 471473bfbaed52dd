//! The table of transitions, and what holds for any sequence of events.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use tenantry_schema::catalog::moves::{MoveCommand, MoveState, MoveStatus, Side};
use tenantry_schema::tenant::Epoch;

use super::invariants::has_exit;
use super::{Effect, Event, Failure, Machine, Outcome, Remedy, Terms, step};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const TERMS: Terms = Terms {
    manual: false,
    probation: Duration::from_secs(60),
};

fn begin(terms: Terms) -> Machine {
    let machine = Machine::new(MoveStatus::planned(), terms);
    step(&machine, &Event::Resumed, NOW).unwrap().next
}

fn failure(remedy: Remedy) -> Outcome {
    Outcome::Failed(Failure {
        remedy,
        reason: "it did".to_owned(),
    })
}

/// What an effect answers when all is well. Fences raise the epoch by one.
fn well(effect: Effect) -> Outcome {
    match effect {
        Effect::AwaitGate { .. } | Effect::Unfence { .. } => Outcome::Epoch(Epoch(5)),
        Effect::Fence { epoch, .. } => Outcome::Epoch(Epoch(epoch.0 + 1)),
        _ => Outcome::Done,
    }
}

fn end(machine: &Machine, outcome: Outcome) -> Machine {
    let effect = machine.doing.unwrap();
    step(machine, &Event::Ended(effect, outcome), NOW)
        .unwrap()
        .next
}

fn ask(machine: &Machine, command: MoveCommand) -> Machine {
    step(machine, &Event::Asked(command), NOW).unwrap().next
}

/// Lets all go well until `effect` is under way.
fn until(mut machine: Machine, wanted: &str) -> Machine {
    for _ in 0..100 {
        match machine.doing {
            Some(effect) if effect.name() == wanted => return machine,
            Some(effect) => machine = end(&machine, well(effect)),
            None => break,
        }
    }
    panic!("{wanted} never came: {machine:?}");
}

/// Every effect until the end, with the state it was done in.
fn course(mut machine: Machine) -> Vec<String> {
    let mut course = Vec::new();
    while let Some(effect) = machine.doing {
        course.push(format!("{} {effect}", machine.status.state));
        machine = end(&machine, well(effect));
    }
    course.push(machine.status.state.to_string());
    course
}

#[test]
fn a_move_takes_its_course() {
    let expected = "PLANNED preflight, PREPARED prepare_destination, PREPARED create_publication, \
        PREPARED create_slot, COPYING copy, CATCHUP analyze, CATCHUP catch_up, VERIFIED verify, \
        READY prepare_reverse, READY prewarm, READY await_gate, FENCING hold, FENCING fence, FENCING await_marker, \
        DRAINED advance_sequences, DRAINED hand_over, DRAINED activate, DRAINED release, COMMITTED drop_forward, \
        COMMITTED start_reverse, PROBATION verify_final, PROBATION await_probation, CLEANING drop_objects, \
        CLEANING clean, CLEANING forget, DONE";
    assert_eq!(course(begin(TERMS)).join(", "), expected);
}

#[test]
fn the_way_back_is_the_mirror_image() {
    let probation = until(begin(TERMS), "await_probation");
    assert_eq!(probation.status.placement_epoch, Some(Epoch(6)));
    let back = ask(&probation, MoveCommand::Reverse);
    let expected = "ROLLING_BACK unfence, ROLLING_BACK release, ROLLING_BACK prewarm, ROLLING_BACK await_gate, \
        ROLLING_BACK hold, ROLLING_BACK fence, ROLLING_BACK await_marker, ROLLING_BACK advance_sequences, \
        ROLLING_BACK hand_over, ROLLING_BACK activate, ROLLING_BACK release, ROLLING_BACK drop_objects, \
        ROLLING_BACK clean, ROLLING_BACK forget, ROLLED_BACK";
    assert_eq!(course(back.clone()).join(", "), expected);
    let returned = until(back, "drop_objects");
    assert_eq!(returned.status.lives_at, Side::Source);
    let cleans = end(&returned, Outcome::Done).doing;
    let destination = Side::Destination;
    assert_eq!(cleans, Some(Effect::Clean { side: destination }));
}

#[test]
fn a_cancelled_move_undoes_everything_and_lifts_what_may_come_late() {
    let ready = until(begin(TERMS), "await_gate");
    let expected = "ABORTING unfence, ABORTING release, ABORTING drop_objects, ABORTING drop_import, ABORTING forget, \
        ABORTED";
    assert_eq!(
        course(ask(&ready, MoveCommand::Cancel)).join(", "),
        expected
    );
}

#[test]
fn no_command_is_taken_in_a_cutover() {
    let mut machine = until(begin(TERMS), "hold");
    while machine.status.state != MoveState::Probation {
        assert!(!machine.takes_commands());
        for command in MoveCommand::ALL {
            let asked = step(&machine, &Event::Asked(*command), NOW);
            assert!(asked.is_err(), "{command} in {:?}", machine.doing);
        }
        machine = end(&machine, well(machine.doing.unwrap()));
    }
    assert!(machine.takes_commands());
}

#[test]
fn a_failed_attempt_is_lifted_and_tried_again() {
    for effect in [
        "hold",
        "fence",
        "await_marker",
        "advance_sequences",
        "hand_over",
    ] {
        let tried = until(begin(TERMS), effect);
        assert_eq!(tried.status.attempts, 1);
        let lifting = end(&tried, failure(Remedy::Retry));
        let to = Side::Destination;
        assert_eq!(lifting.doing, Some(Effect::Unfence { to }), "{effect}");
        let released = end(&lifting, Outcome::Epoch(Epoch(7)));
        let epoch = Epoch(7);
        let at = Side::Source;
        assert_eq!(released.doing, Some(Effect::Release { at, epoch }));
        let event = Event::Ended(Effect::Release { at, epoch }, Outcome::Done);
        let step = step(&released, &event, NOW).unwrap();
        assert!(step.back_off);
        assert_eq!(step.next.status.state, MoveState::Ready);
        assert_eq!(step.next.status.error.as_deref(), Some("it did"));
        let again = until(step.next, "fence");
        assert_eq!((again.status.attempts, again.status.error), (2, None));
    }
}

#[test]
fn an_attempt_that_had_committed_goes_forward() {
    for lost in ["hand_over", "await_marker"] {
        let lifting = end(&until(begin(TERMS), lost), failure(Remedy::GiveUp));
        let activating = end(&lifting, Outcome::Moved(Epoch(6)));
        let (to, epoch) = (Side::Destination, Epoch(6));
        assert_eq!(activating.doing, Some(Effect::Activate { to, epoch }));
        let committed = until(activating, "drop_forward");
        assert_eq!(committed.status.state, MoveState::Committed);
        assert_eq!(committed.status.placement_epoch, Some(epoch));
    }
    // Also where the catalog had given the move up.
    let mut status = MoveStatus::planned();
    status.state = MoveState::Aborting;
    let aborting = step(&Machine::new(status, TERMS), &Event::Resumed, NOW).unwrap();
    let activating = end(&aborting.next, Outcome::Moved(Epoch(6)));
    let committed = until(activating, "drop_forward");
    assert_eq!(committed.status.state, MoveState::Committed);
}

#[test]
fn remedies_before_the_commit() {
    let verifying = until(begin(TERMS), "verify");
    let again = end(&verifying, failure(Remedy::Retry));
    assert_eq!(again.doing, verifying.doing);
    let restarted = end(&verifying, failure(Remedy::Restart));
    assert_eq!(restarted.status.state, MoveState::Prepared);
    let aborting = end(&verifying, failure(Remedy::GiveUp));
    assert_eq!(aborting.status.state, MoveState::Aborting);
    assert_eq!(aborting.status.error.as_deref(), Some("it did"));
    let refused = end(&begin(TERMS), failure(Remedy::GiveUp));
    assert_eq!(refused.status.state, MoveState::Aborting);
}

#[test]
fn a_failed_final_comparison_waits_for_an_operator() {
    let verifying = until(begin(TERMS), "verify_final");
    let stuck = end(&verifying, failure(Remedy::GiveUp));
    assert_eq!((stuck.doing, stuck.status.paused), (None, true));
    let again = ask(&stuck, MoveCommand::Resume);
    assert_eq!(again.doing, Some(Effect::VerifyFinal));
    let back = ask(&stuck, MoveCommand::Reverse);
    assert_eq!(back.status.state, MoveState::RollingBack);
    let accepted = ask(&stuck, MoveCommand::Complete);
    assert_eq!(accepted.status.state, MoveState::Cleaning);
}

#[test]
fn a_lost_way_back_is_said_and_not_used() {
    let starting = until(begin(TERMS), "start_reverse");
    let without = end(&starting, failure(Remedy::Restart));
    assert!(!without.status.way_back);
    let probation = end(&without, Outcome::Done);
    assert_eq!(probation.status.state, MoveState::Probation);
    assert!(probation.status.paused);
    assert!(step(&probation, &Event::Asked(MoveCommand::Reverse), NOW).is_err());

    let back = ask(
        &until(begin(TERMS), "await_probation"),
        MoveCommand::Reverse,
    );
    let failed = end(&until(back, "await_gate"), failure(Remedy::GiveUp));
    assert_eq!(failed.status.state, MoveState::Probation);
    assert!(failed.status.paused && !failed.status.way_back);
}

#[test]
fn manual_switches_wait_for_their_operator_once() {
    let terms = Terms {
        manual: true,
        ..TERMS
    };
    let waiting = until(begin(terms), "await_switch");
    assert!(has_exit(&waiting));
    let switched = ask(&waiting, MoveCommand::Switch);
    let to = Side::Destination;
    assert_eq!(switched.doing, Some(Effect::Prewarm { to }));
    let retried = end(&until(switched, "fence"), failure(Remedy::Retry));
    until(retried, "fence");
    // Asked early, it is remembered.
    let early = ask(&until(begin(terms), "copy"), MoveCommand::Switch);
    assert_eq!(early.doing, Some(Effect::Copy));
    until(early, "fence");
}

#[test]
fn a_pause_stops_and_a_resumption_repeats_the_state() {
    let paused = ask(&until(begin(TERMS), "create_slot"), MoveCommand::Pause);
    assert_eq!((paused.doing, paused.status.paused), (None, true));
    let loaded = Machine::new(paused.status.clone(), TERMS);
    let loaded = step(&loaded, &Event::Resumed, NOW).unwrap().next;
    assert_eq!(loaded.doing, None, "another process does not go on either");
    let resumed = ask(&loaded, MoveCommand::Resume);
    assert_eq!(resumed.doing, Some(Effect::PrepareDestination));
}

#[test]
fn probation_ends_when_its_time_or_an_operator_says_so() {
    let verifying = until(begin(TERMS), "verify_final");
    let until_then = NOW + jiff::SignedDuration::from_secs(60);
    assert_eq!(verifying.status.probation_until, Some(until_then));
    let hurried = ask(&verifying, MoveCommand::Complete);
    assert_eq!(
        hurried.doing,
        Some(Effect::VerifyFinal),
        "not before it is compared"
    );
    assert_eq!(hurried.status.probation_until, Some(NOW));
    let completed = ask(&until(hurried, "await_probation"), MoveCommand::Complete);
    assert_eq!(completed.status.state, MoveState::Cleaning);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        8 => Just(None),
        2 => Just(Some(failure(Remedy::Retry))),
        1 => Just(Some(failure(Remedy::Restart))),
        1 => Just(Some(failure(Remedy::GiveUp))),
        1 => Just(Some(Outcome::Moved(Epoch(6)))),
        1 => Just(Some(Outcome::Done)),
    ]
    .prop_map(|outcome| outcome.unwrap_or(Outcome::Epoch(Epoch(0))))
}

#[derive(Debug, Clone)]
enum Push {
    End(Outcome),
    Ask(MoveCommand),
    Crash,
}

fn pushes() -> impl Strategy<Value = Push> {
    prop_oneof![
        10 => outcomes().prop_map(Push::End),
        2 => prop::sample::select(MoveCommand::ALL.to_vec()).prop_map(Push::Ask),
        1 => Just(Push::Crash),
    ]
}

proptest! {
    /// Whatever happens, in any order: there is always something to do or somebody to ask, the catalog never has a
    /// state that only a process knows, and nothing undoes a commit.
    #[test]
    fn any_course_has_an_exit(pushes in prop::collection::vec(pushes(), 1..200), manual: bool) {
        let mut machine = begin(Terms { manual, ..TERMS });
        for push in pushes {
            let before = machine.clone();
            machine = match push {
                Push::Crash => {
                    let loaded = Machine::new(machine.stored(), machine.terms);
                    match step(&loaded, &Event::Resumed, NOW) {
                        Ok(step) => step.next,
                        Err(_) => break,
                    }
                }
                Push::Ask(command) => match step(&machine, &Event::Asked(command), NOW) {
                    Ok(step) => step.next,
                    Err(_) => continue,
                },
                Push::End(outcome) => {
                    let Some(effect) = machine.doing else { continue };
                    let outcome = match outcome {
                        Outcome::Epoch(_) => well(effect),
                        other => other,
                    };
                    match step(&machine, &Event::Ended(effect, outcome), NOW) {
                        Ok(step) => step.next,
                        Err(_) => continue,
                    }
                }
            };
            prop_assert!(has_exit(&machine), "{before:?} -> {machine:?}");
            prop_assert_ne!(machine.stored().state, MoveState::Drained);
            if before.status.placement_epoch.is_some() {
                prop_assert!(machine.status.placement_epoch >= before.status.placement_epoch);
                prop_assert_ne!(machine.status.state, MoveState::Aborting);
            }
            // An effect that is repeated or replaced never skips what must be stored first.
            let fenced = matches!(machine.doing, Some(Effect::Fence { to: Side::Destination, .. }));
            prop_assert!(!fenced || machine.stored().state == MoveState::Fencing);
        }
    }
}
