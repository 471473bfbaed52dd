//! One client of the soak: it logs in, does some work as one tenant after another, and leaves, in order or not.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_testkit::{Login, RawClient, RawError, error_of, rows_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend;
use tokio::time::Instant;

use super::{PASSWORD, ROLE};
use crate::proxy::DATABASE;

/// Longest wait for the answer to one operation. Longer than every limit of the router's own.
const ANSWER_MAX: Duration = Duration::from_secs(40);
/// What a client may be told while servers come and go and cancels fly: the design's table of errors.
const EXPECTED: &[&str] = &[
    "08007", "40001", "40P01", "53300", "57014", "57P01", "57P02", "57P03", "55P03",
];

/// What all clients counted together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) operations: AtomicU64,
    pub(super) sessions: AtomicU64,
    pub(super) rows_checked: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) cancels: AtomicU64,
    pub(super) expected_errors: AtomicU64,
    /// Rows that were not the tenant's, settings that were another session's, results that were another statement's.
    pub(super) strangers: AtomicU64,
    /// Errors that no condition of the soak explains, and silence.
    pub(super) unexpected: AtomicU64,
    /// Inserts that the client was told are committed.
    pub(super) acknowledged: AtomicU64,
}

/// One client: works until the deadline.
pub(super) struct Worker {
    pub(super) number: u64,
    pub(super) seed: u64,
    pub(super) router: SocketAddr,
    pub(super) tenants: std::sync::Arc<Vec<String>>,
    pub(super) counts: std::sync::Arc<Counts>,
    pub(super) deadline: Instant,
}

/// How a session ends.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    InOrder,
    Lost,
}

impl Worker {
    pub(super) async fn run(self) {
        let mut random = SmallRng::seed_from_u64(self.seed ^ self.number);
        while Instant::now() < self.deadline {
            if let Err(reason) = self.session(&mut random).await {
                self.counts.unexpected.fetch_add(1, Ordering::Relaxed);
                self.note(&format!("{reason:#}"));
            }
        }
    }

