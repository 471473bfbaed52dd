//! Drives one session: moves bytes between the client's socket, the session and the server's
//! socket, waits, and gives the server connection up as soon as the session allows.
//!
//! Reading and writing of both sockets share one poll, so that a client that sends a long pipeline
//! without reading cannot deadlock with a server that does the same.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tenantry_schema::tenant::TenantId;
use tenantry_wire::frame::{self, LARGE_MESSAGE_LIMIT};
use tenantry_wire::tag::frontend as tag;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::overtime::Abandoned;
use super::{Next, Session};
use crate::activity::{Call, Called, ClientState, Meter};
use crate::buffers::{self, READ_SIZE};
use crate::cancel::{CancelSlot, Requests};
use crate::error::Refusal;
use crate::overtime::Overtime;
use crate::pool::{Lease, LeftBehind, clean};
use crate::router::Router;
use crate::server::Server;
use crate::stream::Stream;

/// Beyond this many unread bytes for one side, the other side is not read.
const HIGH_WATER: usize = 256 << 10;
/// Longest time to write what is owed to a client whose session has ended.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client said goodbye, or the router did.
    Orderly,
    /// The client's connection broke.
    ClientGone,
}

/// One client connection after login.
pub(crate) struct Connection {
    pub(crate) router: Arc<Router>,
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    pub(crate) session: Session,
    pub(crate) slot: Arc<CancelSlot>,
    /// Tells others what the session does.
    pub(crate) meter: Meter,
    pub(crate) called: Called,
}

/// What a wait brought.
enum Woken {
    Io(Io),
    Drain,
    /// The session is drained, or not waited for any longer.
    End,
    Called(Call),
    /// The fleet has changed.
    Fleet,
}

/// Outcome of one poll of both sockets.
#[derive(Debug, Default)]
struct Io {
    /// The client will send nothing more.
    client_closed: bool,
    /// The client will read nothing more.
    client_deaf: bool,
    server_closed: bool,
}

impl Connection {
    /// Runs the session to its end.
    pub(crate) async fn run(mut self: Box<Self>) -> Ended {
        let router = Arc::clone(&self.router);
        let mut signals = signals(&router);
        let mut called = self.called.clone();
        let mut draining = false;
        let mut watches_fleet = false;
        let mut lease: Option<Lease> = None;
        let ended = loop {
            if !watches_fleet && self.session.is_pinned() {
                // Before `advance` looks, so that no change falls in between.
                watches_fleet = true;
                signals.push(fleet_changed(&router));
            }
            if let Some(ended) = self.advance(&mut lease).await {
                break ended;
            }
            // Whoever has just come to a router that is being replaced is served once: its client
            // did nothing wrong.
            let is_fresh = router.replaced.is_cancelled() && self.session.progress().0 == 0;
            let may_end = draining && !is_fresh && self.session.is_drainable();
            let woken = tokio::select! {
                biased;
                call = poll_fn(|cx| called.poll(cx)) => Woken::Called(call),
                Some(signal) = signals.next() => signal,
                io = poll_fn(|cx| self.poll_sockets(lease.as_mut(), cx)) => Woken::Io(io),
                // Only after a look at the sockets: what the client has sent is still served.
                () = std::future::ready(()), if may_end => Woken::End,
            };
            match woken {
                Woken::Drain => draining = true,
                Woken::Fleet => watches_fleet = false,
                Woken::End | Woken::Called(Call::Kill) => {
                    self.session.fatal(&Refusal::Shutdown);
                    break Ended::Orderly;
                }
                Woken::Called(Call::Overtime(overtime)) => {
                    // Boxed, like all that is rare: an idle session keeps room only for what each
                    // statement needs.
                    let passed = Box::pin(self.passed(overtime, lease.is_some()));
                    if let Some(ended) = passed.await {
                        break ended;
                    }
                }
                Woken::Io(io) => {
                    if io.server_closed && !self.server_gone(&mut lease) {
                        break Ended::ClientGone;
                    }
                    if io.client_deaf || (io.client_closed && !self.may_still_end_orderly()) {
                        break Ended::ClientGone;
                    }
                    if !self.take_replies(&mut lease) {
                        break Ended::ClientGone;
                    }
                }
            }
        };
        Box::pin(self.finish(lease, ended)).await;
        ended
    }

