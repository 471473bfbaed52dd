//! The course of a move outside of its cutovers: what follows when an effect has ended.

use jiff::{SignedDuration, Timestamp};
use tenantry_schema::catalog::moves::{MoveState as State, Side};

use super::{Effect, Failure, Machine, Outcome, Remedy, Step};

/// What a state begins with, also after a crash in it; `None` where it has nothing to do.
pub(super) fn entry(machine: &Machine) -> Option<Effect> {
    let effect = match machine.status.state {
        State::Planned => Effect::Preflight,
        State::Prepared => Effect::PrepareDestination,
        State::Copying => Effect::Copy,
        State::Catchup => Effect::Analyze,
        State::Verified => Effect::Verify,
        State::Ready => Effect::PrepareReverse,
        // Whatever an attempt left, or may still do, is ended first.
        State::Fencing | State::Drained | State::Aborting => Effect::Unfence {
            to: Side::Destination,
        },
        State::Committed => Effect::DropForward,
        State::Probation if machine.status.way_back => Effect::VerifyFinal,
        State::Probation => Effect::AwaitProbation,
        State::RollingBack if machine.status.lives_at == Side::Destination => {
            Effect::Unfence { to: Side::Source }
        }
        State::Cleaning | State::RollingBack => Effect::DropObjects,
        State::Done | State::RolledBack | State::Aborted => return None,
    };
    Some(effect)
}

/// Begins where the catalog says the move is.
pub(super) fn resumed(machine: &Machine) -> Step {
    machine.enter(machine.stored().state)
}

/// What follows on an effect that is not part of a cutover; `None`: this cannot be its outcome.
pub(super) fn ended(
    machine: &Machine,
    effect: Effect,
    outcome: &Outcome,
    now: Timestamp,
) -> Option<Step> {
    match outcome {
        Outcome::Failed(failure) => Some(failed(machine, effect, failure)),
        Outcome::Epoch(epoch) => match effect {
            Effect::AwaitGate { to } => {
                // Counted, and so stored, before the fence: a process that was overtaken since the epoch was read stops
                // here, and one that is overtaken later finds the epoch raised.
                let mut next = machine.clone();
                next.status.attempts += 1;
                next.status.error = None;
                if to == Side::Destination {
                    next.status.state = State::Fencing;
                }
                Some(next.on(Effect::Hold { to, epoch: *epoch }))
            }
            _ => None,
        },
        Outcome::Moved(_) => None,
        Outcome::Done => done(machine, effect, now),
    }
}

fn done(machine: &Machine, effect: Effect, now: Timestamp) -> Option<Step> {
    let state = machine.status.state;
    let step = match (state, effect) {
        (State::Planned, Effect::Preflight) => machine.enter(State::Prepared),
        (State::Prepared, Effect::PrepareDestination) => machine.on(Effect::CreatePublication),
        (State::Prepared, Effect::CreatePublication) => machine.on(Effect::CreateSlot),
        (State::Prepared, Effect::CreateSlot) => machine.enter(State::Copying),
        (State::Copying, Effect::Copy) => machine.enter(State::Catchup),
        (State::Catchup, Effect::Analyze) => machine.on(Effect::CatchUp),
        (State::Catchup, Effect::CatchUp) => machine.enter(State::Verified),
        (State::Verified, Effect::Verify) => machine.enter(State::Ready),
        (State::Ready, Effect::PrepareReverse)
            if machine.terms.manual && !machine.status.switch_asked =>
        {
            machine.on(Effect::AwaitSwitch)
        }
        (State::Ready, Effect::PrepareReverse | Effect::AwaitSwitch) => {
            machine.on(Effect::Prewarm {
                to: Side::Destination,
            })
        }
        (State::Ready | State::RollingBack, Effect::Prewarm { to }) => {
            machine.on(Effect::AwaitGate { to })
        }
        (State::Committed, Effect::DropForward) if machine.status.way_back => {
            machine.on(Effect::StartReverse)
        }
        (State::Committed, Effect::DropForward | Effect::StartReverse) => {
            on_probation(machine, now)
        }
        (State::Probation, Effect::VerifyFinal) => machine.on(Effect::AwaitProbation),
        (State::Probation, Effect::AwaitProbation) => machine.enter(State::Cleaning),
        (State::Cleaning, Effect::DropObjects) => machine.on(Effect::Clean { side: Side::Source }),
        (State::RollingBack, Effect::DropObjects) => machine.on(Effect::Clean {
            side: Side::Destination,
        }),
        (State::Aborting, Effect::DropObjects) => machine.on(Effect::DropImport),
        (State::Cleaning | State::RollingBack, Effect::Clean { .. })
        | (State::Aborting, Effect::DropImport) => machine.on(Effect::Forget),
        (State::Cleaning, Effect::Forget) => machine.enter(State::Done),
        (State::RollingBack, Effect::Forget) => machine.enter(State::RolledBack),
        (State::Aborting, Effect::Forget) => machine.enter(State::Aborted),
        _ => return None,
    };
    Some(step)
}

/// Without the reverse stream nothing can be compared any more, and nobody could go back: an operator decides.
fn on_probation(machine: &Machine, now: Timestamp) -> Step {
    let mut step = machine.enter(State::Probation);
    let lasts = SignedDuration::try_from(machine.terms.probation).unwrap_or(SignedDuration::MAX);
    step.next.status.probation_until = Some(now.saturating_add(lasts).unwrap_or(Timestamp::MAX));
    step.next.status.paused |= !step.next.status.way_back;
    step
}

fn failed(machine: &Machine, effect: Effect, failure: &Failure) -> Step {
    let reason = &*failure.reason;
    match (machine.status.state, failure.remedy) {
        (_, Remedy::Retry) => machine.again(effect),
        (
            State::Prepared | State::Copying | State::Catchup | State::Verified | State::Ready,
            Remedy::Restart,
        ) => Step {
            back_off: true,
            ..machine.failed(State::Prepared, reason)
        },
        (
            State::Planned
            | State::Prepared
            | State::Copying
            | State::Catchup
            | State::Verified
            | State::Ready,
            Remedy::GiveUp | Remedy::Restart,
        ) => machine.failed(State::Aborting, reason),
        // The tenant is served at the destination, and stays there if the stream back is of no use.
        (State::Committed, _) => without_way_back(machine, reason),
        (State::RollingBack, _) if machine.status.lives_at == Side::Destination => {
            let mut step = machine.enter(State::Probation);
            step.next.status.way_back = false;
            step.next.stuck(reason)
        }
        // What is left can only be deleted or compared: somebody has to look at why that fails.
        (State::Probation, _) => {
            let mut next = machine.clone();
            next.status.way_back &= effect != Effect::StartReverse;
            next.stuck(reason)
        }
        _ => machine.stuck(reason),
    }
}

fn without_way_back(machine: &Machine, reason: &str) -> Step {
    let mut next = machine.clone();
    next.status.way_back = false;
    next.status.error = Some(reason.to_owned());
    next.on(Effect::DropForward)
}
