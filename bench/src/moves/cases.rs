//! The cases: how busy the tenant is and who else works, and one run of each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use jiff::Timestamp;
use tenantry_schema::catalog::moves::{
    HoldReport, Move, MoveCommand, MoveId, MovePolicy, MoveState, NewMove, SwitchPolicy,
};
use tenantry_schema::shard::ShardId;
use tokio_postgres::Client;

use super::Args;
use super::bed::Bed;
use super::clients::{Done, Sample, percentile};
use super::ledger::{self, Differences};
use super::storm::{Finished, Load, Storm};
use crate::part::Part;
use crate::rebalancer::Wanted;

const ACTOR: &str = "tenantry-bench";
/// Longest that one move may take here.
const MOVE_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(10);
/// Work before anything is measured.
const WARM_UP: Duration = Duration::from_secs(3);
/// Length of the measurement without a move.
const BASELINE: Duration = Duration::from_secs(8);
const PROBATION_S: u64 = 1;
/// What belongs to a cutover on both sides of what the rebalancer reports, because clocks are read at different moments.
const MARGIN: Duration = Duration::from_millis(10);
/// Rows of the transaction that is in flight.
const LARGE_ROWS: u32 = 400_000;

/// A case of this scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// 600 transactions a second.
    Steady,
    /// 1,300 transactions a second.
    Busy,
    /// 600, and eight clients of other tenants that never wait.
    Noisy,
    /// 600, and another tenant's transaction of 400,000 rows in flight at the cutover.
    Large,
    /// 600, and each move is taken back after its cutover.
    Reverse,
}

impl Kind {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Steady => "600 per second",
            Self::Busy => "1,300 per second",
            Self::Noisy => "600 per second, 8 noisy clients",
            Self::Large => "600 per second, 400,000 rows in flight",
            Self::Reverse => "600 per second, there and back",
        }
    }

    fn load(self) -> Load {
        Load {
            per_second: if self == Self::Busy { 1300.0 } else { 600.0 },
            noisy: if self == Self::Noisy { 8 } else { 0 },
        }
    }

    fn of(args: &Args) -> Vec<Self> {
        match args.only {
            Some(kind) => vec![kind],
            None if args.quick => vec![Self::Steady, Self::Reverse],
            None => Self::value_variants().to_vec(),
        }
    }
}

/// One cutover.
#[derive(Debug, Clone)]
pub(super) struct Cutover {
    pub(super) report: HoldReport,
    /// The longest that a client of the tenant waited for an answer around it, milliseconds.
    pub(super) client_ms: f64,
}

/// What one case showed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) kind: Kind,
    pub(super) cutovers: Vec<Cutover>,
    /// Attempts that gave up within their budget and were repeated.
    pub(super) given_up: Vec<HoldReport>,
    /// Median and p99 of the tenant's transactions without a move and during moves, microseconds.
    pub(super) own: [(f64, f64); 2],
    /// p95 of the neighbours' without a move and during moves, microseconds.
    pub(super) others: [f64; 2],
    pub(super) transactions: u64,
    pub(super) errors: Vec<String>,
    pub(super) differences: Differences,
    /// Rows of the tenant that are left where it does not live.
    pub(super) left: i64,
    /// From the order to its end, seconds, of each move.
    pub(super) took_s: Vec<f64>,
}

/// Runs the cases that are asked for.
pub(super) async fn run(args: &Args) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for kind in Kind::of(args) {
        let case = Case::start(args, kind).await?;
        let outcome = case.run(args).await;
        outcomes.push(outcome.with_context(|| format!("case {}", kind.title()))?);
    }
    Ok(outcomes)
}

struct Case {
    kind: Kind,
    bed: Bed,
    rebalancer: Part,
    /// The clock of the catalog's timestamps and that of samples, read at one moment.
    clocks: (Timestamp, Instant),
    moves: Vec<(Instant, Instant, Move)>,
}

