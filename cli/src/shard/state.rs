//! `tenantry shard drain`, `resume`, `set-readonly` and `remove`: what a shard may be used for, up to its end.

use serde_json::json;
use tenantry_rebalancer::fleet::{begin, drained_ring, inventory};
use tenantry_rebalancer::plan::{Goal, plan};
use tenantry_rebalancer::shard::{ShardEndpoint, connect};
use tenantry_schema::catalog::{Catalog, Rebalance, RebalanceState};
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::shard::{Shard, ShardId, ShardState};

use super::ShardView;
use super::args::{DrainArgs, RemoveArgs};
use crate::catalog::{actor, audit};
use crate::config::Sources;
use crate::exit::{Exit, Explain, Failure};
use crate::output::{Printer, note};
use crate::rebalance;

/// Tenants that use a shard, or are on their way to it or from it; a moved one has only a forwarding address there.
const IN_USE: &str = "SELECT count(*) FROM tenantry.owner WHERE state <> 'moved'";

/// Begins to empty a shard.
pub(super) async fn drain(
    catalog: &Catalog,
    args: &DrainArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let shard = catalog.shard(&args.shard).await?;
    let limits = args.limits.limits();
    let goal = Goal::Drain(shard.id);
    if args.dry_run {
        let mut fleet = inventory(catalog).await?;
        drained_ring(&mut fleet, &catalog.ring().await?, shard.id);
        return rebalance::print_plan(catalog, &plan(&fleet, goal, &limits), printer).await;
    }
    if let Some(running) = emptying(catalog, shard.id).await? {
        return Err(Failure::precondition(format!(
            "shard {} is being emptied already",
            shard.name
        ))
        .hint(format!("see `tenantry rebalance status {}`", running.id)));
    }
    if !matches!(shard.state, ShardState::Active | ShardState::Draining) {
        return Err(Failure::precondition(format!(
            "shard {} is {}, and moves write on the shard they start from",
            shard.name, shard.state
        ))
        .hint("make it active first: `tenantry shard resume`"));
    }
    if shard.state != ShardState::Draining {
        change(catalog, "shard.drain", &shard, ShardState::Draining).await?;
    }
    // After the ring is without it, so that nobody is placed there any more behind the plan's back.
    let plan = plan(&inventory(catalog).await?, goal, &limits);
    if plan.moves.is_empty() && plan.left.is_empty() {
        note(format_args!(
            "nobody lives on {}: remove it with `tenantry shard remove`",
            shard.name
        ));
        return show(catalog, shard.id, printer).await;
    }
    let mut begun = begin(catalog, &plan, &limits, &actor()).await?;
    if args.wait.wait {
        begun = rebalance::finished(catalog, begun.id, args.wait.timeout.0).await?;
    }
    rebalance::print_status(catalog, &begun, printer).await
}

/// Makes a shard active again; what is being moved off it arrives, nothing more is begun.
pub(super) async fn resume(catalog: &Catalog, name: &str, printer: Printer) -> Result<(), Failure> {
    let shard = catalog.shard(name).await?;
    if shard.state == ShardState::Active {
        return Err(Failure::precondition(format!(
            "shard {} is active",
            shard.name
        )));
    }
    if let Some(running) = emptying(catalog, shard.id).await?
        && running.state == RebalanceState::Running
    {
        catalog.stop_rebalance(running.id, &actor()).await?;
    }
    change(catalog, "shard.resume", &shard, ShardState::Active).await?;
    show(catalog, shard.id, printer).await
}

/// Keeps a shard as it is: nobody comes, nobody moves.
pub(super) async fn set_readonly(
    catalog: &Catalog,
    name: &str,
    printer: Printer,
) -> Result<(), Failure> {
    let shard = catalog.shard(name).await?;
    if shard.state == ShardState::ReadOnly {
        return Err(Failure::precondition(format!(
            "shard {} is read-only",
            shard.name
        )));
    }
    if let Some(running) = emptying(catalog, shard.id).await? {
        return Err(
            Failure::precondition(format!("shard {} is being emptied", shard.name)).hint(format!(
                "stop that first: `tenantry rebalance stop {}`",
                running.id
            )),
        );
    }
    change(catalog, "shard.set_readonly", &shard, ShardState::ReadOnly).await?;
    show(catalog, shard.id, printer).await
}

