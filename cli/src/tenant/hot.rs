//! `tenantry tenant hot`: the tenants that take their shard over, and the evidence for it.

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

/// Prints who is hot now, or what happened.
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
