//! The attack suite through the router, and what a flood of cancel requests can do to binds.
//!
//! Attacker and victim share one shard and a pool of three server connections, so that whatever one session leaves
//! behind on a connection is there for the other to find.

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

use bytes::BytesMut;
use common::probe::seed;
use common::{DATABASE, PASSWORD, Setup, setup_with};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_schema::fleet::RoleKind;
use tenantry_schema::tenant::TenantKey;
use tenantry_testkit::attacks::{self, Arena, Attack, Expect, MARKER, SEED, Side};
use tenantry_testkit::{Fleet, Login, RawClient, RawError, error_of, rows_of, send_cancel};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// A router before one shard with two tenants.
struct Routed {
    setup: Setup,
    admin: Client,
    ids: [String; 2],
    /// Users that may act for one tenant: attacker, victim.
    users: [String; 2],
}

impl Routed {
    /// Attacked by a role that may act for one tenant only.
    async fn start(key: TenantKey) -> Self {
        let builder = Fleet::builder().shards(1).tenants(2).key(key);
        let setup = setup_with(builder, |config| config.pool_size = 3).await;
        for (index, name) in ["attacker", "victim"].into_iter().enumerate() {
            let tenants = vec![setup.tenant(index).id];
            setup
                .fleet
                .add_role(name, PASSWORD, RoleKind::Tenant, tenants)
                .await
                .unwrap();
        }
        let sequence = setup.fleet.catalog().load_fleet().await.unwrap().sequence;
        let mut follow = setup.router.as_ref().unwrap().follow.clone();
        follow
            .wait_for(|status| status.sequence >= Some(sequence))
            .await
            .unwrap();
        let admin = setup.fleet.shard(0).admin().await.unwrap();
        let arena = Self {
            ids: [setup.id(0), setup.id(1)],
            users: ["attacker".to_owned(), "victim".to_owned()],
            setup,
            admin,
        };
        for (side, name) in [(Side::Attacker, "plain-sparrow"), (Side::Victim, MARKER)] {
            let mut session = arena.open(side, &[]).await.unwrap();
            let seeded = session.query(&SEED.replace("{name}", name)).await.unwrap();
            assert_eq!(error_of(&seeded), None);
        }
        arena.admin.batch_execute("ANALYZE").await.unwrap();
        arena
    }

    /// Attacked by the service role, bound to one tenant by its connection.
    fn attacked_by_service(mut self) -> Self {
        self.users = [0, 1].map(|index| format!("shop.{}", self.ids[index]));
        self
    }

    async fn all_fail(&self, excepted: impl Fn(&Attack) -> bool) {
        let mut succeeded = Vec::new();
        let mut tried = 0;
        for attack in attacks::table() {
            if excepted(&attack) {
                continue;
            }
            tried += 1;
            if let Err(error) = attacks::run(self, &attack).await {
                succeeded.push(error.to_string());
            }
        }
        println!("{tried} attacks tried");
        assert!(succeeded.is_empty(), "{}", succeeded.join("\n"));
        assert!(tried > 100, "only {tried} attacks were tried");
        self.setup.nothing_leaked(0).await;
    }
}

impl Arena for Routed {
    fn tenants(&self) -> (&str, &str) {
        (&self.ids[0], &self.ids[1])
    }

    fn has_router(&self) -> bool {
        true
    }

    async fn open(&self, side: Side, parameters: &[(&str, &str)]) -> Result<RawClient, RawError> {
        let user = &self.users[usize::from(side == Side::Victim)];
        let login = Login::new(user, PASSWORD, DATABASE);
        let login = parameters
            .iter()
            .fold(login, |login, (name, value)| login.parameter(*name, *value));
        RawClient::login(self.setup.address, &login).await
    }