    /// Handles everything that can be handled without waiting for bytes. `Some` ends the session.
    async fn advance(&mut self, lease: &mut Option<Lease>) -> Option<Ended> {
        let mut just_acquired = false;
        loop {
            let mut withheld = None;
            if !std::mem::take(&mut just_acquired) {
                self.release(lease).await;
                if let Some(refusal) = self.session.left_behind() {
                    self.router.metrics.refused(refusal.name());
                    self.session.fatal(&refusal);
                    return Some(Ended::Orderly);
                }
                if lease.is_some() && self.session.is_at_rest() {
                    // Boxed: it would make every session's state larger.
                    withheld = self.router.check_kept(&self.session).err().map(Box::new);
                }
            }
            if self.session.output.len() > HIGH_WATER {
                return None;
            }
            // Without it, a transaction asks for a connection and is refused.
            let server = lease.as_mut().filter(|_| withheld.is_none());
            let link = server
                .and_then(Lease::server)
                .map(|server| &mut server.link);
            match self.session.next(&mut self.input, link) {
                Next::More => {}
                Next::Wait => {
                    if self.session.lends_buffers() {
                        buffers::take_back(&mut self.input);
                    }
                    self.note_rest(lease);
                    return None;
                }
                Next::Close => return Some(Ended::Orderly),
                Next::Acquire(tenant) => match self.acquire_unless(withheld, tenant).await {
                    Ok(acquired) => {
                        *lease = Some(acquired);
                        just_acquired = true;
                    }
                    Err(Unavailable::Refused(refusal)) => {
                        self.meter.refused();
                        self.router.metrics.refused(refusal.name());
                        self.session.acquire_failed(&refusal, &mut self.input);
                    }
                    Err(Unavailable::ClientGone) => return Some(Ended::ClientGone),
                    Err(Unavailable::Killed) => {
                        self.session.fatal(&Refusal::Shutdown);
                        return Some(Ended::Orderly);
                    }
                },
            }
        }
    }

    /// A time limit has passed, unless the session has gone on meanwhile. `Some` ends the session.
    async fn passed(&mut self, overtime: Overtime, has_server: bool) -> Option<Ended> {
        let limit = overtime.limit(&self.router.config().timeouts);
        let refusal = Refusal::Overtime {
            what: overtime,
            limit,
        };
        let name = refusal.name();
        let ends = match (overtime, self.session.activity()) {
            (Overtime::Statement | Overtime::Transaction, ClientState::Active) if has_server => {
                if self.session.is_overdue(refusal.clone()) {
                    self.slot.cancel().await;
                    false
                } else {
                    self.session.fatal(&refusal);
                    true
                }
            }
            (
                Overtime::Transaction | Overtime::IdleInTransaction,
                ClientState::IdleInTransaction,
            ) => match self.session.abandon_transaction(refusal.clone()) {
                Abandoned::Done => false,
                Abandoned::Nothing => return None,
                Abandoned::Impossible => {
                    self.session.fatal(&refusal);
                    true
                }
            },
            (Overtime::IdleClient, ClientState::Idle) => {
                self.session.fatal(&refusal);
                true
            }
            _ => return None,
        };
        tracing::info!(session = self.session.identity().session, %name, "time limit passed");
        self.router.metrics.refused(name);
        ends.then_some(Ended::Orderly)
    }

