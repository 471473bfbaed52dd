//! What changed since the directory's base was built: small hash tables in buckets that versions share.
//!
//! A new version copies the bucket lists and the buckets it touches, nothing else; readers of an older version keep
//! theirs. Bounded by [`super::Directory`], which folds it into a new base.

use std::sync::Arc;

use hashbrown::HashTable;

use super::record::{TenantRecord, TenantRow};
use crate::shard::ShardId;
use crate::tenant::TenantId;

/// Buckets per kind; a power of two.
const BUCKETS: usize = 512;
/// Words of the filter: 64 KiB.
const FILTER_WORDS: usize = 8192;

/// A tenant that was created or changed.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) row: TenantRow,
    pub(super) pin: Option<ShardId>,
}

impl Entry {
    pub(super) fn record(&self) -> TenantRecord<'_> {
        self.row.record(self.pin)
    }
}

/// What is known of a key; `None` hides what the base says.
type Tenant = (TenantId, Option<Arc<Entry>>);
type Hostname = (Box<str>, Option<TenantId>);
/// A slug that some version of the tenant had. Whether it still has, the tenant's own entry says.
type SlugHint = (Box<str>, TenantId);

#[derive(Clone, Default)]
pub(super) struct Overlay {
    tenants: Buckets<Tenant>,
    slugs: Buckets<SlugHint>,
    hostnames: Buckets<Hostname>,
}

/// `Some(None)` says: removed. `None` says: ask the base.
pub(super) type Finding<T> = Option<Option<T>>;

impl Overlay {
    pub(super) fn tenant(&self, hash: u64, id: TenantId) -> Finding<TenantRecord<'_>> {
        let (_, entry) = self.tenants.find(hash, |(key, _)| *key == id)?;
        Some(entry.as_deref().map(Entry::record))
    }

    /// The tenant that may have this slug.
    pub(super) fn slug(&self, hash: u64, slug: &str) -> Option<TenantId> {
        self.slugs
            .find(hash, |(key, _)| **key == *slug)
            .map(|(_, id)| *id)
    }

    pub(super) fn hostname(&self, hash: u64, name: &str) -> Finding<TenantId> {
        self.hostnames
            .find(hash, |(key, _)| **key == *name)
            .map(|(_, id)| *id)
    }

    pub(super) fn set_tenant(&mut self, hash: u64, id: TenantId, entry: Option<Entry>) {
        self.tenants
            .set(hash, |(key, _)| *key == id, (id, entry.map(Arc::new)));
    }

    pub(super) fn set_slug(&mut self, hash: u64, slug: &str, id: TenantId) {
        self.slugs
            .set(hash, |(key, _)| **key == *slug, (slug.into(), id));
    }

    pub(super) fn set_hostname(&mut self, hash: u64, name: &str, tenant: Option<TenantId>) {
        self.hostnames
            .set(hash, |(key, _)| **key == *name, (name.into(), tenant));
    }

    /// Tenants and hostnames that differ from the base, or may.
    pub(super) fn len(&self) -> usize {
        self.tenants.len + self.hostnames.len
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = (TenantId, Option<&Entry>)> {
        self.tenants
            .iter()
            .map(|(id, entry)| (*id, entry.as_deref()))
    }

    pub(super) fn hostnames(&self) -> impl Iterator<Item = (&str, Option<TenantId>)> {
        self.hostnames
            .iter()
            .map(|(name, tenant)| (&**name, *tenant))
    }
}

/// A hash table whose copies share what neither changed. Each item's hash is kept with it.
#[derive(Clone)]
struct Buckets<T> {
    /// Which hashes may be there; empty until the first item. Almost every lookup is of a key that did not change, and
    /// ends here.
    filter: Arc<Vec<u64>>,
    /// Empty until the first item, then [`BUCKETS`] long.
    buckets: Arc<Vec<Bucket<T>>>,
    len: usize,
}

type Bucket<T> = Arc<HashTable<(u64, T)>>;

impl<T> Default for Buckets<T> {
    fn default() -> Self {
        Self {
            filter: Arc::default(),
            buckets: Arc::default(),
            len: 0,
        }
    }
}

impl<T> Buckets<T> {
    fn bucket_of(hash: u64) -> usize {
        (hash >> 32) as usize % BUCKETS
    }

    /// A key's word of the filter, and its four bits there. With 20,000 keys one foreign key in 800 passes, with
    /// 60,000 one in 40.
    fn filter_bits(hash: u64) -> (usize, u64) {
        let bit = |shift: u32| 1 << (hash >> shift & 63);
        (
            (hash >> 40) as usize % FILTER_WORDS,
            bit(0) | bit(6) | bit(12) | bit(18),
        )
    }

    fn find(&self, hash: u64, is_key: impl Fn(&T) -> bool) -> Option<&T> {
        let (word, bits) = Self::filter_bits(hash);
        if self.filter.get(word)? & bits != bits {
            return None;
        }
        let bucket = self.buckets.get(Self::bucket_of(hash))?;
        bucket
            .find(hash, |(_, item)| is_key(item))
            .map(|(_, item)| item)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.iter().map(|(_, item)| item))
    }
}

impl<T: Clone> Buckets<T> {
    fn set(&mut self, hash: u64, is_key: impl Fn(&T) -> bool, item: T) {
        let filter = Arc::make_mut(&mut self.filter);
        filter.resize(FILTER_WORDS, 0);
        let (word, bits) = Self::filter_bits(hash);
        if let Some(word) = filter.get_mut(word) {
            *word |= bits;
        }
        let buckets = Arc::make_mut(&mut self.buckets);
        buckets.resize_with(BUCKETS, Arc::default);
        let Some(bucket) = buckets.get_mut(Self::bucket_of(hash)) else {
            return;
        };
        let bucket = Arc::make_mut(bucket);
        match bucket.find_mut(hash, |(_, item)| is_key(item)) {
            Some((_, found)) => *found = item,
            None => {
                bucket.insert_unique(hash, (hash, item), |(hash, _)| *hash);
                self.len += 1;
            }
        }
    }
}
