//! `tenantry shard`: the operator's view of shards, through the catalog.

mod args;
mod state;

use std::path::Path;

use serde::Serialize;
use serde_json::json;
use tenantry_schema::catalog::{AddedShard, Catalog, NewShard};
use tenantry_schema::secrets::{Password, SecretsFile, ShardSecrets};
use tenantry_schema::shard::{Shard, ShardAddress, ShardKind, ShardName};

pub(crate) use args::ShardCommand;
use args::{AddArgs, Kind};

use crate::catalog::{audit, open};
use crate::config::Sources;
use crate::exit::{Exit, Explain, Failure};
use crate::output::{Printer, note, record};

/// Runs `tenantry shard …`.
pub(crate) async fn run(
    command: ShardCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    let secrets = sources.settings()?.secrets_file().ok();
    match command {
        ShardCommand::List => {
            let shards = catalog.list_shards().await?;
            printer.list(&shards.into_iter().map(ShardView::from).collect::<Vec<_>>())?;
        }
        ShardCommand::Show { shard } => {
            printer.one(&ShardView::from(catalog.shard(&shard).await?))?
        }
        ShardCommand::Add(args) => add(&catalog, args, secrets.as_deref(), printer).await?,
        ShardCommand::Drain(args) => state::drain(&catalog, &args, printer).await?,
        ShardCommand::Resume { shard } => state::resume(&catalog, &shard, printer).await?,
        ShardCommand::SetReadonly { shard } => {
            state::set_readonly(&catalog, &shard, printer).await?;
        }
        ShardCommand::Remove(args) => state::remove(&catalog, &args, sources, printer).await?,
    }
    Ok(Exit::Ok)
}

async fn add(
    catalog: &Catalog,
    args: AddArgs,
    secrets: Option<&Path>,
    printer: Printer,
) -> Result<(), Failure> {
    let name = ShardName::parse(&args.name)
        .map_err(|error| Failure::usage(format!("`{}`: {error}", args.name)))?;
    let address = ShardAddress {
        host: args.host,
        port: args.port,
        database: args.database,
    };
    let new = NewShard {
        kind: match args.kind {
            Kind::Shared => ShardKind::Shared,
            Kind::Dedicated => ShardKind::Dedicated,
            Kind::Spare => ShardKind::Spare,
        },
        weight: args.weight,
        zone: args.zone,
        ..NewShard::new(name, address)
    };
    match secrets {
        Some(path) => ensure_secrets(catalog, path, &new).await?,
        None => note(
            "no secrets file is configured: give routers and agents the shard's secrets before they need them",
        ),
    }
    let AddedShard { shard, pinned } = catalog.add_shard(new).await?;
    let after =
        json!({"kind": shard.kind.as_str(), "weight": shard.weight, "pinned_tenants": pinned});
    audit(
        catalog,
        "shard.add",
        ("shard", shard.name.as_str()),
        None,
        Some(after),
    )
    .await?;
    if pinned > 0 {
        note(format_args!(
            "{pinned} tenants stay where they live and are pinned there; new tenants follow the new ring"
        ));
    }
    printer.one(&ShardView::from(shard))
}

/// Gives the shard keys and passwords of its own unless the file has some. This comes before the catalog learns of
/// the shard, because routers and agents look for them the moment it does.
async fn ensure_secrets(catalog: &Catalog, path: &Path, new: &NewShard) -> Result<(), Failure> {
    let unusable = || "the shard's secrets cannot be kept".to_owned();
    let mut secrets = SecretsFile::load(path).explain(unusable)?;
    if secrets.shard(new.name.as_str()).is_some() {
        return Ok(());
    }
    let mut fresh = ShardSecrets::generate();
    // Roles belong to the server: another database of the same one shares their passwords.
    let shards = catalog.list_shards().await?;
    let mut neighbours = shards.iter().filter(|shard| {
        (&shard.address.host, shard.address.port) == (&new.address.host, new.address.port)
    });
    if let Some(known) = neighbours.find_map(|shard| secrets.shard(shard.name.as_str())) {
        fresh.passwords = known.passwords.clone();
    }
    secrets.shards.insert(new.name.to_string(), fresh);
    secrets
        .mock_authentication_nonce
        .get_or_insert_with(Password::generate);
    // What a file of an earlier version lacks; routers have a control plane once they read it.
    secrets.control_token.get_or_insert_with(Password::generate);
    secrets.save(path).explain(unusable)?;
    note(format_args!(
        "{} has new secrets in {}; every router and agent needs them",
        new.name,
        path.display()
    ));
    Ok(())
}

/// A shard as it is shown.
#[derive(Debug, Serialize)]
struct ShardView {
    id: u16,
    name: String,
    kind: &'static str,
    state: &'static str,
    weight: u32,
    host: String,
    port: u16,
    database: String,
    replicas: Vec<String>,
    zone: Option<String>,
}

record!(ShardView {
    id => "ID", name => "NAME", kind => "KIND", state => "STATE", weight => "WEIGHT", host => "HOST", port => "PORT",
    database => "DATABASE", replicas => "REPLICAS", zone => "ZONE",
});

impl From<Shard> for ShardView {
    fn from(shard: Shard) -> Self {
        let replicas = shard
            .replicas
            .iter()
            .map(|replica| format!("{}:{}", replica.host, replica.port));
        Self {
            id: shard.id.number(),
            name: shard.name.to_string(),
            kind: shard.kind.as_str(),
            state: shard.state.as_str(),
            weight: shard.weight,
            replicas: replicas.collect(),
            host: shard.address.host,
            port: shard.address.port,
            database: shard.address.database,
            zone: shard.zone,
        }
    }
}
