//! The owner rows of a move's tenant on its two shards: what the guard lets the rebalancer do with them.

use std::time::Duration;

use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{Epoch, TenantKey};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::machine::invariants::{OwnerRow, OwnerState};

use super::failure::EffectError;

/// The first half of the guard's advisory locks on tenants.
const TENANT_LOCK_CLASS: i64 = 0x7465_6e61;

/// Whose row, for which move.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) tenant: String,
    pub(super) key: TenantKey,
    pub(super) move_id: Uuid,
}

/// What an attempt at a cutover drew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secrets {
    pub(super) nonce: Uuid,
    pub(super) proof: Uuid,
}

/// How an attempt to fence went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fenced {
    /// The epoch the tenant has now.
    At(Epoch),
    /// Somebody holds the tenant's lock.
    Locked,
}

/// What the end of an attempt found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifted {
    /// The tenant is served at this epoch, or was never fenced here.
    Served(Epoch),
    /// The tenant was handed over by this move.
    Moved(Epoch),
}

/// Somebody who holds the tenant's lock for long.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) pid: i32,
    pub(super) idle: bool,
    pub(super) for_s: f64,
}

impl Owner {
    fn sql(&self, text: &str) -> String {
        text.replace("@key@", self.key.sql_type())
    }

    pub(super) async fn read(&self, client: &Client) -> Result<Option<OwnerRow>, EffectError> {
        let select = "SELECT o.state, o.epoch, o.move_id FROM tenantry.owner o WHERE o.tenant_id = $1::text::@key@";
        let row = client.query_opt(&self.sql(select), &[&self.tenant]).await?;
        row.map(|row| self.row(&row)).transpose()
    }

    fn row(&self, row: &Row) -> Result<OwnerRow, EffectError> {
        let state: &str = row.get(0);
        let state = OwnerState::parse(state)
            .ok_or_else(|| EffectError::Refused(format!("an owner row says {state:?}")))?;
        Ok(OwnerRow {
            state,
            epoch: epoch_of(row.get(1)),
            ours: row.get::<_, Option<Uuid>>(2) == Some(self.move_id),
        })
    }

    /// The row of a shard that must serve the tenant.
    pub(super) async fn serving(&self, client: &Client) -> Result<Epoch, EffectError> {
        match self.read(client).await? {
            Some(row) if row.serves() => Ok(row.epoch),
            other => {
                let why = format!("the tenant is not served where it is to leave: {other:?}");
                Err(EffectError::NotYet(why))
            }
        }
    }

    pub(super) async fn begin_import(
        &self,
        client: &Client,
        epoch: Epoch,
    ) -> Result<(), EffectError> {
        let call = "SELECT tenantry.begin_import($1::text::@key@, $2, $3)";
        client
            .query_one(
                &self.sql(call),
                &[&self.tenant, &self.move_id, &number(epoch)],
            )
            .await?;
        Ok(())
    }

    pub(super) async fn expect_proof(
        &self,
        client: &Client,
        hash: &[u8],
    ) -> Result<(), EffectError> {
        let call = "SELECT tenantry.expect_proof($1::text::@key@, $2, $3)";
        client
            .query_one(&self.sql(call), &[&self.tenant, &self.move_id, &hash])
            .await?;
        Ok(())
    }

    /// Tries once for the tenant's lock, for `wait` at most.
    pub(super) async fn fence(
        &self,
        client: &Client,
        secrets: Secrets,
        (epoch, lasts): (Epoch, Duration),
        wait: Duration,
    ) -> Result<Fenced, EffectError> {
        let wait = format!("SET lock_timeout = {}", wait.as_millis().max(1));
        let call =
            "SELECT tenantry.fence($1::text::@key@, $2, $3, $4, $5, make_interval(secs => $6))";
        let call = self.sql(call);
        // Both in one write: the settings before the call.
        let lasts = lasts.as_secs_f64();
        let expected = number(epoch);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
            &self.tenant,
            &self.move_id,
            &secrets.nonce,
            &secrets.proof,
            &expected,
            &lasts,
        ];
        client.batch_execute(&wait).await?;
        let fenced = client.query_one(&call, &parameters).await;
        match fenced {
            Ok(_) => Ok(Fenced::At(Epoch(epoch.0 + 1))),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(Fenced::Locked),
            Err(error) => Err(error.into()),
        }
    }

    /// The commit point. `false`: the fence was lifted before.
    pub(super) async fn hand_over(
        &self,
        client: &Client,
        epoch: Epoch,
        to: ShardId,
    ) -> Result<bool, EffectError> {
        let call = "SELECT tenantry.hand_over($1::text::@key@, $2, $3, $4)";
        let row = client
            .query_one(
                &self.sql(call),
                &[&self.tenant, &self.move_id, &number(epoch), &to],
            )
            .await?;
        Ok(row.get(0))
    }

    /// `false`: this shard does not wait for this move.
    pub(super) async fn activate(
        &self,
        client: &Client,
        epoch: Epoch,
    ) -> Result<bool, EffectError> {
        let call = "SELECT tenantry.activate($1::text::@key@, $2, $3)";
        let row = client
            .query_one(
                &self.sql(call),
                &[&self.tenant, &self.move_id, &number(epoch)],
            )
            .await?;
        Ok(row.get(0))
    }

    pub(super) async fn lift(&self, client: &Client) -> Result<Lifted, EffectError> {
        let call = self.sql(include_str!("sql/lift_fence.sql"));
        let row = client
            .query_one(&call, &[&self.tenant, &self.move_id])
            .await?;
        if let Some(epoch) = row.get::<_, Option<i64>>(0) {
            return Ok(Lifted::Served(epoch_of(epoch)));
        }
        match self.read(client).await? {
            Some(row) if row.ours && row.state == OwnerState::Moved => Ok(Lifted::Moved(row.epoch)),
            Some(row) if row.state == OwnerState::Active || row.state == OwnerState::Fenced => {
                // Between the two statements somebody else lifted it.
                Err(EffectError::NotYet("the fence was being lifted".to_owned()))
            }
            Some(row) => Ok(Lifted::Served(row.epoch)),
            None => Ok(Lifted::Served(Epoch(0))),
        }
    }

    pub(super) async fn drop_import(&self, client: &Client) -> Result<(), EffectError> {
        let call = "SELECT tenantry.drop_import($1::text::@key@, $2)";
        client
            .query_one(&self.sql(call), &[&self.tenant, &self.move_id])
            .await?;
        Ok(())
    }

    /// Forgets ledger and progress of the move on a shard.
    pub(super) async fn forget_move(&self, client: &Client) -> Result<(), EffectError> {
        client
            .query_one("SELECT tenantry.forget_move($1)", &[&self.move_id])
            .await?;
        Ok(())
    }

    /// Who has held the tenant's lock for longer than `for_s` seconds.
    pub(super) async fn holders(
        &self,
        client: &Client,
        for_s: f64,
    ) -> Result<Vec<Holder>, EffectError> {
        let select = self.sql(include_str!("sql/lock_holders.sql"));
        let rows = client
            .query(&select, &[&TENANT_LOCK_CLASS, &self.tenant, &for_s])
            .await?;
        let holder = |row: &Row| Holder {
            pid: row.get(0),
            idle: row
                .get::<_, Option<&str>>(1)
                .is_some_and(|state| state.starts_with("idle in transaction")),
            for_s: row.get(2),
        };
        Ok(rows.iter().map(holder).collect())
    }
}

fn epoch_of(number: i64) -> Epoch {
    Epoch(number.unsigned_abs())
}

fn number(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).unwrap_or(i64::MAX)
}
