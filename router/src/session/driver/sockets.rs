//! Moves bytes: both sockets in one poll, within bounds.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tenantry_wire::frame::{self, LARGE_MESSAGE_LIMIT};
use tenantry_wire::tag::frontend as tag;

use super::bell::Bell;
use super::{Connection, HIGH_WATER};
use crate::buffers;
use crate::pool::Lease;
use crate::server::Server;
use crate::stream::Stream;

/// Outcome of one poll of both sockets.
#[derive(Debug, Default)]
pub(super) struct Io {
    /// The client will send nothing more.
    pub(super) client_closed: bool,
    /// The client will read nothing more.
    pub(super) client_deaf: bool,
    pub(super) server_closed: bool,
}

impl Connection {
    /// Moves bytes on both sockets as far as they go. Ready when there is something to look at.
    pub(super) fn poll_sockets(
        &mut self,
        lease: Option<&mut Lease>,
        cx: &mut Context<'_>,
    ) -> Poll<Io> {
        let mut io = Io::default();
        let mut progress = false;
        let was_high = self.session.output.len() > HIGH_WATER;
        let owed = self.session.output.len();
        let written = poll_write(&mut self.stream, &mut self.session.output, cx);
        if owed > 0 && self.gives_buffers_back(lease.is_some()) {
            buffers::take_back(&mut self.session.output);
        }
        let sent = owed - self.session.output.len();
        self.meter.sent(sent);
        self.session.note_sent(sent);
        match written {
            Ok(()) => progress |= was_high && self.session.output.len() <= HIGH_WATER,
            Err(_) => io.client_deaf = true,
        }
        let mut server_full = false;
        if let Some(server) = lease.and_then(Lease::server) {
            progress |= self.poll_server(server, &mut io, cx);
            server_full = server.link.output.len() > HIGH_WATER;
        }
        // A message larger than the bound is read to its end, and no further.
        let bound = HIGH_WATER.max(self.session.wanted(&self.input));
        // What the server says comes first; the next look is the client's.
        if !progress && !server_full && self.input.len() < bound {
            let (stream, input) = (&mut self.stream, &mut self.input);
            match (self.bells.client).ask(cx, |own| stream.poll_fill(input, own)) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    if !self.may_still_end_orderly() {
                        io.client_closed = true;
                    }
                }
                Poll::Ready(Ok(read)) => {
                    self.meter.received(read);
                    progress = true;
                }
                Poll::Pending => {}
            }
        }
        if progress || io.client_closed || io.client_deaf || io.server_closed {
            Poll::Ready(io)
        } else {
            Poll::Pending
        }
    }

    fn poll_server(&mut self, server: &mut Server, io: &mut Io, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let had_output = !server.link.output.is_empty();
        match poll_write(&mut server.stream, &mut server.link.output, cx) {
            Ok(()) => {
                progress |=
                    had_output && server.link.output.is_empty() && self.session.is_releasable()
            }
            Err(_) => io.server_closed = true,
        }
        if self.session.output.len() <= HIGH_WATER {
            let (stream, input) = (&mut server.stream, &mut server.link.input);
            match (self.bells.server).ask(cx, |own| stream.poll_fill(input, own)) {
                Poll::Ready(Ok(0) | Err(_)) => io.server_closed = true,
                Poll::Ready(Ok(_)) => progress = true,
                Poll::Pending => {}
            }
        }
        progress
    }

    /// A client that closed its side may have said goodbye behind work that is still running.
    pub(super) fn may_still_end_orderly(&self) -> bool {
        let rest = self.input.get(self.session.passing_in..);
        rest.is_some_and(ends_with_terminate)
    }
}

fn poll_write(stream: &mut Stream, output: &mut BytesMut, cx: &mut Context<'_>) -> io::Result<()> {
    if output.is_empty() && !stream.holds_bytes() {
        return Ok(());
    }
    stream.poll_drain(output, cx)?;
    if output.is_empty() && output.capacity() > HIGH_WATER {
        *output = BytesMut::new();
    }
    Ok(())
}

/// Resolves when the client has closed its side; takes in what it sends meanwhile, up to a bound, and writes what it
/// is owed as far as it reads.
pub(super) async fn client_gone(
    stream: &mut Stream,
    input: &mut BytesMut,
    output: &mut BytesMut,
    bell: &Bell,
) {
    let mut said_goodbye = false;
    poll_fn(|cx| {
        if poll_write(stream, output, cx).is_err() {
            return Poll::Ready(());
        }
        while !said_goodbye && input.len() < HIGH_WATER {
            match bell.ask(cx, |own| stream.poll_fill(input, own)) {
                Poll::Ready(Ok(0) | Err(_)) if ends_with_terminate(input) => said_goodbye = true,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether these are whole messages and the last is Terminate. Bytes that only look like one, at
/// the end of half a message, are no goodbye: nobody will send the other half.
fn ends_with_terminate(mut input: &[u8]) -> bool {
    while let Ok(Some(head)) = frame::peek(input, LARGE_MESSAGE_LIMIT) {
        match input.get(head.total..) {
            Some([]) => return head.tag == tag::TERMINATE,
            Some(rest) => input = rest,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    use bytes::BytesMut;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::{Bell, client_gone, ends_with_terminate};
    use crate::stream::Stream;

    /// While a session waits for a connection, its client may read late, or never.
    #[tokio::test]
    async fn what_is_owed_is_written_while_a_session_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, client) = tokio::join!(listener.accept(), connecting);
        let mut stream = Stream::Plain(accepted.unwrap().0);
        let mut client = client.unwrap();
        // More than two sockets hold.
        let length = 64 << 20;
        let (mut input, mut output) = (BytesMut::new(), BytesMut::zeroed(length));
        let bell = Bell::new();
        let mut gone = pin!(client_gone(&mut stream, &mut input, &mut output, &bell));
        assert!(poll_fn(|cx| Poll::Ready(gone.as_mut().poll(cx).is_pending())).await);
        let read_all = async {
            let mut read = vec![0; length];
            client.read_exact(&mut read).await.unwrap();
        };
        tokio::select! {
            () = &mut gone => unreachable!("the client is there"),
            () = read_all => {}
        }
        drop(client);
        gone.await;
    }

    #[test]
    fn only_a_whole_message_is_a_goodbye() {
        assert!(ends_with_terminate(b"X\0\0\0\x04"));
        assert!(ends_with_terminate(b"S\0\0\0\x04X\0\0\0\x04"));
        assert!(!ends_with_terminate(b""));
        assert!(!ends_with_terminate(b"S\0\0\0\x04"));
        assert!(!ends_with_terminate(b"Q\0\0\0\x20X\0\0\0\x04"));
        assert!(!ends_with_terminate(b"Q\0\0\0\x09X\0\0\0\x04"));
    }
}
