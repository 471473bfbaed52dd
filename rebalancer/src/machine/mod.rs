//! The protocol of a move as a pure function: what happened goes in, what is to be done next comes out.
//!
//! [`step`] knows no clock, no socket and no catalog; time is an argument. At most one effect is under way, and each
//! is answered by one event. A change of [`Machine::stored`] must be in the catalog before the next effect starts;
//! within a cutover nothing changes there, because then the owner row of the shard that is left is the journal
//! (docs/adr/0024). A process that loads a move starts with [`Event::Resumed`]: every effect may have been begun by
//! another process before, and may even be finished by it later, so each is idempotent and a takeover of a cutover
//! begins by making what that process may still do fail.

mod commands;
mod course;
mod cutover;
pub mod invariants;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tenantry_schema::catalog::moves::{MoveCommand, MoveState, MoveStatus, Side};
use tenantry_schema::tenant::Epoch;

/// Something to be done outside. `to` is the side that a cutover brings the tenant to; the other one is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Check that the tenant can be moved at all.
    Preflight,
    /// The destination imports; what an earlier try left there is deleted.
    PrepareDestination,
    /// Publication on the source.
    CreatePublication,
    /// Slot on the source, with its snapshot.
    CreateSlot,
    /// The rows, in chunks.
    Copy,
    /// Statistics at the destination, without which applying is slow.
    Analyze,
    /// What was written since is applied until little is missing.
    CatchUp,
    /// Both sides are compared at one position.
    Verify,
    /// Publication and slot for the way back.
    PrepareReverse,
    /// An operator's word is waited for.
    AwaitSwitch,
    /// Routers ask before each transaction from now on and open connections.
    Prewarm {
        /// Where they open connections.
        to: Side,
    },
    /// The stream is quick and nobody holds the tenant's lock for long. Answered with the epoch to fence.
    AwaitGate {
        /// Where the stream ends.
        to: Side,
    },
    /// Routers let no transaction begin.
    Hold {
        /// Where the tenant goes.
        to: Side,
        /// The epoch at which it is active where it is.
        epoch: Epoch,
    },
    /// The shard that is left refuses the tenant. Answered with the fence's epoch.
    Fence {
        /// Where the tenant goes.
        to: Side,
        /// The epoch at which it is active where it is.
        epoch: Epoch,
    },
    /// Everything up to the fence is applied.
    AwaitMarker {
        /// Where.
        to: Side,
        /// The fence's.
        epoch: Epoch,
    },
    /// No sequence gives a number twice.
    AdvanceSequences {
        /// Where.
        to: Side,
        /// The fence's.
        epoch: Epoch,
    },
    /// The commit point: fenced becomes moved.
    HandOver {
        /// To whom.
        to: Side,
        /// The fence's.
        epoch: Epoch,
    },
    /// The tenant is served where it was handed over to.
    Activate {
        /// Where.
        to: Side,
        /// From which epoch on.
        epoch: Epoch,
    },
    /// Routers let transactions begin again, there.
    Release {
        /// Where the tenant is active.
        at: Side,
        /// At which epoch.
        epoch: Epoch,
    },
    /// Ends an attempt at a cutover, whoever made it: lifts the fence, or finds that the tenant was handed over. Either
    /// way whatever the attempt may still send fails.
    Unfence {
        /// Where the attempt was to bring the tenant.
        to: Side,
    },
    /// The forward slot, which nobody reads any more.
    DropForward,
    /// What is written at the destination is applied at the source.
    StartReverse,
    /// Both sides are compared once more, by the reverse stream.
    VerifyFinal,
    /// The way back is kept open.
    AwaitProbation,
    /// Slots and publications on both sides.
    DropObjects,
    /// The rows on the side that the tenant has left.
    Clean {
        /// Which.
        side: Side,
    },
    /// The rows at the destination, and that it imports.
    DropImport,
    /// Routers forget the move.
    Forget,
}

impl Effect {
    /// The name, as progress and logs show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::PrepareDestination => "prepare_destination",
            Self::CreatePublication => "create_publication",
            Self::CreateSlot => "create_slot",
            Self::Copy => "copy",
            Self::Analyze => "analyze",
            Self::CatchUp => "catch_up",
            Self::Verify => "verify",
            Self::PrepareReverse => "prepare_reverse",
            Self::AwaitSwitch => "await_switch",
            Self::Prewarm { .. } => "prewarm",
            Self::AwaitGate { .. } => "await_gate",
            Self::Hold { .. } => "hold",
            Self::Fence { .. } => "fence",
            Self::AwaitMarker { .. } => "await_marker",
            Self::AdvanceSequences { .. } => "advance_sequences",
            Self::HandOver { .. } => "hand_over",
            Self::Activate { .. } => "activate",
            Self::Release { .. } => "release",
            Self::Unfence { .. } => "unfence",
            Self::DropForward => "drop_forward",
            Self::StartReverse => "start_reverse",
            Self::VerifyFinal => "verify_final",
            Self::AwaitProbation => "await_probation",
            Self::DropObjects => "drop_objects",
            Self::Clean { .. } => "clean",
            Self::DropImport => "drop_import",
            Self::Forget => "forget",
        }
    }

    /// Part of a cutover: from the hold until the routers are released.
    pub fn is_cutover(self) -> bool {
        matches!(
            self,
            Self::Hold { .. }
                | Self::Fence { .. }
                | Self::AwaitMarker { .. }
                | Self::AdvanceSequences { .. }
                | Self::HandOver { .. }
                | Self::Activate { .. }
                | Self::Release { .. }
                | Self::Unfence { .. }
        )
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is done: the epoch of the owner row that was read or written. Of [`Effect::Unfence`]: the tenant is active
    /// where it was.
    Epoch(Epoch),
    /// Of [`Effect::Unfence`]: too late, the tenant was handed over at this epoch.
    Moved(Epoch),
    /// It did not succeed.
    Failed(Failure),
}

