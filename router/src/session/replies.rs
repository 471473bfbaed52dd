//! What the server says: passed on, swallowed, or noted.
//!
//! Rows are passed on in runs, without being looked into; a message larger than the buffer is
//! passed on as it arrives.

use bytes::Bytes;
use tenantry_wire::backend::{self, TxStatus};
use tenantry_wire::encoding;
use tenantry_wire::frame::{self, FrameHead, HEAD_LEN, LARGE_MESSAGE_LIMIT};
use tenantry_wire::sqlstate;
use tenantry_wire::tag::backend as tag;

use super::expect::{Effect, Expect, Shown};
use super::state::View;
use super::{Batch, Session, Tx};
use crate::buffers;
use crate::server::{Bound, Link, ServerState};

/// Rows up to this size, bytes, are only passed on whole: if the server is lost in the middle of one,
/// the client can still be told.
const WHOLE_MAX: usize = 32 << 10;

/// Settings that a server reports and a session can change.
const REPORTED_SETTINGS: &[&str] = &[
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "application_name",
    "client_encoding",
    "default_transaction_read_only",
    "standard_conforming_strings",
];

/// Why a server connection cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerFault {
    /// The server ended the session.
    #[error("the server ended the session: {message} ({code})")]
    Fatal { code: String, message: String },
    /// A reply that fits nothing that was asked.
    #[error("unexpected message {} from the server", std::ascii::escape_default(*tag))]
    Unexpected { tag: u8 },
    /// The session behind the connection reads bytes in another way than the router.
    #[error("the server reads an encoding in which a quote may be half a character")]
    Encoding,
    /// A malformed reply.
    #[error("malformed message from the server: {0}")]
    Malformed(String),
}

impl Session {
    /// Takes everything that has arrived from the server.
    pub(crate) fn on_server(&mut self, server: &mut Link) -> Result<(), ServerFault> {
        buffers::lend(&mut self.output);
        // Aside, so that messages can be looked at while the rest of the link changes.
        let mut input = std::mem::take(&mut server.input);
        let mut seen = 0;
        let wanted = self.on_bytes(&input, &mut seen, server);
        buffers::consume(&mut input, seen);
        if let Ok(wanted) = wanted {
            input.reserve(wanted);
        }
        server.input = input;
        wanted.map(drop)
    }

    /// The same for the bytes that nobody has `seen` yet. Answers how many are missing of the message behind them.
    fn on_bytes(
        &mut self,
        input: &[u8],
        seen: &mut usize,
        server: &mut Link,
    ) -> Result<usize, ServerFault> {
        loop {
            if self.passing > 0 {
                let rest = &input[*seen..];
                let piece = rest.len().min(self.passing);
                self.output.extend_from_slice(&rest[..piece]);
                *seen += piece;
                self.passing -= piece;
                if self.passing > 0 {
                    return Ok(0);
                }
            }
            *seen += self.pass_rows(&input[*seen..])?;
            let rest = &input[*seen..];
            let Some(head) = peek(rest)? else {
                return Ok(0);
            };
            if rest.len() < head.total {
                let row = matches!(head.tag, tag::DATA_ROW | tag::COPY_DATA);
                if row && head.total > WHOLE_MAX && self.shows_replies() {
                    self.show_description();
                    self.passing = head.total;
                    continue;
                }
                return Ok(head.total - rest.len());
            }
            *seen += head.total;
            self.server_message(head.tag, &rest[..head.total], server)?;
        }
    }

    /// A result of a Query run by extended protocol has come, so its description goes out.
    fn show_description(&mut self) {
        if let Some(description) = self.description.take() {
            self.output.extend_from_slice(&description);
        }
    }

    fn shows_replies(&self) -> bool {
        self.expects.front().is_some_and(|front| !front.is_hidden())
    }

