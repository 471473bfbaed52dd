//! The tenants of the scenario: a function of their number, so that nothing has to be kept to ask for one.

use tenantry_schema::directory::TenantRow;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{Epoch, Isolation, TenantId, TenantKey, TenantState};

/// Bytes of a slug.
pub(super) const SLUG_BYTES: usize = 12;
/// Bytes of a hostname: `www.`, the slug, `.example`.
pub(super) const HOSTNAME_BYTES: usize = 24;

/// 36 to the 11th: how many slugs of this shape there are.
const SLUGS: u64 = 131_621_703_842_267_136;
/// Coprime to 36, so that each number has a slug of its own; far apart, so that neighbours are not alike.
const SLUG_STEP: u64 = 61_803_398_874_989_485;

/// One in so many tenants is suspended, with a reason.
const SUSPENDED_SHARE: u64 = 100;
/// One in so many is pinned.
const PINNED_SHARE: u64 = 20;

/// Where the rows' random bits come from (SplitMix64).
pub(super) fn scatter(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(super) fn id(key: TenantKey, number: u64) -> Option<TenantId> {
    let bits = match key {
        TenantKey::Bigint => u128::from(number + 1),
        // As version 7: time first, then random bits.
        TenantKey::Uuid => {
            let milliseconds = u128::from(1_700_000_000_000 + number * 17);
            (milliseconds << 80) | (7 << 76) | (0b10 << 62) | u128::from(scatter(number) >> 2)
        }
    };
    TenantId::from_u128(bits)
}

pub(super) fn slug(number: u64) -> [u8; SLUG_BYTES] {
    let mut rest = (u128::from(number + 1) * u128::from(SLUG_STEP) % u128::from(SLUGS)) as u64;
    let mut slug = [b's'; SLUG_BYTES];
    for byte in slug.iter_mut().skip(1) {
        *byte = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
        rest /= 36;
    }
    slug
}

pub(super) fn hostname(number: u64) -> [u8; HOSTNAME_BYTES] {
    let mut name = *b"www.------------.example";
    name[4..4 + SLUG_BYTES].copy_from_slice(&slug(number));
    name
}

pub(super) fn row(key: TenantKey, number: u64) -> Option<TenantRow> {
    let suspended = number.is_multiple_of(SUSPENDED_SHARE);
    Some(TenantRow {
        id: id(key, number)?,
        slug: String::from_utf8_lossy(&slug(number)).into_owned(),
        state: if suspended {
            TenantState::Suspended
        } else {
            TenantState::Active
        },
        isolation: Isolation::Pooled,
        epoch: Epoch(1 + scatter(number) % 5),
        plan: Some(
            ["basic", "grow", "plus", "trial"][(scatter(number) >> 32) as usize % 4].to_owned(),
        ),
        is_demo: false,
        is_simulation: false,
        suspended_reason: suspended.then(|| "payment overdue".to_owned()),
        suspended_at: None,
    })
}

pub(super) fn pin(number: u64) -> Option<ShardId> {
    if !number.is_multiple_of(PINNED_SHARE) {
        return None;
    }
    ShardId::new(1 + (scatter(number) % 400) as u16).ok()
}
