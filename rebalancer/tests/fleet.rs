//! Work on the fleet: rebalancings are made within their limits and come to an end, hot tenants are isolated by policy,
//! and tenants are weighed. The moves themselves are ended here as whoever makes them would.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use serde_json::json;
use tenantry_rebalancer::fleet::{Isolation, Rebalancing, begin, inventory, weigh_shard};
use tenantry_rebalancer::plan::{Goal, Limits, plan};
use tenantry_rebalancer::policy::{Mode, Policy};
use tenantry_rebalancer::shard::ShardEndpoint;
use tenantry_schema::catalog::moves::{
    LeaseEpoch, Move, MoveFilter, MoveKind, MoveState, REBALANCER, Side, Transition,
};
use tenantry_schema::catalog::{
    Catalog, HeatChange, ISOLATION_ACTOR, LoadAsked, LoadTotals, NewRouter, RebalanceState,
    RouterLoad, ShardLoad, TenantLoad,
};
use tenantry_schema::shard::{ShardId, ShardState};
use tenantry_schema::tenant::{Epoch, TenantId};
use tenantry_testkit::Fleet;
use uuid::Uuid;

const ACTOR: &str = "cli:anna";

async fn lead(catalog: &Catalog) -> LeaseEpoch {
    let lead = catalog.take_lead(REBALANCER, Uuid::now_v7(), Duration::from_secs(600));
    lead.await.unwrap().unwrap()
}

async fn live(catalog: &Catalog) -> Vec<Move> {
    catalog.moves(&MoveFilter::live()).await.unwrap()
}