    async fn victims_rows(&self) -> anyhow::Result<String> {
        let tables = [
            "stores",
            "customers",
            "products",
            "orders",
            "events",
            "tenantry.owner",
        ];
        let parts: Vec<String> = tables
            .iter()
            .map(|table| {
                format!(
                    "SELECT '{table} ' || t::text FROM {table} t WHERE tenant_id = '{}'",
                    self.ids[1]
                )
            })
            .collect();
        let sql = format!(
            "SELECT md5(string_agg(x, '|' ORDER BY x)) FROM ({}) AS rows (x)",
            parts.join(" UNION ALL ")
        );
        Ok(self.admin.query_one(&sql, &[]).await?.get(0))
    }
}

#[tokio::test]
async fn every_attack_of_a_tenant_role_fails() {
    let arena = Routed::start(TenantKey::Bigint).await;
    arena.all_fail(|_| false).await;
}

#[tokio::test]
async fn every_attack_of_a_tenant_role_fails_in_a_uuid_fleet() {
    let arena = Routed::start(TenantKey::Uuid).await;
    arena.all_fail(|_| false).await;
}

/// The service role may switch: what it says to the router about its tenant is no forgery.
#[tokio::test]
async fn every_attack_of_a_bound_service_role_fails() {
    let arena = Routed::start(TenantKey::Bigint).await.attacked_by_service();
    let switches = |attack: &Attack| {
        matches!(attack.expect, Expect::Forged(_))
            || attack.name == "forge: prepared statement across a rebind"
    };
    arena.all_fail(switches).await;
}

/// If a statement fails, the bind that travelled with it is undone. What the client has sent behind it must not run
/// as the connection's earlier tenant.
#[tokio::test]
async fn a_failed_statement_does_not_hand_the_next_one_to_another_tenant() {
    let builder = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(builder, |config| config.pool_size = 1).await;
    setup.seed().await;
    let (mut first, mut second) = (setup.raw_for(0).await, setup.raw_for(1).await);
    let own = |index: usize| vec![vec![Some(format!("tenant-{}", setup.id(index)))]];
    let failing: [fn(&mut BytesMut); 3] = [
        |out| frontend::put_query(out, "SELECT 1 / (count(*) - count(*)) FROM events"),
        |out| {
            frontend::put_parse(out, "", "SELECT 1 / (count(*) - count(*)) FROM events", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        },
        |out| {
            frontend::put_query(
                out,
                "SELECT 1; SELECT 1 / (count(*) - count(*)) FROM events",
            )
        },
    ];
    for fail in failing {
        let bound = second.query("SELECT kind FROM events").await.unwrap();
        assert_eq!(rows_of(&bound), own(1));
        first
            .send(|out| {
                fail(out);
                frontend::put_query(out, "SELECT kind FROM events");
                frontend::put_parse(out, "", "SELECT kind FROM events", &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let failed = first.until_ready().await.unwrap();
        assert_eq!(error_of(&failed).unwrap().code, "22012");
        for _ in 0..2 {
            assert_eq!(rows_of(&first.until_ready().await.unwrap()), own(0));
        }
    }
}

/// A transaction's own tenant ends with it, also for what is sent before its end was answered.
#[tokio::test]
async fn what_is_sent_behind_a_commit_is_not_its_transactions_tenants() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    let mut session = setup.raw_for(1).await;
    for end in ["COMMIT", "ROLLBACK"] {
        let texts = [
            "BEGIN".to_owned(),
            format!("SET LOCAL tenantry.tenant = '{}'", setup.id(0)),
            "SELECT kind FROM events".to_owned(),
            end.to_owned(),
            "SELECT kind FROM events".to_owned(),
        ];
        session
            .send(|out| texts.iter().for_each(|text| frontend::put_query(out, text)))
            .await
            .unwrap();
        let mut rows = Vec::new();
        for _ in &texts {
            let messages = session.until_ready().await.unwrap();
            assert_eq!(error_of(&messages), None);
            rows.extend(rows_of(&messages));
        }
        let expected: Vec<_> = [0, 1]
            .map(|index| vec![Some(format!("tenant-{}", setup.id(index)))])
            .into();
        assert_eq!(rows, expected, "{end}");
    }
}

/// The same where the end of the transaction and what follows it are one Query.
#[tokio::test]
async fn what_follows_a_commit_in_its_query_is_not_its_transactions_tenants() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    let mut session = setup.raw_for(1).await;
    let own = |index: usize| vec![Some(format!("tenant-{}", setup.id(index)))];
    for end in ["COMMIT", "ROLLBACK"] {
        let begin = format!("BEGIN; SET LOCAL tenantry.tenant = '{}'", setup.id(0));
        let select = "SELECT kind FROM events";
        let together = format!("{begin}; {select}; {end}; {select}");
        let messages = session.query(&together).await.unwrap();
        assert_eq!(rows_of(&messages), [own(0), own(1)], "{together}");

        session.query(&format!("{begin}; {select}")).await.unwrap();
        let messages = session.query(&format!("{end}; {select}")).await.unwrap();
        assert_eq!(rows_of(&messages), [own(1)], "{end}");

        // Inside of a savepoint's life as well.
        session
            .query(&format!("BEGIN; SAVEPOINT a; {select}"))
            .await
            .unwrap();
        let messages = session
            .query(&format!(
                "ROLLBACK TO a; {select}; RELEASE a; {end}; {select}"
            ))
            .await
            .unwrap();
        assert_eq!(rows_of(&messages), [own(1), own(1)], "{end}");
    }
    drop(session);
    setup.nothing_leaked(0).await;
}

/// SET LOCAL ends at COMMIT AND CHAIN, although a transaction goes on.
#[tokio::test]
async fn a_chained_transaction_is_not_its_predecessors_tenants() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |_| ()).await;
    setup.seed().await;
    let mut session = setup.raw_for(1).await;
    let own = |index: usize| vec![Some(format!("tenant-{}", setup.id(index)))];
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
        let local = format!("SET LOCAL tenantry.tenant = '{}'", setup.id(0));
        let mut rows = Vec::new();
        for text in [
            "BEGIN",
            &local,
            "SELECT kind FROM events",
            end,
            "SELECT kind FROM events",
            "COMMIT",
        ] {
            let messages = session.query(text).await.unwrap();
            assert_eq!(error_of(&messages), None, "{text}");
            rows.extend(rows_of(&messages));
        }
        assert_eq!(rows, [own(0), own(1)], "{end}");
    }
}

