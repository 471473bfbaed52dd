//! Plans, limits of tenants, and the kill switch. What they mean is in [`crate::limits`].

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::GenericClient;

use super::{Catalog, CatalogError};
use crate::limits::{FleetLimits, KillMode, KillSwitch, Limits};
use crate::tenant::TenantId;

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// The limits of its tenants, where they have none of their own.
    pub limits: Limits,
}

/// How a kill switch is to be thrown.
#[derive(Debug, Clone)]
pub struct SwitchThrow<'a> {
    /// Whose; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// What it is to do; [`KillMode::Off`] releases it.
    pub mode: KillMode,
    /// Why; told to clients.
    pub reason: Option<&'a str>,
    /// After how long it ends by itself.
    pub lasts: Option<Duration>,
    /// How long it cannot be weakened; `None`: the catalog's default.
    pub cool_down: Option<Duration>,
    /// Who throws it, for the audit trail.
    pub actor: &'a str,
}

/// A kill switch as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThrownSwitch {
    /// The switch.
    pub switch: KillSwitch,
    /// From when on it can be weakened.
    pub cool_at: Timestamp,
}

impl Catalog {
    /// All plans, by name.
    pub async fn list_plans(&self) -> Result<Vec<Plan>, CatalogError> {
        let client = self.client().await?;
        plans(&*client).await
    }

    /// The plan of this name.
    pub async fn plan(&self, name: &str) -> Result<Plan, CatalogError> {
        let plans = self.list_plans().await?;
        let found = plans.into_iter().find(|plan| plan.name == name);
        found.ok_or_else(|| CatalogError::not_found("plan", name))
    }

    /// Creates the plan, or gives the one of its name these limits.
    pub async fn upsert_plan(&self, plan: &Plan) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let upsert = "INSERT INTO tenantry.plan (name, limits) VALUES ($1, $2::text::jsonb) \
                      ON CONFLICT (name) DO UPDATE SET limits = excluded.limits";
        client
            .execute(upsert, &[&plan.name, &text_of(&plan.limits)])
            .await?;
        Ok(())
    }

    /// Removes a plan that no tenant has.
    pub async fn remove_plan(&self, name: &str) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let delete = "DELETE FROM tenantry.plan WHERE name = $1";
        match client.execute(delete, &[&name]).await? {
            0 => Err(CatalogError::not_found("plan", name)),
            _ => Ok(()),
        }
    }

    /// Gives a tenant another plan.
    pub async fn set_tenant_plan(&self, tenant: TenantId, plan: &str) -> Result<(), CatalogError> {
        let update =
            "UPDATE tenantry.tenant SET plan = $2 WHERE id = $1::text::tenantry.tenant_key";
        self.update_tenant(tenant, update, plan).await
    }

    /// Gives a tenant these overrides, and no others.
    pub async fn set_tenant_limits(
        &self,
        tenant: TenantId,
        limits: &Limits,
    ) -> Result<(), CatalogError> {
        let update = "UPDATE tenantry.tenant SET limits = $2::text::jsonb \
                      WHERE id = $1::text::tenantry.tenant_key";
        self.update_tenant(tenant, update, &text_of(limits)).await
    }

    async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &str,
        value: &str,
    ) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let id = tenant.display(key).to_string();
        let client = self.client().await?;
        match client.execute(update, &[&id, &value]).await? {
            0 => Err(CatalogError::not_found("tenant", id)),
            _ => Ok(()),
        }
    }

    /// Throws or releases a kill switch; the catalog itself enters it in the audit trail. A switch that has not cooled
    /// down can be thrown harder, not weakened.
    pub async fn throw_switch(
        &self,
        throw: &SwitchThrow<'_>,
    ) -> Result<ThrownSwitch, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .execute(
                "SELECT set_config('tenantry.actor', $1, true)",
                &[&throw.actor],
            )
            .await?;
        let upsert = "INSERT INTO tenantry.kill_switch AS k (tenant, mode, reason, until, cool_down) \
                      VALUES ($1::text::tenantry.tenant_key, $2, $3, clock_timestamp() + make_interval(secs => $4), \
                              coalesce(make_interval(secs => $5), interval '30 seconds')) \
                      ON CONFLICT ON CONSTRAINT kill_switch_is_one DO UPDATE SET mode = excluded.mode, \
                          reason = excluded.reason, until = excluded.until, cool_down = excluded.cool_down";
        let tenant = throw.tenant.map(|id| id.display(key).to_string());
        let lasts = throw.lasts.map(|lasts| lasts.as_secs_f64());
        let cool_down = throw.cool_down.map(|cool_down| cool_down.as_secs_f64());
        transaction
            .execute(
                upsert,
                &[
                    &tenant,
                    &throw.mode.as_str(),
                    &throw.reason,
                    &lasts,
                    &cool_down,
                ],
            )
            .await?;
        let switches = switches(&transaction).await?;
        transaction.commit().await?;
        let found = switches
            .into_iter()
            .find(|thrown| thrown.switch.tenant == throw.tenant);
        found.ok_or_else(|| CatalogError::not_found("kill switch", tenant.unwrap_or_default()))
    }

    /// Every kill switch that was ever thrown, the fleet's first.
    pub async fn list_switches(&self) -> Result<Vec<ThrownSwitch>, CatalogError> {
        let client = self.client().await?;
        switches(&*client).await
    }
}

fn text_of(limits: &Limits) -> String {
    // A map of names and numbers always is JSON.
    serde_json::to_string(limits).unwrap_or_default()
}

async fn plans(client: &impl GenericClient) -> Result<Vec<Plan>, CatalogError> {
    let select = "SELECT name, limits::text FROM tenantry.plan ORDER BY name";
    let rows = client.query(select, &[]).await?;
    let plans = rows.iter().map(|row| {
        let name: String = row.get(0);
        let limits = parse("plan", &name, row.get(1))?;
        Ok(Plan { name, limits })
    });
    plans.collect()
}

fn parse(table: &'static str, key: &str, text: &str) -> Result<Limits, CatalogError> {
    serde_json::from_str(text).map_err(|cause| CatalogError::row(table, key, cause))
}

async fn switches(client: &impl GenericClient) -> Result<Vec<ThrownSwitch>, CatalogError> {
    let select = "SELECT coalesce(k.tenant::text, 'fleet'), (to_jsonb(k) - 'cool_down')::text, k.since + k.cool_down \
                  FROM tenantry.kill_switch k ORDER BY k.tenant NULLS FIRST";
    let rows = client.query(select, &[]).await?;
    let switches = rows.iter().map(|row| {
        let (target, json): (&str, &str) = (row.get(0), row.get(1));
        let switch = serde_json::from_str(json);
        Ok(ThrownSwitch {
            switch: switch.map_err(|cause| CatalogError::row("kill_switch", target, cause))?,
            cool_at: row.get(2),
        })
    });
    switches.collect()
}

/// Every limit of the fleet; few rows, however many tenants there are.
pub(super) async fn fleet_limits(client: &impl GenericClient) -> Result<FleetLimits, CatalogError> {
    let mut limits = FleetLimits::default();
    for plan in plans(client).await? {
        limits.set_plan(&plan.name, plan.limits);
    }
    let select = "SELECT id, limits::text FROM tenantry.tenant WHERE limits <> '{}'";
    for row in client.query(select, &[]).await? {
        let tenant: TenantId = row.get(0);
        let own = parse("tenant", &tenant.as_u128().to_string(), row.get(1))?;
        limits.set_tenant(tenant, own);
    }
    for thrown in switches(client).await? {
        limits.set_switch(thrown.switch);
    }
    Ok(limits)
}
