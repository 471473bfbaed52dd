//! Whole moves of a tenant in use, on real shards: there and back, to the end, and given up. Clients write at the
//! shards directly and look for the tenant at the other one when they are refused: nobody holds them, so that only
//! fence and owner rows keep their ledger right.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tenantry_rebalancer::{Config, FaultAction, FaultPoint};
use tenantry_schema::catalog::Tenant;
use tenantry_schema::catalog::moves::{
    Move, MoveCommand, MoveId, MovePolicy, MoveState, NewMove, Side, SwitchPolicy,
};
use tenantry_testkit::{Fleet, FleetShard};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

const CONDITION_MAX: Duration = Duration::from_secs(60);

/// A fleet, a rebalancer that runs, and a client of the tenant that keeps a ledger of what was acknowledged.
struct Scene {
    fleet: Arc<Fleet>,
    tenant: Tenant,
    source: usize,
    stop: CancellationToken,
    rebalancer: JoinHandle<Result<(), tenantry_rebalancer::RunError>>,
    writer: JoinHandle<BTreeSet<String>>,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(fault_point: Option<FaultPoint>) -> Self {
        let fleet = Arc::new(Fleet::builder().tenants(1).start().await.unwrap());
        let tenant = fleet.tenants()[0].clone();
        let home = fleet.shard_of(&tenant).await.unwrap().id();
        let source = usize::from(fleet.shard(0).id() != home);
        let stop = CancellationToken::new();
        let config = Config {
            fault_point,
            ..config(&fleet)
        };
        let rebalancer = tokio::spawn(tenantry_rebalancer::run(config, stop.clone()));
        let writer = write(Arc::clone(&fleet), tenant.clone(), source, stop.clone());
        Self {
            writer: tokio::spawn(writer),
            fleet,
            tenant,
            source,
            stop,
            rebalancer,
        }
    }

    fn shard(&self, side: Side) -> &FleetShard {
        match side {
            Side::Source => self.fleet.shard(self.source),
            Side::Destination => self.fleet.shard(1 - self.source),
        }
    }

    async fn plan(&self, policy: MovePolicy) -> MoveId {
        let new = NewMove {
            policy: MovePolicy {
                unthrottled: true,
                ..policy
            },
            ..NewMove::new(self.tenant.id, self.shard(Side::Destination).id(), "test")
        };
        self.fleet.catalog().create_move(&new).await.unwrap().id
    }

