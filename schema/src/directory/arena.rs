//! The directory's entries: one byte arena, in which each tenant is followed by its hostnames.
//!
//! A place counts units of eight bytes; the first unit is no entry, so that 0 is no place. Integers are little-endian:
//!
//! | tenant | bytes | hostname | bytes |
//! | --- | --- | --- | --- |
//! | flags, uppermost bit 0 | 1 | flags, uppermost bit 1 | 1 |
//! | length of the slug | 1 | length of the name | 1 |
//! | pin, 0 for none | 2 | the tenant's place | 4 |
//! | epoch | 4 | name | |
//! | plan, 0 for none | 2 | | |
//! | id, big-endian | 8 or 16 | | |
//! | slug | | | |
//!
//! What few tenants have (a suspension, an epoch beyond 32 bits) is in a side table. Reading never panics: a
//! place where no entry is yields `None`.

use std::collections::HashMap;

use jiff::Timestamp;

use super::BuildError;
use super::pages::Pages;
use super::record::TenantRecord;
use super::table::PLACE_BITS_MAX;
use crate::shard::ShardId;
use crate::tenant::{Epoch, Isolation, TenantId, TenantKey, TenantState};

/// Bytes per unit of place.
const UNIT: usize = 8;
const TENANT_FIXED: usize = 10;
const HOSTNAME_FIXED: usize = 6;

const STATE_MASK: u8 = 0b0000_0111;
const FLAG_SILO: u8 = 0b0000_1000;
const FLAG_DEMO: u8 = 0b0001_0000;
const FLAG_SIMULATION: u8 = 0b0010_0000;
const FLAG_EXTRA: u8 = 0b0100_0000;
const FLAG_HOSTNAME: u8 = 0b1000_0000;

/// What few tenants have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) epoch: u64,
    pub(crate) plan: Option<Box<str>>,
    pub(crate) suspended_reason: Option<Box<str>>,
    pub(crate) suspended_at: Option<Timestamp>,
}

/// The entries and their side tables: what a snapshot keeps.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) key: TenantKey,
    pub(crate) entries: Pages,
    /// A plan's number is its index here plus one.
    pub(crate) plans: Vec<Box<str>>,
    /// By the tenant's place.
    pub(crate) extras: HashMap<u32, Extra>,
}

/// One entry, where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Tenant(u32),
    Hostname(u32),
}

impl Entry {
    fn place(self) -> u32 {
        match self {
            Self::Tenant(place) | Self::Hostname(place) => place,
        }
    }
}

impl Arena {
    /// An arena that grows as it must.
    pub(super) fn growing(key: TenantKey) -> Self {
        Self::over(key, Pages::growing())
    }

    /// An arena with room for so many bytes of entries.
    pub(super) fn with_capacity(key: TenantKey, entry_bytes: usize) -> Self {
        Self::over(key, Pages::with_capacity(UNIT + entry_bytes))
    }

    fn over(key: TenantKey, mut entries: Pages) -> Self {
        entries.extend_to(UNIT);
        Self {
            key,
            entries,
            plans: Vec::new(),
            extras: HashMap::new(),
        }
    }

    /// Bytes of entries.
    pub(super) fn entry_bytes_total(&self) -> usize {
        self.entries.len() - UNIT
    }

    fn id_bytes(&self) -> usize {
        match self.key {
            TenantKey::Bigint => 8,
            TenantKey::Uuid => 16,
        }
    }

