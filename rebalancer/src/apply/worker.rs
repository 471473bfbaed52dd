//! The applier's task: reads what is there, applies it, and begins again after whatever can be overcome.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenantry_wire::replication::Lsn;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::error::{ApplyError, Consequence};
use super::handle::{Advance, HaltError};
use super::intake::{Intake, IntakeOptions, Taken};
use super::marker::Identity;
use super::session::{Progress, ProgressKey, Session};
use super::status::{ApplyPhase, ApplyStatus};
use super::target::Targets;
use super::{ApplierConfig, Direction};
use crate::replication::{Frame, ReplicationStream, Walsender};

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Between unasked reports to the source; far below `wal_sender_timeout`.
const REPORT: Duration = Duration::from_secs(1);
/// Between questions how far the source is, while somebody waits for a position on an idle source.
const ASK: Duration = Duration::from_millis(5);

/// Somebody wants the applier to halt.
#[derive(Debug)]
struct Halt {
    orders: mpsc::Receiver<Advance>,
    /// The order that is being carried out, or was.
    to: Option<Lsn>,
    waiting: Option<Advance>,
}

pub(super) struct Worker {
    pub(super) config: ApplierConfig,
    pub(super) targets: Arc<Targets>,
    pub(super) who: Identity,
    pub(super) status: watch::Sender<ApplyStatus>,
    pub(super) halts: mpsc::Receiver<mpsc::Receiver<Advance>>,
    pub(super) stop: CancellationToken,
    halt: Option<Halt>,
    /// Up to here changes are applied one by one, because folding them failed.
    in_order_until: Lsn,
    /// They are now.
    in_order: bool,
    /// How far the last attempt had read when it ended.
    read: Lsn,
}

/// Both connections and what is between them.
struct Stream {
    source: ReplicationStream,
    session: Session,
    intake: Intake,
    /// A message that waits until the applier goes on.
    held: Option<Bytes>,
    /// Everything that committed before is applied.
    reached: Lsn,
    report_at: Instant,
}