/// Takes an empty shard out of the catalog.
pub(super) async fn remove(
    catalog: &Catalog,
    args: &RemoveArgs,
    sources: &Sources,
    printer: Printer,
) -> Result<(), Failure> {
    let shard = catalog.shard(&args.shard).await?;
    if args.confirm != shard.name.as_str() {
        return Err(Failure::usage("this takes the shard out of the fleet")
            .hint(format!("say so with --confirm {}", shard.name)));
    }
    if let Some(running) = emptying(catalog, shard.id).await? {
        return Err(
            Failure::precondition(format!("shard {} is being emptied", shard.name))
                .hint(format!("see `tenantry rebalance status {}`", running.id)),
        );
    }
    if args.gone {
        note("its database is not looked at");
    } else {
        refuse_if_used(&shard, sources).await?;
    }
    let before =
        json!({"kind": shard.kind.as_str(), "state": shard.state.as_str(), "weight": shard.weight});
    let removed = catalog.remove_shard(shard.id).await?;
    audit(
        catalog,
        "shard.remove",
        ("shard", removed.name.as_str()),
        Some(before),
        None,
    )
    .await?;
    printer.one(&ShardView::from(removed))
}

/// Looks into the shard itself: the catalog does not know what an interrupted act may have left there.
async fn refuse_if_used(shard: &Shard, sources: &Sources) -> Result<(), Failure> {
    let hint = "if its server is gone for good, say so with --gone";
    let path = sources.settings()?.secrets_file()?;
    let secrets =
        SecretsFile::load(&path).explain(|| "the shard's secrets cannot be read".to_owned())?;
    let own = secrets.shard(shard.name.as_str()).ok_or_else(|| {
        Failure::precondition(format!(
            "{} has no secrets in {}: its database cannot be looked at",
            shard.name,
            path.display()
        ))
        .hint(hint)
    })?;
    let endpoint = ShardEndpoint::new(shard.clone(), own);
    let unreachable = |error: anyhow::Error| {
        Failure::new(
            Exit::Transient,
            format!("the database of {} cannot be looked at", shard.name),
        )
        .because(error)
        .hint(hint)
    };
    let client = connect(&endpoint)
        .await
        .map_err(|error| unreachable(error.into()))?;
    let row = client.query_one(IN_USE, &[]).await;
    let used: i64 = row.map_err(|error| unreachable(error.into()))?.get(0);
    if used > 0 {
        return Err(Failure::precondition(format!(
            "{used} tenants are left in the database of {}",
            shard.name
        ))
        .hint("empty it first: `tenantry shard drain`"));
    }
    Ok(())
}

/// The rebalancing that empties the shard, unless it is over.
async fn emptying(catalog: &Catalog, shard: ShardId) -> Result<Option<Rebalance>, Failure> {
    let running = catalog.rebalances(true, u32::MAX).await?;
    Ok(running.into_iter().find(|one| one.shard == Some(shard)))
}

async fn change(
    catalog: &Catalog,
    action: &str,
    shard: &Shard,
    state: ShardState,
) -> Result<(), Failure> {
    let changed = catalog.set_shard_state(shard.id, state).await?;
    let before = json!({"state": shard.state.as_str()});
    let after = json!({"state": changed.shard.state.as_str(), "pinned_tenants": changed.pinned});
    if changed.pinned > 0 {
        note(format_args!(
            "{} tenants are pinned to where they live; new tenants follow the new ring",
            changed.pinned
        ));
    }
    let target = ("shard", shard.name.as_str());
    audit(catalog, action, target, Some(before), Some(after)).await
}

async fn show(catalog: &Catalog, shard: ShardId, printer: Printer) -> Result<(), Failure> {
    let shard = catalog.shard(&shard.to_string()).await?;
    printer.one(&ShardView::from(shard))
}
