//! One role per process: each starts from its configuration, does its work, and ends on a signal.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::Fleet;
use tokio_postgres::NoTls;

use support::{Ended, tenantry};

/// A role's process, ended with the test.
struct Role(Child);

impl Role {
    /// Starts the process and returns once it has logged `ready`.
    fn start(fleet: &Fleet, arguments: &[&str], ready: &str) -> Self {
        let program = assert_cmd::cargo::cargo_bin("tenantry");
        let mut child = Command::new(program)
            .current_dir(fleet.dir())
            .env("TENANTRY_CATALOG__URL", fleet.catalog_url())
            .env("TENANTRY_SECRETS__FILE", fleet.secrets_path())
            .env("TENANTRY_LOG__FORMAT", "json")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let role = Self(child);
        let mut seen = Vec::new();
        while !seen
            .last()
            .is_some_and(|line: &String| line.contains(ready))
        {
            seen.push(
                lines
                    .next()
                    .unwrap_or_else(|| panic!("no `{ready}` in {seen:#?}"))
                    .unwrap(),
            );
        }
        let json = serde_json::from_str::<Value>(seen.last().unwrap()).unwrap();
        assert_eq!(json["level"], json!("INFO"));
        // Read on, or the process would sooner or later wait for someone to do so.
        std::thread::spawn(move || lines.for_each(drop));
        role
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the process to end by itself.
    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

async fn connect(address: &str) -> tokio_postgres::Client {
    let (host, port) = address.split_once(':').unwrap();
    let url = format!("postgresql://shop:secret@{host}:{port}/shop");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn router_and_agent_serve_as_processes_of_their_own() {
    let fleet = Fleet::builder()
        .shards(1)
        .agent(false)
        .start()
        .await
        .unwrap();
    fleet
        .add_role("shop", "secret", RoleKind::Service, Vec::new())
        .await
        .unwrap();
    let mut agent = Role::start(&fleet, &["agent"], "shard agent started");
    let (listen, http) = (free_address(), free_address());
    let mut router = Role::start(
        &fleet,
        &["router", "--listen", &listen, "--http-listen", &http],
        "router is listening",
    );

    let mut create = tenantry(fleet.dir());
    create
        .env("TENANTRY_CATALOG__URL", fleet.catalog_url())
        .args(["tenant", "create", "acorn", "--wait", "--output", "json"]);
    assert_eq!(Ended::of(&mut create).json()["state"], json!("active"));

    let client = connect(&listen).await;
    client
        .batch_execute("BEGIN; SET LOCAL tenantry.tenant = 'acorn'; SELECT FROM stores")
        .await
        .unwrap();
    // The first signal waits for the transaction, the second does not.
    router.signal(Signal::TERM);
    client.batch_execute("SELECT FROM stores").await.unwrap();
    router.signal(Signal::INT);
    assert_eq!(router.ended().code(), Some(130));
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_ends_cleanly_on_the_first_signal() {
    let fleet = Fleet::builder()
        .shards(1)
        .agent(false)
        .start()
        .await
        .unwrap();
    let (listen, http) = (free_address(), free_address());
    let mut roles = [
        Role::start(&fleet, &["rebalancer"], "rebalancer started"),
        Role::start(&fleet, &["console"], "console started"),
        Role::start(
            &fleet,
            &["router", "--listen", &listen, "--http-listen", &http],
            "router is listening",
        ),
    ];
    for role in &mut roles {
        role.signal(Signal::TERM);
        assert!(role.ended().success());
    }
}

/// SIGHUP reads the file anew, a bad file changes nothing, and the console's SHUTDOWN ends the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_reloads_on_a_signal_and_stops_at_an_operators_word() {
    let fleet = Fleet::builder().shards(1).tenants(1).start().await.unwrap();
    let role = fleet.add_role("ops", "secret", RoleKind::Operator, Vec::new());
    role.await.unwrap();
    let file = fleet.dir().join("tenantry.toml");
    std::fs::write(&file, "[router]\npool_size = 5\n").unwrap();
    let (listen, http) = (free_address(), free_address());
    let arguments = ["router", "--listen", &listen, "--http-listen", &http];
    let mut router = Role::start(&fleet, &arguments, "router is listening");
    let address: std::net::SocketAddr = listen.parse().unwrap();
    let console = loop {
        let connected = tokio_postgres::Config::new()
            .host(address.ip().to_string())
            .port(address.port())
            .user("ops")
            .password("secret")
            .dbname("tenantry")
            .connect(NoTls)
            .await;
        // Until the router knows the fleet it refuses sessions.
        if let Ok((client, connection)) = connected {
            tokio::spawn(connection);
            break client;
        }
    };
    let pool_size = async || {
        let rows = console.query("SHOW CONFIG", &[]).await.unwrap();
        let row = rows
            .iter()
            .find(|row| row.get::<_, &str>("key") == "router.pool_size");
        row.unwrap().get::<_, String>("value")
    };
    assert_eq!(pool_size().await, "5");
    std::fs::write(&file, "[router]\npool_size = 7\n").unwrap();
    router.signal(Signal::HUP);
    while pool_size().await != "7" {}
    std::fs::write(&file, "[router]\npool_size = 9\nclients_max = \"many\"\n").unwrap();
    let error = console.simple_query("RELOAD").await.unwrap_err();
    let message = error.as_db_error().unwrap().message().to_owned();
    assert!(message.contains("router.clients_max"), "{message}");
    assert_eq!(pool_size().await, "7");
    console.simple_query("SHUTDOWN").await.unwrap();
    assert!(router.ended().success());
}