    /// Says what was found; the report counts it.
    fn note(&self, what: &str) {
        // Without a standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "client {}: {what}", self.number);
    }

    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    async fn session(&self, random: &mut SmallRng) -> anyhow::Result<()> {
        let login = Login::new(ROLE, PASSWORD, DATABASE);
        let mut client = match RawClient::login(self.router, &login).await {
            Ok(client) => client,
            Err(RawError::Refused(fields)) if EXPECTED.contains(&fields.code.as_str()) => {
                Self::add(&self.counts.expected_errors);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        Self::add(&self.counts.sessions);
        for _ in 0..random.random_range(1..=20) {
            let tenant = &self.tenants[random.random_range(0..self.tenants.len())];
            if random.random_ratio(1, 25) {
                return self.reset(&mut client, tenant, random).await;
            }
            if random.random_ratio(1, 20) {
                Self::add(&self.counts.cancels);
                let (address, key) = (self.router, client.cancel_key());
                let key = key.map(|(pid, secret)| (pid, secret.to_vec()));
                tokio::spawn(async move {
                    if let Some((pid, secret)) = key {
                        // A router that is busy may close first; the statement goes on then.
                        let _ = tenantry_testkit::send_cancel(address, pid, &secret).await;
                    }
                });
            }
            if self.operation(&mut client, tenant, random).await? == Left::Lost {
                return Ok(());
            }
            Self::add(&self.counts.operations);
        }
        // Terminate; the server's side is closed when it is read.
        client.send(frontend::put_terminate).await?;
        Ok(())
    }

    async fn operation(
        &self,
        client: &mut RawClient,
        tenant: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<Left> {
        let mark: u64 = random.random();
        let text = script(random.random_range(0..7), tenant, mark);
        let Some(messages) = self.ask(client, &text).await? else {
            return Ok(Left::Lost);
        };
        if let Some(error) = error_of(&messages) {
            if !EXPECTED.contains(&error.code.as_str()) {
                bail!("{} {} after {text}", error.code, error.message);
            }
            Self::add(&self.counts.expected_errors);
            // Whatever state it is in, the session ends its transaction.
            return Ok(match self.ask(client, "ROLLBACK").await? {
                Some(_) => Left::InOrder,
                None => Left::Lost,
            });
        }
        let expected = format!("of {tenant}");
        let mut marked = false;
        for row in rows_of(&messages) {
            match row.first().and_then(Option::as_deref) {
                Some(value) if value == expected => Self::add(&self.counts.rows_checked),
                Some(value) if value == mark.to_string() => marked = true,
                // What a session that has set nothing sees.
                None | Some("") => {}
                Some(other) => {
                    Self::add(&self.counts.strangers);
                    self.note(&format!("{other:?} for tenant {tenant}"));
                }
            }
        }
        if !marked {
            // The answer to somebody else's statement.
            Self::add(&self.counts.strangers);
            self.note(&format!("no answer of its own to {text}"));
        }
        if text.contains("INSERT") {
            Self::add(&self.counts.acknowledged);
        }
        Ok(Left::InOrder)
    }

    /// The answer to a Query; `None` if the connection ended.
    async fn ask(
        &self,
        client: &mut RawClient,
        text: &str,
    ) -> anyhow::Result<Option<Vec<Message>>> {
        match tokio::time::timeout(ANSWER_MAX, client.query(text)).await {
            Ok(Ok(messages)) => Ok(Some(messages)),
            Ok(Err(RawError::Closed | RawError::Io(_))) => Ok(None),
            Ok(Err(error)) => Err(anyhow::Error::from(error).context(text.to_owned())),
            Err(_elapsed) => bail!("no answer to {text}"),
        }
    }

    /// Sends part of something, or all of it and reads part of the answer, and resets the connection.
    async fn reset(
        &self,
        client: &mut RawClient,
        tenant: &str,
        random: &mut SmallRng,
    ) -> anyhow::Result<()> {
        Self::add(&self.counts.resets);
        if random.random_ratio(1, 3) {
            // Everything is answered, a transaction and a lock are left open.
            let text = format!(
                "{}; INSERT INTO events (kind, subject) VALUES ('of {tenant}', 'abandoned'); \
                 SELECT tenantry.pg_try_advisory_lock({})",
                open(tenant),
                self.number
            );
            self.ask(client, &text).await?;
            client.stream().set_zero_linger()?;
            return Ok(());
        }
        let mut bytes = Vec::new();
        let text = match random.random_range(0..5) {
            0 => format!("{}; SELECT tenantry.pg_advisory_lock(42)", open(tenant)),
            1 => "SELECT repeat('x', 100000) FROM generate_series(1, 200)".to_owned(),
            2 => format!(
                "{}; COPY events (id, kind, subject) FROM STDIN",
                open(tenant)
            ),
            3 => format!("SET tenantry.tenant = '{tenant}'; SET my.soak = 'left behind'"),
            _ => script(1, tenant, 0),
        };
        bytes.push(b'Q');
        bytes.extend_from_slice(&u32::try_from(text.len() + 5)?.to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        let whole = random.random_ratio(2, 3);
        let sent = if whole {
            bytes.len()
        } else {
            random.random_range(1..bytes.len())
        };
        // The router may have closed the connection already.
        let _ = client.send_bytes(&bytes[..sent]).await;
        if whole {
            let some = client.receive();
            let _ = tokio::time::timeout(Duration::from_millis(20), some).await;
        }
        client.stream().set_zero_linger()?;
        Ok(())
    }
}

fn open(tenant: &str) -> String {
    format!("BEGIN; SET LOCAL tenantry.tenant = '{tenant}'")
}

/// Work as one tenant. Every script answers with rows that say whose they are, with its mark, and with nothing else.
fn script(kind: u32, tenant: &str, mark: u64) -> String {
    let open = open(tenant);
    let read = "SELECT kind FROM (SELECT kind, id FROM events WHERE subject = 'soak' ORDER BY id DESC LIMIT 20) AS newest";
    let insert =
        format!("INSERT INTO events (kind, subject) VALUES ('of {tenant}', 'soak') RETURNING kind");
    let seen = format!("SELECT '{mark}'");
    match kind {
        0 | 1 => format!("{open}; {read}; {seen}; COMMIT"),
        2 => format!("{open}; {insert}; {seen}; COMMIT"),
        3 => format!("{open}; SELECT tenantry.pg_advisory_xact_lock(7); {insert}; {seen}; COMMIT"),
        // What another session set must not be seen, and what this one sets must be.
        4 => format!(
            "{open}; SELECT current_setting('my.soak', true); SET LOCAL my.soak = 'of {tenant}'; \
             SELECT current_setting('my.soak'); {seen}; COMMIT"
        ),
        5 => format!("{open}; {read}; SELECT pg_sleep(0.01); {seen}; ROLLBACK"),
        _ => format!(
            "{open}; PREPARE newest_{mark} AS {read}; EXECUTE newest_{mark}; DEALLOCATE newest_{mark}; {seen}; COMMIT"
        ),
    }
}
