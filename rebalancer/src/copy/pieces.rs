//! Cuts tables into chunks, for whichever worker asks next.
//!
//! One task with a session of its own: it looks for the end of the next chunk while the workers copy, so that nobody
//! waits for it. Large tables come first, so that the last chunks to be copied are small ones.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Client;

use super::estimate::TableEstimate;
use super::ledger::Ledger;
use super::{CopyError, CopyJob};
use crate::tables::{Key, KeyRange, TenantTable};

/// Rows of a table's first chunk, before it is known how large they are.
const FIRST_ROWS: u64 = 2_000;
/// A chunk has at most so many times the rows of the one before.
const GROWTH_MAX: u64 = 8;

/// A part of a table that one worker copies in one transaction.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// The table, and its place in the job.
    pub(super) table: Arc<TenantTable>,
    pub(super) place: usize,
    pub(super) number: i32,
    /// Open at its end in a table's last chunk.
    pub(super) range: KeyRange,
}

/// A worker asks for its next chunk, and says how large the last one was.
pub(super) struct Question {
    pub(super) copied: Option<Copied>,
    pub(super) answer: oneshot::Sender<Option<Chunk>>,
}

/// What a chunk turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) place: usize,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// The tables that are left, the next of them in front.
pub(super) struct Cutter {
    job: Arc<CopyJob>,
    session: Client,
    fronts: VecDeque<Front>,
}

/// How far one table has been cut.
struct Front {
    table: Arc<TenantTable>,
    place: usize,
    number: i32,
    after: Option<Key>,
    rows: u64,
    sized: bool,
}

impl Cutter {
    pub(super) fn new(
        job: Arc<CopyJob>,
        session: Client,
        estimates: &[TableEstimate],
        ledger: &Ledger,
    ) -> Self {
        let mut fronts: Vec<(u64, Front)> = Vec::new();
        for (place, (table, estimate)) in job.tables.tables.iter().zip(estimates).enumerate() {
            let entry = ledger.entry(table);
            if entry.complete {
                continue;
            }
            let front = Front {
                table: Arc::clone(table),
                place,
                number: entry.chunks,
                after: entry.upper,
                rows: FIRST_ROWS.min(job.options.chunk_rows_max.max(1)),
                sized: false,
            };
            fronts.push((estimate.bytes, front));
        }
        fronts.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let fronts = fronts.into_iter().map(|(_, front)| front).collect();
        Self {
            job,
            session,
            fronts,
        }
    }

    /// Answers until nobody asks any more.
    pub(super) async fn serve(
        mut self,
        mut questions: mpsc::Receiver<Question>,
    ) -> Result<(), CopyError> {
        let mut next = self.cut().await?;
        while let Some(question) = questions.recv().await {
            if let Some(copied) = question.copied {
                self.learn(copied);
            }
            // Who asked and went away took no chunk with it: it failed, and so does the copy.
            let handed_out = question.answer.send(next).is_ok();
            if !handed_out {
                return Ok(());
            }
            next = self.cut().await?;
        }
        Ok(())
    }

    /// The next chunk; none if every table is cut to its end.
    async fn cut(&mut self) -> Result<Option<Chunk>, CopyError> {
        let Some(front) = self.fronts.front_mut() else {
            return Ok(None);
        };
        let mut range = KeyRange::behind(front.after.take());
        if front.table.has_inner_key() {
            let end = front.table.nth_key(&self.job.tenant, &range, front.rows);
            let found = self.session.query_opt(&end, &[]).await;
            range.upto = found
                .map_err(|source| CopyError::Source {
                    table: front.table.relation(),
                    source,
                })?
                .map(|row| row.get(0));
        }
        let chunk = Chunk {
            table: Arc::clone(&front.table),
            place: front.place,
            number: front.number,
            range,
        };
        front.number += 1;
        front.after.clone_from(&chunk.range.upto);
        if chunk.range.upto.is_none() {
            self.fronts.pop_front();
        }
        Ok(Some(chunk))
    }

    /// Sizes the coming chunks of a table by one that was copied.
    fn learn(&mut self, copied: Copied) {
        let options = self.job.options;
        let front = self
            .fronts
            .iter_mut()
            .find(|front| front.place == copied.place);
        if let Some(front) = front.filter(|_| copied.rows > 0) {
            let wanted = rows_of(options.chunk_bytes, copied);
            // Upwards in steps, because the next rows may be larger; downwards at once.
            let most = if front.sized {
                options.chunk_rows_max
            } else {
                front.rows.saturating_mul(GROWTH_MAX)
            };
            front.sized = true;
            front.rows = wanted.min(most).clamp(1, options.chunk_rows_max.max(1));
        }
    }
}

/// So many rows like these have about so many bytes.
fn rows_of(bytes: u64, copied: Copied) -> u64 {
    let row = (copied.bytes / copied.rows.max(1)).max(1);
    (bytes / row).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_sized_by_rows_seen() {
        let copied = |rows, bytes| Copied {
            place: 0,
            rows,
            bytes,
        };
        assert_eq!(rows_of(1_000, copied(10, 100)), 100);
        assert_eq!(rows_of(1_000, copied(1, 1 << 30)), 1);
        assert_eq!(rows_of(1_000, copied(10, 0)), 1_000);
    }
}
