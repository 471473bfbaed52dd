//! The demo from the outside: up, used, down, up again, gone.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use support::{Ended, tenantry};

/// A directory for one demo, and ports of its own. Whatever the test did, the demo is ended with it.
struct Site {
    dir: TempDir,
    base: u16,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Servers that root starts run as another user, who must be able to pass.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self {
            dir,
            base: free_base(),
        }
    }

    fn demo(&self) -> PathBuf {
        self.dir.path().join("demo")
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = tenantry(self.dir.path());
        command
            .arg("demo")
            .args(arguments)
            .arg("--dir")
            .arg(self.demo());
        Ended::of(&mut command)
    }

    fn up(&self) -> Ended {
        let base = self.base.to_string();
        self.run(&[
            "up",
            "--detach",
            "--shards",
            "1",
            "--tenants",
            "5",
            "--port-base",
            &base,
        ])
    }

    fn descriptor(&self) -> Value {
        serde_json::from_slice(&fs::read(self.demo().join("demo.json")).unwrap()).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.demo().exists() {
            self.run(&["down"]);
        }
    }
}

/// A base whose ports are all free now: +0 to +2, and +10 to +12 for the catalog, one shard and the spare.
fn free_base() -> u16 {
    loop {
        let first = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let base = first.local_addr().unwrap().port();
        if base < u16::MAX - 20
            && [1, 2, 10, 11, 12]
                .iter()
                .all(|n| TcpListener::bind(("127.0.0.1", base + n)).is_ok())
        {
            return base;
        }
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn count(client: &Client, table: &str) -> i64 {
    client
        .query_one(&format!("SELECT count(*) FROM {table}"), &[])
        .await
        .unwrap()
        .get(0)
}

/// Every path to a value, list positions left out: `shards[].name`.
fn paths(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                paths(value, &path, found);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| paths(item, &format!("{prefix}[]"), found)),
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

fn pids(descriptor: &Value) -> Vec<i32> {
    let shards = descriptor["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| &shard["pid"]);
    shards
        .chain([&descriptor["pid"]])
        .map(|pid| i32::try_from(pid.as_i64().unwrap()).unwrap())
        .collect()
}

/// Whether the process lives. One that ended and that nobody has collected yet has no command line any more.
fn is_running(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
        && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Processes whose command line names `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&dir))
        .collect()
}

/// Waits for a condition, and fails the test when it does not come.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A second shard on the first one's server, and a tenant that lives there: bootstrapped, admitted and served by what
/// runs.
async fn add_a_shard(site: &Site, descriptor: &Value) {
    let config = site.demo().join("tenantry.toml");
    let tenantry = |arguments: &[&str]| {
        let mut command = tenantry(site.dir.path());
        command
            .arg("--config")
            .arg(&config)
            .args(["--output", "json"])
            .args(arguments);
        Ended::of(&mut command)
    };
    let port = (site.base + 11).to_string();
    let add = [
        "shard",
        "add",
        "extra",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--database",
        "extra",
        "--weight",
        "50",
    ];
    let ended = tenantry(&add);
    assert!(ended.stderr.contains("secrets"), "{}", ended.stderr);
    ended.ok();
    let homes = tenantry(&["tenant", "list"]).json();
    assert!(
        homes
            .as_array()
            .unwrap()
            .iter()
            .all(|tenant| tenant["shard"] == json!("shard-1")),
        "{homes}"
    );

    // With 50 of 51 parts of the ring a new tenant all but surely lives on the new shard; a few tries make it certain.
    let slug = (1..10)
        .map(|number| format!("newcomer-{number}"))
        .find(|slug| {
            tenantry(&["tenant", "create", slug, "--wait"]).json()["shard"] == json!("extra")
        })
        .unwrap();
    let service = connect(descriptor["urls"]["service"].as_str().unwrap()).await;
    service
        .batch_execute(&format!(
            "BEGIN; SET LOCAL tenantry.tenant = '{slug}';
             INSERT INTO stores (name, email) VALUES ('Newcomer', 'a@mail.example'); COMMIT"
        ))
        .await
        .unwrap();
    let url = descriptor["shards"][0]["url"].as_str().unwrap();
    let extra = connect(&url.replace("/shop", "/extra")).await;
    assert_eq!(count(&extra, "stores").await, 1);
    let doctor = tenantry(&["doctor"]).json();
    let wrong = doctor
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["status"] == json!("failed"))
        .count();
    assert_eq!(wrong, 0, "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_serves_survives_a_restart_and_leaves_nothing() {
    let site = Site::new();
    let banner = site.up().ok();
    for line in [
        "psql postgresql://store.",
        "curl 'http://",
        "demo load",
        "demo down",
    ] {
        assert!(banner.contains(line), "no `{line}` in {banner}");
    }

    let descriptor = site.descriptor();
    let mut keys = BTreeSet::new();
    paths(&descriptor, "", &mut keys);
    insta::assert_json_snapshot!(keys, @r#"
    [
      "dir",
      "http",
      "pid",
      "shards[].kind",
      "shards[].name",
      "shards[].pid",
      "shards[].url",
      "tenants[].hostname",
      "tenants[].id",
      "tenants[].shard",
      "tenants[].slug",
      "urls.catalog",
      "urls.operator",
      "urls.service",
      "urls.tenant"
    ]
    "#);
    let kinds: Vec<&str> = descriptor["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["shared", "spare"]);
    let mode = fs::metadata(site.demo().join("demo.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "it holds passwords");

    // Each store's rows are where the catalog says, and the service role sees one store at a time.
    let mut service = connect(descriptor["urls"]["service"].as_str().unwrap()).await;
    for tenant in descriptor["tenants"].as_array().unwrap() {
        let transaction = service.transaction().await.unwrap();
        let slug = tenant["slug"].as_str().unwrap();
        transaction
            .batch_execute(&format!("SET LOCAL tenantry.tenant = '{slug}'"))
            .await
            .unwrap();
        let row = transaction
            .query_one(
                "SELECT count(*), min(tenant_id), max(tenant_id) FROM orders",
                &[],
            )
            .await
            .unwrap();
        let id: i64 = tenant["id"].as_str().unwrap().parse().unwrap();
        assert_eq!((row.get::<_, i64>(1), row.get::<_, i64>(2)), (id, id));
        assert!(row.get::<_, i64>(0) >= 6);
        transaction.commit().await.unwrap();
    }
    let shard = connect(descriptor["shards"][0]["url"].as_str().unwrap()).await;
    let orders = count(&shard, "orders").await;
    let spare = connect(descriptor["shards"][1]["url"].as_str().unwrap()).await;
    assert_eq!(
        (count(&shard, "stores").await, count(&spare, "stores").await),
        (5, 0)
    );

    let status = site.run(&["status", "--output", "json"]).json();
    assert_eq!(
        (&status["state"], &status["down"]),
        (&json!("running"), &json!([]))
    );
    assert!(site.up().fails(4).contains("already running"));

    let load = site
        .run(&[
            "load",
            "--clients",
            "3",
            "--duration",
            "1500ms",
            "--seed",
            "7",
            "--output",
            "json",
        ])
        .json();
    assert_eq!(
        (&load["errors"], &load["total"]["errors"]),
        (&json!({}), &json!(0)),
        "{load}"
    );
    let added = count(&shard, "orders").await - orders;
    assert_eq!(load["actions"][3]["action"], json!("checkout"));
    assert_eq!(load["actions"][3]["transactions"], json!(added));

    add_a_shard(&site, &descriptor).await;

    let first_pids = pids(&descriptor);
    site.run(&["down"]).ok();
    assert!(!first_pids.into_iter().any(is_running));
    assert_eq!(
        site.run(&["status", "--output", "json"]).json()["state"],
        json!("stopped")
    );
    assert!(site.run(&["load"]).fails(4).contains("no demo is running"));

    // The data is still there, at other ports; what was asked for at first cannot be changed later.
    let base = free_base().to_string();
    assert!(
        site.run(&["up", "--shards", "2"])
            .fails(4)
            .contains("1 shards and 5 stores")
    );
    site.run(&["up", "--detach", "--port-base", &base]).ok();
    let again = site.descriptor();
    assert!(again["urls"]["service"].as_str().unwrap().contains(&base));
    let shard = connect(again["shards"][0]["url"].as_str().unwrap()).await;
    assert_eq!(count(&shard, "orders").await, orders + added);
    let mut service = connect(again["urls"]["service"].as_str().unwrap()).await;
    let transaction = service.transaction().await.unwrap();
    transaction
        .batch_execute("SET LOCAL tenantry.tenant = '1'")
        .await
        .unwrap();
    transaction
        .query_one("SELECT name FROM stores", &[])
        .await
        .unwrap();
    transaction.rollback().await.unwrap();

    let second_pids = pids(&again);
    site.run(&["down", "--purge"]).ok();
    assert!(!second_pids.into_iter().any(is_running));
    assert!(!site.demo().exists());
    assert_eq!(processes_of(site.dir.path()), Vec::<String>::new());
    site.run(&["status"]).fails(3);
}

/// Starts a demo in the foreground and waits for its banner.
fn foreground(site: &Site) -> Child {
    let program = assert_cmd::cargo::cargo_bin("tenantry");
    let mut child = std::process::Command::new(program)
        .args([
            "demo",
            "up",
            "--shards",
            "1",
            "--tenants",
            "3",
            "--port-base",
            &site.base.to_string(),
            "--dir",
        ])
        .arg(site.demo())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("ready"), "{first}");
    child
}

#[test]
fn an_interrupt_stops_everything_and_so_does_a_kill() {
    let site = Site::new();
    let mut child = foreground(&site);
    let servers = pids(&site.descriptor());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!servers.into_iter().any(is_running));
    assert!(!site.demo().join("demo.json").exists());

    let mut child = foreground(&site);
    let servers = pids(&site.descriptor());
    child.kill().unwrap();
    child.wait().unwrap();
    site.run(&["down", "--purge"]).ok();
    wait_until("the servers of a killed demo end", || {
        !servers.iter().copied().any(is_running)
    });
    wait_until("their watchers end", || {
        processes_of(site.dir.path()).is_empty()
    });
    assert!(!site.demo().exists());
}

#[test]
fn a_demo_keeps_off_what_is_not_its_own() {
    let site = Site::new();
    fs::create_dir(site.demo()).unwrap();
    fs::write(site.demo().join("thesis.tex"), "years").unwrap();
    assert!(site.up().fails(4).contains("holds no demo"));
    site.run(&["down", "--purge"]).fails(3);
    assert!(site.demo().join("thesis.tex").exists());
    fs::remove_dir_all(site.demo()).unwrap();

    let taken = TcpListener::bind(("127.0.0.1", site.base + 11)).unwrap();
    let text = site.up().fails(4);
    assert!(
        text.contains(&taken.local_addr().unwrap().port().to_string()),
        "{text}"
    );
    assert!(!site.demo().join("demo.json").exists());
    site.run(&["up", "--shards", "0"]).fails(2);
}