    /// Gives the connection up if the session is between transactions.
    async fn release(&mut self, lease: &mut Option<Lease>) {
        if !self.session.is_releasable() {
            return;
        }
        let written = lease
            .as_mut()
            .and_then(Lease::server)
            .is_some_and(|server| server.link.output.is_empty());
        if written && let Some(mut lease) = lease.take() {
            self.note_release(&mut lease);
            let requests = self.slot.detach().await;
            let left = LeftBehind {
                unfinished: requests == Requests::Adrift,
                cancelled: requests == Requests::Arrived,
            };
            clean(lease, left).await;
        }
    }

    /// Shows what the session does while it waits for bytes.
    fn note_rest(&mut self, lease: &mut Option<Lease>) {
        let state = self.session.activity();
        if state == ClientState::Idle && lease.is_some() {
            // Pinned to its connection: what it did is counted at the end of each transaction.
            let counts = self.session.take_counts();
            if counts.transactions > 0 {
                self.meter.rests(state);
                self.meter.hand_over(counts, &self.router.activity.tenants);
            }
        }
        self.meter.rests(state);
        self.log_slow(lease.as_ref());
        let settings = self.session.settings();
        let name = || settings.application_name();
        self.meter
            .shows(self.session.tenant(), settings.hash(), name);
    }

    fn note_release(&mut self, lease: &mut Lease) {
        let prepared = lease
            .server()
            .map_or(0, |server| server.link.state.prepared.len());
        let counts = self.session.take_counts();
        self.meter
            .released(counts, prepared, &self.router.activity.tenants);
        self.log_slow(Some(lease));
    }

    /// The tenant as logs show it.
    fn tenant_text(&self) -> Option<String> {
        let key = self.session.fleet().settings.tenant_key;
        self.session.tenant().map(|id| id.display(key).to_string())
    }

    /// Logs the request that has just ended if it took long; never with its values.
    fn log_slow(&mut self, lease: Option<&Lease>) {
        let Some(us) = self.meter.take_request_us() else {
            return;
        };
        let Some(observed) = self.session.take_observed() else {
            return;
        };
        let config = self.router.config();
        let limit = config.log_min_duration_statement;
        let took = Duration::from_micros(us);
        if limit.is_zero() || took < limit {
            return;
        }
        let tenant = self.tenant_text();
        let shard = lease.and_then(Lease::pool).map(|pool| pool.shard_name());
        let identity = self.session.identity();
        let record = self.meter.record();
        let trace = observed.trace.as_ref().or(record.origin().trace.as_ref());
        tracing::info!(
            duration_ms = us as f64 / 1e3,
            tenant,
            shard,
            session = identity.session,
            role = %identity.role.name,
            trace_id = trace,
            fingerprint = format_args!("{:016x}", observed.fingerprint),
            statement = config.log_statement_text.then_some(observed.statement.as_str()),
            "slow statement"
        );
    }

    async fn acquire_unless(
        &mut self,
        withheld: Option<Box<Refusal>>,
        tenant: Option<TenantId>,
    ) -> Result<Lease, Unavailable> {
        match withheld {
            Some(refusal) => Err((*refusal).into()),
            None => match self.router.idle_connection(&self.session, tenant)? {
                Some(lease) => Ok(self.attach(lease, tenant)),
                None => Box::pin(self.acquire(tenant)).await,
            },
        }
    }

    /// Waits for a server connection for the tenant's shard.
    async fn acquire(&mut self, tenant: Option<TenantId>) -> Result<Lease, Unavailable> {
        // What the session has answered already must not wait for the connection, nor the connection for a client
        // that does not read.
        let mut output = std::mem::take(&mut self.session.output);
        let owed = output.len();
        let router = Arc::clone(&self.router);
        let slot = Arc::clone(&self.slot);
        let queued = slot.queue();
        self.meter.waits();
        let mut called = self.called.clone();
        let lease = tokio::select! {
            biased;
            () = poll_fn(|cx| called.poll_killed(cx)) => Err(Unavailable::Killed),
            lease = router.connection(&self.session, tenant) => lease.map_err(Unavailable::from),
            () = queued.cancelled() => Err(Refusal::Canceled.into()),
            () = client_gone(&mut self.stream, &mut self.input, &mut output) => {
                Err(Unavailable::ClientGone)
            }
        };
        drop(queued);
        self.meter.sent(owed - output.len());
        self.session.output = output;
        Ok(self.attach(lease?, tenant))
    }

