//! Brings an empty PostgreSQL database to a shard: roles, guard, reference schema, keys.
//!
//! Needs a superuser, once. A second run changes nothing; a run on a shard that drifted repairs it. The guard, the
//! schema and the keys are installed in one transaction, so that a crash leaves a shard or nothing. The roles belong to
//! the whole server and come first, in a transaction of their own.

use sha2::{Digest, Sha256};
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard::{self, GuardOptions, GuardScript, role};
use tenantry_schema::secrets::{GuardKeys, Password, RolePasswords, ShardSecrets};
use tenantry_schema::shard::Shard;
use tenantry_schema::storefront;
use tenantry_wire::scram::Verifier;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, GenericClient, Transaction};

use crate::session::connect;
use crate::verify::{Finding, Severity, verify};

/// The oldest server that has what the fleet relies on: row filters in publications, security_invoker views.
const SERVER_VERSION_MIN: i32 = 150_000;

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

fn during(step: &'static str) -> impl Fn(tokio_postgres::Error) -> BootstrapError {
    move |source| BootstrapError::Step { step, source }
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

async fn open(admin: &Config, done: &mut Vec<String>) -> Result<Client, BootstrapError> {
    match connect(admin).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
            let name = admin.get_dbname().unwrap_or_default().to_owned();
            let maintenance = connect(admin.clone().dbname("postgres"))
                .await
                .map_err(BootstrapError::Connect)?;
            let create = format!(
                "CREATE DATABASE \"{}\" TEMPLATE template0 ENCODING 'UTF8'",
                name.replace('"', "\"\"")
            );
            match maintenance.batch_execute(&create).await {
                // Someone else was faster.
                Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => {}
                Err(error) => return Err(during("creating the database")(error)),
                Ok(()) => done.push(format!("database {name}")),
            }
            connect(admin).await.map_err(BootstrapError::Connect)
        }
        opened => opened.map_err(BootstrapError::Connect),
    }
}

async fn check_server(client: &Client) -> Result<(), BootstrapError> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
                    current_user::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
                    current_setting('server_encoding')",
            &[],
        )
        .await
        .map_err(during("looking at the server"))?;
    if row.get::<_, i32>(0) < SERVER_VERSION_MIN {
        return Err(BootstrapError::ServerVersion { found: row.get(1) });
    }
    if !row.get::<_, bool>(3) {
        return Err(BootstrapError::NotSuperuser { role: row.get(2) });
    }
    let found: String = row.get(4);
    if found != "UTF8" {
        return Err(BootstrapError::Encoding { found });
    }
    Ok(())
}

/// Refuses a database that already belongs to another shard or another kind of fleet, before anything is touched.
async fn check_identity(
    client: &Client,
    shard: &Shard,
    settings: &FleetSettings,
) -> Result<(), BootstrapError> {
    let step = during("looking for an earlier installation");
    if !exists(client, "tenantry.shard").await? {
        return Ok(());
    }
    if let Some(row) = client
        .query_opt("SELECT id, name FROM tenantry.shard", &[])
        .await
        .map_err(&step)?
    {
        let found_id: i16 = row.get(0);
        if i32::from(found_id) != i32::from(shard.id) {
            return Err(BootstrapError::OtherShard {
                found_id,
                found_name: row.get(1),
                wanted_id: shard.id.number(),
            });
        }
    }
    let found: String = client
        .query_one(
            "SELECT format_type(atttypid, NULL) FROM pg_attribute
             WHERE attrelid = 'tenantry.owner'::regclass AND attname = 'tenant_id'",
            &[],
        )
        .await
        .map_err(&step)?
        .get(0);
    let wanted = settings.tenant_key.sql_type();
    if found != wanted {
        return Err(BootstrapError::OtherTenantKey { found, wanted });
    }
    Ok(())
}

async fn exists(client: &impl GenericClient, relation: &str) -> Result<bool, BootstrapError> {
    let row = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&relation])
        .await
        .map_err(during("looking for an earlier installation"))?;
    Ok(row.get(0))
}

