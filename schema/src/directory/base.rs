//! The directory's immutable bulk: two byte arenas and three hash tables over them.
//!
//! One tenant is one entry of the tenant arena (id, epoch, pin, plan, flags, slug), one hostname one entry of the
//! hostname arena (tenant's place, name). Places count units of four bytes. What few tenants have (a suspension, an
//! epoch beyond 32 bits) is in a side table. A lookup by id or slug touches two cache lines, by hostname three.
//! Hashes are SipHash with a key per process: slugs and hostnames are chosen by strangers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use super::record::TenantRecord;
use super::table::{PLACE_BITS_MAX, Table};
use crate::shard::ShardId;
use crate::tenant::{Epoch, Isolation, TenantId, TenantKey, TenantState};

/// Bytes per unit of place.
const UNIT: usize = 4;
/// Epoch, pin, plan, flags, slug length: what follows the id of an entry.
const FIXED: usize = 4 + 2 + 2 + 1 + 1;
/// Tenant's place, name length: what precedes the name of a hostname entry.
const HOST_FIXED: usize = 4 + 1;

const STATE_MASK: u8 = 0b0000_0111;
const FLAG_SILO: u8 = 0b0000_1000;
const FLAG_DEMO: u8 = 0b0001_0000;
const FLAG_SIMULATION: u8 = 0b0010_0000;
const FLAG_EXTRA: u8 = 0b0100_0000;

/// What few tenants have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) epoch: u64,
    pub(crate) plan: Option<Box<str>>,
    pub(crate) suspended_reason: Option<Box<str>>,
    pub(crate) suspended_at: Option<Timestamp>,
}

/// The arenas without the tables: what a snapshot keeps.
#[derive(Debug, Clone)]
pub(crate) struct Arenas {
    pub(crate) key: TenantKey,
    pub(crate) tenants: Vec<u8>,
    pub(crate) hostnames: Vec<u8>,
    pub(crate) plans: Vec<Box<str>>,
    pub(crate) extras: HashMap<u32, Extra>,
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
    /// More than the directory's places can number (8 GiB of names).
    #[error("more tenants than a directory can hold")]
    Full,
    /// An entry that no builder wrote.
    #[error("a directory entry is damaged")]
    Damaged,
}

pub(crate) struct Base {
    arenas: Arenas,
    by_id: Table,
    by_slug: Table,
    by_hostname: Table,
    tenant_count: usize,
    hostname_count: usize,
}

impl Arenas {
    /// Empty arenas. The first unit is never a place.
    pub(super) fn new(key: TenantKey) -> Self {
        Self {
            key,
            tenants: vec![0; UNIT],
            hostnames: vec![0; UNIT],
            plans: Vec::new(),
            extras: HashMap::new(),
        }
    }

    fn id_bytes(&self) -> usize {
        match self.key {
            TenantKey::Bigint => 8,
            TenantKey::Uuid => 16,
        }
    }

    /// Appends an entry and tells its place.
    pub(super) fn push_tenant(
        &mut self,
        record: &TenantRecord<'_>,
        plans: &mut HashMap<Box<str>, u16>,
    ) -> Result<u32, BuildError> {
        if self.key == TenantKey::Bigint && record.id.as_bigint().is_none() {
            return Err(BuildError::NotABigint);
        }
        let place = next_place(&self.tenants)?;
        let slug_bytes = name_length(record.slug)?;
        let plan = match record.plan {
            None => Some(0),
            Some(name) => self.plan_number(name, plans),
        };
        let epoch = u32::try_from(record.epoch.0).ok();
        let suspended = record.suspended_reason.is_some() || record.suspended_at.is_some();
        let mut flags = state_bits(record.state);
        if record.isolation == Isolation::Silo {
            flags |= FLAG_SILO;
        }
        if record.is_demo {
            flags |= FLAG_DEMO;
        }
        if record.is_simulation {
            flags |= FLAG_SIMULATION;
        }
        if suspended || plan.is_none() || epoch.is_none() {
            flags |= FLAG_EXTRA;
            let extra = Extra {
                epoch: record.epoch.0,
                plan: record.plan.map(Box::from),
                suspended_reason: record.suspended_reason.map(Box::from),
                suspended_at: record.suspended_at,
            };
            self.extras.insert(place, extra);
        }
        let id = record.id.to_be_bytes();
        self.tenants
            .extend_from_slice(&id[id.len() - self.id_bytes()..]);
        self.tenants
            .extend_from_slice(&epoch.unwrap_or(0).to_le_bytes());
        self.tenants
            .extend_from_slice(&pin_number(record.pin).to_le_bytes());
        self.tenants
            .extend_from_slice(&plan.unwrap_or(0).to_le_bytes());
        self.tenants.extend_from_slice(&[flags, slug_bytes]);
        self.tenants.extend_from_slice(record.slug.as_bytes());
        pad(&mut self.tenants);
        Ok(place)
    }

