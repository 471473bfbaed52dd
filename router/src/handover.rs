//! Restart without a gap: a starting router takes the listening sockets over from the running one.
//!
//! The running router waits on a Unix socket. Its successor connects, is handed the listening
//! sockets themselves (so that no connection in their queues is lost), starts, and says when it
//! serves; only then does the old router stop accepting and drain. A successor that fails before
//! that changes nothing. While the old one drains, cancel requests for its sessions reach it
//! through the same connection.

use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tenantry_wire::frontend;
use tenantry_wire::startup::{InitialRequest, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::router::Router;

/// Said by the successor once it is about to serve.
const SERVING: u8 = b'S';
/// The running router's answer: it retires.
const RETIRING: u8 = b'R';
/// Longest time for either side's part before the successor serves.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// A successor that does not serve after this time is given up.
const START_TIME: Duration = Duration::from_secs(120);
/// Cancel requests waiting for the old router; more are dropped.
const CANCELS_MAX: usize = 64;
const HEADER_MAX: usize = 4096;
/// PostgreSQL's, HTTP's, and the control plane's if it has one of its own.
const SOCKETS_MAX: usize = 3;

/// Why sockets cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket file is there and cannot be used.
    #[error("cannot use the handover socket")]
    Socket(#[source] io::Error),
    /// The other side is not the same user's process.
    #[error("the process at the handover socket runs as another user")]
    ForeignUser,
    /// The other side answered something else.
    #[error("the running router answered what is no handover: {0}")]
    Answer(&'static str),
    /// It did not answer.
    #[error("the running router did not answer in time")]
    Timeout,
}

/// What the successor is told with the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    /// Of this exchange.
    version: u32,
    /// The router's number, which goes to the successor.
    number: u16,
    /// The last session number given; the successor goes on behind it.
    last_session: u32,
}

const VERSION: u32 = 1;

/// What a router takes over at its start.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) pg: TcpListener,
    pub(crate) http: TcpListener,
    /// Only of a router whose control plane has a place of its own.
    pub(crate) control: Option<TcpListener>,
    pub(crate) number: u16,
    pub(crate) last_session: u32,
    pub(crate) predecessor: UnixStream,
}

/// Asks the router that listens at `path`; `None` if there is none.
pub(crate) async fn inherit(path: &Path) -> Result<Option<Inherited>, HandoverError> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(HandoverError::Socket(error)),
    };
    check_user(&stream)?;
    match timeout(REPLY_TIME, take_over(stream)).await {
        Ok(inherited) => inherited.map(Some),
        Err(_elapsed) => Err(HandoverError::Timeout),
    }
}

async fn take_over(stream: UnixStream) -> Result<Inherited, HandoverError> {
    let (header, sockets) = stream
        .async_io(Interest::READABLE, || receive(&stream))
        .await
        .map_err(HandoverError::Socket)?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|_| HandoverError::Answer("no header"))?;
    if header.version != VERSION {
        return Err(HandoverError::Answer("another version"));
    }
    let mut sockets = sockets.into_iter();
    let (Some(pg), Some(http), control) = (sockets.next(), sockets.next(), sockets.next()) else {
        return Err(HandoverError::Answer("not two sockets"));
    };
    Ok(Inherited {
        pg: listener(pg)?,
        http: listener(http)?,
        control: control.map(listener).transpose()?,
        number: header.number,
        last_session: header.last_session,
        predecessor: stream,
    })
}

fn listener(socket: OwnedFd) -> Result<TcpListener, HandoverError> {
    TcpListener::from_std(std::net::TcpListener::from(socket)).map_err(HandoverError::Socket)
}

/// One message: the header and the descriptors that came with it.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut header = vec![0_u8; HEADER_MAX];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut header)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    header.truncate(received.bytes);
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    Ok((header, sockets))
}

fn check_user(stream: &UnixStream) -> Result<(), HandoverError> {
    let peer = stream.peer_cred().map_err(HandoverError::Socket)?;
    if peer.uid() == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(HandoverError::ForeignUser)
    }
}

/// Cancel requests for the sessions of the router that was replaced.
#[derive(Debug, Clone)]
pub(crate) struct Predecessor {
    requests: mpsc::Sender<BytesMut>,
}

impl Predecessor {
    /// Says that this router serves; from then on the old one drains. The error is that nobody is
    /// there any more who would.
    pub(crate) async fn retire(mut stream: UnixStream) -> Result<Self, HandoverError> {
        let agreed = async {
            stream.write_all(&[SERVING]).await?;
            stream.read_u8().await
        };
        match timeout(REPLY_TIME, agreed).await {
            Ok(Ok(RETIRING)) => {}
            Ok(Ok(_)) => return Err(HandoverError::Answer("not that it retires")),
            Ok(Err(error)) => return Err(HandoverError::Socket(error)),
            Err(_elapsed) => return Err(HandoverError::Timeout),
        }
        let (requests, waiting) = mpsc::channel(CANCELS_MAX);
        tokio::spawn(pass_on(stream, waiting));
        Ok(Self { requests })
    }

