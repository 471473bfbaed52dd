//! Brings an empty PostgreSQL database to a shard: roles, guard, reference schema, keys.
//!
//! Needs a superuser, once. A second run changes nothing; a run on a shard that drifted repairs it. The guard, the
//! schema and the keys are installed in one transaction, so that a crash leaves a shard or nothing. The roles belong to
//! the whole server and come first, in a transaction of their own.

mod error;
mod install;
mod preflight;
mod roles;

use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard::{self, GuardOptions, GuardScript};
use tenantry_schema::secrets::{GuardKeys, ShardSecrets};
use tenantry_schema::shard::Shard;
use tokio_postgres::{Client, Config, Transaction};

pub use self::error::BootstrapError;
use self::error::during;
use self::install::{cover, install_guard, migrate, replace_keys, version_sql};
use self::preflight::{check_identity, check_server, exists, open};
use self::roles::install_roles;
use crate::verify::{Finding, Severity, verify};

/// What to install.
#[derive(Debug, Clone, Copy)]
pub struct BootstrapOptions {
    /// The guard's choices.
    pub guard: GuardOptions,
    /// Install the reference storefront schema.
    pub storefront: bool,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        Self {
            guard: GuardOptions::default(),
            storefront: true,
        }
    }
}

/// What a bootstrap did; nothing, if the shard was as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootstrapReport {
    /// Each change, in order, for people.
    pub done: Vec<String>,
    /// What should be looked at; never an error.
    pub findings: Vec<Finding>,
}

impl BootstrapReport {
    /// Whether the shard already was as it should be.
    pub fn is_unchanged(&self) -> bool {
        self.done.is_empty()
    }
}

/// Makes the database that `admin` connects to the given shard; creates the database if the server has none of that
/// name.
///
/// # Errors
/// [`BootstrapError`].
pub async fn bootstrap(
    admin: &Config,
    shard: &Shard,
    settings: &FleetSettings,
    secrets: &ShardSecrets,
) -> Result<BootstrapReport, BootstrapError> {
    bootstrap_with(admin, shard, settings, secrets, BootstrapOptions::default()).await
}

/// [`bootstrap`], with choices.
///
/// # Errors
/// [`BootstrapError`].
pub async fn bootstrap_with(
    admin: &Config,
    shard: &Shard,
    settings: &FleetSettings,
    secrets: &ShardSecrets,
    options: BootstrapOptions,
) -> Result<BootstrapReport, BootstrapError> {
    let mut done = Vec::new();
    let mut client = open(admin, &mut done).await?;
    check_server(&client).await?;
    check_identity(&client, shard, settings).await?;

    let script = guard::script(settings, shard.id, options.guard);
    install_roles(&mut client, &script, &secrets.passwords, &mut done).await?;

    let is_current = is_current(&client, &script).await?;
    let transaction = client.transaction().await.map_err(during("begin"))?;
    quiet(&transaction).await?;
    if !is_current {
        install_guard(&transaction, &script, shard).await?;
        done.push(format!("guard version {}", guard::VERSION));
    }
    replace_keys(&transaction, &secrets.guard, &mut done).await?;
    if options.storefront {
        migrate(&transaction, settings, &mut done).await?;
    }
    cover(&transaction, &mut done).await?;
    transaction.commit().await.map_err(during("commit"))?;

    let mut findings = verify(&client).await.map_err(during("verification"))?;
    findings.retain(|finding| finding.severity > Severity::Info);
    if findings.iter().any(|f| f.severity == Severity::Error) {
        return Err(BootstrapError::Unsound { findings });
    }
    for change in &done {
        tracing::info!(shard = %shard.name, change, "bootstrap");
    }
    Ok(BootstrapReport { done, findings })
}

/// Makes the shard accept exactly these signing keys. The session may change `tenantry.guard_key`: a superuser's or the
/// agent's. Install new keys here before routers sign with them.
///
/// # Errors
/// A statement failed.
pub async fn install_keys(client: &mut Client, keys: &GuardKeys) -> Result<(), BootstrapError> {
    let transaction = client.transaction().await.map_err(during("begin"))?;
    replace_keys(&transaction, keys, &mut Vec::new()).await?;
    transaction.commit().await.map_err(during("commit"))
}

/// Notices about what exists already say nothing that the report does not.
async fn quiet(transaction: &Transaction<'_>) -> Result<(), BootstrapError> {
    transaction
        .batch_execute("SET LOCAL client_min_messages = warning; SET LOCAL search_path = public")
        .await
        .map_err(during("settings"))
}

/// Whether this very guard is installed and nothing it is responsible for has been undone.
async fn is_current(client: &Client, script: &GuardScript) -> Result<bool, BootstrapError> {
    if !exists(client, "tenantry.schema_version").await? {
        return Ok(false);
    }
    let step = during("looking for an earlier installation");
    let recorded = client
        .query_opt(
            "SELECT FROM tenantry.schema_version WHERE component = 'guard' AND version = $1 AND checksum = $2",
            &[&version_sql(guard::VERSION), &script.checksum],
        )
        .await
        .map_err(&step)?;
    if recorded.is_none() {
        return Ok(false);
    }
    let findings = verify(client).await.map_err(&step)?;
    Ok(findings.iter().all(|f| f.severity < Severity::Error))
}
