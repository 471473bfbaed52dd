//! Connections go where their first bytes say.
#![allow(clippy::unwrap_used, clippy::panic)]

use tenantry_testkit::{Sorter, Way};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_connection_goes_the_way_of_its_mark() {
    let listener = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let (red, blue, other) = (listener().await, listener().await, listener().await);
    let way = |mark: &str, listener: &TcpListener| Way {
        mark: mark.to_owned(),
        target: listener.local_addr().unwrap(),
    };
    let ways = vec![way("red", &red), way("blue", &blue)];
    let sorter = Sorter::start(ways, other.local_addr().unwrap())
        .await
        .unwrap();

    for (first, target) in [
        ("\0\0user\0red\0", &red),
        ("user\0blue\0", &blue),
        ("user\0green\0", &other),
    ] {
        let mut client = TcpStream::connect(sorter.address()).await.unwrap();
        client.write_all(first.as_bytes()).await.unwrap();
        let (mut server, _) = target.accept().await.unwrap();
        let mut seen = vec![0; first.len()];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, first.as_bytes());
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}
