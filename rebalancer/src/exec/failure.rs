//! Why an effect did not succeed, and what the state machine is told about it.
//!
//! What may pass by itself is tried again; what says that the copy is of no use begins anew; everything else gives the
//! move up, or stops it where it cannot be given up any more.

use std::error::Error;
use std::fmt::Write as _;

use tenantry_schema::catalog::CatalogError;
use tokio_postgres::error::SqlState;

use crate::apply::{ApplierEnded, ApplyError, HaltError, ProbeError};
use crate::clean::CleanError;
use crate::copy::CopyError;
use crate::machine::invariants::Violation;
use crate::machine::{Failure, Remedy};
use crate::preflight::PreflightRefusal;
use crate::replication::LinkError;
use crate::replication::slot::SlotError;
use crate::sequences::SequenceError;
use crate::shard::ConnectError;
use crate::tables::TablesError;
use crate::verify::VerifyError;

/// Why an effect did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EffectError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("a statement failed")]
    Sql(#[from] tokio_postgres::Error),
    #[error("the replication connection failed")]
    Link(#[from] LinkError),
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Preflight(#[from] PreflightRefusal),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Clean(#[from] CleanError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error("the stream cannot be applied")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Halt(#[from] HaltError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Ended(#[from] ApplierEnded),
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
    #[error("an invariant does not hold: {0}")]
    Violation(#[from] Violation),
    /// It may succeed later.
    #[error("{0}")]
    NotYet(String),
    /// What was copied is of no use any more.
    #[error("{0}")]
    Stale(String),
    /// It cannot succeed.
    #[error("{0}")]
    Refused(String),
}

impl EffectError {
    /// As the state machine has it: what to do, and the whole chain of causes in one line.
    pub(super) fn into_failure(self) -> Failure {
        let remedy = self.remedy();
        let mut reason = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = match cause.downcast_ref::<tokio_postgres::Error>() {
                // Its own text is only "db error".
                Some(error) => error
                    .as_db_error()
                    .map_or_else(|| error.to_string(), |db| db.to_string()),
                None => cause.to_string(),
            };
            if !reason.ends_with(&text) {
                let _ = write!(reason, ": {text}");
            }
            source = cause.source();
        }
        Failure { remedy, reason }
    }

    fn remedy(&self) -> Remedy {
        match self {
            Self::Connect(_)
            | Self::Halt(_)
            | Self::Ended(_)
            | Self::NotYet(_)
            | Self::Catalog(_)
            | Self::Slot(SlotError::InUse { .. })
            | Self::Sequence(SequenceError::Sql { .. }) => Remedy::Retry,
            Self::Sql(error)
            | Self::Slot(SlotError::Sql(error))
            | Self::Tables(TablesError::Sql(error)) => of_sql(error),
            Self::Probe(ProbeError::Source(error)) => of_sql(error),
            Self::Probe(_) => Remedy::Retry,
            Self::Link(error) => of_link(error),
            Self::Copy(error) => of_copy(error),
            Self::Clean(error) => of_clean(error),
            Self::Verify(VerifyError::Sql { source, .. }) => of_sql(source),
            Self::Verify(_) => Remedy::Retry,
            Self::Apply(error) => of_apply(error),
            Self::Stale(_) => Remedy::Restart,
            Self::Preflight(PreflightRefusal::Sql(error))
            | Self::Preflight(PreflightRefusal::Tables(TablesError::Sql(error))) => of_sql(error),
            Self::Preflight(_)
            | Self::Sequence(_)
            | Self::Tables(_)
            | Self::Violation(_)
            | Self::Refused(_) => Remedy::GiveUp,
        }
    }
}

/// Whether the same statement may succeed later without anyone changing anything.
fn of_sql(error: &tokio_postgres::Error) -> Remedy {
    match error.code() {
        None => Remedy::Retry,
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::OBJECT_IN_USE => {
            Remedy::Retry
        }
        // Connection, rollback, resources, operator's intervention, the system itself.
        Some(code) if ["08", "40", "53", "57", "58"].contains(&&code.code()[..2]) => Remedy::Retry,
        Some(_) => Remedy::GiveUp,
    }
}

fn of_link(error: &LinkError) -> Remedy {
    if error.is_transient() {
        Remedy::Retry
    } else {
        Remedy::GiveUp
    }
}

fn of_copy(error: &CopyError) -> Remedy {
    match error {
        CopyError::Connect(_) | CopyError::Cancelled | CopyError::Short { .. } => Remedy::Retry,
        CopyError::Source { source, .. } | CopyError::Destination { source, .. } => of_sql(source),
        CopyError::Ledger(source) => of_sql(source),
        CopyError::Clean(error) => of_clean(error),
        CopyError::NoKey { .. } => Remedy::GiveUp,
        CopyError::NotImporting { .. } => Remedy::Restart,
    }
}

fn of_clean(error: &CleanError) -> Remedy {
    match error {
        CleanError::Connect(_) => Remedy::Retry,
        CleanError::Sql { source, .. } => of_sql(source),
        CleanError::NoWarrant { .. } => Remedy::GiveUp,
    }
}

fn of_apply(error: &ApplyError) -> Remedy {
    match error {
        ApplyError::Source(error) | ApplyError::Destination(error) => of_link(error),
        ApplyError::Overtaken { .. } | ApplyError::Spool(_) => Remedy::Retry,
        ApplyError::SlotMissing { .. } | ApplyError::SlotLost { .. } => Remedy::Restart,
        _ => Remedy::GiveUp,
    }
}
