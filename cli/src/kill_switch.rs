//! `tenantry kill-switch`: in an emergency, stops a tenant or the whole fleet from writing, or from working at all.
//!
//! The catalog itself keeps the rules (reason, cool-down) and the audit trail, so that a switch thrown with psql is
//! thrown alike.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use tenantry_schema::catalog::{Catalog, SwitchThrow, ThrownSwitch};
use tenantry_schema::limits::KillMode;
use tenantry_schema::tenant::TenantId;

use crate::catalog::{actor, open};
use crate::config::{Period, Sources};
use crate::exit::{Exit, Failure};
use crate::output::{Printer, record};

/// What `--confirm` must say where everybody is hit.
const FLEET: &str = "fleet";

/// `tenantry kill-switch …`
#[derive(Debug, Subcommand)]
pub(crate) enum KillSwitchCommand {
    /// List the kill switches that are thrown
    List {
        /// Those that are released or over, too
        #[arg(long)]
        all: bool,
    },
    /// Throw the kill switch of a tenant or of the fleet, or throw it harder
    Throw(ThrowArgs),
    /// Release a kill switch; not before it has cooled down
    Release(Target),
}

/// Whose kill switch.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// Id, slug or hostname of a tenant
    tenant: Option<String>,
    /// The whole fleet
    #[arg(long)]
    fleet: bool,
}

/// `tenantry kill-switch throw`
#[derive(Args, Debug)]
pub(crate) struct ThrowArgs {
    #[command(flatten)]
    target: Target,
    /// What it does
    #[arg(long, value_enum)]
    mode: Mode,
    /// Why; told to clients
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Ends by itself after this time
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<Period>,
    /// Cannot be released or weakened for this time
    #[arg(long, value_name = "TIME", default_value = "30s")]
    cool_down: Period,
    /// `fleet`, typed out, where the whole fleet is meant
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

/// What a thrown switch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Transactions only read
    ReadOnly,
    /// There are no transactions
    Refuse,
}

impl From<Mode> for KillMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::ReadOnly => Self::ReadOnly,
            Mode::Refuse => Self::Refuse,
        }
    }
}

/// Runs `tenantry kill-switch …`.
pub(crate) async fn run(
    command: KillSwitchCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    match command {
        KillSwitchCommand::List { all } => list(&catalog, all, printer).await?,
        KillSwitchCommand::Throw(args) => throw(&catalog, &args, printer).await?,
        KillSwitchCommand::Release(target) => release(&catalog, &target, printer).await?,
    }
    Ok(Exit::Ok)
}

async fn list(catalog: &Catalog, all: bool, printer: Printer) -> Result<(), Failure> {
    let now = Timestamp::now();
    let mut views = Vec::new();
    for thrown in catalog.list_switches().await? {
        if all || thrown.switch.mode_at(now) != KillMode::Off {
            views.push(view(catalog, thrown).await?);
        }
    }
    printer.list(&views)
}

async fn throw(catalog: &Catalog, args: &ThrowArgs, printer: Printer) -> Result<(), Failure> {
    if args.target.fleet && args.confirm.as_deref() != Some(FLEET) {
        return Err(Failure::usage("this hits every tenant of the fleet")
            .hint("say so with --confirm fleet"));
    }
    let thrown = catalog
        .throw_switch(&SwitchThrow {
            tenant: tenant(catalog, &args.target).await?,
            mode: args.mode.into(),
            reason: Some(&args.reason),
            lasts: args.lasts.map(|lasts| lasts.0),
            cool_down: Some(args.cool_down.0),
            actor: &actor(),
        })
        .await?;
    printer.one(&view(catalog, thrown).await?)
}

async fn release(catalog: &Catalog, target: &Target, printer: Printer) -> Result<(), Failure> {
    let whose = tenant(catalog, target).await?;
    let thrown = catalog.list_switches().await?;
    if !thrown.iter().any(|thrown| thrown.switch.tenant == whose) {
        return Err(Failure::not_found("that kill switch was never thrown")
            .hint("see `tenantry kill-switch list --all`"));
    }
    let released = catalog
        .throw_switch(&SwitchThrow {
            tenant: whose,
            mode: KillMode::Off,
            reason: None,
            lasts: None,
            cool_down: None,
            actor: &actor(),
        })
        .await?;
    printer.one(&view(catalog, released).await?)
}

async fn tenant(catalog: &Catalog, target: &Target) -> Result<Option<TenantId>, Failure> {
    match &target.tenant {
        Some(name) => Ok(Some(catalog.tenant(name).await?.id)),
        None => Ok(None),
    }
}

async fn view(catalog: &Catalog, thrown: ThrownSwitch) -> Result<SwitchView, Failure> {
    let ThrownSwitch { switch, cool_at } = thrown;
    let slug = match switch.tenant {
        Some(id) => Some(catalog.tenant_by_id(id).await?.slug),
        None => None,
    };
    Ok(SwitchView {
        target: if slug.is_some() { "tenant" } else { FLEET },
        tenant: slug,
        mode: switch.mode_at(Timestamp::now()).as_str(),
        cool_at: (switch.mode != KillMode::Off).then_some(cool_at),
        reason: switch.reason,
        since: switch.since,
        until: switch.until,
    })
}

/// A kill switch as it is shown.
#[derive(Debug, Serialize)]
struct SwitchView {
    /// `tenant` or `fleet`.
    target: &'static str,
    tenant: Option<String>,
    mode: &'static str,
    reason: Option<String>,
    since: Timestamp,
    until: Option<Timestamp>,
    /// From when on it can be released.
    cool_at: Option<Timestamp>,
}

record!(SwitchView {
    target => "TARGET", tenant => "TENANT", mode => "MODE", reason => "REASON", since => "SINCE", until => "UNTIL",
    cool_at => "COOL AT",
});
