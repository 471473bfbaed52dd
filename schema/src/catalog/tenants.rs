//! Tenants, their hostnames and their pins.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::{GenericClient, IsolationLevel, Row, Transaction};

use super::ring::ring;
use super::{Catalog, CatalogError};
use crate::fleet::Placement;
use crate::names::{Hostname, Slug};
use crate::shard::ShardId;
use crate::tenant::{Epoch, Isolation, TenantId, TenantKey, TenantState};

/// A tenant to create; it starts `provisioning`, and its shard's agent makes it active.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// The id; `None`: the catalog gives one.
    pub id: Option<TenantId>,
    /// The slug.
    pub slug: Slug,
    /// The plan; `None`: the catalog's default.
    pub plan: Option<String>,
    /// The isolation.
    pub isolation: Isolation,
    /// Hostnames, known to routers at once.
    pub hostnames: Vec<Hostname>,
    /// Whether it is one of the demo's.
    pub is_demo: bool,
    /// Whether it is a simulation's.
    pub is_simulation: bool,
}

impl NewTenant {
    /// A pooled tenant with this slug and nothing else.
    pub fn new(slug: Slug) -> Self {
        Self {
            id: None,
            slug,
            plan: None,
            isolation: Isolation::Pooled,
            hostnames: Vec::new(),
            is_demo: false,
            is_simulation: false,
        }
    }
}

/// A tenant as the catalog has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// The id.
    pub id: TenantId,
    /// The slug.
    pub slug: String,
    /// The state.
    pub state: TenantState,
    /// The isolation.
    pub isolation: Isolation,
    /// The plan.
    pub plan: String,
    /// The version of the placement.
    pub epoch: Epoch,
    /// The shard it is pinned to.
    pub pin: Option<ShardId>,
    /// Verified hostnames, oldest first.
    pub hostnames: Vec<String>,
    /// Since when it is suspended.
    pub suspended_at: Option<Timestamp>,
    /// Why it is.
    pub suspended_reason: Option<String>,
    /// Whether it is one of the demo's.
    pub is_demo: bool,
    /// Whether it is a simulation's.
    pub is_simulation: bool,
    /// Overrides of the plan's limits.
    pub limits: serde_json::Value,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Which tenants to list, by id.
#[derive(Debug, Clone, Default)]
pub struct TenantPage {
    /// Those after this id; `None`: from the start.
    pub after: Option<TenantId>,
    /// Only those in this state.
    pub state: Option<TenantState>,
    /// At most so many; 0 counts as [`TenantPage::LIMIT_DEFAULT`], and none is above [`TenantPage::LIMIT_MAX`].
    pub limit: u32,
}

impl TenantPage {
    /// How many tenants a page has when nobody says.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// How many it has at most.
    pub const LIMIT_MAX: u32 = 10_000;
}

const COLUMNS: &str = "t.id, t.slug, t.state, t.isolation, t.plan, t.epoch, p.shard AS pin, \
     ARRAY(SELECT h.name FROM tenantry.hostname h WHERE h.tenant = t.id AND h.verified_at IS NOT NULL \
           ORDER BY h.created_at, h.name) AS hostnames, \
     t.suspended_at, t.suspended_reason, t.is_demo, t.is_simulation, t.limits, t.created_at \
     FROM tenantry.tenant t LEFT JOIN tenantry.pin p ON p.tenant = t.id";

