//! What a demo's first start writes into the catalog: shards, client roles, stores. A later start only tells the
//! catalog of changed ports.

use tenantry_cluster::Server;
use tenantry_schema::catalog::{Catalog, NewShard};
use tenantry_schema::fleet::{FleetSettings, Role, RoleKind, RoleLimits};
use tenantry_schema::secrets::{SecretsFile, ShardSecrets};
use tenantry_schema::shard::{Shard, ShardAddress, ShardName};
use tenantry_schema::tenant::{TenantId, TenantKey};
use tenantry_wire::scram::Verifier;

use super::fleet::{CATALOG_DATABASE, SHARD_DATABASE, Servers, ShardPlan};
use super::place::Place;
use super::stores::Store;
use crate::exit::{Explain, Failure};

/// Password of the demo's client roles. Only this machine can connect, and the data is made up.
pub(super) const PASSWORD: &str = "demo";

/// Acts for any store it names.
pub(super) const SERVICE_ROLE: &str = "shop";
/// Sees the whole fleet.
pub(super) const OPERATOR_ROLE: &str = "ops";
/// Is one of the stores, which the user name says: `store.SLUG`.
pub(super) const TENANT_ROLE: &str = "store";

/// Opens the catalog, bringing its database and schema into being where they are missing.
pub(super) async fn open_catalog(server: &Server) -> Result<Catalog, Failure> {
    create_database(server, CATALOG_DATABASE).await?;
    let catalog = Catalog::connect(&server.url(CATALOG_DATABASE)).await?;
    catalog.migrate().await?;
    catalog.init(FleetSettings::new(TenantKey::Bigint)).await?;
    Ok(catalog)
}

/// Creates a database unless it exists.
pub(super) async fn create_database(server: &Server, name: &str) -> Result<(), Failure> {
    let failed = || format!("database {name} cannot be created");
    let client = server.connect("postgres").await.explain(failed)?;
    let exists = client
        .query_opt(
            "SELECT FROM pg_catalog.pg_database WHERE datname = $1",
            &[&name],
        )
        .await
        .explain(failed)?;
    match exists {
        Some(_) => Ok(()),
        None => server.create_database(name).await.explain(failed),
    }
}

/// Fresh secrets for every shard, on disk before any shard learns them.
pub(super) fn write_secrets(place: &Place, servers: &Servers) -> Result<SecretsFile, Failure> {
    let shards = servers
        .shards
        .iter()
        .map(|(plan, _)| (plan.name.clone(), ShardSecrets::generate()))
        .collect();
    let secrets = SecretsFile {
        shards,
        ..SecretsFile::generate()
    };
    secrets
        .save(place.secrets())
        .explain(|| "the secrets cannot be written".to_owned())?;
    Ok(secrets)
}

/// Enters the shards, in order of their position so that their numbers are the same in every demo.
pub(super) async fn add_shards(
    catalog: &Catalog,
    servers: &Servers,
) -> Result<Vec<Shard>, Failure> {
    let mut shards = Vec::new();
    for (plan, server) in &servers.shards {
        let name =
            ShardName::parse(&plan.name).explain(|| format!("`{}` is no shard name", plan.name))?;
        let new = NewShard {
            kind: plan.kind,
            ..NewShard::new(name, address(server))
        };
        shards.push(catalog.add_shard(new).await?.shard);
    }
    Ok(shards)
}

/// The shards of an existing demo, at the ports they have now.
pub(super) async fn readdress_shards(
    catalog: &Catalog,
    servers: &Servers,
) -> Result<Vec<Shard>, Failure> {
    let mut shards = Vec::new();
    for (ShardPlan { name, .. }, server) in &servers.shards {
        let shard = catalog.shard(name).await?;
        shards.push(match address(server) {
            same if same == shard.address => shard,
            moved => catalog.set_shard_address(shard.id, &moved).await?,
        });
    }
    Ok(shards)
}

fn address(server: &Server) -> ShardAddress {
    ShardAddress {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: SHARD_DATABASE.to_owned(),
    }
}

/// The three roles clients log in as.
pub(super) async fn add_roles(catalog: &Catalog, stores: &[Store]) -> Result<(), Failure> {
    let tenants = stores
        .iter()
        .map(tenant_id)
        .collect::<Result<Vec<_>, _>>()?;
    for (name, kind, tenants) in [
        (SERVICE_ROLE, RoleKind::Service, Vec::new()),
        (OPERATOR_ROLE, RoleKind::Operator, Vec::new()),
        (TENANT_ROLE, RoleKind::Tenant, tenants),
    ] {
        let role = Role {
            name: name.to_owned(),
            verifier: Verifier::from_password(PASSWORD).to_string(),
            kind,
            tenants,
            limits: RoleLimits::default(),
            valid_until: None,
        };
        catalog.upsert_role(&role).await?;
    }
    Ok(())
}

/// Enters all stores in one transaction, by plain SQL: whatever writes the tables takes the same way to the routers.
pub(super) async fn add_stores(server: &Server, stores: &[Store]) -> Result<(), Failure> {
    let failed = || "the stores cannot be entered in the catalog".to_owned();
    let mut client = server.connect(CATALOG_DATABASE).await.explain(failed)?;
    let transaction = client.transaction().await.explain(failed)?;
    let column = |of: fn(&Store) -> &str| stores.iter().map(of).collect::<Vec<_>>();
    let ids: Vec<i64> = stores.iter().map(|store| store.id).collect();
    let slugs = column(|store| &store.slug);
    let plans = column(|store| store.plan);
    let (mut names, mut owners, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for store in stores {
        for (index, name) in store.hostnames.iter().enumerate() {
            names.push(name.as_str());
            owners.push(store.id);
            kinds.push(if index == 0 { "platform" } else { "custom" });
        }
    }
    transaction
        .execute(include_str!("sql/add_tenants.sql"), &[&ids, &slugs, &plans])
        .await
        .explain(failed)?;
    transaction
        .execute(
            include_str!("sql/add_hostnames.sql"),
            &[&names, &owners, &kinds],
        )
        .await
        .explain(failed)?;
    transaction.commit().await.explain(failed)
}

pub(super) fn tenant_id(store: &Store) -> Result<TenantId, Failure> {
    TenantId::from_bigint(store.id).explain(|| format!("{} is no tenant id", store.id))
}
