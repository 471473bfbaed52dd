//! Planning a move: the rules that can be checked in the catalog alone, and the row.

use tokio_postgres::Transaction;
use uuid::Uuid;

use super::by_id;
use super::types::{Move, MoveId, MoveKind, MoveNames, MovePolicy, MoveState};
use crate::catalog::ring::ring;
use crate::catalog::tenants::{Tenant, by_id as tenant_by_id};
use crate::catalog::{Catalog, CatalogError};
use crate::shard::ShardId;
use crate::tenant::{Isolation, TenantId, TenantKey, TenantState};

/// A move to plan.
#[derive(Debug, Clone)]
pub struct NewMove<'a> {
    /// Whom to move.
    pub tenant: TenantId,
    /// To where.
    pub destination: ShardId,
    /// Why.
    pub kind: MoveKind,
    /// Why, in words.
    pub reason: Option<&'a str>,
    /// Who asks for it.
    pub actor: &'a str,
    /// The rebalancing it belongs to.
    pub batch: Option<Uuid>,
    /// How it is to be made.
    pub policy: MovePolicy,
}

impl<'a> NewMove<'a> {
    /// An operator's move with nothing special about it.
    pub fn new(tenant: TenantId, destination: ShardId, actor: &'a str) -> Self {
        Self {
            tenant,
            destination,
            kind: MoveKind::Move,
            reason: None,
            actor,
            batch: None,
            policy: MovePolicy::default(),
        }
    }
}

impl Catalog {
    /// Plans a move from where the tenant lives. Refused while the tenant has a live move, or where the destination
    /// cannot have it; whether the shards can is checked when its turn comes.
    pub async fn create_move(&self, new: &NewMove<'_>) -> Result<Move, CatalogError> {
        self.write_move(new, true).await
    }

    /// The move as [`Catalog::create_move`] would plan it, or why it would not; nothing is left of it.
    pub async fn try_move(&self, new: &NewMove<'_>) -> Result<Move, CatalogError> {
        self.write_move(new, false).await
    }

    async fn write_move(&self, new: &NewMove<'_>, keep: bool) -> Result<Move, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let (tenant, source) = locate_locked(&transaction, key, new.tenant).await?;
        check_destination(&transaction, new, &tenant, source).await?;
        let id = MoveId::random();
        insert(&transaction, key, id, new, (&tenant, source)).await?;
        let planned = by_id(&transaction, id).await?;
        if keep {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        planned.ok_or_else(|| CatalogError::not_found("move", id.to_string()))
    }
}

/// The tenant and its shard, both kept as they are until the transaction ends. The ring first, as its changes do.
async fn locate_locked(
    transaction: &Transaction<'_>,
    key: TenantKey,
    id: TenantId,
) -> Result<(Tenant, ShardId), CatalogError> {
    transaction
        .batch_execute("SET LOCAL lock_timeout = '10s'; SELECT FROM tenantry.ring FOR SHARE")
        .await?;
    let text = id.display(key).to_string();
    let lock =
        "SELECT FROM tenantry.tenant WHERE id = $1::text::tenantry.tenant_key FOR NO KEY UPDATE";
    transaction.execute(lock, &[&text]).await?;
    let tenant = tenant_by_id(transaction, key, id).await?;
    let tenant = tenant.ok_or_else(|| CatalogError::not_found("tenant", &*text))?;
    if !matches!(tenant.state, TenantState::Active | TenantState::Suspended) {
        return Err(refused(format!(
            "tenant {} is {}",
            tenant.slug, tenant.state
        )));
    }
    if tenant.isolation == Isolation::Silo {
        let why = format!(
            "tenant {} is a silo: its database is moved, not its rows",
            tenant.slug
        );
        return Err(refused(why));
    }
    let home = match tenant.pin {
        Some(shard) => Some(shard),
        None => ring(transaction).await?.shard_of(id),
    };
    let home = home.ok_or_else(|| {
        refused(format!(
            "tenant {} lives nowhere: the ring is empty",
            tenant.slug
        ))
    })?;
    Ok((tenant, home))
}

async fn check_destination(
    transaction: &Transaction<'_>,
    new: &NewMove<'_>,
    tenant: &Tenant,
    source: ShardId,
) -> Result<(), CatalogError> {
    // A shard of one tenant is given away once: whoever asks for it waits here for the other.
    let lock = "SELECT name, kind, state FROM tenantry.shard WHERE id = $1 FOR NO KEY UPDATE";
    let row = transaction.query_opt(lock, &[&new.destination]).await?;
    let row = row.ok_or_else(|| CatalogError::not_found("shard", new.destination.to_string()))?;
    let (name, kind, state): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    if new.destination == source {
        return Err(refused(format!(
            "tenant {} lives on {name} already",
            tenant.slug
        )));
    }
    if state != "active" {
        return Err(refused(format!("shard {name} is {state}")));
    }
    if kind == "spare" && new.kind != MoveKind::Isolate {
        return Err(CatalogError::Refused {
            message: format!("shard {name} is a spare, kept for a tenant of its own"),
            hint: Some(
                "Isolate the tenant instead: the spare becomes its dedicated shard.".to_owned(),
            ),
        });
    }
    if kind == "shared" {
        return Ok(());
    }
    let taken = "SELECT 'tenant ' || t.slug || ' lives there' FROM tenantry.pin p JOIN tenantry.tenant t ON t.id = p.tenant \
                 WHERE p.shard = $1 \
                 UNION ALL \
                 SELECT 'tenant ' || t.slug || ' moves there' FROM tenantry.move m JOIN tenantry.tenant t ON t.id = m.tenant \
                 WHERE m.finished_at IS NULL AND $1 IN (m.source, m.destination) LIMIT 1";
    match transaction.query_opt(taken, &[&new.destination]).await? {
        Some(row) => {
            let why: &str = row.get(0);
            Err(refused(format!(
                "shard {name} is for one tenant, and {why}"
            )))
        }
        None => Ok(()),
    }
}

async fn insert(
    transaction: &Transaction<'_>,
    key: TenantKey,
    id: MoveId,
    new: &NewMove<'_>,
    (tenant, source): (&Tenant, ShardId),
) -> Result<(), CatalogError> {
    let names = serde_json::to_value(MoveNames::of(id)).unwrap_or_default();
    let policy = serde_json::to_value(&new.policy).unwrap_or_default();
    let epoch = i64::try_from(tenant.epoch.0).unwrap_or(i64::MAX);
    let insert = include_str!("../sql/insert_move.sql");
    transaction
        .execute(
            insert,
            &[
                &id.0,
                &new.tenant.display(key).to_string(),
                &source,
                &new.destination,
                &new.kind.as_str(),
                &new.reason,
                &new.actor,
                &new.batch,
                &policy,
                &names,
                &epoch,
                &MoveState::Planned.as_str(),
            ],
        )
        .await?;
    Ok(())
}

fn refused(message: String) -> CatalogError {
    CatalogError::Refused {
        message,
        hint: None,
    }
}