    /// The plan's number from 1, or `None` when there are too many plans to number.
    fn plan_number(&mut self, name: &str, numbers: &mut HashMap<Box<str>, u16>) -> Option<u16> {
        if let Some(number) = numbers.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.plans.len() + 1).ok()?;
        self.plans.push(name.into());
        numbers.insert(name.into(), number);
        Some(number)
    }

    /// Appends an entry whose tenant is not known yet, and tells its place.
    pub(super) fn push_hostname(&mut self, name: &str) -> Result<u32, BuildError> {
        let place = next_place(&self.hostnames)?;
        let name_bytes = name_length(name)?;
        self.hostnames.extend_from_slice(&[0, 0, 0, 0, name_bytes]);
        self.hostnames.extend_from_slice(name.as_bytes());
        pad(&mut self.hostnames);
        Ok(place)
    }

    fn set_hostname_tenant(&mut self, hostname: u32, tenant: u32) {
        let start = offset(hostname);
        if let Some(bytes) = self.hostnames.get_mut(start..start + 4) {
            bytes.copy_from_slice(&tenant.to_le_bytes());
        }
    }

    fn set_pin(&mut self, tenant: u32, pin: Option<ShardId>) {
        let start = offset(tenant) + self.id_bytes() + 4;
        if let Some(bytes) = self.tenants.get_mut(start..start + 2) {
            bytes.copy_from_slice(&pin_number(pin).to_le_bytes());
        }
    }

    fn tenant_id(&self, place: u32) -> Option<TenantId> {
        let entry = self.tenants.get(offset(place)..)?;
        let bits = match self.key {
            TenantKey::Bigint => u128::from(u64::from_be_bytes(*entry.first_chunk()?)),
            TenantKey::Uuid => u128::from_be_bytes(*entry.first_chunk()?),
        };
        TenantId::from_u128(bits)
    }

    fn slug(&self, place: u32) -> Option<&[u8]> {
        let entry = self.tenants.get(offset(place) + self.id_bytes()..)?;
        let (fixed, rest) = entry.split_first_chunk::<FIXED>()?;
        rest.get(..usize::from(fixed[FIXED - 1]))
    }

    fn tenant(&self, place: u32) -> Option<TenantRecord<'_>> {
        let id = self.tenant_id(place)?;
        let entry = self.tenants.get(offset(place) + self.id_bytes()..)?;
        let (fixed, rest) = entry.split_first_chunk::<FIXED>()?;
        let [e0, e1, e2, e3, pin0, pin1, plan0, plan1, flags, slug_bytes] = *fixed;
        let slug = std::str::from_utf8(rest.get(..usize::from(slug_bytes))?).ok()?;
        let mut record = TenantRecord {
            id,
            slug,
            state: *TenantState::ALL.get(usize::from(flags & STATE_MASK))?,
            isolation: if flags & FLAG_SILO == 0 {
                Isolation::Pooled
            } else {
                Isolation::Silo
            },
            epoch: Epoch(u64::from(u32::from_le_bytes([e0, e1, e2, e3]))),
            pin: ShardId::new(u16::from_le_bytes([pin0, pin1])).ok(),
            plan: None,
            is_demo: flags & FLAG_DEMO != 0,
            is_simulation: flags & FLAG_SIMULATION != 0,
            suspended_reason: None,
            suspended_at: None,
        };
        if flags & FLAG_EXTRA == 0 {
            let plan = usize::from(u16::from_le_bytes([plan0, plan1]));
            record.plan = plan
                .checked_sub(1)
                .and_then(|index| self.plans.get(index))
                .map(|name| &**name);
        } else {
            let extra = self.extras.get(&place)?;
            record.epoch = Epoch(extra.epoch);
            record.plan = extra.plan.as_deref();
            record.suspended_reason = extra.suspended_reason.as_deref();
            record.suspended_at = extra.suspended_at;
        }
        Some(record)
    }

    /// The entry's size in bytes, padding included.
    fn tenant_bytes(&self, place: u32) -> Option<usize> {
        let slug = self.slug(place)?.len();
        Some((self.id_bytes() + FIXED + slug).next_multiple_of(UNIT))
    }

    /// A hostname entry: the tenant's place and the name.
    fn hostname(&self, place: u32) -> Option<(u32, &[u8])> {
        let entry = self.hostnames.get(offset(place)..)?;
        let (fixed, rest) = entry.split_first_chunk::<HOST_FIXED>()?;
        let [t0, t1, t2, t3, name_bytes] = *fixed;
        Some((
            u32::from_le_bytes([t0, t1, t2, t3]),
            rest.get(..usize::from(name_bytes))?,
        ))
    }

    fn hostname_bytes(&self, place: u32) -> Option<usize> {
        let (_, name) = self.hostname(place)?;
        Some((HOST_FIXED + name.len()).next_multiple_of(UNIT))
    }

    /// Every tenant's place, in the order in which they were pushed; ends early at a damaged entry.
    fn tenant_places(&self) -> impl Iterator<Item = u32> {
        places(self.tenants.len(), |place| self.tenant_bytes(place))
    }

    fn hostname_places(&self) -> impl Iterator<Item = u32> {
        places(self.hostnames.len(), |place| self.hostname_bytes(place))
    }
}

