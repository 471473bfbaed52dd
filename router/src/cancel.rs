//! Cancel requests: from the key a client was given to the server connection that works for it
//! right now.
//!
//! A cancel is forwarded only while the session holds a connection, and the connection is not
//! given to anyone else before every cancel sent to it has arrived ([`CancelSlot::detach`]).

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;
use tenantry_wire::startup::ProtocolVersion;
use tokio::sync::Notify;

use crate::server::{BackendKey, send_cancel};

/// Bits of the process id that number the session; the router's number is above them.
const SESSION_BITS: u32 = 21;
const SESSION_MASK: u32 = (1 << SESSION_BITS) - 1;

/// The router that gave out this process id; `None` where that cannot be told, because a session
/// on one shard goes by its backend's own process id, which may look like one of router 1.
pub(crate) fn router_number(pid: i32) -> Option<u16> {
    let number = u32::from_ne_bytes(pid.to_ne_bytes()) >> SESSION_BITS;
    u16::try_from(number).ok().filter(|number| *number > 1)
}

/// The sessions of this router by number.
#[derive(Debug)]
pub(crate) struct Cancels {
    router: u16,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<u32, Arc<CancelSlot>>,
    /// Sessions that show their server's process id, by it. Servers do not know of each other's
    /// numbers nor of the router's: the secret decides.
    direct: HashMap<i32, Vec<Arc<CancelSlot>>>,
    last: u32,
}

/// One session's part.
#[derive(Debug)]
pub(crate) struct CancelSlot {
    number: u32,
    pid: i32,
    /// Of the length that the client's protocol has.
    key: Box<[u8]>,
    state: Mutex<SlotState>,
    /// Told when a session that waits for a connection is cancelled.
    waiting: Notify,
    /// Told when a cancel request has arrived at its server.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct SlotState {
    backend: Option<Arc<BackendKey>>,
    queued: bool,
    /// Requests on their way to the attached connection.
    in_flight: usize,
    /// Requests sent to the attached connection at all.
    sent: usize,
    /// One of them may still arrive: nobody answered in time.
    adrift: bool,
}

/// What became of the requests sent to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// There were none.
    None,
    /// All have arrived: the connection must be drained.
    Arrived,
    /// One may arrive at any time: the connection must be closed.
    Adrift,
}

impl Inner {
    fn next_number(&mut self) -> u32 {
        loop {
            self.last = (self.last + 1) & SESSION_MASK;
            if self.last != 0 && !self.slots.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

impl Cancels {
    pub(crate) fn new(router: u16) -> Self {
        Self {
            router,
            inner: Mutex::new(Inner::default()),
        }
    }

    /// Registers a session, unless there are `max` already. Numbers are not given again while they are in use.
    pub(crate) fn register(
        self: &Arc<Self>,
        max: usize,
        version: ProtocolVersion,
    ) -> Option<Registration> {
        let mut inner = self.inner.lock();
        if inner.slots.len() >= max {
            return None;
        }
        let number = inner.next_number();
        let pid = (u32::from(self.router) << SESSION_BITS) | number;
        // 10 and 21 bits: the sign bit stays clear.
        let pid = i32::from_ne_bytes(pid.to_ne_bytes());
        let slot = Arc::new(CancelSlot::new(number, pid, version));
        inner.slots.insert(number, Arc::clone(&slot));
        Some(Registration {
            cancels: Arc::clone(self),
            slot,
        })
    }

    /// Registers a session that has one server connection from beginning to end and shows its
    /// process id.
    pub(crate) fn register_direct(
        self: &Arc<Self>,
        key: &BackendKey,
        version: ProtocolVersion,
    ) -> Registration {
        let mut inner = self.inner.lock();
        let number = inner.next_number();
        let slot = Arc::new(CancelSlot::new(number, key.pid, version));
        slot.attach(&Arc::new(key.clone()));
        inner.slots.insert(number, Arc::clone(&slot));
        let named = inner.direct.entry(key.pid).or_default();
        named.push(Arc::clone(&slot));
        Registration {
            cancels: Arc::clone(self),
            slot,
        }
    }

    /// Acts on a request; answers whether the key is one of this router's.
    pub(crate) async fn cancel(&self, pid: i32, key: &[u8]) -> bool {
        let number = u32::from_ne_bytes(pid.to_ne_bytes()) & SESSION_MASK;
        let slot = {
            let inner = self.inner.lock();
            let numbered = inner.slots.get(&number);
            let direct = inner.direct.get(&pid).into_iter().flatten();
            let mut named = numbered.into_iter().chain(direct);
            named.find(|slot| slot.is_named(pid, key)).cloned()
        };
        match slot {
            Some(slot) => {
                slot.cancel().await;
                true
            }
            None => false,
        }
    }

    /// This router's number.
    pub(crate) fn number(&self) -> u16 {
        self.router
    }

    /// The last session number given.
    pub(crate) fn last_session(&self) -> u32 {
        self.inner.lock().last
    }

    /// Goes on with the numbers behind this one, which another process has given.
    pub(crate) fn resume_after(&self, session: u32) {
        self.inner.lock().last = session;
    }

    /// The number of this router.
    pub(crate) fn router(&self) -> u16 {
        self.router
    }

    pub(crate) fn sessions(&self) -> usize {
        self.inner.lock().slots.len()
    }
}

/// Keeps a session registered.
#[derive(Debug)]
pub(crate) struct Registration {
    cancels: Arc<Cancels>,
    pub(crate) slot: Arc<CancelSlot>,
}

/// Four bytes are what protocol 3.0 has room for; since 3.2 a key is as long as PostgreSQL's.
fn cancel_key(version: ProtocolVersion) -> Box<[u8]> {
    if version >= ProtocolVersion::V3_2 {
        Box::new(rand::random::<[u8; 32]>())
    } else {
        Box::new(rand::random::<[u8; 4]>())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.cancels.inner.lock();
        inner.slots.remove(&self.slot.number);
        if let Some(slots) = inner.direct.get_mut(&self.slot.pid) {
            slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
            if slots.is_empty() {
                inner.direct.remove(&self.slot.pid);
            }
        }
    }
}

impl CancelSlot {
    fn new(number: u32, pid: i32, version: ProtocolVersion) -> Self {
        Self {
            number,
            pid,
            key: cancel_key(version),
            state: Mutex::new(SlotState::default()),
            waiting: Notify::new(),
            arrived: Notify::new(),
        }
    }

    fn is_named(&self, pid: i32, key: &[u8]) -> bool {
        self.pid == pid && bool::from(self.key.ct_eq(key))
    }

    /// Unique in this router while the session lasts.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Cancels what runs, or ends a wait; returns when the request has arrived.
    pub(crate) async fn cancel(&self) {
        let backend = {
            let mut state = self.state.lock();
            if state.queued {
                self.waiting.notify_one();
                return;
            }
            let Some(backend) = state.backend.clone() else {
                return;
            };
            state.in_flight += 1;
            state.sent += 1;
            backend
        };
        let mut arrival = Arrival {
            slot: self,
            known: false,
        };
        match send_cancel(&backend).await {
            Ok(()) => arrival.known = true,
            Err(error) => tracing::debug!(%error, "cancel request did not reach the server"),
        }
    }

    /// The session waits for a connection until the guard is dropped.
    pub(crate) fn queue(&self) -> Queued<'_> {
        // A request that came as the last wait ended must not end this one.
        let _ = self.waiting.notified().now_or_never();
        self.state.lock().queued = true;
        Queued { slot: self }
    }

    /// The session holds this connection now.
    pub(crate) fn attach(&self, key: &Arc<BackendKey>) {
        let mut state = self.state.lock();
        state.backend = Some(Arc::clone(key));
        state.sent = 0;
        state.adrift = false;
    }

    /// The session gives its connection up. False if requests were sent to it: then [`CancelSlot::detach`] tells what
    /// became of them.
    pub(crate) fn let_go(&self) -> bool {
        let mut state = self.state.lock();
        state.backend = None;
        state.sent == 0
    }

    /// The session gives its connection up. Waits until every request sent to it has arrived or
    /// is given up.
    pub(crate) async fn detach(&self) -> Requests {
        if self.let_go() {
            return Requests::None;
        }
        loop {
            let arrived = self.arrived.notified();
            {
                let state = self.state.lock();
                if state.in_flight == 0 && state.adrift {
                    return Requests::Adrift;
                }
                if state.in_flight == 0 {
                    return Requests::Arrived;
                }
            }
            arrived.await;
        }
    }
}

/// Counts a request as over, also when its task is dropped.
struct Arrival<'a> {
    slot: &'a CancelSlot,
    /// The server has acted on it.
    known: bool,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.in_flight -= 1;
        state.adrift |= !self.known;
        drop(state);
        self.slot.arrived.notify_one();
    }
}

