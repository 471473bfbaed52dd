//! The audit trail: who did what to which thing.

use jiff::Timestamp;
use serde_json::Value;

use super::{Catalog, CatalogError};

/// An act to record.
#[derive(Debug, Clone)]
pub struct AuditEntry<'a> {
    /// Who: a person, a token's name, a process.
    pub actor: &'a str,
    /// What, as `noun.verb`: `tenant.suspend`.
    pub action: &'a str,
    /// `tenant`, `shard`, `role` and so on.
    pub target_kind: &'a str,
    /// Which.
    pub target: &'a str,
    /// The state before, where there was one.
    pub before: Option<Value>,
    /// The state after, where there is one.
    pub after: Option<Value>,
    /// The request it came with.
    pub request_id: Option<&'a str>,
}

/// An act as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// Its place in the trail.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// The kind of thing.
    pub target_kind: String,
    /// Which.
    pub target: String,
    /// The state before.
    pub before: Option<Value>,
    /// The state after.
    pub after: Option<Value>,
    /// The request it came with.
    pub request_id: Option<String>,
}

impl Catalog {
    /// Records an act.
    pub async fn audit(&self, entry: &AuditEntry<'_>) -> Result<(), CatalogError> {
        let client = self.client().await?;
        let insert = "INSERT INTO tenantry.audit (actor, action, target_kind, target, before, after, request_id) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
        client
            .execute(
                insert,
                &[
                    &entry.actor,
                    &entry.action,
                    &entry.target_kind,
                    &entry.target,
                    &entry.before,
                    &entry.after,
                    &entry.request_id,
                ],
            )
            .await?;
        Ok(())
    }

    /// The trail, newest first: those before `before` (`None`: from the end), at most `limit`.
    pub async fn list_audit(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT id, at, actor, action, target_kind, target, before, after, request_id \
                      FROM tenantry.audit WHERE id < $1 ORDER BY id DESC LIMIT $2";
        let rows = client
            .query(select, &[&before.unwrap_or(i64::MAX), &i64::from(limit)])
            .await?;
        Ok(rows
            .iter()
            .map(|row| AuditRecord {
                id: row.get(0),
                at: row.get(1),
                actor: row.get(2),
                action: row.get(3),
                target_kind: row.get(4),
                target: row.get(5),
                before: row.get(6),
                after: row.get(7),
                request_id: row.get(8),
            })
            .collect())
    }
}
