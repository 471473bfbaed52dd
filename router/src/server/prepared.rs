//! Prepared statements in transaction mode: router-wide names, and which of them a connection has.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;

/// How a statement is prepared on a server connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// By a Parse message: its text and its parameter type list as it stands in the message.
    Protocol { text: Bytes, types: Bytes },
    /// By the SQL command PREPARE: its list of types with the parentheses, if there is one, and the statement.
    Sql { types: Bytes, text: Bytes },
}

/// What makes two statements the same plan: the source, and the settings it is analysed under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PreparedKey {
    pub(crate) source: Source,
    pub(crate) settings_hash: u64,
}

/// A statement known to this router, shared by every session that prepared the same.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: u64,
    /// Name on every server connection.
    pub(crate) name: String,
    pub(crate) source: Source,
    settings_hash: u64,
}

impl Prepared {
    /// Whether it was analysed under settings of this hash.
    pub(crate) fn is_for(&self, settings_hash: u64) -> bool {
        self.settings_hash == settings_hash
    }
}

impl PartialEq for Prepared {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Prepared {}

/// All statements of this router. Entries live as long as a session uses them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<RegistryInner>,
}

#[derive(Debug, Default)]
struct RegistryInner {
    by_key: HashMap<PreparedKey, Weak<Prepared>>,
    last_id: u64,
    sweep_at: usize,
}

impl Registry {
    /// The statement for this key; ids are never used twice.
    pub(crate) fn intern(&self, key: PreparedKey) -> Arc<Prepared> {
        let mut inner = self.inner.lock();
        if let Some(prepared) = inner.by_key.get(&key).and_then(Weak::upgrade) {
            return prepared;
        }
        inner.name(key)
    }

    /// The same statement under a name that no connection knows, because what is known under its own is out of date.
    pub(crate) fn renew(&self, outdated: &Prepared) -> Arc<Prepared> {
        let key = PreparedKey {
            source: outdated.source.clone(),
            settings_hash: outdated.settings_hash,
        };
        let mut inner = self.inner.lock();
        match inner.by_key.get(&key).and_then(Weak::upgrade) {
            // Somebody else has noticed before.
            Some(prepared) if prepared.id != outdated.id => prepared,
            _ => inner.name(key),
        }
    }
}

impl RegistryInner {
    fn name(&mut self, key: PreparedKey) -> Arc<Prepared> {
        self.last_id += 1;
        let prepared = Arc::new(Prepared {
            id: self.last_id,
            name: format!("_t{}", self.last_id),
            source: key.source.clone(),
            settings_hash: key.settings_hash,
        });
        self.by_key.insert(key, Arc::downgrade(&prepared));
        self.sweep();
        prepared
    }

    /// Forgets statements that nobody uses each time the map has doubled.
    fn sweep(&mut self) {
        if self.by_key.len() > self.sweep_at.max(1024) {
            self.by_key.retain(|_, weak| weak.strong_count() > 0);
            self.sweep_at = self.by_key.len() * 2;
        }
    }
}

/// The statements that one server connection holds, least recently used first to go.
#[derive(Debug)]
pub(crate) struct PreparedCache {
    used_at: HashMap<u64, (u64, Arc<Prepared>)>,
    clock: u64,
    max: usize,
}

impl PreparedCache {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            used_at: HashMap::new(),
            clock: 0,
            max,
        }
    }

    /// Whether the connection holds it, or will once it has done what it was sent.
    pub(crate) fn holds(&self, prepared: &Prepared) -> bool {
        self.used_at.contains_key(&prepared.id)
    }

    /// Whether the connection holds it; a hit counts as a use.
    pub(crate) fn touch(&mut self, prepared: &Prepared) -> bool {
        self.clock += 1;
        match self.used_at.get_mut(&prepared.id) {
            Some((used_at, _)) => {
                *used_at = self.clock;
                true
            }
            None => false,
        }
    }

    /// Notes a statement as held; answers the one to close in exchange, if the cache is full.
    ///
    /// The scan is over at most `max` entries and happens only when a full cache meets a new
    /// statement, which costs the server a parse anyway.
    pub(crate) fn insert(&mut self, prepared: Arc<Prepared>) -> Option<Arc<Prepared>> {
        self.clock += 1;
        let evicted = if self.used_at.len() >= self.max {
            let oldest = self
                .used_at
                .iter()
                .min_by_key(|(_, (used_at, _))| *used_at)
                .map(|(id, _)| *id);
            oldest
                .and_then(|id| self.used_at.remove(&id))
                .map(|entry| entry.1)
        } else {
            None
        };
        self.used_at.insert(prepared.id, (self.clock, prepared));
        evicted
    }

    /// Notes a statement that the connection holds already, even if that is one too many.
    pub(crate) fn insert_without_eviction(&mut self, prepared: &Arc<Prepared>) {
        self.clock += 1;
        self.used_at
            .insert(prepared.id, (self.clock, Arc::clone(prepared)));
    }

    pub(crate) fn remove(&mut self, prepared: &Prepared) {
        self.used_at.remove(&prepared.id);
    }

    /// Whether one more would close one that is held.
    pub(crate) fn is_full(&self) -> bool {
        self.used_at.len() >= self.max
    }

    /// Every statement held, in no particular order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Prepared>> {
        self.used_at.values().map(|(_, prepared)| prepared)
    }

    /// Statements held.
    pub(crate) fn len(&self) -> usize {
        self.used_at.len()
    }

    /// Whether the connection holds so many that it should start afresh.
    pub(crate) fn overflows(&self) -> bool {
        self.used_at.len() > 2 * self.max
    }

    /// After DISCARD ALL on the server.
    pub(crate) fn clear(&mut self) {
        self.used_at.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> PreparedKey {
        PreparedKey {
            source: Source::Protocol {
                text: Bytes::from_static(text.as_bytes()),
                types: Bytes::new(),
            },
            settings_hash: 0,
        }
    }

    #[test]
    fn the_same_statement_has_one_name() {
        let registry = Registry::default();
        let one = registry.intern(key("SELECT 1"));
        assert_eq!(one.id, registry.intern(key("SELECT 1")).id);
        assert_ne!(one.id, registry.intern(key("SELECT 2")).id);
    }

    #[test]
    fn a_dropped_statement_never_gives_its_name_away() {
        let registry = Registry::default();
        let first = registry.intern(key("SELECT 1")).id;
        assert_ne!(first, registry.intern(key("SELECT 1")).id);
    }

    #[test]
    fn an_outdated_statement_gets_one_new_name() {
        let registry = Registry::default();
        let old = registry.intern(key("SELECT * FROM t"));
        let new = registry.renew(&old);
        assert_ne!(old.id, new.id);
        assert_eq!(new.id, registry.renew(&old).id);
        assert_eq!(new.id, registry.intern(key("SELECT * FROM t")).id);
        assert_ne!(new.id, registry.renew(&new).id);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let registry = Registry::default();
        let (a, b, c) = (
            registry.intern(key("a")),
            registry.intern(key("b")),
            registry.intern(key("c")),
        );
        let mut cache = PreparedCache::new(2);
        assert!(cache.insert(a.clone()).is_none());
        assert!(cache.insert(b.clone()).is_none());
        assert!(cache.touch(&a));
        assert_eq!(cache.insert(c).map(|p| p.id), Some(b.id));
        assert!(!cache.touch(&b));
    }
}
