//! The client's prepared statements and the portals that the router has to know of.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use tenantry_schema::tenant::TenantId;

use crate::server::Prepared;

/// A statement that the client has prepared.
#[derive(Debug, Clone)]
pub(crate) enum ClientStatement {
    /// Runs on the server under its router-wide name.
    Server {
        prepared: Arc<Prepared>,
        role: StatementRole,
        /// What the client was told of its result, as a hash.
        told: Option<u64>,
        /// The tenant that a comment in it names.
        commented: Option<TenantId>,
    },
    /// The unnamed statement; runs on the server as it is.
    Unnamed {
        text: Bytes,
        types: Bytes,
        /// Distinguishes one unnamed statement of this session from the next.
        generation: u64,
        role: StatementRole,
        /// The tenant that a comment in it names.
        commented: Option<TenantId>,
    },
    /// The router runs it itself.
    Router { text: Bytes, types: Bytes },
}

impl ClientStatement {
    /// Tells one Parse from another.
    fn identity(&self) -> usize {
        match self {
            Self::Server { prepared, .. } => Arc::as_ptr(prepared).addr(),
            Self::Unnamed { text, .. } | Self::Router { text, .. } => text.as_ptr().addr(),
        }
    }
}

/// How to take back what a message did to the client's statements before it was known whether the
/// message counts: an error before it makes PostgreSQL skip it.
#[derive(Debug)]
pub(crate) struct Undo {
    pub(crate) name: Bytes,
    /// Which statement the name was given to.
    put: Option<usize>,
    pub(crate) previous: Option<ClientStatement>,
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
    /// Makes a cursor that outlives its transaction, or closes cursors.
    Cursor,
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
        /// The client asks for results in binary format.
        binary: bool,
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

    /// Named statements.
    pub(crate) fn len(&self) -> usize {
        self.named.len()
    }

    /// Gives the name to another statement or to none; answers how to take that back.
    pub(crate) fn change(&mut self, name: Bytes, statement: Option<ClientStatement>) -> Undo {
        let put = statement.as_ref().map(ClientStatement::identity);
        let previous = self.set(name.clone(), statement);
        Undo {
            name,
            put,
            previous,
        }
    }

    /// Takes a change back, unless the name was given to another statement since.
    pub(crate) fn undo(&mut self, undo: Undo) {
        if self.find(&undo.name).map(ClientStatement::identity) == undo.put {
            self.set(undo.name, undo.previous);
        }
    }

    fn set(&mut self, name: Bytes, statement: Option<ClientStatement>) -> Option<ClientStatement> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, statement);
        }
        match statement {
            Some(statement) => self.named.insert(name, statement),
            None => self.named.remove(&name),
        }
    }

    /// A statement made by the SQL command PREPARE; it is used by EXECUTE and by Bind alike.
    pub(crate) fn insert_sql(&mut self, name: &str, prepared: Arc<Prepared>) {
        let statement = ClientStatement::Server {
            prepared,
            role: StatementRole::Plain,
            told: None,
            commented: None,
        };
        self.named
            .insert(Bytes::copy_from_slice(name.as_bytes()), statement);
    }

    /// The client has been told the result of a statement.
    pub(crate) fn note_told(&mut self, name: &[u8], result: u64) {
        if let Some(ClientStatement::Server { told, .. }) = self.named.get_mut(name) {
            *told = Some(result);
        }
    }

    /// Gives a statement another router-wide name.
    pub(crate) fn renew(&mut self, name: &[u8], renewed: &Arc<Prepared>) {
        if let Some(ClientStatement::Server { prepared, .. }) = self.named.get_mut(name) {
            *prepared = Arc::clone(renewed);
        }
    }

    /// The client's name for a router-wide statement.
    pub(crate) fn name_of(&self, router_wide: &[u8]) -> Option<Bytes> {
        self.named
            .iter()
            .find_map(|(name, statement)| match statement {
                ClientStatement::Server { prepared, .. }
                    if prepared.name.as_bytes() == router_wide =>
                {
                    Some(name.clone())
                }
                _ => None,
            })
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

    /// Forgets the named statements, as DEALLOCATE ALL does.
    pub(crate) fn clear(&mut self) {
        self.named.clear();
    }

    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub(crate) fn find_portal(&self, name: &[u8]) -> Option<&Portal> {
        self.portals.get(name)
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
