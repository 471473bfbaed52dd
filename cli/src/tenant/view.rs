//! Tenants as they are shown: the catalog's row joined with where the tenant lives.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use tenantry_schema::catalog::{Catalog, Tenant};
use tenantry_schema::ring::Ring;
use tenantry_schema::shard::{Shard, ShardId};
use tenantry_schema::tenant::TenantKey;

use crate::exit::Failure;
use crate::output::record;

/// What is needed to say where tenants live.
pub(super) struct Atlas {
    key: TenantKey,
    ring: Ring,
    shards: BTreeMap<ShardId, Shard>,
}

impl Atlas {
    /// Reads the ring and the shards.
    pub(super) async fn read(catalog: &Catalog) -> Result<Self, Failure> {
        let shards = catalog.list_shards().await?;
        Ok(Self {
            key: catalog.settings().await?.tenant_key,
            ring: catalog.ring().await?,
            shards: shards.into_iter().map(|shard| (shard.id, shard)).collect(),
        })
    }

    fn shard(&self, tenant: &Tenant) -> Option<&Shard> {
        let id = tenant.pin.or_else(|| self.ring.shard_of(tenant.id))?;
        self.shards.get(&id)
    }

    /// The tenant with its shard.
    pub(super) fn view(&self, tenant: Tenant) -> TenantView {
        TenantView {
            id: tenant.id.display(self.key).to_string(),
            state: tenant.state.as_str(),
            plan: tenant.plan.clone(),
            isolation: tenant.isolation.as_str(),
            shard: self.shard(&tenant).map(|shard| shard.name.to_string()),
            pinned: tenant.pin.is_some(),
            epoch: tenant.epoch.0,
            slug: tenant.slug,
            hostnames: tenant.hostnames,
            suspended_at: tenant.suspended_at,
            suspended_reason: tenant.suspended_reason,
            created_at: tenant.created_at,
        }
    }

    /// Where the tenant lives and why; `None` when the ring is empty and nothing pins it.
    pub(super) fn location(&self, tenant: &Tenant) -> Option<Location> {
        let shard = self.shard(tenant)?;
        Some(Location {
            id: tenant.id.display(self.key).to_string(),
            slug: tenant.slug.clone(),
            shard: shard.name.to_string(),
            shard_id: shard.id.number(),
            placed_by: if tenant.pin.is_some() { "pin" } else { "ring" },
            epoch: tenant.epoch.0,
            host: shard.address.host.clone(),
            port: shard.address.port,
            database: shard.address.database.clone(),
        })
    }
}

/// A tenant in full.
#[derive(Debug, Serialize)]
pub(super) struct TenantView {
    pub(super) id: String,
    pub(super) slug: String,
    pub(super) state: &'static str,
    pub(super) plan: String,
    pub(super) isolation: &'static str,
    /// Name of its shard; null when it has none.
    pub(super) shard: Option<String>,
    pub(super) pinned: bool,
    pub(super) epoch: u64,
    pub(super) hostnames: Vec<String>,
    pub(super) suspended_at: Option<Timestamp>,
    pub(super) suspended_reason: Option<String>,
    pub(super) created_at: Timestamp,
}

record!(TenantView {
    id => "ID", slug => "SLUG", state => "STATE", plan => "PLAN", isolation => "ISOLATION", shard => "SHARD",
    pinned => "PINNED", epoch => "EPOCH", hostnames => "HOSTNAMES", suspended_at => "SUSPENDED AT",
    suspended_reason => "REASON", created_at => "CREATED AT",
});

/// A tenant as one line of a list; the same fields, fewer columns.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Listed(pub(super) TenantView);

record!(Listed {
    id => "ID", slug => "SLUG", state => "STATE", plan => "PLAN", shard => "SHARD", pinned => "PINNED",
    epoch => "EPOCH", hostnames => "HOSTNAMES",
});

/// Where a tenant lives.
#[derive(Debug, Serialize)]
pub(super) struct Location {
    id: String,
    slug: String,
    shard: String,
    shard_id: u16,
    /// `pin` or `ring`.
    placed_by: &'static str,
    epoch: u64,
    host: String,
    port: u16,
    database: String,
}

record!(Location {
    id => "ID", slug => "SLUG", shard => "SHARD", shard_id => "SHARD ID", placed_by => "PLACED BY", epoch => "EPOCH",
    host => "HOST", port => "PORT", database => "DATABASE",
});