impl Case {
    async fn start(args: &Args, kind: Kind) -> anyhow::Result<Self> {
        let bed = Bed::start(args.rows(), args.without).await?;
        let rebalancer = Wanted::new(&bed.fleet)
            .without(args.without)
            .start(bed.folder.path())?;
        Ok(Self {
            kind,
            bed,
            rebalancer,
            clocks: (Timestamp::now(), Instant::now()),
            moves: Vec::new(),
        })
    }

    async fn run(mut self, args: &Args) -> anyhow::Result<Outcome> {
        let storm = Storm::start(&self.bed, self.kind.load(), 1, args.seed);
        tokio::time::sleep(WARM_UP).await;
        let quiet = Instant::now();
        tokio::time::sleep(BASELINE).await;
        let quiet = (quiet, Instant::now());
        let wanted = args.cutovers();
        while self.cutovers_made() < wanted {
            ensure!(
                self.rebalancer.is_alive()?,
                "the rebalancer ended by itself"
            );
            self.one_move().await?;
        }
        let done = storm.stop().await?;
        self.outcome(quiet, done).await
    }

    fn cutovers_made(&self) -> usize {
        let reports = self
            .moves
            .iter()
            .flat_map(|(_, _, one)| &one.progress.holds);
        reports.filter(|report| report.committed).count()
    }

    /// Moves the tenant to the other shard; in the case of that name also back.
    async fn one_move(&mut self) -> anyhow::Result<()> {
        let from = Instant::now();
        let home = self.bed.home().await?;
        let id = self.order(home).await?;
        match self.kind {
            Kind::Reverse => {
                self.until(id, &[MoveState::Probation]).await?;
                self.ask(id, MoveCommand::Reverse).await?;
                self.until(id, &[MoveState::RolledBack]).await?;
            }
            Kind::Large => {
                self.until(id, &[MoveState::Ready]).await?;
                let large = self.large_transaction(home).await?;
                self.ask(id, MoveCommand::Switch).await?;
                self.until(id, &[MoveState::Committed, MoveState::Probation])
                    .await?;
                large.batch_execute("ROLLBACK").await?;
                self.until(id, &[MoveState::Done]).await?;
            }
            _ => self.until(id, &[MoveState::Done]).await?,
        }
        let finished = self.bed.fleet.catalog().move_by_id(id).await?;
        self.moves.push((from, Instant::now(), finished));
        Ok(())
    }

    async fn order(&self, home: ShardId) -> anyhow::Result<MoveId> {
        let shards = self.bed.fleet.shards().iter();
        let other = shards.map(tenantry_testkit::FleetShard::id);
        let other = other
            .into_iter()
            .find(|id| *id != home)
            .context("there is no other shard")?;
        let mut order = NewMove::new(self.bed.tenant, other, ACTOR);
        order.policy = MovePolicy {
            switch: if self.kind == Kind::Large {
                SwitchPolicy::Manual
            } else {
                SwitchPolicy::Auto
            },
            probation_s: Some(if self.kind == Kind::Reverse {
                3600
            } else {
                PROBATION_S
            }),
            ..MovePolicy::default()
        };
        Ok(self.bed.fleet.catalog().create_move(&order).await?.id)
    }

    async fn ask(&self, id: MoveId, command: MoveCommand) -> anyhow::Result<()> {
        let catalog = self.bed.fleet.catalog();
        catalog.ask_move(id, command, ACTOR).await?;
        Ok(())
    }