    /// Passes on the run of whole rows at the front of the input, in one piece; answers how long it is.
    fn pass_rows(&mut self, input: &[u8]) -> Result<usize, ServerFault> {
        let mut run = 0;
        if matches!(self.expects.front(), Some(Expect::Channel { .. })) {
            return Ok(run);
        }
        while let Some(head) = peek(&input[run..])? {
            let row = matches!(head.tag, tag::DATA_ROW | tag::COPY_DATA);
            if !row || input.len() - run < head.total {
                break;
            }
            run += head.total;
        }
        if run > 0 {
            self.show_description();
            if self.shows_replies() {
                self.output.extend_from_slice(&input[..run]);
            }
        }
        Ok(run)
    }

    fn server_message(
        &mut self,
        letter: u8,
        message: &[u8],
        server: &mut Link,
    ) -> Result<(), ServerFault> {
        let body = &message[HEAD_LEN..];
        match letter {
            tag::READY_FOR_QUERY => self.server_ready(body, server)?,
            tag::ERROR => self.server_error(message, server)?,
            tag::COMMAND_COMPLETE => self.command_completed(message, server)?,
            tag::PARSE_COMPLETE | tag::BIND_COMPLETE | tag::CLOSE_COMPLETE => {
                self.step_completed(letter, message)?;
            }
            tag::ROW_DESCRIPTION | tag::NO_DATA => self.described(letter, message),
            tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED => {
                if matches!(self.expects.front(), Some(Expect::Execute { .. }))
                    && let Some(Expect::Execute { effects, .. }) = self.expects.pop()
                {
                    self.apply(effects, b"", &mut server.state);
                }
                self.output.extend_from_slice(message);
                self.flush_local();
            }
            tag::PARAMETER_STATUS => self.parameter_status(body, message, &mut server.state)?,
            tag::NOTICE => {
                if self.expects.front().is_none_or(|front| !front.is_hidden())
                    && !(self.batch.split && warns_of_no_block(body))
                {
                    self.output.extend_from_slice(message);
                }
            }
            tag::NOTIFICATION => self.notified(body, &server.state)?,
            tag::DATA_ROW if matches!(self.expects.front(), Some(Expect::Channel { .. })) => {
                self.note_channel(body)?;
            }
            tag::COPY_IN => {
                self.copy_in = true;
                self.copy_starting = false;
                self.output.extend_from_slice(message);
            }
            tag::PARAMETER_DESCRIPTION if self.has_told_parameters() => {}
            tag::PARAMETER_DESCRIPTION
            | tag::COPY_OUT
            | tag::COPY_DONE
            | tag::FUNCTION_RESULT
            | tag::DATA_ROW
            | tag::COPY_DATA => {
                if self.shows_replies() {
                    self.output.extend_from_slice(message);
                }
            }
            other => return Err(ServerFault::Unexpected { tag: other }),
        }
        Ok(())
    }

    /// Parse, Bind or Close succeeded.
    fn step_completed(&mut self, letter: u8, message: &[u8]) -> Result<(), ServerFault> {
        if matches!(
            self.expects.front(),
            Some(Expect::Fallback { .. } | Expect::Check { .. })
        ) {
            return Ok(());
        }
        let shown = match (self.expects.pop(), letter) {
            (Some(Expect::HiddenParse(_)), tag::PARSE_COMPLETE)
            | (Some(Expect::HiddenBind), tag::BIND_COMPLETE)
            | (Some(Expect::HiddenClose(_)), tag::CLOSE_COMPLETE) => false,
            (Some(Expect::Parse { .. }), tag::PARSE_COMPLETE)
            | (Some(Expect::Bind), tag::BIND_COMPLETE)
            | (Some(Expect::Close), tag::CLOSE_COMPLETE) => true,
            _ => return Err(ServerFault::Unexpected { tag: letter }),
        };
        if shown {
            self.output.extend_from_slice(message);
        }
        self.flush_local();
        Ok(())
    }

    fn described(&mut self, letter: u8, message: &[u8]) {
        let shown = match self.expects.front() {
            Some(Expect::Describe(shown)) => {
                let shown = *shown;
                self.expects.pop();
                shown
            }
            Some(Expect::DescribeStatement(_) | Expect::HiddenDescribe) => {
                return self.statement_described(message);
            }
            _ => Shown::AtOnce,
        };
        match shown {
            Shown::AtOnce => self.output.extend_from_slice(message),
            _ if letter == tag::NO_DATA => {}
            Shown::BeforeRows => self.output.extend_from_slice(message),
            Shown::WithResult => self.description = Some(Bytes::copy_from_slice(message)),
        }
        self.flush_local();
    }

