//! How much a tenant has, as the server's statistics see it.

use tokio_postgres::Client;

use crate::tables::{TenantTable, TenantTables};

const WIDTH: &str = include_str!("row_bytes.sql");

/// What a tenant is estimated to have in one table.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TableEstimate {
    /// Rows.
    pub rows: u64,
    /// Bytes on disk without indexes, values that are stored apart included.
    pub bytes: u64,
    /// Bytes on disk with indexes.
    pub bytes_with_indexes: u64,
}

/// Estimates a tenant's part of each table, in their order. Statistics may be old or missing; an estimate is never
/// relied upon.
///
/// # Errors
/// A statement failed.
pub async fn estimate(
    client: &Client,
    tables: &TenantTables,
    tenant: &str,
) -> Result<Vec<TableEstimate>, tokio_postgres::Error> {
    let oids: Vec<u32> = tables.tables.iter().map(|table| table.oid).collect();
    let widths = client.query(WIDTH, &[&oids]).await?;
    let mut estimates = Vec::with_capacity(oids.len());
    for (table, width) in tables.tables.iter().zip(widths) {
        let rows = planned_rows(client, table, tenant).await?;
        let (heap, with_indexes): (f64, f64) = (width.get(0), width.get(1));
        estimates.push(TableEstimate {
            rows,
            bytes: (rows as f64 * heap) as u64,
            bytes_with_indexes: (rows as f64 * with_indexes) as u64,
        });
    }
    Ok(estimates)
}

/// What the planner expects.
async fn planned_rows(
    client: &Client,
    table: &TenantTable,
    tenant: &str,
) -> Result<u64, tokio_postgres::Error> {
    let explain = format!(
        "EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}",
        table.relation(),
        table.tenant_is(tenant)
    );
    let plan: serde_json::Value = client.query_one(&explain, &[]).await?.get(0);
    Ok(plan
        .pointer("/0/Plan/Plan Rows")
        .and_then(serde_json::Value::as_f64)
        .map_or(0, |rows| rows as u64))
}
