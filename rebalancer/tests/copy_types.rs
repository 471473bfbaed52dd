//! Every type that PostgreSQL has and that a column can have: each arrives, and a difference in it is noticed.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/moving.rs"]
mod moving;

use std::collections::BTreeMap;

use common::{define_on_both, fleet, session, table};
use moving::{Moving, TENANT};
use tokio_postgres::Client;

/// Two values that differ, for each type that is not made of others.
const SAMPLES: &[(&str, &str, &str)] = &[
    ("bit", "1", "0"),
    ("bool", "t", "f"),
    ("box", "(2,2),(1,1)", "(2,2),(1,1.5)"),
    ("bpchar", "ab  ", "ab"),
    ("bytea", "\\x00ff10", "\\x"),
    ("char", "x", "\\377"),
    ("cid", "7", "8"),
    ("cidr", "10.0.0.0/8", "2001:db8::/32"),
    ("circle", "<(1,2),3>", "<(1,2),3.0000000000000004>"),
    ("date", "infinity", "0044-03-15 BC"),
    ("float4", "1.17549435e-38", "NaN"),
    ("float8", "0.1", "0.10000000000000002"),
    ("inet", "192.168.0.1/24", "192.168.0.1"),
    ("int2", "-32768", "1"),
    ("int4", "-2147483648", "1"),
    ("int8", "9223372036854775807", "1"),
    ("interval", "1 mon -1 day 00:00:00.000001", "30 days"),
    (
        "json",
        "{\"b\": 1, \"a\": 1, \"a\":2}",
        "{\"b\":1,\"a\":1,\"a\":2}",
    ),
    ("jsonb", "{\"a\": [1.0, null]}", "{\"a\": [1.00, null]}"),
    ("jsonpath", "$.a[*] ? (@ > 1)", "$"),
    ("line", "{1,2,3}", "{1,2,4}"),
    ("lseg", "[(1,2),(3,4)]", "[(3,4),(1,2)]"),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    (
        "macaddr8",
        "08:00:2b:01:02:03:04:05",
        "08:00:2b:01:02:03:04:06",
    ),
    ("money", "-1234.56", "0.01"),
    ("name", "A \"name\"", "a"),
    ("numeric", "1.00", "1.0"),
    ("oid", "4294967295", "0"),
    (
        "aclitem",
        "=r/tenantry_owner",
        "tenantry_app=r/tenantry_owner",
    ),
    ("path", "((1,2),(3,4))", "[(1,2),(3,4)]"),
    ("pg_lsn", "FFFFFFFF/FFFFFFFF", "0/0"),
    ("pg_snapshot", "10:20:10,14,15", "10:20:10"),
    ("txid_snapshot", "10:20:10,14,15", "10:20:10"),
    ("point", "(0.1,-0)", "(0.1,0)"),
    ("polygon", "((0,0),(1,1),(2,0))", "((0,0),(1,1),(2,1))"),
    ("refcursor", "a cursor", ""),
    ("regclass", "public.orders", "pg_class"),
    ("regcollation", "\"C\"", "\"POSIX\""),
    ("regconfig", "english", "simple"),
    ("regdictionary", "simple", "english_stem"),
    ("regnamespace", "public", "tenantry"),
    ("regoper", "|/", "||/"),
    ("regoperator", "+(integer,integer)", "-(integer,integer)"),
    ("regproc", "tenantry.fence", "now"),
    ("regprocedure", "tenantry.tenant()", "now()"),
    ("regrole", "tenantry_owner", "tenantry_app"),
    ("regtype", "public.my_enum", "integer"),
    ("text", "Ünïcödé 🐎 \\ \t\n ' \"", ""),
    ("tid", "(4294967295,65535)", "(0,1)"),
    ("time", "24:00:00", "00:00:00.000001"),
    ("timestamp", "-infinity", "2026-11-01 01:30:00.123456"),
    ("timestamptz", "infinity", "4713-01-01 00:00:00+00 BC"),
    ("timetz", "12:00:00+05:30", "12:00:00-08"),
    ("tsquery", "'a' & !'b':*A", "'a'"),
    ("tsvector", "'a':1A,3 'b':2", "'a' 'b'"),
    (
        "uuid",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ),
    ("varbit", "10101", ""),
    ("varchar", "ab  ", "ab"),
    ("xid", "4294967295", "0"),
    ("xid8", "18446744073709551615", "0"),
    ("xml", "<a b=\"c\">&amp;é</a>", "no document"),
    ("int2vector", "1 -2 3", ""),
    ("oidvector", "1 2 3", ""),
];

/// A type to be tried.
struct Tried {
    name: String,
    /// As SQL.
    sql: String,
    values: [String; 2],
}

