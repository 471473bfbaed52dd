//! A table changes under prepared statements: "cached plan must not change result type".
//!
//! A client whose own Parse, Describe or new statement would do away with the error at PostgreSQL never sees it, however
//! old the plans are that a shared connection holds. What a client was told of a result stays true or is refused.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::compare::{direct, normalised, show};
use common::{Setup, setup_with};
use tenantry_testkit::{Fleet, RawClient};
use tenantry_wire::frontend::{self, Format, TargetKind};

const TEXT: &str = "SELECT * FROM events";
const CHANGED: &str = "SERROR C0A000 Mcached plan must not change result type";

async fn one_connection() -> Setup {
    let fleet = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(fleet, |config| config.pool_size = 1).await;
    setup.seed().await;
    setup
}

/// Adds a column; the table has one more with every call.
async fn change(setup: &Setup, number: usize) {
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let text = format!("ALTER TABLE events ADD COLUMN extra{number} int");
    admin.batch_execute(&text).await.unwrap();
}

async fn play(
    client: &mut RawClient,
    ready: usize,
    put: impl FnOnce(&mut BytesMut),
) -> Vec<String> {
    let mut bytes = BytesMut::new();
    put(&mut bytes);
    client.send_bytes(&bytes).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..ready {
        seen.extend(client.until_ready().await.unwrap());
    }
    normalised(show(&seen))
}

fn parse(out: &mut BytesMut, name: &str) {
    frontend::put_parse(out, name, TEXT, &[]);
    frontend::put_describe(out, TargetKind::Statement, name);
    frontend::put_sync(out);
}

fn execute(out: &mut BytesMut, name: &str) {
    frontend::put_bind(out, "", name, &[], Format::Text);
    frontend::put_execute(out, "", 0);
    frontend::put_sync(out);
}

