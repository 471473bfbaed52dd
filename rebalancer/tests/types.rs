//! Values of every type that a column can have arrive as they are, in rows and in keys.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod streaming;

use std::fmt::Write as _;

use streaming::Moving;
use tenantry_schema::tenant::TenantKey;

/// Literals of every built-in type; of each the first two differ.
const VALUES: &[(&str, &[&str])] = &[
    ("aclitem", &["=r/postgres", "postgres=arwd*/postgres"]),
    ("bit", &["0", "1"]),
    ("bool", &["false", "true"]),
    (
        "box",
        &["(1,2),(-3,4.5)", "(0,0),(0,0)", "(1e-300,Infinity),(0,NaN)"],
    ),
    ("bpchar", &["a", "  b  ", "", "Ωé'\"\\"]),
    ("bytea", &["\\x", "\\x00ff5c27", "\\xdeadbeef"]),
    ("\"char\"", &["a", "\\\\", "\\377"]),
    ("cid", &["0", "4294967295"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("circle", &["<(1,2),3>", "<(0,0),1e-10>"]),
    (
        "date",
        &[
            "2026-02-28",
            "0044-03-15 BC",
            "infinity",
            "-infinity",
            "5874897-12-31",
        ],
    ),
    (
        "float4",
        &["0.1", "3.4028235e38", "-0", "NaN", "-Infinity", "1e-45"],
    ),
    (
        "float8",
        &[
            "0.1",
            "1.7976931348623157e308",
            "-0",
            "NaN",
            "Infinity",
            "5e-324",
            "0.30000000000000004",
        ],
    ),
    ("inet", &["10.1.2.3", "10.1.2.3/8", "::1"]),
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    (
        "interval",
        &[
            "1 year -2 mons 3 days -04:05:06.000001",
            "0",
            "-178000000 years",
        ],
    ),
    (
        "json",
        &["{\"a\" : 1, \"a\":2}", "null", "[\"\\u0041\\n\"]"],
    ),
    (
        "jsonb",
        &["{\"a\": [1, 1.10, null, \"x'\\\"y\"]}", "null", "1e400"],
    ),
    ("jsonpath", &["$.a[*] ? (@ > 1)", "strict $"]),
    ("line", &["{1,-1,0}", "{0.1,2,-3}"]),
    ("lseg", &["[(1,2),(3,4)]", "[(0,0),(0.1,-0.2)]"]),
    ("macaddr", &["08:00:2b:01:02:03", "00:00:00:00:00:00"]),
    (
        "macaddr8",
        &["08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00"],
    ),
    ("money", &["-1234567.89", "92233720368547758.07", "0"]),
    ("name", &["plain", "With \"quotes\" and '"]),
    (
        "numeric",
        &[
            "1.0",
            "1.00",
            "-0.000000000000000000001",
            "NaN",
            "Infinity",
            "1e400",
            "99999999999999999999.5",
        ],
    ),
    ("oid", &["0", "4294967295"]),
    ("path", &["((1,2),(3,4))", "[(0,0),(1,1),(2,0)]"]),
    ("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"]),
    ("pg_snapshot", &["10:20:10,14,15", "1:1:"]),
    ("point", &["(1,2)", "(-0,1e-300)", "(NaN,Infinity)"]),
    ("polygon", &["((0,0),(1,1),(2,0))", "((0.1,0.2))"]),
    ("refcursor", &["a", "un'named \"portal\""]),
    ("regclass", &["pg_catalog.pg_class", "public.every", "0"]),
    (
        "regcollation",
        &["pg_catalog.\"C\"", "pg_catalog.\"default\""],
    ),
    ("regconfig", &["pg_catalog.simple", "pg_catalog.english"]),
    (
        "regdictionary",
        &["pg_catalog.simple", "pg_catalog.english_stem"],
    ),
    ("regnamespace", &["public", "pg_catalog"]),
    ("regoper", &["pg_catalog.|/", "pg_catalog.||/"]),
    (
        "regoperator",
        &[
            "pg_catalog.+(integer,integer)",
            "pg_catalog.-(none,integer)",
        ],
    ),
    ("regproc", &["pg_catalog.now", "pg_catalog.int4in"]),
    (
        "regprocedure",
        &["pg_catalog.now()", "pg_catalog.abs(integer)"],
    ),
    ("regrole", &["postgres", "tenantry_app"]),
    (
        "regtype",
        &["pg_catalog.int4", "public.\"Mood of \"\"Day\"\"\""],
    ),
    (
        "text",
        &[
            "",
            "plain",
            "'quoted' \"double\" \\back\\ \t\n\r $1 Ω 🐘",
            "NULL",
            "{}",
        ],
    ),
    ("tid", &["(0,1)", "(4294967295,65535)"]),
    ("time", &["00:00:00", "24:00:00", "12:34:56.789012"]),
    (
        "timestamp",
        &[
            "2026-02-28 12:34:56.789012",
            "4713-01-01 00:00:00 BC",
            "infinity",
            "294276-12-31 23:59:59",
        ],
    ),
    (
        "timestamptz",
        &[
            "2026-02-28 12:34:56.789012+05:30",
            "-infinity",
            "0001-01-01 00:00:00+00",
        ],
    ),
    ("timetz", &["12:34:56.789-08", "00:00:00+15:59"]),
    (
        "tsquery",
        &["'fat' & ( 'rat' | !'c''at' ) <2> 'x':*AB", "'a'"],
    ),
    ("tsvector", &["'a' 'fat':3A,7 'it''s':1", ""]),
    ("txid_snapshot", &["10:20:10,14,15", "1:1:"]),
    (
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ],
    ),
    ("varbit", &["", "10110"]),
    ("varchar", &["", "x'y\"z\\", "Ω"]),
    ("xid", &["0", "4294967295"]),
    ("xid8", &["0", "18446744073709551615"]),
    ("xml", &["<a b=\"c\">&lt;</a>", "text only", ""]),
    (
        "datemultirange",
        &["{}", "{[2026-01-01,2026-02-01),[2026-03-01,infinity)}"],
    ),
    ("int4multirange", &["{}", "{[1,3),[5,)}"]),
    ("int8multirange", &["{(,3),[5,6)}", "{}"]),
    ("nummultirange", &["{[1.0,2.00],(3,4)}", "{}"]),
    (
        "tsmultirange",
        &["{}", "{[2026-01-01 00:00:00,2026-01-02 00:00:00.5)}"],
    ),
    ("tstzmultirange", &["{}", "{[2026-01-01 00:00:00+05,)}"]),
    ("daterange", &["empty", "[2026-01-01,)"]),
    ("int4range", &["empty", "[1,5)", "(,)"]),
    ("int8range", &["[1,9223372036854775807)", "empty"]),
    ("numrange", &["(1.0,2.00]", "empty"]),
    ("tsrange", &["[2026-01-01 00:00:00,infinity]", "empty"]),
    (
        "tstzrange",
        &["[2026-01-01 00:00:00+00,2026-01-02 00:00:00-08)", "empty"],
    ),
    ("int2vector", &["1 2 3", ""]),
    ("oidvector", &["1 4294967295", ""]),
    (
        "public.\"Mood of \"\"Day\"\"\"",
        &["so, so", "it's \"fine\""],
    ),
    ("public.positive", &["1", "2147483647"]),
    ("public.pair", &["(1,\"a \"\"b\"\" , c\")", "(,)"]),
    ("public.floatrange", &["[0.1,0.30000000000000004)", "empty"]),
    ("public.floatmultirange", &["{[1,2),[3,4)}", "{}"]),
];

