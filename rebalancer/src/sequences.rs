//! Sequences at the destination give no value that the tenant already uses.
//!
//! A sequence belongs to all tenants of a shard: it may only be moved forward, while others take values from it.

use std::time::Duration;

use tenantry_wire::sql::quote_literal;
use tokio_postgres::Client;

use crate::tables::{SequenceName, TenantTables};

/// Of the room that is left in a sequence, no more than this part is skipped at once.
const ROOM_PART: i64 = 100;

const STATE: &str = include_str!("sequences/state.sql");

/// Why a sequence could not be advanced.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// A statement failed; 55P03 if another session used the sequence in a transaction that is still open.
    #[error("cannot advance sequence {sequence}")]
    Sql {
        /// The sequence.
        sequence: String,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The sequences could not be read.
    #[error("cannot read the sequences")]
    Read(#[source] tokio_postgres::Error),
    /// The destination's sequence cannot reach the source's value.
    #[error(
        "sequence {sequence} of the destination ends before {needed}, which the source has reached"
    )]
    Exhausted {
        /// The sequence.
        sequence: String,
        /// The value it would have to give.
        needed: i64,
    },
}

/// One sequence of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// The last value given; none if it gave none.
    last: Option<i64>,
    /// Ascending if positive.
    increment: i64,
    min: i64,
    max: i64,
    cycles: bool,
}

/// Moves every sequence of these tables at the destination past the source's, and `ahead` values further if it is
/// moved at all; returns how many were moved. Called with room ahead before the pause and with none in it, the second
/// call finds nothing to do and only reads.
///
/// Moving one waits for open transactions that took values from it, for `wait_max` at most.
///
/// # Errors
/// [`SequenceError`].
pub async fn advance(
    source: &Client,
    destination: &mut Client,
    tables: &TenantTables,
    ahead: u32,
    wait_max: Duration,
) -> Result<usize, SequenceError> {
    let mut moved = 0;
    let mut names: Vec<&SequenceName> = tables.tables.iter().flat_map(|t| &t.sequences).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(0);
    }
    let (theirs, ours) = tokio::join!(states(source, &names), states(destination, &names));
    for ((name, source), present) in names.iter().zip(theirs?).zip(ours?) {
        let Some(reached) = source.last else { continue };
        if !is_behind(&present, reached) {
            continue;
        }
        advance_one(destination, name, &present, reached, ahead, wait_max).await?;
        moved += 1;
    }
    Ok(moved)
}

/// Whether a sequence could still give a value up to `reached`.
fn is_behind(present: &State, reached: i64) -> bool {
    match present.last {
        None => true,
        Some(last) if present.increment > 0 => last < reached,
        Some(last) => last > reached,
    }
}

/// The value that counts as given last from now on. None if the sequence cannot reach it.
fn given(state: &State, reached: i64, ahead: u32) -> Option<i64> {
    if reached < state.min || reached > state.max {
        return None;
    }
    let room = if state.increment > 0 {
        state.max.checked_sub(reached)
    } else {
        reached.checked_sub(state.min)
    };
    let wished = state
        .increment
        .unsigned_abs()
        .saturating_mul(u64::from(ahead));
    let skip = i64::try_from(wished)
        .unwrap_or(i64::MAX)
        .min(room.unwrap_or(i64::MAX) / ROOM_PART);
    Some(if state.increment > 0 {
        reached + skip
    } else {
        reached - skip
    })
}

async fn states(client: &Client, names: &[&SequenceName]) -> Result<Vec<State>, SequenceError> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let relations: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let rows = client
        .query(STATE, &[&schemas, &relations])
        .await
        .map_err(SequenceError::Read)?;
    Ok(rows
        .iter()
        .map(|row| State {
            last: row.get(0),
            increment: row.get(1),
            min: row.get(2),
            max: row.get(3),
            cycles: row.get(4),
        })
        .collect())
}

async fn advance_one(
    client: &mut Client,
    name: &SequenceName,
    seen: &State,
    reached: i64,
    ahead: u32,
    wait_max: Duration,
) -> Result<(), SequenceError> {
    let failed = |source| SequenceError::Sql {
        sequence: name.sql(),
        source,
    };
    let transaction = client.transaction().await.map_err(failed)?;
    // The least that ALTER SEQUENCE can do takes the lock that keeps others from taking values. setval() would not do:
    // what they took since the value was read would be given again.
    let lock = format!(
        "SET LOCAL lock_timeout = '{}ms'; ALTER SEQUENCE {} {}",
        wait_max.as_millis().max(1),
        name.sql(),
        if seen.cycles { "CYCLE" } else { "NO CYCLE" }
    );
    transaction.batch_execute(&lock).await.map_err(failed)?;
    let present = states(transaction.client(), &[name]).await?;
    if let Some(present) = present.first().filter(|state| is_behind(state, reached)) {
        let last = given(present, reached, ahead).ok_or(SequenceError::Exhausted {
            sequence: name.sql(),
            needed: reached,
        })?;
        // The value itself is taken at once: one that was only set to be the next does not show as given.
        let restart = format!(
            "ALTER SEQUENCE {0} RESTART WITH {last}; SELECT nextval({1})",
            name.sql(),
            quote_literal(&name.sql())
        );
        transaction.batch_execute(&restart).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(last: Option<i64>, increment: i64) -> State {
        State {
            last,
            increment,
            min: -1_000,
            max: 1_000,
            cycles: false,
        }
    }

    #[test]
    fn a_sequence_is_behind_in_its_own_direction() {
        assert!(is_behind(&state(None, 1), -5));
        assert!(is_behind(&state(Some(4), 1), 5));
        assert!(!is_behind(&state(Some(5), 1), 5));
        assert!(is_behind(&state(Some(-4), -1), -5));
        assert!(!is_behind(&state(Some(-6), -1), -5));
    }

    #[test]
    fn what_is_skipped_is_bounded_by_the_room() {
        assert_eq!(given(&state(None, 1), 10, 0), Some(10));
        assert_eq!(given(&state(None, 2), 10, 3), Some(16));
        assert_eq!(given(&state(None, 1), 10, 1_000), Some(19));
        assert_eq!(given(&state(None, -1), -10, 2), Some(-12));
        assert_eq!(given(&state(None, 1), 1_000, 5), Some(1_000));
        assert_eq!(given(&state(None, 1), 1_001, 0), None);
    }
}
