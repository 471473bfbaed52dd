//! `tenantry tenant limit` and `tenantry tenant set-plan`: what a tenant may use.

use serde_json::json;
use tenantry_schema::catalog::{Catalog, Tenant};
use tenantry_schema::limits::Limits;

use super::args::{LimitCommand, SetPlanArgs};
use crate::catalog::audit;
use crate::exit::{Exit, Failure};
use crate::limits::LimitsView;
use crate::output::Printer;

/// Runs `tenantry tenant limit …`.
pub(super) async fn run(
    catalog: &Catalog,
    command: LimitCommand,
    printer: Printer,
) -> Result<(), Failure> {
    match command {
        LimitCommand::Show(args) => show(catalog, &args.tenant, printer).await,
        LimitCommand::Set(args) => {
            let tenant = catalog.tenant(&args.tenant).await?;
            let mut limits = own(&tenant)?;
            if !args.limits.apply(&mut limits) {
                return Err(Failure::usage("no limit is named")
                    .hint("for example --queries-per-second 200; see --help"));
            }
            store(catalog, &tenant, "tenant.limit_set", limits).await?;
            show(catalog, &args.tenant, printer).await
        }
        LimitCommand::Clear(args) => {
            let tenant = catalog.tenant(&args.tenant).await?;
            store(catalog, &tenant, "tenant.limit_clear", Limits::default()).await?;
            show(catalog, &args.tenant, printer).await
        }
    }
}

/// Gives the tenant another plan.
pub(super) async fn set_plan(
    catalog: &Catalog,
    args: &SetPlanArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let tenant = catalog.tenant(&args.tenant).await?;
    // A plan that is not there would mean no limits at all, by a slip of the keyboard.
    catalog.plan(&args.plan).await?;
    catalog.set_tenant_plan(tenant.id, &args.plan).await?;
    let (before, after) = (json!({"plan": tenant.plan}), json!({"plan": args.plan}));
    let target = ("tenant", tenant.slug.as_str());
    audit(
        catalog,
        "tenant.set_plan",
        target,
        Some(before),
        Some(after),
    )
    .await?;
    show(catalog, &args.tenant, printer).await
}

async fn show(catalog: &Catalog, name: &str, printer: Printer) -> Result<(), Failure> {
    let tenant = catalog.tenant(name).await?;
    let plans = catalog.list_plans().await?;
    let plan = plans.iter().find(|plan| plan.name == tenant.plan);
    let planned = plan.map(|plan| plan.limits).unwrap_or_default();
    let own = own(&tenant)?;
    printer.one(&LimitsView::of_tenant(
        &tenant.slug,
        &tenant.plan,
        &own,
        &planned,
    ))
}

async fn store(
    catalog: &Catalog,
    tenant: &Tenant,
    action: &str,
    limits: Limits,
) -> Result<(), Failure> {
    catalog.set_tenant_limits(tenant.id, &limits).await?;
    let before = Some(tenant.limits.clone());
    let target = ("tenant", tenant.slug.as_str());
    audit(catalog, action, target, before, Some(json!(limits))).await
}

fn own(tenant: &Tenant) -> Result<Limits, Failure> {
    serde_json::from_value(tenant.limits.clone()).map_err(|error| {
        let message = format!("the limits of tenant {} are not understood", tenant.slug);
        Failure::new(Exit::Failed, message).because(error)
    })
}
