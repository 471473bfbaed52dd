//! A tenant's rows are deleted where the tenant does not live, and nowhere else; sequences only move forward.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/moving.rs"]
mod moving;

use std::time::Duration;

use common::{define_on_both, endpoint, fleet, session, text};
use moving::{Moving, OTHER, TENANT};
use tenantry_rebalancer::clean::{CleanError, Standing, vacuum};
use tenantry_rebalancer::sequences::{SequenceError, advance};
use uuid::Uuid;

const WAIT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn the_tenants_rows_go_and_the_others_stay() {
    let fleet = fleet().await;
    define_on_both(&fleet, include_str!("shapes/tables.sql")).await;
    define_on_both(
        &fleet,
        "CREATE TABLE items (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id));
         CREATE TABLE reasons (tenant_id bigint NOT NULL, id int, item int, PRIMARY KEY (tenant_id, id),
             FOREIGN KEY (tenant_id, item) REFERENCES items);
         CREATE TRIGGER noted AFTER DELETE ON items FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    let moving = Moving::start(fleet).await;
    for tenant in [TENANT, OTHER] {
        let rows = include_str!("shapes/rows.sql").replace(":tenant", tenant);
        moving.source.batch_execute(&rows).await.unwrap();
        moving
            .source
            .batch_execute(&format!(
                "INSERT INTO public.items SELECT {tenant}, i FROM generate_series(1, 12000) i;
                 INSERT INTO public.reasons SELECT {tenant}, i, i FROM generate_series(1, 3) i"
            ))
            .await
            .unwrap();
    }
    let of_others = moving.rows(&moving.source, OTHER).await;
    let rows = moving.rows(&moving.source, TENANT).await;
    let fired = text(&moving.source, "SELECT count(*) FROM public.fired").await;

    // The tenant lives there: nothing may be deleted.
    for standing in [Standing::Moved, Standing::Importing] {
        let refused = moving.clean(0, standing).await.unwrap_err();
        assert!(matches!(refused, CleanError::NoWarrant { .. }), "{refused}");
    }
    assert_eq!(moving.rows(&moving.source, TENANT).await, rows);

    let nonce = Uuid::now_v7();
    let moved = format!(
        "SELECT tenantry.fence({TENANT}, '{0}', '{nonce}', '{nonce}', 1, '1 min'); SELECT tenantry.hand_over({TENANT}, '{0}', 2, 2::smallint)",
        moving.move_id
    );
    moving.source.batch_execute(&moved).await.unwrap();
    assert_eq!(
        moving.clean(0, Standing::Moved).await.unwrap(),
        rows.unsigned_abs()
    );
    assert_eq!(moving.rows(&moving.source, TENANT).await, 0);
    assert_eq!(moving.rows(&moving.source, OTHER).await, of_others);
    assert_eq!(
        text(&moving.source, "SELECT count(*) FROM public.fired").await,
        fired,
        "a trigger fired"
    );
    assert_eq!(moving.clean(0, Standing::Moved).await.unwrap(), 0);
    vacuum(&endpoint(moving.fleet.shard(0)), &moving.tables)
        .await
        .unwrap();
    let dead = "SELECT last_vacuum IS NOT NULL FROM pg_stat_get_last_vacuum_time('public.items'::regclass) v (last_vacuum)";
    assert_eq!(text(&moving.source, dead).await, "true");
}

#[tokio::test]
async fn sequences_move_forward_and_only_if_they_must() {
    let fleet = fleet().await;
    define_on_both(
        &fleet,
        "CREATE TABLE a (tenant_id bigint NOT NULL, id serial, PRIMARY KEY (tenant_id, id));
         CREATE TABLE b (tenant_id bigint NOT NULL, id int GENERATED ALWAYS AS IDENTITY (INCREMENT -2 MINVALUE -1000 START -1), PRIMARY KEY (tenant_id, id));
         CREATE SEQUENCE \"Shared Seq\" MAXVALUE 30;
         CREATE TABLE c (tenant_id bigint NOT NULL, id int DEFAULT nextval('\"Shared Seq\"'), PRIMARY KEY (tenant_id, id));
         CREATE TABLE unused (tenant_id bigint NOT NULL, id serial, PRIMARY KEY (tenant_id, id))",
    )
    .await;
    let moving = Moving::start(fleet).await;
    let (source, mut destination) = (
        session(moving.fleet.shard(0)).await,
        session(moving.fleet.shard(1)).await,
    );
    let take = |table: &str, count: u32| {
        format!(
            "INSERT INTO public.{table} (tenant_id) SELECT {TENANT} FROM generate_series(1, {count})"
        )
    };
    for (table, count) in [("a", 100), ("b", 10), ("c", 7)] {
        source.batch_execute(&take(table, count)).await.unwrap();
    }
    destination.batch_execute(&take("a", 5)).await.unwrap();
    destination.batch_execute(&take("c", 20)).await.unwrap();

    let tables = &moving.tables;
    assert_eq!(
        advance(&source, &mut destination, tables, 10, WAIT)
            .await
            .unwrap(),
        2
    );
    let next = async |table: &str| {
        let insert =
            format!("INSERT INTO public.{table} (tenant_id) VALUES ({OTHER}) RETURNING id");
        destination
            .query_one(&insert, &[])
            .await
            .unwrap()
            .get::<_, i32>(0)
    };
    assert_eq!(next("a").await, 111);
    // Bounded by the room that is left: 978 values of -2.
    assert_eq!(next("b").await, -19 - 9 - 2);
    assert_eq!(next("c").await, 21, "it was ahead already");
    assert_eq!(next("unused").await, 1);
    // In the pause there is nothing left to do, and nothing moves.
    assert_eq!(
        advance(&source, &mut destination, tables, 0, WAIT)
            .await
            .unwrap(),
        0
    );

    // Somebody has taken a value in a transaction that is open: the wait is bounded.
    source.batch_execute(&take("a", 100)).await.unwrap();
    let holder = session(moving.fleet.shard(1)).await;
    holder
        .batch_execute("BEGIN; SELECT nextval('public.a_id_seq')")
        .await
        .unwrap();
    let error = advance(&source, &mut destination, tables, 0, WAIT)
        .await
        .unwrap_err();
    let SequenceError::Sql {
        sequence,
        source: cause,
    } = error
    else {
        unreachable!("{error:?}")
    };
    assert_eq!(sequence, "public.a_id_seq");
    assert_eq!(cause.code().unwrap().code(), "55P03");
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        advance(&source, &mut destination, tables, 0, WAIT)
            .await
            .unwrap(),
        1
    );

    // A sequence that ends too early says so.
    define_exhausted(&moving).await;
    let error = advance(&source, &mut destination, tables, 0, WAIT)
        .await
        .unwrap_err();
    assert!(
        matches!(error, SequenceError::Exhausted { needed: 40, .. }),
        "{error:?}"
    );
}

async fn define_exhausted(moving: &Moving) {
    common::define(
        moving.fleet.shard(0),
        "ALTER SEQUENCE \"Shared Seq\" MAXVALUE 100; SELECT setval('\"Shared Seq\"', 40)",
    )
    .await;
}
