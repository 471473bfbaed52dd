//! A simple Query whose statements are run one by one, because the router runs some of them.
//!
//! Statements for the server go by extended protocol without Sync in between: they share one
//! implicit transaction, exactly as the statements of one Query do.

use std::collections::VecDeque;
use std::ops::Range;

use tenantry_wire::backend::{self, TxStatus};
use tenantry_wire::frontend;
use tenantry_wire::sql;

use super::client::Handled;
use super::expect::{CheckOutcome, Expect};
use super::special::Mode;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

/// What is left of the Query.
#[derive(Debug)]
pub(super) struct Script {
    text: Vec<u8>,
    ranges: VecDeque<Range<usize>>,
    /// Statements that the Query began with.
    count: usize,
    /// The server must first say whether the whole text is well-formed.
    unchecked: bool,
    empty: bool,
}

/// A savepoint to return to from a check inside a transaction.
const BEFORE_CHECK: &str = "SAVEPOINT _tenantry_check";
const AFTER_CHECK: &str =
    "ROLLBACK TO SAVEPOINT _tenantry_check; RELEASE SAVEPOINT _tenantry_check";

impl Script {
    pub(super) fn new(text: &[u8], ranges: Vec<Range<usize>>, unchecked: bool) -> Self {
        Self {
            text: text.to_vec(),
            count: ranges.len(),
            ranges: ranges.into(),
            unchecked,
            empty: false,
        }
    }

    pub(super) fn is_several(&self) -> bool {
        self.count > 1
    }

    /// A Query without any statement.
    pub(super) fn empty() -> Self {
        Self {
            text: Vec::new(),
            ranges: VecDeque::new(),
            count: 0,
            unchecked: false,
            empty: true,
        }
    }
}

impl Session {
    /// Runs the next statement, or ends the Query.
    pub(super) fn script_step(
        &mut self,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if !self.settle(server.as_deref_mut()) {
            return Ok(Handled::Later);
        }
        if self.batch.ended && !self.come_to_rest(server.as_deref_mut()) {
            return Ok(Handled::Later);
        }
        self.batch.flushed = false;
        if let Some(script) = &mut self.script
            && std::mem::take(&mut script.unchecked)
            && self.can_check()
        {
            return Ok(self.check_script(server));
        }
        let Some(script) = self.script.take() else {
            return Ok(Handled::Done);
        };
        let Some(range) = script.ranges.front().cloned() else {
            if script.empty {
                backend::put_empty_query(&mut self.output);
            }
            self.finish_script(server);
            return Ok(Handled::Done);
        };
        self.batch.before = self.characters(&script.text[..range.start]);
        let statement = &script.text[range];
        let kind = sql::classify(statement, self.scs());
        let mode = Mode::Simple {
            last: script.ranges.len() == 1,
            only: script.count == 1,
        };
        let ran = self.run_statement(statement, &kind, &mode, server.as_deref_mut());
        match ran {
            Ok(Handled::Done) => {
                // The last statement has sent its Sync already, unless it was the router's.
                if script.ranges.len() > 1 || !self.expects.has_ready() {
                    let mut script = script;
                    script.ranges.pop_front();
                    self.script = Some(script);
                }
                Ok(Handled::Done)
            }
            Ok(handled) => {
                self.script = Some(script);
                Ok(handled)
            }
            Err(Refusal::Protocol { message }) => Err(Refusal::Protocol { message }),
            Err(refusal) => {
                self.refuse(&refusal);
                self.failed_portal |= !matches!(self.tx, Tx::Idle);
                self.unnamed_portal |= self.failed_portal;
                self.end_refused(server);
                Ok(Handled::Done)
            }
        }
    }

    /// How PostgreSQL counts positions in a text of the client's encoding.
    fn characters(&self, text: &[u8]) -> usize {
        let utf8 = self
            .reported
            .get("client_encoding")
            .is_none_or(|name| name == "UTF8");
        let continues = |byte: &&u8| utf8 && (0x80..0xc0).contains(*byte);
        text.len() - text.iter().filter(continues).count()
    }

