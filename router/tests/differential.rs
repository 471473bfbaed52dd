//! The same messages through the router and directly to the shard must bring the same messages
//! back, byte for byte.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::compare::{direct, normalised, show};
use common::setup;
use tenantry_testkit::{RawClient, rows_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::tag::{backend, frontend as tag};

/// A step of a script: what is sent, and how many ReadyForQuery come back.
struct Step {
    bytes: BytesMut,
    ready: usize,
}

fn step(ready: usize, build: impl FnOnce(&mut BytesMut)) -> Step {
    let mut bytes = BytesMut::new();
    build(&mut bytes);
    Step { bytes, ready }
}

fn query(text: &str) -> Step {
    step(1, |out| frontend::put_query(out, text))
}

/// Parse, Bind, Describe portal, Execute without Sync.
fn run(out: &mut BytesMut, text: &str, parameters: &[Option<&[u8]>]) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", parameters, Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
}

fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    let mut scripts = simple();
    scripts.extend(extended());
    scripts.extend(named());
    scripts.extend(settings());
    scripts.push(copy_out());
    scripts
}

fn simple() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("one row", vec![query("SELECT kind, id FROM events")]),
        (
            "empty query",
            vec![query(""), query(" ; -- nothing\n ;"), query("/* only */")],
        ),
        (
            "several statements",
            vec![query("SELECT 1; SELECT 2, 'x'; SELECT 3 WHERE false")],
        ),
        (
            "zero columns",
            vec![query("SELECT FROM events"), query("SELECT")],
        ),
        ("syntax error", vec![query("SELEC 1"), query("SELECT 1")]),
        (
            "error in the middle",
            vec![query("SELECT 1; SELECT 1/0; SELECT 2"), query("SELECT 3")],
        ),
        (
            "an error undoes the whole query",
            vec![
                query("INSERT INTO events (id, kind, subject) VALUES (100, 'a', 'b'); SELECT 1/0"),
                query("SELECT count(*) FROM events WHERE id = 100"),
            ],
        ),
        (
            "transaction",
            vec![
                query("BEGIN"),
                query("INSERT INTO events (id, kind, subject) VALUES (101, 'a', 'b')"),
                query("SAVEPOINT a"),
                query("SELECT 1/0"),
                query("SELECT 1"),
                query("ROLLBACK TO a"),
                query("SELECT count(*) FROM events"),
                query("RELEASE a"),
                query("ROLLBACK"),
                query("SELECT count(*) FROM events"),
            ],
        ),
        (
            "transaction words without a transaction",
            vec![
                query("COMMIT"),
                query("ROLLBACK"),
                query("END"),
                query("ABORT"),
            ],
        ),
        (
            "begin twice",
            vec![
                query("BEGIN"),
                query("BEGIN"),
                query("START TRANSACTION"),
                query("COMMIT"),
            ],
        ),
        (
            "begin and nothing",
            vec![
                query("START TRANSACTION READ ONLY"),
                query("COMMIT"),
                query("BEGIN"),
                query("ROLLBACK"),
            ],
        ),
        (
            "isolation by set transaction",
            vec![
                query("BEGIN"),
                query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
                query("SHOW transaction_isolation"),
                query("COMMIT"),
            ],
        ),
        (
            "isolation in begin",
            vec![
                query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
                query("SHOW transaction_isolation"),
                query("INSERT INTO events (id, kind, subject) VALUES (102, 'a', 'b')"),
                query("COMMIT"),
            ],
        ),
        (
            "savepoint before anything ran",
            vec![
                query("BEGIN"),
                query("SAVEPOINT s"),
                query("SELECT 1"),
                query("ROLLBACK TO s"),
                query("COMMIT"),
            ],
        ),
        (
            "savepoint outside",
            vec![
                query("SAVEPOINT a"),
                query("RELEASE a"),
                query("ROLLBACK TO a"),
            ],
        ),
        (
            "begin in the middle",
            vec![
                query("SELECT 1; BEGIN; SELECT 2"),
                query("SELECT 3"),
                query("COMMIT; SELECT 4"),
            ],
        ),
        (
            "commit and chain",
            vec![
                query("BEGIN"),
                query("SELECT 1"),
                query("COMMIT AND CHAIN"),
                query("SELECT 2"),
                query("ROLLBACK"),
            ],
        ),
        (
            "a failed commit",
            vec![
                query("BEGIN"),
                query("SELECT 1/0"),
                query("COMMIT"),
                query("SELECT 1"),
            ],
        ),
        (
            "cursor",
            vec![
                query("BEGIN"),
                query("DECLARE c CURSOR FOR SELECT generate_series(1, 5)"),
                query("FETCH 2 FROM c"),
                query("CLOSE c"),
                query("COMMIT"),
            ],
        ),
        (
            "notice",
            vec![query(
                "DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'there'; END $$",
            )],
        ),
        (
            "large rows",
            vec![query(
                "SELECT repeat('x', 300000), g FROM generate_series(1, 5) g",
            )],
        ),
        (
            "many rows",
            vec![query(
                "SELECT g, repeat('y', 100) FROM generate_series(1, 20000) g",
            )],
        ),
        (
            "sql prepare",
            vec![
                query("PREPARE q(int) AS SELECT $1 + 1"),
                query("EXECUTE q(41)"),
                query("DEALLOCATE q"),
                query("EXECUTE q(1); SELECT 1"),
            ],
        ),
    ]
}

