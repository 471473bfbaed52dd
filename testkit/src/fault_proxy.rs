//! A TCP proxy that fails on command, for tests of what happens between two programs when the network does.
//!
//! It knows nothing of the protocol above TCP. Faults apply to connections that exist and to ones that come later,
//! as each method says.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks under way in one direction; bounds what a delay can pile up.
const CHUNKS_MAX: usize = 64;
const BIND_TRIES: usize = 20;

/// Which way bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client that connected to the proxy to the target.
    ToTarget,
    /// From the target back.
    ToClient,
}

/// How the proxy treats its connections at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Behaviour {
    listening: bool,
    stalled: bool,
    delay: Duration,
    /// Connections older than this number end.
    epoch: u64,
    /// Whether the last end was by reset instead of an orderly close.
    by_reset: bool,
}

/// A running proxy. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    accepted: AtomicUsize,
    open: watch::Sender<usize>,
    /// Whether the port is open: what the accepting task has made of [`Behaviour::listening`].
    port_open: watch::Sender<bool>,
    /// Bytes that may still pass in each direction before everything is cut; `None` means no limit.
    budgets: Mutex<[Option<usize>; 2]>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = bind_somewhere().await?;
        let address = listener.local_addr()?;
        let behaviour = Behaviour {
            listening: true,
            stalled: false,
            delay: Duration::ZERO,
            epoch: 0,
            by_reset: false,
        };
        let shared = Arc::new(Shared {
            target,
            behaviour: watch::Sender::new(behaviour),
            accepted: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            port_open: watch::Sender::new(true),
            budgets: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            address,
            Arc::clone(&shared),
        )));
        Ok(Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Port on 127.0.0.1 where clients connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes all connections in good order, in both directions at once. New ones work.
    pub fn cut(&self) {
        self.shared.end_all(false);
    }

    /// Resets all connections (RST). New ones work.
    pub fn reset(&self) {
        self.shared.end_all(true);
    }

    /// Cuts everything as soon as `bytes` more bytes have passed in one direction, all connections counted
    /// together: the way to end a connection in the middle of a message.
    pub fn cut_after(&self, direction: Direction, bytes: usize) {
        self.shared.budgets.lock()[direction as usize] = Some(bytes);
    }

    /// Delays every byte in both directions by `delay`; throughput stays.
    pub fn delay(&self, delay: Duration) {
        self.shared.behaviour.send_modify(|now| now.delay = delay);
    }

    /// Lets nothing pass, not even the end of a connection, as when a machine or a route vanished. Connections stay
    /// open and new ones are accepted. What was sent meanwhile arrives after [`FaultProxy::resume`].
    pub fn half_open(&self) {
        self.shared.behaviour.send_modify(|now| now.stalled = true);
    }

    /// Refuses new connections, as a machine without the program does. Existing ones go on. Returns when the port
    /// is closed.
    pub async fn refuse(&self) {
        self.set_listening(false).await;
    }

    /// Ends refusing, stalling and delaying. Returns when the port is open.
    pub async fn resume(&self) {
        self.shared.behaviour.send_modify(|now| {
            now.stalled = false;
            now.delay = Duration::ZERO;
        });
        self.set_listening(true).await;
    }

    /// Connections accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// Waits until exactly `count` connections are open.
    pub async fn wait_open(&self, count: usize) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self
            .shared
            .open
            .subscribe()
            .wait_for(|open| *open == count)
            .await;
    }

    async fn set_listening(&self, listening: bool) {
        self.shared
            .behaviour
            .send_modify(|now| now.listening = listening);
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self
            .shared
            .port_open
            .subscribe()
            .wait_for(|open| *open == listening)
            .await;
    }
}

impl Shared {
    fn end_all(&self, by_reset: bool) {
        self.behaviour.send_modify(|now| {
            now.epoch += 1;
            now.by_reset = by_reset;
        });
    }

