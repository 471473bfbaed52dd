//! The directory: tenant id, slug or hostname to [`TenantRecord`], for every tenant of the fleet, in memory.
//!
//! An immutable base, built in one go and compact, plus a bounded overlay of what changed since. A [`Directory`]
//! never changes: [`Directory::apply`] makes the next version, which shares the base and most of the overlay.
//! It does not know shards or the ring; [`crate::fleet`] joins them.

mod arena;
mod base;
mod overlay;
mod pages;
mod record;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

pub(crate) use arena::{Arena, Extra};
use base::{Base, Staged};
use overlay::{Entry, Overlay};
pub(crate) use pages::Pages;
pub use record::{TenantRecord, TenantRow};
use serde::{Deserialize, Serialize};

use crate::names::HOSTNAME_BYTES_MAX;
use crate::shard::ShardId;
use crate::tenant::{TenantId, TenantKey};

/// The overlay is folded into a new base when it has more entries than this,
const OVERLAY_ENTRIES_MIN: usize = 8192;
/// and than one in so many of the base's.
const OVERLAY_SHARE: usize = 32;

/// Every tenant of the fleet as of one moment. Cloning is cheap.
#[derive(Clone)]
pub struct Directory {
    key: TenantKey,
    hasher: RandomState,
    base: Arc<Base>,
    overlay: Overlay,
    tenant_count: usize,
}

/// Why a set of rows is no directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two rows have one id.
    #[error("two tenants have the id {}", .0.display(*.1))]
    DuplicateId(TenantId, TenantKey),
    /// Two tenants have one slug.
    #[error("two tenants have the slug {0:?}")]
    DuplicateSlug(String),
    /// A hostname occurs twice.
    #[error("the hostname {0:?} occurs twice")]
    DuplicateHostname(String),
    /// A hostname or pin names a tenant that is not there.
    #[error("{what} names a tenant that does not exist")]
    UnknownTenant {
        /// The hostname, or the pin.
        what: String,
    },
    /// A uuid in a `bigint` fleet.
    #[error("a tenant id does not fit a bigint")]
    NotABigint,
    /// A slug or hostname of more than 255 bytes.
    #[error("the name {0:?} is too long")]
    NameTooLong(String),
    /// More than the directory's places can number (16 GiB of entries).
    #[error("more tenants than a directory can hold")]
    Full,
    /// An entry that no builder wrote.
    #[error("a directory entry is damaged")]
    Damaged,
}

/// One change to a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryChange {
    /// A tenant as it is now; a pin it has stays.
    UpsertTenant(TenantRow),
    /// The tenant, its pin and its hostnames are gone.
    RemoveTenant(TenantId),
    /// A hostname leads to this tenant.
    UpsertHostname {
        /// The canonical name.
        name: String,
        /// The tenant.
        tenant: TenantId,
    },
    /// A hostname leads nowhere.
    RemoveHostname(String),
    /// A tenant lives on this shard, whatever the ring says.
    Pin {
        /// The tenant.
        tenant: TenantId,
        /// The shard.
        shard: ShardId,
    },
    /// A tenant lives where the ring says.
    Unpin(TenantId),
}

impl Directory {
    /// A directory without tenants.
    pub fn empty(key: TenantKey) -> Self {
        let hasher = RandomState::new();
        let base = Base::empty(key);
        Self {
            key,
            hasher,
            base: Arc::new(base),
            overlay: Overlay::default(),
            tenant_count: 0,
        }
    }

    /// The fleet's key kind.
    pub fn key(&self) -> TenantKey {
        self.key
    }

    /// Tenants, in whatever state.
    pub fn len(&self) -> usize {
        self.tenant_count
    }

    /// Whether there is no tenant.
    pub fn is_empty(&self) -> bool {
        self.tenant_count == 0
    }

