//! The other end of an applier: what those who conduct a move ask of it.

use std::time::{Duration, Instant};

use tenantry_wire::replication::Lsn;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::error::ApplyError;
use super::marker::{self, Identity, PROBE};
use super::status::ApplyStatus;

/// A running applier. Dropping it stops it at the next transaction's end; what was not committed by then did not happen.
#[derive(Debug)]
pub struct ApplierHandle {
    status: watch::Receiver<ApplyStatus>,
    halts: mpsc::Sender<mpsc::Receiver<Advance>>,
    task: JoinHandle<Result<(), ApplyError>>,
    stop: DropGuard,
    who: Identity,
    probes: std::sync::atomic::AtomicU64,
}

/// Go on to a position and halt there; to none, halt where you are.
#[derive(Debug)]
pub(super) struct Advance {
    pub(super) to: Option<Lsn>,
    pub(super) done: oneshot::Sender<Result<Lsn, HaltError>>,
}

/// The applier ended before what was waited for came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the applier has ended")]
pub struct ApplierEnded;

/// Why an applier does not halt at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HaltError {
    /// It is behind it already.
    #[error("the applier has gone on to {applied}")]
    Passed {
        /// Where it is.
        applied: Lsn,
    },
    /// It ended.
    #[error("the applier has ended")]
    Ended,
}

/// Why a probe did not come back.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be sent.
    #[error("the source refused the marker")]
    Source(#[from] tokio_postgres::Error),
    /// Nobody is there to answer.
    #[error(transparent)]
    Ended(#[from] ApplierEnded),
}

/// How long a marker took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTimes {
    /// Until its transaction had committed on the source.
    pub committed: Duration,
    /// Until it was applied and committed on the destination, from the beginning.
    pub applied: Duration,
}

impl ApplierHandle {
    pub(super) fn new(
        status: watch::Receiver<ApplyStatus>,
        halts: mpsc::Sender<mpsc::Receiver<Advance>>,
        task: JoinHandle<Result<(), ApplyError>>,
        stop: CancellationToken,
        who: Identity,
    ) -> Self {
        Self {
            status,
            halts,
            task,
            stop: stop.drop_guard(),
            who,
            probes: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Where the applier is, now and as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ApplyStatus> {
        self.status.clone()
    }

    /// Halts the applier at the end of a transaction.
    ///
    /// # Errors
    /// It has ended.
    pub async fn halt(&self) -> Result<HaltGuard, HaltError> {
        self.halted(None).await
    }

    /// Halts the applier when everything that committed before a position is applied, and nothing that did there or
    /// behind it. Between taking a source's snapshot and asking for its position an applier goes on: [`Self::halt`]
    /// first, take the snapshot, then [`HaltGuard::advance_to`].
    ///
    /// # Errors
    /// It is behind the position already, or has ended.
    pub async fn halt_at(&self, position: Lsn) -> Result<HaltGuard, HaltError> {
        self.halted(Some(position)).await
    }

    async fn halted(&self, to: Option<Lsn>) -> Result<HaltGuard, HaltError> {
        let (orders, received) = mpsc::channel(1);
        let mut guard = HaltGuard {
            orders,
            position: Lsn::INVALID,
        };
        let asked = self.halts.send(received).await;
        asked.map_err(|_closed| HaltError::Ended)?;
        guard.order(to).await?;
        Ok(guard)
    }

    /// Waits until the fence marker of this nonce is applied and committed on the destination.
    ///
    /// # Errors
    /// The applier ended before.
    pub async fn until_marker(&self, nonce: Uuid) -> Result<(), ApplierEnded> {
        self.until(|status| status.marker == Some(nonce)).await
    }

    /// Waits until everything that committed on the source before this position is applied.
    ///
    /// # Errors
    /// The applier ended before.
    pub async fn until_applied(&self, position: Lsn) -> Result<(), ApplierEnded> {
        self.until(|status| status.applied >= position).await
    }

    /// Waits for a state of the applier.
    ///
    /// # Errors
    /// The applier ended before.
    pub async fn until(&self, wanted: impl Fn(&ApplyStatus) -> bool) -> Result<(), ApplierEnded> {
        let mut status = self.status.clone();
        let reached = status
            .wait_for(|status| wanted(status) || status.has_ended())
            .await;
        match reached {
            Ok(status) if wanted(&status) => Ok(()),
            _ => Err(ApplierEnded),
        }
    }

    /// Sends a marker over the way that the fence's takes, and waits for it.
    ///
    /// # Errors
    /// The source refuses it, or the applier ended before it came.
    pub async fn probe(&self, source: &Client) -> Result<ProbeTimes, ProbeError> {
        let number = self
            .probes
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        let content = marker::probe(&self.who, number);
        let began = Instant::now();
        source
            .execute(
                "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::text)",
                &[&PROBE, &content],
            )
            .await?;
        let committed = began.elapsed();
        self.until(|status| status.probe >= number).await?;
        Ok(ProbeTimes {
            committed,
            applied: began.elapsed(),
        })
    }

    /// Waits until the applier ends by itself: because the tenant was handed over, or because it cannot go on.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn ended(self) -> Result<(), ApplyError> {
        let Self { task, stop, .. } = self;
        let result = joined(task).await;
        drop(stop);
        result
    }

    /// Stops the applier at the end of a transaction and waits until its connections are closed.
    ///
    /// # Errors
    /// What it failed with, if it had ended before.
    pub async fn stop(self) -> Result<(), ApplyError> {
        let Self { task, stop, .. } = self;
        drop(stop);
        joined(task).await
    }
}

async fn joined(task: JoinHandle<Result<(), ApplyError>>) -> Result<(), ApplyError> {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_aborted) => Ok(()),
    }
}

/// Keeps an applier where it halted; it goes on when this is dropped.
#[derive(Debug)]
pub struct HaltGuard {
    orders: mpsc::Sender<Advance>,
    position: Lsn,
}

impl HaltGuard {
    /// Everything that committed on the source before is applied.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Lets the applier go on and halt when everything that committed before a position is applied, and nothing else.
    ///
    /// # Errors
    /// It is behind the position already, or has ended.
    pub async fn advance_to(&mut self, position: Lsn) -> Result<(), HaltError> {
        self.order(Some(position)).await
    }

    async fn order(&mut self, to: Option<Lsn>) -> Result<(), HaltError> {
        let (done, halted) = oneshot::channel();
        let order = self.orders.send(Advance { to, done }).await;
        order.map_err(|_closed| HaltError::Ended)?;
        self.position = halted.await.map_err(|_closed| HaltError::Ended)??;
        Ok(())
    }
}
