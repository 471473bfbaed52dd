//! Work that must happen next to the data: shard bootstrap, owner rows, migrations.
//!
//! [`bootstrap()`] makes a shard of an empty database, [`verify()`] says what is wrong with one; both talk to the
//! shard only. [`run()`] is the agent: it follows the catalog, bootstraps shards and admits new tenants.

mod bootstrap;
mod rotate;
mod run;
mod session;
mod verify;
mod worker;

pub use bootstrap::{
    BootstrapError, BootstrapOptions, BootstrapReport, bootstrap, bootstrap_with, install_keys,
};
pub use rotate::{RotateError, rotate_key};
pub use run::{Config, RunError, run};
pub use verify::{AgentRoleError, Finding, Severity, require_agent_role, verify};
