//! The other routers of the fleet, as far as cancel requests concern them.
//!
//! A cancel request comes on a connection of its own, so behind a load balancer it may reach any
//! router. The process id in its key names the router that gave the key out; that one is told,
//! in the words the client used. Nothing here is trusted: only the owner can check the key.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tenantry_schema::catalog::RegisteredRouter;
use tenantry_wire::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Requests that are passed on at once; more are dropped, so that nobody can make this router
/// flood the others.
const FORWARDED_MAX: usize = 64;
/// Longest time to hand one over.
const FORWARD_TIME: Duration = Duration::from_secs(2);
/// Stands behind the secret of a request that another router has passed on, which must not be
/// passed on again.
const FORWARDED_MARK: u8 = 0xF0;
/// Lengths that secrets have without the mark.
const SECRET_LENGTHS: [usize; 2] = [4, 32];

/// A cancel request's secret, and whether a router passed it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) forwarded: bool,
}

impl<'a> Secret<'a> {
    pub(crate) fn read(key: &'a [u8]) -> Self {
        match key {
            [bytes @ .., FORWARDED_MARK] if SECRET_LENGTHS.contains(&bytes.len()) => Self {
                bytes,
                forwarded: true,
            },
            bytes => Self {
                bytes,
                forwarded: false,
            },
        }
    }
}

/// Where the other routers are.
#[derive(Debug)]
pub(crate) struct Peers {
    all: ArcSwap<Vec<RegisteredRouter>>,
    by_number: ArcSwap<HashMap<u16, String>>,
    permits: Semaphore,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            all: ArcSwap::default(),
            by_number: ArcSwap::default(),
            permits: Semaphore::new(FORWARDED_MAX),
        }
    }
}

impl Peers {
    /// Takes the catalog's list. A router that has died stays in it and only costs a failed
    /// connection to whoever holds one of its keys.
    pub(crate) fn update(&self, own: u16, routers: Vec<RegisteredRouter>) {
        self.all.store(std::sync::Arc::new(routers.clone()));
        let others = routers.into_iter().filter(|router| router.id != own);
        let by_number = others
            .filter_map(|router| Some((router.id, router.peer_address?)))
            .collect();
        self.by_number.store(std::sync::Arc::new(by_number));
    }

    /// Every router as the catalog last had them.
    pub(crate) fn all(&self) -> std::sync::Arc<Vec<RegisteredRouter>> {
        self.all.load_full()
    }

    /// Tells the router of this number, or all of them where the number is none of a router.
    pub(crate) async fn forward(&self, number: Option<u16>, pid: i32, secret: &[u8]) {
        let Ok(_permit) = self.permits.try_acquire() else {
            tracing::warn!(
                pid,
                "too many cancel requests for other routers: one is dropped"
            );
            return;
        };
        let known = self.by_number.load_full();
        let addresses: Vec<&String> = match number {
            Some(number) => known.get(&number).into_iter().collect(),
            None => known.values().collect(),
        };
        if addresses.is_empty() {
            tracing::debug!(pid, "cancel request for a router that is not known");
        }
        let all = addresses.into_iter().map(|address| async move {
            match timeout(FORWARD_TIME, deliver(address, pid, secret)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(address, %error, "cancel request did not reach its router");
                }
                Err(_elapsed) => tracing::debug!(address, "a router did not take a cancel request"),
            }
        });
        futures_util::future::join_all(all).await;
    }
}

/// Sends the request and waits until the other side has acted, which it says by closing.
async fn deliver(address: &str, pid: i32, secret: &[u8]) -> io::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    let mut key = secret.to_vec();
    key.push(FORWARDED_MARK);
    let mut request = BytesMut::new();
    frontend::put_cancel_request(&mut request, pid, &key);
    socket.write_all(&request).await?;
    let mut rest = [0_u8; 16];
    while socket.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_one_byte_more_than_a_secret() {
        let plain = |bytes| Secret {
            bytes,
            forwarded: false,
        };
        assert_eq!(Secret::read(b"abc\xf0"), plain(b"abc\xf0"));
        assert_eq!(Secret::read(b"abcde"), plain(b"abcde"));
        let marked = Secret {
            bytes: b"abcd",
            forwarded: true,
        };
        assert_eq!(Secret::read(b"abcd\xf0"), marked);
    }
}
