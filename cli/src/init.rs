//! `tenantry init`: makes an empty database the catalog of a new fleet.

use clap::{Args, ValueEnum};
use serde::Serialize;
use tenantry_schema::catalog::Catalog;
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::tenant::TenantKey;

use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::{Printer, record};

/// `tenantry init`
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Type of the tenants' ids; chosen once
    #[arg(long, value_enum)]
    tenant_key: Key,
    /// Column that holds the tenant's id in every table; chosen once
    #[arg(long, value_name = "NAME", default_value = "tenant_id")]
    tenant_column: String,
}

/// Type of the tenants' ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Key {
    /// 64-bit numbers
    Bigint,
    /// UUIDs
    Uuid,
}

/// A catalog as it is after `init`.
#[derive(Debug, Serialize)]
struct Initialised {
    tenant_key: &'static str,
    tenant_column: String,
    version: i32,
}

record!(Initialised { tenant_key => "TENANT KEY", tenant_column => "TENANT COLUMN", version => "CATALOG VERSION" });

/// Initialises the configured catalog. Again with the same choices this only migrates it.
pub(crate) async fn run(
    args: InitArgs,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let settings = sources.settings()?;
    let catalog = Catalog::connect(settings.catalog_url()?).await?;
    let wanted = FleetSettings {
        tenant_column: args.tenant_column,
        ..FleetSettings::new(match args.tenant_key {
            Key::Bigint => TenantKey::Bigint,
            Key::Uuid => TenantKey::Uuid,
        })
    };
    let report = catalog.init(wanted.clone()).await?;
    printer.one(&Initialised {
        tenant_key: wanted.tenant_key.sql_type(),
        tenant_column: wanted.tenant_column,
        version: report.to,
    })?;
    Ok(Exit::Ok)
}
