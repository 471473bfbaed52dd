//! Which moves are worked on: those of the catalog that are not over, by the one rebalancer that leads.
//!
//! Moves that are under way go on first, whatever the limits; planned ones wait for their shards. A command wakes its
//! move. When the lead ends, every task ends with it and leaves its move where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::catalog::CatalogError;
use tenantry_schema::catalog::moves::{AskedCommand, Move, MoveFilter, MoveId, MoveState};
use tenantry_schema::shard::ShardId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::exec::{Context, MoveTask, TaskError};
use crate::fleet::{self, FleetWork};
use crate::janitor;
use crate::leader::{Candidate, Lead};
use crate::takeover;

/// The safety net below notifications.
const POLL: Duration = Duration::from_secs(1);
/// Between two looks at what no live move owns.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Commands of one move that wait to be heard.
const COMMANDS_MAX: usize = 16;

/// Stands for the lead, and works while it has it.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut candidate = Candidate::new(context.catalog_of_its_own(), context.config.lease);
    let (leads, leading) = watch::channel(None);
    let work = FleetWork {
        catalog: context.catalog_of_its_own(),
        secrets_file: context.config.secrets_file.clone(),
        policy: context.config.policy.clone(),
    };
    let fleet_work = tokio::spawn(fleet::run(work, leading, shutdown.clone()));
    let mut is_away = false;
    while !shutdown.is_cancelled() {
        match candidate.ask().await {
            Ok(Some(lead)) => {
                is_away = false;
                tracing::info!(epoch = %lead.epoch, "leading the moves of the fleet");
                takeover::end_earlier_sessions(&context).await;
                leads.send_replace(Some(lead.epoch));
                serve(&context, &mut candidate, &lead, &shutdown).await;
                leads.send_replace(None);
                tracing::info!(epoch = %lead.epoch, "leading no more");
            }
            Ok(None) => is_away = false,
            Err(error) if is_away => tracing::debug!(%error, "the catalog does not answer yet"),
            Err(error) => {
                is_away = true;
                tracing::warn!(%error, "the catalog does not answer: no moves are worked on");
            }
        }
        shutdown
            .run_until_cancelled(sleep(candidate.interval()))
            .await;
    }
    if let Err(error) = candidate.give_back().await {
        tracing::debug!(%error, "the lead is not given back: it ends by itself");
    }
    if let Err(error) = fleet_work.await {
        tracing::error!(%error, "work on the fleet ended badly");
    }
}

/// Works as the leader until the lead is lost.
async fn serve(
    context: &Arc<Context>,
    candidate: &mut Candidate,
    lead: &Lead,
    shutdown: &CancellationToken,
) {
    let stop = shutdown.child_token();
    let mut work = std::pin::pin!(work(context, lead, &stop));
    tokio::select! {
        () = &mut work => return,
        () = prolong(candidate, lead) => {}
        () = lead.lost() => {}
        () = shutdown.cancelled() => {}
    }
    stop.cancel();
    work.await;
}

/// Keeps the lead for as long as it can be kept.
async fn prolong(candidate: &mut Candidate, lead: &Lead) {
    loop {
        sleep(candidate.interval()).await;
        match candidate.ask().await {
            Ok(Some(now)) if now.epoch == lead.epoch => {}
            Ok(_) => return,
            // It lasts until its end.
            Err(error) => tracing::debug!(%error, "the lead is not prolonged"),
        }
    }
}

/// The tasks of one lead.
struct Tasks {
    running: BTreeMap<MoveId, Running>,
    ended: JoinSet<(MoveId, Result<MoveState, TaskError>)>,
    /// Commands that were handed to a task.
    heard: BTreeSet<i64>,
}

struct Running {
    shards: [ShardId; 2],
    commands: mpsc::Sender<AskedCommand>,
}

async fn work(context: &Arc<Context>, lead: &Lead, stop: &CancellationToken) {
    let mut tasks = Tasks {
        running: BTreeMap::new(),
        ended: JoinSet::new(),
        heard: BTreeSet::new(),
    };
    let mut watch = None;
    let mut sweep_at = Instant::now();
    while !stop.is_cancelled() {
        if watch.is_none() {
            watch = context.catalog.watch_moves().await.ok();
        }
        if let Err(error) = tasks.match_catalog(context, lead).await {
            tracing::debug!(%error, "the catalog does not answer: what runs goes on");
        }
        if Instant::now() >= sweep_at {
            sweep_at = Instant::now() + SWEEP_EVERY;
            janitor::sweep(context).await;
        }
        let hears = tokio::select! {
            () = stop.cancelled() => true,
            () = sleep(POLL) => true,
            Some(ended) = tasks.ended.join_next() => {
                if let Ok((id, outcome)) = ended {
                    tasks.forget(id, &outcome);
                }
                true
            }
            hears = async {
                match &watch {
                    Some(watch) => watch.woken().await,
                    None => std::future::pending().await,
                }
            } => hears,
        };
        if !hears {
            watch = None;
        }
    }
    // A task ends where it stands; its move is the next leader's.
    tasks.ended.shutdown().await;
}

impl Tasks {
    async fn match_catalog(
        &mut self,
        context: &Arc<Context>,
        lead: &Lead,
    ) -> Result<(), CatalogError> {
        let mut live = context.catalog.moves(&MoveFilter::live()).await?;
        let commands = context.catalog.pending_move_commands().await?;
        // Oldest first; what is under way before what waits.
        live.sort_by_key(|one| (one.status.state == MoveState::Planned, one.created_at));
        for row in live {
            let is_asked = commands.iter().any(|command| command.of == row.id);
            if !self.running.contains_key(&row.id) && (is_asked || self.may_start(context, &row)) {
                self.start(context, lead, row);
            }
        }
        for command in commands {
            if self.heard.contains(&command.id) {
                continue;
            }
            if let Some(running) = self.running.get(&command.of) {
                let id = command.id;
                if running.commands.try_send(command).is_ok() {
                    self.heard.insert(id);
                }
            }
        }
        Ok(())
    }

    fn may_start(&self, context: &Context, row: &Move) -> bool {
        if row.status.state != MoveState::Planned {
            return true;
        }
        let config = &context.config;
        let at = |shard: ShardId| {
            let running = self.running.values();
            running.filter(|one| one.shards.contains(&shard)).count()
        };
        self.running.len() < config.moves_max
            && at(row.source) < config.moves_per_shard_max
            && at(row.destination) < config.moves_per_shard_max
    }

    fn start(&mut self, context: &Arc<Context>, lead: &Lead, row: Move) {
        let (commands, heard) = mpsc::channel(COMMANDS_MAX);
        let (id, shards) = (row.id, [row.source, row.destination]);
        let task = MoveTask::new(Arc::clone(context), lead.clone(), row, heard);
        self.ended
            .spawn(async move { (id, Box::pin(task.run()).await) });
        self.running.insert(id, Running { shards, commands });
    }

    fn forget(&mut self, id: MoveId, outcome: &Result<MoveState, TaskError>) {
        self.running.remove(&id);
        match outcome {
            Ok(state) => tracing::info!(move_id = %id, %state, "a move is over"),
            // Started again at the next look, from what the catalog has.
            Err(error) => tracing::warn!(move_id = %id, %error, "a move's task ended"),
        }
        // What it had heard and not followed is handed out again.
        self.heard.clear();
    }
}
