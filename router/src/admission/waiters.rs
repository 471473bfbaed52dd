//! Who waits: one queue per tenant, all in one slab.
//!
//! Entering, leaving from anywhere and taking the first cost the same however many wait.

/// No place in a list.
pub(super) const NOWHERE: u32 = u32::MAX;

/// One that waits, for as long as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaiterId {
    index: u32,
    /// Tells it from others that wait at the same place later.
    turn: u32,
}

/// The queue of one tenant, first come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queue {
    first: u32,
    last: u32,
    len: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            first: NOWHERE,
            last: NOWHERE,
            len: 0,
        }
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter<W, P> {
    /// Place of its tenant in the table.
    pub(super) tenant: u32,
    /// Grows with each that comes.
    pub(super) number: u64,
    pub(super) since_us: u64,
    pub(super) place: P,
    pub(super) handle: W,
}

#[derive(Debug)]
struct Entry<W, P> {
    turn: u32,
    next: u32,
    previous: u32,
    /// `None` where nobody waits; then `next` is the next free entry.
    waiter: Option<Waiter<W, P>>,
}

/// All that wait.
#[derive(Debug)]
pub(super) struct Waiters<W, P> {
    entries: Vec<Entry<W, P>>,
    free: u32,
    len: usize,
    numbers: u64,
}

impl<W, P> Waiters<W, P> {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: NOWHERE,
            len: 0,
            numbers: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Enters at the end of its tenant's queue; `None` only if more wait than an index can tell apart.
    pub(super) fn enter(
        &mut self,
        queue: &mut Queue,
        tenant: u32,
        since_us: u64,
        place: P,
        handle: W,
    ) -> Option<WaiterId> {
        self.numbers += 1;
        let waiter = Waiter {
            tenant,
            number: self.numbers,
            since_us,
            place,
            handle,
        };
        let previous = queue.last;
        let index = match self.entries.get_mut(self.free as usize) {
            Some(entry) => {
                let index = std::mem::replace(&mut self.free, entry.next);
                entry.next = NOWHERE;
                entry.previous = previous;
                entry.waiter = Some(waiter);
                index
            }
            None => {
                let index = u32::try_from(self.entries.len()).ok();
                let index = index.filter(|index| *index != NOWHERE)?;
                self.entries.push(Entry {
                    turn: 0,
                    next: NOWHERE,
                    previous,
                    waiter: Some(waiter),
                });
                index
            }
        };
        match self.entries.get_mut(previous as usize) {
            Some(entry) => entry.next = index,
            None => queue.first = index,
        }
        queue.last = index;
        queue.len += 1;
        self.len += 1;
        let turn = self
            .entries
            .get(index as usize)
            .map_or(0, |entry| entry.turn);
        Some(WaiterId { index, turn })
    }

    /// One that still waits.
    pub(super) fn waiter(&self, id: WaiterId) -> Option<&Waiter<W, P>> {
        let entry = self.entries.get(id.index as usize)?;
        entry.waiter.as_ref().filter(|_| entry.turn == id.turn)
    }

    /// Takes one out of its tenant's queue, wherever it stands.
    pub(super) fn leave(&mut self, queue: &mut Queue, id: WaiterId) -> Option<Waiter<W, P>> {
        let free = self.free;
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.turn != id.turn {
            return None;
        }
        let waiter = entry.waiter.take()?;
        let (previous, next) = (entry.previous, entry.next);
        entry.turn = entry.turn.wrapping_add(1);
        entry.next = free;
        self.free = id.index;
        match self.entries.get_mut(previous as usize) {
            Some(entry) => entry.next = next,
            None => queue.first = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(entry) => entry.previous = previous,
            None => queue.last = previous,
        }
        queue.len -= 1;
        self.len -= 1;
        Some(waiter)
    }

    /// Those of one queue, first come first.
    pub(super) fn of<'a>(
        &'a self,
        queue: &Queue,
    ) -> impl Iterator<Item = (WaiterId, &'a Waiter<W, P>)> {
        let mut at = queue.first;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            let id = WaiterId {
                index: at,
                turn: entry.turn,
            };
            at = entry.next;
            Some((id, entry.waiter.as_ref()?))
        })
    }

    pub(super) fn first(&self, queue: &Queue) -> Option<(WaiterId, &Waiter<W, P>)> {
        self.of(queue).next()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_old_id_finds_nobody() {
        let mut waiters = Waiters::new();
        let mut queue = Queue::default();
        let old = waiters.enter(&mut queue, 0, 0, (), "a").unwrap();
        assert_eq!(waiters.leave(&mut queue, old).unwrap().handle, "a");
        let new = waiters.enter(&mut queue, 0, 0, (), "b").unwrap();
        assert!(waiters.leave(&mut queue, old).is_none());
        assert!(waiters.waiter(old).is_none());
        assert_eq!(waiters.waiter(new).unwrap().handle, "b");
    }

    proptest! {
        /// The slab against two plain queues.
        #[test]
        fn queues_keep_their_order(steps in prop::collection::vec((0..2_usize, 0..3_u8, any::<prop::sample::Index>()), 1..200)) {
            let mut waiters = Waiters::new();
            let mut queues = [Queue::default(); 2];
            let mut plain = [VecDeque::new(), VecDeque::new()];
            for (number, (queue, what, which)) in steps.into_iter().enumerate() {
                if what > 0 || plain[queue].is_empty() {
                    let id = waiters.enter(&mut queues[queue], 0, 0, (), number).unwrap();
                    plain[queue].push_back((id, number));
                } else {
                    let at = which.index(plain[queue].len());
                    let (id, handle) = plain[queue].remove(at).unwrap();
                    prop_assert_eq!(waiters.leave(&mut queues[queue], id).unwrap().handle, handle);
                }
                for (queue, plain) in queues.iter().zip(&plain) {
                    let all: Vec<_> = waiters.of(queue).map(|(id, waiter)| (id, waiter.handle)).collect();
                    prop_assert_eq!(&all, &Vec::from(plain.clone()));
                    prop_assert_eq!(queue.len(), plain.len());
                }
                prop_assert_eq!(waiters.len(), plain[0].len() + plain[1].len());
            }
        }
    }
}
