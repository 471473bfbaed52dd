//! Dev-only: real PostgreSQL fixtures, a fault-injecting TCP proxy and a raw protocol client.
//!
//! No shipped crate depends on this one. It must not depend on the router either, whose tests use it.

mod fault_proxy;

pub use fault_proxy::{Direction, FaultProxy};
