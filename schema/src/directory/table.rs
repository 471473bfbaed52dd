//! An open-addressed hash table of places in an arena: four bytes per slot and no keys.
//!
//! The bits that a place does not need hold a tag of the key's hash, so that a probe which passes a foreign slot
//! rarely touches the arena: a lookup costs one cache miss here and one where the key is.

/// Slots per key are 5/4: linear probes stay within a cache line, at 5 bytes per key.
const SLOTS_NUMERATOR: usize = 5;
const SLOTS_DENOMINATOR: usize = 4;

/// The most bits that a place may need; at least one is left for the tag.
pub(super) const PLACE_BITS_MAX: u32 = 31;

/// Maps hashes to places. A place is 1 or more; 0 marks a free slot. Sized once.
pub(super) struct Table {
    slots: Vec<u32>,
    place_bits: u32,
}

impl Table {
    /// A table for `keys` keys at places up to `place_max`, which must fit [`PLACE_BITS_MAX`] bits.
    pub(super) fn new(keys: usize, place_max: u32) -> Self {
        let slots = keys.saturating_mul(SLOTS_NUMERATOR) / SLOTS_DENOMINATOR + 1;
        let place_bits = (u32::BITS - place_max.leading_zeros()).clamp(1, PLACE_BITS_MAX);
        Self {
            slots: vec![0; slots],
            place_bits,
        }
    }

    /// The place of the key with this hash, of which `is_key` decides.
    pub(super) fn find(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let (mut index, tag) = self.start(hash);
        let place_mask = (1 << self.place_bits) - 1;
        // There is always a free slot, hence an end.
        loop {
            let slot = *self.slots.get(index)?;
            if slot == 0 {
                return None;
            }
            if (slot ^ tag) & !place_mask == 0 && is_key(slot & place_mask) {
                return Some(slot & place_mask);
            }
            index = if index + 1 == self.slots.len() {
                0
            } else {
                index + 1
            };
        }
    }

    /// Adds a key unless it is there already, which `is_key` decides; then its place is the error.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        place: u32,
        mut is_key: impl FnMut(u32) -> bool,
    ) -> Result<(), u32> {
        let (mut index, tag) = self.start(hash);
        let place_mask = (1 << self.place_bits) - 1;
        let end = self.slots.len();
        while let Some(slot) = self.slots.get_mut(index) {
            if *slot == 0 {
                *slot = tag | place;
                break;
            }
            if (*slot ^ tag) & !place_mask == 0 && is_key(*slot & place_mask) {
                return Err(*slot & place_mask);
            }
            index = if index + 1 == end { 0 } else { index + 1 };
        }
        Ok(())
    }

    /// The first slot to look at, from the hash's upper half, and the tag, from its lower.
    fn start(&self, hash: u64) -> (usize, u32) {
        let index = ((hash >> 32) * self.slots.len() as u64) >> 32;
        (index as usize, (hash as u32) << self.place_bits)
    }
}
