//! Transactions that come in pieces, kept until they commit: in memory while they are small, in a file without a name
//! when they are not.
//!
//! A message is kept as it came. Files are written and read with ordinary blocking calls: whole buffers into the page
//! cache, for transactions that are rare and large.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use bytes::Bytes;

const BUFFER_BYTES: usize = 256 * 1024;

/// One transaction.
#[derive(Debug, Default)]
pub(super) struct Spool {
    /// Messages with the offset at which each begins; empty once there is a file.
    memory: Vec<(u64, Bytes)>,
    file: Option<BufWriter<File>>,
    /// Where the next message begins: as if each stood in a file behind its length.
    end: u64,
    /// Where each subtransaction's first message begins, in order.
    parts: Vec<(u32, u64)>,
}

impl Spool {
    /// Bytes kept, wherever they are.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Bytes kept in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        if self.file.is_some() { 0 } else { self.end }
    }

    /// Keeps a message of a transaction or subtransaction.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn push(&mut self, xid: u32, message: Bytes) -> io::Result<()> {
        if self.parts.iter().all(|(part, _)| *part != xid) {
            self.parts.push((xid, self.end));
        }
        let begins = self.end;
        self.end += 4 + message.len() as u64;
        match &mut self.file {
            Some(file) => write(file, &message),
            None => {
                // A small message must not keep the large buffer that it came in.
                self.memory.push((begins, Bytes::copy_from_slice(&message)));
                Ok(())
            }
        }
    }

    /// Forgets what a subtransaction that was rolled back did. Everything behind its beginning is its own or belongs to
    /// subtransactions inside it: the one around it could not go on while it was open.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub(super) fn roll_back(&mut self, xid: u32) -> io::Result<()> {
        let Some(part) = self.parts.iter().position(|(part, _)| *part == xid) else {
            return Ok(());
        };
        let (_, begins) = self.parts[part];
        self.parts.truncate(part);
        self.end = begins;
        self.memory.retain(|(offset, _)| *offset < begins);
        if let Some(file) = &mut self.file {
            file.flush()?;
            file.get_ref().set_len(begins)?;
            file.seek(SeekFrom::Start(begins))?;
        }
        Ok(())
    }

    /// Moves everything into a file of this directory, which vanishes with the spool.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn spill(&mut self, dir: &Path) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(dir)?);
            for (_, message) in self.memory.drain(..) {
                write(&mut file, &message)?;
            }
            self.memory = Vec::new();
            self.file = Some(file);
        }
        Ok(())
    }

    /// All messages in order.
    ///
    /// # Errors
    /// The file cannot be written or rewound.
    pub(super) fn replay(self) -> io::Result<Replay> {
        let Some(file) = self.file else {
            return Ok(Replay::Memory(self.memory.into_iter()));
        };
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Replay::File {
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            left: self.end,
        })
    }
}

fn write(file: &mut BufWriter<File>, message: &[u8]) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(io::Error::other)?;
    file.write_all(&len.to_be_bytes())?;
    file.write_all(message)
}

/// Reads a [`Spool`] once.
#[derive(Debug)]
pub(super) enum Replay {
    Memory(std::vec::IntoIter<(u64, Bytes)>),
    File { file: BufReader<File>, left: u64 },
}

impl Replay {
    /// The next message.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Memory(messages) => Ok(messages.next().map(|(_, message)| message)),
            Self::File { left: 0, .. } => Ok(None),
            Self::File { file, left } => {
                let mut len = [0; 4];
                file.read_exact(&mut len)?;
                let len = u32::from_be_bytes(len);
                let mut message = vec![0; usize::try_from(len).map_err(io::Error::other)?];
                file.read_exact(&mut message)?;
                *left = left.saturating_sub(4 + u64::from(len));
                Ok(Some(message.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn all(spool: Spool) -> Vec<Bytes> {
        let mut replay = spool.replay().unwrap();
        std::iter::from_fn(|| replay.next().unwrap()).collect()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<u8>),
        /// Begins a subtransaction inside the innermost.
        Begin,
        Release,
        RollBack,
        Spill,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let data = || prop::collection::vec(any::<u8>(), 0..40);
        let step = prop_oneof![
            4 => data().prop_map(Step::Push),
            2 => Just(Step::Begin),
            1 => Just(Step::Release),
            1 => Just(Step::RollBack),
            1 => Just(Step::Spill),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn what_was_rolled_back_is_gone_and_the_rest_in_order(steps in steps()) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = Spool::default();
            let mut expected: Vec<Vec<u8>> = Vec::new();
            // Open subtransactions, and how much was expected when each began.
            let mut open = vec![(1, 0)];
            let mut last = 1;
            for step in steps {
                match step {
                    Step::Push(data) => {
                        spool.push(open.last().unwrap().0, data.clone().into()).unwrap();
                        expected.push(data);
                    }
                    Step::Begin => {
                        last += 1;
                        open.push((last, expected.len()));
                    }
                    Step::Release if open.len() > 1 => { open.pop(); }
                    // Released parts inside it are rolled back one after another as well.
                    Step::RollBack if open.len() > 1 => {
                        let (xid, len) = open.pop().unwrap();
                        for part in (xid..=last).rev() {
                            spool.roll_back(part).unwrap();
                        }
                        expected.truncate(len);
                    }
                    Step::Spill => spool.spill(dir.path()).unwrap(),
                    Step::Release | Step::RollBack => {}
                }
            }
            prop_assert_eq!(all(spool), expected);
        }
    }
}
