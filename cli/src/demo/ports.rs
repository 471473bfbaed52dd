//! The port plan: every port of a demo follows from its base.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::exit::Failure;

/// Offset of the catalog; the shards follow, then the spares.
const CATALOG: u16 = 10;

/// The ports of one demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortPlan {
    base: u16,
    servers: u16,
}

impl PortPlan {
    /// A plan from `base` with `shards` shards, spares included.
    pub(super) fn new(base: u16, shards: u16) -> Result<Self, Failure> {
        let servers = shards + 1;
        match base.checked_add(CATALOG + servers) {
            Some(_) if base > 0 => Ok(Self { base, servers }),
            _ => Err(Failure::usage(format!(
                "no room for {servers} servers above port {base}"
            ))),
        }
    }

    /// PostgreSQL clients of the router.
    pub(super) fn router(self) -> u16 {
        self.base
    }

    /// HTTP clients of the router.
    pub(super) fn http(self) -> u16 {
        self.base + 1
    }

    /// The console.
    pub(super) fn console(self) -> u16 {
        self.base + 2
    }

    /// The catalog's server.
    pub(super) fn catalog(self) -> u16 {
        self.base + CATALOG
    }

    /// The server of the shard with this zero-based position.
    pub(super) fn shard(self, index: u16) -> u16 {
        self.base + CATALOG + 1 + index
    }

    /// Fails with every port of the plan that someone else holds, before anything is started.
    pub(super) fn check_free(self) -> Result<(), Failure> {
        let servers = (0..self.servers).map(|index| self.catalog() + index);
        let taken: Vec<String> = [self.router(), self.http(), self.console()]
            .into_iter()
            .chain(servers)
            .filter(|port| TcpListener::bind(local(*port)).is_err())
            .map(|port| port.to_string())
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        let plural = if taken.len() == 1 { "port" } else { "ports" };
        Err(
            Failure::precondition(format!("{plural} {} already in use", taken.join(", ")))
                .hint("choose others with --port-base"),
        )
    }
}

/// An address of this machine that no other machine reaches.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ports_follow_from_the_base() {
        let plan = PortPlan::new(6432, 5).unwrap();
        let ports = [
            plan.router(),
            plan.http(),
            plan.console(),
            plan.catalog(),
            plan.shard(0),
            plan.shard(4),
        ];
        assert_eq!(ports, [6432, 6433, 6434, 6442, 6443, 6447]);
        assert!(PortPlan::new(65530, 5).is_err());
        assert!(PortPlan::new(0, 5).is_err());
    }
}
