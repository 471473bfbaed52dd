//! Sessions with shards: direct, as `tenantry_agent`, with every setting pinned that changes what a value looks like.
//!
//! A session here bypasses row-level security. Nothing that a client wrote may become part of a statement on it except
//! quoted, and none of it goes through a router.

mod snapshot;

use std::time::Duration;

use tenantry_schema::guard::role;
use tenantry_schema::secrets::{Password, ShardSecrets};
use tenantry_schema::shard::{Shard, ShardAddress, ShardId, ShardName};
use tokio_postgres::{Client, Config, NoTls};

pub use snapshot::Snapshot;

/// How every session of a rebalancer names itself.
pub(crate) const APPLICATION: &str = "tenantry rebalancer";
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A peer that vanished without a word is noticed in about this time.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// Rows are read and written by key, a range at a time: for each range to read the whole table is never right, and a
/// planner without statistics may think so.
const BY_KEY: &str = "SET enable_seqscan = off";

const SESSION: &str = include_str!("shard/session.sql");

/// A shard as the rebalancer reaches it.
#[derive(Debug, Clone)]
pub struct ShardEndpoint {
    /// Its number.
    pub id: ShardId,
    /// Its name.
    pub name: ShardName,
    /// Where its primary is.
    pub address: ShardAddress,
    /// The password of `tenantry_agent` there.
    pub password: Password,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached or refuses the login.
    #[error("cannot connect to shard {shard}")]
    Unreachable {
        /// The shard.
        shard: ShardName,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The session cannot be prepared for its work.
    #[error("shard {shard} refuses the settings of a session")]
    Settings {
        /// The shard.
        shard: ShardName,
        /// What failed.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl ShardEndpoint {
    /// A shard of the catalog, with its entry of the secrets file.
    #[must_use]
    pub fn new(shard: Shard, secrets: &ShardSecrets) -> Self {
        Self {
            id: shard.id,
            name: shard.name,
            address: shard.address,
            password: secrets.passwords.agent.clone(),
        }
    }

    /// Connection parameters, without TLS as all sessions of this program.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .user(role::AGENT)
            .password(self.password.expose())
            .host(&self.address.host)
            .port(self.address.port)
            .dbname(&self.address.database)
            .application_name(APPLICATION)
            .connect_timeout(CONNECT_MAX)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX);
        config
    }
}

/// A session whose settings are pinned; a task of the current runtime drives it until the client is dropped.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(endpoint: &ShardEndpoint) -> Result<Client, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable {
        shard: endpoint.name.clone(),
        source,
    };
    let (client, connection) = endpoint
        .config()
        .connect(NoTls)
        .await
        .map_err(unreachable)?;
    let shard = endpoint.name.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%shard, %error, "a session with a shard ended");
        }
    });
    let settings = |source| ConnectError::Settings {
        shard: endpoint.name.clone(),
        source,
    };
    client.batch_execute(SESSION).await.map_err(settings)?;
    Ok(client)
}

/// A session that writes rows as a replica does: no trigger fires and no foreign key is checked, because that happened
/// where the rows come from.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_as_replica(endpoint: &ShardEndpoint) -> Result<Client, ConnectError> {
    let client = connect(endpoint).await?;
    client
        .batch_execute(&format!("SET session_replication_role = replica; {BY_KEY}"))
        .await
        .map_err(|source| ConnectError::Settings {
            shard: endpoint.name.clone(),
            source,
        })?;
    Ok(client)
}