    /// How many of `wanted` bytes may pass, and whether everything is cut after them.
    fn spend(&self, direction: Direction, wanted: usize) -> (usize, bool) {
        let mut budgets = self.budgets.lock();
        let budget = &mut budgets[direction as usize];
        match *budget {
            None => (wanted, false),
            Some(left) if left > wanted => {
                *budget = Some(left - wanted);
                (wanted, false)
            }
            Some(left) => {
                *budget = None;
                (left, true)
            }
        }
    }
}

/// A port outside the ephemeral range, so that nobody takes it while the proxy refuses.
async fn bind_somewhere() -> anyhow::Result<TcpListener> {
    for _ in 0..BIND_TRIES {
        let port = tenantry_cluster::free_port().context("no free port")?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Ok(listener);
        }
    }
    bail!("no port could be bound")
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut behaviour = shared.behaviour.subscribe();
    let mut listener = Some(listener);
    // Ends the connections when the proxy is dropped.
    let mut connections = JoinSet::new();
    loop {
        let listening = behaviour.borrow_and_update().listening;
        match (listening, &listener) {
            (false, _) => listener = None,
            (true, None) => listener = TcpListener::bind(address).await.ok(),
            (true, Some(_)) => {}
        }
        shared.port_open.send_replace(listener.is_some());
        tokio::select! {
            changed = behaviour.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            client = accept_on(listener.as_ref()) => {
                let Ok(client) = client else { continue };
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(client, Arc::clone(&shared)));
            }
        }
    }
}

async fn accept_on(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a watch::Sender<usize>);

impl<'a> Open<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let _open = Open::new(&shared.open);
    let mut behaviour = shared.behaviour.subscribe();
    let epoch = behaviour.borrow_and_update().epoch;
    // A peer that is away does not answer a connection attempt either.
    if behaviour
        .wait_for(|now| !now.stalled || now.epoch != epoch)
        .await
        .is_err()
    {
        return;
    }
    let Ok(mut target) = TcpStream::connect(shared.target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), target.set_nodelay(true));
    {
        let (client_in, client_out) = client.split();
        let (target_in, target_out) = target.split();
        let both = async {
            tokio::join!(
                relay(client_in, target_out, Direction::ToTarget, &shared),
                relay(target_in, client_out, Direction::ToClient, &shared),
            )
        };
        tokio::select! {
            _ = both => return,
            () = ended(&mut behaviour, epoch) => {}
        }
    }
    if behaviour.borrow().by_reset {
        let _ = (client.set_zero_linger(), target.set_zero_linger());
    } else {
        let _ = tokio::join!(client.shutdown(), target.shutdown());
    }
}

/// Waits until the connections of `epoch` are to end.
async fn ended(behaviour: &mut watch::Receiver<Behaviour>, epoch: u64) {
    let _ = behaviour.wait_for(|now| now.epoch != epoch).await;
}

/// Moves bytes one way until the source ends; then the end itself is passed on.
async fn relay(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    shared: &Shared,
) {
    let (send, mut receive) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let reader = async move {
        // Dropped at the end, `send` tells the writer.
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        while let Ok(1..) = from.read_buf(&mut buffer).await {
            if send
                .send((Instant::now(), buffer.split().freeze()))
                .await
                .is_err()
            {
                break;
            }
            buffer.reserve(CHUNK_BYTES);
        }
    };
    let writer = async {
        let mut behaviour = shared.behaviour.subscribe();
        while let Some((arrived, chunk)) = receive.recv().await {
            let Ok(now) = behaviour.wait_for(|now| !now.stalled).await.map(|now| *now) else {
                break;
            };
            tokio::time::sleep_until(arrived + now.delay).await;
            let _ = behaviour.wait_for(|now| !now.stalled).await;
            let (allowed, cut) = shared.spend(direction, chunk.len());
            if to.write_all(&chunk[..allowed]).await.is_err() {
                break;
            }
            if cut {
                shared.end_all(false);
                return std::future::pending().await;
            }
        }
        let _ = behaviour.wait_for(|now| !now.stalled).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(reader, writer);
}
