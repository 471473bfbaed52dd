//! One live move: its state machine, its journal in the catalog, and the hands that carry its effects out.
//!
//! The task persists first and acts second: what [`Machine::stored`] says is in the catalog, compared on version and
//! lease, before the next effect starts. Within a cutover nothing is stored, because then the owner row of the shard that
//! is left is the journal (docs/adr/0024). Nothing is decided here: outcomes go to the machine and effects come back.

mod after;
mod before;
mod cutover;
mod failure;
pub(crate) mod fault;
mod hands;
mod owner;
mod streams;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tenantry_schema::catalog::moves::{
    AskedCommand, Move, MoveState, SwitchPolicy, Transition, TransitionError,
};
use tenantry_schema::catalog::{Catalog, CatalogError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use self::fault::FaultPoint;
use self::hands::Hands;
use crate::leader::Lead;
use crate::machine::{
    self, Effect, Event, Failure, IllegalTransition, Machine, Outcome, Remedy, Step, Terms,
};

pub(crate) use hands::{Context, endpoint};

/// How often progress is recorded.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Waits before an effect is tried again: doubled each time.
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A cutover is not begun with less left of the lead.
const LEAD_MIN: Duration = Duration::from_millis(500);
/// A catalog that does not answer is asked again after so long.
const STORE_AGAIN: Duration = Duration::from_millis(250);

/// Why a task stopped before its move was over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// Somebody else leads, or has changed the move: it is theirs.
    #[error("the move is in other hands")]
    Overtaken(#[source] TransitionError),
    /// The lease came to its end.
    #[error("the lead was lost")]
    LeadLost,
    /// The machine and the executor disagree: a defect.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// A fault point said so.
    #[error("stopped at a fault point")]
    FaultPoint,
}

/// Drives one move to its end, or as far as the lead reaches.
pub(crate) struct MoveTask {
    catalog: Catalog,
    lead: Lead,
    row: Move,
    machine: Machine,
    hands: Hands,
    commands: mpsc::Receiver<AskedCommand>,
    fault: Option<Arc<FaultPoint>>,
    /// Of repetitions in a row.
    pause: Duration,
    told: Instant,
}

/// What ended a wait for an effect.
enum Ended {
    /// The effect itself.
    Effect(Effect, Outcome),
    /// A command has put the machine elsewhere.
    GivenUp,
}

impl MoveTask {
    pub(crate) fn new(
        context: Arc<Context>,
        lead: Lead,
        row: Move,
        commands: mpsc::Receiver<AskedCommand>,
    ) -> Self {
        let terms = Terms {
            manual: row.policy.switch == SwitchPolicy::Manual,
            probation: row.policy.probation_or(context.config.probation),
        };
        Self {
            catalog: context.catalog_of_its_own(),
            fault: context.config.fault_point.clone().map(Arc::new),
            machine: Machine::new(row.status.clone(), terms),
            hands: Hands::new(context, &row),
            lead,
            row,
            commands,
            pause: BACK_OFF_MIN,
            told: Instant::now(),
        }
    }

    /// Works until the move is over.
    ///
    /// # Errors
    /// [`TaskError`]: the move is left where it is, for whoever leads.
    pub(crate) async fn run(mut self) -> Result<MoveState, TaskError> {
        let lead = self.lead.clone();
        let outcome = tokio::select! {
            outcome = Box::pin(self.drive()) => outcome,
            () = lead.lost() => Err(TaskError::LeadLost),
        };
        self.hands.stop().await;
        outcome
    }

    async fn drive(&mut self) -> Result<MoveState, TaskError> {
        let step = machine::step(&self.machine, &Event::Resumed, Timestamp::now())?;
        self.follow(step, None).await?;
        loop {
            let state = self.machine.status.state;
            if state.is_final() {
                return Ok(state);
            }
            let ended = match self.machine.doing {
                Some(effect) => self.perform(effect).await?,
                None => {
                    self.tell().await?;
                    self.command_while_idle().await?;
                    continue;
                }
            };
            let Ended::Effect(effect, outcome) = ended else {
                continue;
            };
            self.note(effect, &outcome);
            let event = Event::Ended(effect, outcome);
            let step = machine::step(&self.machine, &event, Timestamp::now())?;
            let back_off = step.back_off;
            self.follow(step, None).await?;
            if back_off {
                self.back_off().await?;
            } else {
                self.pause = BACK_OFF_MIN;
            }
        }
    }

    /// Stores what must be stored, then is where the step leads.
    async fn follow(&mut self, step: Step, command: Option<i64>) -> Result<(), TaskError> {
        let before = self.machine.stored();
        self.machine = step.next;
        let stored = self.machine.stored();
        if stored != before || stored != self.row.status || command.is_some() {
            self.store(command).await?;
            self.reach(&format!("stored {}", stored.state)).await?;
        }
        self.hands.enter(&self.row, self.machine.doing);
        Ok(())
    }

    /// Compare-and-set, as often as it takes for the catalog to answer.
    async fn store(&mut self, command: Option<i64>) -> Result<(), TaskError> {
        let next = self.machine.stored();
        let detail = json!({
            "next": self.machine.doing.map(Effect::name),
            "error": next.error,
            "attempts": next.attempts,
        });
        loop {
            let progress = self.hands.progress();
            let change = Transition {
                from: &self.row,
                next: &next,
                progress: &progress,
                lease: self.lead.epoch,
                detail: &detail,
                command,
            };
            match self.catalog.transition(&change).await {
                Ok(row) => {
                    tracing::info!(move_id = %row.id, state = %row.status.state, "move");
                    self.row = row;
                    return Ok(());
                }
                Err(TransitionError::Catalog(error)) if is_transient(&error) => {
                    tracing::warn!(%error, "the catalog does not take a transition; trying again");
                    sleep(STORE_AGAIN).await;
                    if self.was_stored(&next).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(TaskError::Overtaken(error)),
            }
        }
    }

    /// Whether the transition whose answer was lost has been made.
    async fn was_stored(&mut self, next: &tenantry_schema::catalog::moves::MoveStatus) -> bool {
        let Ok(row) = self.catalog.move_by_id(self.row.id).await else {
            return false;
        };
        let was = row.version == self.row.version + 1
            && row.lease == self.lead.epoch
            && row.status == *next;
        if was {
            self.row = row;
        }
        was
    }

    /// Carries an effect out, and hears commands meanwhile.
    async fn perform(&mut self, effect: Effect) -> Result<Ended, TaskError> {
        let place = format!("{}/{effect}", self.machine.status.state);
        self.reach(&place).await?;
        if !self.machine.takes_commands() {
            let begins = matches!(effect, Effect::Hold { .. });
            let outcome = if begins && !self.lead.holds_for(LEAD_MIN) {
                // Safe all the same, see docs/protocol.md; but another leader would end the attempt in its middle.
                Outcome::Failed(Failure {
                    remedy: Remedy::Retry,
                    reason: "the lead is about to end".to_owned(),
                })
            } else {
                self.hands.perform(effect).await
            };
            self.reach(&format!("after {place}")).await?;
            return Ok(Ended::Effect(effect, outcome));
        }
        self.tell_if_due().await?;
        let Self {
            hands,
            machine,
            commands,
            row,
            catalog,
            lead,
            ..
        } = self;
        let progress = hands.shared_progress();
        let ended = {
            let mut work = pin!(hands.perform(effect));
            loop {
                tokio::select! {
                    outcome = &mut work => break Ok(outcome),
                    Some(command) = commands.recv() => {
                        let event = Event::Asked(command.command);
                        match machine::step(machine, &event, Timestamp::now()) {
                            Ok(step) => break Err((command, step)),
                            Err(refused) => refuse(catalog, lead, &command, &refused.to_string()).await,
                        }
                    }
                    () = sleep(TELL_EVERY) => {
                        let now = progress.lock().clone();
                        let recorded = catalog.record_move_progress(row.id, lead.epoch, &now);
                        // A catalog that is away must not keep the effect waiting.
                        if let Ok(recorded) = timeout(TELL_EVERY, recorded).await {
                            told(recorded)?;
                        }
                    }
                }
            }
        };
        match ended {
            Ok(outcome) => {
                self.reach(&format!("after {place}")).await?;
                Ok(Ended::Effect(effect, outcome))
            }
            Err((command, step)) => {
                self.follow(step, Some(command.id)).await?;
                Ok(Ended::GivenUp)
            }
        }
    }

    /// Nothing is under way: an operator says how to go on.
    async fn command_while_idle(&mut self) -> Result<(), TaskError> {
        let Some(command) = self.commands.recv().await else {
            return Err(TaskError::LeadLost);
        };
        self.obey(&command).await?;
        Ok(())
    }

    /// Follows a command while no effect is under way. `false`: it was refused.
    async fn obey(&mut self, command: &AskedCommand) -> Result<bool, TaskError> {
        let event = Event::Asked(command.command);
        match machine::step(&self.machine, &event, Timestamp::now()) {
            Ok(step) => self.follow(step, Some(command.id)).await.map(|()| true),
            Err(refused) => {
                refuse(&self.catalog, &self.lead, command, &refused.to_string()).await;
                Ok(false)
            }
        }
    }

    async fn back_off(&mut self) -> Result<(), TaskError> {
        let pause = self.pause;
        self.pause = (self.pause * 2).min(BACK_OFF_MAX);
        self.hands.wait_until(Timestamp::now() + pause);
        self.tell_if_due().await?;
        let until = Instant::now() + pause;
        while self.machine.takes_commands() && Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                Some(command) = self.commands.recv() => if self.obey(&command).await? {
                    return Ok(());
                },
            }
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    async fn tell_if_due(&mut self) -> Result<(), TaskError> {
        if self.told.elapsed() < TELL_EVERY {
            return Ok(());
        }
        self.tell().await
    }

    async fn tell(&mut self) -> Result<(), TaskError> {
        self.told = Instant::now();
        let progress = self.hands.progress();
        let recorded = self
            .catalog
            .record_move_progress(self.row.id, self.lead.epoch, &progress);
        told(recorded.await)
    }

    fn note(&mut self, effect: Effect, outcome: &Outcome) {
        match outcome {
            Outcome::Failed(failure) => {
                tracing::warn!(move_id = %self.row.id, %effect, reason = failure.reason, remedy = ?failure.remedy, "an effect failed");
                self.hands.failed(&failure.reason);
            }
            outcome => {
                tracing::debug!(move_id = %self.row.id, %effect, ?outcome, "an effect is done");
                self.hands.succeeded();
            }
        }
    }

    async fn reach(&self, place: &str) -> Result<(), TaskError> {
        match &self.fault {
            Some(fault) if fault.reach(place).await => Err(TaskError::FaultPoint),
            _ => Ok(()),
        }
    }
}

/// Progress is for reading: a catalog that is away loses some of it, a lead that was overtaken ends the task.
fn told(recorded: Result<(), TransitionError>) -> Result<(), TaskError> {
    match recorded {
        Err(TransitionError::Catalog(error)) => {
            tracing::debug!(%error, "progress is not recorded");
            Ok(())
        }
        Err(error) => Err(TaskError::Overtaken(error)),
        Ok(()) => Ok(()),
    }
}

async fn refuse(catalog: &Catalog, lead: &Lead, command: &AskedCommand, why: &str) {
    // Refused again at the next start, if the catalog does not take it now.
    if let Err(error) = catalog
        .refuse_move_command(command.id, lead.epoch, why)
        .await
    {
        tracing::debug!(%error, "a refusal is not recorded");
    }
}

/// Whether the same may succeed when the catalog is back.
pub(crate) fn is_transient(error: &CatalogError) -> bool {
    !matches!(
        error,
        CatalogError::Refused { .. } | CatalogError::NotFound { .. }
    )
}