/// Where the two tenants live on different shards, what follows the end of the transaction cannot run on the connection
/// at hand: it is refused, or run where it belongs, and never run for another.
#[tokio::test]
async fn what_follows_a_commit_is_never_anothers_on_another_shard() {
    let setup = setup_with(Fleet::builder().shards(2).tenants(8), |_| ()).await;
    setup.seed().await;
    let mut of_shard = Vec::new();
    for shard in setup.fleet.shards() {
        let tenants = setup.fleet.tenants_of(shard).await.unwrap();
        of_shard.push(
            setup
                .fleet
                .id_text(tenants.first().expect("a tenant on each shard").id),
        );
    }
    let own = |id: &str| vec![vec![Some(format!("tenant-{id}"))]];
    let user = setup.login(&format!("shop.{}", of_shard[1]));
    let mut session = RawClient::login(setup.address, &user).await.unwrap();
    let select = "SELECT kind FROM events";
    for end in ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN"] {
        let local = format!(
            "BEGIN; SET LOCAL tenantry.tenant = '{}'; {select}",
            of_shard[0]
        );
        assert_eq!(
            rows_of(&session.query(&local).await.unwrap()),
            own(&of_shard[0])
        );
        let messages = session.query(&format!("{end}; {select}")).await.unwrap();
        match error_of(&messages) {
            None => assert_eq!(rows_of(&messages), own(&of_shard[1]), "{end}"),
            Some(error) => {
                println!("{end}: {} {}", error.code, error.message);
                assert!(rows_of(&messages).is_empty(), "{end}");
            }
        }
        session.query("ROLLBACK").await.unwrap();
        // Outside of that Query it is served.
        assert_eq!(
            rows_of(&session.query(select).await.unwrap()),
            own(&of_shard[1]),
            "{end}"
        );
    }
    drop(session);
    setup.nothing_leaked(0).await;
}

const FLOOD_CLIENTS: usize = 12;
const FLOOD_TRANSACTIONS: usize = 600;
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
