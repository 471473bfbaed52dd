//! Starting, killing and restarting real servers, and what is said when that cannot be done.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tenantry_cluster::{PgInstall, Server, ServerError, ServerOptions, StopMode, start_many};

/// A directory that the account which runs servers may pass through.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

async fn count(server: &Server, table: &str) -> i64 {
    let client = server.connect("postgres").await.unwrap();
    client
        .query_one(&format!("SELECT count(*) FROM {table}"), &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn committed_rows_survive_kill9_and_restart() {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    let (first, port) = (server.pid().unwrap(), server.port());
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000)")
        .await
        .unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO kept VALUES (1001)")
        .await
        .unwrap();

    server.kill9().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(client.simple_query("SELECT 1").await.is_err());

    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), Some(first));
    assert_eq!(count(&server, "kept").await, 1000);
}

#[tokio::test]
async fn every_stop_mode_ends_the_server_and_a_restart_brings_it_back() {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
        server.stop(mode).await.unwrap();
        assert_eq!(server.pid(), None);
        server.stop(mode).await.unwrap();
        server.restart().await.unwrap();
        server.connect("postgres").await.unwrap();
    }
}

#[tokio::test]
async fn durable_data_survives_a_new_handle_and_its_password_is_its_own() {
    let parent = open_dir();
    let dir = parent.path().join("shard");
    let server = Server::start(ServerOptions::durable(&dir).setting("work_mem", "9MB"))
        .await
        .unwrap();
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 10)")
        .await
        .unwrap();
    let password = server.superuser_password().to_owned();
    drop(server);

    let server = Server::start(ServerOptions::durable(&dir)).await.unwrap();
    assert_eq!(server.superuser_password(), password);
    assert_eq!(count(&server, "kept").await, 10);
    let other = Server::start(ServerOptions::durable(parent.path().join("other")))
        .await
        .unwrap();
    assert_ne!(other.superuser_password(), password);
    let mode = std::fs::metadata(dir.join("superuser.password"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn five_servers_start_in_parallel_within_five_seconds() {
    // The template is made once per machine; what is measured is the start.
    drop(Server::start(ServerOptions::throwaway()).await.unwrap());
    let start = Instant::now();
    let servers = start_many(vec![ServerOptions::throwaway(); 5])
        .await
        .unwrap();
    let took = start.elapsed();
    println!("five servers in {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let ports: std::collections::BTreeSet<u16> = servers.iter().map(Server::port).collect();
    assert_eq!(ports.len(), 5);
}

#[tokio::test]
async fn a_wrong_password_is_refused_over_tcp_and_over_the_socket() {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    for host in ["127.0.0.1", server.socket_dir().to_str().unwrap()] {
        let mut config = tokio_postgres::Config::new();
        config
            .host(host)
            .port(server.port())
            .user("postgres")
            .dbname("postgres")
            .password("wrong");
        let Err(error) = config.connect(tokio_postgres::NoTls).await else {
            panic!("{host} let a stranger in")
        };
        assert_eq!(error.code().unwrap().code(), "28P01", "{error}");
        config.password(server.superuser_password());
        let _session = config.connect(tokio_postgres::NoTls).await.unwrap();
    }
}

#[tokio::test]
async fn long_directories_get_a_short_socket_path() {
    let parent = open_dir();
    let dir = parent.path().join("d".repeat(90));
    let server = Server::start(ServerOptions::durable(&dir)).await.unwrap();
    let sockets = server.socket_dir().to_owned();
    assert!(sockets.as_os_str().len() < 80, "{}", sockets.display());
    server.restart().await.unwrap();
    server.connect("postgres").await.unwrap();
    drop(server);
    assert!(!sockets.exists());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = Server::start(ServerOptions::throwaway().port(port))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("port {port} on 127.0.0.1 is in use by another program")
    );
}

#[tokio::test]
async fn a_bad_setting_fails_with_the_servers_own_words() {
    let error = Server::start(ServerOptions::throwaway().setting("no_such_setting", "1"))
        .await
        .unwrap_err();
    assert!(matches!(error, ServerError::Died { .. }));
    assert!(
        error
            .to_string()
            .contains("unrecognized configuration parameter \"no_such_setting\""),
        "{error}"
    );
}

#[tokio::test]
async fn data_of_another_version_is_refused() {
    let parent = open_dir();
    let dir = parent.path().join("shard");
    drop(Server::start(ServerOptions::durable(&dir)).await.unwrap());
    std::fs::write(dir.join("data/PG_VERSION"), "12\n").unwrap();
    let error = Server::start(ServerOptions::durable(&dir))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("was created by PostgreSQL 12, but the binaries found are version"),
        "{error}"
    );
}

#[tokio::test]
async fn an_installation_without_initdb_is_named() {
    let install = PgInstall::discover().unwrap();
    let bin = open_dir();
    std::os::unix::fs::symlink(install.program("postgres"), bin.path().join("postgres")).unwrap();
    let error = PgInstall::discover_in(Some(bin.path().as_os_str()), Path::new("").as_os_str())
        .unwrap_err();
    let expected = format!(
        "TENANTRY_PG_BIN is {}, but there is no `initdb` in it",
        bin.path().display()
    );
    assert_eq!(error.to_string(), expected);
}
