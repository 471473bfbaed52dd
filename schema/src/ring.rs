//! The consistent-hash ring over the shards that take new tenants.
//!
//! Where a tenant without a pin lives follows from this module alone, so its hash is ours and frozen: nothing of it
//! may change without re-placing every tenant of every fleet. `tests/ring_golden.rs` holds it still. The crate that
//! walks the ring gets finished 64-bit points through an identity hasher; its own hash, which depends on `std`'s
//! `Hash` implementations and on byte order, is never used.

use std::fmt;
use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use serde::{Deserialize, Serialize};

use crate::shard::ShardId;
use crate::tenant::TenantId;

/// Virtual nodes per unit of weight.
pub const VNODES_PER_WEIGHT: u32 = 128;

/// The largest weight of one shard; it bounds the ring's memory (16 bytes per virtual node).
pub const WEIGHT_MAX: u32 = 1000;

/// A shard's share of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RingMember {
    /// The shard.
    pub shard: ShardId,
    /// Its weight, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

/// An immutable ring. Building costs a sort of the virtual nodes, a lookup about 50 ns.
pub struct Ring {
    members: Vec<RingMember>,
    ring: StaticHashRing<'static, ShardPoint, (), FrozenHash>,
}

impl Ring {
    /// A ring of these shards and weights. The order does not matter; a weight of 0 is left out, one above
    /// [`WEIGHT_MAX`] counts as that, and of a shard that is named twice the first counts.
    pub fn new(members: impl IntoIterator<Item = (ShardId, u32)>) -> Self {
        let mut members: Vec<RingMember> = members
            .into_iter()
            .filter(|&(_, weight)| weight > 0)
            .map(|(shard, weight)| RingMember {
                shard,
                weight: weight.min(WEIGHT_MAX),
            })
            .collect();
        members.sort_by_key(|member| member.shard);
        members.dedup_by_key(|member| member.shard);
        let nodes: Vec<_> = members
            .iter()
            .map(|member| {
                let vnodes = member.weight * VNODES_PER_WEIGHT;
                Node::new(ShardPoint(member.shard)).quantity(vnodes as usize)
            })
            .collect();
        Self {
            ring: StaticHashRing::new(FrozenHash, nodes.into_iter()),
            members,
        }
    }

    /// Where a tenant without a pin lives; `None` when the ring is empty.
    pub fn shard_of(&self, tenant: TenantId) -> Option<ShardId> {
        let point = Point(tenant_point(tenant));
        self.ring
            .calc_candidates(&point)
            .next()
            .map(|node| node.key.0)
    }

    /// The members by shard number, each once, weights as they count.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    /// Whether no shard takes new tenants.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// Two rings are equal when they place every tenant alike, which their members decide.
impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members
    }
}

impl Eq for Ring {}

/// One 64-bit finalising mixer: each input bit flips each output bit with probability one half.
/// Frozen; the constants are those of SplitMix64.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Keeps tenants' points and shards' points apart. Frozen.
const TENANT_DOMAIN: u64 = 0x5445_4e41_4e54_0001;
const SHARD_DOMAIN: u64 = 0x5348_4152_4400_0001;

/// A tenant's place on the ring, from its 16 canonical bytes. Frozen.
fn tenant_point(tenant: TenantId) -> u64 {
    let bits = tenant.as_u128();
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    mix(mix(mix(TENANT_DOMAIN) ^ high) ^ low)
}

/// The place of a shard's `vnode`-th virtual node. Frozen.
fn vnode_point(shard: ShardId, vnode: u64) -> u64 {
    mix(mix(mix(SHARD_DOMAIN) ^ u64::from(shard.number())) ^ vnode)
}

/// A point that is already hashed.
struct Point(u64);

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// The ring's key. `Hash` hands the shard number to [`FrozenHash::hash_vnode`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ShardPoint(ShardId);

impl Hash for ShardPoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0.number()));
    }
}

/// Passes one `u64` through.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Unreached: `Point` and `ShardPoint` write one `u64` and nothing else.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 << 8) | u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Debug, Clone, Copy)]
struct FrozenHash;

impl FrozenHash {
    fn passed_through<T: Hash>(item: &T) -> u64 {
        let mut hasher = Identity::default();
        item.hash(&mut hasher);
        hasher.finish()
    }
}

impl RingHash for FrozenHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        Self::passed_through(item)
    }

    fn hash_vnode<K: Hash>(&self, node_key: &K, vnode_seq: usize) -> u64 {
        let number = Self::passed_through(node_key) as u16;
        match ShardId::new(number) {
            Ok(shard) => vnode_point(shard, vnode_seq as u64),
            // Unreached: every key is a `ShardPoint`.
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn shard(number: u16) -> ShardId {
        ShardId::new(number).unwrap()
    }

    fn tenants(count: i64) -> impl Iterator<Item = TenantId> {
        (1..=count).map(|id| TenantId::from_bigint(id).unwrap())
    }

    #[test]
    fn an_empty_ring_places_nobody() {
        assert_eq!(Ring::default().shard_of(tenants(1).next().unwrap()), None);
        assert!(Ring::new([(shard(1), 0)]).is_empty());
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let one = Ring::new([(shard(1), 1), (shard(2), 2), (shard(3), 1)]);
        let other = Ring::new([(shard(3), 1), (shard(2), 2), (shard(1), 1), (shard(2), 2)]);
        assert_eq!(one, other);
        assert!(tenants(1000).all(|id| one.shard_of(id) == other.shard_of(id)));
    }

    #[test]
    fn weights_are_respected() {
        let ring = Ring::new([(shard(1), 1), (shard(2), 1), (shard(3), 2)]);
        let mut counts = [0u32; 4];
        for id in tenants(100_000) {
            counts[usize::from(ring.shard_of(id).unwrap().number())] += 1;
        }
        // 128 virtual nodes keep a share within about a quarter of its fair size.
        for (number, fair) in [(1, 25_000.0), (2, 25_000.0), (3, 50_000.0)] {
            let ratio = f64::from(counts[number]) / fair;
            assert!((0.75..1.25).contains(&ratio), "shard {number}: {ratio}");
        }
    }

    #[test]
    fn a_new_shard_takes_its_share_and_moves_nobody_else() {
        let before = Ring::new((1..=4).map(|n| (shard(n), 1)));
        let after = Ring::new((1..=5).map(|n| (shard(n), 1)));
        let mut moved = 0;
        for id in tenants(20_000) {
            let (old, new) = (before.shard_of(id), after.shard_of(id));
            if old != new {
                assert_eq!(new, Some(shard(5)));
                moved += 1;
            }
        }
        assert!((2_800..5_200).contains(&moved), "{moved}");
    }
}
