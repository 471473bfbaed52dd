//! The journal of moves: what may be planned, who may change it, and what routers see of it.

use std::time::Duration;

use serde_json::json;
use tenantry_schema::catalog::moves::{
    LeaseEpoch, Move, MoveCommand, MoveFilter, MoveKind, MoveNames, MovePolicy, MoveState,
    MoveStatus, NewMove, REBALANCER, Side, Transition, TransitionError,
};
use tenantry_schema::catalog::{Catalog, CatalogError, NewShard};
use tenantry_schema::shard::{ShardId, ShardKind, ShardState};
use tenantry_schema::tenant::{Epoch, TenantId, TenantKey};
use uuid::Uuid;

use crate::fixture::{Fixture, new_shard};

const LASTS: Duration = Duration::from_secs(60);

/// A fleet with a shared shard `s1` on the ring, one `s2` that joined later, a spare, and an active tenant on `s1`.
struct Fleet {
    fixture: Fixture,
    s1: ShardId,
    s2: ShardId,
    spare: ShardId,
    tenant: TenantId,
    lease: LeaseEpoch,
}

impl Fleet {
    async fn new(key: TenantKey) -> Self {
        let fixture = Fixture::new(key).await;
        let s1 = fixture.add_shard("s1").await;
        let tenant = fixture.create("blue-hat").await.id;
        assert!(fixture.catalog.activate_tenant(tenant).await.unwrap());
        let s2 = fixture.add_shard("s2").await;
        let spare = NewShard {
            kind: ShardKind::Spare,
            ..new_shard("spare")
        };
        let spare = fixture.catalog.add_shard(spare).await.unwrap().shard.id;
        let lead = fixture.catalog.take_lead(REBALANCER, Uuid::new_v4(), LASTS);
        let lease = lead.await.unwrap().unwrap();
        Self {
            fixture,
            s1,
            s2,
            spare,
            tenant,
            lease,
        }
    }

    fn catalog(&self) -> &Catalog {
        &self.fixture.catalog
    }

    async fn plan(&self, destination: ShardId) -> Move {
        let new = NewMove::new(self.tenant, destination, "ann");
        self.catalog().create_move(&new).await.unwrap()
    }

    async fn change(&self, from: &Move, next: &MoveStatus) -> Result<Move, TransitionError> {
        let change = Transition {
            from,
            next,
            progress: &from.progress,
            lease: self.lease,
            detail: &json!({}),
            command: None,
        };
        self.catalog().transition(&change).await
    }

    async fn to(&self, from: &Move, state: MoveState) -> Move {
        let next = MoveStatus {
            state,
            ..from.status.clone()
        };
        self.change(from, &next).await.unwrap()
    }

    async fn placed(&self, from: &Move, state: MoveState, at: Side, epoch: u64) -> Move {
        let next = MoveStatus {
            state,
            lives_at: at,
            placement_epoch: Some(Epoch(epoch)),
            ..from.status.clone()
        };
        self.change(from, &next).await.unwrap()
    }

    async fn lives_on(&self) -> (ShardId, u64) {
        let tenant = self.catalog().tenant_by_id(self.tenant).await.unwrap();
        let placement = self.catalog().locate(&tenant).await.unwrap().unwrap();
        (placement.shard, placement.epoch.0)
    }
}

