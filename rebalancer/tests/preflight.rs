//! What cannot be moved is refused beforehand, with every reason at once.
#![allow(clippy::unwrap_used)]

mod common;

use common::{define, define_on_both, fleet, session};
use tenantry_rebalancer::preflight::{Preflight, PreflightRefusal, check};
use tenantry_testkit::Fleet;

async fn ask(fleet: &Fleet) -> Result<Preflight, PreflightRefusal> {
    let (source, destination) = (session(fleet.shard(0)).await, session(fleet.shard(1)).await);
    check(&source, &destination, "tenant_id", "42").await
}

async fn obstacles(fleet: &Fleet) -> Vec<String> {
    match ask(fleet).await.unwrap_err() {
        PreflightRefusal::Obstacles(found) => found.iter().map(ToString::to_string).collect(),
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn the_storefront_and_every_shape_may_move() {
    let fleet = fleet().await;
    define_on_both(&fleet, include_str!("shapes/tables.sql")).await;
    let source = session(fleet.shard(0)).await;
    let rows = include_str!("shapes/rows.sql").replace(":tenant", "42");
    source.batch_execute(&rows).await.unwrap();
    source.batch_execute("ANALYZE").await.unwrap();
    let passed = ask(&fleet).await.unwrap();
    assert!(
        (1_500..4_000).contains(&passed.rows_estimate),
        "{}",
        passed.rows_estimate
    );
    assert!(passed.bytes_estimate > 100_000 && passed.disk_estimate > passed.bytes_estimate);
    // The primary key beside the identity index may collide.
    assert!(
        passed
            .warnings
            .iter()
            .any(|w| w.contains("public.by_index_pkey")),
        "{:?}",
        passed.warnings
    );
}

#[tokio::test]
async fn every_obstacle_is_named() {
    let fleet = fleet().await;
    let tables = [
        ("CREATE TABLE t (tenant_id bigint NOT NULL, id int)", "has no key"),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id) DEFERRABLE)",
            "has no key",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int PRIMARY KEY)",
            "without the tenant column",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id)); ALTER TABLE t REPLICA IDENTITY NOTHING",
            "has no key",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int); ALTER TABLE t REPLICA IDENTITY FULL",
            "REPLICA IDENTITY FULL and no primary key",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, kind regtype[], PRIMARY KEY (tenant_id, kind))",
            "whose order is another on each server",
        ),
        (
            "CREATE UNLOGGED TABLE t (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id))",
            "is unlogged",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id));
             CREATE TABLE t_child (PRIMARY KEY (tenant_id, id)) INHERITS (t)",
            "inherits from it",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id));
             CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
             ALTER TABLE t ENABLE ALWAYS TRIGGER g",
            "fires for copied rows too (ENABLE ALWAYS)",
        ),
        (
            "CREATE TABLE t (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (id);
             CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             ALTER TABLE t_0 REPLICA IDENTITY NOTHING",
            "public.t_0: has no key",
        ),
    ];
    for (create, told) in tables {
        define_on_both(&fleet, create).await;
        let found = obstacles(&fleet).await;
        assert!(
            found.iter().any(|text| text.contains(told)),
            "{create}: {found:?}"
        );
        define_on_both(&fleet, "DROP TABLE t CASCADE").await;
    }
    ask(&fleet).await.unwrap();

    define(
        fleet.shard(1),
        "CREATE TABLE t (tenant_id bigint PRIMARY KEY)",
    )
    .await;
    let found = obstacles(&fleet).await;
    assert!(
        found
            .iter()
            .all(|text| text.contains("only the destination has this")),
        "{found:?}"
    );
    // A table of another owner.
    define(fleet.shard(1), "DROP TABLE t").await;
    for shard in fleet.shards() {
        let admin = shard.admin().await.unwrap();
        admin
            .batch_execute("CREATE TABLE t (tenant_id bigint PRIMARY KEY)")
            .await
            .unwrap();
    }
    let found = obstacles(&fleet).await;
    assert!(
        found.iter().all(|text| text.contains("no member of")),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_decode_or_has_no_slot_is_named() {
    let fleet = Fleet::builder()
        .agent(false)
        .setting("max_replication_slots", 1)
        .start()
        .await
        .unwrap();
    let found = obstacles(&fleet).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .all(|text| text.contains("1 left of max_replication_slots"))
    );

    // The same database under another name.
    let one = session(fleet.shard(0)).await;
    let again = session(fleet.shard(0)).await;
    let error = check(&one, &again, "tenant_id", "42").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is the same database as the source"),
        "{error}"
    );
}
