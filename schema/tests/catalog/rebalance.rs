//! Rebalancings, measures, the isolation policy's view of the fleet, and the removal of shards.

use std::time::Duration;

use serde_json::json;
use tenantry_schema::catalog::moves::{LeaseEpoch, MoveKind, MoveState, NewMove, Transition};
use tenantry_schema::catalog::{
    CatalogError, HeatChange, ISOLATION_ACTOR, NewIsolationEvent, NewRebalance, NewRebalanceMove,
    NewShard, RebalanceState, Tenant,
};
use tenantry_schema::pin::PinReason;
use tenantry_schema::shard::{ShardId, ShardKind, ShardState};
use tenantry_schema::tenant::TenantKey;
use uuid::Uuid;

use crate::fixture::{Fixture, new_shard, refusal};

const ACTOR: &str = "cli:anna";

fn planned(tenant: &Tenant, source: ShardId, destination: ShardId) -> NewRebalanceMove {
    NewRebalanceMove {
        tenant: tenant.id,
        source,
        destination,
        bytes: Some(1 << 30),
        busy: 0.5,
        why: format!("{} is to move", tenant.slug),
    }
}

fn rebalance<'a>(shard: Option<ShardId>, moves: Vec<NewRebalanceMove>) -> NewRebalance<'a> {
    NewRebalance {
        goal: json!("balance"),
        shard,
        limits: json!({}),
        summary: json!({"shards": []}),
        moves,
        unpins: Vec::new(),
        actor: ACTOR,
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> String {
    match result {
        Err(CatalogError::Refused { message, .. }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

/// A tenant of the ring's with its home and the other shard.
async fn placed(fixture: &Fixture, slug: &str, shards: [ShardId; 2]) -> (Tenant, ShardId, ShardId) {
    let tenant = fixture.create(slug).await;
    fixture.catalog.activate_tenant(tenant.id).await.unwrap();
    let tenant = fixture.catalog.tenant_by_id(tenant.id).await.unwrap();
    let home = fixture
        .catalog
        .locate(&tenant)
        .await
        .unwrap()
        .unwrap()
        .shard;
    let other = shards.into_iter().find(|shard| *shard != home).unwrap();
    (tenant, home, other)
}

/// Ends a move as the rebalancer would.
async fn end(fixture: &Fixture, lease: LeaseEpoch, tenant: &Tenant, state: MoveState) {
    let live = fixture
        .catalog
        .live_move_of(tenant.id)
        .await
        .unwrap()
        .unwrap();
    let mut next = live.status.clone();
    next.state = state;
    next.error = Some("as the test has it".to_owned());
    let change = Transition {
        from: &live,
        next: &next,
        progress: &live.progress,
        lease,
        detail: &json!({}),
        command: None,
    };
    fixture.catalog.transition(&change).await.unwrap();
}

async fn lead(fixture: &Fixture) -> LeaseEpoch {
    let lead = fixture
        .catalog
        .take_lead("rebalancer", Uuid::now_v7(), Duration::from_secs(600));
    lead.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_rebalancing_tells_what_became_of_each_move() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let shards = [fixture.add_shard("s1").await, fixture.add_shard("s2").await];
    let lease = lead(&fixture).await;
    let (first, home, other) = placed(&fixture, "first", shards).await;
    let (second, second_home, second_other) = placed(&fixture, "second", shards).await;
    let moves = vec![
        planned(&first, home, other),
        planned(&second, second_home, second_other),
    ];
    let begun = catalog
        .begin_rebalance(&rebalance(None, moves))
        .await
        .unwrap();
    assert_eq!((begun.state, begun.shard), (RebalanceState::Running, None));
    assert_eq!(
        refused(catalog.begin_rebalance(&rebalance(None, Vec::new())).await),
        "a rebalancing is under way already"
    );

    let mut new = NewMove::new(first.id, other, "rebalancer");
    new.kind = MoveKind::Rebalance;
    new.batch = Some(begun.id.0);
    for attempt in 1..=2 {
        let live = catalog.create_move(&new).await.unwrap();
        let told = catalog.rebalance_moves(begun.id).await.unwrap();
        let last = told[0].last.clone().unwrap();
        assert_eq!(
            (told[0].attempts, last.id, last.state),
            (attempt, live.id, MoveState::Planned)
        );
        assert_eq!(
            (&*told[1].slug, told[1].attempts, &told[1].last),
            ("second", 0, &None)
        );
        end(&fixture, lease, &first, MoveState::Aborted).await;
        let last = catalog.rebalance_moves(begun.id).await.unwrap()[0]
            .last
            .clone()
            .unwrap();
        assert_eq!(
            (last.state, last.error.as_deref()),
            (MoveState::Aborted, Some("as the test has it"))
        );
        assert!(last.finished_at.is_some());
    }
    catalog
        .skip_rebalance_move(begun.id, 2, "it lives there already")
        .await
        .unwrap();
    catalog
        .rebalance_waits(begun.id, Some("the next attempt"))
        .await
        .unwrap();
    catalog
        .extend_rebalance(begun.id, &[planned(&second, second_home, second_other)])
        .await
        .unwrap();
    let told = catalog.rebalance_moves(begun.id).await.unwrap();
    let ordinals: Vec<_> = told
        .iter()
        .map(|planned| (planned.ordinal, planned.skipped.is_some()))
        .collect();
    assert_eq!(ordinals, [(1, false), (2, true), (3, false)]);
    assert_eq!(
        catalog
            .rebalance(begun.id)
            .await
            .unwrap()
            .waiting
            .as_deref(),
        Some("the next attempt")
    );

    assert_eq!(
        catalog.stop_rebalance(begun.id, ACTOR).await.unwrap().state,
        RebalanceState::Stopping
    );
    assert_eq!(
        refused(catalog.stop_rebalance(begun.id, ACTOR).await),
        "the rebalancing is stopping"
    );
    catalog
        .extend_rebalance(begun.id, &[planned(&first, home, other)])
        .await
        .unwrap();
    assert_eq!(
        catalog.rebalance_moves(begun.id).await.unwrap().len(),
        3,
        "it takes no more"
    );
    assert!(
        catalog
            .finish_rebalance(begun.id, RebalanceState::Stopped)
            .await
            .unwrap()
    );
    assert!(
        !catalog
            .finish_rebalance(begun.id, RebalanceState::Done)
            .await
            .unwrap()
    );
    let over = catalog.rebalance(begun.id).await.unwrap();
    assert_eq!((over.state, over.waiting), (RebalanceState::Stopped, None));
    assert_eq!(catalog.rebalances(true, 10).await.unwrap(), []);
    assert_eq!(catalog.rebalances(false, 10).await.unwrap().len(), 1);
    let trail = catalog.list_audit(None, 100).await.unwrap();
    let acts: Vec<&str> = trail
        .iter()
        .map(|entry| &*entry.action)
        .filter(|act| act.starts_with("rebalance"))
        .collect();
    assert_eq!(
        acts,
        ["rebalance.finish", "rebalance.stop", "rebalance.start"]
    );
}

#[tokio::test]
async fn only_pins_that_the_ring_agrees_with_are_taken_away() {
    let fixture = Fixture::new(TenantKey::Uuid).await;
    let catalog = &fixture.catalog;
    let shards = [fixture.add_shard("s1").await, fixture.add_shard("s2").await];
    let psql = fixture.psql().await;
    let mut tenants = Vec::new();
    for (slug, at_home, reason) in [
        ("agreed", true, "ring"),
        ("brought", true, "move"),
        ("wanted", true, "manual"),
        ("elsewhere", false, "ring"),
    ] {
        let (tenant, home, other) = placed(&fixture, slug, shards).await;
        let shard = if at_home { home } else { other };
        let insert = "INSERT INTO tenantry.pin (tenant, shard, reason) SELECT id, $2, $3 FROM tenantry.tenant WHERE slug = $1";
        psql.execute(insert, &[&slug, &shard, &reason])
            .await
            .unwrap();
        tenants.push(tenant.id);
    }
    let new = NewRebalance {
        unpins: tenants,
        ..rebalance(None, Vec::new())
    };
    catalog.begin_rebalance(&new).await.unwrap();
    let mut pinned: Vec<_> = catalog.census().await.unwrap().tenants;
    pinned.retain(|tenant| tenant.pin.is_some());
    let mut pinned: Vec<_> = pinned
        .iter()
        .map(|tenant| (&*tenant.slug, tenant.pin.unwrap().1))
        .collect();
    pinned.sort_unstable();
    assert_eq!(
        pinned,
        [
            ("elsewhere", PinReason::Ring),
            ("wanted", PinReason::Manual)
        ]
    );
    assert_eq!(catalog.count_tenants().await.unwrap().len(), 1);
    for id in new.unpins {
        assert_eq!(
            catalog.tenant_by_id(id).await.unwrap().epoch.0,
            1,
            "nobody moved"
        );
    }
}

#[tokio::test]
async fn measures_are_kept_of_tenants_that_are_there() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let shards = [fixture.add_shard("s1").await, fixture.add_shard("s2").await];
    let (tenant, _, other) = placed(&fixture, "first", shards).await;
    let gone = tenantry_schema::tenant::TenantId::from_bigint(99).unwrap();
    let of_first = async || {
        let census = catalog.census().await.unwrap();
        assert_eq!(census.shards.len(), 2);
        assert_eq!(census.ring.members().len(), 2);
        census
            .tenants
            .into_iter()
            .map(|tenant| (tenant.bytes, tenant.busy, tenant.is_moving))
            .next()
            .unwrap()
    };
    assert_eq!(of_first().await, (None, 0.0, false));
    catalog
        .record_sizes(&[(tenant.id, 5 << 30), (gone, 1)])
        .await
        .unwrap();
    catalog
        .record_busy(&[(tenant.id, 2.5), (gone, 1.0)])
        .await
        .unwrap();
    assert_eq!(catalog.busy_tenants().await.unwrap(), [(tenant.id, 2.5)]);
    catalog
        .create_move(&NewMove::new(tenant.id, other, ACTOR))
        .await
        .unwrap();
    assert_eq!(of_first().await, (Some(5 << 30), 2.5, true));
    catalog.record_busy(&[(tenant.id, 0.0)]).await.unwrap();
    assert_eq!(of_first().await, (Some(5 << 30), 0.0, true));
    assert_eq!(catalog.busy_tenants().await.unwrap(), []);
}

#[tokio::test]
async fn a_shard_is_removed_only_when_nothing_is_left_of_it() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let shards = [fixture.add_shard("s1").await, fixture.add_shard("s2").await];
    let lease = lead(&fixture).await;
    let (tenant, home, other) = placed(&fixture, "first", shards).await;
    let change = HeatChange {
        tenant: tenant.id,
        shard: home,
        is_hot: true,
        evidence: json!({}),
    };
    catalog.record_heat(&[change]).await.unwrap();
    let remove = async || catalog.remove_shard(home).await;
    assert!(refused(remove().await).contains("is on the ring"));
    assert_eq!(
        catalog
            .set_shard_state(home, ShardState::Draining)
            .await
            .unwrap()
            .pinned,
        1
    );
    assert!(refused(remove().await).starts_with("tenants are left on shard"));
    let psql = fixture.psql().await;
    let by_hand = format!("DELETE FROM tenantry.shard WHERE id = {home}");
    assert!(
        refusal(&psql, &by_hand).await.starts_with("55000"),
        "psql is refused alike"
    );

    let live = catalog
        .create_move(&NewMove::new(tenant.id, other, ACTOR))
        .await
        .unwrap();
    let mut next = live.status.clone();
    next.state = MoveState::Committed;
    next.lives_at = tenantry_schema::catalog::moves::Side::Destination;
    next.placement_epoch = Some(tenantry_schema::tenant::Epoch(2));
    let change = Transition {
        from: &live,
        next: &next,
        progress: &live.progress,
        lease,
        detail: &json!({}),
        command: None,
    };
    catalog.transition(&change).await.unwrap();
    assert!(refused(remove().await).contains("are not over yet"));
    end(&fixture, lease, &tenant, MoveState::Done).await;
    assert_eq!(remove().await.unwrap().id, home);
    assert!(matches!(remove().await, Err(CatalogError::NotFound { .. })));
    assert_eq!(catalog.list_shards().await.unwrap().len(), 1);
    assert_eq!(
        catalog.move_by_id(live.id).await.unwrap().source,
        home,
        "history stays"
    );
    assert_eq!(catalog.heat_events(10).await.unwrap().len(), 1);
    assert_eq!(catalog.hot_tenants().await.unwrap(), []);
    let again = NewShard {
        id: Some(home),
        ..new_shard("s9")
    };
    assert!(matches!(
        catalog.add_shard(again).await,
        Err(CatalogError::AlreadyExists(_))
    ));
}

#[tokio::test]
async fn the_isolation_policy_sees_who_is_hot_and_who_has_a_shard_of_its_own() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let shards = [fixture.add_shard("s1").await, fixture.add_shard("s2").await];
    let spare = NewShard {
        kind: ShardKind::Spare,
        ..new_shard("spare1")
    };
    let spare = catalog.add_shard(spare).await.unwrap().shard.id;
    let (tenant, home, _) = placed(&fixture, "first", shards).await;
    assert_eq!(catalog.watched_tenants().await.unwrap(), []);
    assert_eq!(catalog.isolation_policy().await.unwrap(), json!({}));
    catalog
        .set_isolation_policy(&json!({"mode": "act"}), ACTOR)
        .await
        .unwrap();
    assert_eq!(
        catalog.isolation_policy().await.unwrap(),
        json!({"mode": "act"})
    );

    let heat = |is_hot| HeatChange {
        tenant: tenant.id,
        shard: home,
        is_hot,
        evidence: json!({"share": 0.7}),
    };
    catalog.record_heat(&[heat(true)]).await.unwrap();
    let watched = async || {
        catalog
            .watched_tenants()
            .await
            .unwrap()
            .into_iter()
            .next()
            .unwrap()
    };
    let seen = watched().await;
    assert_eq!(seen.hot.as_ref().unwrap().1, json!({"share": 0.7}));
    assert_eq!(
        (seen.pin, seen.is_moving, seen.is_automatic, seen.moved_at),
        (None, false, false, None)
    );

    let mut new = NewMove::new(tenant.id, spare, ISOLATION_ACTOR);
    new.kind = MoveKind::Isolate;
    let live = catalog.create_move(&new).await.unwrap();
    let event = NewIsolationEvent {
        tenant: tenant.id,
        shard: home,
        act: "isolate",
        destination: Some(spare),
        mode: "act",
        planned: Some(live.id),
        rule: "spare",
        why: "it is hot",
    };
    catalog.record_isolation(&event).await.unwrap();
    let events = catalog.isolation_events(10).await.unwrap();
    assert_eq!(
        (&*events[0].slug, events[0].planned, &*events[0].why),
        ("first", Some(live.id), "it is hot")
    );
    catalog.record_heat(&[heat(false)]).await.unwrap();
    let seen = watched().await;
    assert!(seen.is_moving && seen.is_automatic && seen.hot.is_none() && seen.cooled_at.is_some());
    assert_eq!(catalog.pinned_tenants().await.unwrap(), {
        let mut both = [(home, 1), (spare, 1)];
        both.sort_unstable();
        both
    });
}
