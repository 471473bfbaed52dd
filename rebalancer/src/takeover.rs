//! What a new leader does first: it ends the sessions that an earlier one still has on the shards.
//!
//! An earlier leader may be stopped and not dead, in the middle of a statement. The epochs of lease and owner row make its
//! decisions fail; a statement that writes rows compares nothing any more once it runs. It ends with its session.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::exec::{Context, endpoint};
use crate::shard::{APPLICATION, connect};

/// The lease runs meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Every session of a rebalancer on this server but the asking one. None of this process's is open yet.
const END: &str = "SELECT count(*) FILTER (WHERE pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity a \
                   WHERE a.application_name = $1 AND a.usename = current_user AND a.datname = pg_catalog.current_database() \
                   AND a.pid <> pg_catalog.pg_backend_pid()";

/// Asks every shard once. A shard that does not answer is told of: who is cut off from it now may find it back only
/// after the earlier leader did.
pub(crate) async fn end_earlier_sessions(context: &Context) {
    let shards = match context.catalog.list_shards().await {
        Ok(shards) => shards,
        Err(error) => {
            tracing::warn!(%error, "sessions of an earlier leader are not looked for");
            return;
        }
    };
    join_all(shards.iter().map(|shard| async move {
        let ended = timeout(ANSWER_MAX, async {
            let endpoint = endpoint(context, shard.id).await.map_err(|error| error.to_string())?;
            let client = connect(&endpoint).await.map_err(|error| error.to_string())?;
            let row = client.query_one(END, &[&APPLICATION]).await;
            row.map(|row| row.get::<_, i64>(0))
                .map_err(|error| error.to_string())
        });
        match ended.await {
            Ok(Ok(0)) => {}
            Ok(Ok(ended)) => {
                tracing::info!(shard = %shard.name, ended, "ended sessions of an earlier leader");
            }
            Ok(Err(error)) => {
                tracing::warn!(shard = %shard.name, error, "sessions of an earlier leader are not ended");
            }
            Err(_elapsed) => {
                tracing::warn!(shard = %shard.name, "the shard is silent: sessions of an earlier leader are not ended");
            }
        }
    }))
    .await;
}
