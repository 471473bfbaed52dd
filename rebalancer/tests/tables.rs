//! What a tenant consists of, as read from real servers.
#![allow(clippy::unwrap_used)]

mod common;

use common::{define, define_on_both, fleet, read, table};
use tenantry_rebalancer::tables::{Column, list};

fn names<'a>(columns: impl Iterator<Item = &'a Column>) -> Vec<&'a str> {
    columns.map(|column| column.name.as_str()).collect()
}

#[tokio::test]
async fn the_storefront_is_read_and_is_the_same_on_both_shards() {
    let fleet = fleet().await;
    let (one, two) = (read(fleet.shard(0)).await, read(fleet.shard(1)).await);
    assert_eq!(one.shape, two.shape);
    assert_eq!(one.fingerprint, two.fingerprint);
    assert!(one.tables.len() > 10);
    for table in &one.tables {
        assert_eq!(table.tenant_column().name, "tenant_id", "{}", table.name);
        assert!(table.key.contains(&table.tenant), "{}", table.name);
        assert!(table.binary(), "{}", table.name);
    }
    let products = table(&one, "products");
    assert_eq!(products.relation(), "public.products");
    assert!(!names(products.written()).contains(&"search"));
    assert_eq!(names(products.inner_key()), ["id"]);
}

#[tokio::test]
async fn every_shape_of_a_table_is_described() {
    let fleet = fleet().await;
    define(
        fleet.shard(0),
        r#"
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE DOMAIN feeling AS mood;
        CREATE TYPE pair AS (a integer, b mood);
        CREATE TABLE "Odd ""Name""" (
            gone integer, "Tenant" integer, "order" bigint GENERATED ALWAYS AS IDENTITY, tenant_id bigint NOT NULL,
            counter serial, twice integer GENERATED ALWAYS AS (counter * 2) STORED, m mood, f feeling,
            PRIMARY KEY ("order", tenant_id));
        ALTER TABLE "Odd ""Name""" DROP COLUMN gone;
        CREATE TABLE arrays (tenant_id bigint NOT NULL, id int, a mood[], PRIMARY KEY (tenant_id, id));
        CREATE TABLE domains (tenant_id bigint NOT NULL, id int, a feeling[], PRIMARY KEY (tenant_id, id));
        CREATE TABLE composites (tenant_id bigint NOT NULL, id int, a pair, PRIMARY KEY (tenant_id, id));
        CREATE TABLE names (tenant_id bigint NOT NULL, id int, a regclass, PRIMARY KEY (tenant_id, id));
        CREATE TABLE rights (tenant_id bigint NOT NULL, id int, a aclitem, PRIMARY KEY (tenant_id, id));
        CREATE TABLE plain (tenant_id bigint NOT NULL, id int, a int[], r int8range, m nummultirange, PRIMARY KEY (tenant_id, id));
        CREATE TABLE keyless (tenant_id bigint NOT NULL, id int);
        CREATE TABLE deferred (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id) DEFERRABLE);
        CREATE TABLE by_index (tenant_id bigint NOT NULL, id int PRIMARY KEY, code text NOT NULL, extra int);
        CREATE UNIQUE INDEX by_index_code ON by_index (tenant_id, code) INCLUDE (extra);
        ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code;
        CREATE TABLE nothing (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id));
        ALTER TABLE nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE whole (tenant_id bigint NOT NULL, id int, PRIMARY KEY (tenant_id, id));
        ALTER TABLE whole REPLICA IDENTITY FULL;
        CREATE TABLE parts (tenant_id bigint NOT NULL, day date, id int, PRIMARY KEY (tenant_id, day, id)) PARTITION BY RANGE (day);
        CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        CREATE TABLE elsewhere (id bigint PRIMARY KEY, tenant text);
        "#,
    )
    .await;
    let tables = read(fleet.shard(0)).await;

    let odd = table(&tables, "Odd \"Name\"");
    assert_eq!(odd.relation(), r#"public."Odd ""Name""""#);
    assert_eq!(
        names(odd.columns.iter()),
        ["Tenant", "order", "tenant_id", "counter", "twice", "m", "f"]
    );
    assert_eq!(odd.tenant, 2);
    assert_eq!(odd.key, [1, 2]);
    assert!(odd.columns[1].identity && !odd.columns[3].identity);
    assert_eq!(
        list(odd.written()),
        r#""Tenant", "order", tenant_id, counter, m, f"#
    );
    assert!(odd.binary(), "an enum travels as its label");
    let sequences: Vec<_> = odd.sequences.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        sequences,
        ["Odd \"Name\"_counter_seq", "Odd \"Name\"_order_seq"]
    );

    for name in ["arrays", "domains", "composites", "names", "rights"] {
        assert!(!table(&tables, name).binary(), "{name} contains oids");
    }
    assert!(table(&tables, "plain").binary());
    for name in ["keyless", "deferred", "nothing"] {
        assert_eq!(table(&tables, name).key, [0_usize; 0], "{name}");
    }
    assert_eq!(names(table(&tables, "by_index").inner_key()), ["code"]);
    assert_eq!(names(table(&tables, "whole").inner_key()), ["id"]);
    let parts = table(&tables, "parts");
    assert!(parts.partitioned);
    assert_eq!(names(parts.inner_key()), ["day", "id"]);
    for absent in ["part_1", "elsewhere"] {
        assert!(tables.tables.iter().all(|table| table.name != absent));
    }
}