fn extended() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        (
            "unnamed",
            vec![step(1, |out| {
                run(out, "SELECT kind FROM events WHERE id = $1", &[Some(b"1")]);
                frontend::put_sync(out);
            })],
        ),
        (
            "sync alone",
            vec![
                step(1, frontend::put_sync),
                step(2, |out| {
                    frontend::put_sync(out);
                    frontend::put_sync(out);
                }),
            ],
        ),
        (
            "several syncs in flight",
            vec![step(3, |out| {
                run(out, "SELECT 1", &[]);
                frontend::put_sync(out);
                run(out, "SELECT 1/0", &[]);
                run(out, "SELECT 2", &[]);
                frontend::put_sync(out);
                run(out, "SELECT 3", &[]);
                frontend::put_sync(out);
            })],
        ),
        (
            "a pipeline is one transaction",
            vec![
                step(1, |out| {
                    run(
                        out,
                        "INSERT INTO events (id, kind, subject) VALUES (110, 'a', 'b')",
                        &[],
                    );
                    run(out, "SELECT 1/0", &[]);
                    frontend::put_sync(out);
                }),
                query("SELECT count(*) FROM events WHERE id = 110"),
            ],
        ),
        (
            "flush does not resynchronise",
            vec![step(1, |out| {
                run(out, "SELECT 1/0", &[]);
                frontend::put_flush(out);
                run(out, "SELECT 1", &[]);
                frontend::put_sync(out);
            })],
        ),
        (
            "a query in the batch",
            vec![step(2, |out| {
                run(out, "SELECT 1", &[]);
                frontend::put_query(out, "SELECT 2; SELECT 3");
                run(out, "SELECT 4", &[]);
                frontend::put_sync(out);
            })],
        ),
        (
            "a query in a failed batch is skipped",
            vec![step(1, |out| {
                run(out, "SELECT 1/0", &[]);
                frontend::put_query(out, "SELECT 2");
                frontend::put_sync(out);
            })],
        ),
        (
            "transaction by extended protocol",
            vec![
                step(1, |out| {
                    run(out, "BEGIN", &[]);
                    run(out, "SELECT count(*) FROM events", &[]);
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    run(out, "SAVEPOINT a", &[]);
                    run(out, "SELECT 1/0", &[]);
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    run(out, "ROLLBACK TO a", &[]);
                    run(out, "COMMIT", &[]);
                    frontend::put_sync(out);
                }),
            ],
        ),
        (
            "what follows ROLLBACK TO in its batch finds a transaction that is well",
            vec![
                query("BEGIN"),
                step(1, |out| {
                    run(out, "SAVEPOINT a", &[]);
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    run(out, "SELECT 1 / 0", &[]);
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    run(out, "ROLLBACK TO a", &[]);
                    run(out, "RELEASE a", &[]);
                    run(out, "SELECT count(*) FROM stores", &[]);
                    run(out, "SAVEPOINT b", &[]);
                    frontend::put_sync(out);
                }),
                query("RELEASE b"),
                query("COMMIT"),
            ],
        ),
        (
            "portal with row limit",
            vec![
                query("BEGIN"),
                step(1, |out| {
                    frontend::put_parse(out, "", "SELECT generate_series(1, 5)", &[]);
                    frontend::put_bind(out, "p", "", &[], Format::Text);
                    frontend::put_execute(out, "p", 2);
                    frontend::put_execute(out, "p", 2);
                    frontend::put_execute(out, "p", 2);
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    frontend::put_close(out, TargetKind::Portal, "p");
                    frontend::put_sync(out);
                }),
                query("COMMIT"),
            ],
        ),
        (
            "portals end with the transaction",
            vec![
                step(1, |out| {
                    frontend::put_parse(out, "", "SELECT 1", &[]);
                    frontend::put_bind(out, "p", "", &[], Format::Text);
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    frontend::put_execute(out, "p", 0);
                    frontend::put_sync(out);
                }),
            ],
        ),
        (
            "no data and empty",
            vec![step(1, |out| {
                run(out, "", &[]);
                run(out, "DELETE FROM events WHERE id = -1", &[]);
                frontend::put_sync(out);
            })],
        ),
        (
            "unnamed statement across syncs",
            vec![
                step(1, |out| {
                    frontend::put_parse(out, "", "SELECT $1::int + 1", &[]);
                    frontend::put_describe(out, TargetKind::Statement, "");
                    frontend::put_sync(out);
                }),
                step(1, |out| {
                    frontend::put_bind(out, "", "", &[Some(b"4")], Format::Text);
                    frontend::put_execute(out, "", 0);
                    frontend::put_sync(out);
                }),
            ],
        ),
        (
            "function call",
            vec![step(1, |out| {
                // int4pl(3, 4): one text format for all arguments.
                let mut body = BytesMut::new();
                body.extend_from_slice(&177_u32.to_be_bytes());
                body.extend_from_slice(&[0, 0, 0, 2]);
                for argument in [b"3", b"4"] {
                    body.extend_from_slice(&1_u32.to_be_bytes());
                    body.extend_from_slice(argument);
                }
                body.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&[tag::FUNCTION_CALL]);
                let len = u32::try_from(body.len() + 4).unwrap();
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(&body);
            })],
        ),
    ]
}

