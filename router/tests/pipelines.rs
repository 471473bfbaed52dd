//! Batches sent behind one another without waiting, with errors among them: what an error makes
//! PostgreSQL skip has not happened, and what it does not skip has.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::compare::{direct, normalised, pipelined, show};
use common::setup;
use tenantry_testkit::RawClient;
use tenantry_wire::frontend::{self, Format, TargetKind};

fn run(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text.as_bytes(), &[]);
    execute(out, "");
}

fn execute(out: &mut BytesMut, name: &str) {
    frontend::put_bind(out, "", name, &[], Format::Text);
    frontend::put_execute(out, "", 0);
}

async fn play(client: &mut RawClient, name: &str, bytes: &[u8], ready: usize) -> Vec<String> {
    normalised(show(&pipelined(client, name, bytes, ready).await))
}

#[tokio::test]
async fn unawaited_batches_are_answered_as_postgresql_answers_them() {
    let setup = setup().await;
    setup.seed().await;
    type Case = (&'static str, usize, fn(&mut BytesMut));
    let cases: [Case; 15] = [
        ("a setting behind another batch", 3, |out| {
            frontend::put_query(out, "SELECT 1");
            run(out, "SELECT 2");
            run(out, "SET statement_timeout = '50s'");
            frontend::put_sync(out);
            frontend::put_query(out, "SHOW statement_timeout");
        }),
        ("set_config behind another batch", 3, |out| {
            run(out, "SELECT 1");
            frontend::put_sync(out);
            run(out, "SELECT set_config('statement_timeout', '70s', false)");
            frontend::put_sync(out);
            frontend::put_query(out, "SHOW statement_timeout");
        }),
        (
            "BEGIN behind an error does not become the unnamed statement",
            2,
            |out| {
                frontend::put_parse(out, "", b"SELECT 1", &[]);
                execute(out, "no such statement");
                run(out, "BEGIN");
                frontend::put_sync(out);
                execute(out, "");
                frontend::put_sync(out);
            },
        ),
        ("a Close behind an error closes nothing", 3, |out| {
            frontend::put_parse(out, "s", b"SELECT 1", &[]);
            frontend::put_sync(out);
            run(out, "SELECT no_such_column");
            frontend::put_close(out, TargetKind::Statement, "s");
            frontend::put_parse(out, "t", b"BEGIN", &[]);
            frontend::put_sync(out);
            execute(out, "s");
            frontend::put_parse(out, "t", b"SELECT 2", &[]);
            execute(out, "t");
            frontend::put_sync(out);
        }),
        (
            "the unnamed statement of a batch behind a failed one",
            2,
            |out| {
                frontend::put_parse(out, "", b"SELECT no_such_column", &[]);
                frontend::put_sync(out);
                frontend::put_parse(out, "", b"SELECT 1", &[]);
                execute(out, "");
                frontend::put_sync(out);
            },
        ),
        (
            "a Query ends the unnamed statement, DEALLOCATE ALL does not",
            4,
            |out| {
                run(out, "DEALLOCATE ALL");
                frontend::put_describe(out, TargetKind::Statement, "");
                frontend::put_sync(out);
                frontend::put_query(out, "SELECT 1");
                frontend::put_describe(out, TargetKind::Statement, "");
                frontend::put_sync(out);
                frontend::put_query(out, "SELECT 2");
            },
        ),
        (
            "the router's statements in a failed transaction",
            5,
            |out| {
                frontend::put_query(out, "BEGIN");
                frontend::put_query(out, "SELECT 1/0");
                run(out, "DEALLOCATE ALL");
                frontend::put_sync(out);
                frontend::put_query(out, "ROLLBACK");
                frontend::put_query(out, "SELECT 1");
            },
        ),
        (
            "a Query of several statements behind one of its batch",
            3,
            |out| {
                run(
                    out,
                    "INSERT INTO events (id, kind, subject) VALUES (300, 'kept', 's')",
                );
                frontend::put_query(out, "SELECT 1; COMMIT; SELECT count(*) FROM events");
                frontend::put_sync(out);
                frontend::put_query(out, "DELETE FROM events WHERE id = 300");
            },
        ),
        (
            "a malformed Query of several statements in a batch",
            3,
            |out| {
                frontend::put_parse(out, "", b"SELECT $1::text", &[]);
                frontend::put_query(
                    out,
                    "SET TRANSACTION READ ONLY; SELECT 1; ROLLBACK; SELEC 1",
                );
                frontend::put_sync(out);
                frontend::put_query(out, "SELECT 2");
            },
        ),
        (
            "the name of a statement that is closed behind its error",
            1,
            |out| {
                frontend::put_parse(out, "s", b"SELECT 1", &[]);
                frontend::put_bind(out, "", "s", &[Some(b"1")], Format::Text);
                frontend::put_close(out, TargetKind::Statement, "s");
                frontend::put_sync(out);
            },
        ),
        ("a name of a portal is taken by one of a SET", 1, |out| {
            frontend::put_parse(out, "", b"SET work_mem TO '5MB'", &[]);
            frontend::put_bind(out, "p1", "", &[], Format::Text);
            frontend::put_parse(out, "", b"SELECT 1", &[]);
            frontend::put_bind(out, "p1", "", &[], Format::Text);
            frontend::put_sync(out);
        }),
        ("a portal of a SET ends with its batch", 2, |out| {
            run(out, "SELECT 1");
            frontend::put_parse(out, "", b"SET work_mem TO '5MB'", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_sync(out);
            frontend::put_describe(out, TargetKind::Portal, "");
            frontend::put_sync(out);
        }),
        (
            "a Parse in a failed transaction ends the unnamed statement",
            5,
            |out| {
                frontend::put_query(out, "BEGIN");
                frontend::put_parse(out, "", b"SET work_mem TO '5MB'", &[]);
                frontend::put_sync(out);
                run(out, "SELECT 1/0");
                frontend::put_sync(out);
                frontend::put_parse(out, "", b"SET work_mem TO '6MB'", &[]);
                frontend::put_sync(out);
                frontend::put_describe(out, TargetKind::Statement, "");
                frontend::put_sync(out);
            },
        ),
        ("a portal of a SET is a cursor", 2, |out| {
            frontend::put_parse(out, "", b"SET IntervalStyle TO 'iso_8601'", &[]);
            frontend::put_bind(out, "c1", "", &[], Format::Text);
            run(out, "CLOSE c1");
            frontend::put_execute(out, "c1", 0);
            frontend::put_sync(out);
            frontend::put_query(out, "SHOW IntervalStyle");
        }),
        ("a chain behind a refusal", 5, |out| {
            frontend::put_query(out, "BEGIN");
            frontend::put_query(out, "DEALLOCATE nothing");
            frontend::put_query(out, "ROLLBACK AND CHAIN");
            frontend::put_query(out, "SELECT 1");
            frontend::put_query(out, "COMMIT");
        }),
    ];
    let mut differences = Vec::new();
    for (name, ready, put) in cases {
        let mut bytes = BytesMut::new();
        put(&mut bytes);
        let expected = play(&mut direct(&setup, 0).await, name, &bytes, ready).await;
        let found = play(&mut setup.raw_for(0).await, name, &bytes, ready).await;
        if expected != found {
            differences.push(format!(
                "--- {name}\nexpected {expected:#?}\nfound {found:#?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn an_explicit_end_in_the_middle_of_a_batch_does_not_stall_it() {
    let setup = setup().await;
    let mut bytes = BytesMut::new();
    frontend::put_query(&mut bytes, "BEGIN");
    for text in [
        "SAVEPOINT b",
        "SHOW transaction_isolation",
        "COMMIT",
        "SELECT 2",
    ] {
        run(&mut bytes, text);
    }
    frontend::put_sync(&mut bytes);
    let expected = play(&mut direct(&setup, 0).await, "an end", &bytes, 2).await;
    let found = play(&mut setup.raw_for(0).await, "an end", &bytes, 2).await;
    assert_eq!(found, expected);
}
