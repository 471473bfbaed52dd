//! The server connection is gone: what the client is told depends on what was in flight.

use tenantry_wire::backend::{self, TxStatus};

use super::{Batch, Session, Tx};
use crate::Severity;
use crate::error::Refusal;

impl Session {
    /// Answers everything that is outstanding. Returns false if the client must be disconnected,
    /// because part of a message has reached it.
    ///
    /// A session that listened ends: nobody would tell its client what it no longer hears.
    pub(crate) fn server_lost(&mut self, shard: &str) -> bool {
        if self.passing > 0 {
            return false;
        }
        let listened = !self.state.channels().is_empty();
        if self.forget_probe() && !listened {
            self.forget_server();
            return true;
        }
        let goes_on = self.answer_for_lost(shard);
        match (listened, self.last_words.take()) {
            (true, Some(fields)) => {
                backend::put_error(&mut self.output, &fields);
                self.closing = true;
            }
            (true, None) => self.fatal(&Refusal::SessionLost {
                shard: shard.to_owned(),
            }),
            (false, _) => {}
        }
        goes_on
    }

    fn answer_for_lost(&mut self, shard: &str) -> bool {
        let in_transaction = matches!(
            self.tx,
            Tx::Open { .. } | Tx::Failed | Tx::FailedHere { .. }
        );
        let refusal = if self.outcome_open {
            Refusal::LostUnknown {
                shard: shard.to_owned(),
            }
        } else {
            Refusal::LostRolledBack {
                shard: shard.to_owned(),
            }
        };
        // Between two statements of a Query nothing may be outstanding, and the client waits all the same: outside a
        // transaction the Query goes on with another connection.
        let asked = !self.expects.is_empty()
            || self.sync_owed
            || self.batch.forwarded
            || self.script.is_some() && in_transaction;
        let (owed, open) = self.expects.abandon();
        let simple = asked && self.script.take().is_some() || self.sync_owed;
        // Answered as far as it went, a batch still waits for its Sync.
        let open = (open || self.batch.forwarded) && !simple;
        let refused = self.batch.skip && !simple;
        self.forget_server();
        if !asked {
            if in_transaction {
                self.lost = Some(refusal);
                self.tx = Tx::FailedHere {
                    open_on_server: false,
                    deferred: Vec::new(),
                };
            }
            return true;
        }
        let owed = owed.max(usize::from(simple));
        self.answer_lost(&refusal, in_transaction, owed);
        self.batch = Batch {
            skip: open || refused,
            failed: open || refused,
            ..Batch::default()
        };
        if open && !refused {
            backend::put_error(&mut self.output, &refusal.fields(Severity::Error));
        } else if owed == 0 && !refused && matches!(self.tx, Tx::FailedHere { .. }) {
            // Only the router's own was outstanding: nobody has been told yet.
            self.lost = Some(refusal);
        }
        true
    }

    /// One error and one ReadyForQuery for each that the client waits for.
    fn answer_lost(&mut self, refusal: &Refusal, in_transaction: bool, owed: usize) {
        let commit_in_flight = matches!(refusal, Refusal::LostUnknown { .. });
        self.state.rollback();
        self.tx = if in_transaction && !commit_in_flight {
            Tx::FailedHere {
                open_on_server: false,
                deferred: Vec::new(),
            }
        } else {
            Tx::Idle
        };
        let status = match self.tx {
            Tx::Idle => TxStatus::Idle,
            _ => TxStatus::Failed,
        };
        for _ in 0..owed {
            backend::put_error(&mut self.output, &refusal.fields(Severity::Error));
            backend::put_ready(&mut self.output, status);
        }
    }

    fn forget_server(&mut self) {
        self.copy_in = false;
        self.copy_starting = false;
        self.sync_owed = false;
        self.entered = false;
        self.unproven = false;
        self.passing_in_open = false;
        self.withheld = None;
        self.description = None;
        self.reverted = None;
        self.late_reports.clear();
        self.pinned = false;
        self.held_cursors.clear();
        self.behind_withheld.clear();
        self.channel_found = None;
        self.state.forget_channels();
        self.outcome_open = false;
        self.clear_portals();
    }
}
