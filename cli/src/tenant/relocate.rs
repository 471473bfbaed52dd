//! `tenantry tenant move` and `tenantry tenant isolate`: a move is planned in the catalog, and the rebalancer makes it.

use std::collections::BTreeSet;

use serde::Serialize;
use tenantry_rebalancer::fleet::inventory;
use tenantry_rebalancer::plan::{Inventory, TenantEntry, Wish, target};
use tenantry_schema::catalog::Catalog;
use tenantry_schema::catalog::moves::{Move, MoveKind, NewMove};
use tenantry_schema::shard::{ShardId, ShardKind};

use crate::catalog::actor;
use crate::exit::Failure;
use crate::moves::{self, Aim, HowArgs, IsolateArgs, RelocateArgs};
use crate::output::{Printer, note, record};

/// `tenantry tenant move`
pub(super) async fn relocate(
    catalog: &Catalog,
    args: &RelocateArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let journey =
        Journey::choose(catalog, &args.tenant, args.to.as_deref(), Wish::Elsewhere).await?;
    journey.begin(catalog, &args.how, printer).await
}

/// `tenantry tenant isolate`
pub(super) async fn isolate(
    catalog: &Catalog,
    args: &IsolateArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let journey = Journey::choose(catalog, &args.tenant, args.to.as_deref(), Wish::Own).await?;
    if journey.kind == MoveKind::Move {
        note(format_args!("{}: it is not alone there", journey.why));
    }
    journey.begin(catalog, &args.how, printer).await
}

/// Who goes where, and why there.
struct Journey {
    tenant: TenantEntry,
    destination: ShardId,
    kind: MoveKind,
    why: String,
}

impl Journey {
    async fn choose(
        catalog: &Catalog,
        name: &str,
        to: Option<&str>,
        wish: Wish,
    ) -> Result<Self, Failure> {
        let tenant = catalog.tenant(name).await?;
        let fleet = inventory(catalog).await?;
        let entry = fleet.tenants.iter().find(|one| one.tenant == tenant.id);
        let entry = entry.cloned().ok_or_else(|| {
            Failure::precondition(format!("tenant {} lives on no shard", tenant.slug))
                .hint("add a shard with `tenantry shard add`")
        })?;
        match to {
            Some(name) => Self::to(catalog, entry, name, wish).await,
            None => Self::to_the_best(catalog, &fleet, entry, wish).await,
        }
    }

    async fn to(
        catalog: &Catalog,
        tenant: TenantEntry,
        name: &str,
        wish: Wish,
    ) -> Result<Self, Failure> {
        let shard = catalog.shard(name).await?;
        let is_own = shard.kind != ShardKind::Shared;
        if wish == Wish::Own && !is_own {
            return Err(Failure::usage(format!("{} is a shared shard", shard.name))
                .hint("name a spare, or move the tenant with `tenantry tenant move`"));
        }
        Ok(Self {
            tenant,
            destination: shard.id,
            kind: kind(wish == Wish::Own),
            why: "an operator said so".to_owned(),
        })
    }

    async fn to_the_best(
        catalog: &Catalog,
        fleet: &Inventory,
        tenant: TenantEntry,
        wish: Wish,
    ) -> Result<Self, Failure> {
        let pinned = catalog.pinned_tenants().await?;
        let taken: BTreeSet<ShardId> = pinned
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(shard, _)| shard)
            .collect();
        let target = target(fleet, tenant.tenant, wish, &taken)
            .map_err(|error| Failure::precondition(error.to_string()))?;
        Ok(Self {
            tenant,
            destination: target.shard,
            kind: kind(target.own),
            why: target.why,
        })
    }

    async fn begin(
        &self,
        catalog: &Catalog,
        how: &HowArgs,
        printer: Printer,
    ) -> Result<(), Failure> {
        let actor = actor();
        let new = NewMove {
            kind: self.kind,
            reason: Some(how.reason.as_deref().unwrap_or(&self.why)),
            policy: how.policy(),
            ..NewMove::new(self.tenant.tenant, self.destination, &actor)
        };
        if how.dry_run {
            let of = catalog.try_move(&new).await?;
            return printer.one(&self.view(catalog, &of).await?);
        }
        let mut of = catalog.create_move(&new).await?;
        if how.wait.wait {
            of = moves::follow(catalog, of.id, Aim::Arrived, how.wait.timeout.0, printer).await?;
        }
        moves::print(catalog, &of, printer).await
    }

    async fn view(&self, catalog: &Catalog, of: &Move) -> Result<PlannedView, Failure> {
        let names = moves::Names::read(catalog).await?;
        Ok(PlannedView {
            tenant: names.id(of.tenant),
            slug: self.tenant.slug.clone(),
            source: names.shard(of.source),
            destination: names.shard(of.destination),
            kind: of.kind.as_str(),
            bytes: self.tenant.bytes,
            busy: self.tenant.busy,
            why: self.why.clone(),
            dry_run: true,
        })
    }
}

fn kind(own: bool) -> MoveKind {
    if own {
        MoveKind::Isolate
    } else {
        MoveKind::Move
    }
}

/// A move that was not planned.
#[derive(Debug, Serialize)]
struct PlannedView {
    tenant: String,
    slug: String,
    source: String,
    destination: String,
    kind: &'static str,
    /// What its rows take; null: not measured yet.
    bytes: Option<u64>,
    busy: f64,
    why: String,
    dry_run: bool,
}

record!(PlannedView {
    tenant => "TENANT", slug => "SLUG", source => "FROM", destination => "TO", kind => "KIND", bytes => "BYTES",
    busy => "BUSY", why => "WHY", dry_run => "DRY RUN",
});
