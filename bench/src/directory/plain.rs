//! The directory without its arena: standard hash maps that own each row and each name. What `--without arena` measures.

use std::collections::HashMap;

use tenantry_schema::directory::{DirectoryChange, TenantRecord, TenantRow};
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

#[derive(Default)]
pub(super) struct PlainDirectory {
    tenants: HashMap<TenantId, (TenantRow, Option<ShardId>)>,
    slugs: HashMap<String, TenantId>,
    hostnames: HashMap<String, TenantId>,
}

impl PlainDirectory {
    pub(super) fn apply(&mut self, change: &DirectoryChange) {
        match change.clone() {
            DirectoryChange::UpsertTenant(row) => {
                let before = self.tenants.remove(&row.id);
                if let Some((before, _)) = &before {
                    self.slugs.remove(&before.slug);
                }
                self.slugs.insert(row.slug.clone(), row.id);
                self.tenants
                    .insert(row.id, (row, before.and_then(|(_, pin)| pin)));
            }
            DirectoryChange::RemoveTenant(id) => {
                if let Some((row, _)) = self.tenants.remove(&id) {
                    self.slugs.remove(&row.slug);
                }
            }
            DirectoryChange::UpsertHostname { name, tenant } => {
                self.hostnames.insert(name, tenant);
            }
            DirectoryChange::RemoveHostname(name) => {
                self.hostnames.remove(&name);
            }
            DirectoryChange::Pin { tenant, shard } => self.set_pin(tenant, Some(shard)),
            DirectoryChange::Unpin(tenant) => self.set_pin(tenant, None),
        }
    }

    fn set_pin(&mut self, tenant: TenantId, shard: Option<ShardId>) {
        if let Some((_, pin)) = self.tenants.get_mut(&tenant) {
            *pin = shard;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tenants.len()
    }

    pub(super) fn by_id(&self, id: TenantId) -> Option<TenantRecord<'_>> {
        self.tenants.get(&id).map(|(row, pin)| row.record(*pin))
    }

    pub(super) fn by_slug(&self, slug: &str) -> Option<TenantRecord<'_>> {
        self.by_id(*self.slugs.get(slug)?)
    }

    pub(super) fn by_hostname(&self, name: &str) -> Option<TenantRecord<'_>> {
        self.by_id(*self.hostnames.get(name)?)
    }
}