    /// Waits until the move is in one of these states.
    async fn until(&self, id: MoveId, states: &[MoveState]) -> anyhow::Result<()> {
        let deadline = Instant::now() + MOVE_MAX;
        loop {
            let now = self.bed.fleet.catalog().move_by_id(id).await?;
            if states.contains(&now.status.state) {
                return Ok(());
            }
            if now.status.state.is_final() {
                bail!("the move is {}: {:?}", now.status.state, now.status.error);
            }
            ensure!(
                Instant::now() < deadline,
                "the move is still {}: {:?}",
                now.status.state,
                now.progress
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Another tenant's transaction with all its rows written and its end to come.
    async fn large_transaction(&self, home: ShardId) -> anyhow::Result<Client> {
        let admin = self.bed.shard(home)?.admin().await?;
        let neighbour = self
            .bed
            .neighbours
            .last()
            .context("there is no neighbour")?;
        let id = self.bed.fleet.id_text(*neighbour);
        // Its home need not be this shard: the rows are never committed.
        let insert = format!(
            "BEGIN; SET LOCAL session_replication_role = replica; \
             INSERT INTO entries (tenant_id, client, seq, account, amount) \
             SELECT {id}, -2, i, 1, 0 FROM generate_series(1, {LARGE_ROWS}) i"
        );
        admin.batch_execute(&insert).await?;
        Ok(admin)
    }

    async fn outcome(self, quiet: (Instant, Instant), done: Finished) -> anyhow::Result<Outcome> {
        let during = |sample: &&Sample| {
            let mut moves = self.moves.iter();
            moves.any(|(from, until, _)| sample.came >= *from && sample.came < *until)
        };
        let before = |sample: &&Sample| sample.came >= quiet.0 && sample.came < quiet.1;
        let own: Vec<Sample> = samples(&done.own);
        let others: Vec<Sample> = samples(&done.others);
        let both = |part: f64| {
            [
                percentile(own.iter().filter(before), part),
                percentile(own.iter().filter(during), part),
            ]
        };
        let (median, worst) = (both(0.5), both(0.99));
        let (cutovers, given_up) = self.cutovers(&own);
        let home = self.bed.home().await?;
        let tenant = self.bed.fleet.id_text(self.bed.tenant);
        let ledgers: BTreeMap<_, _> = done
            .own
            .iter()
            .map(|client| (client.number, client.ledger.clone()))
            .collect();
        let there = self.bed.shard(home)?.admin().await?;
        let differences = ledger::compare(&there, &tenant, &ledgers).await?;
        let mut left = 0;
        for shard in self
            .bed
            .fleet
            .shards()
            .iter()
            .filter(|one| one.id() != home)
        {
            left += ledger::contents(&shard.admin().await?, &tenant).await?.0;
        }
        let errors = done.own.iter().chain(&done.others).chain(&done.noisy);
        Ok(Outcome {
            kind: self.kind,
            cutovers,
            given_up,
            own: [(median[0], worst[0]), (median[1], worst[1])],
            others: [
                percentile(others.iter().filter(before), 0.95),
                percentile(others.iter().filter(during), 0.95),
            ],
            transactions: own.len() as u64,
            errors: errors
                .flat_map(|client| client.errors.iter().map(|(_, told)| told.clone()))
                .collect(),
            differences,
            left,
            took_s: self
                .moves
                .iter()
                .map(|(from, until, _)| (*until - *from).as_secs_f64())
                .collect(),
        })
    }

    /// Each cutover with what the tenant's clients saw of it, and the attempts that were given up.
    fn cutovers(&self, own: &[Sample]) -> (Vec<Cutover>, Vec<HoldReport>) {
        let reports = self
            .moves
            .iter()
            .flat_map(|(_, _, one)| &one.progress.holds);
        let (committed, given_up): (Vec<&HoldReport>, _) =
            reports.partition(|report| report.committed);
        let cutovers = committed.into_iter().map(|report| {
            let from = self.instant(report.at);
            let until = from + Duration::from_secs_f64(report.hold_ms.max(report.fence_ms) / 1e3);
            let near = own.iter().filter(|sample| {
                sample.came < until + MARGIN && sample.came + sample.took + MARGIN > from
            });
            let longest = near.map(|sample| sample.took).max().unwrap_or_default();
            Cutover {
                report: report.clone(),
                client_ms: longest.as_secs_f64() * 1e3,
            }
        });
        (cutovers.collect(), given_up.into_iter().cloned().collect())
    }

    fn instant(&self, at: Timestamp) -> Instant {
        let (zero, instant) = self.clocks;
        let since = at.duration_since(zero);
        instant + Duration::try_from(since).unwrap_or_default()
    }
}

fn samples(clients: &[Done]) -> Vec<Sample> {
    clients
        .iter()
        .flat_map(|client| client.samples.iter().copied())
        .collect()
}
