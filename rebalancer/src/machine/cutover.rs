//! Cutovers, the same in both directions: `to` is where the tenant goes, the other side is left and holds the journal.
//!
//! The owner row of the side that is left decides: once it says `moved` there is only forward; before that any failure
//! ends the attempt by lifting the fence, which raises the epoch so that nothing of the attempt can take effect later.

use tenantry_schema::catalog::moves::{MoveState as State, Side};
use tenantry_schema::tenant::Epoch;

use super::{Effect, Failure, Machine, Outcome, Remedy, Step};

/// What follows on an effect of a cutover; `None`: this cannot be its outcome.
pub(super) fn ended(machine: &Machine, effect: Effect, outcome: &Outcome) -> Option<Step> {
    let step = match (effect, outcome) {
        (Effect::Hold { to, epoch }, Outcome::Done) => machine.on(Effect::Fence { to, epoch }),
        (Effect::Fence { to, .. }, Outcome::Epoch(epoch)) => {
            machine.on(Effect::AwaitMarker { to, epoch: *epoch })
        }
        (Effect::AwaitMarker { to, epoch }, Outcome::Done) => {
            let mut next = machine.clone();
            if next.status.state == State::Fencing {
                next.status.state = State::Drained;
            }
            next.on(Effect::AdvanceSequences { to, epoch })
        }
        (Effect::AdvanceSequences { to, epoch }, Outcome::Done) => {
            machine.on(Effect::HandOver { to, epoch })
        }
        (Effect::HandOver { to, epoch }, Outcome::Done) => {
            machine.on(Effect::Activate { to, epoch })
        }
        (Effect::Unfence { to }, Outcome::Moved(epoch)) => {
            machine.on(Effect::Activate { to, epoch: *epoch })
        }
        (Effect::Activate { to, epoch }, Outcome::Done) => {
            machine.on(Effect::Release { at: to, epoch })
        }
        (Effect::Unfence { to }, Outcome::Epoch(epoch)) => machine.on(Effect::Release {
            at: to.other(),
            epoch: *epoch,
        }),
        (Effect::Release { at, epoch }, Outcome::Done) => released(machine, at, epoch),
        (
            Effect::Hold { to, .. }
            | Effect::Fence { to, .. }
            | Effect::AwaitMarker { to, .. }
            | Effect::AdvanceSequences { to, .. }
            | Effect::HandOver { to, .. },
            Outcome::Failed(failure),
        ) => {
            let mut next = machine.clone();
            next.after = Some(failure.clone());
            next.on(Effect::Unfence { to })
        }
        // Forward only, or back only: these are repeated until they succeed.
        (
            Effect::Activate { .. } | Effect::Release { .. } | Effect::Unfence { .. },
            Outcome::Failed(_),
        ) => machine.again(effect),
        _ => return None,
    };
    Some(step)
}

/// The routers know where the tenant is; now the catalog learns it.
fn released(machine: &Machine, at: Side, epoch: Epoch) -> Step {
    let committed = at != machine.status.lives_at;
    match machine.status.state {
        _ if committed => {
            let mut next = machine.clone();
            next.status.lives_at = at;
            next.status.placement_epoch = Some(epoch);
            next.status.attempts = 0;
            next.status.error = None;
            match at {
                Side::Destination => next.enter(State::Committed),
                Side::Source => next.enter(State::RollingBack),
            }
        }
        State::Aborting => machine.on(Effect::DropObjects),
        state => after_attempt(machine, state),
    }
}

/// The attempt is over and the tenant is where it was.
fn after_attempt(machine: &Machine, state: State) -> Step {
    let remedy = machine
        .after
        .as_ref()
        .map_or(Remedy::Retry, |failure| failure.remedy);
    let reason = machine
        .after
        .as_ref()
        .map(|failure: &Failure| failure.reason.clone());
    let mut step = match (state, remedy) {
        (State::RollingBack, Remedy::Retry) => machine.on(Effect::Prewarm { to: Side::Source }),
        (State::RollingBack, _) => {
            let mut step = machine.enter(State::Probation);
            step.next.status.way_back = false;
            step.next.status.paused = true;
            step
        }
        (_, Remedy::Retry) => machine.enter(State::Ready),
        (_, Remedy::Restart) => machine.enter(State::Prepared),
        (_, Remedy::GiveUp) => machine.enter(State::Aborting),
    };
    // A resumed move has no failure of its own to tell.
    step.next.status.error = reason.or_else(|| step.next.status.error.clone());
    step.back_off = machine.after.is_some();
    step.next.after = None;
    step
}
