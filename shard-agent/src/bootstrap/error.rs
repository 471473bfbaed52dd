//! Why a database cannot be made a shard.

use crate::verify::Finding;

/// Why a database cannot be made a shard.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// No session.
    #[error("cannot connect as administrator")]
    Connect(#[source] tokio_postgres::Error),
    /// Roles, leakproof operators and revokes on system functions need a superuser.
    #[error("bootstrap needs a superuser, and role {role} is none")]
    NotSuperuser {
        /// The role of the session.
        role: String,
    },
    /// The server is too old.
    #[error("PostgreSQL 15 or newer is needed, this server has version {found}")]
    ServerVersion {
        /// `server_version`.
        found: String,
    },
    /// Channel names, ids and signatures are computed in UTF-8.
    #[error("the database's encoding is {found}, UTF8 is needed")]
    Encoding {
        /// The encoding.
        found: String,
    },
    /// The database already is another shard.
    #[error("this database is shard {found_id} ({found_name}) already, not shard {wanted_id}")]
    OtherShard {
        /// The number it has.
        found_id: i16,
        /// The name it has.
        found_name: String,
        /// The number it was to get.
        wanted_id: u16,
    },
    /// The database was made for a fleet with another type of tenant ids.
    #[error("this database has tenant ids of type {found}, the fleet has {wanted}")]
    OtherTenantKey {
        /// The type it has.
        found: String,
        /// The fleet's.
        wanted: &'static str,
    },
    /// A migration that was applied is not the one this program has.
    #[error("migration {component} {version} was applied with another text")]
    AlteredMigration {
        /// The component.
        component: String,
        /// Its number.
        version: u32,
    },
    /// A step failed; nothing of the transaction it ran in remains.
    #[error("{step} failed")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Everything is installed and the isolation still does not hold.
    #[error("the shard is not safe to use: {}", list(findings))]
    Unsound {
        /// What is wrong.
        findings: Vec<Finding>,
    },
}

fn list(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

pub(super) fn during(step: &'static str) -> impl Fn(tokio_postgres::Error) -> BootstrapError {
    move |source| BootstrapError::Step { step, source }
}
