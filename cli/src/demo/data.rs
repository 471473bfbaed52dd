//! Writes the stores' rows: each shard gets those of the tenants placed on it, all shards at a time, each in one
//! transaction.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use serde_json::Value;
use tenantry_cluster::Server;
use tenantry_schema::ring::Ring;
use tenantry_schema::shard::{Shard, ShardId};

use super::fleet::{SHARD_DATABASE, Servers};
use super::founding::tenant_id;
use super::stores::{Store, Words};
use crate::exit::{Exit, Explain, Failure};

/// The shard each store lives on. A new demo has no pins, so the ring alone decides.
pub(super) fn place(
    ring: &Ring,
    stores: &[Store],
) -> Result<BTreeMap<ShardId, Vec<Store>>, Failure> {
    let mut placed: BTreeMap<ShardId, Vec<Store>> = BTreeMap::new();
    for store in stores {
        let shard = ring
            .shard_of(tenant_id(store)?)
            .ok_or_else(|| Failure::new(Exit::Failed, "the ring is empty"))?;
        placed.entry(shard).or_default().push(store.clone());
    }
    Ok(placed)
}

/// Writes every store's rows where the ring puts the store.
pub(super) async fn fill(
    ring: &Ring,
    servers: &Servers,
    shards: &[Shard],
    words: &Words,
    stores: &[Store],
) -> Result<(), Failure> {
    let words = serde_json::to_value(words).explain(|| "the word lists are no JSON".to_owned())?;
    let placed = place(ring, stores)?;
    let jobs = servers
        .shards
        .iter()
        .zip(shards)
        .filter_map(|((_, server), shard)| {
            let stores = placed.get(&shard.id)?;
            Some(fill_shard(server, &words, stores))
        });
    try_join_all(jobs).await.map(|_| ())
}

async fn fill_shard(server: &Server, words: &Value, stores: &[Store]) -> Result<(), Failure> {
    let failed = || "the stores' rows cannot be written".to_owned();
    let stores = serde_json::to_value(stores).explain(failed)?;
    let mut client = server.connect(SHARD_DATABASE).await.explain(failed)?;
    let transaction = client.transaction().await.explain(failed)?;
    transaction
        .batch_execute(include_str!("sql/prepare.sql"))
        .await
        .explain(failed)?;
    transaction
        .execute(include_str!("sql/words.sql"), &[words])
        .await
        .explain(failed)?;
    transaction
        .execute(include_str!("sql/stores.sql"), &[&stores])
        .await
        .explain(failed)?;
    transaction
        .batch_execute(include_str!("sql/fill.sql"))
        .await
        .explain(failed)?;
    transaction.commit().await.explain(failed)?;
    // Plans made before autovacuum comes by would be made for empty tables.
    client.batch_execute("ANALYZE").await.explain(failed)
}