/// An active tenant that the ring places on this shard.
async fn on_the_ring_at(fixture: &Fixture, shard: ShardId) -> TenantId {
    for number in 0..64 {
        let tenant = fixture.create(&format!("ring-{number}")).await;
        let placement = fixture.catalog.locate(&tenant).await.unwrap().unwrap();
        if (placement.shard, placement.pinned) == (shard, false) {
            fixture.catalog.activate_tenant(tenant.id).await.unwrap();
            return tenant.id;
        }
    }
    panic!("none of 64 tenants is on shard {shard}");
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> String {
    match result.unwrap_err() {
        CatalogError::Refused { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_move_is_planned_once_and_only_where_it_can_go() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fleet = Fleet::new(key).await;
        let catalog = fleet.catalog();
        let to = |destination| NewMove::new(fleet.tenant, destination, "ann");
        let refused = refusal(catalog.create_move(&to(fleet.s1)).await);
        assert_eq!(refused, "tenant blue-hat lives on s1 already");
        let refused = refusal(catalog.create_move(&to(fleet.spare)).await);
        assert_eq!(
            refused,
            "shard spare is a spare, kept for a tenant of its own"
        );
        let unknown = catalog.create_move(&to(ShardId::new(99).unwrap())).await;
        assert!(matches!(
            unknown,
            Err(CatalogError::NotFound { what: "shard", .. })
        ));
        let young = fleet.fixture.create("young").await.id;
        let provisioning = NewMove::new(young, fleet.s2, "ann");
        let refused = refusal(catalog.create_move(&provisioning).await);
        assert_eq!(refused, "tenant young is provisioning");
        let draining = catalog.set_shard_state(fleet.s2, ShardState::Draining);
        draining.await.unwrap();
        let refused = refusal(catalog.create_move(&to(fleet.s2)).await);
        assert_eq!(refused, "shard s2 is draining");
        let active = catalog.set_shard_state(fleet.s2, ShardState::Active);
        active.await.unwrap();

        let policy = MovePolicy {
            pause_budget_ms: Some(30),
            ..MovePolicy::default()
        };
        let new = NewMove {
            reason: Some("a try"),
            policy: policy.clone(),
            ..to(fleet.s2)
        };
        let planned = catalog.create_move(&new).await.unwrap();
        assert_eq!((planned.source, planned.destination), (fleet.s1, fleet.s2));
        assert_eq!(planned.status, MoveStatus::planned());
        assert_eq!((planned.tenant, &planned.policy), (fleet.tenant, &policy));
        assert_eq!(planned.names, MoveNames::of(planned.id));
        assert_eq!(planned.reason.as_deref(), Some("a try"));
        let second = catalog.create_move(&new).await;
        assert!(
            matches!(second, Err(CatalogError::AlreadyExists(_))),
            "{second:?}"
        );
        let found = catalog.live_move_of(fleet.tenant).await.unwrap();
        assert_eq!(found.as_ref(), Some(&planned));
        let audit = catalog.list_audit(None, 1).await.unwrap();
        assert_eq!(
            (&*audit[0].actor, &*audit[0].action),
            ("ann", "move.create")
        );
        assert_eq!(audit[0].target, planned.id.to_string());
    }
}

#[tokio::test]
async fn a_shard_of_one_tenant_is_given_away_once() {
    let fleet = Fleet::new(TenantKey::Bigint).await;
    let catalog = fleet.catalog();
    let other = fleet.fixture.create("red-shoe").await.id;
    catalog.activate_tenant(other).await.unwrap();
    let isolate = |tenant| NewMove {
        kind: MoveKind::Isolate,
        ..NewMove::new(tenant, fleet.spare, "ann")
    };
    let moved = catalog.create_move(&isolate(fleet.tenant)).await.unwrap();
    let refused = refusal(catalog.create_move(&isolate(other)).await);
    assert_eq!(
        refused,
        "shard spare is for one tenant, and tenant blue-hat moves there"
    );
    let moved = fleet
        .placed(&moved, MoveState::Committed, Side::Destination, 3)
        .await;
    let kind = |id: ShardId| async move { catalog.shard(&id.to_string()).await.unwrap().kind };
    assert_eq!(kind(fleet.spare).await, ShardKind::Dedicated);
    fleet.to(&moved, MoveState::Done).await;
    let refused = refusal(catalog.create_move(&isolate(other)).await);
    assert_eq!(
        refused,
        "shard spare is for one tenant, and tenant blue-hat lives there"
    );

    // Back to the shared fleet: the shard is a spare again once nothing is left on it.
    let back = fleet.plan(fleet.s2).await;
    let back = fleet
        .placed(&back, MoveState::Committed, Side::Destination, 6)
        .await;
    assert_eq!(kind(fleet.spare).await, ShardKind::Dedicated);
    fleet.to(&back, MoveState::Done).await;
    assert_eq!(kind(fleet.spare).await, ShardKind::Spare);
    assert_eq!(fleet.lives_on().await, (fleet.s2, 6));
}

#[tokio::test]
async fn a_transition_needs_the_version_and_the_lead() {
    let fleet = Fleet::new(TenantKey::Bigint).await;
    let catalog = fleet.catalog();
    let planned = fleet.plan(fleet.s2).await;
    let prepared = fleet.to(&planned, MoveState::Prepared).await;
    assert_eq!(prepared.version, planned.version + 1);
    assert_eq!(prepared.lease, fleet.lease);
    let again = fleet.change(&planned, &prepared.status).await;
    assert!(
        matches!(again, Err(TransitionError::Changed { .. })),
        "{again:?}"
    );

    catalog
        .record_move_progress(prepared.id, fleet.lease, &prepared.progress)
        .await
        .unwrap();
    catalog
        .note_move(prepared.id, fleet.lease, &json!({"why": "seen"}))
        .await
        .unwrap();
    let psql = fleet.fixture.psql().await;
    let pass = "UPDATE tenantry.leader SET until = '-infinity'";
    psql.batch_execute(pass).await.unwrap();
    let next = catalog
        .take_lead(REBALANCER, Uuid::new_v4(), LASTS)
        .await
        .unwrap();
    assert_eq!(next, Some(LeaseEpoch(fleet.lease.0 + 1)));
    let stale = fleet.change(&prepared, &prepared.status).await;
    assert!(
        matches!(stale, Err(TransitionError::Overtaken { .. })),
        "{stale:?}"
    );
    let progress = catalog.record_move_progress(prepared.id, fleet.lease, &prepared.progress);
    assert!(matches!(
        progress.await,
        Err(TransitionError::Overtaken { .. })
    ));
    let note = catalog
        .note_move(prepared.id, fleet.lease, &json!({}))
        .await;
    assert!(matches!(note, Err(TransitionError::Overtaken { .. })));

    let events = catalog.move_events(planned.id, 0).await.unwrap();
    let states: Vec<_> = events.iter().map(|event| (event.from, event.to)).collect();
    use MoveState::{Planned, Prepared};
    let expected = [
        (None, Planned),
        (Some(Planned), Prepared),
        (Some(Prepared), Prepared),
    ];
    assert_eq!(states, expected);
    let later = catalog.move_events(planned.id, events[1].id).await.unwrap();
    assert_eq!(later, events[2..]);
}

#[tokio::test]
async fn placement_changes_with_the_journal_and_unpins_where_the_ring_agrees() {
    let fleet = Fleet::new(TenantKey::Uuid).await;
    let catalog = fleet.catalog();
    let (home, epoch) = fleet.lives_on().await;
    assert_eq!((home, epoch), (fleet.s1, 1));
    let planned = fleet.plan(fleet.s2).await;
    let before = catalog.load_fleet().await.unwrap().sequence;
    let fencing = fleet.to(&planned, MoveState::Fencing).await;
    assert_eq!(fleet.lives_on().await, (fleet.s1, 1));
    let committed = fleet
        .placed(&fencing, MoveState::Committed, Side::Destination, 4)
        .await;
    assert_eq!(fleet.lives_on().await, (fleet.s2, 4));
    let after = catalog.load_fleet().await.unwrap().sequence;
    assert!(after > before, "routers are told");
    let back = fleet.to(&committed, MoveState::RollingBack).await;
    let back = fleet
        .placed(&back, MoveState::RollingBack, Side::Source, 6)
        .await;
    assert_eq!(fleet.lives_on().await, (fleet.s1, 6));
    let over = fleet.to(&back, MoveState::RolledBack).await;
    assert!(over.finished_at.is_some());

    // Away from where the ring has a tenant and back: no pin is left.
    let tenant = on_the_ring_at(&fleet.fixture, fleet.s2).await;
    let away = NewMove::new(tenant, fleet.s1, "ann");
    let away = catalog.create_move(&away).await.unwrap();
    let away = fleet
        .placed(&away, MoveState::Committed, Side::Destination, 3)
        .await;
    let found = catalog.tenant_by_id(tenant).await.unwrap();
    assert_eq!((found.pin, found.epoch), (Some(fleet.s1), Epoch(3)));
    fleet.to(&away, MoveState::Done).await;
    let home = NewMove::new(tenant, fleet.s2, "ann");
    let home = catalog.create_move(&home).await.unwrap();
    fleet
        .placed(&home, MoveState::Committed, Side::Destination, 6)
        .await;
    let found = catalog.tenant_by_id(tenant).await.unwrap();
    assert_eq!((found.pin, found.epoch), (None, Epoch(6)));
    let audit = catalog.list_audit(None, 1_000).await.unwrap();
    assert!(audit.iter().any(|entry| entry.action == "move.finish"));
}

#[tokio::test]
async fn commands_are_kept_until_they_are_taken_or_refused() {
    let fleet = Fleet::new(TenantKey::Bigint).await;
    let catalog = fleet.catalog();
    let watch = catalog.watch_moves().await.unwrap();
    let planned = fleet.plan(fleet.s2).await;
    let heard = tokio::time::timeout(Duration::from_secs(20), watch.woken());
    assert!(heard.await.unwrap(), "a new move is heard of");

    let refused = refusal(
        catalog
            .ask_move(planned.id, MoveCommand::Reverse, "ann")
            .await,
    );
    assert_eq!(
        refused,
        "the tenant still lives at the source: cancel the move instead"
    );
    let pause = catalog
        .ask_move(planned.id, MoveCommand::Pause, "ann")
        .await
        .unwrap();
    let resume = catalog
        .ask_move(planned.id, MoveCommand::Resume, "bob")
        .await
        .unwrap();
    let cancel = catalog
        .ask_move(planned.id, MoveCommand::Cancel, "bob")
        .await
        .unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(20), watch.woken());
    assert!(heard.await.unwrap(), "a command is heard of");
    let pending = catalog.pending_move_commands().await.unwrap();
    assert_eq!(pending, [pause.clone(), resume.clone(), cancel.clone()]);

    let next = MoveStatus {
        paused: true,
        ..planned.status.clone()
    };
    let change = Transition {
        from: &planned,
        next: &next,
        progress: &planned.progress,
        lease: fleet.lease,
        detail: &json!({}),
        command: Some(pause.id),
    };
    let paused = catalog.transition(&change).await.unwrap();
    assert!(paused.status.paused);
    catalog
        .refuse_move_command(resume.id, fleet.lease, "not now")
        .await
        .unwrap();
    assert_eq!(
        catalog.pending_move_commands().await.unwrap(),
        std::slice::from_ref(&cancel)
    );
    fleet.to(&paused, MoveState::Aborted).await;
    let asked = catalog.move_commands(planned.id).await.unwrap();
    let outcomes: Vec<_> = asked.iter().map(|asked| asked.refusal.as_deref()).collect();
    assert_eq!(outcomes, [None, Some("not now"), Some("the move was over")]);
    assert!(asked.iter().all(|asked| asked.taken_at.is_some()));
    let late = refusal(
        catalog
            .ask_move(planned.id, MoveCommand::Pause, "ann")
            .await,
    );
    assert_eq!(late, "the move is over");
}

#[tokio::test]
async fn moves_are_listed_newest_first_in_pages() {
    let fleet = Fleet::new(TenantKey::Bigint).await;
    let catalog = fleet.catalog();
    let batch = Uuid::new_v4();
    let mut planned = Vec::new();
    for number in 0..3 {
        let slug = format!("t{number}");
        let tenant = fleet.fixture.create(&slug).await;
        catalog.activate_tenant(tenant.id).await.unwrap();
        let home = catalog.locate(&tenant).await.unwrap().unwrap().shard;
        let destination = if home == fleet.s1 { fleet.s2 } else { fleet.s1 };
        let new = NewMove {
            batch: (number > 0).then_some(batch),
            kind: MoveKind::Rebalance,
            ..NewMove::new(tenant.id, destination, "ann")
        };
        planned.push(catalog.create_move(&new).await.unwrap());
    }
    fleet.to(&planned[1], MoveState::Aborted).await;
    let ids = async |filter: MoveFilter| -> Vec<_> {
        let found = catalog.moves(&filter).await.unwrap();
        found.iter().map(|found| found.id).collect()
    };
    let all = [planned[2].id, planned[1].id, planned[0].id];
    assert_eq!(ids(MoveFilter::default()).await, all);
    assert_eq!(
        ids(MoveFilter::live()).await,
        [planned[2].id, planned[0].id]
    );
    let batched = MoveFilter {
        batch: Some(batch),
        ..MoveFilter::default()
    };
    assert_eq!(ids(batched).await, all[..2]);
    let page = MoveFilter {
        before: Some(planned[2].id),
        limit: 1,
        ..MoveFilter::default()
    };
    assert_eq!(ids(page).await, all[1..2]);
}

#[tokio::test]
async fn a_lead_is_prolonged_by_its_holder_and_passes_on_when_it_ends() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let take = async |holder| catalog.take_lead("tests", holder, LASTS).await.unwrap();
    let first = Some(LeaseEpoch(1));
    assert_eq!(take(a).await, first);
    assert_eq!(take(b).await, None);
    assert_eq!(take(a).await, first);
    catalog.yield_lead("tests", b).await.unwrap();
    assert_eq!(take(b).await, None, "only the holder gives it back");
    catalog.yield_lead("tests", a).await.unwrap();
    assert_eq!(take(a).await, first, "nobody led in between");
    catalog.yield_lead("tests", a).await.unwrap();
    assert_eq!(take(b).await, Some(LeaseEpoch(2)));
    assert_eq!(take(a).await, None);
}