impl Base {
    /// A base without tenants.
    pub(super) fn empty(key: TenantKey) -> Self {
        let table = || Table::new(0, 0);
        Self {
            arenas: Arenas::new(key),
            by_id: table(),
            by_slug: table(),
            by_hostname: table(),
            tenant_count: 0,
            hostname_count: 0,
        }
    }

    /// Builds the tables over finished arenas. `hostname_tenants` and `pins` are what a builder could not write into
    /// the entries before every tenant was known: the first by order of the hostnames; empty when all is written.
    pub(super) fn new(
        mut arenas: Arenas,
        hasher: &RandomState,
        hostname_tenants: Option<&[TenantId]>,
        pins: &HashMap<TenantId, ShardId>,
    ) -> Result<Self, BuildError> {
        arenas.tenants.shrink_to_fit();
        arenas.hostnames.shrink_to_fit();
        let (by_id, by_slug, tenant_count) = index_tenants(&arenas, hasher)?;
        let mut base = Self {
            by_id,
            by_slug,
            by_hostname: Table::new(0, 0),
            tenant_count,
            hostname_count: 0,
            arenas,
        };
        for (tenant, shard) in pins {
            let place = base.place_of_id(hasher.hash_one(tenant), *tenant);
            let place = place.ok_or_else(|| BuildError::UnknownTenant {
                what: format!("a pin to shard {shard}"),
            })?;
            base.arenas.set_pin(place, Some(*shard));
        }
        if let Some(tenants) = hostname_tenants {
            base.join_hostnames(tenants, hasher)?;
        }
        base.index_hostnames(hasher)?;
        Ok(base)
    }

    fn join_hostnames(
        &mut self,
        tenants: &[TenantId],
        hasher: &RandomState,
    ) -> Result<(), BuildError> {
        let mut place = 1;
        for tenant in tenants {
            let found = self.place_of_id(hasher.hash_one(tenant), *tenant);
            let Some(tenant_place) = found else {
                let name = self
                    .arenas
                    .hostname(place)
                    .map_or(&[][..], |(_, name)| name);
                let what = format!("the hostname {:?}", String::from_utf8_lossy(name));
                return Err(BuildError::UnknownTenant { what });
            };
            self.arenas.set_hostname_tenant(place, tenant_place);
            let bytes = self
                .arenas
                .hostname_bytes(place)
                .ok_or(BuildError::Damaged)?;
            place += units(bytes);
        }
        Ok(())
    }

    fn index_hostnames(&mut self, hasher: &RandomState) -> Result<(), BuildError> {
        let arenas = &self.arenas;
        let count = checked_count(arenas.hostname_places(), arenas.hostnames.len(), |place| {
            arenas.hostname_bytes(place)
        })?;
        let mut table = Table::new(count, last_place(&arenas.hostnames)?);
        for place in arenas.hostname_places() {
            let (tenant, name) = arenas.hostname(place).ok_or(BuildError::Damaged)?;
            let text = std::str::from_utf8(name).map_err(|_| BuildError::Damaged)?;
            if arenas.tenant_id(tenant).is_none() {
                return Err(BuildError::Damaged);
            }
            let is_key = |other| {
                arenas
                    .hostname(other)
                    .is_some_and(|(_, taken)| taken == name)
            };
            table
                .insert(hasher.hash_one(text), place, is_key)
                .map_err(|_| BuildError::DuplicateHostname(text.to_owned()))?;
        }
        self.by_hostname = table;
        self.hostname_count = count;
        Ok(())
    }

    fn place_of_id(&self, hash: u64, id: TenantId) -> Option<u32> {
        self.by_id
            .find(hash, |place| self.arenas.tenant_id(place) == Some(id))
    }

