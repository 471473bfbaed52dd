//! Finds the rows by which a chunk differs.

use std::collections::BTreeMap;
use std::fmt;

use super::chunk::{HashedRow, hashed_rows};
use super::{Comparison, NAMED_MAX, VerifyError, VerifyReport};
use crate::tables::{KeyRange, TenantTable};

/// A range of so many rows is compared row by row.
const FEW_ROWS: u64 = 256;

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The source has it, the destination has not.
    Missing,
    /// The destination has it, the source has not.
    Extra,
    /// Both have it, with other values.
    Changed,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The table, as SQL.
    pub relation: String,
    /// The columns of the key without the tenant's, as text.
    pub key: Vec<String>,
    /// What is wrong with it.
    pub difference: Difference,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self.difference {
            Difference::Missing => "is missing at the destination",
            Difference::Extra => "is at the destination only",
            Difference::Changed => "differs",
        };
        write!(f, "{} ({}) {said}", self.relation, self.key.join(", "))
    }
}

impl Comparison {
    /// Cuts a range that differs in halves until its rows are few, and notes those that differ.
    pub(super) async fn bisect(
        &self,
        table: &TenantTable,
        range: KeyRange,
        rows: u64,
        report: &mut VerifyReport,
    ) -> Result<(), VerifyError> {
        let mut open = vec![(range, rows)];
        while let Some((range, rows)) = open.pop() {
            let middle = if rows <= FEW_ROWS || !table.has_inner_key() {
                None
            } else {
                self.middle(table, &range, rows / 2).await?
            };
            let Some(middle) = middle else {
                self.name_rows(table, &range, report).await?;
                continue;
            };
            let halves = [
                KeyRange {
                    after: range.after,
                    upto: Some(middle.clone()),
                },
                KeyRange {
                    after: Some(middle),
                    upto: range.upto,
                },
            ];
            // The lower half is looked at first, so that rows are named in order.
            for half in halves.into_iter().rev() {
                let (ours, theirs) = tokio::try_join!(
                    self.source.digest(table, &self.tenant, &half, self.hash),
                    self.destination
                        .digest(table, &self.tenant, &half, self.hash),
                )?;
                if ours != theirs {
                    open.push((half, ours.rows.max(theirs.rows)));
                }
            }
        }
        Ok(())
    }

    /// A key in the middle of a range, of whichever side has so many rows.
    async fn middle(
        &self,
        table: &TenantTable,
        range: &KeyRange,
        rows: u64,
    ) -> Result<Option<Vec<String>>, VerifyError> {
        let source = self.source.nth_key(table, &self.tenant, range, rows);
        let destination = self.destination.nth_key(table, &self.tenant, range, rows);
        let (source, destination) = tokio::try_join!(source, destination)?;
        // A key that is the range's own end would not make it smaller.
        Ok([source, destination]
            .into_iter()
            .flatten()
            .find(|key| range.upto.as_ref() != Some(key)))
    }

    async fn name_rows(
        &self,
        table: &TenantTable,
        range: &KeyRange,
        report: &mut VerifyReport,
    ) -> Result<(), VerifyError> {
        let side = async |reader: &super::Reader| {
            // A side may have any number of rows more than the other; they are counted, and named up to a limit.
            let limit = 4 * FEW_ROWS as usize;
            hashed_rows(
                &reader.session,
                table,
                &self.tenant,
                range,
                self.hash,
                limit,
            )
            .await
            .map_err(|source| reader.failed(&table.relation(), source))
        };
        let (ours, theirs) = tokio::try_join!(side(&self.source), side(&self.destination))?;
        let found = differences(ours, theirs);
        report.mismatched_rows += (found.len() as u64).max(1);
        for (key, difference) in found {
            if report.mismatches.len() < NAMED_MAX {
                report.mismatches.push(Mismatch {
                    relation: table.relation(),
                    key,
                    difference,
                });
            }
        }
        Ok(())
    }
}

/// Rows of one side that the other has not, by key.
fn differences(ours: Vec<HashedRow>, theirs: Vec<HashedRow>) -> BTreeMap<Vec<String>, Difference> {
    let mut found = BTreeMap::new();
    let mut theirs: BTreeMap<Vec<String>, [i64; 2]> = theirs
        .into_iter()
        .map(|row| (row.key, row.hashes))
        .collect();
    for row in ours {
        match theirs.remove(&row.key) {
            None => found.insert(row.key, Difference::Missing),
            Some(hashes) if hashes != row.hashes => found.insert(row.key, Difference::Changed),
            Some(_) => None,
        };
    }
    found.extend(theirs.into_keys().map(|key| (key, Difference::Extra)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, hash: i64) -> HashedRow {
        HashedRow {
            key: vec![key.to_owned()],
            hashes: [hash, 0],
        }
    }

    #[test]
    fn rows_differ_in_three_ways() {
        let found = differences(
            vec![row("a", 1), row("b", 2), row("c", 3)],
            vec![row("b", 2), row("c", 4), row("d", 5)],
        );
        let expected = [
            ("a", Difference::Missing),
            ("c", Difference::Changed),
            ("d", Difference::Extra),
        ];
        assert_eq!(
            found,
            expected
                .into_iter()
                .map(|(key, difference)| (vec![key.to_owned()], difference))
                .collect()
        );
    }
}
