//! Errors of the server: passed on under the client's names, taken for what they say of the connection, and what they
//! made the server skip undone.
//!
//! Where the router caused one, by a cancel or a switch, the client is told the reason in its place.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use tenantry_wire::backend::{self, Severity};
use tenantry_wire::frame::HEAD_LEN;
use tenantry_wire::sqlstate;

use super::expect::{CheckOutcome, Expect, Skipped, SkippedStep};
use super::replies::ServerFault;
use super::{Session, Tx};
use crate::server::{Bound, Link, ServerState};

impl Session {
    pub(super) fn server_error(
        &mut self,
        message: &[u8],
        server: &mut Link,
    ) -> Result<(), ServerFault> {
        let body = &message[HEAD_LEN..];
        let mut fields = backend::ErrorFields::decode(body)
            .map_err(|error| ServerFault::Malformed(error.to_string()))?;
        let mut shifted = BytesMut::new();
        let message = if self.batch.before > 0 && shift_position(&mut fields, self.batch.before) {
            backend::put_error(&mut shifted, &fields);
            &shifted
        } else {
            message
        };
        if matches!(fields.severity, Severity::Fatal | Severity::Panic) {
            let (code, message) = (fields.code.clone(), fields.message.clone());
            self.last_words = Some(fields);
            return Err(ServerFault::Fatal { code, message });
        }
        if let Some(Expect::Fallback { failed, .. }) = self.expects.front_mut() {
            *failed = true;
            return Ok(());
        }
        if self.asked.is_some() {
            if !matches!(self.expects.front(), Some(Expect::Aside)) {
                self.probe_failed(&fields, server);
            }
            return Ok(());
        }
        if self.replay.is_some() && self.replays(&fields, server) {
            return Ok(());
        }
        self.channel_found = None;
        if self.check_failed(message, &fields, &server.state) {
            return Ok(());
        }
        if self.runs_again(&fields, server) {
            return Ok(());
        }
        self.take_back_reports(self.state.view(), &server.state);
        self.description = None;
        self.distrust(&fields, &mut server.state);
        // A lock that the failed statement took outlives it.
        server.state.dirty |= self.expects.front().is_some_and(Expect::pins);
        self.counts.error(&fields.code);
        self.batch.failed = true;
        self.batch.ahead_failed |= std::mem::take(&mut self.batch.ahead);
        self.copy_in = false;
        self.copy_starting = false;
        self.batch.flushed = false;
        let in_simple_query = matches!(
            self.expects.front(),
            Some(Expect::Query { .. } | Expect::Sync | Expect::HiddenSync)
        );
        if matches!(self.expects.front(), Some(Expect::HiddenAbort)) {
            let skipped = self.expects.skip_to_sync();
            self.undo(skipped, &mut server.state);
            return Ok(());
        }
        let known = self.own_name(message);
        let limited = self.put_limit(&fields);
        if in_simple_query || self.sync_owed {
            // It ran in the unnamed portal, which is there until the failed transaction ends. What is wrong with the
            // words or the names in a statement is found before that.
            let ran = !fields.code.starts_with("42");
            self.unnamed_portal |= ran && !matches!(self.tx, Tx::Idle);
        }
        if in_simple_query {
            if !limited {
                self.put_server_error(message, known);
            }
            return Ok(());
        }
        let skipped = self.expects.skip_to_sync();
        let resynchronises = self.undo(skipped, &mut server.state);
        // A name that the batch has given up since the failed message is the client's again.
        let known = known.or_else(|| self.own_name(message));
        if !limited {
            self.put_server_error(message, known);
        }
        if !resynchronises {
            if self.sync_owed {
                self.script = None;
                self.batch.abort = false;
                self.send_owed_sync(server);
            } else {
                self.batch.skip = true;
            }
        } else if self.script.take().is_some() {
            self.sync_owed = false;
        }
        Ok(())
    }