    /// Answers of the router that were waiting for their turn.
    pub(super) fn flush_local(&mut self) {
        while let Some(Expect::Local(_) | Expect::Undo(_)) = self.expects.front() {
            if let Some(Expect::Local(bytes)) = self.expects.pop() {
                self.output.extend_from_slice(&bytes);
            }
        }
        if self.settled() {
            // What is sent from now on needs a Flush of its own.
            self.batch.flushed = false;
        }
    }

    fn command_completed(&mut self, message: &[u8], server: &mut Link) -> Result<(), ServerFault> {
        let command = backend::command_complete(&message[HEAD_LEN..])
            .map_err(|error| ServerFault::Malformed(error.to_string()))?;
        match self.expects.front_mut() {
            Some(Expect::Fallback { .. } | Expect::HiddenQuery { .. } | Expect::Aside) => {
                return Ok(());
            }
            Some(Expect::Probe) => self.probe_passed(),
            Some(Expect::HiddenExecute(_)) => {
                self.expects.pop();
                self.flush_local();
            }
            Some(Expect::Channel { .. }) => {
                if let Some(Expect::Channel { name, channel }) = self.expects.pop() {
                    self.channel_answered(name, channel);
                }
                self.flush_local();
            }
            Some(Expect::Notify { withhold }) => {
                let withhold = *withhold;
                self.expects.pop();
                self.notify_completed(withhold);
                self.flush_local();
            }
            Some(Expect::Query {
                effects, completed, ..
            }) => {
                let index = *completed;
                *completed += 1;
                // The first was counted when the Query was sent.
                self.counts.statements += u64::from(index > 0);
                let due: Vec<Effect> = if effects.is_empty() {
                    Vec::new()
                } else {
                    let mine = effects.iter().filter(|(at, _)| *at == index);
                    mine.map(|(_, effect)| effect.clone()).collect()
                };
                self.counts.rows += rows_of(command);
                self.apply(due, command, &mut server.state);
                self.output.extend_from_slice(message);
            }
            Some(Expect::Execute { .. }) => {
                if let Some(Expect::Execute { effects, withhold }) = self.expects.pop() {
                    self.counts.rows += rows_of(command);
                    self.show_description();
                    self.apply(effects, command, &mut server.state);
                    if withhold {
                        self.withheld = Some(Bytes::copy_from_slice(message));
                    } else {
                        self.output.extend_from_slice(message);
                    }
                }
                self.flush_local();
            }
            _ => {
                return Err(ServerFault::Unexpected {
                    tag: tag::COMMAND_COMPLETE,
                });
            }
        }
        self.copy_in = false;
        Ok(())
    }

