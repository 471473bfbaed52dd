//! A simple Query whose statements are run one by one, because the router runs some of them.
//!
//! Statements for the server go by extended protocol without Sync in between: they share one
//! implicit transaction, exactly as the statements of one Query do.

use std::collections::VecDeque;
use std::ops::Range;

use tenantry_wire::backend;
use tenantry_wire::frontend;
use tenantry_wire::sql;

use super::Session;
use super::client::Handled;
use super::expect::Expect;
use super::special::Mode;
use crate::error::Refusal;
use crate::server::Link;

/// What is left of the Query.
#[derive(Debug)]
pub(super) struct Script {
    text: Vec<u8>,
    ranges: VecDeque<Range<usize>>,
    empty: bool,
}

impl Script {
    pub(super) fn new(text: &[u8], ranges: Vec<Range<usize>>) -> Self {
        Self {
            text: text.to_vec(),
            ranges: ranges.into(),
            empty: false,
        }
    }

    /// A Query without any statement.
    pub(super) fn empty() -> Self {
        Self {
            text: Vec::new(),
            ranges: VecDeque::new(),
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
        let statement = &script.text[range];
        let kind = sql::classify(statement, self.scs());
        let mode = Mode::Simple {
            last: script.ranges.len() == 1,
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
                self.finish_script(server);
                Ok(Handled::Done)
            }
        }
    }

    /// ReadyForQuery: the server's, if it has run anything.
    fn finish_script(&mut self, server: Option<&mut Link>) {
        match server {
            Some(server) if self.sync_owed => self.send_owed_sync(server),
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
            frontend::put_execute(&mut server.output, super::ABORT_PORTAL, 0);
            self.expects.push(Expect::HiddenAbort);
            self.batch.abort = false;
        }
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::Sync);
        self.sync_owed = false;
        self.batch.forwarded = false;
    }
}
