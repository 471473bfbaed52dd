//! The directory's immutable bulk: an arena of entries and three hash tables of places in it.
//!
//! A lookup touches one cache line of a table and one or two of the arena: a hostname's entry is beside its tenant's.
//! Hashes are SipHash with a key per process: slugs and hostnames are chosen by strangers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::BuildError;
use super::arena::{Arena, Entry};
use super::record::TenantRecord;
use super::table::Table;
use crate::shard::ShardId;
use crate::tenant::{TenantId, TenantKey};

pub(super) struct Base {
    arena: Arena,
    by_id: Table,
    by_slug: Table,
    by_hostname: Table,
    tenant_count: usize,
}

impl Base {
    /// A base without tenants.
    pub(super) fn empty(key: TenantKey) -> Self {
        Self {
            arena: Arena::growing(key),
            by_id: Table::empty(),
            by_slug: Table::empty(),
            by_hostname: Table::empty(),
            tenant_count: 0,
        }
    }

    /// Builds the tables over a finished arena. Refuses one with duplicates or damaged entries.
    pub(super) fn new(mut arena: Arena, hasher: &RandomState) -> Result<Self, BuildError> {
        arena.extras.shrink_to_fit();
        let (tenant_count, hostname_count) = arena.checked_counts()?;
        Ok(Self {
            by_id: index_ids(&arena, hasher, tenant_count)?,
            by_slug: index_slugs(&arena, hasher, tenant_count)?,
            by_hostname: index_hostnames(&arena, hasher, hostname_count)?,
            tenant_count,
            arena,
        })
    }

    pub(super) fn by_id(&self, hash: u64, id: TenantId) -> Option<TenantRecord<'_>> {
        let is_key = |place| self.arena.tenant_id(place) == Some(id);
        self.arena.tenant(self.by_id.find(hash, is_key)?)
    }

    pub(super) fn by_slug(&self, hash: u64, slug: &str) -> Option<TenantRecord<'_>> {
        let is_key = |place| self.arena.slug(place) == Some(slug.as_bytes());
        self.arena.tenant(self.by_slug.find(hash, is_key)?)
    }

    pub(super) fn by_hostname(&self, hash: u64, name: &str) -> Option<TenantRecord<'_>> {
        let is_key = |place| {
            self.arena
                .hostname(place)
                .is_some_and(|(_, found)| found == name.as_bytes())
        };
        let (tenant, _) = self.arena.hostname(self.by_hostname.find(hash, is_key)?)?;
        self.arena.tenant(tenant)
    }

    pub(super) fn tenant_count(&self) -> usize {
        self.tenant_count
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = TenantRecord<'_>> {
        tenant_places(&self.arena).filter_map(|place| self.arena.tenant(place))
    }

    /// Every hostname with its tenant.
    pub(super) fn hostnames(&self) -> impl Iterator<Item = (&str, TenantId)> {
        hostname_places(&self.arena).filter_map(|place| {
            let (tenant, name) = self.arena.hostname(place)?;
            Some((
                std::str::from_utf8(name).ok()?,
                self.arena.tenant_id(tenant)?,
            ))
        })
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }
}

fn index_ids(arena: &Arena, hasher: &RandomState, count: usize) -> Result<Table, BuildError> {
    let keys = tenant_places(arena)
        .filter_map(|place| Some((hasher.hash_one(arena.tenant_id(place)?), place)));
    let is_same = |one, other| arena.tenant_id(one) == arena.tenant_id(other);
    Table::build(count, arena.last_place()?, keys, is_same).map_err(|(place, _)| {
        match arena.tenant_id(place) {
            Some(id) => BuildError::DuplicateId(id, arena.key),
            None => BuildError::Damaged,
        }
    })
}

fn index_slugs(arena: &Arena, hasher: &RandomState, count: usize) -> Result<Table, BuildError> {
    let keys = tenant_places(arena).filter_map(|place| {
        let slug = std::str::from_utf8(arena.slug(place)?).ok()?;
        Some((hasher.hash_one(slug), place))
    });
    let is_same = |one, other| arena.slug(one) == arena.slug(other);
    Table::build(count, arena.last_place()?, keys, is_same)
        .map_err(|(place, _)| BuildError::DuplicateSlug(lossy(arena.slug(place))))
}

