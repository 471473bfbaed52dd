//! Replaces a shard's signing key.
//!
//! The shard learns of the new key before the secrets file does, and routers read the file: no binding is ever signed
//! with a key that the shard does not know. What was signed with the last key stays valid until the next rotation.

use std::path::Path;

use tenantry_schema::secrets::{SecretsError, SecretsFile};
use tenantry_schema::shard::Shard;

use crate::bootstrap::{BootstrapError, install_keys};
use crate::session::connect;
use crate::worker::agent_config;

/// Why a key was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The secrets file cannot be read or written. If it cannot be written, the shard accepts a key that nobody has,
    /// and the old one as before: rotating again is safe.
    #[error("the secrets are not usable")]
    Secrets(#[from] SecretsError),
    /// The file does not know the shard.
    #[error("the secrets file has no shard {0}")]
    UnknownShard(String),
    /// No session as the agent.
    #[error("cannot connect to the shard")]
    Connect(#[source] tokio_postgres::Error),
    /// The shard did not take the key.
    #[error("cannot install the key")]
    Install(#[from] BootstrapError),
}

/// Gives a shard a fresh signing key; returns the key's version. Only one rotation of a secrets file may run at a time.
///
/// # Errors
/// [`RotateError`].
pub async fn rotate_key(secrets_file: &Path, shard: &Shard) -> Result<u32, RotateError> {
    let mut file = SecretsFile::load(secrets_file)?;
    let name = shard.name.to_string();
    let rotated = file
        .shard(&name)
        .ok_or_else(|| RotateError::UnknownShard(name.clone()))?
        .rotated();
    let config = agent_config(shard, &rotated);
    let mut client = connect(&config).await.map_err(RotateError::Connect)?;
    install_keys(&mut client, &rotated.guard).await?;
    let version = rotated.guard.current.version;
    file.shards.insert(name, rotated);
    file.save(secrets_file)?;
    Ok(version)
}