/// Why an effect did not succeed, and what that means for the move.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What to do.
    pub remedy: Remedy,
    /// Why.
    pub reason: String,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// The same again, later.
    Retry,
    /// From the start: what was copied is of no use any more.
    Restart,
    /// Nothing: it would fail again.
    GiveUp,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// This process begins to work on the move, where another one may have left it.
    Resumed,
    /// The effect that was under way has come to its end.
    Ended(Effect, Outcome),
    /// An operator asks.
    Asked(MoveCommand),
}

/// What a move was told about how it is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// An operator starts the cutover.
    pub manual: bool,
    /// How long the way back is kept open.
    pub probation: Duration,
}

/// A move in the hands of one process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    /// What the catalog has, or will have before the next effect starts; `DRAINED` is never stored.
    pub status: MoveStatus,
    /// The effect that is under way.
    pub doing: Option<Effect>,
    /// What is to follow when the fence of a failed attempt is lifted.
    pub after: Option<Failure>,
    /// How the move is to be made.
    pub terms: Terms,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The move from now on; its `doing` is the effect to start, and differs from the one before only if that one has
    /// ended or is to be given up.
    pub next: Machine,
    /// The effect is a repetition: wait before starting it, longer each time.
    pub back_off: bool,
}

/// An event that cannot happen where the move is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible in {state} while {} is under way", doing.map_or("nothing", Effect::name))]
pub struct IllegalTransition {
    /// Where the move is.
    pub state: MoveState,
    /// What is under way.
    pub doing: Option<Effect>,
    /// What was said to have happened.
    pub event: String,
}

impl Machine {
    /// A move as it was read from the catalog; nothing is under way before [`Event::Resumed`].
    pub fn new(status: MoveStatus, terms: Terms) -> Self {
        Self {
            status,
            doing: None,
            after: None,
            terms,
        }
    }

    /// What the catalog must have before the next effect starts.
    pub fn stored(&self) -> MoveStatus {
        let state = match self.status.state {
            MoveState::Drained => MoveState::Fencing,
            state => state,
        };
        MoveStatus {
            state,
            ..self.status.clone()
        }
    }

    /// A command is looked at only outside of cutovers, which are short.
    pub fn takes_commands(&self) -> bool {
        !self.doing.is_some_and(Effect::is_cutover)
            && !matches!(
                self.status.state,
                MoveState::Fencing | MoveState::Drained | MoveState::Committed
            )
    }

    fn illegal(&self, event: &Event) -> IllegalTransition {
        IllegalTransition {
            state: self.status.state,
            doing: self.doing,
            event: match event {
                Event::Resumed => "resumption".to_owned(),
                Event::Ended(effect, outcome) => format!("the end of {effect} with {outcome:?}"),
                Event::Asked(command) => format!("the command {command}"),
            },
        }
    }

    /// The same move with another effect under way.
    fn on(&self, effect: Effect) -> Step {
        let mut next = self.clone();
        next.doing = Some(effect);
        Step {
            next,
            back_off: false,
        }
    }

    /// The same again, later.
    fn again(&self, effect: Effect) -> Step {
        Step {
            back_off: true,
            ..self.on(effect)
        }
    }

    /// The move in another state, where it begins.
    fn enter(&self, state: MoveState) -> Step {
        let mut next = self.clone();
        next.status.state = state;
        next.after = None;
        next.doing = course::entry(&next);
        Step {
            next,
            back_off: false,
        }
    }

    fn failed(&self, state: MoveState, reason: &str) -> Step {
        let mut step = self.enter(state);
        step.next.status.error = Some(reason.to_owned());
        step
    }

    /// Stands still until an operator says how to go on.
    fn stuck(&self, reason: &str) -> Step {
        let mut next = self.clone();
        next.status.paused = true;
        next.status.error = Some(reason.to_owned());
        Step {
            next,
            back_off: false,
        }
    }
}

/// What follows from an event. The result is either a move with an effect under way, or one that is paused or over.
pub fn step(machine: &Machine, event: &Event, now: Timestamp) -> Result<Step, IllegalTransition> {
    if machine.status.state.is_final() {
        return Err(machine.illegal(event));
    }
    let followed = match event {
        Event::Resumed => Some(course::resumed(machine)),
        Event::Asked(command) => commands::asked(machine, *command, now),
        Event::Ended(effect, outcome) if machine.doing == Some(*effect) => {
            if effect.is_cutover() {
                cutover::ended(machine, *effect, outcome)
            } else {
                course::ended(machine, *effect, outcome, now)
            }
        }
        Event::Ended(..) => None,
    };
    let mut step = followed.ok_or_else(|| machine.illegal(event))?;
    // A cutover is brought to its end first: a pause never leaves a fence.
    if step.next.status.paused && step.next.takes_commands() {
        step.next.doing = None;
    }
    Ok(step)
}