impl Worker {
    pub(super) fn new(
        config: ApplierConfig,
        targets: Arc<Targets>,
        who: Identity,
        status: watch::Sender<ApplyStatus>,
        halts: mpsc::Receiver<mpsc::Receiver<Advance>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            config,
            targets,
            who,
            status,
            halts,
            stop,
            halt: None,
            in_order_until: Lsn::INVALID,
            in_order: false,
            read: Lsn::INVALID,
        }
    }

    pub(super) async fn run(mut self) -> Result<(), ApplyError> {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.status.borrow().applied;
            let error = match self.attempt().await {
                Ok(()) => {
                    self.status
                        .send_modify(|status| status.phase = ApplyPhase::Ended);
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.consequence() {
                Consequence::Retry => {}
                Consequence::InOrder if !self.in_order => self.in_order_until = self.read,
                Consequence::InOrder | Consequence::Fatal => return Err(self.give_up(error)),
            }
            tracing::warn!(
                move_id = %self.who.move_id, direction = self.who.direction, error = %chain(&error),
                "the applier begins again"
            );
            let is_further = self.status.borrow().applied > before;
            pause = if is_further {
                PAUSE_MIN
            } else {
                (pause * 2).min(PAUSE_MAX)
            };
            self.status.send_modify(|status| {
                status.phase = ApplyPhase::Connecting;
                status.restarts += 1;
                status.last_error = Some(chain(&error));
            });
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn give_up(&self, error: ApplyError) -> ApplyError {
        self.status.send_modify(|status| {
            status.phase = ApplyPhase::Failed;
            status.last_error = Some(chain(&error));
        });
        error
    }

    /// Streams until told to stop, until the tenant has moved, or until something fails.
    async fn attempt(&mut self) -> Result<(), ApplyError> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let mut stream = self.connect().await?;
        let result = self.drive(&mut stream).await;
        // Behind what is applied in any case: a long transaction's changes may be older than that.
        let behind = Lsn(stream.reached.0.saturating_add(1));
        self.read = stream.source.received().max(behind);
        result
    }

    async fn drive(&mut self, stream: &mut Stream) -> Result<(), ApplyError> {
        loop {
            self.gather(stream).await?;
            if stream.intake.can_commit() {
                self.commit(stream).await?;
                if self.in_order && stream.reached >= self.in_order_until {
                    self.in_order = false;
                    stream.intake.fold();
                }
                if stream.intake.phase() == ApplyPhase::Ended {
                    return Ok(());
                }
                // Whoever wants to halt or stop is heard between two groups, however many there are.
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                self.hear(stream);
                continue;
            }
            if stream.intake.is_full() {
                stream.apply(&self.targets).await?;
                continue;
            }
            self.answer_halt(stream);
            if self.wait(stream).await? {
                return Ok(());
            }
        }
    }

    async fn connect(&mut self) -> Result<Stream, ApplyError> {
        let config = &self.config;
        let key = ProgressKey {
            move_id: self.who.move_id,
            direction: self.who.direction,
            tenant: config.tenant.clone(),
            is_partial: config.is_partial,
        };
        let session = Session::open(&config.destination, key).await?;
        let progress = session.progress();
        let phase = match (progress, config.direction) {
            (
                Some(Progress {
                    marker: Some(_), ..
                }),
                _,
            ) => ApplyPhase::Fenced,
            (Some(_), _) | (None, Direction::Forward) => ApplyPhase::Applying,
            (None, Direction::Reverse) => ApplyPhase::Discarding,
        };
        let from = progress.map_or(config.from, |progress| progress.applied);
        let walsender = Walsender::connect(&config.source).await;
        let walsender = walsender.map_err(ApplyError::Source)?;
        let source = walsender
            .start(&config.slot, from, &config.publication)
            .await;
        let source = source.map_err(|error| ApplyError::of_start(&config.slot, error))?;
        self.in_order = from < self.in_order_until;
        let intake = Intake::new(IntakeOptions {
            targets: Arc::clone(&self.targets),
            who: self.who.clone(),
            applied: from,
            phase,
            marker: progress.and_then(|progress| progress.marker),
            in_order: self.in_order,
            spill_dir: config.spill_dir.clone(),
            memory_bytes: config.memory_bytes,
        });
        let mut stream = Stream {
            source,
            session,
            intake,
            held: None,
            reached: from,
            report_at: Instant::now(),
        };
        stream.intake.halt_at(self.halt_position());
        self.status.send_modify(|status| {
            status.phase = phase;
            status.applied = status.applied.max(from);
            status.marker = stream.intake.marker();
        });
        Ok(stream)
    }

    /// Takes what has come, up to a group's worth.
    async fn gather(&self, stream: &mut Stream) -> Result<(), ApplyError> {
        while !stream.intake.is_full() {
            let message = match stream.held.take() {
                Some(message) => message,
                None => match stream.source.try_next().map_err(ApplyError::Source)? {
                    None => return Ok(()),
                    Some(Frame::Data(message)) => message,
                    Some(Frame::Keepalive(keepalive)) => {
                        stream.note(keepalive.end, keepalive.reply);
                        continue;
                    }
                },
            };
            if !self.take(stream, message).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes one message; false if it has to wait.
    async fn take(&self, stream: &mut Stream, message: Bytes) -> Result<bool, ApplyError> {
        match stream.intake.take(message)? {
            Taken::Done => {}
            Taken::Held(message) => {
                stream.held = Some(message);
                return Ok(false);
            }
            Taken::Replay(mut replay) => {
                while let Some(message) = replay.next().map_err(ApplyError::Spool)? {
                    stream.intake.replayed(&message)?;
                    if stream.intake.is_full() {
                        stream.intake.join()?;
                        stream.apply(&self.targets).await?;
                    }
                }
                stream.intake.complete()?;
            }
        }
        Ok(true)
    }

    /// Ends the group: applies it with its progress and tells whoever waits.
    async fn commit(&self, stream: &mut Stream) -> Result<(), ApplyError> {
        let statements = stream.intake.statements();
        let group = stream.intake.take_group();
        if group.matters || stream.session.in_transaction() {
            let progress = Progress {
                applied: group.end,
                marker: stream.intake.marker(),
            };
            let commit = stream.session.commit(&self.targets, statements, progress);
            reporting(&mut stream.source, stream.reached, commit).await?;
        }
        stream.reached = stream.reached.max(group.end);
        self.status.send_modify(|status| {
            status.phase = stream.intake.phase();
            status.received = status.received.max(stream.source.received());
            status.applied = status.applied.max(stream.reached);
            status.committed_at = group.committed_at.or(status.committed_at);
            status.transactions += group.transactions;
            status.changes += group.changes;
            status.groups += 1;
            status.marker = stream.intake.marker();
            status.probe = status.probe.max(group.probe.unwrap_or(0));
            status.kept_bytes = stream.intake.kept_bytes();
        });
        stream.report(false).await
    }

    /// Waits for whatever comes next; true if that is the end.
    async fn wait(&mut self, stream: &mut Stream) -> Result<bool, ApplyError> {
        self.status.send_if_modified(|status| {
            let kept = stream.intake.kept_bytes();
            let received = status.received.max(stream.source.received());
            let applied = status.applied.max(stream.reached);
            let before = (status.received, status.applied, status.kept_bytes);
            (status.received, status.applied, status.kept_bytes) = (received, applied, kept);
            before != (received, applied, kept)
        });
        let waits_for_position = self
            .halt
            .as_ref()
            .is_some_and(|halt| halt.waiting.is_some());
        if waits_for_position {
            stream.report_at = stream.report_at.min(Instant::now() + ASK);
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(true),
            orders = self.halts.recv(), if self.halt.is_none() => {
                // The sender lives in the handle, whose end cancels `stop`.
                self.halt = orders.map(|orders| Halt { orders, to: None, waiting: None });
            }
            order = next_order(&mut self.halt) => self.obey(stream, order),
            frame = stream.source.next(), if stream.held.is_none() => {
                match frame.map_err(ApplyError::Source)? {
                    Frame::Data(message) => { self.take(stream, message).await?; }
                    Frame::Keepalive(keepalive) => stream.note(keepalive.end, keepalive.reply),
                }
            }
            () = sleep_until(stream.report_at) => stream.report(waits_for_position).await?,
        }
        Ok(false)
    }

    /// Hears orders without waiting for them.
    fn hear(&mut self, stream: &mut Stream) {
        if self.halt.is_none()
            && let Ok(orders) = self.halts.try_recv()
        {
            self.halt = Some(Halt {
                orders,
                to: None,
                waiting: None,
            });
        }
        let order = match &mut self.halt {
            None => return,
            Some(halt) => halt.orders.try_recv(),
        };
        match order {
            Ok(order) => self.obey(stream, Some(order)),
            Err(mpsc::error::TryRecvError::Disconnected) => self.obey(stream, None),
            Err(mpsc::error::TryRecvError::Empty) => {}
        }
    }

    /// Begins to carry out an order; without one the applier goes on.
    fn obey(&mut self, stream: &mut Stream, order: Option<Advance>) {
        match (order, &mut self.halt) {
            (Some(order), Some(halt)) => match order.to {
                Some(to) if to < stream.applied() => {
                    let passed = HaltError::Passed {
                        applied: stream.applied(),
                    };
                    // Nobody waits any more if this fails.
                    let _ = order.done.send(Err(passed));
                }
                to => {
                    halt.to = to;
                    halt.waiting = Some(order);
                }
            },
            _ => {
                self.halt = None;
                self.status.send_modify(|status| status.halted = false);
            }
        }
        stream.intake.halt_at(self.halt_position());
    }

    /// Where transactions have to wait.
    fn halt_position(&self) -> Option<Lsn> {
        let halt = self.halt.as_ref()?;
        // Before the first order there is no position to wait at.
        let ordered = halt.waiting.is_some() || self.status.borrow().halted;
        ordered.then_some(halt.to.unwrap_or(Lsn::INVALID))
    }

    /// Tells whoever waits for it that the applier has halted.
    fn answer_halt(&mut self, stream: &mut Stream) {
        let Some(halt) = &mut self.halt else {
            return;
        };
        let is_there = stream.intake.is_idle()
            && (stream.held.is_some() || halt.to.is_none_or(|to| stream.reached >= to));
        if !is_there {
            return;
        }
        if let Some(order) = halt.waiting.take() {
            self.status.send_modify(|status| status.halted = true);
            let position = halt.to.unwrap_or(stream.reached);
            let _ = order.done.send(Ok(position));
        }
        let position = self.halt_position();
        stream.intake.halt_at(position);
    }
}

impl Stream {
    /// The source has decoded everything before this position.
    fn note(&mut self, end: Lsn, reply: bool) {
        if self.intake.is_idle() && self.held.is_none() {
            self.reached = self.reached.max(end);
        }
        if reply {
            self.report_at = Instant::now();
        }
    }

    /// Applies what there is of a group that cannot end yet.
    async fn apply(&mut self, targets: &Targets) -> Result<(), ApplyError> {
        let statements = self.intake.statements();
        let apply = self.session.apply(targets, statements);
        reporting(&mut self.source, self.reached, apply).await
    }

    /// The end of the last transaction that was applied.
    fn applied(&self) -> Lsn {
        self.session
            .progress()
            .map_or(Lsn::INVALID, |progress| progress.applied)
    }

    /// Tells the source how far everything is applied and safe.
    async fn report(&mut self, reply: bool) -> Result<(), ApplyError> {
        self.report_at = Instant::now() + REPORT;
        let reported = self.source.confirm(self.reached, reply).await;
        reported.map_err(ApplyError::Source)
    }
}

/// Waits for the destination and goes on reporting meanwhile: the source ends the stream of a client that is silent.
async fn reporting(
    source: &mut ReplicationStream,
    reached: Lsn,
    work: impl Future<Output = Result<(), ApplyError>>,
) -> Result<(), ApplyError> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            () = sleep(REPORT) => {
                let reported = source.confirm(reached, false).await;
                reported.map_err(ApplyError::Source)?;
            }
        }
    }
}

async fn next_order(halt: &mut Option<Halt>) -> Option<Advance> {
    match halt {
        Some(halt) => halt.orders.recv().await,
        None => std::future::pending().await,
    }
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
