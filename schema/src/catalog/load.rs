//! The whole fleet in one consistent read: how a router starts, and what it falls back to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::copy::CopyRows;
use super::{Catalog, CatalogError, limits, migrate, ring, roles, shards};
use crate::directory::{BuildError, DirectoryBuilder, TenantRecord};
use crate::fleet::{Fleet, FleetSettings};
use crate::tenant::{Epoch, TenantKey};

/// A fleet and the history its sequence counts in.
pub(crate) struct Loaded {
    pub(crate) fleet: Fleet,
    pub(crate) origin: Origin,
}

/// Which history of which catalog a sequence number belongs to. A restored catalog, or a standby that was promoted
/// without the last commits, gives numbers out again with other content: changes may then not be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin(String);

impl Catalog {
    /// The fleet as of now, with the number of the last change that is in it. Two million tenants take seconds.
    pub async fn load_fleet(&self) -> Result<Fleet, CatalogError> {
        let mut client = self.client().await?;
        load(&mut client).await.map(|loaded| loaded.fleet)
    }
}

pub(crate) async fn load(client: &mut Client) -> Result<Loaded, CatalogError> {
    // One snapshot for everything, the counter included: the changes above it are exactly those not seen here.
    let build = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true);
    let transaction = build.start().await?;
    let settings = migrate::settings(&transaction)
        .await?
        .ok_or(CatalogError::NotInitialised)?;
    let sequence = transaction
        .query_one("SELECT last_seq FROM tenantry.change_counter", &[])
        .await?
        .get::<_, i64>(0);
    let shards: BTreeMap<_, _> = shards::shards(&transaction)
        .await?
        .into_iter()
        .map(|shard| (shard.id, Arc::new(shard)))
        .collect();
    let roles: HashMap<_, _> = roles::roles(&transaction)
        .await?
        .into_iter()
        .map(|role| (role.name.clone(), Arc::new(role)))
        .collect();
    let ring = ring::ring(&transaction).await?;
    let limits = limits::fleet_limits(&transaction).await?;
    let builder = directory(&transaction, &settings).await?;
    let origin = origin(&transaction).await?;
    transaction.commit().await?;
    // Sorting and hashing millions of names would stall everything else on this thread.
    let built = tokio::task::spawn_blocking(move || builder.build()).await;
    let directory = built
        .map_err(|_| CatalogError::Interrupted("building the directory"))?
        .map_err(unfit)?;
    let sequence = sequence.unsigned_abs();
    let fleet = Fleet {
        settings,
        shards: Arc::new(shards),
        ring: Arc::new(ring),
        roles: Arc::new(roles),
        limits: Arc::new(limits),
        directory,
        sequence,
        limits_sequence: sequence,
    };
    Ok(Loaded { fleet, origin })
}

/// The history that this connection's numbers belong to: it changes with the catalog, its server, or its timeline.
pub(crate) async fn origin(
    client: &impl tokio_postgres::GenericClient,
) -> Result<Origin, CatalogError> {
    let select = "SELECT concat_ws('/', f.catalog_id, s.system_identifier, d.oid, \
                         CASE WHEN pg_is_in_recovery() THEN 'standby' \
                              ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END) \
                  FROM tenantry.fleet f, pg_control_system() s, pg_database d WHERE d.datname = current_database()";
    let row = client
        .query_opt(select, &[])
        .await?
        .ok_or(CatalogError::NotInitialised)?;
    Ok(Origin(row.get(0)))
}

fn unfit(error: BuildError) -> CatalogError {
    CatalogError::row("tenant", "", error)
}

async fn directory(
    transaction: &Transaction<'_>,
    settings: &FleetSettings,
) -> Result<DirectoryBuilder, CatalogError> {
    let key = settings.tenant_key;
    let mut builder = DirectoryBuilder::new(key);
    load_tenants(transaction, key, &mut builder).await?;
    let copy = "COPY (SELECT name, tenant FROM tenantry.hostname WHERE verified_at IS NOT NULL) TO STDOUT (FORMAT binary)";
    let mut rows = CopyRows::start(transaction, key, copy).await?;
    while let Some(mut row) = rows.next().await? {
        let name = row.text_span()?;
        let tenant = row.tenant()?;
        builder
            .push_hostname(row.text(name)?, tenant)
            .map_err(unfit)?;
    }
    let copy = "COPY (SELECT tenant, shard FROM tenantry.pin) TO STDOUT (FORMAT binary)";
    let mut rows = CopyRows::start(transaction, key, copy).await?;
    while let Some(mut row) = rows.next().await? {
        builder.push_pin(row.tenant()?, row.shard()?);
    }
    Ok(builder)
}

async fn load_tenants(
    transaction: &Transaction<'_>,
    key: TenantKey,
    builder: &mut DirectoryBuilder,
) -> Result<(), CatalogError> {
    let copy = "COPY (SELECT id, slug, state, isolation, epoch, plan, is_demo, is_simulation, suspended_reason, \
                             suspended_at FROM tenantry.tenant) TO STDOUT (FORMAT binary)";
    let mut rows = CopyRows::start(transaction, key, copy).await?;
    while let Some(mut row) = rows.next().await? {
        let id = row.tenant()?;
        let (slug, state, isolation) = (row.text_span()?, row.text_span()?, row.text_span()?);
        let epoch = Epoch(row.int8()?.unsigned_abs());
        let plan = row.text_span()?;
        let (is_demo, is_simulation) = (row.boolean()?, row.boolean()?);
        let reason = row.text_span()?;
        let suspended_at = row.timestamp()?;
        let slug = row.text(slug)?;
        let record = TenantRecord {
            id,
            slug,
            state: row
                .text(state)?
                .parse()
                .map_err(|cause| CatalogError::row("tenant", slug, cause))?,
            isolation: row
                .text(isolation)?
                .parse()
                .map_err(|cause| CatalogError::row("tenant", slug, cause))?,
            epoch,
            pin: None,
            plan: Some(row.text(plan)?),
            is_demo,
            is_simulation,
            suspended_reason: reason.map(|reason| row.text(Some(reason))).transpose()?,
            suspended_at,
        };
        builder.push_tenant(&record).map_err(unfit)?;
    }
    Ok(())
}
