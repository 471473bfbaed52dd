//! Which chunks of a move are at the destination.

use std::collections::HashMap;

use tokio_postgres::Client;
use uuid::Uuid;

use crate::tables::{Key, TenantTable};

/// The ledger of one move as it was when it was read.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<String, Entry>,
}

/// What is there of one table: chunks without a gap from the first on. Chunks are committed by several workers, so a
/// crash may leave a later one without the one before; such a chunk does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) chunks: i32,
    /// The key of the last row that is there.
    pub(super) upper: Option<Key>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Whether the last chunk is among them.
    pub(super) complete: bool,
}

/// One row of the ledger.
struct Chunk {
    number: i32,
    upper: Option<Key>,
    rows: i64,
    bytes: i64,
}

impl Ledger {
    pub(super) async fn read(
        client: &Client,
        move_id: Uuid,
    ) -> Result<Self, tokio_postgres::Error> {
        let select = "SELECT relation, chunk, upper_key, rows, bytes FROM tenantry.move_chunk \
                      WHERE move_id = $1 ORDER BY relation, chunk";
        let mut entries: HashMap<String, Entry> = HashMap::new();
        for row in client.query(select, &[&move_id]).await? {
            let chunk = Chunk {
                number: row.get(1),
                upper: row.get(2),
                rows: row.get(3),
                bytes: row.get(4),
            };
            entries.entry(row.get(0)).or_default().append(chunk);
        }
        Ok(Self { entries })
    }

    /// What is there of a table.
    pub(super) fn entry(&self, table: &TenantTable) -> Entry {
        self.entries
            .get(&table.relation())
            .cloned()
            .unwrap_or_default()
    }
}

impl Entry {
    /// Takes the next row in order of number; ignores it behind a gap.
    fn append(&mut self, chunk: Chunk) {
        if self.complete || chunk.number != self.chunks {
            return;
        }
        self.chunks += 1;
        self.complete = chunk.upper.is_none();
        self.upper = chunk.upper;
        self.rows += chunk.rows.unsigned_abs();
        self.bytes += chunk.bytes.unsigned_abs();
    }
}

/// Forgets a table's chunks from a number on: their rows are gone.
pub(super) async fn forget_from(
    client: &Client,
    move_id: Uuid,
    table: &TenantTable,
    number: i32,
) -> Result<u64, tokio_postgres::Error> {
    client
        .execute(
            "DELETE FROM tenantry.move_chunk WHERE move_id = $1 AND relation = $2 AND chunk >= $3",
            &[&move_id, &table.relation(), &number],
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(chunks: &[(i32, Option<&str>)]) -> Entry {
        let mut entry = Entry::default();
        for (number, upper) in chunks {
            entry.append(Chunk {
                number: *number,
                upper: upper.map(|key| vec![key.to_owned()]),
                rows: 10,
                bytes: 100,
            });
        }
        entry
    }

    #[test]
    fn a_table_is_there_up_to_the_first_gap() {
        let whole = entry(&[(0, Some("a")), (1, Some("b")), (2, None)]);
        assert!(whole.complete);
        assert_eq!((whole.chunks, whole.rows, whole.bytes), (3, 30, 300));

        let gap = entry(&[(0, Some("a")), (2, Some("c")), (3, None)]);
        assert!(!gap.complete);
        assert_eq!((gap.chunks, gap.upper), (1, Some(vec!["a".to_owned()])));
        assert_eq!(gap.rows, 10);

        let headless = entry(&[(1, None)]);
        assert_eq!(headless, Entry::default());
    }
}
