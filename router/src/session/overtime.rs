//! A session that has passed a time limit: what its client is told, and when.

use super::{Session, Tx};
use crate::error::Refusal;

impl Session {
    /// A cancel request is on its way to what runs; if it arrives in time, this is the error that
    /// the client gets.
    pub(crate) fn is_overdue(&mut self, refusal: Refusal) {
        self.overdue = Some(refusal);
    }

    /// Gives an open transaction up in which nothing runs; the client is told with its next
    /// statement, as ERROR: it keeps its session. Answers whether there was one that could be
    /// given up.
    pub(crate) fn abandon_transaction(&mut self, refusal: Refusal) -> bool {
        let tells = match self.tx {
            Tx::Deferred { .. } => true,
            _ if self.is_pinned() || self.keeps_connection() || !self.settled() || self.batch.forwarded => return false,
            Tx::Open { .. } => true,
            // The client knows already that nothing will be committed.
            Tx::Failed | Tx::FailedHere { .. } => false,
            Tx::Idle => return false,
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
        true
    }
}