/// Every type of the server that a column can have, arrays, ranges and multiranges included, with two values each. Fails
/// if one has no sample, so that a type of a later version is noticed.
async fn types(client: &Client) -> Vec<Tried> {
    let samples: BTreeMap<&str, [&str; 2]> = SAMPLES
        .iter()
        .map(|(name, one, two)| (*name, [*one, *two]))
        .collect();
    let rows = client
        .query(
            "SELECT t.typname::text, format_type(t.oid, -1), e.typname::text, t.typtype::text, s.typname::text
             FROM pg_type t
             LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
             LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
             LEFT JOIN pg_type s ON s.oid = r.rngsubtype
             WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm') AND t.typisdefined
               AND e.typtype IS DISTINCT FROM 'c' -- rows of the server's own tables
             ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let mut types = Vec::new();
    let mut unknown = Vec::new();
    for row in rows {
        let (name, sql): (String, String) = (row.get(0), row.get(1));
        let (element, kind, subtype): (Option<&str>, &str, Option<&str>) =
            (row.get(2), row.get(3), row.get(4));
        let element = element.filter(|_| !["int2vector", "oidvector"].contains(&name.as_str()));
        if accepts_nothing(client, element.unwrap_or(&name)).await {
            continue;
        }
        let values = match (element, subtype) {
            (Some(element), _) => array_values(element, &samples),
            (None, Some(subtype)) => range_values(subtype, kind == "m"),
            (None, None) => samples.get(name.as_str()).map(|v| v.map(str::to_owned)),
        };
        match values {
            Some(values) => types.push(Tried { name, sql, values }),
            None => unknown.push(name),
        }
    }
    assert_eq!(unknown, Vec::<String>::new(), "types without a sample");
    types
}

/// Some types exist inside the server only: their input function refuses everything, or a column cannot have them.
async fn accepts_nothing(client: &Client, name: &str) -> bool {
    let create =
        format!("CREATE TEMPORARY TABLE tried (c pg_catalog.\"{name}\"); DROP TABLE tried");
    if client.batch_execute(&create).await.is_err() {
        return true;
    }
    let Err(error) = client
        .batch_execute(&format!("SELECT ''::pg_catalog.\"{name}\""))
        .await
    else {
        return false;
    };
    error.code().unwrap().code() == "0A000"
}

fn array_values(element: &str, samples: &BTreeMap<&str, [&str; 2]>) -> Option<[String; 2]> {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let values = match samples.get(element) {
        Some(values) => values.map(str::to_owned),
        None => {
            let multirange = element.ends_with("multirange");
            let subtype = match element
                .trim_end_matches("multirange")
                .trim_end_matches("range")
            {
                "int4" | "int8" | "num" | "date" | "ts" | "tstz" => element
                    .trim_end_matches("multirange")
                    .trim_end_matches("range"),
                _ => return None,
            };
            let subtype = match subtype {
                "num" => "numeric",
                "ts" => "timestamp",
                "tstz" => "timestamptz",
                other => other,
            };
            range_values(subtype, multirange)?
        }
    };
    // A box delimits its array's elements with a semicolon.
    let delimiter = if element == "box" { ';' } else { ',' };
    Some([
        format!("[2:3]={{{}{delimiter}NULL}}", quoted(&values[0])),
        format!("{{{}}}", quoted(&values[1])),
    ])
}

fn range_values(subtype: &str, multirange: bool) -> Option<[String; 2]> {
    let (low, high) = match subtype {
        "int4" | "int8" | "numeric" => ("1", "5"),
        "date" => ("2026-01-01", "infinity"),
        "timestamp" | "timestamptz" => ("2026-01-01 00:00:00.000001", "2027-01-01"),
        _ => return None,
    };
    let ranges = [format!("[\"{low}\",\"{high}\")"), format!("(,\"{high}\")")];
    Some(if multirange {
        ranges.map(|range| format!("{{{range}}}"))
    } else {
        ranges
    })
}

#[tokio::test]
async fn every_type_arrives_and_its_differences_are_seen() {
    let fleet = fleet().await;
    let admin = fleet.shard(0).admin().await.unwrap();
    let types = types(&admin).await;
    assert!(types.len() > 120, "{}", types.len());
    let mut ddl = "CREATE TYPE my_enum AS ENUM ('a', 'b');".to_owned();
    for tried in &types {
        ddl += &format!(
            "CREATE TABLE \"of {}\" (tenant_id bigint NOT NULL, id int, v {}, PRIMARY KEY (tenant_id, id));",
            tried.name, tried.sql
        );
    }
    define_on_both(&fleet, &ddl).await;
    let moving = Moving::start(fleet).await;
    for tried in &types {
        let insert = format!(
            "INSERT INTO public.\"of {}\" VALUES ({TENANT}, 1, $1::text::{sql}), ({TENANT}, 2, $2::text::{sql}), ({TENANT}, 3, NULL)",
            tried.name,
            sql = tried.sql
        );
        let [one, two] = &tried.values;
        // As a literal: not every type casts from text.
        let literal = |value: &str| format!("'{}'", value.replace('\'', "''"));
        let insert = insert
            .replace("$1::text", &literal(one))
            .replace("$2::text", &literal(two));
        moving
            .source
            .batch_execute(&insert)
            .await
            .unwrap_or_else(|error| {
                panic!("{}: {error:?}", tried.name);
            });
    }

    let report = moving.copy().await.unwrap();
    assert_eq!(report.rows, 3 * types.len() as u64);
    let verified = moving.compare().await;
    assert!(verified.is_equal(), "{:?}", verified.mismatches);
    // Exactly as the sender prints them, by a session with the server's defaults.
    for (index, tried) in types.iter().enumerate() {
        let read = format!(
            "SELECT ROW(v)::text FROM public.\"of {}\" ORDER BY id",
            tried.name
        );
        let values = async |client: &Client| -> Vec<String> {
            let rows = client.query(&read, &[]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        };
        let (ours, theirs) = (
            values(&moving.source).await,
            values(&moving.destination).await,
        );
        assert_eq!(ours, theirs, "{}", tried.name);
        assert_ne!(ours[0], ours[1], "{} has two values", tried.name);
        let name = tried.name.trim_start_matches('_');
        assert_eq!(
            table(&moving.tables, &format!("of {}", tried.name)).binary(),
            !name.starts_with("reg") && !["aclitem", "int2vector", "oidvector"].contains(&name),
            "{index} {}",
            tried.name
        );
    }

    // Values that differ are seen, whatever their type: the two change places at the destination.
    let changing = session(moving.fleet.shard(1)).await;
    for tried in &types {
        let swap = format!(
            "UPDATE public.\"of {0}\" t SET v = o.v FROM public.\"of {0}\" o WHERE t.id < 3 AND o.id = 3 - t.id",
            tried.name
        );
        changing.batch_execute(&swap).await.unwrap();
    }
    let verified = moving.compare().await;
    assert_eq!(verified.mismatched_rows, 2 * types.len() as u64);
}

/// Whether a type has an order that is the same on every server, so that a key may contain it.
async fn can_be_key(client: &Client, tried: &Tried) -> bool {
    // An order of oids; preflight refuses it.
    if tried.name.trim_start_matches('_').starts_with("reg") {
        return false;
    }
    let [one, two] = literals(tried);
    let insert = format!(
        "CREATE TEMPORARY TABLE tried (v {} PRIMARY KEY);
         INSERT INTO tried VALUES ({one}), ({two}) ON CONFLICT DO NOTHING;
         DROP TABLE tried",
        tried.sql
    );
    let Err(error) = client.batch_execute(&insert).await else {
        return true;
    };
    // No order, or an array whose elements have none.
    let code = error.code().unwrap().code();
    assert!(["42704", "42883"].contains(&code), "{error:?}");
    false
}

/// Both values as SQL.
fn literals(tried: &Tried) -> [String; 2] {
    tried
        .values
        .each_ref()
        .map(|value| format!("'{}'::{}", value.replace('\'', "''"), tried.sql))
}

#[tokio::test]
async fn chunks_are_cut_by_keys_of_every_type_that_can_be_one() {
    let fleet = fleet().await;
    let admin = fleet.shard(0).admin().await.unwrap();
    let mut keys = Vec::new();
    for tried in types(&admin).await {
        if can_be_key(&admin, &tried).await {
            keys.push(tried);
        }
    }
    assert!(keys.len() > 60, "{}", keys.len());
    let ddl: String = keys
        .iter()
        .map(|key| {
            format!(
                "CREATE TABLE \"by {}\" (tenant_id bigint NOT NULL, v {}, n int, PRIMARY KEY (tenant_id, v, n));",
                key.name, key.sql
            )
        })
        .collect();
    // The types that samples of others name.
    define_on_both(
        &fleet,
        &format!("CREATE TYPE my_enum AS ENUM ('a', 'b'); {ddl}"),
    )
    .await;
    let mut moving = Moving::start(fleet).await;
    moving.options.chunk_rows_max = 1;
    for key in &keys {
        let [one, two] = literals(key);
        let insert = format!(
            "INSERT INTO public.\"by {}\" SELECT {TENANT}, v, n FROM (VALUES ({one}), ({two})) s (v), generate_series(1, 2) n
             ON CONFLICT DO NOTHING",
            key.name
        );
        moving.source.batch_execute(&insert).await.unwrap();
    }
    let total = moving.rows(&moving.source, TENANT).await.unsigned_abs();
    assert!(total > 3 * keys.len() as u64, "{total}");
    assert_eq!(moving.copy().await.unwrap().rows, total);
    let verified = moving.compare().await;
    assert!(verified.is_equal(), "{:?}", verified.mismatches);

    // What is behind the first chunk is found by its key at the destination as well, removed and copied again.
    let forgotten = moving
        .destination
        .execute("DELETE FROM tenantry.move_chunk WHERE chunk > 0", &[])
        .await
        .unwrap();
    assert!(forgotten as usize >= keys.len(), "{forgotten}");
    let report = moving.copy().await.unwrap();
    assert_eq!(
        (report.rows, report.deleted),
        (total, total - keys.len() as u64)
    );
    let verified = moving.compare().await;
    assert!(verified.is_equal(), "{:?}", verified.mismatches);
}
