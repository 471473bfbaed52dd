//! The next message of the client: what it is, and who handles it.

use bytes::BytesMut;
use tenantry_wire::frame::{self, HEAD_LEN};
use tenantry_wire::tag::frontend as tag;
use tenantry_wire::{backend, frontend};

use super::{Next, Session};
use crate::Severity;
use crate::buffers;
use crate::error::Refusal;
use crate::server::Link;

/// Most bytes to make room for at once.
const RESERVE_MAX: usize = 64 << 10;

/// One client message, borrowed from the input buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientMessage<'a> {
    pub(super) tag: u8,
    pub(super) body: &'a [u8],
    /// The whole message as it travels.
    pub(super) bytes: &'a [u8],
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handled {
    /// Done; the message is consumed.
    Done,
    /// The message waits in the buffer for outstanding replies.
    Later,
    /// Something was done before the message, which is looked at again.
    Again,
    /// The message waits in the buffer for a server connection.
    Acquire(Option<tenantry_schema::tenant::TenantId>),
}

impl Session {
    /// Advances by one message, or by one statement of a multi-statement Query.
    pub(crate) fn next(&mut self, input: &mut BytesMut, mut server: Option<&mut Link>) -> Next {
        if self.closing {
            return Next::Close;
        }
        if self.passing_in > 0 {
            return self.pass_in(input, server);
        }
        if self.asked.is_some() {
            return Next::Wait;
        }
        if self.again.is_some()
            && let Some(next) = self.take_up_again(input)
        {
            return next;
        }
        if self.script.is_some() && !self.copy_in {
            let handled = self.script_step(server.as_deref_mut());
            return self.conclude(handled, server).0;
        }
        let head = match frame::peek(input, self.shared.message_bytes_max) {
            Ok(Some(head)) => head,
            Ok(None) => return Next::Wait,
            Err(error) => return self.protocol_error(error.to_string()),
        };
        if frame::frontend_limit(head.tag).is_none_or(|limit| head.total > limit + 1) {
            let letter = std::ascii::escape_default(head.tag);
            return self
                .protocol_error(format!("invalid frontend message type or length: {letter}"));
        }
        if input.len() < head.total {
            if head.tag == tag::COPY_DATA && input.len() >= HEAD_LEN {
                self.passing_in = head.total;
                self.passing_in_open = self.copy_in && server.is_some();
                return self.pass_in(input, server);
            }
            // A length is only a claim: memory follows the bytes.
            input.reserve((head.total - input.len()).min(RESERVE_MAX));
            return Next::Wait;
        }
        let message = ClientMessage {
            tag: head.tag,
            body: &input[HEAD_LEN..head.total],
            bytes: &input[..head.total],
        };
        if self.observing {
            self.observe_statement(&message);
        }
        let point = if self.keeps_messages {
            self.replay_point()
        } else {
            None
        };
        let handled = self.client_message(message, server.as_deref_mut());
        let (next, consumed) = self.conclude(handled, server);
        if consumed {
            if self.keeps_messages {
                self.keep_message(point, head.tag, &input[..head.total]);
            }
            buffers::consume(input, head.total);
            // What was found out about this message is nobody else's.
            self.looked_at = None;
        }
        next
    }

    /// Turns the outcome of a step into what the driver does, and whether the step is over.
    fn conclude(
        &mut self,
        handled: Result<Handled, Refusal>,
        mut server: Option<&mut Link>,
    ) -> (Next, bool) {
        match handled {
            Ok(Handled::Done) => (Next::More, true),
            Ok(Handled::Later) => (Next::Wait, false),
            Ok(Handled::Again) => (Next::More, false),
            Ok(Handled::Acquire(tenant)) => (Next::Acquire(tenant), false),
            Err(Refusal::Protocol { message }) => (self.protocol_error(message), true),
            // Nothing was made of the message yet: it is read again in its turn.
            Err(Refusal::Malformed { .. }) if !self.settle(server.as_deref_mut()) => {
                (Next::Wait, false)
            }
            // A refusal is only decided when settled, so its place is here.
            Err(refusal) => {
                self.refuse_current(&refusal);
                self.fail_on_server(server);
                (Next::More, true)
            }
        }
    }

    /// The server connection that was asked for cannot be had: the statement that needed it fails.
    pub(crate) fn acquire_failed(&mut self, refusal: &Refusal, input: &mut BytesMut) {
        if self.script.is_none()
            && let Ok(Some(head)) = frame::peek(input, self.shared.message_bytes_max)
            && input.len() >= head.total
        {
            let simple = matches!(head.tag, tag::QUERY | tag::FUNCTION_CALL);
            buffers::consume(input, head.total);
            self.looked_at = None;
            self.refuse(refusal);
            if simple {
                self.ready();
            } else {
                self.batch.skip = true;
            }
        } else {
            self.refuse_current(refusal);
        }
    }

    /// Refuses what is being run: a statement of a script ends its script, a message of the
    /// extended protocol starts skipping.
    fn refuse_current(&mut self, refusal: &Refusal) {
        self.refuse(refusal);
        if self.script.take().is_some() {
            self.end_script();
        } else {
            self.batch.skip = true;
        }
    }

