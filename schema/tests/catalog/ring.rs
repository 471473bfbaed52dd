//! Ring changes move nobody.

use std::collections::BTreeMap;

use tenantry_schema::catalog::{Catalog, CatalogError, Changes, NewShard};
use tenantry_schema::change::ChangeBody;
use tenantry_schema::fleet::Fleet;
use tenantry_schema::shard::{ShardId, ShardKind, ShardState};
use tenantry_schema::tenant::{TenantId, TenantKey};

use crate::fixture::{Fixture, assert_same, new_shard, refusal};

fn placements(fleet: &Fleet) -> BTreeMap<TenantId, (ShardId, u64)> {
    let placed = fleet
        .directory
        .tenants()
        .filter_map(|tenant| Some((tenant.id, fleet.place(&tenant)?)));
    placed
        .map(|(id, placement)| (id, (placement.shard, placement.epoch.0)))
        .collect()
}

async fn groups_after(
    catalog: &Catalog,
    sequence: u64,
) -> Vec<tenantry_schema::change::ChangeGroup> {
    match catalog.changes_after(sequence).await.unwrap() {
        Changes::Groups(groups) => groups,
        Changes::Reload(why) => panic!("reload: {why}"),
    }
}

#[tokio::test]
async fn adding_weighing_draining_and_returning_keep_every_placement() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fixture = Fixture::new(key).await;
        let catalog = &fixture.catalog;
        for name in ["s1", "s2"] {
            fixture.add_shard(name).await;
        }
        let psql = fixture.psql().await;
        let insert =
            "INSERT INTO tenantry.tenant (slug) SELECT 't' || g FROM generate_series(1, 1000) g";
        psql.batch_execute(insert).await.unwrap();
        let mut fleet = catalog.load_fleet().await.unwrap();
        let before = placements(&fleet);
        assert_eq!(before.len(), 1000);

        let added = catalog.add_shard(new_shard("s3")).await.unwrap();
        assert!((200..=500).contains(&added.pinned), "{}", added.pinned);
        // The shard, the pins and the ring: one transaction, one bulk change, and never the ring alone.
        let groups = groups_after(catalog, fleet.sequence).await;
        assert_eq!(groups.len(), 1);
        let kinds: Vec<_> = groups[0].changes.iter().map(ChangeBody::kind).collect();
        assert_eq!(kinds, ["shard", "bulk_pins", "ring"]);

        catalog.set_shard_weight(added.shard.id, 5).await.unwrap();
        let drained = catalog
            .set_shard_state(
                fleet.shards.keys().next().copied().unwrap(),
                ShardState::Draining,
            )
            .await
            .unwrap();
        catalog
            .set_shard_state(drained.shard.id, ShardState::Active)
            .await
            .unwrap();
        for group in groups_after(catalog, fleet.sequence).await {
            fleet = fleet.apply(&group).unwrap();
            assert_eq!(placements(&fleet), before);
        }
        assert_same(&fleet, &catalog.load_fleet().await.unwrap());

        // New tenants follow the new ring, pinned ones do not.
        let ring = catalog.ring().await.unwrap();
        assert_eq!(
            ring.members()
                .iter()
                .map(|member| member.weight)
                .collect::<Vec<_>>(),
            [1, 1, 5]
        );
        for number in 0..20 {
            let tenant = fixture.create(&format!("new{number}")).await;
            assert_eq!(
                catalog.locate(&tenant).await.unwrap().unwrap().shard,
                ring.shard_of(tenant.id).unwrap()
            );
        }
    }
}

#[tokio::test]
async fn spares_dedicated_shards_and_weight_zero_stay_off_the_ring() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let tenant = fixture.create("early").await;
    assert_eq!(catalog.locate(&tenant).await.unwrap(), None);
    for (name, kind, weight) in [
        ("d1", ShardKind::Dedicated, 1),
        ("e1", ShardKind::Spare, 1),
        ("z1", ShardKind::Shared, 0),
    ] {
        catalog
            .add_shard(NewShard {
                kind,
                weight,
                ..new_shard(name)
            })
            .await
            .unwrap();
    }
    assert!(catalog.ring().await.unwrap().is_empty());
    let added = catalog.add_shard(new_shard("s1")).await.unwrap();
    // Who lived nowhere lives where the first ring says.
    assert_eq!(added.pinned, 0);
    assert_eq!(
        catalog.locate(&tenant).await.unwrap().unwrap().shard,
        added.shard.id
    );
}

#[tokio::test]
async fn a_ring_change_waits_for_tenants_that_are_being_created_by_hand() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.add_shard("s1").await;
    let psql = fixture.psql().await;
    psql.batch_execute("BEGIN").await.unwrap();
    let insert =
        "INSERT INTO tenantry.tenant (slug) SELECT 't' || g FROM generate_series(1, 100) g";
    psql.batch_execute(insert).await.unwrap();
    let adding = tokio::spawn({
        let catalog = Catalog::connect(&fixture.url()).await.unwrap();
        async move { catalog.add_shard(new_shard("s2")).await }
    });
    let watcher = fixture.psql().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'";
    while watcher
        .query_one(waits, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {
        tokio::task::yield_now().await;
    }
    psql.batch_execute("COMMIT").await.unwrap();
    let added = adding.await.unwrap().unwrap();
    assert!(
        added.pinned > 0,
        "the tenants of the open transaction were not seen"
    );
    let fleet = fixture.catalog.load_fleet().await.unwrap();
    let first = fleet.shard_named("s1").unwrap().id;
    assert!(
        placements(&fleet)
            .values()
            .all(|(shard, _)| *shard == first)
    );
}

#[tokio::test]
async fn a_ring_change_does_not_wait_forever_and_blocks_no_open_transaction() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let first = fixture.add_shard("s1").await;
    let holder = fixture.psql().await;
    holder
        .batch_execute("BEGIN; INSERT INTO tenantry.tenant (slug) VALUES ('slow')")
        .await
        .unwrap();
    // A transaction with its own, shorter patience, as an operator would have it.
    let psql = fixture.psql().await;
    psql.batch_execute("SET lock_timeout = '50ms'")
        .await
        .unwrap();
    let locked = refusal(&psql, "SELECT FROM tenantry.ring FOR UPDATE").await;
    assert!(locked.starts_with("55P03"), "{locked}");
    // Others create tenants meanwhile.
    fixture.create("quick").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let down = fixture
        .catalog
        .set_shard_state(first, ShardState::Down)
        .await
        .unwrap();
    assert_eq!(down.pinned, 1);
    let unknown = ShardId::new(99).unwrap();
    let missing = fixture
        .catalog
        .set_shard_state(unknown, ShardState::Down)
        .await;
    assert!(matches!(missing, Err(CatalogError::NotFound { .. })));
}
