//! A connection's socket, towards clients and shards alike.
//!
//! One type, told apart by a match and never boxed for plain TCP, so that what is done per query costs what it costs on
//! the socket itself. Nothing here knows what the bytes mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP without encryption.
    Plain(TcpStream),
}

impl Stream {
    /// Writes and flushes all of it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Writes as much of `output` as goes without waiting, and leaves the rest. The task is woken when more goes.
    pub(crate) fn poll_drain(
        &mut self,
        output: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        while !output.is_empty() {
            match Pin::new(&mut *self).poll_write(cx, output) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => output.advance(written),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Reads once into `input`; 0 is the end. The buffer only grows, by at least `size`, once there is something to
    /// read, so that an idle connection needs none.
    pub(crate) fn poll_fill(
        &mut self,
        input: &mut BytesMut,
        size: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Self::Plain(socket) = self;
        match socket.poll_read_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        input.reserve(size);
        tokio_util::io::poll_read_buf(Pin::new(socket), cx, input)
    }

    /// Whether nothing has come and the other side has not closed. Costs no system call unless the socket has become
    /// readable; bytes that have come may be lost, for a connection that is not quiet is not used again.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut probe = [0_u8; 1];
        let Self::Plain(socket) = self;
        matches!(
            socket.try_read(&mut probe),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock
        )
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