    fn protocol_error(&mut self, message: String) -> Next {
        let refusal = Refusal::Protocol { message };
        if !self.is_mid_message() {
            backend::put_error(&mut self.output, &refusal.fields(Severity::Fatal));
        }
        self.closing = true;
        Next::Close
    }

    fn client_message(
        &mut self,
        message: ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if self.copy_starting && message.tag != tag::TERMINATE {
            return Ok(Handled::Later);
        }
        if self.breaks_copy(message.tag, server.as_deref_mut()) {
            return Ok(Handled::Done);
        }
        match message.tag {
            tag::SYNC => return self.sync(server),
            // Work that was sent before the goodbye is finished first.
            tag::TERMINATE if !self.copy_in && !self.settle(server.as_deref_mut()) => {
                return Ok(Handled::Later);
            }
            tag::TERMINATE => {
                self.closing = true;
                return Ok(Handled::Done);
            }
            _ if self.batch.skip => return Ok(Handled::Done),
            _ => {}
        }
        if runs_something(message.tag) {
            // What is kept begins where nothing of before is outstanding.
            if self.keeps_messages && self.expects.is_hidden_sync() {
                return Ok(Handled::Later);
            }
            if self.is_paused() && !self.settle(server.as_deref_mut()) {
                return Ok(Handled::Later);
            }
            if self.batch.ended && !self.come_to_rest(server.as_deref_mut()) {
                return Ok(Handled::Later);
            }
            if self.expects.has_transaction_effect() && !self.settle(server.as_deref_mut()) {
                return Ok(Handled::Later);
            }
            if self.awaits_proof(server.as_deref()) {
                return Ok(Handled::Later);
            }
        }
        if runs_something(message.tag)
            && server
                .as_deref()
                .is_some_and(|server| self.falls_astray(&server.state))
        {
            return Ok(self.stop_astray(message.tag, server));
        }
        if let Some(handled) = self.fail_for_truth(message, server.as_deref_mut()) {
            return Ok(handled);
        }
        if self.identity.role.limits.tenant_comment
            && let Some(handled) = self.heed_comment(&message, server.as_deref_mut())?
        {
            return Ok(handled);
        }
        match message.tag {
            tag::QUERY => self.query(message, server),
            tag::FUNCTION_CALL => self.function_call(message, server),
            tag::PARSE => self.parse(message, server),
            tag::BIND => self.bind(message, server),
            tag::DESCRIBE => self.describe(message, server),
            tag::EXECUTE => self.execute(message, server),
            tag::CLOSE => self.close(message, server),
            tag::FLUSH => {
                if let Some(server) = server
                    && !self.copy_in
                {
                    frontend::put_flush(&mut server.output);
                }
                Ok(Handled::Done)
            }
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {
                self.copy_message(message, server);
                Ok(Handled::Done)
            }
            other => Err(Refusal::Protocol {
                message: format!(
                    "invalid frontend message type {}",
                    std::ascii::escape_default(other)
                ),
            }),
        }
    }

    /// The cancel that made the transaction unsafe to go on with is told now.
    fn stop_astray(&mut self, letter: u8, server: Option<&mut Link>) -> Handled {
        if !self.settle(server) {
            return Handled::Later;
        }
        self.refuse(&Refusal::Canceled);
        if matches!(letter, tag::QUERY | tag::FUNCTION_CALL) {
            self.ready();
        } else {
            self.batch.skip = true;
        }
        Handled::Done
    }

    /// Waits until the server has answered everything; asks for the answers if nothing else does.
    pub(super) fn settle(&mut self, server: Option<&mut Link>) -> bool {
        if self.settled() {
            // Its answers are here: what is sent from now on needs a Flush of its own.
            self.batch.flushed = false;
            return true;
        }
        if !self.batch.flushed
            && !self.expects.has_ready()
            && let Some(server) = server
        {
            frontend::put_flush(&mut server.output);
            self.batch.flushed = true;
        }
        false
    }

    /// Asks for the answers to what was sent, for a message that waits for them.
    pub(super) fn flush(&mut self, server: &mut Link) {
        frontend::put_flush(&mut server.output);
        self.batch.flushed = true;
    }

    fn sync(&mut self, server: Option<&mut Link>) -> Result<Handled, Refusal> {
        if self.copy_in {
            return Ok(Handled::Done);
        }
        let forwarded = std::mem::take(&mut self.batch.forwarded);
        self.batch.ended = false;
        self.batch.executed = false;
        match server {
            Some(server) if forwarded => {
                if self.batch.abort {
                    self.put_abort(server);
                }
                frontend::put_sync(&mut server.output);
                self.expects.push(super::Expect::Sync);
                self.batch.skip = false;
                self.batch.abort = false;
                self.batch.flushed = false;
                Ok(Handled::Done)
            }
            server => {
                self.batch.forwarded = forwarded;
                if !self.settle(server) {
                    return Ok(Handled::Later);
                }
                self.ready();
                Ok(Handled::Done)
            }
        }
    }
}

/// Whether a message may make the server run or analyse a statement.
pub(super) fn runs_something(letter: u8) -> bool {
    matches!(
        letter,
        tag::QUERY | tag::FUNCTION_CALL | tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE
    )
}
