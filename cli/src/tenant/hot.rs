//! `tenantry tenant hot`: the tenants that take their shard over, the evidence for it, and what the isolation policy
//! decided about them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tenantry_schema::catalog::{Catalog, CatalogError};

use super::args::HotArgs;
use crate::exit::Failure;
use crate::output::{Printer, record};

/// A tenant that turned hot or cold.
#[derive(Debug, Serialize)]
struct HotView {
    tenant: String,
    /// Null once the tenant is gone.
    slug: Option<String>,
    shard: Option<String>,
    /// `hot` or `cold`.
    state: &'static str,
    at: Timestamp,
    why: Option<String>,
    /// Of the shard's busy time.
    share: Option<f64>,
    /// Server connections that it kept busy.
    busy: Option<f64>,
    /// What it used to keep busy.
    baseline: Option<f64>,
    evidence: Value,
}

record!(HotView {
    tenant => "TENANT", slug => "SLUG", shard => "SHARD", state => "STATE", at => "AT", why => "WHY", share => "SHARE",
    busy => "BUSY", baseline => "BASELINE",
});

/// What the isolation policy decided about a tenant.
#[derive(Debug, Serialize)]
struct DecisionView {
    at: Timestamp,
    tenant: String,
    slug: String,
    shard: Option<String>,
    /// `recommend` or `act`.
    mode: String,
    /// `isolate`, `relieve`, `return` or `wait`.
    act: String,
    destination: Option<String>,
    rule: String,
    why: String,
    /// The move that was planned for it.
    planned: Option<String>,
}

record!(DecisionView {
    at => "AT", slug => "TENANT", shard => "SHARD", mode => "MODE", act => "ACT", destination => "TO", rule => "RULE",
    why => "WHY", planned => "MOVE",
});

/// Prints who is hot now, what happened, or what was decided.
pub(super) async fn run(
    catalog: &Catalog,
    args: &HotArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let key = catalog.settings().await?.tenant_key;
    let shards: BTreeMap<_, _> = catalog
        .list_shards()
        .await?
        .into_iter()
        .map(|shard| (shard.id, shard.name.to_string()))
        .collect();
    if args.decisions {
        let decisions = catalog.isolation_events(args.limit).await?;
        let views = decisions.into_iter().map(|event| DecisionView {
            at: event.at,
            tenant: event.tenant.display(key).to_string(),
            slug: event.slug,
            shard: shards.get(&event.shard).cloned(),
            mode: event.mode,
            act: event.act,
            destination: event
                .destination
                .and_then(|shard| shards.get(&shard).cloned()),
            rule: event.rule,
            why: event.why,
            planned: event.planned.map(|id| id.to_string()),
        });
        return printer.list(&views.collect::<Vec<_>>());
    }
    let events = if args.events {
        catalog.heat_events(args.limit).await?
    } else {
        catalog.hot_tenants().await?
    };
    let mut views = Vec::new();
    for event in events {
        let slug = match catalog.tenant_by_id(event.tenant).await {
            Ok(tenant) => Some(tenant.slug),
            Err(CatalogError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let number = |name: &str| event.evidence[name].as_f64();
        let rounded = |name: &str| number(name).map(|value| (value * 1e3).round() / 1e3);
        views.push(HotView {
            tenant: event.tenant.display(key).to_string(),
            slug,
            shard: shards.get(&event.shard).cloned(),
            state: if event.is_hot { "hot" } else { "cold" },
            at: event.at,
            why: event.evidence["why"].as_str().map(str::to_owned),
            share: rounded("share"),
            busy: rounded("busy"),
            baseline: rounded("baseline"),
            evidence: event.evidence,
        });
    }
    printer.list(&views)
}
