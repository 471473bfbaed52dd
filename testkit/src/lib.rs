//! Dev-only: real PostgreSQL fixtures, a fault-injecting TCP proxy and a raw protocol client.
//!
//! No shipped crate depends on this one. It must not depend on the router either, whose tests use it.

pub mod attacks;
mod fault_proxy;
mod fleet;
mod raw_client;
mod sorter;
pub mod tls;

pub use fault_proxy::{Direction, FaultProxy};
pub use fleet::{Fleet, FleetBuilder, FleetShard};
pub use raw_client::{
    Login, RawClient, RawError, commands_of, error_of, rows_of, send_cancel, status_of, tags_of,
};
pub use sorter::{Sorter, Way};
