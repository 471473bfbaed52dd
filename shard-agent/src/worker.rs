//! One shard's worker: a session as `tenantry_agent`, and what is done over it.
//!
//! It owns its session. Whatever fails, it connects anew after a pause that doubles; nothing it does is lost by that,
//! because the catalog goes on listing the tenants that wait.

use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::catalog::CatalogError;
use tenantry_schema::causes::one_line;
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard::role;
use tenantry_schema::secrets::{SecretsError, SecretsFile, ShardSecrets};
use tenantry_schema::shard::{Shard, ShardAddress};
use tenantry_schema::tenant::{Epoch, TenantId};
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{BootstrapError, bootstrap, install_keys};
use crate::run::Shared;
use crate::session::connect;
use crate::verify::{AgentRoleError, Finding, Severity, require_agent_role, verify};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A shard that does not answer a statement for so long is connected to anew.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A tenant that waits for its owner row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) tenant: TenantId,
    pub(crate) epoch: Epoch,
}

/// Works for one shard.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    shard: Arc<Shard>,
    settings: FleetSettings,
    newcomers: watch::Receiver<Vec<Newcomer>>,
}

/// Why a worker has to begin anew.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error("the secrets are not usable")]
    Secrets(#[from] SecretsError),
    #[error("the secrets file has no shard of this name")]
    NoSecrets,
    #[error("the shard refuses the agent's session")]
    Connect(#[source] tokio_postgres::Error),
    #[error("a statement failed")]
    Sql(#[from] tokio_postgres::Error),
    #[error("the shard does not answer")]
    Silent,
    #[error("the agent's role is not fit for its work")]
    Role(#[from] AgentRoleError),
    #[error("the database cannot be made a shard")]
    Bootstrap(#[from] BootstrapError),
    #[error(
        "the database is not a sound shard, and no administrator is configured to bootstrap it: {0}"
    )]
    Unsound(Finding),
    #[error("the catalog does not answer")]
    Catalog(#[from] CatalogError),
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        shard: Arc<Shard>,
        settings: FleetSettings,
        newcomers: watch::Receiver<Vec<Newcomer>>,
    ) -> Self {
        Self {
            shared,
            shard,
            settings,
            newcomers,
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        let mut pause = RETRY_MIN;
        let mut last_told = String::new();
        loop {
            let Err(error) = self.session(&mut pause).await;
            // An outage is told once, not at every attempt.
            let told = one_line(&error);
            if told == last_told {
                tracing::debug!(shard = %self.shard.name, error = told, "still not working");
            } else {
                tracing::warn!(shard = %self.shard.name, error = told, "cannot work for the shard; trying again");
                last_told = told;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One session's life.
    async fn session(
        &mut self,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, WorkError> {
        let mut secrets = self.secrets()?;
        let mut client = self.open(&secrets).await?;
        install_keys(&mut client, &secrets.guard).await?;
        client
            .batch_execute("SELECT tenantry.settle_fences()")
            .await?;
        tracing::info!(shard = %self.shard.name, "working for the shard");
        *pause = RETRY_MIN;
        loop {
            let waiting = self.newcomers.borrow_and_update().clone();
            if !waiting.is_empty() {
                self.admit(&client, &waiting).await?;
            }
            tokio::select! {
                changed = self.newcomers.changed() => if changed.is_err() {
                    // The list has no owner any more: the agent is stopping.
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep(ANSWER_MAX) => {
                    // A dead session is noticed before a tenant needs it.
                    in_time(client.simple_query("")).await?;
                    let present = self.secrets()?;
                    if present.guard != secrets.guard {
                        install_keys(&mut client, &present.guard).await?;
                        tracing::info!(shard = %self.shard.name, "signing keys were replaced");
                        secrets = present;
                    }
                }
            }
        }
    }

    fn secrets(&self) -> Result<ShardSecrets, WorkError> {
        let file = SecretsFile::load(&self.shared.secrets_file)?;
        file.shard(&self.shard.name.to_string())
            .cloned()
            .ok_or(WorkError::NoSecrets)
    }

    /// A session on a sound shard; makes the database one if it is not and an administrator is configured.
    async fn open(&self, secrets: &ShardSecrets) -> Result<Client, WorkError> {
        let config = agent_config(&self.shard, secrets);
        let opened = tokio::time::timeout(CONNECT_MAX, connect(&config)).await;
        let found = match opened.map_err(|_| WorkError::Silent)? {
            Ok(client) => {
                let findings = in_time(verify(&client)).await?;
                match findings.into_iter().find(|f| f.severity == Severity::Error) {
                    None => {
                        require_agent_role(&client).await?;
                        return Ok(client);
                    }
                    Some(finding) => WorkError::Unsound(finding),
                }
            }
            Err(error) if is_missing(&error) => WorkError::Connect(error),
            Err(error) => return Err(WorkError::Connect(error)),
        };
        let Some(admin) = &self.shared.admin else {
            return Err(found);
        };
        let admin = at(admin, &self.shard.address);
        bootstrap(&admin, &self.shard, &self.settings, secrets).await?;
        let client = connect(&config).await.map_err(WorkError::Connect)?;
        require_agent_role(&client).await?;
        Ok(client)
    }

    /// Inserts owner rows, then tells the catalog. A tenant that has a row in another state stays as it is: it was
    /// moved away or is being moved here, and that is not for the agent to decide.
    async fn admit(&self, client: &Client, waiting: &[Newcomer]) -> Result<(), WorkError> {
        let key = self.settings.tenant_key;
        let ids: Vec<String> = waiting
            .iter()
            .map(|newcomer| newcomer.tenant.display(key).to_string())
            .collect();
        let epochs: Vec<i64> = waiting
            .iter()
            .map(|newcomer| i64::try_from(newcomer.epoch.0).unwrap_or(i64::MAX))
            .collect();
        let key = key.sql_type();
        let insert = format!(
            "INSERT INTO tenantry.owner (tenant_id, state, epoch)
             SELECT id::{key}, 'active', epoch FROM unnest($1::text[], $2::bigint[]) AS waiting (id, epoch)
             ON CONFLICT DO NOTHING"
        );
        in_time(client.execute(&insert, &[&ids, &epochs])).await?;
        let select = format!(
            "SELECT tenant_id::text FROM tenantry.owner WHERE tenant_id = ANY ($1::text[]::{key}[]) AND state = 'active'"
        );
        let active: Vec<String> = in_time(client.query(&select, &[&ids]))
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        let admitted: Vec<TenantId> = waiting
            .iter()
            .zip(&ids)
            .filter(|(_, id)| active.contains(id))
            .map(|(newcomer, _)| newcomer.tenant)
            .collect();
        if admitted.len() < waiting.len() {
            tracing::warn!(
                shard = %self.shard.name,
                count = waiting.len() - admitted.len(),
                "provisioning tenants have an owner row that is not active, and stay as they are"
            );
        }
        let activated = self.shared.catalog.activate_tenants(&admitted).await?;
        tracing::info!(shard = %self.shard.name, activated, "tenants are active");
        Ok(())
    }
}

/// The agent's own login at a shard.
pub(crate) fn agent_config(shard: &Shard, secrets: &ShardSecrets) -> Config {
    let mut config = Config::new();
    config
        .user(role::AGENT)
        .password(secrets.passwords.agent.expose())
        .application_name("tenantry agent");
    at(&config, &shard.address)
}

/// The same login at a shard's address.
fn at(login: &Config, address: &ShardAddress) -> Config {
    let mut config = Config::new();
    if let Some(user) = login.get_user() {
        config.user(user);
    }
    if let Some(password) = login.get_password() {
        config.password(password);
    }
    if let Some(name) = login.get_application_name() {
        config.application_name(name);
    }
    config
        .ssl_mode(login.get_ssl_mode())
        .host(&address.host)
        .port(address.port)
        .dbname(&address.database)
        .connect_timeout(CONNECT_MAX)
        .to_owned()
}

/// Whether a refused login may mean that the database has not been made a shard yet.
fn is_missing(error: &tokio_postgres::Error) -> bool {
    let missing = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::UNDEFINED_DATABASE,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    error.code().is_some_and(|code| missing.contains(code))
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, WorkError> {
    match tokio::time::timeout(ANSWER_MAX, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(WorkError::Silent),
    }
}
