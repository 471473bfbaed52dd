//! A static open-addressed hash table of places in an arena: four bytes per slot and no keys.
//!
//! Keys lie in the order of their hashes, each at its home slot or as soon after it as there is room, so that no key is
//! far from home. The bits that a place does not need hold a tag of the hash: a probe that passes a foreign slot rarely
//! touches the arena. A lookup costs one cache miss here and one where the key is.

use super::pages::Pages;

/// Slots per key are 4/3: 5.3 bytes per key, and two or three probes for a key that is there.
const SLOTS_NUMERATOR: usize = 4;
const SLOTS_DENOMINATOR: usize = 3;

const SLOT_BYTES: usize = 4;

/// The most bits that a place may need; at least one is left for the tag.
pub(super) const PLACE_BITS_MAX: u32 = 31;

/// Maps hashes to places. A place is 1 or more; 0 marks a free slot.
pub(super) struct Table {
    /// The home slots, then as many as the last keys needed beyond them, and one that is free. Four bytes each.
    slots: Pages,
    homes: usize,
    place_mask: u32,
}

impl Table {
    /// A table without keys.
    pub(super) fn empty() -> Self {
        let mut slots = Pages::growing();
        slots.extend_to(SLOT_BYTES);
        Self {
            slots,
            homes: 1,
            place_mask: 0,
        }
    }

    /// A table of `count` keys, given by hash and place; no place is beyond `last_place`, which has at most
    /// [`PLACE_BITS_MAX`] bits. `is_same` compares two places' keys; two that are the same are the error.
    pub(super) fn build(
        count: usize,
        last_place: u32,
        keys: impl Iterator<Item = (u64, u32)>,
        is_same: impl Fn(u32, u32) -> bool,
    ) -> Result<Self, (u32, u32)> {
        let place_bits = (u32::BITS - last_place.leading_zeros()).clamp(1, PLACE_BITS_MAX);
        let place_mask = (1 << place_bits) - 1;
        let place_of = |key: u64| key as u32 & place_mask;
        let hash_of = |key: u64| key & !u64::from(place_mask);
        // A key's low bits are its slot: the tag, then the place. The high bits decide its home, and with it the order.
        let mut sorted = Vec::with_capacity(count);
        sorted.extend(keys.map(|(hash, place)| hash_of(hash) | u64::from(place)));
        sorted.sort_unstable();
        for alike in sorted.chunk_by(|one, other| hash_of(*one) == hash_of(*other)) {
            for (index, one) in alike.iter().enumerate() {
                let rest = alike.get(index + 1..).unwrap_or_default();
                if let Some(other) = rest
                    .iter()
                    .find(|other| is_same(place_of(*one), place_of(**other)))
                {
                    return Err((place_of(*one), place_of(*other)));
                }
            }
        }
        let homes = count.saturating_mul(SLOTS_NUMERATOR) / SLOTS_DENOMINATOR + 1;
        let end = sorted
            .iter()
            .fold(0, |end, key| home(*key, homes).max(end) + 1);
        let slot_count = homes.max(end + 1);
        let mut slots = Pages::with_capacity(slot_count * SLOT_BYTES);
        for key in sorted {
            slots.extend_to(home(key, homes) * SLOT_BYTES);
            slots.extend_from_slice(&(key as u32).to_le_bytes());
        }
        slots.extend_to(slot_count * SLOT_BYTES);
        Ok(Self {
            slots,
            homes,
            place_mask,
        })
    }

    /// The place of the key with this hash, of which `is_key` decides.
    pub(super) fn find(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = hash as u32 & !self.place_mask;
        let (slots, _) = self.slots.as_slice().as_chunks::<SLOT_BYTES>();
        for slot in slots.get(home(hash, self.homes)..)? {
            let slot = u32::from_le_bytes(*slot);
            if slot == 0 {
                return None;
            }
            let place = slot & self.place_mask;
            if slot & !self.place_mask == tag && is_key(place) {
                return Some(place);
            }
        }
        None
    }
}

/// Where a hash would like to be. Depends on the upper half only, and grows with it.
fn home(hash: u64, homes: usize) -> usize {
    (((hash >> 32) * homes as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// Keys are their places; hashes are given.
    fn table(hashes: &[u64]) -> Table {
        let keys = (1..).zip(hashes).map(|(place, hash)| (*hash, place));
        Table::build(hashes.len(), hashes.len() as u32, keys, |_, _| false).unwrap()
    }

    #[test]
    fn crowds_are_found_wherever_they_are() {
        for hash in [0, 1 << 31, 1 << 63, u64::MAX] {
            let crowd = vec![hash; 100];
            let table = table(&crowd);
            for place in 1..=100 {
                assert_eq!(table.find(hash, |found| found == place), Some(place));
            }
            assert_eq!(table.find(hash, |_| false), None);
            assert_eq!(table.find(!hash, |_| true), None);
        }
    }

    #[test]
    fn no_keys() {
        assert_eq!(table(&[]).find(7, |_| true), None);
        assert_eq!(Table::empty().find(u64::MAX, |_| true), None);
    }

    #[test]
    fn keys_that_are_the_same_are_told() {
        let hashes = [9u64 << 40, 3, 9 << 40, 9 << 40];
        let keys = || (1..).zip(hashes).map(|(place, hash)| (hash, place));
        let outcome = Table::build(4, 4, keys(), |one, other| (one, other) == (1, 4));
        assert_eq!(outcome.err(), Some((1, 4)));
        assert!(Table::build(4, 4, keys(), |_, _| false).is_ok());
    }
}
