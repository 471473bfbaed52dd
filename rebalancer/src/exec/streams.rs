//! The streams of a move, there and back: catching up, comparing at a position, and the way back.

use std::time::Duration;

use tenantry_schema::catalog::moves::Side;
use tenantry_wire::replication::Lsn;
use tokio::time::Instant;
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use super::failure::EffectError;
use super::hands::Hands;
use crate::apply::{self, ApplierConfig, ApplierHandle, ApplyPhase, Direction};
use crate::machine::Outcome;
use crate::replication::{SlotKind, SnapshotAction, Walsender, publication, slot};
use crate::shard::Snapshot;
use crate::verify::{Comparison, Side as Compared};

/// Bytes of open transactions that an applier keeps in memory.
const MEMORY_BYTES: u64 = 64 << 20;
/// A stream has caught up when a marker takes no longer.
const CAUGHT_UP: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(200);
/// Longest wait for the reverse stream to begin.
const REVERSE_MAX: Duration = Duration::from_secs(60);

impl Direction {
    /// The side that it reads.
    pub(super) fn from(self) -> Side {
        match self {
            Self::Forward => Side::Source,
            Self::Reverse => Side::Destination,
        }
    }

    /// The stream that must be complete before a tenant goes to this side.
    pub(super) fn to(side: Side) -> Self {
        match side {
            Side::Destination => Self::Forward,
            Side::Source => Self::Reverse,
        }
    }
}

impl Hands {
    pub(super) fn applier(&self, direction: Direction) -> Result<&ApplierHandle, EffectError> {
        let applier = match direction {
            Direction::Forward => &self.forward,
            Direction::Reverse => &self.reverse,
        };
        applier
            .as_ref()
            .ok_or_else(|| EffectError::NotYet("the stream has not begun".to_owned()))
    }

    /// Starts the applier of this direction unless it works. One that has ended says why, once.
    pub(super) async fn ensure_applier(&mut self, direction: Direction) -> Result<(), EffectError> {
        let place = match direction {
            Direction::Forward => &mut self.forward,
            Direction::Reverse => &mut self.reverse,
        };
        if let Some(running) = place {
            if !running.status().borrow().has_ended() {
                return Ok(());
            }
            if let Some(ended) = place.take() {
                ended.ended().await?;
            }
        }
        let (names, tables) = (self.row.names.clone(), self.tables().await?);
        let name = match direction {
            Direction::Forward => names.forward,
            Direction::Reverse => names.reverse,
        };
        let config = ApplierConfig {
            move_id: self.row.id.0,
            direction,
            tenant: self.tenant.clone(),
            source: self.endpoint(direction.from()).await?,
            destination: self.endpoint(direction.from().other()).await?,
            slot: name.clone(),
            publication: name,
            tables: tables.tables.clone(),
            from: match direction {
                Direction::Forward => self.copied_at().await?,
                Direction::Reverse => Lsn::INVALID,
            },
            is_partial: false,
            spill_dir: self.context.config.spill_dir.clone(),
            memory_bytes: MEMORY_BYTES,
        };
        let started = apply::start(config)?;
        match direction {
            Direction::Forward => self.forward = Some(started),
            Direction::Reverse => self.reverse = Some(started),
        }
        Ok(())
    }

    /// The position of the snapshot that was copied.
    async fn copied_at(&mut self) -> Result<Lsn, EffectError> {
        let client = self.session(Side::Destination).await?;
        let select = "SELECT max(snapshot_lsn) FROM tenantry.move_chunk WHERE move_id = $1";
        let row = client.query_one(select, &[&self.row.id.0]).await?;
        let position: Option<PgLsn> = row.get(0);
        // A tenant without tables has nothing to apply either.
        Ok(position.map_or(Lsn::INVALID, |position| Lsn(position.into())))
    }

    pub(super) async fn catch_up(&mut self) -> Result<Outcome, EffectError> {
        self.ensure_applier(Direction::Forward).await?;
        let source = self.session(Side::Source).await?;
        loop {
            let applier = self.applier(Direction::Forward)?;
            let times = tokio::select! {
                times = applier.probe(&source) => match times {
                    Ok(times) => times,
                    Err(_) if applier.status().borrow().has_ended() => return self.why_ended(Direction::Forward).await,
                    Err(error) => return Err(error.into()),
                },
                never = self.tell_stream(Direction::Forward) => match never {},
            };
            self.tell(|progress| progress.lag_ms = Some(millis(times.applied)));
            if times.applied <= CAUGHT_UP {
                return Ok(Outcome::Done);
            }
        }
    }

