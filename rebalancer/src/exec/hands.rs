//! What carries effects out: sessions with both shards, the streams, and what a cutover has drawn.
//!
//! Effects are idempotent: each looks at what is there before it changes anything, because another process may have begun
//! it. One method per effect, in `before`, `streams`, `cutover` and `after`, by the part of the move they belong to.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tenantry_schema::catalog::Catalog;
use tenantry_schema::catalog::moves::{Move, MoveProgress, MoveState, Side};
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::shard::ShardId;
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cutover::Attempt;
use super::failure::EffectError;
use super::owner::Owner;
use crate::Config;
use crate::apply::{ApplierHandle, Direction};
use crate::machine::invariants::Owners;
use crate::machine::{Effect, Outcome};
use crate::replication::{CreatedSlot, Walsender};
use crate::routers::{ControlledRouter, Routers};
use crate::shard::{ShardEndpoint, connect};
use crate::tables::{self, TenantTables};
use crate::throttle::{Limits, Regulator, Throttle};

/// What all moves of a process share.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) catalog: Catalog,
    pub(crate) settings: FleetSettings,
    /// `None`: the secrets file has no control token; clients find a tenant by meeting its fence.
    pub(crate) routers: Option<Routers>,
}

impl Context {
    /// The catalog over another connection: what waits there holds up no move.
    pub(crate) fn catalog_of_its_own(&self) -> Catalog {
        Catalog::lazy(&self.config.catalog_url).unwrap_or_else(|_| self.catalog.clone())
    }
}

/// Everything a move holds while one process works on it.
pub(super) struct Hands {
    pub(super) context: Arc<Context>,
    pub(super) row: Move,
    pub(super) tenant: String,
    pub(super) owner: Owner,
    sessions: [Option<Arc<Client>>; 2],
    tables: Option<Arc<TenantTables>>,
    /// The exporting session lives as long as its snapshot is needed.
    pub(super) slot: Option<(Walsender, CreatedSlot)>,
    pub(super) forward: Option<ApplierHandle>,
    pub(super) reverse: Option<ApplierHandle>,
    /// Those that were told of the cutover.
    pub(super) informed: Vec<ControlledRouter>,
    pub(super) attempt: Option<Attempt>,
    /// Advances sequences at the side that the tenant goes to.
    pub(super) sequencer: Option<Client>,
    pub(super) throttle: Arc<Throttle>,
    regulated: Option<DropGuard>,
    progress: Arc<Mutex<MoveProgress>>,
}

impl Hands {
    pub(super) fn new(context: Arc<Context>, row: &Move) -> Self {
        let tenant = row.tenant.display(context.settings.tenant_key).to_string();
        let owner = Owner {
            tenant: tenant.clone(),
            key: context.settings.tenant_key,
            move_id: row.id.0,
        };
        Self {
            tenant,
            owner,
            sessions: [None, None],
            tables: None,
            slot: None,
            forward: None,
            reverse: None,
            informed: Vec::new(),
            attempt: None,
            sequencer: None,
            throttle: Arc::new(Throttle::off()),
            regulated: None,
            progress: Arc::new(Mutex::new(row.progress.clone())),
            row: row.clone(),
            context,
        }
    }

    /// Carries one effect out.
    pub(super) async fn perform(&mut self, effect: Effect) -> Outcome {
        let done = match effect {
            Effect::Preflight => self.preflight().await,
            Effect::PrepareDestination => self.prepare_destination().await,
            Effect::CreatePublication => self.create_publication().await,
            Effect::CreateSlot => self.create_slot().await,
            Effect::Copy => Box::pin(self.copy()).await,
            Effect::Analyze => self.analyze().await,
            Effect::CatchUp => self.catch_up().await,
            Effect::Verify => Box::pin(self.verify(Direction::Forward)).await,
            Effect::PrepareReverse => self.prepare_reverse().await,
            Effect::AwaitSwitch => self.await_switch().await,
            Effect::Prewarm { to } => self.prewarm(to).await,
            Effect::AwaitGate { to } => self.await_gate(to).await,
            Effect::Hold { to, epoch } => self.hold(to, epoch).await,
            Effect::Fence { to, epoch } => self.fence(to, epoch).await,
            Effect::AwaitMarker { to, .. } => self.await_marker(to).await,
            Effect::AdvanceSequences { to, .. } => self.advance_sequences(to).await,
            Effect::HandOver { to, epoch } => self.hand_over(to, epoch).await,
            Effect::Activate { to, epoch } => self.activate(to, epoch).await,
            Effect::Release { at, epoch } => self.release(at, epoch).await,
            Effect::Unfence { to } => self.unfence(to).await,
            Effect::DropForward => self.drop_forward().await,
            Effect::StartReverse => self.start_reverse().await,
            Effect::VerifyFinal => Box::pin(self.verify(Direction::Reverse)).await,
            Effect::AwaitProbation => self.await_probation().await,
            Effect::DropObjects => self.drop_objects().await,
            Effect::Clean { side } => self.clean(side).await,
            Effect::DropImport => self.drop_import().await,
            Effect::Forget => self.forget().await,
        };
        done.unwrap_or_else(|error| Outcome::Failed(error.into_failure()))
    }

