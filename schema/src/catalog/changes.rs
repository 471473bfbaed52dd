//! Reading and trimming the change log.

use std::time::Duration;

use tokio_postgres::{GenericClient, Row};

use super::{Catalog, CatalogError};
use crate::change::{ChangeBody, ChangeGroup};

/// The channel that is notified at each commit with changes; the payload is the last number.
pub const CHANGE_CHANNEL: &str = "tenantry_change";

/// Rows per read. A transaction with more is read whole nevertheless.
const READ_ROWS: i64 = 5_000;

/// A transaction with more changes is not read: loading the fleet is cheaper, and this bounds the memory.
const GROUP_ROWS_MAX: i64 = 100_000;

/// Rows that one statement trims, so that none takes long.
const TRIM_ROWS: i64 = 10_000;

/// What follows a sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Whole transactions in commit order; none: up to date. There may be more after them.
    Groups(Vec<ChangeGroup>),
    /// The log cannot continue from there: load the whole fleet. The text says why.
    Reload(String),
}

/// What [`Catalog::trim_changes`] keeps.
#[derive(Debug, Clone, Copy)]
pub struct TrimPolicy {
    /// Changes younger than this stay: followers that do not register (agents) need some.
    pub keep: Duration,
    /// A router whose last heartbeat is older is dead and does not hold the log; it reloads when it returns.
    pub live: Duration,
}

impl Default for TrimPolicy {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(600),
            live: Duration::from_secs(60),
        }
    }
}

impl Catalog {
    /// The changes after `sequence`, or that they cannot be told.
    pub async fn changes_after(&self, sequence: u64) -> Result<Changes, CatalogError> {
        let client = self.client().await?;
        changes_after(&*client, sequence).await
    }

    /// Deletes changes that every live router has applied; answers how many. Followers do so as well, once in a while.
    pub async fn trim_changes(&self, policy: TrimPolicy) -> Result<u64, CatalogError> {
        let client = self.client().await?;
        let mut trimmed = 0;
        loop {
            let some = trim_some(&*client, policy).await?;
            trimmed += some;
            if some < TRIM_ROWS.unsigned_abs() {
                return Ok(trimmed);
            }
        }
    }
}

/// Deletes at most [`TRIM_ROWS`] of what the policy lets go.
pub(crate) async fn trim_some(
    client: &impl GenericClient,
    policy: TrimPolicy,
) -> Result<u64, CatalogError> {
    // From the front only: `at` is when a row was written, not when it was committed, so it does not follow `seq`.
    let delete = "DELETE FROM tenantry.change c \
                  WHERE c.seq < (SELECT min(f.seq) FROM tenantry.change f) + $3 \
                    AND c.seq < coalesce((SELECT min(k.seq) FROM tenantry.change k \
                                           WHERE k.at >= now() - make_interval(secs => $1)), c.seq + 1) \
                    AND c.seq <= coalesce((SELECT min(r.applied_seq) FROM tenantry.router r \
                                            WHERE r.heartbeat_at > now() - make_interval(secs => $2)), c.seq)";
    let (keep, live) = (policy.keep.as_secs_f64(), policy.live.as_secs_f64());
    Ok(client.execute(delete, &[&keep, &live, &TRIM_ROWS]).await?)
}

pub(crate) async fn changes_after(
    client: &impl GenericClient,
    sequence: u64,
) -> Result<Changes, CatalogError> {
    let after = i64::try_from(sequence).unwrap_or(i64::MAX);
    let rows = read(client, after, i64::MAX, READ_ROWS).await?;
    let last = rows.first().map_or(0, |row| row.get::<_, i64>("last_seq"));
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| row.get::<_, Option<i64>>("seq").is_some())
        .collect();
    let Some(first) = rows.first() else {
        return Ok(match last.cmp(&after) {
            std::cmp::Ordering::Equal => Changes::Groups(Vec::new()),
            std::cmp::Ordering::Less => {
                Changes::Reload(format!("the catalog is at change {last}, before {after}"))
            }
            std::cmp::Ordering::Greater => {
                Changes::Reload(format!("changes {} to {last} were trimmed", after + 1))
            }
        });
    };
    let first_seq: i64 = first.get("seq");
    if first_seq != after + 1 {
        return Ok(Changes::Reload(format!(
            "changes {} to {} were trimmed",
            after + 1,
            first_seq - 1
        )));
    }
    // The limit may have cut the last transaction, and the only one.
    let first_group: i64 = first.get("group_last");
    if first_group - after > GROUP_ROWS_MAX {
        let why = format!("changes {first_seq} to {first_group} are one transaction");
        return Ok(Changes::Reload(why));
    }
    let whole = |rows: &[Row]| {
        rows.last()
            .is_some_and(|row| row.get::<_, i64>("seq") >= first_group)
    };
    if whole(&rows) {
        return grouped(&rows);
    }
    grouped(&read(client, after, first_group, i64::MAX).await?)
}

/// One statement, hence one snapshot: were the counter read apart from the rows, a commit between the two would look
/// like a gap.
async fn read(
    client: &impl GenericClient,
    after: i64,
    until: i64,
    limit: i64,
) -> Result<Vec<Row>, CatalogError> {
    let select = "SELECT n.last_seq, c.seq, c.group_last, c.kind, c.body \
                  FROM tenantry.change_counter n LEFT JOIN LATERAL ( \
                      SELECT l.seq, l.group_last, l.kind, \
                             jsonb_build_object('kind', l.kind, 'payload', l.payload)::text AS body \
                      FROM tenantry.change l WHERE l.seq > $1 AND l.seq <= $2 ORDER BY l.seq LIMIT $3) c ON true \
                  ORDER BY c.seq";
    Ok(client.query(select, &[&after, &until, &limit]).await?)
}

/// Rows in order to transactions; an incomplete last one is left for the next read.
fn grouped(rows: &[Row]) -> Result<Changes, CatalogError> {
    let mut groups = Vec::new();
    for rows in rows.chunk_by(|a, b| a.get::<_, i64>("group_last") == b.get::<_, i64>("group_last"))
    {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            continue;
        };
        let (first_seq, last_seq): (i64, i64) = (first.get("seq"), last.get("seq"));
        if last_seq != last.get::<_, i64>("group_last") {
            break;
        }
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            if row.get::<_, &str>("kind") == "reload" {
                return Ok(Changes::Reload(
                    "the catalog asks for it after a change in bulk".to_owned(),
                ));
            }
            let body: Result<ChangeBody, _> = serde_json::from_str(row.get("body"));
            match body {
                Ok(body) => changes.push(body),
                // Written by a newer release, or by hand: the tables themselves are still understood.
                Err(cause) => {
                    let seq: i64 = row.get("seq");
                    return Ok(Changes::Reload(format!(
                        "change {seq} is not understood: {cause}"
                    )));
                }
            }
        }
        groups.push(ChangeGroup {
            first_seq: first_seq.unsigned_abs(),
            last_seq: last_seq.unsigned_abs(),
            changes,
        });
    }
    Ok(Changes::Groups(groups))
}