    /// Appends a tenant and tells its place. `plans` numbers the plans' names.
    pub(super) fn push_tenant(
        &mut self,
        record: &TenantRecord<'_>,
        plans: &mut HashMap<Box<str>, u16>,
    ) -> Result<u32, BuildError> {
        if self.key == TenantKey::Bigint && record.id.as_bigint().is_none() {
            return Err(BuildError::NotABigint);
        }
        let place = self.next_place()?;
        let slug_bytes = name_length(record.slug)?;
        let plan = record
            .plan
            .map_or(Some(0), |name| self.plan_number(name, plans));
        let epoch = u32::try_from(record.epoch.0).ok();
        let mut flags = state_bits(record.state);
        for (set, flag) in [
            (record.isolation == Isolation::Silo, FLAG_SILO),
            (record.is_demo, FLAG_DEMO),
            (record.is_simulation, FLAG_SIMULATION),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let suspended = record.suspended_reason.is_some() || record.suspended_at.is_some();
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
        self.entries.extend_from_slice(&[flags, slug_bytes]);
        self.entries
            .extend_from_slice(&pin_number(record.pin).to_le_bytes());
        self.entries
            .extend_from_slice(&epoch.unwrap_or(0).to_le_bytes());
        self.entries
            .extend_from_slice(&plan.unwrap_or(0).to_le_bytes());
        self.entries
            .extend_from_slice(&id[id.len() - self.id_bytes()..]);
        self.entries.extend_from_slice(record.slug.as_bytes());
        self.pad();
        Ok(place)
    }

    /// Appends a hostname of the tenant at `tenant` and tells its place.
    pub(super) fn push_hostname(&mut self, name: &[u8], tenant: u32) -> Result<u32, BuildError> {
        let place = self.next_place()?;
        let Ok(name_bytes) = u8::try_from(name.len()) else {
            return Err(BuildError::NameTooLong(
                String::from_utf8_lossy(name).into_owned(),
            ));
        };
        self.entries.extend_from_slice(&[FLAG_HOSTNAME, name_bytes]);
        self.entries.extend_from_slice(&tenant.to_le_bytes());
        self.entries.extend_from_slice(name);
        self.pad();
        Ok(place)
    }

    /// Appends a copy of another arena's tenant, which must have the same key kind and plans, and tells its place.
    pub(super) fn copy_tenant(&mut self, from: &mut Self, tenant: u32) -> Result<u32, BuildError> {
        let place = self.next_place()?;
        let start = offset(tenant);
        let end = start + from.entry_bytes(tenant).ok_or(BuildError::Damaged)?;
        self.entries.extend_from_slice(
            from.entries
                .as_slice()
                .get(start..end)
                .ok_or(BuildError::Damaged)?,
        );
        if let Some(extra) = from.extras.remove(&tenant) {
            self.extras.insert(place, extra);
        }
        Ok(place)
    }

    pub(super) fn set_pin(&mut self, tenant: u32, pin: ShardId) {
        let start = offset(tenant) + 2;
        if let Some(bytes) = self.entries.as_mut_slice().get_mut(start..start + 2) {
            bytes.copy_from_slice(&pin.number().to_le_bytes());
        }
    }

    /// The plan's number, or `None` when there are more plans than numbers.
    fn plan_number(&mut self, name: &str, numbers: &mut HashMap<Box<str>, u16>) -> Option<u16> {
        if let Some(number) = numbers.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.plans.len() + 1).ok()?;
        self.plans.push(name.into());
        numbers.insert(name.into(), number);
        Some(number)
    }

    fn next_place(&self) -> Result<u32, BuildError> {
        let place = u32::try_from(self.entries.len() / UNIT).map_err(|_| BuildError::Full)?;
        if place < 1 << PLACE_BITS_MAX {
            Ok(place)
        } else {
            Err(BuildError::Full)
        }
    }

    /// No place is beyond this one.
    pub(super) fn last_place(&self) -> Result<u32, BuildError> {
        Ok(self.next_place()?.saturating_sub(1))
    }

    fn pad(&mut self) {
        self.entries
            .extend_to(self.entries.len().next_multiple_of(UNIT));
    }

    fn at(&self, place: u32) -> Option<&[u8]> {
        self.entries.as_slice().get(offset(place)..)
    }

    /// The tenant's fixed fields, and what follows them.
    fn tenant_fields(&self, tenant: u32) -> Option<(&[u8; TENANT_FIXED], &[u8])> {
        let (fixed, rest) = self.at(tenant)?.split_first_chunk()?;
        if fixed[0] & FLAG_HOSTNAME != 0 {
            return None;
        }
        Some((fixed, rest))
    }

    pub(super) fn tenant_id(&self, tenant: u32) -> Option<TenantId> {
        let (_, rest) = self.tenant_fields(tenant)?;
        let bits = match self.key {
            TenantKey::Bigint => u128::from(u64::from_be_bytes(*rest.first_chunk()?)),
            TenantKey::Uuid => u128::from_be_bytes(*rest.first_chunk()?),
        };
        TenantId::from_u128(bits)
    }

    pub(super) fn slug(&self, tenant: u32) -> Option<&[u8]> {
        let (fixed, rest) = self.tenant_fields(tenant)?;
        rest.get(self.id_bytes()..)?.get(..usize::from(fixed[1]))
    }

