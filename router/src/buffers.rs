//! Buffers that sockets are read into and written from, lent for as long as there are bytes in them.
//!
//! An idle session and an idle server connection hold none. Each thread keeps a few for the next that is woken: asking
//! the allocator for 16 KiB and giving them back several times per query is what costs otherwise.

use std::cell::RefCell;

use bytes::{Buf as _, BytesMut};

/// Bytes read from a socket at once, and the size of a buffer that is kept.
pub(crate) const READ_SIZE: usize = 16 << 10;
/// A buffer that grew beyond this is not kept.
const KEPT_SIZE_MAX: usize = 64 << 10;
/// Buffers kept per thread.
const KEPT_MAX: usize = 32;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::new()) };
}

/// Buffers are exchanged with these places, not moved out of them: nothing is made and dropped on the way.
struct Kept {
    places: Vec<BytesMut>,
    /// So many of the places hold memory; those behind them hold none.
    full: usize,
}

impl Kept {
    const fn new() -> Self {
        Self {
            places: Vec::new(),
            full: 0,
        }
    }

    fn lend(&mut self, buffer: &mut BytesMut) -> bool {
        let Some(last) = self.full.checked_sub(1) else {
            return false;
        };
        self.full = last;
        if let Some(place) = self.places.get_mut(last) {
            std::mem::swap(place, buffer);
        }
        true
    }

    fn take_back(&mut self, buffer: &mut BytesMut) -> bool {
        if self.full == self.places.len() {
            if self.full == KEPT_MAX {
                return false;
            }
            self.places.push(BytesMut::new());
        }
        if let Some(place) = self.places.get_mut(self.full) {
            std::mem::swap(place, buffer);
            self.full += 1;
        }
        true
    }
}

/// Gives a buffer that has none some memory.
pub(crate) fn lend(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 && !KEPT.with_borrow_mut(|kept| kept.lend(buffer)) {
        *buffer = BytesMut::with_capacity(READ_SIZE);
    }
}

/// Forgets the first bytes. One that is empty then begins anew where it is, which costs nothing to give back.
pub(crate) fn consume(buffer: &mut BytesMut, count: usize) {
    if count == buffer.len() {
        buffer.clear();
    } else {
        buffer.advance(count);
    }
}

/// Takes the memory of an empty buffer back.
pub(crate) fn take_back(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    // False while a part of it is still held by someone.
    let is_whole = buffer.try_reclaim(READ_SIZE) && buffer.capacity() <= KEPT_SIZE_MAX;
    if !is_whole || !KEPT.with_borrow_mut(|kept| kept.take_back(buffer)) {
        *buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_given_back_is_lent_again() {
        let mut buffer = BytesMut::new();
        lend(&mut buffer);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(b"some bytes");
        take_back(&mut buffer);
        assert_eq!(buffer.len(), 10, "what is not empty stays");
        let _ = buffer.split_to(10);
        take_back(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        lend(&mut buffer);
        assert_eq!((buffer.as_ptr(), buffer.len()), (address, 0));
        buffer.extend_from_slice(b"some");
        consume(&mut buffer, 3);
        assert_eq!(&buffer[..], b"e");
        consume(&mut buffer, 1);
        take_back(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let mut buffers: Vec<_> = (0..KEPT_MAX + 3)
            .map(|_| BytesMut::with_capacity(READ_SIZE))
            .collect();
        for _ in 0..2 {
            buffers.iter_mut().for_each(take_back);
            assert!(buffers.iter().all(|buffer| buffer.capacity() == 0));
            assert_eq!(KEPT.with_borrow(|kept| kept.full), KEPT_MAX);
            buffers.iter_mut().for_each(lend);
            assert!(buffers.iter().all(|buffer| buffer.capacity() >= READ_SIZE));
            assert_eq!(KEPT.with_borrow(|kept| kept.full), 0);
        }
    }

    #[test]
    fn what_is_still_held_or_too_large_is_not_kept() {
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        buffer.extend_from_slice(b"held");
        let held = buffer.split_to(4).freeze();
        take_back(&mut buffer);
        let mut large = BytesMut::with_capacity(2 * KEPT_SIZE_MAX);
        take_back(&mut large);
        assert_eq!(
            (large.capacity(), KEPT.with_borrow(|kept| kept.full)),
            (0, 0)
        );
        assert_eq!(&held[..], b"held");
    }
}