fn named() -> Vec<(&'static str, Vec<Step>)> {
    let prepare = |name: &'static str, text: &'static str| {
        step(1, move |out| {
            frontend::put_parse(out, name, text, &[]);
            frontend::put_describe(out, TargetKind::Statement, name);
            frontend::put_sync(out);
        })
    };
    let execute = |name: &'static str, value: &'static [u8]| {
        step(1, move |out| {
            frontend::put_bind(out, "", name, &[Some(value)], Format::Text);
            frontend::put_describe(out, TargetKind::Portal, "");
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
    };
    vec![
        (
            "named",
            vec![
                prepare("a", "SELECT kind FROM events WHERE id = $1"),
                execute("a", b"1"),
                execute("a", b"2"),
                step(1, |out| {
                    frontend::put_close(out, TargetKind::Statement, "a");
                    frontend::put_sync(out);
                }),
                execute("a", b"1"),
            ],
        ),
        (
            "a failed parse leaves no statement",
            vec![
                prepare("a", "SELECT nothing FROM events"),
                execute("a", b"1"),
                prepare("a", "SELECT $1::int"),
                execute("a", b"1"),
            ],
        ),
        (
            "a name is taken",
            vec![
                prepare("a", "SELECT $1::int"),
                prepare("a", "SELECT $1::text"),
                execute("a", b"7"),
            ],
        ),
        (
            "deallocate and discard",
            vec![
                prepare("a", "SELECT $1::int"),
                query("DEALLOCATE a"),
                execute("a", b"7"),
                prepare("a", "SELECT $1::int"),
                query("DEALLOCATE ALL"),
                execute("a", b"7"),
                prepare("b", "SELECT $1::int"),
                query("DISCARD ALL"),
                execute("b", b"7"),
                query("DEALLOCATE nobody"),
            ],
        ),
        (
            "the same text with other types",
            vec![
                step(1, |out| {
                    frontend::put_parse(out, "a", "SELECT $1", &[23]);
                    frontend::put_parse(out, "b", "SELECT $1", &[25]);
                    frontend::put_describe(out, TargetKind::Statement, "a");
                    frontend::put_describe(out, TargetKind::Statement, "b");
                    frontend::put_sync(out);
                }),
                execute("a", b"5"),
                execute("b", b"five"),
            ],
        ),
        (
            "statements in a failed transaction",
            vec![
                query("BEGIN"),
                prepare("a", "SELECT $1::int"),
                query("SELECT 1/0"),
                execute("a", b"1"),
                prepare("b", "SELECT $1::int"),
                query("ROLLBACK"),
                execute("a", b"1"),
                execute("b", b"1"),
            ],
        ),
    ]
}

fn copied_rows(out: &mut BytesMut, ids: &[&str]) {
    for id in ids {
        frontend::put_copy_data(out, format!("{id}\tcopied\tx\n").as_bytes());
    }
}

/// What PostgreSQL answers to COPY FROM on a table without row-level security; with it, it refuses,
/// so there is nothing to compare with directly.
#[tokio::test]
async fn copy_from_stdin_works_under_row_level_security() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw_for(0).await;
    let start = "COPY events (id, kind, subject) FROM STDIN";
    let tags = |messages: &[Message]| -> String {
        messages
            .iter()
            .map(|message| char::from(message.tag))
            .collect()
    };
    let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) || ' ' || current_user FROM events";

    for (end, expected) in [("done", "CZ"), ("fail", "EZ"), ("bad row", "EZ")] {
        client
            .send(|out| frontend::put_query(out, start))
            .await
            .unwrap();
        client.until(backend::COPY_IN).await.unwrap();
        client
            .send(|out| {
                copied_rows(out, &["201", "202"]);
                match end {
                    "fail" => frontend::put_copy_fail(out, "changed my mind"),
                    "bad row" => {
                        copied_rows(out, &["no number"]);
                        frontend::put_copy_done(out);
                    }
                    _ => frontend::put_copy_done(out),
                }
            })
            .await
            .unwrap();
        assert_eq!(
            tags(&client.until_ready().await.unwrap()),
            expected,
            "{end}"
        );
        let rows = rows_of(&client.query(ids).await.unwrap());
        let left = if end == "done" { "1 201 202" } else { "1" };
        assert_eq!(
            rows,
            vec![vec![Some(format!("{left} tenantry_app"))]],
            "{end}"
        );
        client
            .query("DELETE FROM events WHERE id > 200")
            .await
            .unwrap();
    }

    // Inside a transaction, by extended protocol with the Sync sent early, as libpq does.
    client.query("BEGIN").await.unwrap();
    client
        .send(|out| {
            frontend::put_parse(out, "", start, &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_describe(out, TargetKind::Portal, "");
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    let before = client.until(backend::COPY_IN).await.unwrap();
    assert_eq!(tags(&before), "12nG");
    client
        .send(|out| {
            copied_rows(out, &["203"]);
            frontend::put_copy_done(out);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(tags(&client.until_ready().await.unwrap()), "CZ");
    let rows = rows_of(&client.query(ids).await.unwrap());
    assert_eq!(rows, vec![vec![Some("1 203 tenantry_app".to_owned())]]);
    client.query("ROLLBACK").await.unwrap();
    let rows = rows_of(&client.query(ids).await.unwrap());
    assert_eq!(rows, vec![vec![Some("1 tenantry_app".to_owned())]]);
}

fn copy_out() -> (&'static str, Vec<Step>) {
    (
        "copy out",
        vec![query("COPY (SELECT id, kind FROM events) TO STDOUT")],
    )
}

fn settings() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        (
            "set and show",
            vec![
                query("SET datestyle TO 'SQL, DMY'"),
                query("SHOW datestyle"),
                query("SELECT date '2026-02-01'"),
                query("RESET datestyle"),
                query("SHOW datestyle"),
            ],
        ),
        (
            "set in a rolled back transaction",
            vec![
                query("BEGIN"),
                query("SET timezone TO 'Europe/Vienna'"),
                query("SHOW timezone"),
                query("ROLLBACK"),
                query("SHOW timezone"),
            ],
        ),
        (
            "set local",
            vec![
                query("BEGIN"),
                query("SET LOCAL timezone TO 'Asia/Tokyo'"),
                query("SHOW timezone"),
                query("COMMIT"),
                query("SHOW timezone"),
            ],
        ),
        (
            "set_config",
            vec![
                query("SELECT set_config('timezone', 'Asia/Tokyo', false)"),
                query("SHOW timezone"),
                query("SELECT set_config('timezone', 'UTC', true)"),
                query("SHOW timezone"),
                query("RESET ALL"),
                query("SHOW timezone"),
            ],
        ),
        (
            "a setting that does not exist",
            vec![
                query("SET nosuch TO 1"),
                query("SHOW nosuch"),
                query("SET datestyle TO 'no'"),
            ],
        ),
        (
            "special forms",
            vec![
                query("SET TIME ZONE 'Asia/Tokyo'"),
                query("SHOW TIME ZONE"),
                query("SET NAMES 'UTF8'"),
                query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
                query("SHOW default_transaction_read_only"),
                query("RESET ALL"),
                query("SHOW default_transaction_read_only"),
            ],
        ),
    ]
}

/// Runs a script; a COPY's start has no ReadyForQuery and ends with CopyInResponse instead.
async fn play(client: &mut RawClient, steps: &[Step]) -> Vec<Message> {
    let mut seen = Vec::new();
    for step in steps {
        client.send_bytes(&step.bytes).await.unwrap();
        if step.ready == 0 {
            seen.extend(client.until(backend::COPY_IN).await.unwrap());
        }
        for _ in 0..step.ready {
            seen.extend(client.until_ready().await.unwrap());
        }
    }
    seen
}

#[tokio::test]
async fn the_router_answers_as_postgresql_does() {
    let setup = setup().await;
    setup.seed().await;
    let mut differences = Vec::new();
    for (name, steps) in scripts() {
        let mut at_shard = direct(&setup, 0).await;
        let mut through = setup.raw_for(0).await;
        let expected = play_in_time(name, &mut at_shard, &steps).await;
        let found = play_in_time(name, &mut through, &steps).await;
        let (expected, found) = (normalised(show(&expected)), normalised(show(&found)));
        if expected != found {
            differences.push(format!(
                "--- {name}\nexpected {expected:#?}\nfound {found:#?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

async fn play_in_time(name: &str, client: &mut RawClient, steps: &[Step]) -> Vec<Message> {
    let limit = std::time::Duration::from_secs(10);
    match tokio::time::timeout(limit, play(client, steps)).await {
        Ok(messages) => messages,
        Err(_) => panic!("{name}: no answer"),
    }
}
