//! The client's prepared statements and the portals that the router has to know of.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::server::Prepared;

/// A statement that the client has prepared.
#[derive(Debug, Clone)]
pub(crate) enum ClientStatement {
    /// Runs on the server under its router-wide name.
    Server {
        prepared: Arc<Prepared>,
        role: StatementRole,
    },
    /// The unnamed statement; runs on the server as it is.
    Unnamed {
        text: Bytes,
        types: Bytes,
        /// Distinguishes one unnamed statement of this session from the next.
        generation: u64,
        role: StatementRole,
    },
    /// The router runs it itself.
    Router { text: Bytes, types: Bytes },
}

/// What else a statement does when it runs on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatementRole {
    /// Nothing that the router must know.
    Plain,
    /// It contains `set_config` calls; their arguments may be parameters.
    SetsConfig,
    /// It makes the session depend on its server connection.
    Pins,
}

/// A portal whose execution concerns the router.
#[derive(Debug, Clone)]
pub(crate) enum Portal {
    /// On the server; what its execution changes.
    Server(Vec<super::expect::Effect>),
    /// A statement that the router runs, with its text parameters.
    Router {
        text: Bytes,
        parameters: Vec<Option<Bytes>>,
        /// Already executed: a second Execute returns nothing more.
        done: bool,
    },
}

/// Both, by the client's names.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    named: HashMap<Bytes, ClientStatement>,
    unnamed: Option<ClientStatement>,
    portals: HashMap<Bytes, Portal>,
    generation: u64,
}

impl Statements {
    pub(crate) fn find(&self, name: &[u8]) -> Option<&ClientStatement> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name)
        }
    }

    pub(crate) fn insert(&mut self, name: Bytes, statement: ClientStatement) {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            self.named.insert(name, statement);
        }
    }

    /// A statement made by the SQL command PREPARE; it is used by EXECUTE and by Bind alike.
    pub(crate) fn insert_sql(&mut self, name: &str, prepared: Arc<Prepared>) {
        let statement = ClientStatement::Server {
            prepared,
            role: StatementRole::Plain,
        };
        self.named
            .insert(Bytes::copy_from_slice(name.as_bytes()), statement);
    }

    /// The router-wide statement behind a name.
    pub(crate) fn prepared(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        match self.named.get(name)? {
            ClientStatement::Server { prepared, .. } => Some(Arc::clone(prepared)),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> bool {
        if name.is_empty() {
            self.unnamed.take().is_some()
        } else {
            self.named.remove(name).is_some()
        }
    }

    /// Forgets a named statement whose Parse failed, unless the name was given to another since.
    pub(crate) fn remove_if(&mut self, name: &[u8], prepared: Option<&Prepared>) {
        let same = match self.named.get(name) {
            Some(ClientStatement::Server { prepared: held, .. }) => Some(&**held) == prepared,
            _ => false,
        };
        if same {
            self.named.remove(name);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }

    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub(crate) fn portal(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.portals.get_mut(name)
    }

    /// Notes a portal, or forgets the one that had its name.
    pub(crate) fn set_portal(&mut self, name: &[u8], portal: Option<Portal>) {
        match portal {
            Some(portal) => {
                self.portals.insert(Bytes::copy_from_slice(name), portal);
            }
            None if self.portals.is_empty() => {}
            None => {
                self.portals.remove(name);
            }
        }
    }

    /// Portals end with their transaction.
    pub(crate) fn clear_portals(&mut self) {
        if !self.portals.is_empty() {
            self.portals.clear();
        }
    }
}
