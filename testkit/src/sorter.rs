//! A door that sends each connection another way by how its first bytes look, so that a fault can hit the connections
//! of one program and leave those of others to the same server alone.
//!
//! What tells programs apart is the startup packet: user and `application_name` stand in it as they are. It must come
//! first, so a client that asks for TLS goes the way of those that nothing matches.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// More than any startup packet here.
const FIRST_BYTES: usize = 8 * 1024;

/// Where connections go whose first bytes contain a text.
#[derive(Debug, Clone)]
pub struct Way {
    /// What the first bytes contain.
    pub mark: String,
    /// Where the connection goes.
    pub target: SocketAddr,
}

/// A running sorter. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Sorter {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Sorter {
    /// Listens on a free port of 127.0.0.1. The first way whose mark is found is taken, else `otherwise`.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(ways: Vec<Way>, otherwise: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::new(ways), otherwise);
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self {
            address,
            _stop: stop.drop_guard(),
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, ways: Arc<Vec<Way>>, otherwise: SocketAddr) {
    // Ends the connections when the sorter is dropped.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let ways = Arc::clone(&ways);
                connections.spawn(async move {
                    // Either end may go at any time; the other one is closed then.
                    let _ = relay(client, &ways, otherwise).await;
                });
            }
        }
    }
}

async fn relay(mut client: TcpStream, ways: &[Way], otherwise: SocketAddr) -> io::Result<()> {
    let mut first = vec![0; FIRST_BYTES];
    let length = client.read(&mut first).await?;
    let first = &first[..length];
    let contains = |mark: &str| {
        let mark = mark.as_bytes();
        first.windows(mark.len()).any(|window| window == mark)
    };
    let way = ways.iter().find(|way| contains(&way.mark));
    let mut target = TcpStream::connect(way.map_or(otherwise, |way| way.target)).await?;
    client.set_nodelay(true)?;
    target.set_nodelay(true)?;
    target.write_all(first).await?;
    copy_bidirectional(&mut client, &mut target).await?;
    Ok(())
}
