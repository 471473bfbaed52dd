//! Buffers that sockets are read into and written from, lent for as long as there are bytes in them.
//!
//! An idle session and an idle server connection hold none. Each thread keeps a few for the next that is woken: asking
//! the allocator for 16 KiB and giving them back several times per query is what costs otherwise.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes read from a socket at once, and the size of a buffer that is kept.
pub(crate) const READ_SIZE: usize = 16 << 10;
/// A buffer that grew beyond this is not kept.
const KEPT_SIZE_MAX: usize = 64 << 10;
/// Buffers kept per thread.
const KEPT_MAX: usize = 32;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Gives a buffer that has none some memory.
pub(crate) fn lend(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        let kept = KEPT.with_borrow_mut(Vec::pop);
        *buffer = kept.unwrap_or_else(|| BytesMut::with_capacity(READ_SIZE));
    }
}

/// Takes the memory of an empty buffer back.
pub(crate) fn take_back(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    // False while a part of it is still held by someone.
    if buffer.try_reclaim(READ_SIZE) && buffer.capacity() <= KEPT_SIZE_MAX {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        });
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
    }

    #[test]
    fn what_is_still_held_or_too_large_is_not_kept() {
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        buffer.extend_from_slice(b"held");
        let held = buffer.split_to(4).freeze();
        take_back(&mut buffer);
        let mut large = BytesMut::with_capacity(2 * KEPT_SIZE_MAX);
        take_back(&mut large);
        assert_eq!(KEPT.with_borrow(Vec::len), 0);
        assert_eq!(&held[..], b"held");
    }
}