    async fn until(&self, id: MoveId, what: &str, wanted: impl Fn(&Move) -> bool) -> Move {
        let deadline = Instant::now() + CONDITION_MAX;
        loop {
            let found = self.fleet.catalog().move_by_id(id).await.unwrap();
            if wanted(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "not {what}: {found:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, id: MoveId, command: MoveCommand) {
        let asked = self.fleet.catalog().ask_move(id, command, "test");
        asked.await.unwrap();
    }

    /// Everything ends; the tenant's rows are what was acknowledged, on the side where it lives, and nothing is left on
    /// the other.
    async fn settle(self, lives_at: Side) {
        self.stop.cancel();
        let ledger = self.writer.await.unwrap();
        self.rebalancer.await.unwrap().unwrap();
        let shard = |side: Side| match side {
            Side::Source => self.fleet.shard(self.source),
            Side::Destination => self.fleet.shard(1 - self.source),
        };
        assert!(ledger.len() > 10, "the client wrote {}", ledger.len());
        let id = self.fleet.id_text(self.tenant.id);
        let select = format!("SELECT name FROM stores WHERE tenant_id = {id}");
        for side in [Side::Source, Side::Destination] {
            let admin = shard(side).admin().await.unwrap();
            let rows = admin.query(&select, &[]).await.unwrap();
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if side == lives_at {
                let found: BTreeSet<String> = names.iter().cloned().collect();
                assert_eq!(found.len(), names.len(), "no row twice");
                assert_eq!(found, ledger);
            } else {
                assert!(
                    names.is_empty(),
                    "{} rows are left at the {side}",
                    names.len()
                );
            }
            let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) \
                        + (SELECT count(*) FROM pg_publication WHERE pubname LIKE 'tenantry_move%') \
                        + (SELECT count(*) FROM tenantry.move_chunk) + (SELECT count(*) FROM tenantry.move_progress)";
            let left: i64 = admin.query_one(left, &[]).await.unwrap().get(0);
            assert_eq!(left, 0, "slots, publications and ledgers at the {side}");
            let owner = format!("SELECT state FROM tenantry.owner WHERE tenant_id = {id}");
            let owner = admin.query_opt(&owner, &[]).await.unwrap();
            let owner: Option<String> = owner.map(|row| row.get(0));
            assert_eq!(
                owner.as_deref() == Some("active"),
                side == lives_at,
                "{side}: {owner:?}"
            );
        }
        let tenant = self
            .fleet
            .catalog()
            .tenant_by_id(self.tenant.id)
            .await
            .unwrap();
        let placed = self.fleet.shard_of(&tenant).await.unwrap().id();
        assert_eq!(placed, shard(lives_at).id());
    }
}

fn config(fleet: &Fleet) -> Config {
    Config {
        catalog_url: fleet.catalog_url(),
        secrets_file: fleet.secrets_path(),
        pause_budget: Duration::from_secs(2),
        lease: Duration::from_secs(1),
        ..Config::default()
    }
}

/// The rebalancer dies at a place, and another one brings the move to its end.
async fn dies_at(place: &str) {
    println!("{place}");
    let dir = tempfile::tempdir().unwrap();
    let parked = dir.path().join("parked");
    let point = FaultPoint {
        at: place.to_owned(),
        action: FaultAction::Park(parked.clone()),
    };
    let mut scene = Scene::start_with(Some(point)).await;
    let policy = MovePolicy {
        probation_s: Some(1),
        ..MovePolicy::default()
    };
    let id = scene.plan(policy).await;
    scene.until(id, place, |_| parked.exists()).await;
    scene.rebalancer.abort();
    assert!((&mut scene.rebalancer).await.is_err(), "it was running");
    let next = tenantry_rebalancer::run(config(&scene.fleet), scene.stop.clone());
    scene.rebalancer = tokio::spawn(next);
    let over = scene
        .until(id, "over", |found| found.finished_at.is_some())
        .await;
    assert_eq!(over.status.state, MoveState::Done, "{place}: {over:#?}");
    scene.settle(Side::Destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalancer_that_dies_before_the_commit_is_replaced() {
    for place in ["COPYING/copy", "stored FENCING", "after FENCING/fence"] {
        dies_at(place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalancer_that_dies_after_the_commit_is_replaced() {
    for place in [
        "after DRAINED/hand_over",
        "stored COMMITTED",
        "CLEANING/clean",
    ] {
        dies_at(place).await;
    }
}

/// Writes a row after the other, wherever the tenant is, until told to stop. What was refused was not written.
async fn write(
    fleet: Arc<Fleet>,
    tenant: Tenant,
    mut at: usize,
    stop: CancellationToken,
) -> BTreeSet<String> {
    let sessions = [
        fleet.shard(0).app_as(tenant.id).await.unwrap(),
        fleet.shard(1).app_as(tenant.id).await.unwrap(),
    ];
    let mut ledger = BTreeSet::new();
    while !stop.is_cancelled() {
        let name = format!("store {}", ledger.len());
        let insert = "INSERT INTO public.stores (name, email) VALUES ($1, 'a@example.com')";
        match sessions[at].execute(insert, &[&name]).await {
            Ok(_) => {
                ledger.insert(name);
            }
            Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => at = 1 - at,
            // Where it never was, nothing is known of it.
            Err(error) if error.as_db_error().is_some() && ledger.len() > 1 => at = 1 - at,
            Err(error) => panic!("{error:?}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
    ledger
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_there_and_back() {
    let scene = Scene::start().await;
    let id = scene.plan(MovePolicy::default()).await;
    let there = |found: &Move| {
        found.status.state == MoveState::Probation
            && found.progress.doing.as_deref() == Some("await_probation")
    };
    let moved = scene.until(id, "there", there).await;
    assert_eq!(moved.status.lives_at, Side::Destination);
    assert!(moved.progress.holds.iter().any(|hold| hold.committed));
    scene.ask(id, MoveCommand::Reverse).await;
    let back = scene
        .until(id, "over", |found| found.finished_at.is_some())
        .await;
    assert_eq!(back.status.state, MoveState::RolledBack, "{back:#?}");
    scene.settle(Side::Source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_for_good() {
    let scene = Scene::start().await;
    let policy = MovePolicy {
        probation_s: Some(1),
        ..MovePolicy::default()
    };
    let id = scene.plan(policy).await;
    let done = scene
        .until(id, "over", |found| found.finished_at.is_some())
        .await;
    assert_eq!(done.status.state, MoveState::Done, "{done:#?}");
    scene.settle(Side::Destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_given_up_without_a_trace() {
    let scene = Scene::start().await;
    let policy = MovePolicy {
        switch: SwitchPolicy::Manual,
        ..MovePolicy::default()
    };
    let id = scene.plan(policy).await;
    let waits = |found: &Move| found.progress.doing.as_deref() == Some("await_switch");
    scene.until(id, "waiting for its operator", waits).await;
    scene.ask(id, MoveCommand::Cancel).await;
    let over = scene
        .until(id, "over", |found| found.finished_at.is_some())
        .await;
    assert_eq!(over.status.state, MoveState::Aborted, "{over:#?}");
    scene.settle(Side::Source).await;
}
