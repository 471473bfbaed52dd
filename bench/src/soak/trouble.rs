//! What goes wrong on purpose: server sessions are terminated, and a whole server is killed and started again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_testkit::Fleet;
use tokio::time::{Instant, sleep};

/// Between two terminated sessions.
const TERMINATE_EVERY: Duration = Duration::from_millis(700);
/// Time after a last restart in which clients find their way back.
const CALM: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) terminated: AtomicU64,
    pub(super) restarts: AtomicU64,
}

/// Makes trouble until shortly before the deadline.
pub(super) async fn make(
    fleet: &Fleet,
    troubles: &Troubles,
    restart_every: Duration,
    deadline: Instant,
    seed: u64,
) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut restart_at = Instant::now() + restart_every;
    while Instant::now() + CALM < deadline {
        sleep(TERMINATE_EVERY).await;
        let shard = fleet.shard(random.random_range(0..fleet.shards().len()));
        if Instant::now() >= restart_at {
            let server = fleet.server_of(shard);
            server.kill9().await?;
            server.restart().await?;
            troubles.restarts.fetch_add(1, Ordering::Relaxed);
            restart_at = Instant::now() + restart_every;
            continue;
        }
        let admin = shard.admin().await?;
        let ended = admin
            .execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity \
                 WHERE usename = 'tenantry_app' ORDER BY random() LIMIT 2) AS chosen",
                &[],
            )
            .await?;
        troubles.terminated.fetch_add(ended, Ordering::Relaxed);
    }
    Ok(())
}