fn index_hostnames(arena: &Arena, hasher: &RandomState, count: usize) -> Result<Table, BuildError> {
    let name = |place| arena.hostname(place).map(|(_, name)| name);
    let keys = hostname_places(arena).filter_map(|place| {
        let name = std::str::from_utf8(name(place)?).ok()?;
        Some((hasher.hash_one(name), place))
    });
    let is_same = |one, other| name(one) == name(other);
    Table::build(count, arena.last_place()?, keys, is_same)
        .map_err(|(place, _)| BuildError::DuplicateHostname(lossy(name(place))))
}

fn tenant_places(arena: &Arena) -> impl Iterator<Item = u32> {
    arena.entries().filter_map(|entry| match entry {
        Entry::Tenant(place) => Some(place),
        Entry::Hostname(_) => None,
    })
}

fn hostname_places(arena: &Arena) -> impl Iterator<Item = u32> {
    arena.entries().filter_map(|entry| match entry {
        Entry::Tenant(_) => None,
        Entry::Hostname(place) => Some(place),
    })
}

fn lossy(name: Option<&[u8]>) -> String {
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

/// Rows as they came, in no order: tenants, and apart from them hostnames and pins, by tenant.
pub(super) struct Staged {
    pub(super) tenants: Arena,
    pub(super) plans: HashMap<Box<str>, u16>,
    /// Entries without a tenant, which the list beside them names in their order.
    pub(super) hostnames: Arena,
    pub(super) hostname_tenants: Vec<TenantId>,
    pub(super) pins: HashMap<TenantId, ShardId>,
}

impl Staged {
    /// Puts each tenant's hostnames behind it.
    pub(super) fn arrange(mut self, hasher: &RandomState) -> Result<Arena, BuildError> {
        let places = index_ids(&self.tenants, hasher, tenant_places(&self.tenants).count())?;
        let place_of = |tenants: &Arena, id: TenantId| {
            places.find(hasher.hash_one(id), |place| {
                tenants.tenant_id(place) == Some(id)
            })
        };
        for (id, shard) in &self.pins {
            let place = place_of(&self.tenants, *id);
            let place = place.ok_or_else(|| BuildError::UnknownTenant {
                what: format!("a pin to shard {shard}"),
            })?;
            self.tenants.set_pin(place, *shard);
        }
        let mut owned = Vec::with_capacity(self.hostname_tenants.len());
        for (hostname, id) in hostname_places(&self.hostnames).zip(&self.hostname_tenants) {
            let Some(tenant) = place_of(&self.tenants, *id) else {
                let name = self
                    .hostnames
                    .hostname(hostname)
                    .map_or(&[][..], |(_, name)| name);
                let what = format!("the hostname {:?}", String::from_utf8_lossy(name));
                return Err(BuildError::UnknownTenant { what });
            };
            owned.push((tenant, hostname));
        }
        owned.sort_unstable();
        drop(std::mem::take(&mut self.hostname_tenants));
        drop(places);
        self.interleave(&owned)
    }

    /// `owned` has (tenant's place, hostname's place), sorted.
    fn interleave(mut self, owned: &[(u32, u32)]) -> Result<Arena, BuildError> {
        let bytes = self.tenants.entry_bytes_total() + self.hostnames.entry_bytes_total();
        let mut arena = Arena::with_capacity(self.tenants.key, bytes);
        arena.plans = std::mem::take(&mut self.tenants.plans);
        let mut owned = owned.iter().peekable();
        let mut next = self.tenants.entries().next();
        while let Some(Entry::Tenant(staged)) = next {
            let place = arena.copy_tenant(&mut self.tenants, staged)?;
            while let Some((_, hostname)) = owned.next_if(|(tenant, _)| *tenant == staged) {
                let (_, name) = self
                    .hostnames
                    .hostname(*hostname)
                    .ok_or(BuildError::Damaged)?;
                arena.push_hostname(name, place)?;
            }
            next = self.tenants.entry_after(staged);
        }
        Ok(arena)
    }
}
