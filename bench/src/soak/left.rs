//! What is left when every client has gone: nothing but idle server connections, and rows that are their tenants'.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tenantry_testkit::{Fleet, FleetShard};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the router and its servers may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug, Default, Clone)]
pub(super) struct Left {
    /// Server sessions beyond those that the router counts as its own.
    pub(super) stray_sessions: u64,
    /// Server connections that the router has not back in a pool.
    pub(super) not_idle: u64,
    pub(super) open_transactions: u64,
    pub(super) advisory_locks: u64,
    pub(super) clients: u64,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.stray_sessions == 0
            && self.not_idle == 0
            && self.open_transactions == 0
            && self.advisory_locks == 0
            && self.clients == 0
    }
}

/// Waits until nothing is left, and answers what is left if that does not come.
pub(super) async fn look(fleet: &Fleet, http: SocketAddr) -> anyhow::Result<Left> {
    let deadline = Instant::now() + REST_MAX;
    loop {
        let left = look_once(fleet, http).await?;
        if left.is_nothing() || Instant::now() > deadline {
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look_once(fleet: &Fleet, http: SocketAddr) -> anyhow::Result<Left> {
    let metrics = metrics(http).await?;
    let open = metric(&metrics, "pool_connections");
    let mut left = Left {
        not_idle: open.saturating_sub(metric(&metrics, "pool_idle")),
        clients: metric(&metrics, "clients"),
        ..Left::default()
    };
    let mut sessions = 0;
    for shard in fleet.shards() {
        let (here, transactions, locks) = on_shard(shard).await?;
        sessions += here;
        left.open_transactions += transactions;
        left.advisory_locks += locks;
    }
    left.stray_sessions = sessions.saturating_sub(open);
    Ok(left)
}

/// Sessions of routers, those of them that are not idle, and the advisory locks they hold.
async fn on_shard(shard: &FleetShard) -> anyhow::Result<(u64, u64, u64)> {
    let admin = shard.admin().await?;
    let row = admin
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE state <> 'idle'), \
             (SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
              WHERE l.locktype = 'advisory' AND a.usename = 'tenantry_app' AND a.datname = current_database()) \
             FROM pg_stat_activity WHERE usename = 'tenantry_app' AND datname = current_database()",
            &[],
        )
        .await?;
    let number = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
    Ok((number(0), number(1), number(2)))
}

/// Rows of the soak, those among them that say they are another tenant's, and those that nobody committed.
pub(super) async fn rows(fleet: &Fleet) -> anyhow::Result<(u64, u64, u64)> {
    let (mut all, mut strangers, mut abandoned) = (0, 0, 0);
    for shard in fleet.shards() {
        let admin = shard.admin().await?;
        let row = admin
            .query_one(
                "SELECT count(*) FILTER (WHERE subject = 'soak'), count(*) FILTER (WHERE kind <> 'of ' || tenant_id), \
                 count(*) FILTER (WHERE subject = 'abandoned') FROM events",
                &[],
            )
            .await?;
        all += u64::try_from(row.get::<_, i64>(0))?;
        strangers += u64::try_from(row.get::<_, i64>(1))?;
        abandoned += u64::try_from(row.get::<_, i64>(2))?;
    }
    Ok((all, strangers, abandoned))
}

async fn metrics(http: SocketAddr) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(http).await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (_head, body) = answer
        .split_once("\r\n\r\n")
        .context("the router's metrics have no body")?;
    Ok(body.to_owned())
}

/// A metric, summed over its labels.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of connections"
)]
fn metric(body: &str, name: &str) -> u64 {
    body.lines()
        .filter_map(|line| line.strip_prefix("tenantry_router_")?.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum::<f64>() as u64
}