    pub(super) fn by_id(&self, hash: u64, id: TenantId) -> Option<TenantRecord<'_>> {
        self.arenas.tenant(self.place_of_id(hash, id)?)
    }

    pub(super) fn by_slug(&self, hash: u64, slug: &str) -> Option<TenantRecord<'_>> {
        let is_key = |place| self.arenas.slug(place) == Some(slug.as_bytes());
        self.arenas.tenant(self.by_slug.find(hash, is_key)?)
    }

    pub(super) fn by_hostname(&self, hash: u64, name: &str) -> Option<TenantRecord<'_>> {
        let mut tenant = 0;
        self.by_hostname
            .find(hash, |place| match self.arenas.hostname(place) {
                Some((owner, found)) if found == name.as_bytes() => {
                    tenant = owner;
                    true
                }
                _ => false,
            })?;
        self.arenas.tenant(tenant)
    }

    pub(super) fn tenant_count(&self) -> usize {
        self.tenant_count
    }

    pub(super) fn hostname_count(&self) -> usize {
        self.hostname_count
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = TenantRecord<'_>> {
        self.arenas
            .tenant_places()
            .filter_map(|place| self.arenas.tenant(place))
    }

    /// Every hostname with its tenant.
    pub(super) fn hostnames(&self) -> impl Iterator<Item = (&str, TenantId)> {
        self.arenas.hostname_places().filter_map(|place| {
            let (tenant, name) = self.arenas.hostname(place)?;
            Some((
                std::str::from_utf8(name).ok()?,
                self.arenas.tenant_id(tenant)?,
            ))
        })
    }

    pub(crate) fn arenas(&self) -> &Arenas {
        &self.arenas
    }
}

/// Indexes every tenant by id and slug, checking that each entry reads back.
fn index_tenants(
    arenas: &Arenas,
    hasher: &RandomState,
) -> Result<(Table, Table, usize), BuildError> {
    let count = checked_count(arenas.tenant_places(), arenas.tenants.len(), |place| {
        arenas.tenant_bytes(place)
    })?;
    let last = last_place(&arenas.tenants)?;
    let (mut by_id, mut by_slug) = (Table::new(count, last), Table::new(count, last));
    for place in arenas.tenant_places() {
        let record = arenas.tenant(place).ok_or(BuildError::Damaged)?;
        by_id
            .insert(hasher.hash_one(record.id), place, |other| {
                arenas.tenant_id(other) == Some(record.id)
            })
            .map_err(|_| BuildError::DuplicateId(record.id, arenas.key))?;
        by_slug
            .insert(hasher.hash_one(record.slug), place, |other| {
                arenas.slug(other) == Some(record.slug.as_bytes())
            })
            .map_err(|_| BuildError::DuplicateSlug(record.slug.to_owned()))?;
    }
    Ok((by_id, by_slug, count))
}

/// Counts the entries, and refuses an arena that does not end where its last entry does.
fn checked_count(
    places: impl Iterator<Item = u32>,
    arena_bytes: usize,
    entry_bytes: impl Fn(u32) -> Option<usize>,
) -> Result<usize, BuildError> {
    let (mut count, mut end) = (0, UNIT);
    for place in places {
        count += 1;
        end = offset(place) + entry_bytes(place).ok_or(BuildError::Damaged)?;
    }
    if end == arena_bytes {
        Ok(count)
    } else {
        Err(BuildError::Damaged)
    }
}

/// Walks entries that follow each other without gaps.
fn places(
    arena_bytes: usize,
    entry_bytes: impl Fn(u32) -> Option<usize>,
) -> impl Iterator<Item = u32> {
    let mut next = 1;
    std::iter::from_fn(move || {
        let place = next;
        if offset(place) >= arena_bytes {
            return None;
        }
        next = place + units(entry_bytes(place)?);
        Some(place)
    })
}

fn offset(place: u32) -> usize {
    place as usize * UNIT
}

/// An entry has at most 300 bytes.
fn units(entry_bytes: usize) -> u32 {
    (entry_bytes / UNIT) as u32
}

fn next_place(arena: &[u8]) -> Result<u32, BuildError> {
    u32::try_from(arena.len() / UNIT)
        .ok()
        .filter(|place| *place < 1 << PLACE_BITS_MAX)
        .ok_or(BuildError::Full)
}

/// A bound of every place in the arena.
fn last_place(arena: &[u8]) -> Result<u32, BuildError> {
    next_place(arena.get(UNIT..).unwrap_or_default())
}

fn pad(arena: &mut Vec<u8>) {
    arena.resize(arena.len().next_multiple_of(UNIT), 0);
}

fn name_length(name: &str) -> Result<u8, BuildError> {
    u8::try_from(name.len()).map_err(|_| BuildError::NameTooLong(name.to_owned()))
}

fn pin_number(pin: Option<ShardId>) -> u16 {
    pin.map_or(0, ShardId::number)
}

fn state_bits(state: TenantState) -> u8 {
    match state {
        TenantState::Provisioning => 0,
        TenantState::Active => 1,
        TenantState::Suspended => 2,
        TenantState::Closing => 3,
        TenantState::Erased => 4,
    }
}
