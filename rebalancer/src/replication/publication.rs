//! Publications of one tenant: its rows of every tenant table, and its owner row.

use std::fmt::Write as _;
use std::sync::Arc;

use tenantry_wire::sql::{quote_identifier, quote_literal};
use tokio_postgres::Client;

use crate::tables::TenantTable;

/// Makes a publication of one tenant's rows, or makes it anew if there is one of this name. It must be there before the
/// slot that is to decode it.
///
/// # Errors
/// The server refuses, or the connection is lost.
pub async fn create(
    client: &Client,
    name: &str,
    tables: &[Arc<TenantTable>],
    tenant: &str,
) -> Result<(), tokio_postgres::Error> {
    drop(client, name).await?;
    let create = create_text(name, tables, tenant);
    client.batch_execute(&create).await
}

/// Drops a publication; one that is not there is no error.
///
/// # Errors
/// The server refuses, or the connection is lost.
pub async fn drop(client: &Client, name: &str) -> Result<(), tokio_postgres::Error> {
    let name = quote_identifier(name);
    client
        .batch_execute(&format!("DROP PUBLICATION IF EXISTS {name}"))
        .await
}

/// The statement of [`create`].
fn create_text(name: &str, tables: &[Arc<TenantTable>], tenant: &str) -> String {
    let mut text = format!(
        "CREATE PUBLICATION {} FOR TABLE tenantry.owner WHERE (tenant_id = {})",
        quote_identifier(name),
        quote_literal(tenant)
    );
    for table in tables {
        let rows = table.tenant_is(tenant);
        let _ = write!(text, ", ONLY {} WHERE ({rows})", table.relation());
    }
    text.push_str(
        " WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Column;

    #[test]
    fn every_table_is_filtered_by_its_own_tenant_column() {
        let table = TenantTable {
            oid: 1,
            schema: "Shop".to_owned(),
            name: "order".to_owned(),
            columns: vec![Column {
                name: "Tenant".to_owned(),
                type_sql: "bigint".to_owned(),
                type_oid: 20,
                generated: false,
                identity: false,
                binary: true,
            }],
            key: vec![0],
            tenant: 0,
            sequences: Vec::new(),
            partitioned: false,
        };
        assert_eq!(
            create_text("p", &[Arc::new(table)], "o'7"),
            "CREATE PUBLICATION p FOR TABLE tenantry.owner WHERE (tenant_id = 'o''7'), \
             ONLY \"Shop\".\"order\" WHERE (\"Tenant\" OPERATOR(pg_catalog.=) 'o''7'::bigint) \
             WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"
        );
    }
}
