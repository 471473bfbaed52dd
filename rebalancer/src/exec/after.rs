//! What comes after a cutover, and after a move that was given up: probation, cleaning, and the end of what was made.

use std::time::Duration;

use jiff::Timestamp;
use tenantry_schema::catalog::moves::Side;
use tenantry_schema::control::Forget;
use tokio::sync::watch;
use tokio::time::sleep;

use super::failure::EffectError;
use super::hands::Hands;
use crate::apply::{ApplierHandle, Direction};
use crate::clean::{self, Standing, Warrant};
use crate::machine::Outcome;
use crate::machine::invariants::{self, OwnerState};
use crate::replication::{publication, slot};

const LOOK: Duration = Duration::from_millis(100);
const FORGET_MAX: Duration = Duration::from_secs(1);

impl Hands {
    pub(super) async fn drop_forward(&mut self) -> Result<Outcome, EffectError> {
        end(self.forward.take()).await;
        let client = self.session(Side::Source).await?;
        slot::drop(&client, &self.row.names.forward).await?;
        publication::drop(&client, &self.row.names.forward).await?;
        Ok(Outcome::Done)
    }

    /// Keeps the source current until its time is over.
    pub(super) async fn await_probation(&mut self) -> Result<Outcome, EffectError> {
        let until = self.row.status.probation_until;
        if self.row.status.way_back {
            self.ensure_applier(Direction::Reverse).await?;
        }
        loop {
            let now = Timestamp::now();
            let left = until.map_or(0.0, |until| until.duration_since(now).as_secs_f64());
            if left <= 0.0 {
                return Ok(Outcome::Done);
            }
            self.tell(|progress| progress.eta_s = Some(left));
            self.waits_for("the end of the probation, or `tenantry move complete`");
            if self.row.status.way_back {
                let status = self.applier(Direction::Reverse)?.status().borrow().clone();
                if status.has_ended() {
                    return self.why_ended(Direction::Reverse).await;
                }
                self.tell(|progress| {
                    progress.applied_ops = status.changes;
                    progress.lag_bytes = Some(status.lag_bytes());
                });
            }
            sleep(LOOK.min(Duration::from_secs_f64(left))).await;
        }
    }

    pub(super) async fn drop_objects(&mut self) -> Result<Outcome, EffectError> {
        self.slot = None;
        end(self.forward.take()).await;
        end(self.reverse.take()).await;
        if self.context.config.left_out.clearing {
            return Ok(Outcome::Done);
        }
        self.drop_made_on(Side::Source).await?;
        self.drop_made_on(Side::Destination).await?;
        Ok(Outcome::Done)
    }

    /// Deletes the rows on the side that the tenant has left.
    pub(super) async fn clean(&mut self, side: Side) -> Result<Outcome, EffectError> {
        let owners = self.owners().await?;
        invariants::check_deletion(side, owners)?;
        if owners.on(side).is_none() {
            return Ok(Outcome::Done);
        }
        self.regulate().await?;
        let warrant = Warrant {
            tenant: self.tenant.clone(),
            move_id: self.row.id.0,
            standing: Standing::Moved,
        };
        let tables = self.tables().await?;
        let endpoint = self.endpoint(side).await?;
        let (deleted, mut seen) = watch::channel(0);
        let deleting = clean::delete_tenant(&endpoint, &tables, &warrant, &self.throttle, &deleted);
        let mut deleting = std::pin::pin!(deleting);
        let rows = loop {
            tokio::select! {
                done = &mut deleting => break done?,
                () = sleep(LOOK) => {
                    let rows = *seen.borrow_and_update();
                    self.tell(|progress| progress.cleaned_rows = rows);
                }
            }
        };
        self.tell(|progress| progress.cleaned_rows = rows);
        clean::vacuum(&endpoint, &tables).await?;
        Ok(Outcome::Done)
    }

    /// The destination forgets a tenant that does not come.
    pub(super) async fn drop_import(&mut self) -> Result<Outcome, EffectError> {
        let owners = self.owners().await?;
        let destination = self.session(Side::Destination).await?;
        match owners.destination {
            Some(row) if row.ours && row.state == OwnerState::Importing => {
                invariants::check_deletion(Side::Destination, owners)?;
                self.delete_import().await?;
                self.owner.drop_import(&destination).await?;
            }
            // It never began to import for this move.
            _ => self.owner.forget_move(&destination).await?,
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn forget(&mut self) -> Result<Outcome, EffectError> {
        for side in [Side::Source, Side::Destination] {
            let client = self.session(side).await?;
            self.owner.forget_move(&client).await?;
        }
        if let Some(routers) = &self.context.routers {
            let live = routers.live(&self.context.catalog).await?;
            let message = Forget {
                tenant: self.row.tenant,
                move_id: self.row.id.0,
            };
            // Who does not hear it forgets by itself.
            routers.forget(&live.controlled, &message, FORGET_MAX).await;
        }
        Ok(Outcome::Done)
    }
}

async fn end(applier: Option<ApplierHandle>) {
    if let Some(applier) = applier
        && let Err(error) = applier.stop().await
    {
        tracing::debug!(%error, "an applier had ended");
    }
}
