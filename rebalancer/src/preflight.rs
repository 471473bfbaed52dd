//! Whether a tenant can be moved between two shards at all, before anything is made on either.
//!
//! Everything that is wrong is found at once, and each finding says what to change. Nothing here writes.

use std::fmt;

use tokio_postgres::{Client, Row};

use crate::copy::estimate;
use crate::tables::{self, TablesError, TenantTables};

const TABLE_FAULTS: &str = include_str!("preflight/tables.sql");
const SERVER: &str = include_str!("preflight/server.sql");

/// A move makes a slot for its stream and one for each snapshot it needs besides, one at a time; and the way back has
/// one of its own.
const SLOTS_NEEDED: i64 = 2;

/// What a move will have to do.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// The tables, as the source has them; the destination has the same.
    pub tables: TenantTables,
    /// Rows, as the source's statistics see it.
    pub rows_estimate: u64,
    /// Bytes on the source's disk without indexes.
    pub bytes_estimate: u64,
    /// Bytes that the destination's disk will need, indexes included.
    pub disk_estimate: u64,
    /// What does not stop a move and should be known.
    pub warnings: Vec<String>,
}

/// One reason why the tenant cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What it concerns: a table, or a shard's server.
    pub object: String,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// Why a move may not begin.
#[derive(Debug, thiserror::Error)]
pub enum PreflightRefusal {
    /// Something has to be changed first.
    #[error("the tenant cannot be moved: {}", listed(.0))]
    Obstacles(Vec<Obstacle>),
    /// The tables could not be read.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// A shard did not answer.
    #[error("a question to a shard failed")]
    Sql(#[from] tokio_postgres::Error),
}

fn listed(obstacles: &[Obstacle]) -> String {
    let texts: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Asks both shards, over sessions of [`crate::shard::connect`].
///
/// # Errors
/// [`PreflightRefusal`].
pub async fn check(
    source: &Client,
    destination: &Client,
    tenant_column: &str,
    tenant: &str,
) -> Result<Preflight, PreflightRefusal> {
    let (ours, theirs) = tokio::try_join!(
        tables::read(source, tenant_column),
        tables::read(destination, tenant_column)
    )?;
    let mut obstacles = shapes_differ(&ours, &theirs);
    let mut warnings = Vec::new();
    for (client, shard) in [(source, "the source"), (destination, "the destination")] {
        // Equal shapes have equal faults: those of the second would be the same again.
        if shard == "the source" || !obstacles.is_empty() {
            table_faults(client, tenant_column, &mut obstacles, &mut warnings).await?;
        }
        server_faults(client, shard, &mut obstacles, &mut warnings).await?;
    }
    if same_database(source, destination).await? {
        obstacles.push(Obstacle {
            object: "the destination".to_owned(),
            reason: "is the same database as the source".to_owned(),
        });
    }
    obstacles.sort_by(|a, b| (&a.object, &a.reason).cmp(&(&b.object, &b.reason)));
    obstacles.dedup();
    if !obstacles.is_empty() {
        return Err(PreflightRefusal::Obstacles(obstacles));
    }
    let estimates = estimate(source, &ours, tenant).await?;
    Ok(Preflight {
        tables: ours,
        rows_estimate: estimates.iter().map(|table| table.rows).sum(),
        bytes_estimate: estimates.iter().map(|table| table.bytes).sum(),
        disk_estimate: estimates.iter().map(|table| table.bytes_with_indexes).sum(),
        warnings,
    })
}

/// Each line that one shard has and the other has not.
fn shapes_differ(ours: &TenantTables, theirs: &TenantTables) -> Vec<Obstacle> {
    let missing = |from: &TenantTables, other: &TenantTables, reason: &str| -> Vec<Obstacle> {
        from.shape
            .iter()
            .filter(|line| !other.shape.contains(line))
            .map(|line| Obstacle {
                object: line.clone(),
                reason: reason.to_owned(),
            })
            .collect()
    };
    let mut found = missing(
        ours,
        theirs,
        "only the source has this; migrate both shards to the same schema",
    );
    found.extend(missing(
        theirs,
        ours,
        "only the destination has this; migrate both shards to the same schema",
    ));
    found
}

/// Tables that cannot be moved, and those with which a move may fail later.
async fn table_faults(
    client: &Client,
    tenant_column: &str,
    obstacles: &mut Vec<Obstacle>,
    warnings: &mut Vec<String>,
) -> Result<(), tokio_postgres::Error> {
    for row in client.query(TABLE_FAULTS, &[&tenant_column]).await? {
        let obstacle = Obstacle {
            object: row.get(1),
            reason: row.get(2),
        };
        if row.get(0) {
            obstacles.push(obstacle);
        } else {
            warnings.push(obstacle.to_string());
        }
    }
    Ok(())
}

async fn server_faults(
    client: &Client,
    shard: &str,
    obstacles: &mut Vec<Obstacle>,
    warnings: &mut Vec<String>,
) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one(SERVER, &[]).await?;
    let mut fault = |reason: String| {
        obstacles.push(Obstacle {
            object: shard.to_owned(),
            reason,
        });
    };
    let wal_level: &str = row.get(0);
    if wal_level != "logical" {
        fault(format!(
            "wal_level is {wal_level}; set it to logical and restart"
        ));
    }
    for (column, name) in [(1, "max_replication_slots"), (2, "max_wal_senders")] {
        let free: i64 = row.get(column);
        if free < SLOTS_NEEDED {
            fault(format!(
                "{free} left of {name}, a move needs {SLOTS_NEEDED}; raise it, or wait"
            ));
        }
    }
    if row.get(3) {
        fault("the server is a standby; a move needs the primary".to_owned());
    }
    let large_objects: i64 = row.get(4);
    if large_objects > 0 {
        warnings.push(format!(
            "{shard} has {large_objects} large objects; they belong to no tenant and are not moved"
        ));
    }
    if !row.get::<_, bool>(5) {
        warnings.push(format!(
            "{shard} keeps log for slots without limit; set max_slot_wal_keep_size so that a forgotten slot cannot fill \
             its disk"
        ));
    }
    Ok(())
}

/// Two names may lead to one place. Servers that are copies of one another have the same identifier, and so do their
/// databases; which of them runs is told by the moment it was started at.
async fn same_database(one: &Client, other: &Client) -> Result<bool, tokio_postgres::Error> {
    let identity = "SELECT s.system_identifier, d.oid, \
                           (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint \
                    FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()";
    let (one, other) =
        tokio::try_join!(one.query_one(identity, &[]), other.query_one(identity, &[]))?;
    let of = |row: &Row| -> (i64, u32, i64) { (row.get(0), row.get(1), row.get(2)) };
    Ok(of(&one) == of(&other))
}