    /// The tenant with this id.
    pub fn by_id(&self, id: TenantId) -> Option<TenantRecord<'_>> {
        let hash = self.hasher.hash_one(id);
        match self.overlay.tenant(hash, id) {
            Some(finding) => finding,
            None => self.base.by_id(hash, id),
        }
    }

    /// The tenant with this slug.
    pub fn by_slug(&self, slug: &str) -> Option<TenantRecord<'_>> {
        let hash = self.hasher.hash_one(slug);
        if let Some(id) = self.overlay.slug(hash, slug) {
            let found = self.by_id(id).filter(|record| record.slug == slug);
            if found.is_some() {
                return found;
            }
        }
        let record = self.base.by_slug(hash, slug)?;
        self.as_of_now(record).filter(|record| record.slug == slug)
    }

    /// The tenant with this hostname. ASCII case and a final dot do not matter; Unicode labels must be A-labels.
    pub fn by_hostname(&self, name: &str) -> Option<TenantRecord<'_>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let mut lower = [0; HOSTNAME_BYTES_MAX];
            let lower = lower.get_mut(..name.len())?;
            lower.copy_from_slice(name.as_bytes());
            lower.make_ascii_lowercase();
            return self.by_canonical_hostname(std::str::from_utf8(lower).ok()?);
        }
        self.by_canonical_hostname(name)
    }

    fn by_canonical_hostname(&self, name: &str) -> Option<TenantRecord<'_>> {
        let hash = self.hasher.hash_one(name);
        match self.overlay.hostname(hash, name) {
            Some(tenant) => self.by_id(tenant?),
            None => {
                let record = self.base.by_hostname(hash, name)?;
                self.as_of_now(record)
            }
        }
    }

    /// The tenant that a client names by id, slug or hostname.
    pub fn resolve(&self, key: TenantKey, text: &str) -> Option<TenantRecord<'_>> {
        if let Ok(id) = TenantId::parse(key, text) {
            return self.by_id(id);
        }
        if text.contains('.') {
            self.by_hostname(text)
        } else {
            self.by_slug(text)
        }
    }

    /// What a record of the base says after the overlay.
    fn as_of_now<'d>(&'d self, record: TenantRecord<'d>) -> Option<TenantRecord<'d>> {
        if self.overlay.len() == 0 {
            return Some(record);
        }
        match self
            .overlay
            .tenant(self.hasher.hash_one(record.id), record.id)
        {
            Some(finding) => finding,
            None => Some(record),
        }
    }

    /// Every tenant, in no particular order.
    pub fn tenants(&self) -> impl Iterator<Item = TenantRecord<'_>> {
        let untouched = self.base.tenants().filter(|record| {
            self.overlay.len() == 0
                || self
                    .overlay
                    .tenant(self.hasher.hash_one(record.id), record.id)
                    .is_none()
        });
        let changed = self
            .overlay
            .tenants()
            .filter_map(|(_, entry)| entry.map(Entry::record));
        untouched.chain(changed)
    }

    /// Every hostname with its tenant, in no particular order.
    pub fn hostnames(&self) -> impl Iterator<Item = (&str, TenantId)> {
        let untouched = self.base.hostnames().filter(|(name, _)| {
            self.overlay.len() == 0
                || self
                    .overlay
                    .hostname(self.hasher.hash_one(*name), name)
                    .is_none()
        });
        let changed = self
            .overlay
            .hostnames()
            .filter_map(|(name, tenant)| Some((name, tenant?)));
        untouched
            .chain(changed)
            .filter(|(_, tenant)| self.by_id(*tenant).is_some())
    }

    /// The directory after these changes, in their order. Costs microseconds per change, except when the overlay is
    /// full: then the base is rebuilt (about a second for two million tenants, and meanwhile its memory three times).
    pub fn apply(&self, changes: &[DirectoryChange]) -> Result<Self, BuildError> {
        let mut next = self.clone();
        for change in changes {
            next.apply_one(change)?;
        }
        let entries_max = OVERLAY_ENTRIES_MIN.max(next.base.tenant_count() / OVERLAY_SHARE);
        if next.overlay.len() > entries_max {
            next.compacted()
        } else {
            Ok(next)
        }
    }

    fn apply_one(&mut self, change: &DirectoryChange) -> Result<(), BuildError> {
        match change {
            DirectoryChange::UpsertTenant(row) => {
                if self.key == TenantKey::Bigint && row.id.as_bigint().is_none() {
                    return Err(BuildError::NotABigint);
                }
                let before = self.by_id(row.id);
                let pin = before.and_then(|record| record.pin);
                self.tenant_count += usize::from(before.is_none());
                self.overlay
                    .set_slug(self.hasher.hash_one(row.slug.as_str()), &row.slug, row.id);
                self.set_tenant(
                    row.id,
                    Some(Entry {
                        row: row.clone(),
                        pin,
                    }),
                );
            }
            DirectoryChange::RemoveTenant(id) => {
                self.tenant_count -= usize::from(self.by_id(*id).is_some());
                self.set_tenant(*id, None);
            }
            DirectoryChange::UpsertHostname { name, tenant } => {
                if self.by_id(*tenant).is_none() {
                    return Err(BuildError::UnknownTenant {
                        what: format!("the hostname {name:?}"),
                    });
                }
                self.overlay
                    .set_hostname(self.hasher.hash_one(name.as_str()), name, Some(*tenant));
            }
            DirectoryChange::RemoveHostname(name) => {
                self.overlay
                    .set_hostname(self.hasher.hash_one(name.as_str()), name, None);
            }
            DirectoryChange::Pin { tenant, shard } => {
                if !self.set_pin(*tenant, Some(*shard)) {
                    return Err(BuildError::UnknownTenant {
                        what: format!("a pin to shard {shard}"),
                    });
                }
            }
            DirectoryChange::Unpin(tenant) => {
                self.set_pin(*tenant, None);
            }
        }
        Ok(())
    }

    fn set_tenant(&mut self, id: TenantId, entry: Option<Entry>) {
        self.overlay.set_tenant(self.hasher.hash_one(id), id, entry);
    }

    /// Whether there is such a tenant.
    fn set_pin(&mut self, tenant: TenantId, pin: Option<ShardId>) -> bool {
        let Some(row) = self.by_id(tenant).map(|record| record.to_row()) else {
            return false;
        };
        self.set_tenant(tenant, Some(Entry { row, pin }));
        true
    }

    /// The same directory with everything in its base.
    pub fn compacted(&self) -> Result<Self, BuildError> {
        let mut builder = DirectoryBuilder::new(self.key);
        for record in self.tenants() {
            builder.push_tenant(&record)?;
        }
        for (name, tenant) in self.hostnames() {
            builder.push_hostname(name, tenant)?;
        }
        builder.build()
    }

    /// Entries that are not in the base.
    pub fn overlay_len(&self) -> usize {
        self.overlay.len()
    }

    pub(crate) fn base_arena(&self) -> &Arena {
        self.base.arena()
    }

    /// The changes that lead from the base to this directory.
    pub(crate) fn changes_since_base(&self) -> Vec<DirectoryChange> {
        let mut changes = Vec::new();
        for (id, entry) in self.overlay.tenants() {
            let Some(entry) = entry else {
                changes.push(DirectoryChange::RemoveTenant(id));
                continue;
            };
            changes.push(DirectoryChange::UpsertTenant(entry.row.clone()));
            changes.push(match entry.pin {
                Some(shard) => DirectoryChange::Pin { tenant: id, shard },
                None => DirectoryChange::Unpin(id),
            });
        }
        for (name, tenant) in self.overlay.hostnames() {
            // A hostname may outlive its tenant here; it leads nowhere then.
            let tenant = tenant.filter(|tenant| self.by_id(*tenant).is_some());
            let name = name.to_owned();
            changes.push(match tenant {
                Some(tenant) => DirectoryChange::UpsertHostname { name, tenant },
                None => DirectoryChange::RemoveHostname(name),
            });
        }
        changes
    }

    /// A directory over an arena that a snapshot kept; checks every entry.
    pub(crate) fn from_arena(arena: Arena) -> Result<Self, BuildError> {
        Self::over(arena, RandomState::new())
    }

    fn over(arena: Arena, hasher: RandomState) -> Result<Self, BuildError> {
        let key = arena.key;
        let base = Base::new(arena, &hasher)?;
        let tenant_count = base.tenant_count();
        Ok(Self {
            key,
            hasher,
            base: Arc::new(base),
            overlay: Overlay::default(),
            tenant_count,
        })
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("key", &self.key)
            .field("len", &self.tenant_count)
            .field("overlay_len", &self.overlay.len())
            .finish_non_exhaustive()
    }
}

