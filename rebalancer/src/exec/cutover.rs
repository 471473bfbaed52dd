//! The cutover: from the hold at the routers to their release, within a budget of time.
//!
//! Everything that can be done before the pause is: sessions are open, sequences have room, the destination knows the hash
//! of the proof. What is left is the fence, the marker's way through the stream, the hand-over, which is the commit point,
//! and the activation. No catalog is asked.

use std::time::Duration;

use jiff::Timestamp;
use tenantry_schema::catalog::moves::{HoldReport, IdlePolicy, Side};
use tenantry_schema::control::{Hold, MoveNotice, Prepare, Release};
use tenantry_schema::guard::proof_hash;
use tenantry_schema::tenant::Epoch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use uuid::Uuid;

use super::failure::EffectError;
use super::hands::Hands;
use super::owner::{Fenced, Holder, Lifted, Secrets};
use super::streams::millis;
use crate::apply::Direction;
use crate::machine::Outcome;
use crate::sequences;
use crate::shard::connect;

/// How long a router asks before each transaction without being told again.
const PREPARE_LASTS: Duration = Duration::from_secs(60);
const PREPARE_MAX: Duration = Duration::from_secs(2);
/// So many markers in a row must arrive so quickly.
const GATE_MARKERS: u32 = 20;
const GATE_QUICK: Duration = Duration::from_millis(20);
/// After so long on a busy machine a slower stream is good enough, as long as it leaves room in the budget.
const GATE_PATIENCE: Duration = Duration::from_secs(5);
const GATE_MAX: Duration = Duration::from_secs(60);
/// A transaction of the tenant that is older would keep the fence waiting.
const LONG_S: f64 = 0.1;
/// Sessions idle in a transaction are ended after so long, where the policy says so.
const IDLE_S: f64 = 1.0;
const LOOK: Duration = Duration::from_millis(50);
/// One attempt at the tenant's lock.
const LOCK_WAIT: Duration = Duration::from_millis(10);
const LOCK_AGAIN: Duration = Duration::from_millis(2);
/// The part of the budget after which the lock is not tried for any more.
const LOCK_PART: f64 = 0.6;
/// From when on anyone may lift the fence of a rebalancer that is silent.
const FENCE_LASTS: Duration = Duration::from_secs(2);
/// Values that sequences are ahead before the pause, so that none has to be advanced within.
const ROOM: u32 = 10_000;
const SEQUENCE_MAX: Duration = Duration::from_millis(500);
const RELEASE_MAX: Duration = Duration::from_secs(1);
/// What a message to a router may take beyond its own time.
const CALL_MARGIN: Duration = Duration::from_millis(20);

/// One attempt at a cutover.
pub(super) struct Attempt {
    to: Side,
    secrets: Secrets,
    at: Timestamp,
    began: Instant,
    fence_began: Option<Instant>,
    fence: Duration,
    lock_attempts: u32,
    committed: bool,
    budget: Duration,
    pub(super) failure: Option<String>,
}

impl Attempt {
    fn left(&self) -> Duration {
        self.budget.saturating_sub(self.began.elapsed())
    }
}

impl Hands {
    fn notice(&self, to: Side) -> MoveNotice {
        MoveNotice {
            tenant: self.row.tenant,
            move_id: self.row.id.0,
            source: self.row.shard(to.other()),
            destination: self.row.shard(to),
        }
    }

    pub(super) async fn prewarm(&mut self, to: Side) -> Result<Outcome, EffectError> {
        self.ensure_applier(Direction::to(to)).await?;
        let leaving = self.session(to.other()).await?;
        let tables = self.tables().await?;
        let mut arriving = connect(&self.endpoint(to).await?).await?;
        sequences::advance(&leaving, &mut arriving, &tables, ROOM, SEQUENCE_MAX).await?;
        self.sequencer = Some(arriving);
        self.session(to).await?;
        self.tell_routers(to).await?;
        Ok(Outcome::Done)
    }

    /// Routers ask before each transaction from now on. Those that are away find the fence.
    async fn tell_routers(&mut self, to: Side) -> Result<(), EffectError> {
        let Some(routers) = self.context.routers.clone() else {
            return Ok(());
        };
        let live = routers.live(&self.context.catalog).await?;
        let message = Prepare {
            notice: self.notice(to),
            lasts_ms: whole_millis(PREPARE_LASTS),
        };
        let answers = routers
            .prepare(&live.controlled, &message, PREPARE_MAX)
            .await;
        for (router, error) in &answers.failed {
            tracing::warn!(router = router.name, %error, "a router does not hear of the move");
        }
        self.informed = answers
            .answered
            .into_iter()
            .map(|(router, _)| router)
            .collect();
        Ok(())
    }

