//! `tenantry shard`: the operator's view of shards, through the catalog.

mod args;

use serde::Serialize;
use serde_json::json;
use tenantry_schema::catalog::{AddedShard, Catalog, NewShard};
use tenantry_schema::shard::{Shard, ShardAddress, ShardKind, ShardName};

pub(crate) use args::ShardCommand;
use args::{AddArgs, Kind};

use crate::catalog::{audit, open};
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::{Printer, note, record};

/// Runs `tenantry shard …`.
pub(crate) async fn run(
    command: ShardCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    match command {
        ShardCommand::List => {
            let shards = catalog.list_shards().await?;
            printer.list(&shards.into_iter().map(ShardView::from).collect::<Vec<_>>())?;
        }
        ShardCommand::Show { shard } => {
            printer.one(&ShardView::from(catalog.shard(&shard).await?))?
        }
        ShardCommand::Add(args) => add(&catalog, args, printer).await?,
    }
    Ok(Exit::Ok)
}

async fn add(catalog: &Catalog, args: AddArgs, printer: Printer) -> Result<(), Failure> {
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
