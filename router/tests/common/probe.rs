//! What a test looks at from outside: the router's HTTP, and the sessions that PostgreSQL sees.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::BufMut as _;
use tenantry_testkit::{FleetShard, Login, RawClient, RawError, error_of};
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frame::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Setup;

/// Longest wait for a condition.
const CONDITION_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Waits until `check` has an answer.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + CONDITION_MAX;
    loop {
        if let Some(answer) = check().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// GET; status and body.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// Sum of a metric over its labels; `labels` is text that the label set must contain.
pub fn metric(body: &str, name: &str, labels: &str) -> f64 {
    body.lines()
        .filter_map(|line| line.strip_prefix("tenantry_router_")?.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

impl Setup {
    pub async fn metrics(&self) -> String {
        get(self.http, "/metrics").await.unwrap().1
    }

    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        metric(&self.metrics().await, name, labels)
    }

    /// Waits until every server connection is idle in its pool, no session waits, `clients` sessions are left, and
    /// no shard has a transaction or a statement of the router's open.
    pub async fn nothing_leaked(&self, clients: usize) {
        let mut seen = String::new();
        let what = format!("all server connections idle and {clients} sessions left");
        let deadline = Instant::now() + CONDITION_MAX;
        loop {
            let body = self.metrics().await;
            let open = metric(&body, "pool_connections", "");
            let idle = metric(&body, "pool_idle", "");
            let waiting = metric(&body, "pool_waiting", "");
            let sessions = metric(&body, "clients", "");
            let mut busy = 0;
            for shard in self.fleet.shards() {
                if let Ok(found) = busy_backends(shard).await {
                    busy += found;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "a few sessions")]
            let wanted = clients as f64;
            if open == idle && waiting == 0.0 && sessions == wanted && busy == 0 {
                return;
            }
            let now = format!(
                "open {open}, idle {idle}, waiting {waiting}, sessions {sessions}, busy on shards {busy}"
            );
            if now != seen {
                seen = now;
            }
            assert!(
                Instant::now() < deadline,
                "never happened: {what}; now {seen}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Server connections of routers that are not idle outside a transaction.
pub async fn busy_backends(shard: &FleetShard) -> anyhow::Result<i64> {
    let admin = shard.admin().await?;
    let row = admin
        .query_one(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app' AND state <> 'idle' \
             AND datname = current_database()",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// The error that these messages carry must have this code and name, and a hint.
#[track_caller]
pub fn assert_refused(messages: &[Message], code: &str, name: &str) -> ErrorFields {
    let error = error_of(messages).expect("no error came");
    assert_fields(&error, code, name);
    error
}

#[track_caller]
pub fn assert_fields(error: &ErrorFields, code: &str, name: &str) {
    assert_eq!(
        (error.code.as_str(), error.routine.as_deref()),
        (code, Some(name)),
        "{error:?}"
    );
    assert!(
        error.hint.as_deref().is_some_and(|hint| !hint.is_empty()),
        "no hint: {error:?}"
    );
}

/// A number that decides a test's random choices; printed, and taken from `TENANTRY_TEST_SEED` to repeat a run.
pub fn seed() -> u64 {
    let seed = std::env::var("TENANTRY_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    println!("TENANTRY_TEST_SEED={seed}");
    seed
}

/// A frontend message with this length field, right or not.
pub fn message(letter: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![letter];
    out.put_u32(length);
    out.put_slice(body);
    out
}

/// A message with the right length.
pub fn whole(letter: u8, body: &[u8]) -> Vec<u8> {
    message(letter, u32::try_from(body.len()).unwrap() + 4, body)
}

/// The error of a login that must not succeed.
pub async fn refused_login(setup: &Setup, login: &Login) -> ErrorFields {
    match RawClient::login(setup.address, login).await {
        Err(RawError::Refused(fields)) => *fields,
        other => panic!("{other:?}"),
    }
}
