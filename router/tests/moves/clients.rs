//! Clients that write without a pause, each in its own way of speaking the protocol, and keep a ledger of what they were
//! told is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::BytesMut;
use tenantry_testkit::{Login, RawClient, error_of, rows_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::backend as tag;
use tokio::task::JoinHandle;

use super::common::Setup;
use super::common::probe::until;

/// A way of writing one event or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Simple,
    Several,
    Unnamed,
    Named,
    Pipeline,
    SqlPrepared,
    Transaction,
    Savepoint,
    TransactionInOneQuery,
    TransactionInOneBatch,
    RepeatableRead,
    Serializable,
    SerializableInOneQuery,
    Copy,
    Settings,
    Local,
    Cursor,
}

pub const ALL: &[Way] = &[
    Way::Simple,
    Way::Several,
    Way::Unnamed,
    Way::Named,
    Way::Pipeline,
    Way::SqlPrepared,
    Way::Transaction,
    Way::Savepoint,
    Way::TransactionInOneQuery,
    Way::TransactionInOneBatch,
    Way::RepeatableRead,
    Way::Serializable,
    Way::SerializableInOneQuery,
    Way::Copy,
    Way::Settings,
    Way::Local,
    Way::Cursor,
];

const INSERT: &str = "INSERT INTO events (kind, subject) VALUES ('moves', $1)";

fn insert(subject: &str) -> String {
    format!("INSERT INTO events (kind, subject) VALUES ('moves', '{subject}')")
}

/// One client.
pub struct Writer {
    client: RawClient,
    way: Way,
    name: String,
    count: usize,
    /// What was acknowledged.
    pub ledger: Vec<String>,
}

impl Writer {
    pub async fn start(setup: &Setup, tenant: usize, way: Way, name: String) -> Self {
        let login = setup.login(&format!("shop.{}", setup.id(tenant)));
        Self::login(setup.address, &login, way, name).await
    }

    pub async fn login(
        address: std::net::SocketAddr,
        login: &Login,
        way: Way,
        name: String,
    ) -> Self {
        let mut client = RawClient::login(address, login).await.unwrap();
        match way {
            Way::Named | Way::Pipeline => {
                client
                    .send(|out| {
                        frontend::put_parse(out, "ins", INSERT, &[]);
                        frontend::put_sync(out);
                    })
                    .await
                    .unwrap();
                expect_no_error(&client.until_ready().await.unwrap(), way);
            }
            Way::SqlPrepared => {
                let prepare = format!("PREPARE ins (text) AS {INSERT}");
                expect_no_error(&client.query(&prepare).await.unwrap(), way);
            }
            Way::Settings => {
                let set = "SET timezone TO 'Asia/Tokyo'";
                expect_no_error(&client.query(set).await.unwrap(), way);
            }
            _ => {}
        }
        Self {
            client,
            way,
            name,
            count: 0,
            ledger: Vec::new(),
        }
    }

    fn next(&mut self) -> String {
        self.count += 1;
        format!("{}-{:06}", self.name, self.count)
    }

    async fn ask(&mut self, text: &str) -> Vec<Message> {
        let messages = self.client.query(text).await.unwrap();
        expect_no_error(&messages, self.way);
        messages
    }

    async fn batch(&mut self, syncs: usize, build: impl FnOnce(&mut BytesMut)) {
        self.client.send(build).await.unwrap();
        for _ in 0..syncs {
            let messages = self.client.until_ready().await.unwrap();
            expect_no_error(&messages, self.way);
        }
    }