/// Notices about what exists already say nothing that the report does not.
async fn quiet(transaction: &Transaction<'_>) -> Result<(), BootstrapError> {
    transaction
        .batch_execute("SET LOCAL client_min_messages = warning; SET LOCAL search_path = public")
        .await
        .map_err(during("settings"))
}

async fn install_roles(
    client: &mut Client,
    script: &GuardScript,
    passwords: &RolePasswords,
    done: &mut Vec<String>,
) -> Result<(), BootstrapError> {
    let step = during("creating the server's roles");
    let transaction = client.transaction().await.map_err(&step)?;
    // A lock on a shared catalog counts in every database of the server.
    transaction
        .batch_execute("LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE")
        .await
        .map_err(&step)?;
    let before = role_state(&transaction).await.map_err(&step)?;
    transaction
        .batch_execute(&script.roles)
        .await
        .map_err(&step)?;
    if role_state(&transaction).await.map_err(&step)? != before {
        done.push("server roles".to_owned());
    }
    for (name, password) in [
        (role::APP, &passwords.app),
        (role::AGENT, &passwords.agent),
        (role::OPERATOR, &passwords.operator),
    ] {
        if set_password(&transaction, name, password)
            .await
            .map_err(&step)?
        {
            done.push(format!("password of {name}"));
        }
    }
    transaction.commit().await.map_err(&step)
}