    pub(super) async fn await_gate(&mut self, to: Side) -> Result<Outcome, EffectError> {
        self.ensure_applier(Direction::to(to)).await?;
        let leaving = self.session(to.other()).await?;
        let began = Instant::now();
        let (mut quick, mut markers) = (0, 0);
        while quick < GATE_MARKERS {
            if began.elapsed() > GATE_MAX {
                let why = self.progress().waiting.unwrap_or_default();
                return Err(EffectError::NotYet(format!("the gate did not open: {why}")));
            }
            if !self.nobody_in_the_way(&leaving).await? {
                quick = 0;
                sleep(LOOK).await;
                continue;
            }
            let applier = self.applier(Direction::to(to))?;
            let times = match timeout(GATE_MAX, applier.probe(&leaving)).await {
                Ok(Ok(times)) => times,
                Ok(Err(_)) if applier.status().borrow().has_ended() => {
                    return self.why_ended(Direction::to(to)).await;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_elapsed) => {
                    return Err(EffectError::NotYet("a marker did not arrive".to_owned()));
                }
            };
            markers += 1;
            let enough = if began.elapsed() > GATE_PATIENCE {
                self.budget() / 3
            } else {
                GATE_QUICK
            };
            quick = if times.applied <= enough {
                quick + 1
            } else {
                0
            };
            self.tell(|progress| progress.lag_ms = Some(millis(times.applied)));
            if quick == 0 {
                self.waits_for(format!(
                    "the stream: a marker took {:.1} ms, {GATE_MARKERS} in a row may take {} ms each",
                    millis(times.applied),
                    enough.as_millis()
                ));
            }
        }
        tracing::debug!(markers, "the gate is open");
        self.tell(|progress| progress.waiting = None);
        Ok(Outcome::Epoch(self.owner.serving(&leaving).await?))
    }

    /// Whether no long transaction of the tenant holds its lock. By policy, sessions that idle in one are ended.
    async fn nobody_in_the_way(&mut self, leaving: &Client) -> Result<bool, EffectError> {
        let holders = self.owner.holders(leaving, LONG_S).await?;
        let Some(first) = holders.first() else {
            return Ok(true);
        };
        let what = if first.idle {
            "idle in a transaction"
        } else {
            "in a transaction"
        };
        self.waits_for(format!(
            "{} session(s) of the tenant: process {} is {what} for {:.1} s",
            holders.len(),
            first.pid,
            first.for_s
        ));
        if self.row.policy.idle == IdlePolicy::Terminate {
            for holder in holders.iter().filter(|one| ends_now(one)) {
                tracing::warn!(
                    pid = holder.pid,
                    "ending a session that is idle in a transaction of the tenant"
                );
                leaving
                    .execute("SELECT pg_terminate_backend($1)", &[&holder.pid])
                    .await?;
            }
        }
        Ok(false)
    }

    fn budget(&self) -> Duration {
        let default = self.context.config.pause_budget;
        self.row.policy.pause_budget_or(default)
    }

