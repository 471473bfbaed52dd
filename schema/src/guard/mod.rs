//! The guard: what makes PostgreSQL itself keep tenants apart.
//!
//! Every shard carries it, installed by the shard agent. A session is bound to a tenant by the setting
//! `tenantry.tenant`, whose value is signed for one connection ([`sign()`]); `tenantry.tenant()` verifies it, reads the
//! tenant's owner row and is what every policy compares with. [`script()`] renders the SQL for a fleet's key type and
//! tenant column.
//!
//! # What the guard does not hide
//! - `EXPLAIN` shows estimates that come from statistics over all tenants, and with `ANALYZE` counts of rows that a
//!   filter removed: how many, never which.
//! - Time: a query is slower on a busy shard.
//! - Resources: locks, disk and processor are bounded by the router's admission, not here.
//! - A few statements are not governed by grants (`ALTER ROLE` of oneself, `LOCK TABLE`, `LISTEN` and `NOTIFY` of raw
//!   channel names): the router refuses or rewrites them. They cannot be hidden from it in a string, because `DO` is
//!   revoked; over a direct connection with the application role's password they remain.

mod hex;
mod proof;
mod script;
mod sign;

pub use proof::proof_hash;
pub use script::{GuardOptions, GuardScript, VERSION, render_tenant_column, script};
pub use sign::{GuardKey, ParseGuardKeyError, sign};

/// The setting that carries the binding.
pub const SETTING: &str = "tenantry.tenant";

/// Constraint name in the error that refuses a tenant which this shard does not serve (40001). The error's detail is
/// JSON: `tenant`, `state` (`absent`, `importing`, `fenced`, `moved`, `changed`), `epoch`, `move`, and for a moved
/// tenant the number of the `shard` that has it and the `proof` with which `tenantry.activate_by_proof()` activates it
/// there.
pub const TENANT_FENCED: &str = "TENANT_FENCED";

/// Constraint name in the error of a session without a tenant (42704).
pub const TENANT_UNBOUND: &str = "TENANT_UNBOUND";

/// Constraint name in the error of a binding that does not hold on this connection (42501).
pub const TENANT_SIGNATURE: &str = "TENANT_SIGNATURE";

/// Server roles of a shard.
pub mod role {
    /// Owns the guard and the tables; cannot log in.
    pub const OWNER: &str = "tenantry_owner";
    /// Routers' connections for clients.
    pub const APP: &str = "tenantry_app";
    /// What the router becomes for `COPY FROM STDIN`; cannot log in.
    pub const COPY: &str = "tenantry_copy";
    /// Agent and rebalancer; bypasses row-level security.
    pub const AGENT: &str = "tenantry_agent";
    /// Operators' direct database; bypasses row-level security.
    pub const OPERATOR: &str = "tenantry_operator";
}
