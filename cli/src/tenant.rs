//! `tenantry tenant`: the operator's view of tenants, through the catalog.

mod args;
mod hot;
mod limit;
mod relocate;
mod top;
mod view;

use std::time::{Duration, Instant};

use serde_json::json;
use tenantry_schema::catalog::{Catalog, NewTenant, Tenant, TenantPage};
use tenantry_schema::tenant::{Hostname, Slug, TenantId, TenantState};

pub(crate) use args::TenantCommand;
use args::{CreateArgs, ListArgs, NamedArgs, SuspendArgs};
use view::{Atlas, Listed};

use crate::catalog::{audit, open};
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::Printer;

/// Between two looks at a tenant that is waited for.
const POLL: Duration = Duration::from_millis(50);

/// Tenants read at a time while looking for those on one shard.
const PAGE: u32 = 1_000;

/// Runs `tenantry tenant …`.
pub(crate) async fn run(
    command: TenantCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    // It may go without the catalog.
    if let TenantCommand::Top(args) = &command {
        top::run(args, sources, printer).await?;
        return Ok(Exit::Ok);
    }
    let catalog = open(sources).await?;
    match command {
        TenantCommand::Top(_) => {}
        TenantCommand::Create(args) => create(&catalog, args, printer).await?,
        TenantCommand::List(args) => list(&catalog, args, printer).await?,
        TenantCommand::Show(args) => show(&catalog, &args, printer).await?,
        TenantCommand::Locate(args) => locate(&catalog, &args, printer).await?,
        TenantCommand::Suspend(args) => suspend(&catalog, &args, printer).await?,
        TenantCommand::Resume(args) => resume(&catalog, &args, printer).await?,
        TenantCommand::Hot(args) => hot::run(&catalog, &args, printer).await?,
        TenantCommand::Limit(command) => limit::run(&catalog, command, printer).await?,
        TenantCommand::Move(args) => relocate::relocate(&catalog, &args, printer).await?,
        TenantCommand::Isolate(args) => relocate::isolate(&catalog, &args, printer).await?,
        TenantCommand::SetPlan(args) => limit::set_plan(&catalog, &args, printer).await?,
    }
    Ok(Exit::Ok)
}

async fn create(catalog: &Catalog, args: CreateArgs, printer: Printer) -> Result<(), Failure> {
    let key = catalog.settings().await?.tenant_key;
    let slug = Slug::parse(&args.slug)
        .map_err(|error| Failure::usage(format!("`{}`: {error}", args.slug)))?;
    let id = args.id.as_deref().map(|text| {
        TenantId::parse(key, text).map_err(|error| Failure::usage(format!("`{text}`: {error}")))
    });
    let hostnames = args.hostnames.iter().map(|text| {
        Hostname::parse(text).map_err(|error| Failure::usage(format!("`{text}`: {error}")))
    });
    let new = NewTenant {
        id: id.transpose()?,
        plan: args.plan,
        hostnames: hostnames.collect::<Result<_, _>>()?,
        ..NewTenant::new(slug)
    };
    let mut tenant = catalog.create_tenant(new).await?;
    audit(
        catalog,
        "tenant.create",
        ("tenant", &tenant.slug),
        None,
        Some(state_of(&tenant)),
    )
    .await?;
    if args.wait {
        tenant = wait_active(catalog, tenant, args.timeout.0).await?;
    }
    printer.one(&Atlas::read(catalog).await?.view(tenant))
}

/// Waits until the tenant's shard has taken it in. What was created stays created when the wait ends first.
async fn wait_active(
    catalog: &Catalog,
    mut tenant: Tenant,
    limit: Duration,
) -> Result<Tenant, Failure> {
    let deadline = Instant::now() + limit;
    while tenant.state == TenantState::Provisioning {
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "tenant {} is still provisioning after {} s",
                    tenant.slug,
                    limit.as_secs()
                ),
            )
            .hint("is the agent of its shard running? `tenantry doctor` tells"));
        }
        tokio::time::sleep(POLL).await;
        tenant = catalog.tenant_by_id(tenant.id).await?;
    }
    Ok(tenant)
}

async fn list(catalog: &Catalog, args: ListArgs, printer: Printer) -> Result<(), Failure> {
    let key = catalog.settings().await?.tenant_key;
    let atlas = Atlas::read(catalog).await?;
    if let Some(shard) = &args.shard {
        // A shard that does not exist has no tenants, but that is not what was meant.
        catalog.shard(shard).await?;
    }
    let after = args.after.as_deref().map(|text| {
        TenantId::parse(key, text).map_err(|error| Failure::usage(format!("`{text}`: {error}")))
    });
    let mut page = TenantPage {
        after: after.transpose()?,
        state: args.state,
        limit: match args.shard {
            // The shard is not the catalog's to filter by: placement is computed.
            Some(_) => PAGE,
            None => u32::try_from(args.limit).unwrap_or(PAGE).clamp(1, PAGE),
        },
    };
    let mut listed = Vec::new();
    while listed.len() < args.limit {
        let tenants = catalog.list_tenants(&page).await?;
        let last = tenants.last().map(|tenant| tenant.id);
        let views = tenants.into_iter().map(|tenant| atlas.view(tenant));
        listed.extend(
            views
                .filter(|view| args.shard.is_none() || view.shard == args.shard)
                .map(Listed),
        );
        match last {
            Some(last) => page.after = Some(last),
            None => break,
        }
    }
    listed.truncate(args.limit);
    printer.list(&listed)
}

async fn show(catalog: &Catalog, args: &NamedArgs, printer: Printer) -> Result<(), Failure> {
    let tenant = catalog.tenant(&args.tenant).await?;
    printer.one(&Atlas::read(catalog).await?.view(tenant))
}

async fn locate(catalog: &Catalog, args: &NamedArgs, printer: Printer) -> Result<(), Failure> {
    let tenant = catalog.tenant(&args.tenant).await?;
    let atlas = Atlas::read(catalog).await?;
    match atlas.location(&tenant) {
        Some(location) => printer.one(&location),
        None => Err(Failure::precondition(format!(
            "tenant {} has no shard: the ring is empty",
            tenant.slug
        ))
        .hint("add a shard with `tenantry shard add`")),
    }
}

async fn suspend(catalog: &Catalog, args: &SuspendArgs, printer: Printer) -> Result<(), Failure> {
    let before = catalog.tenant(&args.tenant).await?;
    let tenant = catalog
        .suspend_tenant(&args.tenant, Some(&args.reason))
        .await?;
    changed(catalog, "tenant.suspend", &before, tenant, printer).await
}

async fn resume(catalog: &Catalog, args: &NamedArgs, printer: Printer) -> Result<(), Failure> {
    let before = catalog.tenant(&args.tenant).await?;
    let tenant = catalog.resume_tenant(&args.tenant).await?;
    changed(catalog, "tenant.resume", &before, tenant, printer).await
}

async fn changed(
    catalog: &Catalog,
    action: &str,
    before: &Tenant,
    tenant: Tenant,
    printer: Printer,
) -> Result<(), Failure> {
    let states = (Some(state_of(before)), Some(state_of(&tenant)));
    audit(
        catalog,
        action,
        ("tenant", &tenant.slug),
        states.0,
        states.1,
    )
    .await?;
    printer.one(&Atlas::read(catalog).await?.view(tenant))
}

fn state_of(tenant: &Tenant) -> serde_json::Value {
    json!({"state": tenant.state.as_str(), "reason": tenant.suspended_reason})
}
