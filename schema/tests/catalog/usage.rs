//! Load told by several routers is one load, and who is hot is recorded once.

use std::time::Duration;

use serde_json::json;
use tenantry_schema::catalog::{
    Catalog, CatalogError, HeatChange, LoadAsked, LoadTotals, NewRouter, RouterId, RouterLoad,
    ShardLoad, TenantLoad,
};
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{TenantId, TenantKey};

use crate::fixture::Fixture;

async fn router(catalog: &Catalog, name: &str) -> RouterId {
    let router = NewRouter {
        name,
        ..NewRouter::default()
    };
    catalog.register_router(router).await.unwrap()
}

fn load(tenant: TenantId, shard: ShardId, busy: f32) -> TenantLoad {
    TenantLoad {
        tenant,
        shard: Some(shard),
        total: LoadTotals {
            statements: 10,
            rows: 70,
            busy_us: 1_000_000,
            ..LoadTotals::default()
        },
        busy,
        transactions: busy * 100.0,
        asked: LoadAsked {
            queries: busy * 200.0,
            transactions: 3,
            connections: 2,
            held: 1,
        },
    }
}

fn told(shard: ShardId, busy: f32, tenants: Vec<TenantLoad>) -> RouterLoad {
    RouterLoad {
        covers: Duration::from_secs(1),
        shards: vec![ShardLoad {
            shard,
            busy,
            transactions: 1.0,
        }],
        tenants,
    }
}

#[tokio::test]
async fn what_routers_tell_is_added_up() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fixture = Fixture::new(key).await;
        let catalog = &fixture.catalog;
        let shard = fixture.add_shard("s1").await;
        let (one, two) = (fixture.create("one").await, fixture.create("two").await);
        let (a, b) = (router(catalog, "a").await, router(catalog, "b").await);

        let first = told(
            shard,
            4.0,
            vec![load(one.id, shard, 3.0), load(two.id, shard, 0.5)],
        );
        let demand = catalog.publish_load(a, &first, &[one.id]).await.unwrap();
        assert_eq!(demand.routers, [a]);
        let second = told(shard, 2.0, vec![load(one.id, shard, 1.5)]);
        let demand = catalog.publish_load(b, &second, &[one.id]).await.unwrap();
        assert_eq!(demand.routers, [a, b]);
        let mut asked = demand.asked;
        asked.sort_by_key(|(_, router, _)| *router);
        assert_eq!(asked.len(), 2);
        assert_eq!((asked[0].1, asked[0].2.queries), (a, 600.0));
        assert_eq!((asked[1].1, asked[1].2.held), (b, 1));

        let top = catalog.top_tenants(5).await.unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!((top[0].slug.as_str(), top[0].busy), ("one", 4.5));
        assert_eq!(top[0].total.rows, 140);
        assert_eq!(top[0].shard.as_deref(), Some("s1"));
        assert_eq!(top[1].total.busy_us, 1_000_000);
        let shards = catalog.merged_shards(1).await.unwrap();
        assert_eq!((shards[0].shard, shards[0].busy), (shard, 6.0));
        assert_eq!(shards[0].tenants, [(one.id, 4.5, 450.0)]);

        // Who is not named any more does nothing now; what it did stays known.
        let third = told(shard, 0.5, vec![load(two.id, shard, 0.5)]);
        catalog.publish_load(a, &third, &[]).await.unwrap();
        let shards = catalog.merged_shards(8).await.unwrap();
        assert_eq!(shards[0].busy, 2.5);
        assert_eq!(shards[0].tenants[0], (one.id, 1.5, 150.0));
        assert_eq!(catalog.top_tenants(1).await.unwrap()[0].total.rows, 140);

        // With a router goes what it told.
        catalog.unregister_router(b).await.unwrap();
        assert_eq!(catalog.merged_shards(8).await.unwrap()[0].busy, 0.5);
        let stranger = catalog.publish_load(b, &second, &[]).await.unwrap_err();
        assert!(
            matches!(stranger, CatalogError::NotFound { .. }),
            "{stranger}"
        );
    }
}

#[tokio::test]
async fn heat_is_recorded_once_by_one_watcher() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let shard = fixture.add_shard("s1").await;
    let tenant = fixture.create("one").await;
    let turned = |is_hot| HeatChange {
        tenant: tenant.id,
        shard,
        is_hot,
        evidence: json!({"share": 0.5}),
    };
    for is_hot in [false, true, true, false, false, true] {
        catalog.record_heat(&[turned(is_hot)]).await.unwrap();
    }
    let gone = HeatChange {
        tenant: TenantId::from_bigint(999).unwrap(),
        ..turned(true)
    };
    catalog.record_heat(&[gone]).await.unwrap();
    let events = catalog.heat_events(10).await.unwrap();
    let states: Vec<bool> = events.iter().map(|event| event.is_hot).collect();
    assert_eq!(states, [true, false, true]);
    let hot = catalog.hot_tenants().await.unwrap();
    assert_eq!((hot.len(), hot[0].tenant), (1, tenant.id));
    assert_eq!(hot[0].evidence, json!({"share": 0.5}));

    // Neither old events nor too many are kept.
    assert_eq!(catalog.trim_heat().await.unwrap(), 0);
    let psql = fixture.psql().await;
    psql.batch_execute(
        "UPDATE tenantry.heat_event SET at = now() - interval '91 days'
          WHERE id = (SELECT min(id) FROM tenantry.heat_event)",
    )
    .await
    .unwrap();
    assert_eq!(catalog.trim_heat().await.unwrap(), 1);
    psql.batch_execute(
        "INSERT INTO tenantry.heat_event (tenant, shard, state, evidence)
         SELECT tenant, shard, state, '{}' FROM tenantry.heat_event e, generate_series(1, 50000) n",
    )
    .await
    .unwrap();
    assert_eq!(catalog.trim_heat().await.unwrap(), 2);
    assert_eq!(catalog.heat_events(1).await.unwrap().len(), 1);

    let other = Catalog::connect(&fixture.url()).await.unwrap();
    assert!(catalog.watches_heat().await.unwrap());
    assert!(catalog.watches_heat().await.unwrap());
    assert!(!other.watches_heat().await.unwrap());
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'";
    psql.batch_execute(end).await.unwrap();
    // The lock goes when the backend does.
    while !other.watches_heat().await.unwrap() {
        tokio::task::yield_now().await;
    }
}
