//! A connection's socket, towards clients and shards alike.
//!
//! One type, told apart by a match and never boxed for plain TCP, so that what is done per query costs what it costs on
//! the socket itself. Nothing here knows what the bytes mean.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::buffers::{self, READ_SIZE};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP without encryption.
    Plain(TcpStream),
    /// TLS over TCP. Its state is large, so it lives apart.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The same socket, woken by the thread that asks from now on. An encrypted one stays where it is: that costs a
    /// wake-up between threads and nothing else.
    pub(crate) fn move_here(self) -> io::Result<Self> {
        match self {
            Self::Plain(socket) => TcpStream::from_std(socket.into_std()?).map(Self::Plain),
            Self::Tls(stream) => Ok(Self::Tls(stream)),
        }
    }

    /// An encrypted connection after its handshake.
    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(stream))
    }

    /// This side's address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.local_addr(),
            Self::Tls(stream) => stream.get_ref().0.local_addr(),
        }
    }

    /// Writes and flushes all of it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Whether what was written may still be on its way to the socket.
    pub(crate) fn holds_bytes(&self) -> bool {
        matches!(self, Self::Tls(_))
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
                Poll::Ready(Ok(written)) => buffers::consume(output, written),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        match self {
            Self::Plain(_) => Ok(()),
            // What was written may still wait for the socket, encrypted.
            Self::Tls(stream) => match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(flushed) => flushed,
                Poll::Pending => Ok(()),
            },
        }
    }

    /// Reads once into `input`; 0 is the end. The buffer only grows once there is something to read, so that an idle
    /// connection needs none.
    pub(crate) fn poll_fill(
        &mut self,
        input: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => {
                if input.capacity() - input.len() >= READ_SIZE {
                    return tokio_util::io::poll_read_buf(Pin::new(socket), cx, input);
                }
                // Bytes are read to the stack: what asks for memory is that there are some.
                let mut bytes = [MaybeUninit::uninit(); READ_SIZE];
                let mut bytes = ReadBuf::uninit(&mut bytes);
                ready!(Pin::new(socket).poll_read(cx, &mut bytes))?;
                buffers::lend(input);
                input.extend_from_slice(bytes.filled());
                Poll::Ready(Ok(bytes.filled().len()))
            }
            Self::Tls(stream) => {
                let mut stream = Pin::new(stream);
                let read = match stream.as_mut().poll_fill_buf(cx) {
                    Poll::Ready(Ok(decrypted)) => {
                        buffers::lend(input);
                        input.extend_from_slice(decrypted);
                        decrypted.len()
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                };
                stream.consume(read);
                Poll::Ready(Ok(read))
            }
        }
    }

    /// Whether nothing has come and the other side has not closed. Costs no system call unless the socket has become
    /// readable; bytes that have come may be lost, for a connection that is not quiet is not used again.
    pub(crate) fn is_quiet(&self) -> bool {
        let (socket, nothing_decrypted) = match self {
            Self::Plain(socket) => (socket, true),
            Self::Tls(stream) => {
                let (socket, session) = stream.get_ref();
                (socket, !session.wants_write() && session.wants_read())
            }
        };
        let mut probe = [0_u8; 1];
        nothing_decrypted
            && matches!(
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
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
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
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
