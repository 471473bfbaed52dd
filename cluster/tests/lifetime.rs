//! A server started from a test or a demo ends with whoever started it, however that ends.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tenantry_cluster::{Lifetime, Server, ServerError, ServerOptions, StopMode};

/// Whether a process of this number exists that has not ended.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn drop_ends_the_server_and_deletes_its_files() {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    let (pid, dir) = (server.pid().unwrap(), server.dir().to_owned());
    let row = server
        .connect("postgres")
        .await
        .unwrap()
        .query_one("SHOW server_version_num", &[])
        .await
        .unwrap();
    assert!(row.get::<_, &str>(0) >= "150000");
    drop(server);
    assert!(!is_alive(pid));
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_panic_ends_the_server() {
    let (report, started) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let server = Server::start(ServerOptions::throwaway()).await.unwrap();
        report
            .send((server.pid().unwrap(), server.dir().to_owned()))
            .unwrap();
        panic!("meant to happen");
    });
    let (pid, dir) = started.await.unwrap();
    assert!(task.await.unwrap_err().is_panic());
    assert!(!is_alive(pid));
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    open_to_all(parent.path());
    let dir = parent.path().join("data-kept");
    // Given up while files are copied, and while the process starts.
    for seen in ["data", "server.log"] {
        tokio::select! {
            biased;
            () = until("it has begun", || dir.join(seen).exists()) => {}
            _ = Server::start(ServerOptions::durable(&dir)) => panic!("it was to be given up half way"),
        }
        assert!(!dir.join("data/postmaster.pid").exists());
        assert!(!dir.join("superuser.password").exists());
    }
    // The next start finds a half-made directory and makes it whole.
    let server = Server::start(ServerOptions::durable(&dir)).await.unwrap();
    server.connect("postgres").await.unwrap();
}

/// Runs [`owner`] in a process of its own and returns it with what it started.
fn owner_process() -> (Child, u32, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find_map(|line| line.split_once("started ").map(|(_, rest)| rest.to_owned()));
    let line = line.unwrap();
    let (pid, dir) = line.split_once(' ').unwrap();
    (child, pid.parse().unwrap(), PathBuf::from(dir))
}

#[tokio::test]
#[ignore = "run by the tests below in a process of its own"]
async fn owner() {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    println!(
        "\nstarted {} {}",
        server.pid().unwrap(),
        server.dir().display()
    );
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn sigkill_of_the_owner_ends_the_server() {
    let (mut child, pid, dir) = owner_process();
    assert!(is_alive(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    until("server and files are gone", || {
        !is_alive(pid) && !dir.exists()
    })
    .await;
}

#[tokio::test]
async fn ctrl_c_ends_the_server() {
    let (mut child, pid, dir) = owner_process();
    let status = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    assert!(!child.wait().unwrap().success());
    until("server and files are gone", || {
        !is_alive(pid) && !dir.exists()
    })
    .await;
}

#[tokio::test]
async fn a_detached_server_is_adopted_and_stopped_by_another_handle() {
    let parent = tempfile::tempdir().unwrap();
    open_to_all(parent.path());
    let dir = parent.path().join("shard");
    let options = ServerOptions::durable(&dir).lifetime(Lifetime::Detached);
    let server = Server::start(options.clone()).await.unwrap();
    let (pid, port) = (server.pid().unwrap(), server.port());
    drop(server);
    assert!(is_alive(pid));

    let adopted = Server::adopt(&dir).unwrap();
    assert_eq!((adopted.pid(), adopted.port()), (Some(pid), port));
    adopted.connect("postgres").await.unwrap();
    drop(adopted);
    assert!(is_alive(pid));

    let again = Server::start(options).await.unwrap();
    assert_eq!(again.pid(), Some(pid));
    again.stop(StopMode::Fast).await.unwrap();
    assert_eq!(again.pid(), None);
    until("the server is gone", || !is_alive(pid)).await;
    assert!(matches!(
        Server::adopt(&dir),
        Err(ServerError::NotRunning { .. })
    ));
}

#[tokio::test]
async fn a_bound_handle_on_a_running_server_ends_it() {
    let parent = tempfile::tempdir().unwrap();
    open_to_all(parent.path());
    let dir = parent.path().join("shard");
    let detached = Server::start(ServerOptions::durable(&dir).lifetime(Lifetime::Detached))
        .await
        .unwrap();
    let pid = detached.pid().unwrap();
    let bound = Server::start(ServerOptions::durable(&dir)).await.unwrap();
    assert_eq!(bound.pid(), Some(pid));
    drop(bound);
    assert_eq!(detached.pid(), None);
    assert!(dir.join("data/PG_VERSION").exists());
}

/// Lets the account that runs servers pass through a private temporary directory.
fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}