    /// What completed statements change in the session.
    fn apply(&mut self, effects: Vec<Effect>, command: &[u8], server: &mut ServerState) {
        for effect in effects {
            match effect {
                Effect::Begin => self.begin_state(),
                Effect::End => {
                    let committed = command == b"COMMIT";
                    if committed {
                        self.state.commit();
                    } else {
                        self.take_back_reports(self.state.view_before(None), server);
                        self.state.rollback();
                    }
                    server.transaction_ended(committed);
                    self.clear_portals();
                    self.outcome_open = false;
                }
                Effect::Savepoint(name) => {
                    self.state.savepoint(&name);
                    self.note_view();
                    server.savepoint(&name);
                }
                Effect::RollbackTo(name) => {
                    self.take_back_reports(self.state.view_before(Some(&name)), server);
                    self.state.rollback_to(&name);
                    server.returned_to(&name);
                    // What follows in the same batch does not wait for ReadyForQuery to say so.
                    if matches!(self.tx, Tx::Failed) {
                        self.tx = Tx::Open {
                            prologue: Vec::new(),
                            restartable: false,
                        };
                    }
                }
                Effect::Release(name) => {
                    self.state.release(&name);
                    server.released(&name);
                }
                Effect::Set { name, value } => {
                    self.begin_implicit();
                    self.state.set(&name, value);
                    self.note_applied(server);
                }
                Effect::Reset(name) => {
                    self.begin_implicit();
                    self.state.reset(&name);
                    // The connection's own default need not be the client's startup value: what
                    // is missing is applied before the next statement.
                    if let Some(applied) = &mut server.applied {
                        applied.remove(&name);
                        server.applied_in_transaction = true;
                    }
                }
                Effect::PrepareSql { name, prepared } => {
                    server.prepared.insert_without_eviction(&prepared);
                    server.dirty |= server.prepared.overflows();
                    self.statements.insert_sql(&name, prepared);
                }
                Effect::Listen { name, channel } => {
                    self.begin_implicit();
                    self.state.listen(channel, name);
                }
                Effect::Unlisten(channels) => {
                    self.begin_implicit();
                    for channel in channels {
                        self.state.unlisten(&channel);
                    }
                }
                Effect::Hold(name) => {
                    self.held_cursors.insert(name);
                    server.dirty = true;
                }
                Effect::CloseCursor(Some(name)) => {
                    self.held_cursors.remove(&name);
                }
                Effect::CloseCursor(None) => self.held_cursors.clear(),
                Effect::Pin => {
                    self.pinned = true;
                    server.dirty = true;
                }
            }
        }
    }

    /// After a rollback: whether what the server reports is the client's to know.
    pub(super) fn take_back_reports(&mut self, view: Option<View>, server: &ServerState) {
        if server.applied_by_router && view.is_some() {
            self.reverted = view;
        }
    }

    /// Tells the client what a rollback changed for it.
    fn report_rollback(&mut self) {
        let Some(view) = self.reverted.take() else {
            return;
        };
        for (name, value) in view.iter() {
            if self.reported.get(name) != Some(value) || self.late_reports.contains_key(name) {
                self.late_reports.insert(name.clone(), value.clone());
            }
        }
        if !self.batch.split && self.withheld.is_none() {
            self.end_results();
        }
    }

    /// Tells the client what is in force now and news to it. A server reports what has changed when it is ready again: what
    /// the router set before a statement and that has set back is no change there.
    fn report_applied(&mut self, server: &ServerState) {
        for name in REPORTED_SETTINGS {
            let (now, known) = (server.parameters.get(*name), self.reported.get(*name));
            if let Some(now) = now
                && known != Some(now)
            {
                self.late_reports.insert((*name).to_owned(), now.clone());
            }
        }
    }

    fn note_applied(&self, server: &mut ServerState) {
        server.applied = Some(self.state.settings().clone());
        server.applied_in_transaction = true;
    }

    fn parameter_status(
        &mut self,
        body: &[u8],
        message: &[u8],
        server: &mut ServerState,
    ) -> Result<(), ServerFault> {
        let status = backend::parameter_status(body)
            .map_err(|error| ServerFault::Malformed(error.to_string()))?;
        let name = String::from_utf8_lossy(status.name);
        let value = String::from_utf8_lossy(status.value);
        if name == "client_encoding" && !encoding::is_ascii_safe(&value) {
            return Err(ServerFault::Encoding);
        }
        let late = self.batch.split || self.withheld.is_some();
        if self.reverted.is_some() || late {
            let (name, value) = (name.into_owned(), value.into_owned());
            if self.reverted.is_none() {
                self.late_reports.insert(name.clone(), value.clone());
            }
            server.parameters.insert(name, value);
        } else if self.note_reported(server, &name, &value) {
            self.output.extend_from_slice(message);
        }
        Ok(())
    }

