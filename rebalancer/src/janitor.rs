//! Removes what moves have made on shards and no live move owns: slots, which keep the server's log, and publications.
//!
//! A move removes its own things; this is for those that were forced out of the catalog or whose shard came back later.
//! What is there is looked at before the live moves are, so that a move that begins meanwhile loses nothing.

use tenantry_schema::catalog::CatalogError;
use tenantry_schema::catalog::moves::{MoveFilter, MoveNames};
use tokio_postgres::Client;

use crate::exec::Context;
use crate::exec::endpoint;
use crate::replication::{publication, slot};
use crate::shard::connect;

/// Looks at every shard once. A shard that does not answer is looked at another time.
pub(crate) async fn sweep(context: &Context) {
    let shards = match context.catalog.list_shards().await {
        Ok(shards) => shards,
        Err(error) => {
            tracing::debug!(%error, "nothing is swept");
            return;
        }
    };
    for shard in shards {
        let Ok(endpoint) = endpoint(context, shard.id).await else {
            continue;
        };
        let Ok(client) = connect(&endpoint).await else {
            continue;
        };
        match sweep_shard(context, &client).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::warn!(shard = %shard.name, removed, "removed what no live move owns");
            }
            Err(error) => tracing::debug!(shard = %shard.name, %error, "not swept"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error("the shard refused")]
    Sql(#[from] tokio_postgres::Error),
    #[error("a slot cannot be dropped")]
    Slot(#[from] slot::SlotError),
    #[error("the catalog does not answer")]
    Catalog(#[from] CatalogError),
}

async fn sweep_shard(context: &Context, client: &Client) -> Result<usize, SweepError> {
    let slots = slot::slots(client, &format!("^{}", MoveNames::PREFIX)).await?;
    let select = "SELECT pubname FROM pg_publication WHERE starts_with(pubname, $1)";
    let publications = client.query(select, &[&MoveNames::PREFIX]).await?;
    let live = context.catalog.moves(&MoveFilter::live()).await?;
    let is_owned = |name: &str| {
        let mut names = live
            .iter()
            .flat_map(|one| [&one.names.forward, &one.names.reverse]);
        names.any(|known| name.starts_with(known.as_str()))
    };
    let mut removed = 0;
    for one in slots.iter().filter(|one| !is_owned(&one.name)) {
        slot::drop(client, &one.name).await?;
        removed += 1;
    }
    for row in &publications {
        let name: String = row.get(0);
        if !is_owned(&name) {
            publication::drop(client, &name).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
