//! Roles that clients log in as.

use tokio_postgres::GenericClient;

use super::{Catalog, CatalogError};
use crate::fleet::Role;

impl Catalog {
    /// Creates the role, or replaces the one of its name.
    pub async fn upsert_role(&self, role: &Role) -> Result<(), CatalogError> {
        let key = self.settings().await?.tenant_key;
        let client = self.client().await?;
        let tenants: Vec<String> = role
            .tenants
            .iter()
            .map(|id| id.display(key).to_string())
            .collect();
        let limits = serde_json::to_value(&role.limits).unwrap_or_default();
        let upsert = "INSERT INTO tenantry.role AS r (name, verifier, kind, tenants, limits, valid_until) \
                      VALUES ($1, $2, $3, $4::text[]::tenantry.tenant_key[], $5, $6) \
                      ON CONFLICT (name) DO UPDATE SET verifier = excluded.verifier, kind = excluded.kind, \
                          tenants = excluded.tenants, limits = excluded.limits, valid_until = excluded.valid_until";
        client
            .execute(
                upsert,
                &[
                    &role.name,
                    &role.verifier,
                    &role.kind.as_str(),
                    &tenants,
                    &limits,
                    &role.valid_until,
                ],
            )
            .await?;
        Ok(())
    }

    /// Removes the role; routers refuse it from then on.
    pub async fn remove_role(&self, name: &str) -> Result<(), CatalogError> {
        let client = self.client().await?;
        if client
            .execute("DELETE FROM tenantry.role WHERE name = $1", &[&name])
            .await?
            == 0
        {
            return Err(CatalogError::not_found("role", name));
        }
        Ok(())
    }

    /// All roles by name.
    pub async fn list_roles(&self) -> Result<Vec<Role>, CatalogError> {
        let client = self.client().await?;
        roles(&*client).await
    }
}

/// Read as the change log writes them, so that both ways give the same role.
pub(super) async fn roles(client: &impl GenericClient) -> Result<Vec<Role>, CatalogError> {
    let rows = client
        .query(
            "SELECT r.name, to_jsonb(r)::text FROM tenantry.role r ORDER BY r.name",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let (name, json): (&str, &str) = (row.get(0), row.get(1));
            serde_json::from_str(json).map_err(|cause| CatalogError::row("role", name, cause))
        })
        .collect()
}
