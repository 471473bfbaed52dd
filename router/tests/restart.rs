//! More than one router: a cancel request that reaches the wrong one, and one that takes the place of another
//! while clients are at work.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::probe::until;
use common::{Setup, config, setup_with, start};
use tenantry_router::{Config, Running};
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of, send_cancel};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend;
use tenantry_wire::startup::ProtocolVersion;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A statement that only a cancel request ends in the time of a test.
const LONG: &str = "SELECT pg_sleep(60)";

async fn fleet_with_one_router(change: impl FnOnce(&mut Config)) -> Setup {
    setup_with(Fleet::builder().shards(1).tenants(2), change).await
}

/// Starts the long statement; the handle answers what became of it.
async fn long_statement(
    setup: &Setup,
    mut client: RawClient,
) -> JoinHandle<(RawClient, Vec<Message>)> {
    client
        .send(|out| frontend::put_query(out, LONG))
        .await
        .unwrap();
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let running = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query = $1 AND state = 'active'";
    until("the statement runs", async || {
        let row = admin.query_one(running, &[&LONG]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    tokio::spawn(async move {
        let messages = client.until_ready().await.unwrap();
        (client, messages)
    })
}

#[tokio::test]
async fn a_cancel_request_finds_its_router() {
    let setup = fleet_with_one_router(|config| config.name = "first".to_owned()).await;
    let second = start(Config {
        name: "second".to_owned(),
        ..config(&setup.fleet)
    })
    .await;
    for version in [ProtocolVersion::V3_0, ProtocolVersion::V3_2] {
        cancel_by_way_of(&setup, &second, version).await;
    }
    second.stop().await;
}

/// Cancels a statement on the first router with requests to the second.
async fn cancel_by_way_of(setup: &Setup, second: &Running, version: ProtocolVersion) {
    let mut client = RawClient::connect(setup.address).await.unwrap();
    let login = setup.login(&format!("shop.{}", setup.id(0)));
    client.start_session(version, &login).await.unwrap();
    let (pid, key) = client
        .cancel_key()
        .map(|(pid, key)| (pid, key.to_vec()))
        .unwrap();
    let statement = long_statement(setup, client).await;

    // A wrong key changes nothing, whoever gets it.
    let mut wrong = key.clone();
    wrong[0] ^= 1;
    for address in [setup.address, second.pg_addr] {
        send_cancel(address, pid, &wrong).await.unwrap();
    }
    assert!(!statement.is_finished());

    // The second router learns of the first with its first heartbeat.
    until("a request reaches its router", async || {
        send_cancel(second.pg_addr, pid, &key).await.unwrap();
        statement.is_finished().then_some(())
    })
    .await;
    let (mut client, messages) = statement.await.unwrap();
    assert_eq!(error_of(&messages).unwrap().code, "57014");
    let rows = rows_of(&client.query("SELECT 1").await.unwrap());
    assert_eq!(rows, [[Some("1".to_owned())]]);
}

/// What follows a router in the same place.
fn successor(setup: &Setup, path: &Path) -> Config {
    Config {
        handover_socket: Some(path.to_path_buf()),
        ..config(&setup.fleet)
    }
}

async fn fleet_with_handover(drain: Duration) -> (Setup, PathBuf) {
    let mut path = PathBuf::new();
    let setup = fleet_with_one_router(|config| {
        path = config.secrets_file.with_file_name("handover");
        config.handover_socket = Some(path.clone());
        config.timeouts.drain = drain;
    })
    .await;
    (setup, path)
}

/// Connects, asks once and leaves, over and over.
struct Visitors {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Visitors {
    fn start(setup: &Setup, count: usize) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (address, login) = (setup.address, setup.login(&format!("shop.{}", setup.id(1))));
        let tasks = (0..count)
            .map(|_| {
                let (stop, served, login) = (Arc::clone(&stop), Arc::clone(&served), login.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        visit(address, &login).await;
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self {
            stop,
            served,
            tasks,
        }
    }

    async fn more(&self, count: usize) {
        let before = self.served.load(Ordering::Relaxed);
        until("more visitors are served", async || {
            (self.served.load(Ordering::Relaxed) >= before + count).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// Neither refused nor sent away before its first statement has been answered.
async fn visit(address: SocketAddr, login: &tenantry_testkit::Login) {
    let mut client = RawClient::login(address, login).await.unwrap();
    let messages = client.query("SELECT 1").await.unwrap();
    assert_eq!(rows_of(&messages), [[Some("1".to_owned())]]);
}

#[tokio::test]
async fn a_restart_refuses_nobody_and_drops_no_transaction() {
    let (mut setup, path) = fleet_with_handover(Duration::from_secs(30)).await;
    let mut open = setup.raw_for(0).await;
    open.query("BEGIN; INSERT INTO events (id, kind, subject) VALUES (7, 'kept', 'restart')")
        .await
        .unwrap();
    let mut idle = setup.raw_for(0).await;
    idle.query("SELECT 1").await.unwrap();
    let asleep = setup.raw_for(1).await;
    let (pid, key) = asleep
        .cancel_key()
        .map(|(pid, key)| (pid, key.to_vec()))
        .unwrap();
    let asleep = long_statement(&setup, asleep).await;
    let visitors = Visitors::start(&setup, 4);
    visitors.more(4).await;

    let next = start(successor(&setup, &path)).await;
    assert_eq!((next.pg_addr, next.http_addr), (setup.address, setup.http));
    let old = setup.router.take().unwrap();
    old.replaced().await;
    let nobody = CancellationToken::new();
    let draining = tokio::spawn(async move { old.stop_replaced(&nobody).await });
    let last = idle.until_closed().await.unwrap();
    assert_eq!(error_of(&last).unwrap().code, "57P01");
    visitors.more(20).await;

    // The cancel request reaches the new router, its session is the old one's.
    send_cancel(setup.address, pid, &key).await.unwrap();
    let (_, messages) = asleep.await.unwrap();
    assert_eq!(error_of(&messages).unwrap().code, "57014");
    assert!(!draining.is_finished());

    assert_eq!(error_of(&open.query("COMMIT").await.unwrap()), None);
    let last = open.until_closed().await.unwrap();
    assert_eq!(error_of(&last).unwrap().code, "57P01");
    draining.await.unwrap();
    visitors.more(20).await;
    visitors.stop().await;
    let mut client = setup.raw_for(0).await;
    let kept = client
        .query("SELECT kind FROM events WHERE id = 7")
        .await
        .unwrap();
    assert_eq!(rows_of(&kept), [[Some("kept".to_owned())]]);

    // And the next restart finds the new one.
    again(&setup, &path, next).await;
}

async fn again(setup: &Setup, path: &Path, running: Running) {
    let next = start(successor(setup, path)).await;
    running.replaced().await;
    running.stop_replaced(&CancellationToken::new()).await;
    let mut client = setup.raw_for(0).await;
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
    next.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_successor_that_does_not_serve_changes_nothing() {
    let (mut setup, path) = fleet_with_handover(Duration::from_secs(30)).await;
    let mut client = setup.raw_for(0).await;
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // It has been handed the sockets, and dies.
        let mut header = [0_u8; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut header)
            .await
            .unwrap();
    }
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
    let mut other = setup.raw_for(1).await;
    assert_eq!(error_of(&other.query("SELECT 1").await.unwrap()), None);
    setup.router.take().unwrap().stop().await;
}

#[tokio::test]
async fn a_replaced_router_in_a_hurry_ends_what_is_left() {
    let (mut setup, path) = fleet_with_handover(Duration::from_millis(200)).await;
    let mut open = setup.raw_for(0).await;
    open.query("BEGIN; SELECT count(*) FROM events")
        .await
        .unwrap();
    let config = Config {
        snapshot_file: None,
        ..successor(&setup, &path)
    };
    let next = start(config).await;
    let old = setup.router.take().unwrap();
    old.replaced().await;
    let hurry = CancellationToken::new();
    hurry.cancel();
    old.stop_replaced(&hurry).await;
    let last = open.until_closed().await.unwrap();
    assert_eq!(error_of(&last).unwrap().code, "57P01");
    next.stop().await;
}