    /// Shows how far a stream is, for as long as it is polled.
    async fn tell_stream(&self, direction: Direction) -> std::convert::Infallible {
        loop {
            if let Ok(applier) = self.applier(direction) {
                let status = applier.status().borrow().clone();
                self.tell(|progress| {
                    progress.applied_ops = status.changes;
                    progress.applied_lsn = Some(status.applied.to_string());
                    progress.lag_bytes = Some(status.lag_bytes());
                    progress.waiting = status.last_error;
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for ever while the stream works; returns why it ended.
    pub(super) async fn watch_applier(
        &mut self,
        direction: Direction,
    ) -> Result<Outcome, EffectError> {
        loop {
            tokio::time::sleep(LOOK).await;
            let status = self.applier(direction)?.status().borrow().clone();
            self.tell(|progress| {
                progress.applied_ops = status.changes;
                progress.applied_lsn = Some(status.applied.to_string());
                progress.lag_bytes = Some(status.lag_bytes());
            });
            if status.has_ended() {
                return self.why_ended(direction).await;
            }
        }
    }

    /// The error that ended an applier; it begins again if there is none.
    pub(super) async fn why_ended(&mut self, direction: Direction) -> Result<Outcome, EffectError> {
        let ended = match direction {
            Direction::Forward => self.forward.take(),
            Direction::Reverse => self.reverse.take(),
        };
        if let Some(ended) = ended {
            ended.ended().await?;
        }
        Err(EffectError::NotYet("the stream has ended".to_owned()))
    }

    /// Compares both sides at exactly one position of the stream, while both go on.
    pub(super) async fn verify(&mut self, direction: Direction) -> Result<Outcome, EffectError> {
        self.regulate().await?;
        self.ensure_applier(direction).await?;
        let tables = self.tables().await?;
        let reader = direction.from();
        let client = self.session(reader).await?;
        slot::drop(&client, &self.temporary_slot()).await?;
        let mut guard = self.applier(direction)?.halt().await?;
        let name = self.temporary_slot();
        let (walsender, created) = self
            .snapshot_slot(reader, &name, SlotKind::Temporary)
            .await?;
        guard.advance_to(created.consistent_point).await?;
        let applied = Snapshot::export(&self.endpoint(reader.other()).await?).await?;
        let read = Compared {
            endpoint: self.endpoint(reader).await?,
            snapshot: created.snapshot.unwrap_or_default(),
        };
        let written = Compared {
            endpoint: self.endpoint(reader.other()).await?,
            snapshot: applied.id().to_owned(),
        };
        let throttle = std::sync::Arc::clone(&self.throttle);
        let comparison =
            Comparison::open(&read, &written, (*tables).clone(), &self.tenant, throttle).await?;
        drop((guard, walsender, applied));
        self.tell(|progress| progress.waiting = None);
        let mut compared = comparison.progress();
        let cancel = CancellationToken::new();
        let mut comparing = std::pin::pin!(comparison.run(&cancel));
        let report = loop {
            tokio::select! {
                report = &mut comparing => break report?,
                () = tokio::time::sleep(LOOK) => {
                    let rows = *compared.borrow_and_update();
                    self.tell(|progress| progress.verified_rows = rows);
                }
            }
        };
        self.tell(|progress| progress.verified_rows = report.rows);
        if report.is_equal() {
            return Ok(Outcome::Done);
        }
        let first: Vec<String> = report
            .mismatches
            .iter()
            .take(5)
            .map(|one| format!("{} {:?} {:?}", one.relation, one.key, one.difference))
            .collect();
        Err(EffectError::Refused(format!(
            "{} rows differ between the shards: {}",
            report.mismatched_rows,
            first.join("; ")
        )))
    }

    /// Publication and slot for the way back, kept if they are there and whole.
    pub(super) async fn prepare_reverse(&mut self) -> Result<Outcome, EffectError> {
        self.ensure_applier(Direction::Forward).await?;
        let tables = self.tables().await?;
        let client = self.session(Side::Destination).await?;
        let name = self.row.names.reverse.clone();
        let there = slot::slots(&client, &format!("^{name}$")).await?;
        if there.iter().any(|slot| !slot.lost) {
            return Ok(Outcome::Done);
        }
        slot::drop(&client, &name).await?;
        publication::create(&client, &name, &tables.tables, &self.tenant).await?;
        self.waits_for("transactions of the destination that have written, whoever's: the slot of the way back begins when all that run now have ended");
        let mut walsender = Walsender::connect(&self.endpoint(Side::Destination).await?).await?;
        let cancel = walsender.cancel_token();
        let created = walsender.create_slot(&name, SlotKind::Permanent, SnapshotAction::Nothing);
        match tokio::time::timeout(REVERSE_MAX, created).await {
            Ok(created) => {
                created?;
                Ok(Outcome::Done)
            }
            Err(_elapsed) => {
                cancel.cancel().await?;
                Err(EffectError::NotYet(
                    "a transaction on the destination runs for so long that no slot can begin"
                        .to_owned(),
                ))
            }
        }
    }

    /// What is written at the destination from now on, and was since the cutover, is applied at the source.
    pub(super) async fn start_reverse(&mut self) -> Result<Outcome, EffectError> {
        self.ensure_applier(Direction::Reverse).await?;
        let deadline = Instant::now() + REVERSE_MAX;
        loop {
            let status = self.applier(Direction::Reverse)?.status().borrow().clone();
            match status.phase {
                ApplyPhase::Applying | ApplyPhase::Fenced => return Ok(Outcome::Done),
                ApplyPhase::Ended | ApplyPhase::Failed => {
                    return self.why_ended(Direction::Reverse).await;
                }
                ApplyPhase::Connecting | ApplyPhase::Discarding => {}
            }
            if Instant::now() > deadline {
                return Err(EffectError::NotYet(format!(
                    "the stream back has not begun: {}",
                    status.last_error.unwrap_or_default()
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
