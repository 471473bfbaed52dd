//! Guard, keys and schema, within bootstrap's one transaction.

use sha2::{Digest, Sha256};
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard::{self, GuardScript};
use tenantry_schema::secrets::GuardKeys;
use tenantry_schema::shard::Shard;
use tenantry_schema::storefront;
use tokio_postgres::Transaction;

use super::error::{BootstrapError, during};

pub(super) async fn install_guard(
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

pub(super) async fn replace_keys(
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

pub(super) async fn migrate(
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

pub(super) async fn cover(
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

pub(super) fn version_sql(version: u32) -> i32 {
    i32::try_from(version).unwrap_or(i32::MAX)
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