    /// Writes once more; everything must succeed.
    pub async fn write(&mut self) {
        let (one, two) = (self.next(), self.next());
        let both = vec![one.clone(), two.clone()];
        let written = match self.way {
            Way::Simple => {
                self.ask(&insert(&one)).await;
                vec![one]
            }
            Way::Several => {
                let text = format!("{}; SELECT 1; {}", insert(&one), insert(&two));
                self.ask(&text).await;
                both
            }
            Way::Unnamed => {
                self.batch(1, |out| {
                    frontend::put_parse(out, "", INSERT, &[]);
                    put_run(out, "", &one);
                    frontend::put_sync(out);
                })
                .await;
                vec![one]
            }
            Way::Named => {
                self.batch(1, |out| {
                    put_run(out, "ins", &one);
                    frontend::put_sync(out);
                })
                .await;
                vec![one]
            }
            Way::Pipeline => {
                self.batch(2, |out| {
                    for subject in [&one, &two] {
                        put_run(out, "ins", subject);
                        frontend::put_sync(out);
                    }
                })
                .await;
                both
            }
            Way::SqlPrepared => {
                self.ask(&format!("EXECUTE ins ('{one}')")).await;
                vec![one]
            }
            Way::Transaction => {
                self.steps(&["BEGIN", &insert(&one), "SELECT 1", &insert(&two), "COMMIT"])
                    .await;
                both
            }
            Way::Savepoint => {
                let steps = [
                    "BEGIN",
                    "SAVEPOINT a",
                    &insert(&one),
                    "ROLLBACK TO a",
                    &insert(&two),
                    "COMMIT",
                ];
                self.steps(&steps).await;
                vec![two]
            }
            Way::TransactionInOneQuery => {
                let text = format!("BEGIN; {}; {}; COMMIT", insert(&one), insert(&two));
                self.ask(&text).await;
                both
            }
            Way::TransactionInOneBatch => {
                self.batch(1, |out| {
                    for text in ["BEGIN", &insert(&one), "COMMIT"] {
                        frontend::put_parse(out, "", text, &[]);
                        frontend::put_bind(out, "", "", &[], Format::Text);
                        frontend::put_execute(out, "", 0);
                    }
                    frontend::put_sync(out);
                })
                .await;
                vec![one]
            }
            Way::RepeatableRead => {
                let steps = [
                    "BEGIN",
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                    &insert(&one),
                    "COMMIT",
                ];
                self.steps(&steps).await;
                vec![one]
            }
            Way::Serializable => {
                self.steps(&[
                    "BEGIN ISOLATION LEVEL SERIALIZABLE",
                    &insert(&one),
                    "COMMIT",
                ])
                .await;
                vec![one]
            }
            Way::SerializableInOneQuery => {
                let text = format!(
                    "BEGIN ISOLATION LEVEL SERIALIZABLE; {}; COMMIT",
                    insert(&one)
                );
                self.ask(&text).await;
                vec![one]
            }
            Way::Copy => {
                self.copy(&[&one, &two]).await;
                both
            }
            Way::Settings => {
                let shown = self.ask("SHOW timezone").await;
                assert_eq!(rows_of(&shown), [[Some("Asia/Tokyo".to_owned())]]);
                let text = format!(
                    "INSERT INTO events (kind, subject) SELECT 'moves', '{one}' \
                     WHERE current_setting('timezone') = 'Asia/Tokyo'"
                );
                self.ask(&text).await;
                vec![one]
            }
            Way::Local => {
                let check = format!(
                    "INSERT INTO events (kind, subject) SELECT 'moves', '{one}' \
                     WHERE current_setting('work_mem') = '5MB'"
                );
                self.steps(&["BEGIN", "SET LOCAL work_mem TO '5MB'", &check, "COMMIT"])
                    .await;
                vec![one]
            }
            Way::Cursor => {
                let steps = [
                    "BEGIN",
                    "DECLARE c CURSOR FOR SELECT n FROM generate_series(1, 3) n, (SELECT count(*) FROM events) e",
                    "FETCH 1 FROM c",
                    &insert(&one),
                    "FETCH 1 FROM c",
                    "COMMIT",
                ];
                self.steps(&steps).await;
                vec![one]
            }
        };
        self.ledger.extend(written);
    }

    async fn steps(&mut self, texts: &[&str]) {
        for text in texts {
            self.ask(text).await;
        }
    }

    async fn copy(&mut self, subjects: &[&str]) {
        self.client
            .send(|out| {
                frontend::put_query(out, "COPY events (kind, subject) FROM STDIN");
            })
            .await
            .unwrap();
        let started = self.client.receive().await.unwrap();
        if started.tag != tag::COPY_IN {
            expect_no_error(&[started], self.way);
            panic!("COPY has not begun");
        }
        self.client
            .send(|out| {
                for subject in subjects {
                    frontend::put_copy_data(out, format!("moves\t{subject}\n").as_bytes());
                }
                frontend::put_copy_done(out);
            })
            .await
            .unwrap();
        let messages = self.client.until_ready().await.unwrap();
        expect_no_error(&messages, self.way);
    }
}

fn put_run(out: &mut BytesMut, statement: &str, subject: &str) {
    let parameters = [Some(subject.as_bytes())];
    frontend::put_bind(out, "", statement, &parameters, Format::Text);
    frontend::put_execute(out, "", 0);
}

#[track_caller]
fn expect_no_error(messages: &[Message], way: Way) {
    if let Some(error) = error_of(messages) {
        panic!("{way:?}: {error:?}");
    }
}

/// Clients of all ways, at work.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    written: Vec<Arc<AtomicUsize>>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    pub async fn start(setup: &Setup, tenant: usize, ways: &[Way]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (mut written, mut tasks) = (Vec::new(), Vec::new());
        for way in ways {
            let mut writer = Writer::start(setup, tenant, *way, format!("{way:?}")).await;
            let count = Arc::<AtomicUsize>::default();
            written.push(Arc::clone(&count));
            let stop = Arc::clone(&stop);
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    writer.write().await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                writer.ledger
            }));
        }
        Self {
            stop,
            written,
            tasks,
        }
    }

    /// Waits until each has written so often from now on.
    pub async fn more(&self, count: usize) {
        let read = |count: &Arc<AtomicUsize>| count.load(Ordering::Relaxed);
        let before: Vec<_> = self.written.iter().map(read).collect();
        until("everyone writes", async || {
            if let Some(failed) = self.tasks.iter().position(JoinHandle::is_finished) {
                panic!("client {failed} has ended");
            }
            let all = self.written.iter().zip(&before);
            all.into_iter()
                .all(|(now, before)| read(now) >= before + count)
                .then_some(())
        })
        .await;
    }

    /// Everything that was acknowledged, in order.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ledger = Vec::new();
        for task in self.tasks {
            ledger.extend(task.await.unwrap());
        }
        ledger.sort();
        ledger
    }
}