/// Types whose input functions accept nothing: they have no values of users.
const WITHOUT_INPUT: &[&str] = &[
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

const OWN_TYPES: &str = "
CREATE TYPE \"Mood of \"\"Day\"\"\" AS ENUM ('so, so', 'it''s \"fine\"');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TYPE floatrange AS RANGE (subtype = float8);
";

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A table with two columns of each type, a value and an array, in the order of [`VALUES`].
fn every_table(key: &str) -> String {
    let mut sql =
        format!("CREATE TABLE every (tenant_id {key}, id int, PRIMARY KEY (tenant_id, id)");
    for (i, (name, _)) in VALUES.iter().enumerate() {
        let _ = write!(sql, ", v{i} {name}");
        if !name.ends_with("vector") || name.starts_with("ts") {
            let _ = write!(sql, ", a{i} {name}[]");
        }
    }
    sql + ");"
}

/// The n-th row: of each type the n-th value, over and over, and an array of it, NULL and the next.
fn row(tenant: &str, n: usize) -> String {
    let (mut columns, mut values) = (String::new(), String::new());
    for (i, (name, literals)) in VALUES.iter().enumerate() {
        let (this, next) = (
            literal(literals[n % literals.len()]),
            literal(literals[(n + 1) % literals.len()]),
        );
        let _ = write!(columns, ", v{i}");
        let _ = write!(values, ", {this}::{name}");
        if !name.ends_with("vector") || name.starts_with("ts") {
            let _ = write!(columns, ", a{i}");
            let _ = write!(values, ", ARRAY[{this}, NULL, {next}]::{name}[]");
        }
    }
    format!("INSERT INTO every (tenant_id, id{columns}) VALUES ({tenant}, {n}{values})")
}

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let moving = Moving::start(&format!("{OWN_TYPES}{}", every_table("bigint"))).await;
    // A type that a later PostgreSQL brings is to be added above.
    let names: Vec<String> = VALUES
        .iter()
        .map(|(name, _)| name.trim_matches('"').to_owned())
        .chain(WITHOUT_INPUT.iter().map(|name| (*name).to_owned()))
        .collect();
    let forgotten = moving
        .from
        .query(
            "SELECT typname::text FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
               AND typtype IN ('b', 'r', 'm') AND typname !~ '^_' AND typname::text <> ALL ($1)",
            &[&names],
        )
        .await
        .unwrap();
    assert!(forgotten.is_empty(), "{forgotten:?}");

    let applier = moving.forward().await;
    let most = VALUES
        .iter()
        .map(|(_, literals)| literals.len())
        .max()
        .unwrap();
    for n in 0..most {
        moving.from.batch_execute(&row("1", n)).await.unwrap();
    }
    moving.caught_up(&applier).await;
    moving.same_rows().await;

    // Each value becomes the next row's, in one statement and then one by one; then nothing is left of them.
    let mut set = String::new();
    let mut none = String::new();
    for i in 0..VALUES.len() {
        let comma = if i == 0 { "" } else { ", " };
        let _ = write!(set, "{comma}v{i} = o.v{i}");
        let _ = write!(none, "{comma}v{i} = NULL");
    }
    moving
        .from
        .batch_execute(&format!(
            "UPDATE every e SET {set} FROM every o WHERE o.id = (e.id + 1) % {most}"
        ))
        .await
        .unwrap();
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    for n in 0..most {
        moving
            .from
            .batch_execute(&format!(
                "UPDATE every e SET {set} FROM every o WHERE o.id = 0 AND e.id = {n}"
            ))
            .await
            .unwrap();
        moving.caught_up(&applier).await;
    }
    moving.same_rows().await;
    moving
        .from
        .batch_execute(&format!("UPDATE every SET {none}"))
        .await
        .unwrap();
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn rows_are_named_by_keys_of_every_type_that_can_be_one() {
    let moving = Moving::start_with(TenantKey::Bigint, "1", |admin| async move {
        admin.batch_execute(&format!("SET ROLE tenantry_owner; SET search_path = public; {OWN_TYPES} CREATE TABLE every ()")).await.unwrap();
        for (i, (name, _)) in VALUES.iter().enumerate() {
            let create = format!("CREATE TABLE k{i} (tenant_id bigint, k {name}, n int, PRIMARY KEY (tenant_id, k))");
            // Without an order there is no such key.
            if let Err(error) = admin.batch_execute(&create).await {
                assert_eq!(error.code().unwrap().code(), "42704", "{name}: {error:?}");
            }
        }
    })
    .await;
    let keys = moving
        .from
        .query(
            "SELECT relname::text FROM pg_class WHERE relname ~ '^k[0-9]+$' ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    assert!(keys.len() > 40, "{}", keys.len());
    let applier = moving.forward().await;
    for key in keys {
        let table: &str = key.get(0);
        let (name, literals) = VALUES[table[1..].parse::<usize>().unwrap()];
        for (n, text) in literals.iter().enumerate() {
            let insert = format!(
                "INSERT INTO {table} VALUES (1, {}::{name}, {n}) ON CONFLICT DO NOTHING",
                literal(text)
            );
            moving.from.batch_execute(&insert).await.unwrap();
        }
        let first = literal(literals[0]);
        let second = literal(literals[1]);
        for sql in [
            format!("UPDATE {table} SET n = n + 10"),
            format!("UPDATE {table} SET n = n + 10 WHERE k = {first}::{name}"),
            format!(
                "BEGIN; DELETE FROM {table} WHERE k = {first}::{name}; UPDATE {table} SET k = {first}::{name} WHERE k = {second}::{name}; COMMIT"
            ),
            format!("DELETE FROM {table} WHERE n % 2 = 0"),
        ] {
            moving.from.batch_execute(&sql).await.unwrap();
        }
    }
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    assert_eq!(
        applier.status().borrow().restarts,
        0,
        "{:?}",
        applier.status().borrow()
    );
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn tenants_may_be_named_by_uuids() {
    const TENANT: &str = "0192f0c1-7b6a-7c3e-8a51-0000000000aa";
    let tables = format!("{OWN_TYPES}{}", every_table("uuid"));
    let tables = &tables;
    let moving = Moving::start_with(TenantKey::Uuid, TENANT, |admin| async move {
        admin
            .batch_execute(&format!(
                "SET ROLE tenantry_owner; SET search_path = public; {tables}"
            ))
            .await
            .unwrap();
    })
    .await;
    let applier = moving.forward().await;
    moving
        .from
        .batch_execute(&row(&literal(TENANT), 1))
        .await
        .unwrap();
    moving
        .from
        .batch_execute(&row(&literal("0192f0c1-7b6a-7c3e-8a51-0000000000ab"), 1))
        .await
        .unwrap();
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    moving.fence(1).await;
    applier.until_marker(streaming::NONCE).await.unwrap();
    applier.stop().await.unwrap();
}
