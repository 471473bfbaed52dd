//! How far a copy is, for people and for the journal.

use serde::{Deserialize, Serialize};

use super::estimate::TableEstimate;
use super::ledger::Ledger;
use crate::tables::TenantTables;

/// All tables of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// In the order of the tables.
    pub tables: Vec<TableProgress>,
}

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProgress {
    /// Its name as SQL.
    pub relation: String,
    /// Rows at the destination.
    pub rows: u64,
    /// Rows expected, by the source's statistics.
    pub rows_estimated: u64,
    /// Bytes sent, in the format of the copy; those of a chunk that is being written included.
    pub bytes: u64,
    /// Bytes expected, as on the source's disk.
    pub bytes_estimated: u64,
    /// Chunks at the destination.
    pub chunks: u32,
    /// Chunks there are, once the table has been cut to its end.
    pub chunks_total: Option<u32>,
}

impl TableProgress {
    /// Whether all of it is at the destination.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.chunks_total == Some(self.chunks)
    }
}

impl CopyProgress {
    pub(super) fn begin(
        tables: &TenantTables,
        estimates: &[TableEstimate],
        ledger: &Ledger,
    ) -> Self {
        let tables = tables
            .tables
            .iter()
            .zip(estimates)
            .map(|(table, estimate)| {
                let entry = ledger.entry(table);
                TableProgress {
                    relation: table.relation(),
                    rows: entry.rows,
                    rows_estimated: estimate.rows,
                    bytes: entry.bytes,
                    bytes_estimated: estimate.bytes,
                    chunks: entry.chunks.unsigned_abs(),
                    chunks_total: entry.complete.then_some(entry.chunks.unsigned_abs()),
                }
            })
            .collect();
        Self { tables }
    }

    /// Rows at the destination.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }

    /// The part that is done, between 0 and 1. Never 1 before the end, whatever the estimates say.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        if self.tables.iter().all(TableProgress::complete) {
            return 1.0;
        }
        let expected = |table: &TableProgress| table.rows_estimated.max(table.rows).max(1) as f64;
        let whole: f64 = self.tables.iter().map(expected).sum();
        let done: f64 = self
            .tables
            .iter()
            .map(|table| {
                if table.complete() {
                    expected(table)
                } else {
                    table.rows as f64
                }
            })
            .sum();
        (done / whole).min(0.999)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: u64, rows_estimated: u64, complete: bool) -> TableProgress {
        TableProgress {
            rows,
            rows_estimated,
            chunks_total: complete.then_some(0),
            ..TableProgress::default()
        }
    }

    #[test]
    fn the_fraction_is_one_at_the_end_and_only_there() {
        let progress = |tables| CopyProgress { tables };
        assert!(progress(vec![table(500, 10, false), table(0, 0, false)]).fraction() < 1.0);
        assert!(progress(vec![table(0, 100, true), table(0, 0, true)]).fraction() >= 1.0);
        let half = progress(vec![table(50, 100, false), table(100, 100, true)]).fraction();
        assert!((half - 0.75).abs() < 1e-9, "{half}");
    }
}
