//! What is computed of a chunk on either side.

use tokio_postgres::Client;

use crate::tables::{KeyRange, TenantTable, list};

/// How a row's text becomes numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowHash {
    /// The server's own hash with two seeds. It may differ between major versions.
    HashText,
    /// Both halves of MD5, which is the same everywhere and takes half as long again.
    Md5,
}

impl RowHash {
    /// The faster one that both servers agree in. Versions as in `server_version_num`.
    #[must_use]
    pub fn for_servers(one: i32, other: i32) -> Self {
        if one / 10_000 == other / 10_000 {
            Self::HashText
        } else {
            Self::Md5
        }
    }

    /// Two `bigint`s of the text `t.row`.
    fn halves(self) -> (&'static str, &'static str) {
        match self {
            Self::HashText => (
                "hashtextextended(t.row, 7233179052411397)",
                "hashtextextended(t.row, -3141592653589793)",
            ),
            Self::Md5 => (
                "('x' || substr(md5(t.row), 1, 16))::bit(64)::bigint",
                "('x' || substr(md5(t.row), 17, 16))::bit(64)::bigint",
            ),
        }
    }
}

/// A chunk in four numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    /// Of the rows' text.
    pub(super) bytes: u64,
    // As text: sums of 64-bit numbers have more than 64 bits.
    sums: [String; 2],
}

/// One row: its key and both hashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HashedRow {
    pub(super) key: Vec<String>,
    pub(super) hashes: [i64; 2],
}

/// A subquery `t` whose column `row` is the text of each row in a range. Columns are named, because two shards may have
/// them in different order. Rows behind OFFSET 0 are computed once and not for each hash.
fn rows(table: &TenantTable, tenant: &str, range: &KeyRange, extra: &str) -> String {
    format!(
        "(SELECT {extra} ROW({})::text AS row FROM {} WHERE {} OFFSET 0) t",
        list(table.columns.iter()),
        table.relation(),
        table.within(tenant, range)
    )
}

pub(super) async fn digest(
    client: &Client,
    table: &TenantTable,
    tenant: &str,
    range: &KeyRange,
    hash: RowHash,
) -> Result<Digest, tokio_postgres::Error> {
    let (one, two) = hash.halves();
    let select = format!(
        "SELECT count(*), coalesce(sum(octet_length(t.row)), 0), coalesce(sum({one}), 0)::text, \
                coalesce(sum({two}), 0)::text FROM {}",
        rows(table, tenant, range, "")
    );
    let row = client.query_one(&select, &[]).await?;
    Ok(Digest {
        rows: row.get::<_, i64>(0).unsigned_abs(),
        bytes: row.get::<_, i64>(1).unsigned_abs(),
        sums: [row.get(2), row.get(3)],
    })
}

/// The rows of a range, hashed one by one; at most `limit` of them, in no order.
pub(super) async fn hashed_rows(
    client: &Client,
    table: &TenantTable,
    tenant: &str,
    range: &KeyRange,
    hash: RowHash,
    limit: usize,
) -> Result<Vec<HashedRow>, tokio_postgres::Error> {
    let (one, two) = hash.halves();
    let key = format!("{} AS key,", table.key_text());
    let select = format!(
        "SELECT t.key, {one}, {two} FROM {} LIMIT {limit}",
        rows(table, tenant, range, &key)
    );
    let rows = client.query(&select, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| HashedRow {
            key: row.get(0),
            hashes: [row.get(1), row.get(2)],
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_one_major_version_use_their_own_hash() {
        assert_eq!(RowHash::for_servers(150_004, 150_018), RowHash::HashText);
        assert_eq!(RowHash::for_servers(150_004, 160_001), RowHash::Md5);
    }
}