/// See [`CancelSlot::queue`].
#[derive(Debug)]
pub(crate) struct Queued<'a> {
    slot: &'a CancelSlot,
}

impl Queued<'_> {
    /// Resolves when the waiting session is cancelled.
    pub(crate) async fn cancelled(&self) {
        self.slot.waiting.notified().await;
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.slot.state.lock().queued = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_for_a_wait_that_is_over_does_not_end_the_next() {
        let cancels = Arc::new(Cancels::new(1));
        let registration = cancels.register(1, ProtocolVersion::V3_0).unwrap();
        let slot = &registration.slot;
        let queued = slot.queue();
        cancels.cancel(slot.pid(), slot.key()).await;
        // The connection came first.
        drop(queued);
        let next = slot.queue();
        assert!(next.cancelled().now_or_never().is_none());
        cancels.cancel(slot.pid(), slot.key()).await;
        next.cancelled().await;
    }

    #[test]
    fn one_process_id_may_name_several_sessions() {
        let cancels = Arc::new(Cancels::new(0));
        let numbered = cancels.register(10, ProtocolVersion::V3_0).unwrap();
        let key = BackendKey {
            address: ([127, 0, 0, 1], 1).into(),
            tls: None,
            pid: numbered.slot.pid(),
            secret: vec![0; 4],
        };
        let direct = [(); 2].map(|()| cancels.register_direct(&key, ProtocolVersion::V3_0));
        assert_eq!(cancels.sessions(), 3);
        for registration in direct.iter().chain([&numbered]) {
            assert_eq!(registration.slot.pid(), key.pid);
            assert!(registration.slot.is_named(key.pid, registration.slot.key()));
        }
        let [first, second] = direct;
        drop(first);
        drop(numbered);
        assert_eq!(cancels.sessions(), 1);
        drop(second);
        assert_eq!(cancels.sessions(), 0);
        assert!(cancels.inner.lock().direct.is_empty());
    }

    #[tokio::test]
    async fn a_request_that_nobody_took_leaves_the_connection_suspect() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let key = Arc::new(BackendKey {
            address: listener.local_addr().unwrap(),
            tls: None,
            pid: 1,
            secret: vec![0; 4],
        });
        drop(listener);
        let cancels = Arc::new(Cancels::new(1));
        let registration = cancels.register(1, ProtocolVersion::V3_0).unwrap();
        let slot = &registration.slot;
        slot.attach(&key);
        assert_eq!(slot.detach().await, Requests::None);
        slot.attach(&key);
        cancels.cancel(slot.pid(), slot.key()).await;
        assert_eq!(slot.detach().await, Requests::Adrift);
    }
}
