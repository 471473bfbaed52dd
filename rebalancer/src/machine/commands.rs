//! What operators ask: followed between effects, and by giving up the one that is under way.

use jiff::Timestamp;
use tenantry_schema::catalog::moves::{MoveCommand, MoveState as State};

use super::{Effect, Machine, Step, course};

/// What follows on a command; `None`: it cannot be followed (now).
pub(super) fn asked(machine: &Machine, command: MoveCommand, now: Timestamp) -> Option<Step> {
    if !machine.takes_commands() || machine.status.accepts(command).is_err() {
        return None;
    }
    let mut next = machine.clone();
    let unchanged = |next: Machine| Step {
        next,
        back_off: false,
    };
    let step = match command {
        MoveCommand::Pause => {
            next.status.paused = true;
            next.doing = None;
            unchanged(next)
        }
        MoveCommand::Resume => {
            if next.status.paused {
                next.status.paused = false;
                next.doing = course::entry(&next);
            }
            unchanged(next)
        }
        MoveCommand::Switch => {
            next.status.switch_asked = true;
            match next.doing {
                Some(effect @ Effect::AwaitSwitch) => {
                    course::ended(&next, effect, &super::Outcome::Done, now)?
                }
                _ => unchanged(next),
            }
        }
        MoveCommand::Cancel => {
            next.status.paused = false;
            next.status.error = Some("cancelled".to_owned());
            next.enter(State::Aborting)
        }
        MoveCommand::Reverse => {
            next.status.paused = false;
            next.status.attempts = 0;
            next.status.error = None;
            next.enter(State::RollingBack)
        }
        // Who is told of a failed comparison and completes nevertheless has decided.
        MoveCommand::Complete if next.status.paused && next.status.error.is_some() => {
            next.status.paused = false;
            next.enter(State::Cleaning)
        }
        MoveCommand::Complete => {
            next.status.probation_until = Some(now);
            match next.doing {
                Some(Effect::AwaitProbation) => next.enter(State::Cleaning),
                _ => unchanged(next),
            }
        }
    };
    Some(step)
}
