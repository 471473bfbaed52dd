//! One trial: a move under load, one fault at one step, and what came of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tenantry_schema::catalog::moves::{
    Move, MoveCommand, MoveId, MovePolicy, MoveState, NewMove, SwitchPolicy,
};

use super::left;
use super::matrix::{Course, Fault, Point};
use super::world::World;
use crate::moves::clients::Done;
use crate::moves::ledger::{self, Differences};
use crate::moves::storm::{Load, Storm};

const ACTOR: &str = "tenantry-bench";
const PER_SECOND: f64 = 60.0;
/// Longest that a move may take to its end after the fault.
const END_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// What came of a trial.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) point: Point,
    pub(super) fault: Fault,
    /// The state at the end; an error if there was none, or the point was not reached.
    pub(super) end: Result<MoveState, String>,
    /// From the fault to the end, seconds.
    pub(super) took_s: f64,
    /// What was left behind.
    pub(super) left: Vec<String>,
    pub(super) differences: Differences,
    /// Errors of clients that the fault does not explain.
    pub(super) errors: Vec<String>,
    pub(super) transactions: u64,
}

impl Trial {
    pub(super) fn holds(&self) -> bool {
        self.end.is_ok()
            && self.left.is_empty()
            && self.differences.all() == 0
            && self.errors.is_empty()
    }
}

/// Makes one trial; `number` is its own.
pub(super) async fn run(
    world: &mut World,
    number: i32,
    point: Point,
    fault: Fault,
    seed: u64,
) -> anyhow::Result<Trial> {
    let load = Load {
        per_second: PER_SECOND,
        noisy: 0,
    };
    let storm = Storm::start(&world.bed, load, number * 100, seed);
    let mut struck = Instant::now();
    let end = attempt(world, point, fault, &mut struck).await;
    let took_s = struck.elapsed().as_secs_f64();
    world.end_rebalancer().await?;
    let done = storm.stop().await?;
    let errors = unexplained(&done.own, fault);
    let transactions = done.own.iter().map(|one| one.samples.len() as u64).sum();
    for client in done.own {
        world.ledgers.insert(client.number, client.ledger);
    }
    let home = world.bed.home().await?;
    let there = world.bed.shard(home)?.admin().await?;
    let tenant = world.bed.fleet.id_text(world.bed.tenant);
    Ok(Trial {
        point,
        fault,
        end: end.map_err(|error| format!("{error:#}")),
        took_s,
        left: left::look(&world.bed).await?,
        differences: ledger::compare(&there, &tenant, &world.ledgers).await?,
        errors,
        transactions,
    })
}

async fn attempt(
    world: &mut World,
    point: Point,
    fault: Fault,
    struck: &mut Instant,
) -> anyhow::Result<MoveState> {
    let home = world.bed.home().await?;
    world.start_rebalancer(Some(point))?;
    let id = order(world, point.course).await?;
    match point.course {
        Course::There => {}
        Course::Back => {
            until(world, id, |state| state == MoveState::Probation).await?;
            ask(world, id, MoveCommand::Reverse).await?;
        }
        Course::Cancelled => {
            until(world, id, |state| state == MoveState::Ready).await?;
            ask(world, id, MoveCommand::Cancel).await?;
        }
    }
    world.reached().await.context("the point was not reached")?;
    *struck = Instant::now();
    world.strike(fault, home).await?;
    let end = until(world, id, MoveState::is_final).await?;
    Ok(end.status.state)
}

async fn order(world: &World, course: Course) -> anyhow::Result<MoveId> {
    let bed = &world.bed;
    let home = bed.home().await?;
    let other = bed.fleet.shards().iter().find(|shard| shard.id() != home);
    let other = other.context("there is no other shard")?.id();
    let mut order = NewMove::new(bed.tenant, other, ACTOR);
    order.policy = MovePolicy {
        switch: match course {
            Course::Cancelled => SwitchPolicy::Manual,
            Course::There | Course::Back => SwitchPolicy::Auto,
        },
        probation_s: Some(if course == Course::Back { 3600 } else { 1 }),
        ..MovePolicy::default()
    };
    Ok(bed.fleet.catalog().create_move(&order).await?.id)
}

async fn ask(world: &World, id: MoveId, command: MoveCommand) -> anyhow::Result<()> {
    let catalog = world.bed.fleet.catalog();
    catalog.ask_move(id, command, ACTOR).await?;
    Ok(())
}

async fn until(
    world: &World,
    id: MoveId,
    is_there: impl Fn(MoveState) -> bool,
) -> anyhow::Result<Move> {
    let deadline = Instant::now() + END_MAX;
    loop {
        // The catalog itself may be what is broken.
        match world.bed.fleet.catalog().move_by_id(id).await {
            Ok(now) if is_there(now.status.state) => return Ok(now),
            Ok(now) => ensure!(
                Instant::now() < deadline && !now.status.state.is_final(),
                "the move is {}, {:?}, {:?}",
                now.status.state,
                now.status.error,
                now.progress
            ),
            Err(error) => ensure!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What clients were told that they would not have been told for this fault without a move.
fn unexplained(clients: &[Done], fault: Fault) -> Vec<String> {
    if fault.hits_clients() {
        return Vec::new();
    }
    let errors = clients.iter().flat_map(|client| &client.errors);
    errors.map(|(_, told)| told.clone()).collect()
}