    /// Whether the error is one of the check of a Query; it is passed on if it says that the Query is not to run.
    fn check_failed(
        &mut self,
        message: &[u8],
        fields: &backend::ErrorFields,
        server: &ServerState,
    ) -> bool {
        if matches!(self.expects.front(), Some(Expect::Check { .. })) && matches!(self.tx, Tx::Idle)
        {
            self.take_back_reports(self.state.view(), server);
        }
        match self.expects.front_mut() {
            Some(Expect::Check { outcome }) => {
                let several = fields.code == sqlstate::SYNTAX_ERROR
                    && fields.routine.as_deref() == Some("exec_parse_message");
                if several || *outcome == CheckOutcome::Pointless {
                    return true;
                }
                *outcome = CheckOutcome::Failed;
            }
            Some(Expect::HiddenQuery { failed }) => *failed = true,
            _ => return false,
        }
        self.counts.error(&fields.code);
        if !self.put_limit(fields) {
            self.put_server_error(message, self.own_name(message));
        }
        true
    }

    /// The reason of a cancel by the router, or of a kill switch, in the place of the error that it caused.
    fn put_limit(&mut self, fields: &backend::ErrorFields) -> bool {
        let overdue = self.overdue.take();
        let overdue = overdue.filter(|_| fields.code == sqlstate::QUERY_CANCELED);
        match overdue.or_else(|| self.refused_by_switch(fields).map(Box::new)) {
            Some(refusal) => {
                backend::put_error(&mut self.output, &refusal.fields(Severity::Error));
                true
            }
            None => false,
        }
    }

    /// Where the error names a statement as server connections know it, and what the client calls it.
    fn own_name(&self, message: &[u8]) -> Option<(Range<usize>, Bytes)> {
        const START: &[u8] = b"\"_t";
        let start = message
            .windows(START.len())
            .position(|part| part == START)?
            + 1;
        let length = message[start..].iter().position(|byte| *byte == b'"')?;
        let name = &message[start..start + length];
        let client_name = self.statements.name_of(name)?;
        Some((start..start + length, client_name))
    }

    /// The error as it came, but for the names that statements have on server connections.
    fn put_server_error(&mut self, message: &[u8], own: Option<(Range<usize>, Bytes)>) {
        let Some((range, name)) = own else {
            self.output.extend_from_slice(message);
            return;
        };
        let length = message.len() - range.len() + name.len() - 1;
        self.output.put_u8(message[0]);
        self.output
            .put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        self.output
            .extend_from_slice(&message[HEAD_LEN..range.start]);
        self.output.extend_from_slice(&name);
        self.output.extend_from_slice(&message[range.end..]);
    }

    /// Errors that say that the session behind the connection is not what it was taken for.
    pub(super) fn distrust(&self, fields: &backend::ErrorFields, server: &mut ServerState) {
        match fields.code.as_str() {
            // Somebody wrote the setting by other means than ours.
            "42704" | "42501" => server.bound = Bound::Unknown,
            // Somebody deallocated our statements.
            "26000" | "42P05" => server.dirty = true,
            _ => {}
        }
    }

    /// Forgets what the skipped messages would have done; answers whether a Sync is on order.
    pub(super) fn undo(&mut self, skipped: Skipped, server: &mut ServerState) -> bool {
        // Backwards: what was prepared in the batch may have been closed in it.
        for step in skipped.steps.into_iter().rev() {
            match step {
                SkippedStep::Parse(parse) => {
                    if let Some(prepared) = &parse.prepared
                        && !parse.held
                    {
                        server.prepared.remove(prepared);
                    }
                    if parse.client_name.is_none_or(|name| name.is_empty()) {
                        server.unnamed = None;
                    }
                }
                SkippedStep::Close(prepared) => server.prepared.insert_without_eviction(&prepared),
            }
        }
        for undo in skipped.undos.into_iter().rev() {
            self.statements.undo(undo);
        }
        skipped.resynchronises
    }
}

/// The position in a Query of an error in one of its statements that was sent by itself.
fn shift_position(fields: &mut backend::ErrorFields, before: usize) -> bool {
    let position = fields.position.as_ref();
    let Some(position) = position.and_then(|position| position.parse::<usize>().ok()) else {
        return false;
    };
    fields.position = Some((position + before).to_string());
    true
}
