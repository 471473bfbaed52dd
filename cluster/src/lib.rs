//! Starts and stops local PostgreSQL servers from installed binaries, for `tenantry demo` and for tests.
//!
//! A server started here never outlives its purpose: dropping the handle, a panic, ctrl-c and even SIGKILL of the
//! owning process end it (see [`Lifetime`]). Nothing here knows about shards, tenants or the catalog; it must not
//! be used to run production servers, which belong to an operator's own service manager.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tenantry_cluster::{Server, ServerOptions};
//! let server = Server::start(ServerOptions::throwaway()).await?;
//! let client = server.connect("postgres").await?;
//! # Ok(()) }
//! ```

mod account;
mod conf;
mod copy;
mod error;
mod install;
mod layout;
mod options;
mod ports;
mod postmaster;
mod server;
mod session;
mod template;
mod watcher;

pub use account::{Account, default_data_dir};
pub use error::{DiscoverError, ServerError};
pub use install::{OLDEST_MAJOR, PgInstall, PgVersion};
pub use options::{Lifetime, ServerOptions, StopMode};
pub use ports::free_port;
pub use server::{Server, start_many, stop_many};
