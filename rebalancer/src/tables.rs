//! What a tenant consists of: the tables with the tenant column, and how their rows are named, read and written.
//!
//! Read from the server's own catalogs each time, never configured. A partitioned table is one table here: its rows
//! are read and written through the root. What a move needs of a table and this one does not have (a key, for example)
//! is left empty; [`crate::preflight`] refuses such tables.

mod key;

use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tenantry_wire::sql::{quote_identifier, quote_literal};
use tokio_postgres::Client;

pub use key::{Key, KeyRange};

const TABLES: &str = include_str!("tables/tables.sql");
const SHAPE: &str = include_str!("tables/shape.sql");

/// All tables of one shard that hold tenants' rows.
#[derive(Debug, Clone)]
pub struct TenantTables {
    /// By schema and name.
    pub tables: Vec<Arc<TenantTable>>,
    /// SHA-256 of [`TenantTables::shape`]: a move needs the same on both shards.
    pub fingerprint: [u8; 32],
    /// Everything that decides whether a row of one shard fits into the other: columns, types, constraints, indexes,
    /// triggers, partitions, a line each. Positions of columns do not matter.
    pub shape: Vec<String>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TenantTable {
    /// Its oid on the shard it was read from.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// In the order of the shard it was read from.
    pub columns: Vec<Column>,
    /// Indexes into `columns`: what names a row in the replication stream, that is, the replica identity index, or the
    /// primary key. Empty if the table has neither.
    pub key: Vec<usize>,
    /// Index into `columns` of the tenant column.
    pub tenant: usize,
    /// Sequences that give values to its columns.
    pub sequences: Vec<SequenceName>,
    /// Whether it is the root of partitions.
    pub partitioned: bool,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// The type with its modifiers, as SQL.
    pub type_sql: String,
    /// The type's oid on the shard it was read from.
    pub type_oid: u32,
    /// Computed by the server from other columns: never written.
    pub generated: bool,
    /// An identity column, of either kind: written with the value it has.
    pub identity: bool,
    /// Whether the type's binary form means the same on every server. It does not where it contains oids.
    pub binary: bool,
}

/// A sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct SequenceName {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
}

/// Why the tables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A statement failed.
    #[error("cannot read the tenants' tables")]
    Sql(#[from] tokio_postgres::Error),
    /// The server described a table in a way that is not understood.
    #[error("the description of table {table} is malformed")]
    Malformed {
        /// The table.
        table: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the tables that have a column of this name, over a session of [`crate::shard::connect`].
///
/// # Errors
/// [`TablesError`].
pub async fn read(client: &Client, tenant_column: &str) -> Result<TenantTables, TablesError> {
    let mut tables = Vec::new();
    for row in client.query(TABLES, &[&tenant_column]).await? {
        let description: serde_json::Value = row.get(1);
        let table =
            serde_json::from_value(description).map_err(|source| TablesError::Malformed {
                table: row.get(0),
                source,
            })?;
        tables.push(Arc::new(table));
    }
    let shape: Vec<String> = client
        .query(SHAPE, &[&tenant_column])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut digest = Sha256::new();
    for line in &shape {
        digest.update((line.len() as u64).to_be_bytes());
        digest.update(line);
    }
    Ok(TenantTables {
        tables,
        fingerprint: digest.finalize().into(),
        shape,
    })
}

impl TenantTable {
    /// Its name as SQL.
    #[must_use]
    pub fn relation(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }

    /// The tenant column.
    #[must_use]
    pub fn tenant_column(&self) -> &Column {
        &self.columns[self.tenant]
    }

    /// Columns that are written, in order.
    pub fn written(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// Columns of the key except the tenant's: they name a row among those of one tenant.
    pub fn inner_key(&self) -> impl Iterator<Item = &Column> {
        self.key
            .iter()
            .filter(|index| **index != self.tenant)
            .map(|index| &self.columns[*index])
    }

    /// Whether rows of this table can be copied in binary.
    #[must_use]
    pub fn binary(&self) -> bool {
        self.written().all(|column| column.binary)
    }

    /// The condition that holds for this tenant's rows.
    #[must_use]
    pub fn tenant_is(&self, tenant: &str) -> String {
        let column = self.tenant_column();
        format!(
            "{} OPERATOR(pg_catalog.=) {}::{}",
            column.sql(),
            quote_literal(tenant),
            column.type_sql
        )
    }
}

impl Column {
    /// Its name as SQL.
    #[must_use]
    pub fn sql(&self) -> String {
        quote_identifier(&self.name)
    }
}

impl SequenceName {
    /// Its name as SQL.
    #[must_use]
    pub fn sql(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }
}

/// Names of columns as a list for SQL.
pub fn list<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    columns.map(Column::sql).collect::<Vec<_>>().join(", ")
}
