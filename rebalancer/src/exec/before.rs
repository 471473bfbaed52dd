//! What comes before the streams: checks, the destination's row, publication, slot, and the copy.

use std::time::Duration;

use tenantry_schema::catalog::moves::{Side, TableProgress};
use tokio::time::timeout;
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use super::failure::EffectError;
use super::hands::Hands;
use crate::clean::{Standing, Warrant, delete_tenant};
use crate::copy::{self, Copier, CopyJob, CopyOptions, CopyProgress};
use crate::machine::Outcome;
use crate::preflight;
use crate::replication::{CreatedSlot, SlotKind, SnapshotAction, Walsender, publication, slot};

/// A slot waits for every running transaction of the server that has written. After so long it is given up and tried
/// again, so that a move never holds a slot for nothing.
const SLOT_MAX: Duration = Duration::from_secs(120);
const TELL_EVERY: Duration = Duration::from_millis(500);

impl Hands {
    pub(super) async fn preflight(&mut self) -> Result<Outcome, EffectError> {
        let source = self.session(Side::Source).await?;
        let destination = self.session(Side::Destination).await?;
        self.owner.serving(&source).await?;
        let column = self.context.settings.tenant_column.clone();
        let checked = preflight::check(&source, &destination, &column, &self.tenant).await?;
        for warning in &checked.warnings {
            tracing::warn!(move_id = %self.row.id, warning, "preflight");
        }
        self.tell(|progress| progress.bytes_estimate = checked.bytes_estimate);
        Ok(Outcome::Done)
    }

    /// Begins anew, whatever an earlier try left.
    pub(super) async fn prepare_destination(&mut self) -> Result<Outcome, EffectError> {
        self.regulate().await?;
        self.drop_made_on(Side::Source).await?;
        self.drop_made_on(Side::Destination).await?;
        let source = self.session(Side::Source).await?;
        let destination = self.session(Side::Destination).await?;
        let epoch = self.owner.serving(&source).await?;
        self.owner.begin_import(&destination, epoch).await?;
        self.delete_import().await?;
        self.owner.forget_move(&destination).await?;
        self.tell(|progress| {
            progress.tables.clear();
            progress.copied_rows = 0;
            progress.copied_bytes = 0;
        });
        Ok(Outcome::Done)
    }

    /// Deletes the tenant's rows at the destination, which imports it.
    pub(super) async fn delete_import(&mut self) -> Result<(), EffectError> {
        let warrant = Warrant {
            tenant: self.tenant.clone(),
            move_id: self.row.id.0,
            standing: Standing::Importing,
        };
        let tables = self.tables().await?;
        let endpoint = self.endpoint(Side::Destination).await?;
        let (deleted, _) = tokio::sync::watch::channel(0);
        delete_tenant(&endpoint, &tables, &warrant, &self.throttle, &deleted).await?;
        Ok(())
    }

    /// Drops slots and publications of this move on one shard.
    pub(super) async fn drop_made_on(&mut self, side: Side) -> Result<(), EffectError> {
        let client = self.session(side).await?;
        for name in [&self.row.names.forward, &self.row.names.reverse] {
            slot::drop(&client, name).await?;
            publication::drop(&client, name).await?;
        }
        slot::drop(&client, &self.temporary_slot()).await?;
        Ok(())
    }

    pub(super) fn temporary_slot(&self) -> String {
        format!("{}_t", self.row.names.forward)
    }

    pub(super) async fn create_publication(&mut self) -> Result<Outcome, EffectError> {
        let tables = self.tables().await?;
        let client = self.session(Side::Source).await?;
        let name = &self.row.names.forward;
        publication::create(&client, name, &tables.tables, &self.tenant).await?;
        Ok(Outcome::Done)
    }

    pub(super) async fn create_slot(&mut self) -> Result<Outcome, EffectError> {
        let client = self.session(Side::Source).await?;
        slot::drop(&client, &self.row.names.forward).await?;
        let name = self.row.names.forward.clone();
        self.slot = Some(
            self.snapshot_slot(Side::Source, &name, SlotKind::Permanent)
                .await?,
        );
        Ok(Outcome::Done)
    }