    pub(super) fn tenant(&self, tenant: u32) -> Option<TenantRecord<'_>> {
        let ([flags, _, pin0, pin1, e0, e1, e2, e3, plan0, plan1], _) =
            self.tenant_fields(tenant)?;
        let mut record = TenantRecord {
            id: self.tenant_id(tenant)?,
            slug: std::str::from_utf8(self.slug(tenant)?).ok()?,
            state: *TenantState::ALL.get(usize::from(flags & STATE_MASK))?,
            isolation: if flags & FLAG_SILO == 0 {
                Isolation::Pooled
            } else {
                Isolation::Silo
            },
            epoch: Epoch(u64::from(u32::from_le_bytes([*e0, *e1, *e2, *e3]))),
            pin: ShardId::new(u16::from_le_bytes([*pin0, *pin1])).ok(),
            plan: None,
            is_demo: flags & FLAG_DEMO != 0,
            is_simulation: flags & FLAG_SIMULATION != 0,
            suspended_reason: None,
            suspended_at: None,
        };
        if flags & FLAG_EXTRA == 0 {
            let number = usize::from(u16::from_le_bytes([*plan0, *plan1]));
            record.plan = number
                .checked_sub(1)
                .and_then(|index| self.plans.get(index))
                .map(|name| &**name);
        } else {
            let extra = self.extras.get(&tenant)?;
            record.epoch = Epoch(extra.epoch);
            record.plan = extra.plan.as_deref();
            record.suspended_reason = extra.suspended_reason.as_deref();
            record.suspended_at = extra.suspended_at;
        }
        Some(record)
    }

    /// A hostname: its tenant's place and the name.
    pub(super) fn hostname(&self, hostname: u32) -> Option<(u32, &[u8])> {
        let (fixed, rest) = self.at(hostname)?.split_first_chunk::<HOSTNAME_FIXED>()?;
        let [flags, name_bytes, t0, t1, t2, t3] = *fixed;
        if flags & FLAG_HOSTNAME == 0 {
            return None;
        }
        Some((
            u32::from_le_bytes([t0, t1, t2, t3]),
            rest.get(..usize::from(name_bytes))?,
        ))
    }

    /// An entry's size, padding included; `None` when it is cut off.
    fn entry_bytes(&self, place: u32) -> Option<usize> {
        let entry = self.at(place)?;
        let [flags, name_bytes] = *entry.first_chunk()?;
        let fixed = if flags & FLAG_HOSTNAME == 0 {
            TENANT_FIXED + self.id_bytes()
        } else {
            HOSTNAME_FIXED
        };
        let bytes = (fixed + usize::from(name_bytes)).next_multiple_of(UNIT);
        (bytes <= entry.len()).then_some(bytes)
    }

    /// The entry at this place, if it is not cut off.
    fn entry(&self, place: u32) -> Option<Entry> {
        self.entry_bytes(place)?;
        let is_hostname = self.at(place)?.first()? & FLAG_HOSTNAME != 0;
        Some(if is_hostname {
            Entry::Hostname(place)
        } else {
            Entry::Tenant(place)
        })
    }

    /// The entry that follows the one at this place.
    pub(super) fn entry_after(&self, place: u32) -> Option<Entry> {
        // An entry has at most 37 units.
        let units = (self.entry_bytes(place)? / UNIT) as u32;
        self.entry(place + units)
    }

    /// Every entry in its order; ends early before one that is cut off.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        std::iter::successors(self.entry(1), |entry| self.entry_after(entry.place()))
    }

    /// Counts tenants and hostnames, and makes sure that every entry reads back and nothing follows the last.
    pub(super) fn checked_counts(&self) -> Result<(usize, usize), BuildError> {
        let (mut tenants, mut hostnames, mut end) = (0, 0, UNIT);
        for entry in self.entries() {
            let is_sound = match entry {
                Entry::Tenant(place) => {
                    tenants += 1;
                    self.tenant(place).is_some()
                }
                Entry::Hostname(place) => {
                    hostnames += 1;
                    let found = self.hostname(place);
                    found.is_some_and(|(tenant, name)| {
                        std::str::from_utf8(name).is_ok() && self.tenant_id(tenant).is_some()
                    })
                }
            };
            if !is_sound {
                return Err(BuildError::Damaged);
            }
            end = offset(entry.place())
                + self.entry_bytes(entry.place()).ok_or(BuildError::Damaged)?;
        }
        if end == self.entries.len() {
            Ok((tenants, hostnames))
        } else {
            Err(BuildError::Damaged)
        }
    }
}

fn offset(place: u32) -> usize {
    place as usize * UNIT
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