    /// The move is here now and does this next.
    pub(super) fn enter(&mut self, row: &Move, doing: Option<Effect>) {
        self.row = row.clone();
        if row.status.state == MoveState::Prepared {
            // What an earlier try had is of no use.
            self.forward = None;
            self.slot = None;
        }
        let mut progress = self.progress.lock();
        progress.doing = doing.map(|effect| effect.name().to_owned());
        progress.waiting = None;
        progress.eta_s = None;
        progress.retry_at = None;
    }

    pub(super) fn progress(&self) -> MoveProgress {
        self.progress.lock().clone()
    }

    pub(super) fn shared_progress(&self) -> Arc<Mutex<MoveProgress>> {
        Arc::clone(&self.progress)
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut MoveProgress)) {
        change(&mut self.progress.lock());
    }

    pub(super) fn waits_for(&self, what: impl Into<String>) {
        self.progress.lock().waiting = Some(what.into());
    }

    pub(super) fn failed(&mut self, reason: &str) {
        self.progress.lock().failure = Some(reason.to_owned());
        if let Some(attempt) = &mut self.attempt {
            // The first: what follows from it fails too.
            attempt.failure.get_or_insert_with(|| reason.to_owned());
        }
    }

    pub(super) fn succeeded(&self) {
        let mut progress = self.progress.lock();
        progress.failure = None;
        progress.retry_at = None;
    }

    pub(super) fn wait_until(&self, at: Timestamp) {
        self.progress.lock().retry_at = Some(at);
    }

    /// Ends the streams, so that another process finds slots and rows at rest.
    pub(super) async fn stop(&mut self) {
        self.regulated = None;
        for applier in [self.forward.take(), self.reverse.take()]
            .into_iter()
            .flatten()
        {
            if let Err(error) = applier.stop().await {
                tracing::debug!(%error, "an applier had ended");
            }
        }
    }

    /// Where a shard is, as the catalog knows it now.
    pub(super) async fn endpoint(&self, side: Side) -> Result<ShardEndpoint, EffectError> {
        let id = self.row.shard(side);
        endpoint(&self.context, id).await
    }

    pub(super) async fn session(&mut self, side: Side) -> Result<Arc<Client>, EffectError> {
        let at = usize::from(side == Side::Destination);
        if let Some(client) = &self.sessions[at]
            && !client.is_closed()
        {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(connect(&self.endpoint(side).await?).await?);
        self.sessions[at] = Some(Arc::clone(&client));
        Ok(client)
    }

    /// The tenant's tables as the source has them; the destination has the same, see preflight.
    pub(super) async fn tables(&mut self) -> Result<Arc<TenantTables>, EffectError> {
        if let Some(tables) = &self.tables {
            return Ok(Arc::clone(tables));
        }
        let column = self.context.settings.tenant_column.clone();
        let client = self.session(Side::Source).await?;
        let tables = Arc::new(tables::read(&client, &column).await?);
        self.tables = Some(Arc::clone(&tables));
        Ok(tables)
    }

    pub(super) async fn owners(&mut self) -> Result<Owners, EffectError> {
        let source = self.session(Side::Source).await?;
        let destination = self.session(Side::Destination).await?;
        Ok(Owners {
            source: self.owner.read(&source).await?,
            destination: self.owner.read(&destination).await?,
        })
    }

    /// From here on what the move reads and writes is bounded by what the shards' other tenants feel.
    pub(super) async fn regulate(&mut self) -> Result<(), EffectError> {
        if self.row.policy.unthrottled || self.regulated.is_some() {
            return Ok(());
        }
        let shards = [
            self.endpoint(Side::Source).await?,
            self.endpoint(Side::Destination).await?,
        ];
        let regulator = Regulator::prepare(&shards, Limits::default()).await?;
        let stop = CancellationToken::new();
        let progress = self.shared_progress();
        let moved = move || {
            let progress = progress.lock();
            progress.copied_bytes
        };
        tokio::spawn(regulator.run(Arc::clone(&self.throttle), moved, stop.clone()));
        self.regulated = Some(stop.drop_guard());
        Ok(())
    }
}

/// Where a shard is, with the password of the rebalancer's role there.
pub(crate) async fn endpoint(context: &Context, id: ShardId) -> Result<ShardEndpoint, EffectError> {
    let shards = context.catalog.list_shards().await?;
    let shard = shards.into_iter().find(|shard| shard.id == id);
    let shard = shard.ok_or_else(|| EffectError::Refused(format!("shard {id} does not exist")))?;
    let secrets = SecretsFile::load(&context.config.secrets_file)
        .map_err(|error| EffectError::NotYet(error.to_string()))?;
    let own = secrets.shard(shard.name.as_str());
    let own = own.ok_or_else(|| {
        EffectError::NotYet(format!("the secrets file has no shard {}", shard.name))
    })?;
    Ok(ShardEndpoint::new(shard, own))
}