    fn attach(&mut self, mut lease: Lease, tenant: Option<TenantId>) -> Lease {
        let shard = lease.pool().map(|pool| pool.shard_id());
        if tenant.is_none() {
            self.session.set_home(shard);
        }
        self.session.set_held(shard);
        let session_pooled = self.session.is_session_pooled();
        if let Some(server) = lease.server() {
            // What a session leaves behind that has a connection to itself is not followed.
            server.link.state.dirty |= session_pooled;
            self.slot.attach(&server.link.state.key);
            self.meter.leased(server.listed.record(), tenant);
            let limit = self.router.config().log_min_duration_statement;
            self.session.observe(!limit.is_zero());
        }
        lease
    }

    /// Passes what the server sent to the session. False ends the session.
    fn take_replies(&mut self, lease: &mut Option<Lease>) -> bool {
        let Some(server) = lease.as_mut().and_then(Lease::server) else {
            return true;
        };
        if server.link.input.is_empty() {
            return true;
        }
        match self.session.on_server(&mut server.link) {
            Ok(()) => {
                let (requests, transactions) = self.session.progress();
                self.meter.gets_on(requests, transactions);
                buffers::take_back(&mut server.link.input);
                true
            }
            Err(fault) => {
                let session = self.session.identity().session;
                let tenant = self.tenant_text();
                let shard = lease.as_ref().and_then(Lease::pool);
                let shard = shard.map(|pool| pool.shard_name());
                tracing::warn!(%fault, session, tenant, shard, "server connection lost");
                self.server_gone(lease)
            }
        }
    }

    /// Drops the connection and answers for it. False ends the session.
    fn server_gone(&mut self, lease: &mut Option<Lease>) -> bool {
        let Some(mut gone) = lease.take() else {
            return true;
        };
        // What arrived before the end still counts.
        if let Some(server) = gone.server()
            && let Err(fault) = self.session.on_server(&mut server.link)
        {
            tracing::debug!(%fault, "last words of a server connection");
        }
        let shard = gone
            .pool()
            .map_or_else(String::new, |pool| pool.shard_name());
        self.note_release(&mut gone);
        self.router.metrics.server_lost();
        self.session.server_lost(&shard)
    }

    /// A client that closed its side may have said goodbye behind work that is still running.
    fn may_still_end_orderly(&self) -> bool {
        let rest = self.input.get(self.session.passing_in..);
        rest.is_some_and(ends_with_terminate)
    }

    /// The one way out: what is owed to the client is written, the server connection cleaned or
    /// closed.
    async fn finish(&mut self, lease: Option<Lease>, ended: Ended) {
        if ended == Ended::Orderly {
            let output = self.session.output.split();
            let farewell = async {
                self.stream.send(&output).await?;
                self.stream.shutdown().await
            };
            // The client may be gone already, or not reading; there is nobody left to tell.
            let _ = timeout(FAREWELL_TIME, farewell).await;
        }
        let Some(mut lease) = lease else {
            let counts = self.session.take_counts();
            return self.meter.hand_over(counts, &self.router.activity.tenants);
        };
        self.note_release(&mut lease);
        let requests = self.slot.detach().await;
        let unfinished = self.session.is_unfinished();
        if unfinished && let Some(server) = lease.server() {
            // The server would work on for a client that is gone.
            let key = server.link.state.key.clone();
            if let Err(error) = crate::server::send_cancel(&key).await {
                tracing::debug!(%error, "cancel for an abandoned statement did not arrive");
            }
        }
        clean(
            lease,
            LeftBehind {
                unfinished: unfinished || requests == Requests::Adrift,
                cancelled: requests == Requests::Arrived,
            },
        )
        .await;
    }

