//! Cancel requests: from the key a client was given to the server connection that works for it
//! right now.
//!
//! A cancel is forwarded only while the session holds a connection, and the connection is not
//! given to anyone else before every cancel sent to it has arrived ([`CancelSlot::detach`]).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::server::{BackendKey, send_cancel};

/// Bits of the process id that number the session; the router's number is above them.
const SESSION_BITS: u32 = 21;
const SESSION_MASK: u32 = (1 << SESSION_BITS) - 1;

/// The sessions of this router by number.
#[derive(Debug)]
pub(crate) struct Cancels {
    router: u16,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<u32, Arc<CancelSlot>>,
    last: u32,
}

/// One session's part.
#[derive(Debug)]
pub(crate) struct CancelSlot {
    number: u32,
    pid: i32,
    secret: [u8; 4],
    state: Mutex<SlotState>,
    /// Told when a session that waits for a connection is cancelled.
    waiting: Notify,
    /// Told when a cancel request has arrived at its server.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct SlotState {
    backend: Option<BackendKey>,
    queued: bool,
    /// Requests on their way to the attached connection.
    in_flight: usize,
    /// Requests sent to the attached connection at all.
    sent: usize,
}

impl Cancels {
    pub(crate) fn new(router: u16) -> Self {
        Self {
            router,
            inner: Mutex::new(Inner::default()),
        }
    }

    /// Registers a session; numbers are not given again while they are in use.
    pub(crate) fn register(self: &Arc<Self>) -> Registration {
        let mut inner = self.inner.lock();
        let number = loop {
            inner.last = (inner.last + 1) & SESSION_MASK;
            let candidate = inner.last;
            if candidate != 0 && !inner.slots.contains_key(&candidate) {
                break candidate;
            }
        };
        let pid = (u32::from(self.router) << SESSION_BITS) | number;
        let slot = Arc::new(CancelSlot {
            number,
            // 10 and 21 bits: the sign bit stays clear.
            pid: i32::from_ne_bytes(pid.to_ne_bytes()),
            secret: rand::random(),
            state: Mutex::new(SlotState::default()),
            waiting: Notify::new(),
            arrived: Notify::new(),
        });
        inner.slots.insert(number, Arc::clone(&slot));
        Registration {
            cancels: Arc::clone(self),
            slot,
        }
    }

    /// Acts on a request. A wrong key is ignored without a word, as PostgreSQL does.
    pub(crate) async fn cancel(&self, pid: i32, key: &[u8]) {
        let number = u32::from_ne_bytes(pid.to_ne_bytes()) & SESSION_MASK;
        let slot = self.inner.lock().slots.get(&number).cloned();
        match slot {
            Some(slot) if slot.pid == pid && slot.secret.as_slice() == key => slot.cancel().await,
            _ => tracing::debug!(pid, "cancel request with an unknown key"),
        }
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

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancels.inner.lock().slots.remove(&self.slot.number);
    }
}

impl CancelSlot {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    async fn cancel(&self) {
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
        let arrival = Arrival { slot: self };
        if let Err(error) = send_cancel(&backend).await {
            tracing::debug!(%error, "cancel request did not reach the server");
        }
        drop(arrival);
    }

    /// The session waits for a connection until the guard is dropped.
    pub(crate) fn queue(&self) -> Queued<'_> {
        self.state.lock().queued = true;
        Queued { slot: self }
    }

    /// The session holds this connection now.
    pub(crate) fn attach(&self, key: &BackendKey) {
        let mut state = self.state.lock();
        state.backend = Some(key.clone());
        state.sent = 0;
    }

    /// The session gives its connection up. Waits until every request sent to it has arrived;
    /// answers whether there was any, for then the connection must be drained.
    pub(crate) async fn detach(&self) -> bool {
        let sent = {
            let mut state = self.state.lock();
            state.backend = None;
            state.sent
        };
        if sent == 0 {
            return false;
        }
        loop {
            let arrived = self.arrived.notified();
            if self.state.lock().in_flight == 0 {
                return true;
            }
            arrived.await;
        }
    }
}

/// Counts a request as arrived, also when its task is dropped.
struct Arrival<'a> {
    slot: &'a CancelSlot,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.slot.state.lock().in_flight -= 1;
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
