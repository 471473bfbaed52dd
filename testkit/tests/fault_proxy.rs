//! Each fault as both ends of a connection see it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::ErrorKind;
use std::time::Duration;

use tenantry_testkit::{Direction, FaultProxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Long enough to be sure that nothing comes, short enough for a test.
const SILENCE: Duration = Duration::from_millis(60);

struct Pair {
    proxy: FaultProxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

async fn pair() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap())
        .await
        .unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    let server = listener.accept().await.unwrap().0;
    Pair {
        proxy,
        listener,
        client,
        server,
    }
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn bytes_and_ends_pass_both_ways() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = pair().await;
    client.write_all(b"ping").await.unwrap();
    assert_eq!(read(&mut server, 4).await, b"ping");
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    // Half closed: the other direction goes on.
    server.write_all(b"pong").await.unwrap();
    assert_eq!(read(&mut client, 4).await, b"pong");
    drop(server);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    proxy.wait_open(0).await;
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn large_transfers_arrive_whole() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = pair().await;
    proxy.delay(Duration::from_millis(1));
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (_, received) = tokio::join!(client.write_all(&sent), read(&mut server, sent.len()));
    assert!(received == sent);
}

#[tokio::test]
async fn cut_closes_both_ends_and_new_connections_work() {
    let Pair {
        proxy,
        mut client,
        mut server,
        listener,
    } = pair().await;
    proxy.cut();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let mut server = listener.accept().await.unwrap().0;
    client.write_all(b"again").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"again");
}

#[tokio::test]
async fn cut_after_ends_in_the_middle_of_a_message() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = pair().await;
    proxy.cut_after(Direction::ToClient, 5);
    server.write_all(b"complete").await.unwrap();
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"compl");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn reset_is_seen_as_a_reset() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = pair().await;
    proxy.reset();
    assert_eq!(
        client.read(&mut [0; 8]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        server.read(&mut [0; 8]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn half_open_keeps_silent_until_resumed() {
    let Pair {
        proxy,
        mut client,
        server,
        listener,
    } = pair().await;
    proxy.half_open();
    drop(server);
    assert!(timeout(SILENCE, client.read(&mut [0; 8])).await.is_err());
    let _late = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(timeout(SILENCE, listener.accept()).await.is_err());
    proxy.resume().await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn delay_shifts_each_byte_once() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = pair().await;
    let delay = Duration::from_millis(80);
    proxy.delay(delay);
    let start = Instant::now();
    for _ in 0..10 {
        client.write_all(b"x").await.unwrap();
        tokio::task::yield_now().await;
    }
    read(&mut server, 10).await;
    let took = start.elapsed();
    assert!(took >= delay && took < delay * 5, "{took:?}");
}

#[tokio::test]
async fn refuse_closes_the_port_and_resume_opens_the_same() {
    let Pair {
        proxy,
        mut client,
        mut server,
        listener,
    } = pair().await;
    proxy.refuse().await;
    let error = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    client.write_all(b"still").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"still");
    proxy.resume().await;
    TcpStream::connect(proxy.address()).await.unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_target_that_is_down_resets_the_client() {
    let Pair {
        proxy, listener, ..
    } = pair().await;
    drop(listener);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(
        client.read(&mut [0; 8]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}