    fn server_ready(&mut self, body: &[u8], server: &mut Link) -> Result<(), ServerFault> {
        let status = backend::ready_for_query(body)
            .map_err(|error| ServerFault::Malformed(error.to_string()))?;
        server.state.status = status;
        if let Some(Expect::Fallback { tenant, failed }) = self.expects.front() {
            server.state.fallback = if *failed {
                Bound::Unknown
            } else {
                Bound::Known(*tenant)
            };
            self.expects.pop();
            return Ok(());
        }
        if let Some(Expect::Check { outcome }) = self.expects.front() {
            let outcome = *outcome;
            self.expects.pop();
            self.script_checked(outcome, status, server);
            return Ok(());
        }
        if let Some(Expect::Aside) = self.expects.front() {
            self.cleared_away(status, server);
            return Ok(());
        }
        if let Some(Expect::HiddenQuery { failed: true }) = self.expects.front() {
            self.expects.pop();
            self.check_broken(status, server);
            return Ok(());
        }
        self.unproven = false;
        self.entered = false;
        self.report_rollback();
        let shown = match self.expects.pop() {
            Some(Expect::HiddenSync | Expect::HiddenQuery { .. }) => false,
            Some(Expect::Sync | Expect::Query { .. }) => true,
            _ => {
                return Err(ServerFault::Unexpected {
                    tag: tag::READY_FOR_QUERY,
                });
            }
        };
        self.copy_in = false;
        self.copy_starting = false;
        let applied = server.state.applied_by_router && !self.batch.failed;
        self.follow_status(status, shown, &mut server.state);
        if shown {
            server.state.kept.answered();
            self.overdue = None;
            self.again = None;
            self.replay = None;
            self.shuns_probe = false;
            self.progress.0 = self.progress.0.wrapping_add(1);
            if applied {
                self.report_applied(&server.state);
            }
            self.end_results();
            self.release_notifications();
            self.batch = Batch {
                skip: self.batch.skip,
                forwarded: self.batch.forwarded,
                executed: self.batch.executed,
                ..Batch::default()
            };
            let status = self.status();
            backend::put_ready(&mut self.output, status);
        }
        self.flush_local();
        Ok(())
    }

    /// The transaction status that the server reports is the truth.
    pub(super) fn follow_status(
        &mut self,
        status: TxStatus,
        shown: bool,
        server: &mut ServerState,
    ) {
        match status {
            TxStatus::Idle => {
                let failed = self.batch.failed;
                self.end_implicit();
                if server.bound_in_transaction || server.applied_in_transaction || failed {
                    server.transaction_ended(!failed);
                }
                server.savepoints.clear();
                server.copy_role = false;
                server.read_only = false;
                self.clear_portals();
                // A Sync of the router's own, for a bind, ends no transaction of the client's.
                self.counts.transactions += u64::from(shown || !matches!(self.tx, Tx::Idle));
                self.tx = Tx::Idle;
                self.progress.1 = self.progress.1.wrapping_add(1);
                self.outcome_open = self.expects.front().is_some();
            }
            TxStatus::InTransaction => {
                if !matches!(self.tx, Tx::Open { .. } | Tx::FailedHere { .. }) {
                    self.begin_implicit();
                    self.tx = Tx::Open {
                        prologue: Vec::new(),
                        restartable: false,
                    };
                }
                // A COMMIT may be on its way behind a Sync of the router's own.
                self.outcome_open = self.expects.ends_transaction();
            }
            TxStatus::Failed => {
                self.tx = Tx::Failed;
                self.outcome_open = false;
            }
        }
    }
}

/// A warning that the statement has no effect outside a transaction block: statements of one Query are in one.
fn warns_of_no_block(body: &[u8]) -> bool {
    backend::ErrorFields::decode(body).is_ok_and(|fields| {
        fields.code == sqlstate::NO_ACTIVE_SQL_TRANSACTION
            && fields.routine.as_deref() == Some("CheckTransactionBlock")
    })
}

fn peek(input: &[u8]) -> Result<Option<FrameHead>, ServerFault> {
    frame::peek(input, LARGE_MESSAGE_LIMIT)
        .map_err(|error| ServerFault::Malformed(error.to_string()))
}

/// How many rows a command returned or changed: the number at the end of its tag, if it has one.
fn rows_of(command: &[u8]) -> u64 {
    let digits = command
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit());
    let value = |byte: &u8| u64::from(byte - b'0');
    let (sum, _) = digits.fold((0_u64, 1_u64), |(sum, unit), digit| {
        (
            sum.saturating_add(unit.saturating_mul(value(digit))),
            unit.saturating_mul(10),
        )
    });
    sum
}
