//! Moves: the journal of each, what operators ask of them, and who leads those who make them.
//!
//! A transition is a compare-and-set on the move's version under the leader's epoch, in one transaction with its event,
//! the command it follows and, where the tenant changes its shard, pin and epoch. So a rebalancer that was overtaken,
//! or that died and came back, can change nothing; and routers learn of a placement exactly when the journal has it.

mod command;
mod create;
mod lease;
mod placement;
mod transition;
mod types;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, Row};
use uuid::Uuid;

use super::{Catalog, CatalogError, connection};
use crate::tenant::{Epoch, TenantId};

pub use create::NewMove;
pub use lease::{LeaseEpoch, REBALANCER};
pub use transition::{Transition, TransitionError};
pub use types::{
    AskedCommand, HoldReport, IdlePolicy, Move, MoveCommand, MoveEvent, MoveId, MoveKind,
    MoveNames, MovePolicy, MoveProgress, MoveState, MoveStatus, Side, SwitchPolicy, TableProgress,
};

/// Notified whenever there is a new move or a new command.
pub const MOVE_CHANNEL: &str = "tenantry_move";

/// Which moves to list, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct MoveFilter {
    /// Only those that are not over.
    pub live: bool,
    /// Only those of this tenant.
    pub tenant: Option<TenantId>,
    /// Only those of this rebalancing.
    pub batch: Option<Uuid>,
    /// Only those before this one, for the next page.
    pub before: Option<MoveId>,
    /// At most so many; 0 counts as [`MoveFilter::LIMIT_DEFAULT`].
    pub limit: u32,
}

impl MoveFilter {
    /// How many moves are listed when nobody says.
    pub const LIMIT_DEFAULT: u32 = 1_000;

    /// All moves that are not over, however many.
    pub fn live() -> Self {
        Self {
            live: true,
            limit: u32::MAX,
            ..Self::default()
        }
    }
}

const COLUMNS: &str = "m.id, m.tenant, m.source, m.destination, m.kind, m.reason, m.actor, m.batch, m.policy, m.names, \
     m.source_epoch, m.state, m.lives_at, m.placement_epoch, m.paused, m.switch_asked, m.way_back, m.attempts, m.error, \
     m.probation_until, m.progress, m.version, m.lease_epoch, m.created_at, m.updated_at, m.finished_at";

impl Catalog {
    /// The move of this id.
    pub async fn move_by_id(&self, id: MoveId) -> Result<Move, CatalogError> {
        let client = self.client().await?;
        let found = by_id(&*client, id).await?;
        found.ok_or_else(|| CatalogError::not_found("move", id.to_string()))
    }

    /// The tenant's move that is not over, if it has one.
    pub async fn live_move_of(&self, tenant: TenantId) -> Result<Option<Move>, CatalogError> {
        let filter = MoveFilter {
            tenant: Some(tenant),
            ..MoveFilter::live()
        };
        Ok(self.moves(&filter).await?.into_iter().next())
    }

    /// The moves that the filter lets through, newest first.
    pub async fn moves(&self, filter: &MoveFilter) -> Result<Vec<Move>, CatalogError> {
        let key = self.settings().await?.tenant_key;
        let tenant = filter.tenant.map(|id| id.display(key).to_string());
        let limit = match filter.limit {
            0 => MoveFilter::LIMIT_DEFAULT,
            limit => limit,
        };
        let select = format!(
            "SELECT {COLUMNS} FROM tenantry.move m WHERE (NOT $1 OR m.finished_at IS NULL) \
             AND ($2::text IS NULL OR m.tenant = $2::text::tenantry.tenant_key) \
             AND ($3::uuid IS NULL OR m.batch = $3) \
             AND ($4::uuid IS NULL OR (m.created_at, m.id) < (SELECT b.created_at, b.id FROM tenantry.move b WHERE b.id = $4)) \
             ORDER BY m.created_at DESC, m.id DESC LIMIT $5"
        );
        let before = filter.before.map(|id| id.0);
        let parameters: [&(dyn ToSql + Sync); 5] = [
            &filter.live,
            &tenant,
            &filter.batch,
            &before,
            &i64::from(limit),
        ];
        let client = self.client().await?;
        let rows = client.query(&select, &parameters).await?;
        rows.iter().map(move_of).collect()
    }