impl Catalog {
    /// Creates a tenant with its hostnames, in one transaction.
    pub async fn create_tenant(&self, new: NewTenant) -> Result<Tenant, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let id = insert_tenant(&transaction, key, &new).await?;
        if !new.hostnames.is_empty() {
            let names: Vec<&str> = new.hostnames.iter().map(Hostname::as_str).collect();
            let insert = "INSERT INTO tenantry.hostname (name, tenant) \
                          SELECT name, $2::text::tenantry.tenant_key FROM unnest($1::text[]) AS name";
            transaction
                .execute(insert, &[&names, &id.display(key).to_string()])
                .await?;
        }
        let tenant = by_id(&transaction, key, id).await?;
        transaction.commit().await?;
        tenant.ok_or_else(|| CatalogError::not_found("tenant", id.display(key).to_string()))
    }

    /// The tenant that `name` means: an id, a slug or a hostname.
    pub async fn tenant(&self, name: &str) -> Result<Tenant, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let client = self.client().await?;
        resolve(&*client, key, name).await
    }

    /// The tenant of this id.
    pub async fn tenant_by_id(&self, id: TenantId) -> Result<Tenant, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let client = self.client().await?;
        let found = by_id(&*client, key, id).await?;
        found.ok_or_else(|| CatalogError::not_found("tenant", id.display(key).to_string()))
    }

    /// A page of tenants in the order of their ids.
    pub async fn list_tenants(&self, page: &TenantPage) -> Result<Vec<Tenant>, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let after = page.after.map(|id| id.display(key).to_string());
        let state = page.state.map(TenantState::as_str);
        let limit = match page.limit {
            0 => TenantPage::LIMIT_DEFAULT,
            limit => limit.min(TenantPage::LIMIT_MAX),
        };
        // Two texts, because a plan for "all or after" cannot use the index's range.
        let range = if after.is_some() {
            "t.id > $1::text::tenantry.tenant_key"
        } else {
            "$1::text IS NULL"
        };
        let select = format!(
            "SELECT {COLUMNS} WHERE {range} AND ($2::text IS NULL OR t.state = $2) ORDER BY t.id LIMIT $3"
        );
        let client = self.client().await?;
        let rows = client
            .query(&select, &[&after, &state, &i64::from(limit)])
            .await?;
        rows.iter().map(tenant_of).collect()
    }

    /// How many tenants there are in each state.
    pub async fn count_tenants(&self) -> Result<Vec<(TenantState, u64)>, CatalogError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT state, count(*) FROM tenantry.tenant GROUP BY state ORDER BY state",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let (state, count): (&str, i64) = (row.get(0), row.get(1));
                let state = state
                    .parse()
                    .map_err(|cause| CatalogError::row("tenant", state, cause))?;
                Ok((state, count.unsigned_abs()))
            })
            .collect()
    }

    /// Where the tenant lives: its pin, else the ring's answer; `None` when the ring is empty.
    pub async fn locate(&self, tenant: &Tenant) -> Result<Option<Placement>, CatalogError> {
        let shard = match tenant.pin {
            Some(shard) => Some(shard),
            None => self.ring().await?.shard_of(tenant.id),
        };
        Ok(shard.map(|shard| Placement {
            shard,
            epoch: tenant.epoch,
            pinned: tenant.pin.is_some(),
        }))
    }

    /// Suspends a tenant, or changes why it is suspended. Only an active, provisioning or suspended one can be.
    pub async fn suspend_tenant(
        &self,
        name: &str,
        reason: Option<&str>,
    ) -> Result<Tenant, CatalogError> {
        let update = "UPDATE tenantry.tenant SET state = 'suspended', suspended_reason = $2 \
                      WHERE id = $1::text::tenantry.tenant_key AND state IN ('active', 'provisioning', 'suspended')";
        self.change_state(name, update, Some(reason)).await
    }

    /// Ends a suspension. The tenant is active again, or provisioning if its shard never had it.
    pub async fn resume_tenant(&self, name: &str) -> Result<Tenant, CatalogError> {
        let update = "UPDATE tenantry.tenant \
                      SET state = CASE WHEN activated_at IS NULL THEN 'provisioning' ELSE 'active' END \
                      WHERE id = $1::text::tenantry.tenant_key AND state = 'suspended'";
        self.change_state(name, update, None).await
    }

    /// Runs a conditional state change and tells why when it did not apply.
    async fn change_state(
        &self,
        name: &str,
        update: &str,
        reason: Option<Option<&str>>,
    ) -> Result<Tenant, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let tenant = resolve(&transaction, key, name).await?;
        let id = tenant.id.display(key).to_string();
        let changed = match reason {
            Some(reason) => transaction.execute(update, &[&id, &reason]).await?,
            None => transaction.execute(update, &[&id]).await?,
        };
        if changed == 0 {
            let message = format!("tenant {} is {}", tenant.slug, tenant.state);
            return Err(CatalogError::Refused {
                message,
                hint: None,
            });
        }
        let tenant = by_id(&transaction, key, tenant.id).await?;
        transaction.commit().await?;
        tenant.ok_or_else(|| CatalogError::not_found("tenant", name))
    }

    /// Makes a provisioning tenant active, once its shard has its owner row. `false`: it was not provisioning.
    pub async fn activate_tenant(&self, id: TenantId) -> Result<bool, CatalogError> {
        Ok(self.activate_tenants(&[id]).await? > 0)
    }

    /// Activates those of these tenants that are provisioning; answers how many were.
    pub async fn activate_tenants(&self, ids: &[TenantId]) -> Result<u64, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let ids: Vec<String> = ids.iter().map(|id| id.display(key).to_string()).collect();
        let client = self.client().await?;
        let update = "UPDATE tenantry.tenant t SET state = 'active' FROM unnest($1::text[]) AS given (id) \
                      WHERE t.id = given.id::tenantry.tenant_key AND t.state = 'provisioning'";
        Ok(client.execute(update, &[&ids]).await?)
    }

    /// The provisioning tenants whose placement is this shard.
    pub async fn provisioning_on(&self, shard: ShardId) -> Result<Vec<Tenant>, CatalogError> {
        let mut placed = self.provisioning().await?;
        Ok(placed.remove(&shard).unwrap_or_default())
    }

    /// All provisioning tenants, by the shard that is their placement; without one (an empty ring) they are left out.
    pub async fn provisioning(&self) -> Result<BTreeMap<ShardId, Vec<Tenant>>, CatalogError> {
        let mut client = self.client().await?;
        // One snapshot for ring and tenants: a tenant created after a ring change must not be placed by the old ring.
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let select = format!("SELECT {COLUMNS} WHERE t.state = 'provisioning' ORDER BY t.id");
        let rows = transaction.query(&select, &[]).await?;
        let mut placed: BTreeMap<ShardId, Vec<Tenant>> = BTreeMap::new();
        if !rows.is_empty() {
            let ring = ring(&transaction).await?;
            for row in &rows {
                let tenant = tenant_of(row)?;
                if let Some(shard) = tenant.pin.or_else(|| ring.shard_of(tenant.id)) {
                    placed.entry(shard).or_default().push(tenant);
                }
            }
        }
        transaction.commit().await?;
        Ok(placed)
    }

    /// Gives a tenant a hostname, verified: routers know it at once.
    pub async fn add_hostname(
        &self,
        tenant: TenantId,
        name: &Hostname,
    ) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let client = self.client().await?;
        let insert = "INSERT INTO tenantry.hostname (name, tenant) VALUES ($1, $2::text::tenantry.tenant_key)";
        client
            .execute(insert, &[&name.as_str(), &tenant.display(key).to_string()])
            .await?;
        Ok(())
    }

    /// Takes a hostname away, whoever has it.
    pub async fn remove_hostname(&self, name: &Hostname) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let removed = client
            .execute(
                "DELETE FROM tenantry.hostname WHERE name = $1",
                &[&name.as_str()],
            )
            .await?;
        if removed == 0 {
            return Err(CatalogError::not_found("hostname", name.as_str()));
        }
        Ok(())
    }
}