/// Collects a directory's base. Tenants, hostnames and pins may come in any order; names are taken as they are, so
/// they must be canonical.
pub struct DirectoryBuilder(Staged);

impl DirectoryBuilder {
    /// A builder without rows.
    pub fn new(key: TenantKey) -> Self {
        Self(Staged {
            tenants: Arena::growing(key),
            plans: HashMap::new(),
            hostnames: Arena::growing(key),
            hostname_tenants: Vec::new(),
            pins: HashMap::new(),
        })
    }

    /// Adds a tenant, with its pin if the record has one.
    pub fn push_tenant(&mut self, record: &TenantRecord<'_>) -> Result<(), BuildError> {
        self.0.tenants.push_tenant(record, &mut self.0.plans)?;
        Ok(())
    }

    /// Adds a hostname.
    pub fn push_hostname(&mut self, name: &str, tenant: TenantId) -> Result<(), BuildError> {
        self.0.hostnames.push_hostname(name.as_bytes(), 0)?;
        self.0.hostname_tenants.push(tenant);
        Ok(())
    }

    /// Adds a pin; it replaces one that the tenant's record had.
    pub fn push_pin(&mut self, tenant: TenantId, shard: ShardId) {
        self.0.pins.insert(tenant, shard);
    }

    /// The directory. Refuses duplicates, and hostnames and pins of tenants that are not there.
    pub fn build(self) -> Result<Directory, BuildError> {
        let hasher = RandomState::new();
        Directory::over(self.0.arrange(&hasher)?, hasher)
    }
}
