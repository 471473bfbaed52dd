//! One direction of an operator's session: bytes go through as they came, and the types of the
//! messages are read in passing.
//!
//! Bodies are never waited for and never looked into, but for ReadyForQuery. Bytes that are not the
//! protocol's pass as well: what is wrong with them is for the receiver to say.

use std::io;

use bytes::{Buf, BytesMut};
use tenantry_wire::backend::{self, TxStatus};
use tenantry_wire::frame::{self, LARGE_MESSAGE_LIMIT};
use tenantry_wire::tag::backend as tag;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes read at once.
const READ_SIZE: usize = 32 << 10;

/// A message that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// ReadyForQuery; read from a server only.
    Ready(TxStatus),
    /// Any other, by its type.
    Message(u8),
}

/// Where the bytes come from, which decides what their types mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Bytes on their way from one side to the other.
#[derive(Debug)]
pub(super) struct Pipe {
    side: Side,
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that may be written; whole heads only.
    checked: usize,
    /// Bytes of the last message that have not arrived yet.
    missing: usize,
    /// The framing is lost: everything passes unread.
    raw: bool,
}

impl Pipe {
    /// Starts with what has been read already.
    pub(super) fn new(side: Side, buffer: BytesMut) -> Self {
        Self {
            side,
            buffer,
            checked: 0,
            missing: 0,
            raw: false,
        }
    }

    /// Whether the receiver has been given whole messages only.
    pub(super) fn is_between_messages(&self) -> bool {
        self.missing == 0 && self.checked == 0 && !self.raw
    }

    /// Reads once. False at the end of the stream.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.buffer.reserve(READ_SIZE);
        Ok(from.read_buf(&mut self.buffer).await? > 0)
    }

    /// Reads the heads of what has arrived.
    pub(super) fn scan(&mut self, mut seen: impl FnMut(Passing)) {
        loop {
            let rest = self.buffer.get(self.checked..).unwrap_or_default();
            let passing = self.missing.min(rest.len());
            self.checked += passing;
            self.missing -= passing;
            if self.raw {
                self.checked = self.buffer.len();
            }
            let rest = self.buffer.get(self.checked..).unwrap_or_default();
            if self.missing > 0 || rest.is_empty() {
                return;
            }
            match frame::peek(rest, LARGE_MESSAGE_LIMIT) {
                Ok(Some(head)) if self.side == Side::Server && head.tag == tag::READY_FOR_QUERY => {
                    let Some(body) = rest.get(frame::HEAD_LEN..head.total) else {
                        return;
                    };
                    match backend::ready_for_query(body) {
                        Ok(status) => seen(Passing::Ready(status)),
                        Err(_) => self.raw = true,
                    }
                    self.missing = head.total;
                }
                Ok(Some(head)) => {
                    seen(Passing::Message(head.tag));
                    self.missing = head.total;
                }
                Ok(None) => return,
                Err(_) => self.raw = true,
            }
        }
    }

    /// Writes what has been read. What was written is forgotten as it goes, so that a call that is
    /// dropped half-way leaves the pipe as it is.
    pub(super) async fn pass(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while self.checked > 0 {
            let checked = self.buffer.get(..self.checked).unwrap_or_default();
            let written = to.write(checked).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.buffer.advance(written);
            self.checked -= written;
        }
        to.flush().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn through(side: Side, bytes: &[u8], chunk: usize) -> (Vec<u8>, Vec<Passing>, bool) {
        let mut pipe = Pipe::new(side, BytesMut::new());
        let (mut out, mut seen) = (Vec::new(), Vec::new());
        for mut chunk in bytes.chunks(chunk) {
            assert!(pipe.fill(&mut chunk).await.unwrap());
            pipe.scan(|passing| seen.push(passing));
            pipe.pass(&mut out).await.unwrap();
        }
        (out, seen, pipe.is_between_messages())
    }

    #[tokio::test]
    async fn everything_passes_however_it_is_cut() {
        let bytes = b"D\0\0\0\x0a\0\x01abcdC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";
        for chunk in 1..=bytes.len() {
            let (out, seen, whole) = through(Side::Server, bytes, chunk).await;
            assert_eq!(out, bytes);
            let wanted = vec![
                Passing::Message(b'D'),
                Passing::Message(b'C'),
                Passing::Ready(TxStatus::InTransaction),
            ];
            assert_eq!(seen, wanted, "{chunk}");
            assert!(whole);
        }
    }

    #[tokio::test]
    async fn what_is_not_the_protocol_passes_too() {
        for bytes in [
            &b"S\0\0\0\x04Q\0\0\0\0garbage"[..],
            b"Q\xff\xff\xff\xffgarbage",
        ] {
            for chunk in 1..=bytes.len() {
                let (out, _, whole) = through(Side::Client, bytes, chunk).await;
                assert_eq!(out, bytes);
                assert!(!whole);
            }
        }
    }

    #[tokio::test]
    async fn the_middle_of_a_message_is_no_place_for_another() {
        let (out, seen, whole) = through(Side::Server, b"D\0\0\0\x0a\0\x01ab", 3).await;
        assert_eq!(out, b"D\0\0\0\x0a\0\x01ab");
        assert_eq!(seen, vec![Passing::Message(b'D')]);
        assert!(!whole);
    }
}
