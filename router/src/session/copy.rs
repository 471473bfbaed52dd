//! COPY FROM STDIN.
//!
//! PostgreSQL refuses COPY FROM on a table with row-level security. The transaction switches to a
//! role that bypasses it, may only insert, and is watched by the guard's trigger on every table.

use bytes::{Buf, BytesMut};
use tenantry_wire::frontend;
use tenantry_wire::tag::frontend as tag;

use super::client::{ClientMessage, Handled};
use super::special::Mode;
use super::{Next, Session};
use crate::error::Refusal;
use crate::server::Link;

const ENTER_COPY_ROLE: &str = "SELECT pg_catalog.set_config('role', 'tenantry_copy', true)";
pub(super) const LEAVE_COPY_ROLE: &str = "SELECT pg_catalog.set_config('role', 'none', true)";

impl Session {
    /// Starts a COPY. No Sync may follow it: the server would take it for part of the stream, so
    /// the one that a simple Query is owed is sent when the stream ends.
    pub(super) fn copy_from(
        &mut self,
        text: &[u8],
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.prepare_server(server);
        let enter = self.internal(ENTER_COPY_ROLE);
        self.run_hidden_prepared(server, &enter);
        server.state.copy_role = true;
        self.send_statement(text, Vec::new(), mode, server);
        // CopyInResponse and errors are flushed by the server at once. Until one of them is here no
        // message of the client may follow, lest the server take it for part of the stream.
        self.copy_starting = true;
        self.batch.flushed = true;
        Ok(Handled::Done)
    }

    /// Whether this message has no place in a COPY stream; if so, the COPY fails as it does in PostgreSQL.
    pub(super) fn breaks_copy(&mut self, letter: u8, server: Option<&mut Link>) -> bool {
        let fits = matches!(
            letter,
            tag::COPY_DATA
                | tag::COPY_DONE
                | tag::COPY_FAIL
                | tag::FLUSH
                | tag::SYNC
                | tag::TERMINATE
        );
        if !self.copy_in || fits {
            return false;
        }
        if let Some(server) = server {
            let reason = format!("unexpected message type 0x{letter:02X} during COPY from stdin");
            frontend::put_copy_fail(&mut server.output, reason);
        }
        self.copy_in = false;
        self.batch.flushed = false;
        true
    }

    /// A piece of the stream, or its end. After an error the rest of the stream is dropped.
    pub(super) fn copy_message(&mut self, message: ClientMessage<'_>, server: Option<&mut Link>) {
        if !self.copy_in {
            return;
        }
        let Some(server) = server else { return };
        server.output.extend_from_slice(message.bytes);
        if message.tag != tag::COPY_DATA {
            self.copy_in = false;
            self.batch.flushed = false;
        }
    }

    /// Passes on what has arrived of a CopyData larger than the buffer.
    pub(super) fn pass_in(&mut self, input: &mut BytesMut, server: Option<&mut Link>) -> Next {
        let piece = input.len().min(self.passing_in);
        if piece == 0 {
            return Next::Wait;
        }
        if let Some(server) = server
            && self.passing_in_open
        {
            server.output.extend_from_slice(&input[..piece]);
        }
        input.advance(piece);
        self.passing_in -= piece;
        Next::More
    }
}
