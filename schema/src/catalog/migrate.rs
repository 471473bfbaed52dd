//! Brings a database to the catalog's schema: embedded migrations, each applied once, in order.
//!
//! Migration 1 lays down the fleet's row. The others need the tenant key's type, so they wait until `init` has
//! chosen it. Everything runs in one transaction under an advisory lock: two processes that start together do not
//! collide, and a failure leaves nothing.

use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Transaction};

use super::{Catalog, CatalogError};
use crate::fleet::FleetSettings;
use crate::tenant::TenantKey;

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("migrations/", $name, ".sql")),
        }),+]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_fleet",
    2 "0002_placement",
    3 "0003_change",
    4 "0004_operation",
    5 "0005_peer",
    6 "0006_limits",
    7 "0007_load",
    8 "0008_moves",
    9 "0009_rebalance",
    10 "0010_heat_and_switch",
];

const BIGINT_KEY: &str = include_str!("migrations/key_bigint.sql");
const UUID_KEY: &str = include_str!("migrations/key_uuid.sql");

/// Arbitrary, but the same in every release: the advisory lock that serialises migrations.
const MIGRATION_LOCK: i64 = 0x7465_6e61_6e74_7279;

/// The version a migrated and initialised catalog has.
pub fn latest_version() -> i32 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}

/// What `migrate` or `init` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrateReport {
    /// The catalog's version before; 0: an empty database.
    pub from: i32,
    /// And after.
    pub to: i32,
}

impl Catalog {
    /// Applies the migrations that are missing. On a database that is not initialised only the first is, since the
    /// others depend on the tenant key; [`Catalog::init`] applies the rest.
    pub async fn migrate(&self) -> Result<MigrateReport, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let report = apply(&transaction).await?;
        transaction.commit().await?;
        Ok(report)
    }

    /// Chooses the fleet's tenant key and column, and migrates. Again with the same settings it is [`Catalog::migrate`].
    pub async fn init(&self, wanted: FleetSettings) -> Result<MigrateReport, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let first = apply(&transaction).await?;
        match settings(&transaction).await? {
            Some(found) if found == wanted => {}
            Some(found) => {
                return Err(CatalogError::SettingsDiffer {
                    key: found.tenant_key,
                    column: found.tenant_column,
                });
            }
            None => {
                let insert =
                    "INSERT INTO tenantry.fleet (tenant_key, tenant_column) VALUES ($1, $2)";
                transaction
                    .execute(
                        insert,
                        &[&wanted.tenant_key.sql_type(), &wanted.tenant_column],
                    )
                    .await?;
                let key = match wanted.tenant_key {
                    TenantKey::Bigint => BIGINT_KEY,
                    TenantKey::Uuid => UUID_KEY,
                };
                transaction.batch_execute(key).await?;
            }
        }
        let rest = apply(&transaction).await?;
        transaction.commit().await?;
        Ok(MigrateReport {
            from: first.from,
            to: rest.to,
        })
    }

    /// The version the catalog has; 0 when the database holds none.
    pub async fn version(&self) -> Result<i32, CatalogError> {
        let client = self.client().await?;
        Ok(applied(&*client)
            .await?
            .last()
            .map_or(0, |(version, _)| *version))
    }
}

async fn apply(transaction: &Transaction<'_>) -> Result<MigrateReport, CatalogError> {
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
        .await?;
    let done = applied(transaction).await?;
    for (version, checksum) in &done {
        let known = MIGRATIONS
            .iter()
            .find(|migration| migration.version == *version);
        let known = known.ok_or(CatalogError::Newer {
            found: *version,
            known: latest_version(),
        })?;
        if i64::from(crc32fast::hash(known.sql.as_bytes())) != *checksum {
            return Err(CatalogError::EditedMigration { version: *version });
        }
    }
    let from = done.last().map_or(0, |(version, _)| *version);
    let initialised = from > 0 && settings(transaction).await?.is_some();
    let mut to = from;
    for migration in MIGRATIONS
        .iter()
        .filter(|migration| migration.version > from)
    {
        if migration.version > 1 && !initialised {
            break;
        }
        tracing::info!(migration = migration.name, "applying a catalog migration");
        transaction.batch_execute(migration.sql).await?;
        let checksum = i64::from(crc32fast::hash(migration.sql.as_bytes()));
        let record = "INSERT INTO tenantry.migration (version, name, checksum) VALUES ($1, $2, $3)";
        transaction
            .execute(record, &[&migration.version, &migration.name, &checksum])
            .await?;
        to = migration.version;
    }
    Ok(MigrateReport { from, to })
}

/// Version and checksum of each applied migration, in order.
async fn applied(client: &impl GenericClient) -> Result<Vec<(i32, i64)>, CatalogError> {
    let exists = "SELECT to_regclass('tenantry.migration') IS NOT NULL";
    if !client.query_one(exists, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client
        .query(
            "SELECT version, checksum FROM tenantry.migration ORDER BY version",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The fleet's settings; `None` before `init`.
pub(super) async fn settings(
    client: &impl GenericClient,
) -> Result<Option<FleetSettings>, CatalogError> {
    let row = match client
        .query_opt("SELECT tenant_key, tenant_column FROM tenantry.fleet", &[])
        .await
    {
        Ok(row) => row,
        Err(error)
            if matches!(
                error.code(),
                Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)
            ) =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    let Some(row) = row else { return Ok(None) };
    let key: &str = row.get(0);
    let tenant_key = key
        .parse()
        .map_err(|cause| CatalogError::row("fleet", key, cause))?;
    Ok(Some(FleetSettings {
        tenant_key,
        tenant_column: row.get(1),
    }))
}