    /// A move's history, oldest first, from after the event `after` (0: from the start).
    pub async fn move_events(
        &self,
        id: MoveId,
        after: i64,
    ) -> Result<Vec<MoveEvent>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT id, at, from_state, to_state, detail FROM tenantry.move_event \
                      WHERE move = $1 AND id > $2 ORDER BY id";
        let rows = client.query(select, &[&id.0, &after]).await?;
        rows.iter().map(event_of).collect()
    }

    /// A connection of its own that is woken by each new move and command.
    pub async fn watch_moves(&self) -> Result<MoveWatch, CatalogError> {
        let wake = Arc::new(Notify::new());
        let client = connection::open(&self.shared.config, Some(Arc::clone(&wake))).await?;
        client
            .batch_execute(&format!("LISTEN {MOVE_CHANNEL}"))
            .await?;
        Ok(MoveWatch { client, wake })
    }
}

/// Hears of new moves and commands; a hint only: who relies on it also looks now and then.
pub struct MoveWatch {
    client: Client,
    wake: Arc<Notify>,
}

impl MoveWatch {
    /// Waits for the next one since the last call, or for the end of the connection. `false`: it has ended, and
    /// nothing more will be heard.
    pub async fn woken(&self) -> bool {
        if !self.client.is_closed() {
            self.wake.notified().await;
        }
        !self.client.is_closed()
    }
}

async fn by_id(client: &impl GenericClient, id: MoveId) -> Result<Option<Move>, CatalogError> {
    let select = format!("SELECT {COLUMNS} FROM tenantry.move m WHERE m.id = $1");
    let row = client.query_opt(&select, &[&id.0]).await?;
    row.as_ref().map(move_of).transpose()
}

/// Reads text of a closed set, or JSON, out of a move's row.
fn understood<T, E: std::fmt::Display>(id: MoveId, read: Result<T, E>) -> Result<T, CatalogError> {
    read.map_err(|cause| CatalogError::row("move", id.to_string(), cause))
}

fn move_of(row: &Row) -> Result<Move, CatalogError> {
    let id = MoveId(row.get("id"));
    let word = |column: &str| -> &str { row.get(column) };
    let number = |column: &str| row.get::<_, i64>(column).unsigned_abs();
    let epoch: Option<i64> = row.get("placement_epoch");
    Ok(Move {
        id,
        tenant: row.get("tenant"),
        source: row.get("source"),
        destination: row.get("destination"),
        kind: understood(id, word("kind").parse())?,
        reason: row.get("reason"),
        actor: row.get("actor"),
        batch: row.get("batch"),
        policy: understood(id, serde_json::from_value(row.get("policy")))?,
        names: understood(id, serde_json::from_value(row.get("names")))?,
        source_epoch: Epoch(number("source_epoch")),
        status: MoveStatus {
            state: understood(id, word("state").parse())?,
            lives_at: understood(id, word("lives_at").parse())?,
            placement_epoch: epoch.map(|epoch| Epoch(epoch.unsigned_abs())),
            paused: row.get("paused"),
            switch_asked: row.get("switch_asked"),
            way_back: row.get("way_back"),
            attempts: row.get::<_, i32>("attempts").unsigned_abs(),
            error: row.get("error"),
            probation_until: row.get("probation_until"),
        },
        progress: understood(id, serde_json::from_value(row.get("progress")))?,
        version: number("version"),
        lease: LeaseEpoch(number("lease_epoch")),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
        finished_at: row.get("finished_at"),
    })
}

fn event_of(row: &Row) -> Result<MoveEvent, CatalogError> {
    let id: i64 = row.get(0);
    let wrong = |cause| CatalogError::row("move_event", id.to_string(), cause);
    let (from, to): (Option<&str>, &str) = (row.get(2), row.get(3));
    Ok(MoveEvent {
        id,
        at: row.get(1),
        from: from.map(str::parse).transpose().map_err(wrong)?,
        to: to.parse().map_err(wrong)?,
        detail: row.get(4),
    })
}
