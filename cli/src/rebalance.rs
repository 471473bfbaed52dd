//! `tenantry rebalance`: plans of many moves, made here by the rebalancer's planner and carried out by the rebalancer.

mod args;
mod view;
mod wait;

use tenantry_rebalancer::fleet::{begin, inventory};
use tenantry_rebalancer::plan::{Goal as PlannerGoal, Limits, Plan, plan};
use tenantry_schema::catalog::{Catalog, Rebalance, RebalanceId, RebalanceState};

pub(crate) use args::{LimitArgs, RebalanceCommand};
use args::{PlanArgs, StartArgs, StatusArgs, StopArgs};
pub(crate) use view::print_plan;
use view::{PlannedView, StatusView};
pub(crate) use wait::finished;

use crate::catalog::{actor, open};
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::{Printer, note};

/// Rebalancings that are shown.
const SHOWN: u32 = 20;

/// Runs `tenantry rebalance …`.
pub(crate) async fn run(
    command: RebalanceCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    match command {
        RebalanceCommand::Plan(args) => {
            let (plan, _) = make(&catalog, &args).await?;
            print_plan(&catalog, &plan, printer).await?;
        }
        RebalanceCommand::Start(args) => start(&catalog, &args, printer).await?,
        RebalanceCommand::Status(args) => status(&catalog, &args, printer).await?,
        RebalanceCommand::Stop(args) => stop(&catalog, &args, printer).await?,
    }
    Ok(Exit::Ok)
}

async fn make(catalog: &Catalog, args: &PlanArgs) -> Result<(Plan, Limits), Failure> {
    let limits = args.limits.limits();
    let fleet = inventory(catalog).await?;
    Ok((plan(&fleet, PlannerGoal::from(args.goal), &limits), limits))
}

async fn start(catalog: &Catalog, args: &StartArgs, printer: Printer) -> Result<(), Failure> {
    let (plan, limits) = make(catalog, &args.plan).await?;
    if args.dry_run {
        return print_plan(catalog, &plan, printer).await;
    }
    if plan.is_empty() {
        note("nothing is to be done: no shard is above its share beyond the tolerance");
        return print_plan(catalog, &plan, printer).await;
    }
    let mut begun = begin(catalog, &plan, &limits, &actor()).await?;
    if args.wait.wait {
        begun = finished(catalog, begun.id, args.wait.timeout.0).await?;
    }
    print_status(catalog, &begun, printer).await
}

async fn status(catalog: &Catalog, args: &StatusArgs, printer: Printer) -> Result<(), Failure> {
    if args.all {
        let mut views = Vec::new();
        for rebalance in catalog.rebalances(false, SHOWN).await? {
            views.push(StatusView::read(catalog, &rebalance).await?);
        }
        return printer.list(&views);
    }
    let found = find(catalog, args.id.as_deref(), false).await?;
    if args.moves {
        let moves = PlannedView::read(catalog, &found).await?;
        return printer.list(&moves);
    }
    print_status(catalog, &found, printer).await
}

async fn stop(catalog: &Catalog, args: &StopArgs, printer: Printer) -> Result<(), Failure> {
    let found = find(catalog, args.id.as_deref(), true).await?;
    let mut stopped = catalog.stop_rebalance(found.id, &actor()).await?;
    if args.wait.wait {
        stopped = wait::until(catalog, stopped.id, args.wait.timeout.0, |state| {
            state.is_final()
        })
        .await?;
    }
    print_status(catalog, &stopped, printer).await
}

/// Prints where a rebalancing is.
pub(crate) async fn print_status(
    catalog: &Catalog,
    rebalance: &Rebalance,
    printer: Printer,
) -> Result<(), Failure> {
    printer.one(&StatusView::read(catalog, rebalance).await?)
}

/// The rebalancing of this id; without one the only one that is not over, or, unless it has to be live, the newest.
async fn find(catalog: &Catalog, id: Option<&str>, live: bool) -> Result<Rebalance, Failure> {
    if let Some(text) = id {
        let id: RebalanceId = text
            .parse()
            .map_err(|error| Failure::usage(format!("`{text}`: {error}")))?;
        return Ok(catalog.rebalance(id).await?);
    }
    let running = catalog.rebalances(true, SHOWN).await?;
    let of_fleet = running.iter().position(|one| one.shard.is_none());
    match (running.len(), of_fleet) {
        (1, _) => {}
        (_, Some(index)) => return Ok(running[index].clone()),
        (0, None) if live => {
            return Err(Failure::not_found("no rebalancing is under way"));
        }
        (0, None) => {
            let newest = catalog.rebalances(false, 1).await?.into_iter().next();
            return newest.ok_or_else(|| {
                Failure::not_found("there was no rebalancing yet")
                    .hint("see what one would do with `tenantry rebalance plan`")
            });
        }
        (_, None) => {
            return Err(Failure::usage("several shards are being emptied")
                .hint("name one by its id: `tenantry rebalance status --all`"));
        }
    }
    Ok(running[0].clone())
}

/// Ends with an error unless everything was made.
pub(crate) fn made(rebalance: Rebalance) -> Result<Rebalance, Failure> {
    match rebalance.state {
        RebalanceState::Done => Ok(rebalance),
        state => Err(Failure::new(
            Exit::Failed,
            format!("the rebalancing has ended {}", state.as_str()),
        )
        .hint(format!(
            "see `tenantry rebalance status {} --moves`",
            rebalance.id
        ))),
    }
}
