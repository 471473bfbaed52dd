//! Clients of tenants that are moved, and of their neighbours.
//!
//! Requests come when they come, answered or not: who waits for a busy client has waited. Every booking is written into
//! the client's ledger when it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::{Client, Statement};

use super::bed::{ACCOUNTS, Door};
use super::ledger::{Ledger, account_of, amount_of};

const BOOK: &str = "WITH entry AS (INSERT INTO entries (client, seq, account, amount) VALUES ($1, $2, $3, $4) \
                    RETURNING account, amount) \
                    UPDATE accounts SET balance = balance + entry.amount FROM entry WHERE id = entry.account";
const INSERT: &str = "INSERT INTO entries (client, seq, account, amount) VALUES ($1, $2, $3, $4)";
const UPDATE: &str = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
const READ: &str = "SELECT balance FROM accounts WHERE id = $1";
/// A lost client connects again for so long.
const RECONNECT_MAX: Duration = Duration::from_secs(30);
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// When it came and was answered.
    pub(crate) came: Instant,
    pub(crate) took: Duration,
}

/// How one client works.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) number: i32,
    pub(crate) tenant: String,
    /// Transactions per second; `None`: the next follows the answer.
    pub(crate) per_second: Option<f64>,
    pub(crate) seed: u64,
}

/// What one client did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) number: i32,
    pub(crate) ledger: Ledger,
    pub(crate) samples: Vec<Sample>,
    /// Errors that it was told, with the time.
    pub(crate) errors: Vec<(Instant, String)>,
}

/// A client at work; it ends after its present transaction once `stop` is set.
pub(crate) struct Worker {
    work: Work,
    door: Door,
    stop: Arc<AtomicBool>,
    done: Done,
    random: SmallRng,
    next: i64,
}

/// A session and its statements.
struct Session {
    client: Client,
    book: Statement,
    insert: Statement,
    update: Statement,
    read: Statement,
}

impl Session {
    async fn open(door: Door, tenant: &str) -> anyhow::Result<Self> {
        let client = door.connect(tenant).await?;
        Ok(Self {
            book: client.prepare(BOOK).await?,
            insert: client.prepare(INSERT).await?,
            update: client.prepare(UPDATE).await?,
            read: client.prepare(READ).await?,
            client,
        })
    }
}

impl Worker {
    pub(crate) fn new(work: Work, door: Door, stop: Arc<AtomicBool>) -> Self {
        let done = Done {
            number: work.number,
            ..Done::default()
        };
        Self {
            random: SmallRng::seed_from_u64(work.seed ^ u64::from(work.number.unsigned_abs())),
            work,
            door,
            stop,
            done,
            next: 1,
        }
    }

    pub(crate) async fn run(mut self) -> anyhow::Result<Done> {
        let mut session = Session::open(self.door, &self.work.tenant).await?;
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let came = self.pace(&mut due).await;
            if let Err(error) = self.transaction(&mut session).await {
                self.done.errors.push((Instant::now(), told(&error)));
                if session.client.is_closed() {
                    session = self.reopen().await?;
                }
            }
            let took = came.elapsed();
            self.done.samples.push(Sample { came, took });
        }
        Ok(self.done)
    }

    /// Waits for the next request and returns when it came. Only who was ready for it may be late by the timer.
    async fn pace(&mut self, due: &mut Instant) -> Instant {
        let Some(per_second) = self.work.per_second else {
            return Instant::now();
        };
        let uniform: f64 = self.random.random_range(f64::MIN_POSITIVE..1.0);
        *due += Duration::from_secs_f64(-uniform.ln() / per_second);
        if *due <= Instant::now() {
            return *due;
        }
        tokio::time::sleep_until((*due).into()).await;
        Instant::now()
    }

    async fn transaction(&mut self, session: &mut Session) -> Result<(), tokio_postgres::Error> {
        let kind = self.random.random_range(0..10);
        if kind < 4 {
            let account = self.random.random_range(1..=ACCOUNTS);
            session.client.query(&session.read, &[&account]).await?;
            return Ok(());
        }
        let seq = self.next;
        self.next += 1;
        let client = self.work.number;
        // Until the answer says otherwise.
        self.done.ledger.unknown.insert(seq);
        let booked = if kind < 8 {
            book(session, client, seq).await
        } else {
            in_two_steps(session, client, seq).await
        };
        match booked {
            Ok(()) => {
                self.done.ledger.unknown.remove(&seq);
                self.done.ledger.booked.insert(seq);
                Ok(())
            }
            Err(error) => {
                // An error of the server's says that nothing was committed, unless it says that nobody knows.
                if error.code().is_some_and(|code| code.code() != "08007") {
                    self.done.ledger.unknown.remove(&seq);
                }
                Err(error)
            }
        }
    }

    async fn reopen(&self) -> anyhow::Result<Session> {
        let deadline = Instant::now() + RECONNECT_MAX;
        loop {
            match Session::open(self.door, &self.work.tenant).await {
                Ok(session) => return Ok(session),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the router is not back");
                }
                Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
        }
    }
}

async fn book(session: &Session, client: i32, seq: i64) -> Result<(), tokio_postgres::Error> {
    let (account, amount) = (account_of(client, seq), amount_of(seq));
    session
        .client
        .execute(&session.book, &[&client, &seq, &account, &amount])
        .await
        .map(drop)
}

async fn in_two_steps(
    session: &mut Session,
    client: i32,
    seq: i64,
) -> Result<(), tokio_postgres::Error> {
    let (account, amount) = (account_of(client, seq), amount_of(seq));
    let transaction = session.client.transaction().await?;
    transaction
        .execute(&session.insert, &[&client, &seq, &account, &amount])
        .await?;
    transaction
        .execute(&session.update, &[&account, &amount])
        .await?;
    transaction.commit().await
}

fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(fields) => format!("{} {}", fields.code().code(), fields.message()),
        None => format!("{error}"),
    }
}

/// The value below which `part` of all durations are, microseconds.
pub(crate) fn percentile<'a>(samples: impl IntoIterator<Item = &'a Sample>, part: f64) -> f64 {
    let mut all: Vec<f64> = samples
        .into_iter()
        .map(|sample| sample.took.as_secs_f64() * 1e6)
        .collect();
    all.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (all.len() as f64 * part) as usize;
    all.get(at.min(all.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let now = Instant::now();
        let samples: Vec<Sample> = (1..=100)
            .map(|at| Sample {
                came: now,
                took: Duration::from_micros(at),
            })
            .collect();
        assert!((percentile(&samples, 0.5) - 51.0).abs() < 1e-9);
        assert!((percentile(&samples, 0.99) - 100.0).abs() < 1e-9);
        assert!((percentile(&[], 0.5)).abs() < 1e-9);
    }
}