    /// Passes a request on, unless the old router has ended.
    pub(crate) fn cancel(&self, pid: i32, secret: &[u8]) {
        let mut request = BytesMut::new();
        frontend::put_cancel_request(&mut request, pid, secret);
        if self.requests.try_send(request).is_err() {
            tracing::debug!(
                pid,
                "the replaced router has ended or takes no more cancel requests"
            );
        }
    }
}

/// Writes cancel requests to the old router until it ends.
async fn pass_on(stream: UnixStream, mut waiting: mpsc::Receiver<BytesMut>) {
    let (mut from, mut to) = stream.into_split();
    let mut nothing = [0_u8; 1];
    loop {
        tokio::select! {
            // It says nothing any more: this is its end.
            _ = from.read(&mut nothing) => return,
            request = waiting.recv() => {
                let Some(request) = request else { return };
                if to.write_all(&request).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The sockets that a successor gets, and who is told that there is one.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) router: Arc<Router>,
    pub(crate) pg: Arc<TcpListener>,
    pub(crate) http: Arc<TcpListener>,
    pub(crate) control: Option<Arc<TcpListener>>,
}

impl Estate {
    /// Waits for successors at `path` until one serves, then passes its cancel requests on until
    /// `shutdown`.
    pub(crate) async fn await_successor(self, path: PathBuf, shutdown: CancellationToken) {
        let listener = match bind(&path) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "no restart without a gap: cannot listen at the handover socket");
                return;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.serve(&listener) => {}
        }
        if !self.router.replaced.is_cancelled() {
            // The successor has made a socket of its own there.
            let _ = std::fs::remove_file(&path);
        }
    }

    async fn serve(&self, listener: &UnixListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    tokio::time::sleep(REPLY_TIME).await;
                    continue;
                }
            };
            match self.hand_over(stream).await {
                Ok(stream) => return self.take_cancels(stream).await,
                Err(error) => tracing::warn!(%error, "a successor came and did not serve"),
            }
        }
    }

    async fn hand_over(&self, mut stream: UnixStream) -> Result<UnixStream, HandoverError> {
        check_user(&stream)?;
        let header = Header {
            version: VERSION,
            number: self.router.cancels.number(),
            last_session: self.router.cancels.last_session(),
        };
        let header = serde_json::to_vec(&header).map_err(|_| HandoverError::Answer("header"))?;
        tracing::info!("handing the listening sockets over to a successor");
        let send = stream.async_io(Interest::WRITABLE, || self.send(&stream, &header));
        match timeout(REPLY_TIME, send).await {
            Ok(sent) => sent.map_err(HandoverError::Socket)?,
            Err(_elapsed) => return Err(HandoverError::Timeout),
        }
        match timeout(START_TIME, stream.read_u8()).await {
            Ok(Ok(SERVING)) => {}
            Ok(Ok(_)) => return Err(HandoverError::Answer("not that it serves")),
            Ok(Err(error)) => return Err(HandoverError::Socket(error)),
            Err(_elapsed) => return Err(HandoverError::Timeout),
        }
        stream
            .write_all(&[RETIRING])
            .await
            .map_err(HandoverError::Socket)?;
        tracing::info!("the successor serves: draining");
        self.router.replaced.cancel();
        // The rebalancer speaks to the successor.
        self.router.holds.end_all();
        Ok(stream)
    }

    fn send(&self, stream: &UnixStream, header: &[u8]) -> io::Result<()> {
        let mut sockets = vec![self.pg.as_fd(), self.http.as_fd()];
        sockets.extend(self.control.as_ref().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        sendmsg(
            stream,
            &[IoSlice::new(header)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Cancel requests that reached the successor and may be for a session that still ends here.
    async fn take_cancels(&self, mut stream: UnixStream) {
        let mut input = BytesMut::new();
        loop {
            match decode(&input) {
                Ok(Some((InitialRequest::Cancel(key), consumed))) => {
                    input.advance(consumed);
                    self.router.cancel_here(key.pid, &key.key).await;
                }
                Ok(None) => match stream.read_buf(&mut input).await {
                    Ok(0) | Err(_) => return std::future::pending().await,
                    Ok(_) => {}
                },
                _ => {
                    tracing::warn!("the successor sent what is no cancel request");
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// A socket that only this user can connect to, in the place of one that nobody listens at.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