    /// Moves bytes on both sockets as far as they go. Ready when there is something to look at.
    fn poll_sockets(&mut self, lease: Option<&mut Lease>, cx: &mut Context<'_>) -> Poll<Io> {
        let mut io = Io::default();
        let mut progress = false;
        let was_high = self.session.output.len() > HIGH_WATER;
        let owed = self.session.output.len();
        let written = poll_write(&mut self.stream, &mut self.session.output, cx);
        if self.session.lends_buffers() {
            buffers::take_back(&mut self.session.output);
        }
        self.meter.sent(owed - self.session.output.len());
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
        if !server_full && self.input.len() < bound {
            match self.stream.poll_fill(&mut self.input, READ_SIZE, cx) {
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
            match server
                .stream
                .poll_fill(&mut server.link.input, READ_SIZE, cx)
            {
                Poll::Ready(Ok(0) | Err(_)) => io.server_closed = true,
                Poll::Ready(Ok(_)) => progress = true,
                Poll::Pending => {}
            }
        }
        progress
    }
}

/// What the router tells all its sessions. Each is only polled when it has something to say: its own poll takes a
/// lock that all sessions share.
fn signals(router: &Router) -> FuturesUnordered<BoxFuture<'static, Woken>> {
    let of = |token: &CancellationToken, woken| {
        let token = token.clone();
        async move {
            token.cancelled().await;
            woken
        }
        .boxed()
    };
    FuturesUnordered::from_iter([of(&router.end, Woken::End), of(&router.drain, Woken::Drain)])
}

/// Resolves at the next change of the fleet, counted from now. For sessions that keep their connection: others find
/// out when they acquire one.
fn fleet_changed(router: &Router) -> BoxFuture<'static, Woken> {
    let mut published = router.fleet.subscribe();
    async move {
        // The sender is the router's own, which outlives its sessions.
        let _ = published.changed().await;
        Woken::Fleet
    }
    .boxed()
}

/// Why a session gets no connection.
#[derive(Debug)]
pub(crate) enum Unavailable {
    Refused(Refusal),
    ClientGone,
    /// An operator ended the session.
    Killed,
}

impl From<Refusal> for Unavailable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn poll_write(stream: &mut Stream, output: &mut BytesMut, cx: &mut Context<'_>) -> io::Result<()> {
    stream.poll_drain(output, cx)?;
    if output.is_empty() && output.capacity() > HIGH_WATER {
        *output = BytesMut::new();
    }
    Ok(())
}

/// Resolves when the client has closed its side; takes in what it sends meanwhile, up to a bound, and writes what it
/// is owed as far as it reads.
async fn client_gone(stream: &mut Stream, input: &mut BytesMut, output: &mut BytesMut) {
    let mut said_goodbye = false;
    poll_fn(|cx| {
        if poll_write(stream, output, cx).is_err() {
            return Poll::Ready(());
        }
        while !said_goodbye && input.len() < HIGH_WATER {
            match stream.poll_fill(input, READ_SIZE, cx) {
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

    use super::{client_gone, ends_with_terminate};
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
        let mut gone = pin!(client_gone(&mut stream, &mut input, &mut output));
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

#[cfg(test)]
mod sizes {
    use super::Connection;

    fn future_size<F: Future>(_: impl FnOnce(Box<Connection>) -> F) -> usize {
        size_of::<F>()
    }

    /// There are thousands of idle sessions for each that works.
    #[test]
    fn an_idle_session_takes_little_room() {
        assert!(
            size_of::<Connection>() <= 2048,
            "{}",
            size_of::<Connection>()
        );
        let running = future_size(|connection| connection.run());
        assert!(running <= 512, "{running}");
    }
}
