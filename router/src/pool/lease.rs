//! The right to one connection of a pool, and a connection in use.
//!
//! Whatever happens to its holder, each goes back exactly once: dropping it is one way, and closes the connection.

use std::sync::Arc;

use super::Pool;
use crate::admission::Ticket;
use crate::buffers;
use crate::server::Server;

/// What a waiter gets.
#[derive(Debug)]
pub(super) enum Grant {
    Connection(Lease),
    /// The right to open one.
    Slot(Slot),
}

/// The right to one connection, counted in `open`; dropping it passes it on.
#[derive(Debug)]
pub(super) struct Slot {
    /// `None` once the right has been handed over.
    right: Option<(Arc<Pool>, Ticket)>,
}

impl Slot {
    pub(super) fn new(pool: Arc<Pool>, ticket: Ticket) -> Self {
        Self {
            right: Some((pool, ticket)),
        }
    }

    /// Ends without passing the right on: the connection keeps its place in `open`.
    pub(super) fn keep(mut self) -> Option<(Arc<Pool>, Ticket)> {
        self.right.take()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((pool, ticket)) = self.right.take() {
            pool.slot_free(ticket);
        }
    }
}

/// A connection in use. Dropping it closes the connection; [`Lease::give_back`] returns it.
#[derive(Debug)]
pub(crate) struct Lease {
    server: Option<Box<Server>>,
    slot: Option<Slot>,
    /// For how long the server had worked before, for all its sessions.
    worked_us: u64,
}

impl Lease {
    pub(super) fn new(server: Box<Server>, slot: Slot) -> Self {
        Self {
            worked_us: server.listed.record().worked_us(),
            server: Some(server),
            slot: Some(slot),
        }
    }

    pub(super) fn into_parts(mut self) -> (Option<Box<Server>>, Option<Slot>) {
        (self.server.take(), self.slot.take())
    }

    /// The same connection, polled by the thread that asks; `None` if the system refuses, which closes it.
    pub(super) fn move_here(mut self) -> Option<Self> {
        let server = self.server.take()?;
        match server.move_here() {
            Ok(server) => {
                self.server = Some(server);
                Some(self)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a server connection over from another thread");
                None
            }
        }
    }

    /// The connection. It is there until the lease is given back.
    pub(crate) fn server(&mut self) -> Option<&mut Server> {
        self.server.as_deref_mut()
    }

    /// Returns a connection that is proven clean.
    pub(crate) fn give_back(self) {
        if let Some(pool) = self.pool() {
            let now = pool.now_us();
            self.give_back_at(now);
        }
    }

    /// The same for one that its session let go just now, which was noted: the clock need not be read again.
    pub(super) fn give_back_now(self) {
        if let Some(server) = &self.server {
            let now = server.listed.record().since_us();
            self.give_back_at(now);
        }
    }

    fn give_back_at(mut self, now_us: u64) {
        if let (Some(mut server), Some(slot)) = (self.server.take(), self.slot.take())
            && let Some((pool, ticket)) = slot.keep()
        {
            buffers::take_back(&mut server.link.input);
            buffers::take_back(&mut server.link.output);
            let worked = server.listed.record().worked_us();
            let worked = worked.saturating_sub(self.worked_us);
            pool.put_back(server, ticket, (worked > 0).then_some(worked), now_us);
        }
    }

    /// Since when it is held, microseconds of the router's clock.
    pub(crate) fn since_us(&self) -> u64 {
        let right = self.slot.as_ref().and_then(|slot| slot.right.as_ref());
        right.map_or(0, |(_, ticket)| ticket.since_us())
    }

    pub(crate) fn pool(&self) -> Option<&Arc<Pool>> {
        let right = self.slot.as_ref()?.right.as_ref()?;
        Some(&right.0)
    }
}
