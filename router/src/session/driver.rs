//! Drives one session: moves bytes between the client's socket, the session and the server's
//! socket, waits, and gives the server connection up as soon as the session allows.
//!
//! Reading and writing of both sockets share one poll, so that a client that sends a long pipeline
//! without reading cannot deadlock with a server that does the same.

mod bell;
mod limited;
mod moving;
mod shown;
mod signals;
mod sockets;
mod waiting;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use self::bell::Bells;
use self::moving::Moving;
use self::signals::Signals;
use self::sockets::Io;
use self::waiting::Unavailable;
use super::overtime::Abandoned;
use super::{Next, Session};
use crate::activity::{Call, Called, ClientState, Meter};
use crate::buffers;
use crate::cancel::{CancelSlot, Requests};
use crate::error::Refusal;
use crate::limits::Gate;
use crate::overtime::Overtime;
use crate::pool::{Lease, LeftBehind, clean, give_back_if_clean};
use crate::route::Route;
use crate::router::Router;
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
    pub(crate) route: Route,
    /// The limits of its tenant.
    pub(crate) gate: Gate,
    /// Its tenant moves.
    pub(crate) moving: Option<Box<Moving>>,
    /// Whether its client, or its server, may have sent something.
    pub(crate) bells: Box<Bells>,
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
            let is_fresh = || router.replaced.is_cancelled() && self.session.progress().0 == 0;
            let may_end = draining && !is_fresh() && self.session.is_drainable();
            let woken = tokio::select! {
                biased;
                call = poll_fn(|cx| called.poll(cx)) => Woken::Called(call),
                signal = poll_fn(|cx| signals.poll(cx)) => signal,
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
                if let Some(lease) = self.release(lease) {
                    Box::pin(self.give_up(lease)).await;
                }
                if let Some(refusal) = self.session.left_behind() {
                    self.router.metrics.refused(refusal.name());
                    self.session.fatal(&refusal);
                    return Some(Ended::Orderly);
                }
                if self.session.is_turned() {
                    self.heed_turn();
                }
                if lease.is_some() && self.session.is_at_rest() {
                    self.heed_moves(self.session.tenant());
                    // Boxed: it would make every session's state larger.
                    let checked = self.router.check_kept(&self.session, &mut self.route);
                    let admitted = checked.and_then(|()| self.admit_kept());
                    withheld = admitted.err().map(Box::new);
                } else if lease.is_some() {
                    self.heed_limits();
                    self.heed_hold();
                }
            }
            if self.session.output.len() > HIGH_WATER {
                return None;
            }
            // Without it, a transaction asks for a connection: and is refused, or waits for what the guard says.
            let must_probe = self.session.must_probe();
            let server = lease.as_mut().filter(|_| withheld.is_none() && !must_probe);
            let link = server
                .and_then(Lease::server)
                .map(|server| &mut server.link);
            match self.session.next(&mut self.input, link) {
                Next::More if self.session.is_entered_for_nothing() => self.leave(lease),
                Next::More => {}
                Next::Wait => {
                    self.give_buffers_back(lease);
                    self.note_rest(lease);
                    return None;
                }
                Next::Close => return Some(Ended::Orderly),
                Next::Acquire(_) if lease.is_some() && withheld.is_none() => {
                    match Box::pin(self.enter(lease)).await {
                        Ok(asked) => just_acquired = asked,
                        Err(unavailable) => {
                            if let Some(ended) = self.unavailable(unavailable, lease.is_some()) {
                                return Some(ended);
                            }
                        }
                    }
                }
                Next::Acquire(tenant) => {
                    self.heed_moves(tenant);
                    let mut passed = Ok(());
                    if self.moving.is_some() {
                        passed = Box::pin(self.pass_hold()).await;
                    }
                    let acquired = match passed {
                        Ok(()) => match self.acquire_at_once(withheld, tenant) {
                            Ok(Some(acquired)) => Ok(acquired),
                            Ok(None) => Box::pin(self.acquire(tenant)).await,
                            Err(refusal) => Err(refusal.into()),
                        },
                        Err(unavailable) => Err(unavailable),
                    };
                    match acquired {
                        Ok(acquired) => {
                            *lease = Some(acquired);
                            just_acquired = true;
                        }
                        Err(unavailable) => {
                            if let Some(ended) = self.unavailable(unavailable, lease.is_some()) {
                                return Some(ended);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The session gets no connection: `Some` ends it, otherwise its statement is refused.
    #[cold]
    fn unavailable(&mut self, unavailable: Unavailable, keeps: bool) -> Option<Ended> {
        match unavailable {
            Unavailable::Refused(refusal) => {
                // A connection that is kept keeps its place.
                if !keeps {
                    self.gate.end();
                }
                self.meter.refused();
                self.router.metrics.refused(refusal.name());
                self.session.acquire_failed(&refusal, &mut self.input);
                None
            }
            Unavailable::ClientGone => Some(Ended::ClientGone),
            Unavailable::Killed => {
                self.session.fatal(&Refusal::Shutdown);
                Some(Ended::Orderly)
            }
        }
    }

    /// A session that waits for its client holds no memory for bytes; one that works, or is in a transaction, keeps it.
    fn give_buffers_back(&mut self, lease: &mut Option<Lease>) {
        if self.gives_buffers_back(lease.is_some()) {
            buffers::take_back(&mut self.input);
            buffers::take_back(&mut self.session.output);
            if let Some(server) = lease.as_mut().and_then(Lease::server) {
                buffers::take_back(&mut server.link.input);
                buffers::take_back(&mut server.link.output);
            }
        }
    }

    fn gives_buffers_back(&self, has_server: bool) -> bool {
        let works = has_server && self.session.activity() != ClientState::Idle;
        !works && self.session.lends_buffers()
    }

    /// A time limit has passed, unless the session has gone on meanwhile. `Some` ends the session.
    async fn passed(&mut self, overtime: Overtime, has_server: bool) -> Option<Ended> {
        let refusal = self.why_ended(overtime)?;
        let name = refusal.name();
        let ends = match (overtime, self.session.activity()) {
            (
                Overtime::Statement | Overtime::Transaction | Overtime::Killed,
                ClientState::Active,
            ) if has_server => {
                if self.session.is_overdue(refusal.clone()) {
                    self.slot.cancel().await;
                    false
                } else {
                    self.session.fatal(&refusal);
                    true
                }
            }
            (
                Overtime::Transaction | Overtime::IdleInTransaction | Overtime::Killed,
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

    /// Gives the connection up if the session is between transactions. Returns one that cannot go back as it is.
    fn release(&mut self, lease: &mut Option<Lease>) -> Option<Lease> {
        let written = lease
            .as_mut()
            .and_then(Lease::server)?
            .link
            .output
            .is_empty();
        if !written || !self.session.is_releasable() {
            return None;
        }
        let mut lease = lease.take()?;
        self.note_release(&mut lease);
        if let Some(moving) = &mut self.moving {
            moving.end_transaction();
        }
        if self.slot.let_go() {
            give_back_if_clean(lease)
        } else {
            Some(lease)
        }
    }

    /// Cleans a connection that the session has given up, or closes it.
    async fn give_up(&self, lease: Lease) {
        let requests = self.slot.detach().await;
        let left = LeftBehind {
            unfinished: requests == Requests::Adrift,
            cancelled: requests == Requests::Arrived,
        };
        clean(lease, left).await;
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
        if let Some(moving) = &mut self.moving {
            moving.end_transaction();
        }
        self.router.metrics.server_lost();
        self.session.server_lost(&shard)
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
}

/// What the router tells all its sessions.
fn signals(router: &Router) -> Signals<Woken> {
    let of = |token: &CancellationToken, woken| {
        let token = token.clone();
        async move {
            token.cancelled().await;
            woken
        }
        .boxed()
    };
    Signals::of([of(&router.end, Woken::End), of(&router.drain, Woken::Drain)])
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
