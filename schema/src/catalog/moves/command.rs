//! What operators ask of moves: rows, so that none is lost, and a notification, so that none waits.

use tokio_postgres::Row;

use super::by_id;
use super::lease::{LeaseEpoch, check_lease};
use super::transition::TransitionError;
use super::types::{AskedCommand, MoveCommand, MoveId, MoveState, MoveStatus, Side};
use crate::catalog::{Catalog, CatalogError};

impl MoveStatus {
    /// Whether a move that is so can follow the command; else why not. A cutover that is under way may turn a yes into
    /// a no.
    pub fn accepts(&self, command: MoveCommand) -> Result<(), &'static str> {
        use MoveState as State;
        if self.state.is_final() {
            return Err("the move is over");
        }
        let undone = matches!(self.state, State::Aborting | State::RollingBack);
        let refusal = match command {
            MoveCommand::Pause | MoveCommand::Resume => None,
            MoveCommand::Cancel if self.lives_at == Side::Destination => {
                Some("the tenant lives at the destination already: reverse the move instead")
            }
            MoveCommand::Cancel | MoveCommand::Switch | MoveCommand::Reverse if undone => {
                Some("the move is being undone already")
            }
            MoveCommand::Cancel => None,
            MoveCommand::Switch if self.lives_at == Side::Destination => {
                Some("the tenant lives at the destination already")
            }
            MoveCommand::Switch => None,
            MoveCommand::Reverse if self.lives_at == Side::Source => {
                Some("the tenant still lives at the source: cancel the move instead")
            }
            MoveCommand::Reverse | MoveCommand::Complete if self.state == State::Cleaning => {
                Some("the source is being cleaned: there is no way back any more")
            }
            MoveCommand::Reverse if !self.way_back => {
                Some("the way back is lost: move the tenant to where it was instead")
            }
            MoveCommand::Reverse => None,
            MoveCommand::Complete if self.state == State::Probation => None,
            MoveCommand::Complete => Some("the move is not in probation"),
        };
        refusal.map_or(Ok(()), Err)
    }
}

impl Catalog {
    /// Asks the rebalancer to do something with a move; refused at once where it cannot be followed.
    pub async fn ask_move(
        &self,
        id: MoveId,
        command: MoveCommand,
        actor: &str,
    ) -> Result<AskedCommand, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let found = by_id(&transaction, id).await?;
        let found = found.ok_or_else(|| CatalogError::not_found("move", id.to_string()))?;
        if let Err(why) = found.status.accepts(command) {
            return Err(CatalogError::Refused {
                message: why.to_owned(),
                hint: None,
            });
        }
        let insert = "WITH audited AS (INSERT INTO tenantry.audit (actor, action, target_kind, target, before) \
                          VALUES ($3, 'move.' || $2, 'move', $1::uuid::text, jsonb_build_object('state', $4::text))) \
                      INSERT INTO tenantry.move_command AS c (move, command, actor) VALUES ($1, $2, $3) \
                      RETURNING c.id, c.move, c.command, c.actor, c.at, c.taken_at, c.refusal";
        let state = found.status.state.as_str();
        let row = transaction
            .query_one(insert, &[&id.0, &command.as_str(), &actor, &state])
            .await?;
        transaction.commit().await?;
        command_of(&row)
    }

    /// What was asked of a move, oldest first.
    pub async fn move_commands(&self, id: MoveId) -> Result<Vec<AskedCommand>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT id, move, command, actor, at, taken_at, refusal FROM tenantry.move_command \
                      WHERE move = $1 ORDER BY id";
        let rows = client.query(select, &[&id.0]).await?;
        rows.iter().map(command_of).collect()
    }

    /// What was asked of any move and not taken yet, oldest first.
    pub async fn pending_move_commands(&self) -> Result<Vec<AskedCommand>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT id, move, command, actor, at, taken_at, refusal FROM tenantry.move_command \
                      WHERE taken_at IS NULL ORDER BY id";
        let rows = client.query(select, &[]).await?;
        rows.iter().map(command_of).collect()
    }

    /// Says why a command is not followed.
    pub async fn refuse_move_command(
        &self,
        command: i64,
        lease: LeaseEpoch,
        why: &str,
    ) -> Result<(), TransitionError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        check_lease(&transaction, lease).await?;
        let update = "UPDATE tenantry.move_command SET taken_at = clock_timestamp(), refusal = $2 \
                      WHERE id = $1 AND taken_at IS NULL";
        transaction.execute(update, &[&command, &why]).await?;
        transaction.commit().await?;
        Ok(())
    }
}

fn command_of(row: &Row) -> Result<AskedCommand, CatalogError> {
    let (id, command): (i64, &str) = (row.get(0), row.get(2));
    let command = command.parse();
    Ok(AskedCommand {
        id,
        of: MoveId(row.get(1)),
        command: command
            .map_err(|cause| CatalogError::row("move_command", id.to_string(), cause))?,
        actor: row.get(3),
        at: row.get(4),
        taken_at: row.get(5),
        refusal: row.get(6),
    })
}
