//! One connection to a shard: its socket, and what is known of the session behind it.
//!
//! `Server` is owned by exactly one task at a time: the pool while idle, a client session while
//! leased. It knows nothing of clients.

mod connect;
mod exchange;
mod prepared;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::ThreadId;

use bytes::BytesMut;
use tenantry_schema::guard::GuardKey;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::backend::TxStatus;

pub(crate) use connect::{ConnectError, ServerLogin, Unguarded, open, open_unguarded, send_cancel};
pub(crate) use prepared::{Prepared, PreparedCache, PreparedKey, Registry, Source};

use crate::activity::ServerGuard;
use crate::session::{Kept, Settings};
use crate::stream::Stream;
use crate::threads;
use crate::tls::Shards;

/// Name of the statement that binds a tenant; prepared when the connection opens.
pub(crate) const BIND_STATEMENT: &str = "_tenantry_bind";
/// Its text. The signed value travels as a parameter, so no statement text shows it.
pub(crate) const BIND_TEXT: &str = "SELECT pg_catalog.set_config('tenantry.tenant', $1, false)";

/// What a cancel request to this connection must carry, and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct BackendKey {
    pub(crate) address: std::net::SocketAddr,
    /// How a request is encrypted if the session is, and the host that the server's certificate is for.
    pub(crate) tls: Option<(Arc<Shards>, Arc<str>)>,
    pub(crate) pid: i32,
    pub(crate) secret: Vec<u8>,
}

/// Which tenant the server's session is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// A failed or rolled-back transaction took the bind with it.
    Unknown,
    /// Bound, or bound to nobody.
    Known(Option<TenantId>),
}

/// What is known of the session behind a connection.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) key: Arc<BackendKey>,
    /// Covered by the signature of every bind on this connection.
    pub(crate) identity: String,
    pub(crate) guard: GuardKey,
    pub(crate) bound: Bound,
    /// What a rollback leaves the session bound to, whoever asks for it and in whatever words. The
    /// prologue sees to it that this is never another tenant than the one that is served.
    pub(crate) fallback: Bound,
    /// Settings in force beyond the connection's own; `None` after a rollback that may have
    /// reverted some.
    pub(crate) applied: Option<Settings>,
    /// The current transaction contains a bind.
    pub(crate) bound_in_transaction: bool,
    /// The current transaction contains changes of settings.
    pub(crate) applied_in_transaction: bool,
    /// Some of them are the router's doing, for a client that had made them before.
    pub(crate) applied_by_router: bool,
    /// What was in force at each savepoint of the transaction that was made while this was known.
    pub(crate) savepoints: Vec<AtSavepoint>,
    /// The transaction runs as `tenantry_copy` until told otherwise.
    pub(crate) copy_role: bool,
    /// The transaction only reads, and nothing that the client can say changes that.
    pub(crate) read_only: bool,
    pub(crate) prepared: PreparedCache,
    /// The batch that was sent last, if it may have to run again.
    pub(crate) kept: Kept,
    /// Session and generation whose unnamed statement the server holds.
    pub(crate) unnamed: Option<(u64, u64)>,
    /// Values of the reported settings.
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) status: TxStatus,
    /// The session behind the connection keeps something that must not reach the next client
    /// (temporary objects, held cursors, session locks).
    pub(crate) dirty: bool,
}

/// What is in force on a connection at a savepoint.
#[derive(Debug, Clone)]
pub(crate) struct AtSavepoint {
    name: String,
    bound: Bound,
    applied: Option<Settings>,
}

impl ServerState {
    /// Whether these settings are known to be in force.
    pub(crate) fn has_applied(&self, settings: &Settings) -> bool {
        self.applied
            .as_ref()
            .is_some_and(|applied| applied.hash() == settings.hash())
    }

    /// A transaction ended; whether what it set is still in force depends on how.
    pub(crate) fn transaction_ended(&mut self, committed: bool) {
        if !committed {
            self.reverted();
        } else if self.bound_in_transaction {
            self.fallback = self.bound;
        }
        self.bound_in_transaction = false;
        self.applied_in_transaction = false;
        self.applied_by_router = false;
        self.savepoints.clear();
        self.copy_role = false;
        self.read_only = false;
    }

    /// A savepoint was made.
    pub(crate) fn savepoint(&mut self, name: &str) {
        self.savepoints.push(AtSavepoint {
            name: name.to_owned(),
            bound: self.bound,
            applied: self.applied.clone(),
        });
    }

    /// The transaction returned to a savepoint, which stays.
    pub(crate) fn returned_to(&mut self, name: &str) {
        // It may have become so since.
        self.read_only = false;
        match self.savepoints.iter().rposition(|at| at.name == name) {
            Some(at) => {
                self.savepoints.truncate(at + 1);
                self.bound = self.savepoints[at].bound;
                self.applied = self.savepoints[at].applied.clone();
            }
            None => self.reverted(),
        }
    }

    /// A savepoint and those after it are gone, what they cover stays.
    pub(crate) fn released(&mut self, name: &str) {
        // PostgreSQL gives the transaction around it back what it was when the savepoint was made.
        self.read_only = false;
        if let Some(at) = self.savepoints.iter().rposition(|at| at.name == name) {
            self.savepoints.truncate(at);
        }
    }

    /// Part of the transaction was rolled back.
    pub(crate) fn reverted(&mut self) {
        self.read_only = false;
        if self.bound_in_transaction {
            self.bound = Bound::Unknown;
        }
        if self.applied_in_transaction {
            self.applied = None;
        }
    }
}

/// What a session sees of a connection: its buffers and what is known of the other side. No socket.
#[derive(Debug)]
pub(crate) struct Link {
    /// Bytes from the shard that no one has looked at yet.
    pub(crate) input: BytesMut,
    /// Bytes for the shard that are not written yet.
    pub(crate) output: BytesMut,
    pub(crate) state: ServerState,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) stream: Stream,
    pub(crate) link: Link,
    /// Which thread is woken when its socket is ready.
    pub(crate) thread: ThreadId,
    /// Keeps it among the connections that operators see.
    pub(crate) listed: ServerGuard,
}

impl Server {
    /// The same connection, whose socket wakes the thread that asks.
    pub(crate) fn move_here(self: Box<Self>) -> io::Result<Box<Self>> {
        let here = threads::here();
        if self.thread == here {
            return Ok(self);
        }
        let Self {
            stream,
            link,
            listed,
            ..
        } = *self;
        Ok(Box::new(Self {
            stream: stream.move_here()?,
            link,
            thread: here,
            listed,
        }))
    }

    /// Whether an idle connection is still usable: a server that has said anything while idle is
    /// about to close.
    pub(crate) fn is_quiet(&self) -> bool {
        self.link.input.is_empty() && self.stream.is_quiet()
    }
}
