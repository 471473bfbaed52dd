//! Picks free ports. A port is only ever a proposal: whoever starts a server must try another one when the bind
//! fails, because someone else may have taken it in between.

use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt as _;

/// Below Linux' and macOS' ephemeral ports. Inside that range an outgoing connection could take the port of a
/// server that is down for a moment, and a client that retries could even connect to itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;
const TRIES: usize = 200;

/// A port of 127.0.0.1 that was free a moment ago, for a listener that must keep its port while it is down.
#[must_use]
pub fn free_port() -> Option<u16> {
    let mut rng = rand::rng();
    (0..TRIES)
        .map(|_| rng.random_range(RANGE))
        .find(|port| is_free(*port))
}

/// Whether nothing listens on the port now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_taken_port_is_not_free() {
        let port = free_port().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
        assert!(RANGE.contains(&port));
    }
}
