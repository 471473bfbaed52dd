//! Bytes in huge pages, where the kernel has some.
//!
//! A lookup in two million tenants reads a few random cache lines of some 170 MB. In pages of 4 KiB each of them misses
//! the address translation cache as well; in pages of 2 MiB it does not, which takes a third off a lookup's latency.
//! Asking is advice: without huge pages, or without `mmap`, everything works as before.

use memmap2::MmapMut;

/// Below this size huge pages gain nothing.
const MAPPED_BYTES_MIN: usize = 4 << 20;

/// Bytes that are appended to and then only read.
#[derive(Debug)]
pub(crate) enum Pages {
    /// On the heap: what is small, or of unknown size.
    Heap(Vec<u8>),
    /// In pages of their own. Bytes from `len` on are zero.
    Mapped {
        /// The pages.
        pages: MmapMut,
        /// How many bytes are in use.
        len: usize,
    },
}

impl Pages {
    /// No bytes; grows as it must.
    pub(crate) fn growing() -> Self {
        Self::Heap(Vec::new())
    }

    /// No bytes, and room for exactly so many.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        if bytes < MAPPED_BYTES_MIN {
            return Self::Heap(Vec::with_capacity(bytes));
        }
        match MmapMut::map_anon(bytes) {
            Ok(pages) => {
                // A kernel without huge pages refuses, and serves ordinary ones.
                #[cfg(target_os = "linux")]
                let _ = pages.advise(memmap2::Advice::HugePage);
                Self::Mapped { pages, len: 0 }
            }
            Err(_) => Self::Heap(Vec::with_capacity(bytes)),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped { pages, len } => pages.get(..*len).unwrap_or_default(),
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped { pages, len } => pages.get_mut(..*len).unwrap_or_default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn extend_from_slice(&mut self, more: &[u8]) {
        let mut moved = match self {
            Self::Heap(bytes) => return bytes.extend_from_slice(more),
            Self::Mapped { pages, len } => {
                if let Some(room) = pages.get_mut(*len..*len + more.len()) {
                    room.copy_from_slice(more);
                    *len += more.len();
                    return;
                }
                self.as_slice().to_vec()
            }
        };
        moved.extend_from_slice(more);
        *self = Self::Heap(moved);
    }

    /// Appends zeros until there are `bytes`; never shortens.
    pub(crate) fn extend_to(&mut self, bytes: usize) {
        let bytes = bytes.max(self.len());
        let mut moved = match self {
            Self::Heap(heap) => return heap.resize(bytes, 0),
            Self::Mapped { pages, len } => {
                if bytes <= pages.len() {
                    *len = bytes;
                    return;
                }
                self.as_slice().to_vec()
            }
        };
        moved.resize(bytes, 0);
        *self = Self::Heap(moved);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn mapped_and_heap_bytes_behave_alike() {
        for capacity in [0, 100, MAPPED_BYTES_MIN] {
            let mut pages = Pages::with_capacity(capacity);
            assert_eq!(pages.len(), 0);
            pages.extend_from_slice(b"abc");
            pages.extend_to(5);
            pages.extend_to(2);
            pages.extend_from_slice(b"d");
            pages.as_mut_slice()[0] = b'x';
            assert_eq!(pages.as_slice(), b"xbc\0\0d");
            // Beyond what was asked for.
            pages.extend_to(MAPPED_BYTES_MIN + 1);
            pages.extend_from_slice(b"end");
            assert_eq!(pages.len(), MAPPED_BYTES_MIN + 4);
            assert_eq!(&pages.as_slice()[..6], b"xbc\0\0d");
            assert!(pages.as_slice().ends_with(b"\0end"));
        }
    }
}