/// Ends a move as if it had been made, or had failed.
async fn end(catalog: &Catalog, lease: LeaseEpoch, from: &Move, state: MoveState) {
    let mut next = from.status.clone();
    next.state = state;
    if state == MoveState::Done {
        next.lives_at = Side::Destination;
        next.placement_epoch = Some(Epoch(from.source_epoch.0 + 1));
    } else {
        next.error = Some("the disk is full".to_owned());
    }
    let change = Transition {
        from,
        next: &next,
        progress: &from.progress,
        lease,
        detail: &json!({}),
        command: None,
    };
    catalog.transition(&change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_shard_is_emptied_within_the_limits() {
    let fleet = Fleet::builder()
        .shards(3)
        .tenants(24)
        .start()
        .await
        .unwrap();
    let catalog = fleet.catalog();
    let lease = lead(catalog).await;
    let drained = fleet.shard(0).id();
    let count = fleet.tenants_of(fleet.shard(0)).await.unwrap().len();
    assert!(count >= 4, "{count} tenants to move");
    catalog
        .set_shard_state(drained, ShardState::Draining)
        .await
        .unwrap();
    let limits = Limits::default();
    let all = plan(
        &inventory(catalog).await.unwrap(),
        Goal::Drain(drained),
        &limits,
    );
    assert_eq!(all.moves.len(), count);
    // The plan is cut, so that it has to be made longer until the shard is empty.
    let cut = Limits {
        moves_max: count - 1,
        ..limits
    };
    let first = plan(
        &inventory(catalog).await.unwrap(),
        Goal::Drain(drained),
        &cut,
    );
    let begun = begin(catalog, &first, &limits, ACTOR).await.unwrap();
    let mut rebalancing = Rebalancing::default();
    let mut made = 0;
    while catalog.rebalance(begun.id).await.unwrap().state == RebalanceState::Running {
        rebalancing.advance(catalog).await.unwrap();
        let moves = live(catalog).await;
        assert!(
            moves.len() <= limits.per_shard_max,
            "{} moves of one shard",
            moves.len()
        );
        for live in &moves {
            assert_eq!(
                (live.kind, live.source, live.batch),
                (MoveKind::Drain, drained, Some(begun.id.0))
            );
            assert_eq!(live.policy.probation_s, Some(limits.probation_s));
            assert!(live.reason.as_deref().unwrap().contains("is being emptied"));
            end(catalog, lease, live, MoveState::Done).await;
            made += 1;
        }
        assert!(made <= count, "more moves than tenants");
    }
    assert_eq!(made, count);
    assert_eq!(
        catalog.rebalance(begun.id).await.unwrap().state,
        RebalanceState::Done
    );
    assert_eq!(fleet.tenants_of(fleet.shard(0)).await.unwrap().len(), 0);
    assert_eq!(
        catalog.rebalance_moves(begun.id).await.unwrap().len(),
        count
    );
    catalog.remove_shard(drained).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_tried_again_later_and_what_has_changed_is_passed_over() {
    let fleet = Fleet::builder().shards(2).tenants(8).start().await.unwrap();
    let catalog = fleet.catalog();
    let lease = lead(catalog).await;
    let (s1, s2) = (fleet.shard(0).id(), fleet.shard(1).id());
    let mut heavy = fleet.tenants_of(fleet.shard(0)).await.unwrap();
    assert!(heavy.len() >= 2);
    heavy.truncate(2);
    let sizes: Vec<(TenantId, u64)> = heavy.iter().map(|tenant| (tenant.id, 8 << 30)).collect();
    catalog.record_sizes(&sizes).await.unwrap();
    let limits = Limits::default();
    let even = plan(&inventory(catalog).await.unwrap(), Goal::Even, &limits);
    assert_eq!(even.moves.len(), 1, "one of the two large ones: {even:?}");
    let begun = begin(catalog, &even, &limits, ACTOR).await.unwrap();
    let mut rebalancing = Rebalancing::default();
    rebalancing.advance(catalog).await.unwrap();
    let first = live(catalog).await.remove(0);
    assert_eq!(
        (first.kind, first.source, first.destination),
        (MoveKind::Rebalance, s1, s2)
    );
    end(catalog, lease, &first, MoveState::Aborted).await;
    rebalancing.advance(catalog).await.unwrap();
    assert_eq!(live(catalog).await, [], "not at once");
    let waiting = catalog.rebalance(begun.id).await.unwrap().waiting.unwrap();
    assert!(
        waiting.contains("another attempt") && waiting.contains("the disk is full"),
        "{waiting}"
    );
    // The time of the failure is put back instead of waiting.
    let psql = fleet.catalog_session().await.unwrap();
    let earlier = "UPDATE tenantry.move SET finished_at = finished_at - interval '10 minutes'";
    psql.batch_execute(earlier).await.unwrap();
    rebalancing.advance(catalog).await.unwrap();
    let second = live(catalog).await.remove(0);
    end(catalog, lease, &second, MoveState::RolledBack).await;
    rebalancing.advance(catalog).await.unwrap();
    assert_eq!(
        catalog.rebalance(begun.id).await.unwrap().state,
        RebalanceState::Failed,
        "an operator took it back"
    );

    let again = begin(catalog, &even, &limits, ACTOR).await.unwrap();
    let pin = "INSERT INTO tenantry.pin (tenant, shard, reason) VALUES ($1::text::tenantry.tenant_key, $2, 'manual')";
    let tenant = fleet.id_text(even.moves[0].tenant);
    psql.execute("DELETE FROM tenantry.pin", &[]).await.unwrap();
    psql.execute(pin, &[&tenant, &s2]).await.unwrap();
    rebalancing.advance(catalog).await.unwrap();
    let passed = catalog.rebalance_moves(again.id).await.unwrap().remove(0);
    assert_eq!(passed.skipped.as_deref(), Some("it lives there already"));
    rebalancing.advance(catalog).await.unwrap();
    assert_eq!(
        catalog.rebalance(again.id).await.unwrap().state,
        RebalanceState::Done
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_rebalancing_ends_with_the_moves_that_are_under_way() {
    let fleet = Fleet::builder()
        .shards(2)
        .tenants(12)
        .start()
        .await
        .unwrap();
    let catalog = fleet.catalog();
    let lease = lead(catalog).await;
    let drained = fleet.shard(0).id();
    catalog
        .set_shard_state(drained, ShardState::Draining)
        .await
        .unwrap();
    let limits = Limits {
        per_shard_max: 1,
        ..Limits::default()
    };
    let all = plan(
        &inventory(catalog).await.unwrap(),
        Goal::Drain(drained),
        &limits,
    );
    assert!(all.moves.len() > 1);
    let begun = begin(catalog, &all, &limits, ACTOR).await.unwrap();
    let mut rebalancing = Rebalancing::default();
    rebalancing.advance(catalog).await.unwrap();
    let waiting = catalog.rebalance(begun.id).await.unwrap().waiting.unwrap();
    assert!(waiting.contains("for a free place"), "{waiting}");
    catalog.stop_rebalance(begun.id, ACTOR).await.unwrap();
    rebalancing.advance(catalog).await.unwrap();
    assert_eq!(
        catalog.rebalance(begun.id).await.unwrap().state,
        RebalanceState::Stopping
    );
    let moves = live(catalog).await;
    assert_eq!(moves.len(), 1);
    end(catalog, lease, &moves[0], MoveState::Done).await;
    rebalancing.advance(catalog).await.unwrap();
    assert_eq!(
        catalog.rebalance(begun.id).await.unwrap().state,
        RebalanceState::Stopped
    );
    assert_eq!(live(catalog).await, []);
}

/// Tells of two tenants that use a shard.
async fn tell(catalog: &Catalog, shard: ShardId, hot: (TenantId, f32), other: (TenantId, f32)) {
    let name = "router-1";
    let router = catalog
        .register_router(NewRouter {
            name,
            ..NewRouter::default()
        })
        .await
        .unwrap();
    let tenant = |(tenant, busy): (TenantId, f32)| TenantLoad {
        tenant,
        shard: Some(shard),
        total: LoadTotals::default(),
        busy,
        transactions: busy * 100.0,
        asked: LoadAsked::default(),
    };
    let load = RouterLoad {
        covers: Duration::from_secs(1),
        shards: vec![ShardLoad {
            shard,
            busy: hot.1 + other.1,
            transactions: 10.0,
        }],
        tenants: vec![tenant(hot), tenant(other)],
    };
    catalog.publish_load(router, &load, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_tenant_is_recommended_then_isolated_and_returns() {
    let fleet = Fleet::builder()
        .shards(1)
        .spares(1)
        .tenants(2)
        .start()
        .await
        .unwrap();
    let catalog = fleet.catalog();
    let lease = lead(catalog).await;
    let (home, spare) = (fleet.shard(0).id(), fleet.shard(1).id());
    let (hot, other) = (fleet.tenants()[0].id, fleet.tenants()[1].id);
    let heat = |is_hot, shard| HeatChange {
        tenant: hot,
        shard,
        is_hot,
        evidence: json!({}),
    };
    catalog.record_heat(&[heat(true, home)]).await.unwrap();
    tell(catalog, home, (hot, 8.0), (other, 1.0)).await;
    let set = async |policy| catalog.set_isolation_policy(&policy, ACTOR).await.unwrap();
    let acts = async || {
        let events = catalog.isolation_events(20).await.unwrap();
        events
            .into_iter()
            .map(|event| format!("{} {} {}", event.mode, event.act, event.rule))
            .collect::<Vec<_>>()
    };
    // What the rebalancer was configured with holds until the catalog says otherwise.
    let mut isolation = Isolation::new(Policy {
        mode: Mode::Off,
        hot_for_s: 0,
        ..Policy::default()
    });
    isolation.advance(catalog).await.unwrap();
    assert_eq!(acts().await, Vec::<String>::new());
    set(json!({"mode": "recommend"})).await;
    for _ in 0..3 {
        isolation.advance(catalog).await.unwrap();
    }
    assert_eq!(acts().await, ["recommend isolate spare"], "once");
    assert_eq!(live(catalog).await, []);

    set(json!({"mode": "act", "cool_down_s": 0, "cold_for_s": 0})).await;
    isolation.advance(catalog).await.unwrap();
    let moved = live(catalog).await.remove(0);
    assert_eq!(
        (moved.kind, moved.destination, &*moved.actor),
        (MoveKind::Isolate, spare, ISOLATION_ACTOR)
    );
    isolation.advance(catalog).await.unwrap();
    assert_eq!(
        acts().await,
        [
            "act wait obstacle",
            "act isolate spare",
            "recommend isolate spare"
        ]
    );
    end(catalog, lease, &moved, MoveState::Done).await;
    let kind = async || catalog.shard("spare1").await.unwrap().kind.as_str();
    assert_eq!(kind().await, "dedicated");

    // On its own shard it is hot as long as it likes; when it is cold it returns.
    isolation.advance(catalog).await.unwrap();
    assert_eq!(live(catalog).await, []);
    catalog.record_heat(&[heat(false, spare)]).await.unwrap();
    tell(catalog, spare, (hot, 0.1), (other, 0.0)).await;
    isolation.advance(catalog).await.unwrap();
    let back = live(catalog).await.remove(0);
    assert_eq!(
        (back.kind, back.source, back.destination),
        (MoveKind::Move, spare, home)
    );
    end(catalog, lease, &back, MoveState::Done).await;
    assert_eq!(kind().await, "spare");
    assert_eq!(
        catalog.tenant_by_id(hot).await.unwrap().pin,
        None,
        "the ring has it again"
    );

    set(json!({"mode": "act", "busy_minimum": 1})).await;
    let error = isolation.advance(catalog).await.unwrap_err();
    assert!(
        tenantry_schema::causes::one_line(&error).contains("busy_minimum"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_weighed_by_samples() {
    let fleet = Fleet::builder().shards(1).tenants(4).start().await.unwrap();
    let shard = fleet.shard(0);
    let admin = shard.admin().await.unwrap();
    let ids: Vec<String> = fleet
        .tenants()
        .iter()
        .map(|tenant| fleet.id_text(tenant.id))
        .collect();
    // The first has nine times what the second has, in a table that is read in part only; the third has a few rows.
    let fill = format!(
        "SET ROLE tenantry_owner; CREATE TABLE big (tenant_id bigint NOT NULL, id bigint, filler text, PRIMARY KEY (tenant_id, id)); \
         INSERT INTO big SELECT CASE WHEN g % 10 = 0 THEN {1} ELSE {0} END, g, repeat('x', 500) FROM generate_series(1, 60000) g; \
         CREATE TABLE parted (tenant_id bigint NOT NULL, id bigint, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id); \
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000); \
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (1000) TO (2000); \
         INSERT INTO parted SELECT {2}, g FROM generate_series(1, 1999) g; \
         CREATE TABLE nobodys (tenant_id bigint, id bigint)",
        ids[0], ids[1], ids[2]
    );
    admin.batch_execute(&fill).await.unwrap();
    let endpoint = ShardEndpoint {
        id: shard.id(),
        name: shard.name().clone(),
        address: shard.shard().address.clone(),
        password: shard.secrets().passwords.agent.clone(),
    };
    let settings = fleet.settings();
    let sizes = weigh_shard(&endpoint, settings.tenant_key, &settings.tenant_column)
        .await
        .unwrap();
    let size = |index: usize| {
        let found = sizes
            .iter()
            .find(|(id, _)| *id == fleet.tenants()[index].id);
        found.unwrap().1 as f64
    };
    let row = admin
        .query_one(
            "SELECT pg_total_relation_size('big')::float8, pg_relation_size('big')::float8",
            &[],
        )
        .await
        .unwrap();
    let (total, heap): (f64, f64) = (row.get(0), row.get(1));
    assert!(
        heap > 2048.0 * 8192.0 * 1.5,
        "the table is larger than a sample"
    );
    let near = |found: f64, expected: f64| (0.8..1.25).contains(&(found / expected));
    assert!(near(size(0), total * 0.9), "{} of {total}", size(0));
    assert!(near(size(1), total * 0.1), "{} of {total}", size(1));
    let parted =
        "SELECT sum(pg_total_relation_size(relid))::float8 FROM pg_partition_tree('parted')";
    let parted: f64 = admin.query_one(parted, &[]).await.unwrap().get(0);
    assert_eq!(size(2), parted, "small tables are counted");
    assert_eq!(size(3), 0.0);
}