fn execute_described(out: &mut BytesMut, name: &str) {
    frontend::put_bind(out, "", name, &[], Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
    frontend::put_sync(out);
}

/// The connection holds an old plan of the same text; the client prepares it after the change, as a client of PostgreSQL
/// would, and is answered as that is.
#[tokio::test]
async fn a_statement_prepared_after_the_change_works() {
    let setup = one_connection().await;
    type Case = (&'static str, usize, fn(&mut BytesMut));
    let cases: [Case; 5] = [
        ("parsed and described", 1, |out| parse(out, "a")),
        ("all in one batch", 1, |out| {
            frontend::put_parse(out, "b", TEXT, &[]);
            execute_described(out, "b");
        }),
        ("never described", 1, |out| {
            frontend::put_parse(out, "c", TEXT, &[]);
            execute(out, "c");
        }),
        ("with a Flush and a late Sync", 1, |out| {
            frontend::put_parse(out, "d", TEXT, &[]);
            frontend::put_bind(out, "", "d", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_flush(out);
            frontend::put_sync(out);
        }),
        ("by SQL", 2, |out| {
            frontend::put_query(out, format!("PREPARE e AS {TEXT}"));
            frontend::put_query(out, "EXECUTE e");
        }),
    ];
    for (number, (name, ready, put)) in cases.into_iter().enumerate() {
        // Somebody who has prepared the same before.
        let mut other = setup.raw_for(0).await;
        play(&mut other, 1, |out| parse(out, "old")).await;
        play(&mut other, 1, |out| {
            frontend::put_query(out, format!("PREPARE old2 AS {TEXT}"))
        })
        .await;
        change(&setup, number).await;
        let expected = play(&mut direct(&setup, 0).await, ready, put).await;
        let found = play(&mut setup.raw_for(0).await, ready, put).await;
        assert_eq!(found, expected, "{name}");
        assert!(
            !found.iter().any(|line| line.starts_with("E ")),
            "{found:?}"
        );
    }
}

/// What runs again is the request that failed, never an EXECUTE from before with other arguments.
#[tokio::test]
async fn an_execute_that_was_answered_never_runs_again() {
    let setup = one_connection().await;
    let mut client = setup.raw_for(0).await;
    let prepare = "PREPARE p(text) AS SELECT *, $1 AS given FROM events LIMIT 1";
    play(&mut client, 1, |out| frontend::put_query(out, prepare)).await;
    let first = play(&mut client, 1, |out| {
        frontend::put_query(out, "EXECUTE p('one')")
    })
    .await;
    assert!(first.iter().any(|line| line.contains("one")), "{first:?}");
    change(&setup, 100).await;
    let second = play(&mut client, 1, |out| {
        frontend::put_parse(out, "", "EXECUTE p('two')", &[]);
        execute_described(out, "");
    })
    .await;
    assert!(
        !second.iter().any(|line| line.contains("one")),
        "{second:?}"
    );
}

/// Whoever asks for the description of what comes is told the new one, and nobody else is sent it.
#[tokio::test]
async fn a_client_that_was_told_a_result_gets_that_or_the_error() {
    let setup = one_connection().await;
    let mut told = setup.raw_for(0).await;
    let mut at_shard = direct(&setup, 0).await;
    let mut asks = setup.raw_for(0).await;
    let mut blind = setup.raw_for(0).await;
    play(&mut told, 1, |out| parse(out, "s")).await;
    play(&mut at_shard, 1, |out| parse(out, "s")).await;
    for client in [&mut asks, &mut blind] {
        play(client, 1, |out| {
            frontend::put_parse(out, "s", TEXT, &[]);
            frontend::put_sync(out);
        })
        .await;
    }
    change(&setup, 0).await;
    let expected = play(&mut at_shard, 1, |out| execute(out, "s")).await;
    assert_eq!(expected, [format!("E {CHANGED}"), "Z I".to_owned()]);
    let found = play(&mut told, 1, |out| execute(out, "s")).await;
    assert_eq!(found, expected);

    // What the client does then works in both places.
    for client in [&mut told, &mut at_shard] {
        play(client, 1, |out| {
            frontend::put_close(out, TargetKind::Statement, "s");
            frontend::put_sync(out);
        })
        .await;
    }
    for put in [parse, execute] {
        let expected = play(&mut at_shard, 1, |out| put(out, "s")).await;
        assert_eq!(play(&mut told, 1, |out| put(out, "s")).await, expected);
    }

    change(&setup, 1).await;
    let rows = |answer: &[String]| answer.iter().filter(|line| line.starts_with("D ")).count();
    let answer = play(&mut asks, 1, |out| execute_described(out, "s")).await;
    assert_eq!(rows(&answer), 1, "{answer:?}");
    assert!(answer[1].contains("extra1"), "{answer:?}");
    let answer = play(&mut blind, 1, |out| execute(out, "s")).await;
    assert_eq!(rows(&answer), 1, "{answer:?}");
    // Who describes portals as a rule, but not this one, goes by what it knows.
    change(&setup, 2).await;
    let answer = play(&mut asks, 1, |out| execute(out, "s")).await;
    assert_eq!(answer, [format!("E {CHANGED}"), "Z I".to_owned()]);
}

/// Inside a transaction, behind other results, and behind another batch, the error is the client's.
#[tokio::test]
async fn nothing_runs_again_that_has_begun() {
    let setup = one_connection().await;
    type Case = (&'static str, usize, fn(&mut BytesMut));
    let cases: [Case; 4] = [
        ("in a transaction", 3, |out| {
            frontend::put_query(out, "BEGIN");
            execute(out, "s");
            frontend::put_query(out, "ROLLBACK");
        }),
        ("behind another statement of the batch", 1, |out| {
            frontend::put_bind(out, "", "one", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            execute(out, "s");
        }),
        ("before another batch", 2, |out| {
            execute(out, "s");
            execute(out, "one");
        }),
        ("in a Query with others", 1, |out| {
            frontend::put_query(out, "SELECT 1; EXECUTE s");
        }),
    ];
    for (number, (name, ready, put)) in cases.into_iter().enumerate() {
        let mut through = setup.raw_for(0).await;
        let mut at_shard = direct(&setup, 0).await;
        for client in [&mut through, &mut at_shard] {
            play(client, 1, |out| {
                frontend::put_parse(out, "one", "SELECT 1", &[]);
                frontend::put_parse(out, "s", TEXT, &[]);
                frontend::put_sync(out);
            })
            .await;
        }
        change(&setup, number).await;
        let expected = play(&mut at_shard, ready, put).await;
        let found = play(&mut through, ready, put).await;
        assert_eq!(found, expected, "{name}");
        assert!(
            found.iter().any(|line| line.contains(CHANGED)),
            "{name} {found:?}"
        );
    }
}
