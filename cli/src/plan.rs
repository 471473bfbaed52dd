//! `tenantry plan`: plans and the limits that their tenants have.

use clap::{Args, Subcommand};
use serde_json::json;
use tenantry_schema::catalog::{Catalog, CatalogError, Plan};
use tenantry_schema::limits::Limits;

use crate::catalog::{audit, open};
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::limits::{LimitArgs, LimitsView};
use crate::output::Printer;

/// `tenantry plan …`
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// List plans with their limits
    List,
    /// Show one plan
    Show {
        /// Name of the plan
        plan: String,
    },
    /// Create a plan or change its limits; what is not named stays as it is
    Set(SetArgs),
    /// Remove a plan that no tenant has
    Remove {
        /// Name of the plan
        plan: String,
    },
}

/// `tenantry plan set`
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// Name of the plan: a letter, then letters, digits, hyphens and underscores, 32 at most
    plan: String,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Runs `tenantry plan …`.
pub(crate) async fn run(
    command: PlanCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    match command {
        PlanCommand::List => {
            let plans = catalog.list_plans().await?;
            let views = plans.iter().map(view);
            printer.list(&views.collect::<Vec<_>>())?;
        }
        PlanCommand::Show { plan } => printer.one(&view(&catalog.plan(&plan).await?))?,
        PlanCommand::Set(args) => set(&catalog, args, printer).await?,
        PlanCommand::Remove { plan } => {
            let before = catalog.plan(&plan).await?;
            catalog.remove_plan(&plan).await?;
            let before = Some(json!(before.limits));
            audit(&catalog, "plan.remove", ("plan", &plan), before, None).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn set(catalog: &Catalog, args: SetArgs, printer: Printer) -> Result<(), Failure> {
    let before = match catalog.plan(&args.plan).await {
        Ok(plan) => Some(plan.limits),
        Err(CatalogError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut limits: Limits = before.unwrap_or_default();
    args.limits.apply(&mut limits);
    let plan = Plan {
        name: args.plan,
        limits,
    };
    catalog.upsert_plan(&plan).await?;
    let states = (before.map(|limits| json!(limits)), Some(json!(plan.limits)));
    audit(
        catalog,
        "plan.set",
        ("plan", &plan.name),
        states.0,
        states.1,
    )
    .await?;
    printer.one(&view(&plan))
}

fn view(plan: &Plan) -> LimitsView {
    LimitsView::of_plan(&plan.name, &plan.limits)
}