/// Attributes, settings and memberships of the fleet's roles, to tell whether anything changed.
async fn role_state(transaction: &Transaction<'_>) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = transaction
        .query(
            "SELECT concat_ws(' ', rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication,
                              rolbypassrls, rolinherit, rolconfig,
                              (SELECT string_agg(m.roleid::regrole::text, ',' ORDER BY m.roleid)
                               FROM pg_auth_members m WHERE m.member = r.oid))
             FROM pg_roles r WHERE rolname LIKE 'tenantry\\_%' ORDER BY rolname",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Stores a verifier, not the password: statements are logged.
async fn set_password(
    transaction: &Transaction<'_>,
    name: &str,
    password: &Password,
) -> Result<bool, tokio_postgres::Error> {
    let stored: Option<String> = transaction
        .query_one(
            "SELECT rolpassword FROM pg_authid WHERE rolname = $1",
            &[&name],
        )
        .await?
        .get(0);
    let is_set = stored
        .and_then(|text| Verifier::parse(&text).ok())
        .is_some_and(|verifier| verifier.is_of(password.expose()));
    if !is_set {
        // The verifier's alphabet has neither quotes nor backslashes.
        let verifier = Verifier::from_password(password.expose());
        transaction
            .batch_execute(&format!("ALTER ROLE {name} PASSWORD '{verifier}'"))
            .await?;
    }
    Ok(!is_set)
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

async fn install_guard(
    transaction: &Transaction<'_>,
    script: &GuardScript,
    shard: &Shard,
) -> Result<(), BootstrapError> {
    let step = during("installing the guard");
    transaction
        .batch_execute(&script.schema)
        .await
        .map_err(&step)?;
    as_owner(transaction).await?;
    transaction
        .batch_execute(&script.objects)
        .await
        .map_err(&step)?;
    transaction
        .execute(
            "INSERT INTO tenantry.shard (id, name) VALUES ($1, $2)
             ON CONFLICT (singleton) DO UPDATE SET name = excluded.name",
            &[&shard.id, &shard.name.to_string()],
        )
        .await
        .map_err(&step)?;
    transaction
        .execute(
            "UPDATE tenantry.shard SET fingerprint = tenantry.fingerprint()",
            &[],
        )
        .await
        .map_err(&step)?;
    record(
        transaction,
        "guard",
        guard::VERSION,
        "guard",
        &script.checksum,
    )
    .await?;
    as_superuser(transaction).await?;
    transaction
        .batch_execute(&script.hardening)
        .await
        .map_err(&step)
}

async fn replace_keys(
    transaction: &Transaction<'_>,
    keys: &GuardKeys,
    done: &mut Vec<String>,
) -> Result<(), BootstrapError> {
    let step = during("installing the signing keys");
    let versions: Vec<i32> = keys.valid().map(|key| key.version_sql()).collect();
    let mut changed = transaction
        .execute(
            "DELETE FROM tenantry.guard_key WHERE version <> ALL ($1)",
            &[&versions],
        )
        .await
        .map_err(&step)?;
    for key in keys.valid() {
        let (inner, outer) = key.blocks();
        changed += transaction
            .execute(
                "INSERT INTO tenantry.guard_key AS k (version, inner_block, outer_block) VALUES ($1, $2, $3)
                 ON CONFLICT (version) DO UPDATE
                 SET inner_block = excluded.inner_block, outer_block = excluded.outer_block, installed_at = now()
                 WHERE (k.inner_block, k.outer_block) IS DISTINCT FROM (excluded.inner_block, excluded.outer_block)",
                &[&key.version_sql(), &inner.as_slice(), &outer.as_slice()],
            )
            .await
            .map_err(&step)?;
    }
    if changed > 0 {
        done.push(format!(
            "signing keys, current version {}",
            keys.current.version
        ));
    }
    Ok(())
}

async fn migrate(
    transaction: &Transaction<'_>,
    settings: &FleetSettings,
    done: &mut Vec<String>,
) -> Result<(), BootstrapError> {
    let step = during("installing the storefront schema");
    for migration in storefront::MIGRATIONS {
        let sql = migration.render(settings);
        let checksum = checksum(&sql);
        let applied = transaction
            .query_opt(
                "SELECT checksum FROM tenantry.schema_version WHERE component = $1 AND version = $2",
                &[&storefront::COMPONENT, &version_sql(migration.version)],
            )
            .await
            .map_err(&step)?;
        match applied {
            Some(row) if row.get::<_, &str>(0) == checksum => continue,
            Some(_) => {
                return Err(BootstrapError::AlteredMigration {
                    component: storefront::COMPONENT.to_owned(),
                    version: migration.version,
                });
            }
            None => {}
        }
        as_owner(transaction).await?;
        transaction.batch_execute(&sql).await.map_err(&step)?;
        let (version, name) = (migration.version, migration.name);
        record(transaction, storefront::COMPONENT, version, name, &checksum).await?;
        as_superuser(transaction).await?;
        done.push(format!(
            "schema {} {version} ({name})",
            storefront::COMPONENT
        ));
    }
    Ok(())
}

async fn cover(
    transaction: &Transaction<'_>,
    done: &mut Vec<String>,
) -> Result<(), BootstrapError> {
    // As superuser: a table made by hand may have another owner.
    let rows = transaction
        .query(
            "SELECT split_part(change, ': ', 1), count(*) FROM tenantry.cover_all() change GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await
        .map_err(during("covering the tables"))?;
    for row in rows {
        done.push(format!("table {} covered", row.get::<_, &str>(0)));
    }
    Ok(())
}

async fn record(
    transaction: &Transaction<'_>,
    component: &str,
    version: u32,
    name: &str,
    checksum: &str,
) -> Result<(), BootstrapError> {
    transaction
        .execute(
            "INSERT INTO tenantry.schema_version (component, version, name, checksum) VALUES ($1, $2, $3, $4)
             ON CONFLICT (component, version) DO UPDATE SET checksum = excluded.checksum, applied_at = now()",
            &[&component, &version_sql(version), &name, &checksum],
        )
        .await
        .map_err(during("recording the version"))?;
    Ok(())
}

async fn as_owner(transaction: &Transaction<'_>) -> Result<(), BootstrapError> {
    transaction
        .batch_execute("SET LOCAL ROLE tenantry_owner")
        .await
        .map_err(during("becoming tenantry_owner"))
}

async fn as_superuser(transaction: &Transaction<'_>) -> Result<(), BootstrapError> {
    transaction
        .batch_execute("RESET ROLE")
        .await
        .map_err(during("becoming superuser again"))
}

fn version_sql(version: u32) -> i32 {
    i32::try_from(version).unwrap_or(i32::MAX)
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
