//! A flood of cancel requests races with binds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::probe::seed;
use common::setup_with;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of, send_cancel};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const FLOOD_CLIENTS: usize = 12;
const FLOOD_TRANSACTIONS: usize = 450;
/// BEGIN, naming the tenant, the statement, COMMIT, or as many in another form.
const FLOOD_STATEMENTS: usize = 4;
const FLOOD_CANCELLERS: usize = 3;
/// One cancel request for so many transactions: enough to race with everything, and most rows still come.
const FLOOD_CANCEL_EVERY: u32 = 3;

/// What a flood did.
#[derive(Debug, Default)]
struct Totals {
    rows: AtomicUsize,
    statements: AtomicUsize,
    cancelled: AtomicUsize,
    cancels: AtomicUsize,
}

/// Cancel requests race with binds while many clients switch between two tenants over one or two server connections.
/// Whatever dies, no statement may run for another tenant than the one asked for.
async fn flood(pool_size: usize) {
    let seed = seed();
    let builder = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(builder, |config| config.pool_size = pool_size).await;
    setup.seed().await;
    let totals = Arc::new(Totals::default());
    let tickets = Arc::new(Semaphore::new(0));
    let mut clients = JoinSet::new();
    let mut keys = Vec::new();
    for number in 0..FLOOD_CLIENTS {
        let session = setup.raw().await;
        let (pid, key) = session.cancel_key().unwrap();
        keys.push((pid, key.to_vec()));
        let client = FloodClient {
            session,
            ids: [setup.id(0), setup.id(1)],
            rng: SmallRng::seed_from_u64(seed.wrapping_add(number as u64)),
            totals: Arc::clone(&totals),
            tickets: Arc::clone(&tickets),
        };
        clients.spawn(client.run());
    }
    let mut cancellers = JoinSet::new();
    for number in 0..FLOOD_CANCELLERS {
        let (keys, tickets, totals) = (keys.clone(), Arc::clone(&tickets), Arc::clone(&totals));
        let mut rng = SmallRng::seed_from_u64(!seed.wrapping_add(number as u64));
        let address = setup.address;
        cancellers.spawn(async move {
            while let Ok(ticket) = tickets.acquire().await {
                ticket.forget();
                let (pid, key) = &keys[rng.random_range(0..keys.len())];
                send_cancel(address, *pid, key).await.unwrap();
                totals.cancels.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    tickets.close();
    while let Some(ended) = cancellers.join_next().await {
        ended.unwrap();
    }
    println!("{totals:?}");
    let total = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert!(total(&totals.statements) >= FLOOD_CLIENTS * FLOOD_TRANSACTIONS);
    assert!(total(&totals.rows) > FLOOD_CLIENTS * FLOOD_TRANSACTIONS / 4);
    assert!(
        total(&totals.cancelled) > 20,
        "the flood hit next to nothing"
    );
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let row = admin
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE subject <> tenant_id::text) FROM events WHERE kind = 'flood'",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, i64>(0) > 0);
    assert_eq!(
        row.get::<_, i64>(1),
        0,
        "rows were written for another tenant"
    );
    setup.nothing_leaked(0).await;
}

struct FloodClient {
    session: RawClient,
    ids: [String; 2],
    rng: SmallRng,
    totals: Arc<Totals>,
    /// Each permits one cancel request.
    tickets: Arc<Semaphore>,
}

impl FloodClient {
    async fn run(mut self) {
        for _ in 0..FLOOD_TRANSACTIONS {
            let id = self.ids[self.rng.random_range(0..2)].clone();
            if self.rng.random_ratio(1, FLOOD_CANCEL_EVERY) {
                self.tickets.add_permits(1);
            }
            let form = self.rng.random_range(0..6);
            let messages = match form {
                0 => self.one_query(&id).await,
                1 => self.queries(&id).await,
                2 => self.extended(&id, true).await,
                3 => self.extended(&id, false).await,
                4 => self.session_tenant(&id).await,
                _ => self.write(&id).await,
            };
            self.check(form, &id, &messages);
        }
        self.session.send(frontend::put_terminate).await.unwrap();
    }

    /// BEGIN to COMMIT in one Query.
    async fn one_query(&mut self, id: &str) -> Vec<Message> {
        let text = format!(
            "BEGIN; SET LOCAL tenantry.tenant = '{id}'; SELECT kind FROM events WHERE id = 1; COMMIT"
        );
        let mut messages = self.session.query(&text).await.unwrap();
        if error_of(&messages).is_some() {
            messages.extend(self.session.query("ROLLBACK").await.unwrap());
        }
        messages
    }

    /// BEGIN to COMMIT in Queries of their own, in one write.
    async fn queries(&mut self, id: &str) -> Vec<Message> {
        let texts = [
            "BEGIN".to_owned(),
            format!("SET LOCAL tenantry.tenant = '{id}'"),
            "SELECT kind FROM events WHERE id = 1".to_owned(),
            "COMMIT".to_owned(),
        ];
        self.session
            .send(|out| texts.iter().for_each(|text| frontend::put_query(out, text)))
            .await
            .unwrap();
        self.readies(texts.len()).await
    }

    /// BEGIN, set_config() and the statement by extended protocol, with one Sync each or only one at the end.
    async fn extended(&mut self, id: &str, synced: bool) -> Vec<Message> {
        self.session
            .send(|out| {
                let mut step = |text: &str, parameters: &[Option<&[u8]>], last: bool| {
                    frontend::put_parse(out, "", text, &[]);
                    frontend::put_bind(out, "", "", parameters, Format::Text);
                    frontend::put_execute(out, "", 0);
                    if synced || last {
                        frontend::put_sync(out);
                    }
                };
                step("BEGIN", &[], false);
                let tenant = Some(id.as_bytes());
                step(
                    "SELECT set_config('tenantry.tenant', $1, true)",
                    &[tenant],
                    false,
                );
                step(
                    "SELECT kind FROM events WHERE id = $1::bigint",
                    &[Some(b"1")],
                    true,
                );
                frontend::put_query(out, "COMMIT");
            })
            .await
            .unwrap();
        let mut messages = self.readies(if synced { 4 } else { 2 }).await;
        // The answer of set_config() is a row of its own.
        let asked = vec![Some(id.to_owned())];
        if let Some(at) = messages
            .iter()
            .position(|message| rows_of(std::slice::from_ref(message)).first() == Some(&asked))
        {
            messages.remove(at);
        }
        messages
    }

    /// A session SET, then statements without a transaction.
    async fn session_tenant(&mut self, id: &str) -> Vec<Message> {
        self.session
            .send(|out| {
                frontend::put_query(out, format!("SET tenantry.tenant = '{id}'"));
                frontend::put_query(out, "SELECT kind FROM events WHERE id = 1");
                frontend::put_parse(out, "", "SELECT kind FROM events WHERE id = 1", &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
                frontend::put_query(out, "RESET tenantry.tenant");
            })
            .await
            .unwrap();
        self.readies(4).await
    }

    /// Writes a row that says for whom it was meant.
    async fn write(&mut self, id: &str) -> Vec<Message> {
        let text = format!(
            "BEGIN; SET LOCAL tenantry.tenant = '{id}'; \
             INSERT INTO events (kind, subject) VALUES ('flood', '{id}') RETURNING 'tenant-' || tenant_id; COMMIT"
        );
        let mut messages = self.session.query(&text).await.unwrap();
        if error_of(&messages).is_some() {
            messages.extend(self.session.query("ROLLBACK").await.unwrap());
        }
        messages
    }

    async fn readies(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.extend(self.session.until_ready().await.unwrap());
        }
        messages
    }

    fn check(&self, form: usize, id: &str, messages: &[Message]) {
        let expected = vec![Some(format!("tenant-{id}"))];
        let rows = rows_of(messages);
        for row in &rows {
            assert_eq!(
                *row, expected,
                "a row of another tenant by form {form}: {messages:?}"
            );
        }
        self.totals.rows.fetch_add(rows.len(), Ordering::Relaxed);
        self.totals
            .statements
            .fetch_add(FLOOD_STATEMENTS, Ordering::Relaxed);
        for message in messages {
            let Some(error) = error_of(std::slice::from_ref(message)) else {
                continue;
            };
            match error.code.as_str() {
                "57014" => {
                    self.totals.cancelled.fetch_add(1, Ordering::Relaxed);
                }
                // What follows a cancelled statement in its transaction.
                "25P02" => {}
                _ => panic!("{error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn cancels_never_make_a_statement_run_for_another_tenant() {
    flood(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_never_make_a_statement_run_for_another_tenant_in_parallel() {
    flood(2).await;
}
