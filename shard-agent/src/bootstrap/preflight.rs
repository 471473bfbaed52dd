//! What is looked at before anything is changed.

use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::shard::Shard;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, GenericClient};

use super::error::{BootstrapError, during};
use crate::session::connect;

/// The oldest server that has what the fleet relies on: row filters in publications, security_invoker views.
const SERVER_VERSION_MIN: i32 = 150_000;

/// A session of the administrator on the shard's database, which is created if need be.
pub(super) async fn open(admin: &Config, done: &mut Vec<String>) -> Result<Client, BootstrapError> {
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

pub(super) async fn check_server(client: &Client) -> Result<(), BootstrapError> {
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
pub(super) async fn check_identity(
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

pub(super) async fn exists(
    client: &impl GenericClient,
    relation: &str,
) -> Result<bool, BootstrapError> {
    let row = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&relation])
        .await
        .map_err(during("looking for an earlier installation"))?;
    Ok(row.get(0))
}