async fn insert_tenant(
    transaction: &Transaction<'_>,
    key: TenantKey,
    new: &NewTenant,
) -> Result<TenantId, CatalogError> {
    let id = new.id.map(|id| id.display(key).to_string());
    let insert = "INSERT INTO tenantry.tenant (id, slug, plan, isolation, is_demo, is_simulation) \
                  VALUES (coalesce($1::text::tenantry.tenant_key, tenantry.new_tenant_id()), $2, \
                          coalesce($3, 'standard'), $4, $5, $6) RETURNING id";
    let row = transaction
        .query_one(
            insert,
            &[
                &id,
                &new.slug.as_str(),
                &new.plan,
                &new.isolation.as_str(),
                &new.is_demo,
                &new.is_simulation,
            ],
        )
        .await?;
    Ok(row.get(0))
}

pub(super) async fn by_id(
    client: &impl GenericClient,
    key: TenantKey,
    id: TenantId,
) -> Result<Option<Tenant>, CatalogError> {
    let select = format!("SELECT {COLUMNS} WHERE t.id = $1::text::tenantry.tenant_key");
    let row = client
        .query_opt(&select, &[&id.display(key).to_string()])
        .await?;
    row.as_ref().map(tenant_of).transpose()
}

async fn resolve(
    client: &impl GenericClient,
    key: TenantKey,
    name: &str,
) -> Result<Tenant, CatalogError> {
    let not_found = || CatalogError::not_found("tenant", name);
    if let Ok(id) = TenantId::parse(key, name) {
        return by_id(client, key, id).await?.ok_or_else(not_found);
    }
    let row = if name.contains('.') {
        let name = Hostname::parse(name).map_err(|_| not_found())?;
        let select = format!(
            "SELECT {COLUMNS} JOIN tenantry.hostname n ON n.tenant = t.id \
             WHERE n.name = $1 AND n.verified_at IS NOT NULL"
        );
        client.query_opt(&select, &[&name.as_str()]).await?
    } else {
        client
            .query_opt(&format!("SELECT {COLUMNS} WHERE t.slug = $1"), &[&name])
            .await?
    };
    tenant_of(&row.ok_or_else(not_found)?)
}

fn tenant_of(row: &Row) -> Result<Tenant, CatalogError> {
    let slug: String = row.get("slug");
    let (state, isolation): (&str, &str) = (row.get("state"), row.get("isolation"));
    let epoch: i64 = row.get("epoch");
    Ok(Tenant {
        id: row.get("id"),
        state: state
            .parse()
            .map_err(|cause| CatalogError::row("tenant", &slug, cause))?,
        isolation: isolation
            .parse()
            .map_err(|cause| CatalogError::row("tenant", &slug, cause))?,
        plan: row.get("plan"),
        epoch: Epoch(epoch.unsigned_abs()),
        pin: row.get("pin"),
        hostnames: row.get("hostnames"),
        suspended_at: row.get("suspended_at"),
        suspended_reason: row.get("suspended_reason"),
        is_demo: row.get("is_demo"),
        is_simulation: row.get("is_simulation"),
        limits: row.get("limits"),
        created_at: row.get("created_at"),
        slug,
    })
}