#[tokio::test]
async fn the_fingerprint_tells_what_matters_from_what_does_not() {
    let fleet = fleet().await;
    define_on_both(
        &fleet,
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE things (tenant_id bigint NOT NULL, id int, m mood[], PRIMARY KEY (tenant_id, id))",
    )
    .await;
    let shard = fleet.shard(1);
    let base = read(fleet.shard(0)).await;
    assert_eq!(base.fingerprint, read(shard).await.fingerprint);

    // Another place of a column, a table of nobody, another owner's grant.
    define(
        shard,
        "ALTER TABLE things ADD COLUMN m2 mood[]; ALTER TABLE things DROP COLUMN m; ALTER TABLE things RENAME m2 TO m;
         CREATE TABLE other (id int); GRANT SELECT ON things TO tenantry_operator",
    )
    .await;
    assert_eq!(base.shape, read(shard).await.shape);

    for (change, undo) in [
        (
            "ALTER TABLE things ADD COLUMN x int",
            "ALTER TABLE things DROP COLUMN x",
        ),
        (
            "ALTER TABLE things ALTER COLUMN id TYPE bigint",
            "ALTER TABLE things ALTER COLUMN id TYPE int",
        ),
        (
            "ALTER TABLE things ALTER COLUMN m SET NOT NULL",
            "ALTER TABLE things ALTER COLUMN m DROP NOT NULL",
        ),
        (
            "ALTER TABLE things ADD CONSTRAINT c CHECK (id > 0)",
            "ALTER TABLE things DROP CONSTRAINT c",
        ),
        (
            "CREATE INDEX things_m ON things (tenant_id, m)",
            "DROP INDEX things_m",
        ),
        (
            "ALTER TABLE things REPLICA IDENTITY FULL",
            "ALTER TABLE things REPLICA IDENTITY DEFAULT",
        ),
        (
            "CREATE TRIGGER t BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER t ON things",
        ),
        (
            "CREATE TABLE more (tenant_id bigint NOT NULL)",
            "DROP TABLE more",
        ),
    ] {
        define(shard, change).await;
        assert_ne!(base.fingerprint, read(shard).await.fingerprint, "{change}");
        define(shard, undo).await;
        assert_eq!(base.shape, read(shard).await.shape, "{undo}");
    }
    define(shard, "ALTER TYPE mood ADD VALUE 'great'").await;
    assert_ne!(base.fingerprint, read(shard).await.fingerprint);
}
