//! Two shards with tables of a test's own.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use tenantry_rebalancer::shard::{self, ShardEndpoint};
use tenantry_rebalancer::tables::{self, TenantTable, TenantTables};
use tenantry_testkit::{Fleet, FleetShard};
use tokio_postgres::Client;

/// The tenant column of every fleet here.
pub const COLUMN: &str = "tenant_id";

/// Two shards; tenants are written by the tests themselves.
pub async fn fleet() -> Fleet {
    Fleet::builder().agent(false).start().await.unwrap()
}

pub fn endpoint(shard: &FleetShard) -> ShardEndpoint {
    ShardEndpoint {
        id: shard.id(),
        name: shard.name().clone(),
        address: shard.shard().address.clone(),
        password: shard.secrets().passwords.agent.clone(),
    }
}

/// A session of the rebalancer's own kind.
pub async fn session(shard: &FleetShard) -> Client {
    shard::connect(&endpoint(shard)).await.unwrap()
}

/// Runs DDL as the owner of the schema, in `public`.
pub async fn define(shard: &FleetShard, sql: &str) {
    let client = session(shard).await;
    client
        .batch_execute(&format!(
            "SET ROLE tenantry_owner; SET search_path = public; {sql}"
        ))
        .await
        .unwrap();
}

/// The same on both shards.
pub async fn define_on_both(fleet: &Fleet, sql: &str) {
    for shard in fleet.shards() {
        define(shard, sql).await;
    }
}

pub async fn read(shard: &FleetShard) -> TenantTables {
    tables::read(&session(shard).await, COLUMN).await.unwrap()
}

/// The table of this name.
pub fn table<'a>(tables: &'a TenantTables, name: &str) -> &'a TenantTable {
    tables
        .tables
        .iter()
        .find(|table| table.name == name)
        .unwrap()
}

/// The first column of the only row, as text.
pub async fn text(client: &Client, sql: &str) -> String {
    client
        .query_one(&format!("SELECT ({sql})::text"), &[])
        .await
        .unwrap()
        .get(0)
}