    /// Refuses a Query that cannot be read.
    pub(super) fn refuse_query(
        &mut self,
        refusal: &Refusal,
        mut server: Option<&mut Link>,
    ) -> Handled {
        if !self.settle(server.as_deref_mut()) {
            return Handled::Later;
        }
        self.refuse(refusal);
        self.end_refused(server);
        Handled::Done
    }

    /// Ends a Query that was refused, on the server too.
    fn end_refused(&mut self, mut server: Option<&mut Link>) {
        self.batch.abort |= self.sync_owed;
        self.finish_script(server.as_deref_mut());
        self.fail_on_server(server);
    }

    /// Whether a check takes nothing with it: it ends in an error, and an implicit transaction with it.
    fn can_check(&self) -> bool {
        matches!(self.tx, Tx::Open { .. }) || !self.batch.executed
    }

    /// PostgreSQL parses a whole Query before it runs any of it. The server is made to parse it by a Parse message,
    /// which it then refuses, because there are several statements in it.
    fn check_script(&mut self, server: Option<&mut Link>) -> Handled {
        let Some(script) = &mut self.script else {
            return Handled::Done;
        };
        let Some(server) = server else {
            script.unchecked = true;
            return self.acquire();
        };
        let inside = matches!(self.tx, Tx::Open { .. });
        if inside {
            frontend::put_query(&mut server.output, BEFORE_CHECK);
            self.expects.push(Expect::HiddenQuery { failed: false });
        }
        frontend::put_parse(&mut server.output, "", &script.text, &[]);
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::Check {
            outcome: CheckOutcome::WellFormed,
        });
        server.state.unnamed = None;
        Handled::Done
    }

    /// A savepoint of the check has failed, by a cancel most likely: so has the Query. The check itself may still be to
    /// come.
    pub(super) fn check_broken(&mut self, status: TxStatus, server: &mut Link) {
        if let Some(Expect::Check { outcome }) = self.expects.front_mut() {
            *outcome = CheckOutcome::Pointless;
        } else {
            self.script_checked(CheckOutcome::Pointless, status, server);
        }
    }

    /// The check is over.
    pub(super) fn script_checked(
        &mut self,
        outcome: CheckOutcome,
        status: TxStatus,
        server: &mut Link,
    ) {
        let inside = matches!(self.tx, Tx::Open { .. });
        if !inside {
            // What the batch had brought into force so far went with the check, and the client's view of it did not.
            server.state.transaction_ended(false);
            self.reverted = None;
            self.batch.forwarded = false;
            self.unproven = false;
        }
        if outcome == CheckOutcome::WellFormed {
            if inside {
                frontend::put_query(&mut server.output, AFTER_CHECK);
                self.expects.push(Expect::HiddenQuery { failed: false });
            }
            return;
        }
        self.script = None;
        self.batch.failed = true;
        if inside {
            self.follow_status(status, true, &mut server.state);
        } else if let Tx::Deferred { prologue } = &mut self.tx {
            self.tx = Tx::FailedHere {
                open_on_server: false,
                deferred: std::mem::take(prologue),
            };
        }
        self.ready();
    }

    /// ReadyForQuery: the server's, if it has run anything, be it of the batch that the Query is in.
    fn finish_script(&mut self, server: Option<&mut Link>) {
        match server {
            Some(server) if self.sync_owed || self.batch.forwarded => self.send_owed_sync(server),
            _ => {
                self.sync_owed = false;
                self.ready();
            }
        }
    }

    /// As [`Self::finish_script`] where no connection is at hand to be asked.
    pub(super) fn end_script(&mut self) {
        self.sync_owed = false;
        self.ready();
    }

    /// The Sync that ends the server's part of a simple Query run by extended protocol.
    pub(super) fn send_owed_sync(&mut self, server: &mut Link) {
        if self.batch.abort {
            self.put_abort(server);
            self.batch.abort = false;
        }
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::Sync);
        self.sync_owed = false;
        self.batch.forwarded = false;
    }
}
