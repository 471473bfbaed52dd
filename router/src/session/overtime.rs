//! A session that has passed a time limit: what its client is told, and when.

use super::{Session, Tx};
use crate::error::Refusal;

/// What became of a transaction that was to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandoned {
    Done,
    /// No server has it open.
    Nothing,
    /// The session keeps its server connection.
    Impossible,
}

impl Session {
    /// A cancel request is on its way to what runs; if it arrives in time, this is the error that
    /// the client gets. False: there was one before, and it was of no use. A server does not end
    /// what waits for the client: a COPY that stalls, a batch without its Sync, rows not read.
    pub(crate) fn is_overdue(&mut self, refusal: Refusal) -> bool {
        self.overdue.replace(Box::new(refusal)).is_none()
    }

    /// Gives an open transaction up in which nothing runs; the client is told with its next
    /// statement, as ERROR: it keeps its session.
    pub(crate) fn abandon_transaction(&mut self, refusal: Refusal) -> Abandoned {
        let tells = match self.tx {
            Tx::Idle
            | Tx::FailedHere {
                open_on_server: false,
                ..
            } => return Abandoned::Nothing,
            Tx::Deferred { .. } => true,
            _ if self.is_pinned() || self.keeps_connection() => return Abandoned::Impossible,
            Tx::Open { .. } => true,
            // The client knows already that nothing will be committed.
            Tx::Failed | Tx::FailedHere { .. } => false,
        };
        if tells {
            self.lost = Some(refusal);
        }
        self.statements.clear_portals();
        self.outcome_open = false;
        self.tx = Tx::FailedHere {
            open_on_server: false,
            deferred: Vec::new(),
        };
        Abandoned::Done
    }
}
