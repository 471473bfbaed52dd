//! The data plane: a PostgreSQL proxy that finds a client's tenant, finds the shard that holds the
//! tenant, and relays bytes; beside it the router's HTTP.
//!
//! The router decides where, PostgreSQL enforces what: nothing here is trusted to keep tenants
//! apart. A session is one task (`session`) that borrows server connections from a pool per
//! shard (`pool`); what it needs to know of the fleet is an immutable snapshot (`fleet`).

mod activity;
pub mod admission;
mod arrivals;
mod buffers;
mod cancel;
pub mod config;
mod console;
mod control;
mod direct;
mod error;
mod fleet;
mod handover;
mod holds;
mod http;
mod identify;
mod limits;
mod listeners;
mod load;
mod login;
mod metrics;
mod overtime;
mod peers;
mod places;
mod pool;
mod registration;
mod reload;
mod reported;
mod route;
mod router;
mod serve;
mod server;
mod session;
mod socket;
mod stop;
mod stream;
mod threads;
mod tls;

pub use config::{Change, Changeable, Config, ConfigError, LeftOut, Timeouts};
pub use console::Shutdown;
pub use handover::HandoverError;
pub use listeners::ListenError;
pub use reload::{Fresh, ReadConfig, ReloadError};
pub use serve::{RouterError, Running, run, start, start_from};
pub use tls::TlsError;

use tenantry_wire::backend::Severity;