    /// A slot with an exported snapshot, for as long as the walsender is kept.
    pub(super) async fn snapshot_slot(
        &self,
        side: Side,
        name: &str,
        kind: SlotKind,
    ) -> Result<(Walsender, CreatedSlot), EffectError> {
        self.waits_for("transactions of this server that have written, whoever's: the slot begins when all that run now have ended");
        let mut walsender = Walsender::connect(&self.endpoint(side).await?).await?;
        let cancel = walsender.cancel_token();
        let created = walsender.create_slot(name, kind, SnapshotAction::Export);
        match timeout(SLOT_MAX, created).await {
            Ok(created) => Ok((walsender, created?)),
            Err(_elapsed) => {
                cancel.cancel().await?;
                Err(EffectError::NotYet(
                    "a transaction on the server runs for so long that no slot can begin"
                        .to_owned(),
                ))
            }
        }
    }

    pub(super) async fn copy(&mut self) -> Result<Outcome, EffectError> {
        self.regulate().await?;
        // Without the exporting session the snapshot is gone, and with it what the slot begins at.
        let Some((walsender, created)) = self.slot.take() else {
            return Err(EffectError::Stale(
                "the snapshot of the copy ended with the process that held it".to_owned(),
            ));
        };
        let snapshot = created
            .snapshot
            .clone()
            .ok_or_else(|| EffectError::Stale("the slot has no snapshot".to_owned()))?;
        let job = CopyJob {
            source: self.endpoint(Side::Source).await?,
            destination: self.endpoint(Side::Destination).await?,
            tables: (*self.tables().await?).clone(),
            tenant: self.tenant.clone(),
            move_id: self.row.id.0,
            snapshot,
            snapshot_lsn: PgLsn::from(created.consistent_point.0),
            throttle: std::sync::Arc::clone(&self.throttle),
            options: CopyOptions::default(),
        };
        let copier = Copier::open(job).await?;
        drop(walsender);
        let mut progress = copier.progress();
        let cancel = CancellationToken::new();
        let mut copying = std::pin::pin!(copier.run(&cancel));
        let started = std::time::Instant::now();
        let report = loop {
            tokio::select! {
                report = &mut copying => break report,
                () = tokio::time::sleep(TELL_EVERY) => {
                    self.tell_copied(&progress.borrow_and_update(), started);
                }
            }
        };
        self.tell_copied(&progress.borrow_and_update(), started);
        report?;
        Ok(Outcome::Done)
    }

    fn tell_copied(&self, copied: &CopyProgress, started: std::time::Instant) {
        let fraction = copied.fraction();
        self.tell(|progress| {
            progress.tables = copied
                .tables
                .iter()
                .map(|table| TableProgress {
                    table: table.relation.clone(),
                    rows: table.rows,
                    bytes: table.bytes,
                    rows_estimate: table.rows_estimated,
                    done: table.complete(),
                })
                .collect();
            progress.copied_rows = copied.rows();
            progress.copied_bytes = copied.bytes();
            progress.bytes_estimate = copied.tables.iter().map(|one| one.bytes_estimated).sum();
            let elapsed = started.elapsed().as_secs_f64();
            progress.eta_s =
                (fraction > 0.0).then(|| elapsed * (1.0 - fraction).max(0.0) / fraction);
        });
    }

    pub(super) async fn analyze(&mut self) -> Result<Outcome, EffectError> {
        let tables = self.tables().await?;
        copy::analyze(&self.endpoint(Side::Destination).await?, &tables.tables).await?;
        Ok(Outcome::Done)
    }

    /// Ends by a command only.
    pub(super) async fn await_switch(&mut self) -> Result<Outcome, EffectError> {
        self.ensure_applier(crate::apply::Direction::Forward)
            .await?;
        self.waits_for("an operator's word: `tenantry move switch`");
        self.watch_applier(crate::apply::Direction::Forward).await
    }
}
