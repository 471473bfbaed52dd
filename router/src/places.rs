//! Places of which each key has so many: a role its sessions, a shard its operators.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places taken, by key; a key that has none taken is not kept.
#[derive(Debug, Clone)]
pub(crate) struct Places<K> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self {
            taken: Arc::default(),
        }
    }
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// A place, kept until it is dropped. The error is how many are taken.
    pub(crate) fn take(&self, key: &K, limit: usize) -> Result<Place<K>, usize> {
        let mut taken = self.taken.lock();
        let count = taken.get(key).copied().unwrap_or_default();
        if count >= limit {
            return Err(count);
        }
        taken.insert(key.clone(), count + 1);
        Ok(Place {
            places: self.clone(),
            key: key.clone(),
        })
    }
}

/// One place.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq> {
    places: Places<K>,
    key: K,
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}
