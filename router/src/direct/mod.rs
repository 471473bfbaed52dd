//! Database `shard/NAME`: an operator's session on one shard, as if there were no router.
//!
//! The server connection is opened for this session alone, as `tenantry_operator` and with the
//! client's own startup parameters, and it is closed with it. No tenant is bound and nothing is
//! answered here: what the client sends reaches the server as it is. The session has the server's
//! process id (docs/adr/0018-a-direct-session-shows-the-servers-pid.md) and a cancel secret of the
//! router's. It must never take a connection from a pool nor give one to it.

mod outstanding;
mod pipe;

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tenantry_schema::fleet::Fleet;
use tenantry_schema::shard::ShardId;
use tenantry_wire::backend::{self, ErrorFields, TxStatus};
use tenantry_wire::frontend;
use tenantry_wire::startup::StartupParams;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use self::outstanding::Outstanding;
use self::pipe::{Passing, Pipe, Side};
use crate::Severity;
use crate::activity::Called;
use crate::cancel::Registration;
use crate::error::Refusal;
use crate::places::Place;
use crate::router::Router;
use crate::server::{self, ConnectError, Unguarded};
use crate::session::driver::Ended;
use crate::stream::Stream;

/// Longest time to tell a client that the router stops.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// Why an operator gets no session.
#[derive(Debug)]
pub(crate) enum OpenError {
    Refused(Refusal),
    /// The server's own answer, to be passed on.
    Server(Box<ErrorFields>),
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A session that is open on its shard, before its client knows.
#[derive(Debug)]
pub(crate) struct Opened {
    server: Unguarded,
    place: Place<ShardId>,
    shard: String,
}

impl Opened {
    /// The server's process id.
    pub(crate) fn key(&self) -> &server::BackendKey {
        &self.server.key
    }

    /// What the server said before it was ready, and then the key that the client may cancel with.
    pub(crate) fn greet(&mut self, registration: &Registration, output: &mut BytesMut) {
        backend::put_auth_ok(output);
        output.extend_from_slice(&self.server.greeting);
        self.server.greeting = BytesMut::new();
        let slot = &registration.slot;
        backend::put_backend_key_data(output, slot.pid(), slot.key());
        backend::put_ready(output, TxStatus::Idle);
    }
}

/// Opens a session on the shard of this name. A shard that the catalog calls down is tried like any
/// other: that is when operators are needed.
pub(crate) async fn open(
    router: &Arc<Router>,
    fleet: &Fleet,
    name: &str,
    params: &StartupParams,
) -> Result<Opened, OpenError> {
    let shard = fleet
        .shard_named(name)
        .ok_or_else(|| Refusal::UnknownShard {
            name: name.to_owned(),
        })?;
    let limit = router.config().operator_connections_max;
    let place = router.operators.take(&shard.id, limit);
    let place = place.map_err(|_| Refusal::TooManyOperators {
        shard: shard.name.to_string(),
        limit,
    })?;
    let login = router.pools.operator_login(shard)?;
    let own = |name: &str| matches!(name, "user" | "database" | "replication");
    let passed_on = params.parameters.iter().filter(|(name, _)| !own(name));
    let limit = router.config().timeouts.server_connect;
    let down = |error: &ConnectError| Refusal::ShardDown {
        shard: shard.name.to_string(),
        reason: tenantry_schema::causes::one_line(error),
    };
    match timeout(limit, server::open_unguarded(&login, passed_on)).await {
        Ok(Ok(server)) => Ok(Opened {
            server,
            place,
            shard: shard.name.to_string(),
        }),
        // A password that the shard refuses is the router's, and none of the client's business.
        Ok(Err(ConnectError::Refused(fields))) if !fields.code.starts_with("28") => {
            Err(OpenError::Server(fields))
        }
        Ok(Err(error)) => Err(down(&error).into()),
        Err(_elapsed) => Err(down(&ConnectError::Timeout).into()),
    }
}

/// An operator's session after login.
pub(crate) struct Direct {
    pub(crate) router: Arc<Router>,
    pub(crate) client: Stream,
    /// What the client has sent already.
    pub(crate) input: BytesMut,
    pub(crate) opened: Opened,
    /// The role that logged in.
    pub(crate) user: String,
    pub(crate) called: Called,
}

/// What both directions know together.
struct Shared {
    outstanding: Mutex<Outstanding>,
    /// Told whenever the client has been given what the server said.
    delivered: Notify,
}

impl Direct {
    /// Passes bytes both ways until either side ends, or the router stops and the session is
    /// between transactions.
    pub(crate) async fn run(mut self) -> Ended {
        let Opened {
            server,
            place,
            shard,
        } = self.opened;
        let (pid, started) = (server.key.pid, Instant::now());
        let user = self.user;
        tracing::info!(user, shard, pid, "an operator's session begins");
        let (mut from_client, mut to_client) = tokio::io::split(self.client);
        let (mut from_server, mut to_server) = tokio::io::split(server.stream);
        let shared = Shared {
            outstanding: Mutex::new(Outstanding::new()),
            delivered: Notify::new(),
        };
        let mut up = Pipe::new(Side::Client, self.input);
        let mut down = Pipe::new(Side::Server, server.input);
        let ended = tokio::select! {
            biased;
            ended = async {
                if to_server_until_closed(&mut up, &mut from_client, &mut to_server, &shared).await.is_ok() {
                    // As without a router: what was asked for is still answered.
                    pending::<()>().await;
                }
                Ended::ClientGone
            } => Some(ended),
            ended = to_client_until_closed(&mut down, &mut from_server, &mut to_client, &shared) => Some(ended),
            () = drained(&self.router, &shared) => None,
            () = poll_fn(|cx| self.called.poll_killed(cx)) => None,
        };
        let mut farewell = BytesMut::new();
        if ended.is_none() && down.is_between_messages() {
            backend::put_error(&mut farewell, &Refusal::Shutdown.fields(Severity::Fatal));
        }
        // Either side may be gone; there is nobody left to tell.
        let _ = timeout(FAREWELL_TIME, close(&mut to_client, &farewell)).await;
        if up.is_between_messages() {
            let mut terminate = BytesMut::new();
            frontend::put_terminate(&mut terminate);
            let _ = timeout(FAREWELL_TIME, close(&mut to_server, &terminate)).await;
        }
        let seconds = started.elapsed().as_secs();
        tracing::info!(user, shard, pid, seconds, "an operator's session ended");
        drop((place, server.listed));
        ended.unwrap_or(Ended::Orderly)
    }
}

/// Until the client closes its side, which the server is told, or the server takes no more. An
/// error is the client's.
async fn to_server_until_closed(
    pipe: &mut Pipe,
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
) -> io::Result<()> {
    loop {
        pipe.scan(|passing| {
            if let Passing::Message(tag) = passing {
                shared.outstanding.lock().client_sent(tag);
            }
        });
        if pipe.pass(server).await.is_err() {
            // What the server said before it went is on its way to the client.
            return Ok(());
        }
        if !pipe.fill(client).await? {
            let _ = server.shutdown().await;
            return Ok(());
        }
    }
}

/// Until the server closes the connection, or the client reads no more.
async fn to_client_until_closed(
    pipe: &mut Pipe,
    server: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
) -> Ended {
    loop {
        {
            let mut outstanding = shared.outstanding.lock();
            outstanding.delivering();
            pipe.scan(|passing| match passing {
                Passing::Ready(status) => outstanding.ready(status),
                Passing::Message(tag) => outstanding.server_sent(tag),
            });
        }
        if pipe.pass(client).await.is_err() {
            return Ended::ClientGone;
        }
        shared.outstanding.lock().delivered();
        shared.delivered.notify_one();
        match pipe.fill(server).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return Ended::Orderly,
        }
    }
}

