//! Work that must happen next to the data: shard bootstrap, owner rows, migrations.
//!
//! [`bootstrap()`] makes a shard of an empty database, [`verify()`] says what is wrong with one. Both talk to
//! PostgreSQL only; what the catalog must know, their callers tell it.

mod bootstrap;
mod session;
mod verify;

pub use bootstrap::{
    BootstrapError, BootstrapOptions, BootstrapReport, bootstrap, bootstrap_with, install_keys,
};
pub use verify::{AgentRoleError, Finding, Severity, require_agent_role, verify};