    pub(super) async fn hold(&mut self, to: Side, epoch: Epoch) -> Result<Outcome, EffectError> {
        let secrets = Secrets {
            nonce: Uuid::new_v4(),
            proof: Uuid::new_v4(),
        };
        let arriving = self.session(to).await?;
        // Also makes sure that this session works.
        self.session(to.other()).await?;
        let hash = proof_hash(secrets.proof, Epoch(epoch.0 + 1));
        self.owner.expect_proof(&arriving, &hash).await?;
        let budget = self.budget();
        self.attempt = Some(Attempt {
            to,
            secrets,
            at: Timestamp::now(),
            began: Instant::now(),
            fence_began: None,
            fence: Duration::ZERO,
            lock_attempts: 0,
            committed: false,
            budget,
            failure: None,
        });
        if let Some(routers) = &self.context.routers {
            let drain = budget.mul_f64(LOCK_PART / 2.0);
            let message = Hold {
                notice: self.notice(to),
                deadline_ms: whole_millis(FENCE_LASTS),
                drain_ms: whole_millis(drain),
            };
            let answers = routers
                .hold(&self.informed, &message, drain + CALL_MARGIN)
                .await;
            for (router, error) in &answers.failed {
                tracing::warn!(router = router.name, %error, "a router does not hold the tenant");
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn fence(&mut self, to: Side, epoch: Epoch) -> Result<Outcome, EffectError> {
        let leaving = self.session(to.other()).await?;
        let attempt = self.attempt.as_mut().ok_or_else(no_attempt)?;
        attempt.fence_began = Some(Instant::now());
        let until = attempt.began + attempt.budget.mul_f64(LOCK_PART);
        loop {
            attempt.lock_attempts += 1;
            let lasts = (epoch, FENCE_LASTS);
            let fenced = self
                .owner
                .fence(&leaving, attempt.secrets, lasts, LOCK_WAIT);
            if let Fenced::At(epoch) = fenced.await? {
                return Ok(Outcome::Epoch(epoch));
            }
            if Instant::now() > until {
                return Err(EffectError::NotYet(format!(
                    "somebody held the tenant's lock at each of {} attempts",
                    attempt.lock_attempts
                )));
            }
            sleep(LOCK_AGAIN).await;
        }
    }

    pub(super) async fn await_marker(&mut self, to: Side) -> Result<Outcome, EffectError> {
        if self.context.config.left_out.marker {
            return Ok(Outcome::Done);
        }
        let attempt = self.attempt.as_ref().ok_or_else(no_attempt)?;
        let applier = self.applier(Direction::to(to))?;
        let marker = applier.until_marker(attempt.secrets.nonce);
        match timeout(attempt.left(), marker).await {
            Ok(reached) => {
                reached?;
                Ok(Outcome::Done)
            }
            Err(_elapsed) => Err(over_budget("the fence's marker has not arrived")),
        }
    }

    pub(super) async fn advance_sequences(&mut self, to: Side) -> Result<Outcome, EffectError> {
        let leaving = self.session(to.other()).await?;
        let tables = self.tables().await?;
        let left = self.attempt.as_ref().ok_or_else(no_attempt)?.left();
        let arriving = self
            .sequencer
            .as_mut()
            .ok_or_else(|| EffectError::NotYet("the destination was not warmed".to_owned()))?;
        let advanced = sequences::advance(&leaving, arriving, &tables, 0, left);
        match timeout(left, advanced).await {
            Ok(advanced) => {
                advanced?;
                Ok(Outcome::Done)
            }
            Err(_elapsed) => Err(over_budget("sequences are not advanced")),
        }
    }

    pub(super) async fn hand_over(
        &mut self,
        to: Side,
        epoch: Epoch,
    ) -> Result<Outcome, EffectError> {
        let leaving = self.session(to.other()).await?;
        let attempt = self.attempt.as_mut().ok_or_else(no_attempt)?;
        if attempt.left().is_zero() {
            return Err(over_budget("the tenant is not handed over"));
        }
        let shard = self.row.shard(to);
        if self.owner.hand_over(&leaving, epoch, shard).await? {
            attempt.committed = true;
            return Ok(Outcome::Done);
        }
        Err(EffectError::NotYet("the fence was lifted".to_owned()))
    }

    pub(super) async fn activate(
        &mut self,
        to: Side,
        epoch: Epoch,
    ) -> Result<Outcome, EffectError> {
        let arriving = self.session(to).await?;
        if !self.owner.activate(&arriving, epoch).await? {
            return Err(EffectError::NotYet(format!(
                "the {to} does not wait for the tenant"
            )));
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.committed |= attempt.to == to;
            attempt.fence = attempt
                .fence_began
                .map_or(Duration::ZERO, |at| at.elapsed());
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn release(&mut self, at: Side, epoch: Epoch) -> Result<Outcome, EffectError> {
        let (mut held, mut longest) = (0, None);
        if let Some(routers) = self.context.routers.clone() {
            if self.attempt.is_none() {
                // Another process has begun this cutover and knew the routers.
                self.informed = routers.live(&self.context.catalog).await?.controlled;
            }
            let message = Release {
                tenant: self.row.tenant,
                move_id: self.row.id.0,
                shard: self.row.shard(at),
                epoch,
            };
            let answers = routers.release(&self.informed, &message, RELEASE_MAX).await;
            for (router, error) in &answers.failed {
                tracing::warn!(router = router.name, %error, "a router does not hear of the release");
            }
            for (_, released) in answers.answered {
                held += released.held;
                let ms = millis(Duration::from_micros(released.longest_us));
                longest = Some(longest.map_or(ms, |before: f64| before.max(ms)));
            }
        }
        if let Some(attempt) = self.attempt.take() {
            let failure = attempt.failure.filter(|_| !attempt.committed);
            let report = HoldReport {
                at: attempt.at,
                to: attempt.to,
                committed: attempt.committed,
                hold_ms: millis(attempt.began.elapsed()),
                fence_ms: millis(attempt.fence),
                longest_ms: longest,
                held,
                lock_attempts: attempt.lock_attempts,
                failure,
            };
            self.tell(|progress| progress.holds.push(report));
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn unfence(&mut self, to: Side) -> Result<Outcome, EffectError> {
        let leaving = self.session(to.other()).await?;
        Ok(match self.owner.lift(&leaving).await? {
            Lifted::Served(epoch) => Outcome::Epoch(epoch),
            Lifted::Moved(epoch) => Outcome::Moved(epoch),
        })
    }
}

fn ends_now(holder: &Holder) -> bool {
    holder.idle && holder.for_s > IDLE_S
}

/// A process that resumes a cutover has none: it ends what the other one began.
fn no_attempt() -> EffectError {
    EffectError::NotYet("the attempt was another process's".to_owned())
}

fn over_budget(what: &str) -> EffectError {
    EffectError::NotYet(format!("{what} within the pause budget"))
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