/// Resolves once the router stops and the session is at a transaction boundary, or at the end of
/// the time that sessions have.
async fn drained(router: &Router, shared: &Shared) {
    router.drain.cancelled().await;
    let boundary = async {
        while !shared.outstanding.lock().is_at_boundary() {
            shared.delivered.notified().await;
        }
    };
    tokio::select! {
        () = boundary => {}
        () = router.end.cancelled() => tracing::info!("an operator's transaction outlasts the router"),
    }
}

async fn close(side: &mut (impl AsyncWrite + Unpin), last: &[u8]) -> io::Result<()> {
    side.write_all(last).await?;
    side.flush().await?;
    side.shutdown().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::Poll;

    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// A stopping router must not take the end of an answer for sent while its client has yet to read it.
    #[tokio::test]
    async fn an_answer_that_is_being_written_is_no_boundary() {
        let answer = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
        let shared = Shared {
            outstanding: Mutex::new(Outstanding::new()),
            delivered: Notify::new(),
        };
        shared.outstanding.lock().client_sent(b'Q');
        let (mut client, mut to_client) = duplex(8);
        let (mut server, mut from_server) = duplex(64);
        server.write_all(answer).await.unwrap();
        let mut pipe = Pipe::new(Side::Server, BytesMut::new());
        let mut passing = Box::pin(to_client_until_closed(
            &mut pipe,
            &mut from_server,
            &mut to_client,
            &shared,
        ));
        let mut go_on =
            async || poll_fn(|cx| Poll::Ready(passing.as_mut().poll(cx).is_pending())).await;
        let mut read = Vec::new();
        while read.len() + 8 < answer.len() {
            assert!(go_on().await);
            assert!(!shared.outstanding.lock().is_at_boundary(), "{read:?}");
            client.read_buf(&mut read).await.unwrap();
        }
        assert!(go_on().await);
        assert!(shared.outstanding.lock().is_at_boundary());
        client.read_buf(&mut read).await.unwrap();
        assert_eq!(read, answer);
    }
}
