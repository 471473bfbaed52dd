//! Corners of the checklist, each through the router and directly: statements that are evicted in a pipeline, escapes in
//! `options`, encodings, positions of errors.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::compare::{direct, direct_login, direct_with, normalised, pipelined, show};
use common::{setup, setup_with};
use tenantry_testkit::{Fleet, Login, RawClient, RawError, error_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};

fn execute(out: &mut BytesMut, name: &str, value: &[u8]) {
    frontend::put_bind(out, "", name, &[Some(value)], Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
}

/// A connection keeps two statements, and the client uses five in one write, with errors that make the server skip some of
/// what was closed and prepared for it.
#[tokio::test]
async fn statements_are_evicted_in_the_middle_of_a_pipeline() {
    let fleet = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(fleet, |config| {
        config.pool_size = 1;
        config.statements_per_server_max = 2;
    })
    .await;
    let names = ["a", "b", "c", "d", "e"];
    let mut prepare = BytesMut::new();
    for name in names {
        let text = format!("SELECT '{name}', 10 / $1::int");
        frontend::put_parse(&mut prepare, name, text, &[]);
    }
    frontend::put_sync(&mut prepare);
    let mut pipeline = BytesMut::new();
    let mut ready = 0;
    for round in 0..4 {
        for (index, name) in names.iter().enumerate() {
            // Each round fails at another place, the last nowhere.
            let value: &[u8] = if index == round * 2 { b"0" } else { b"5" };
            execute(&mut pipeline, name, value);
            if index == 3 {
                frontend::put_parse(&mut pipeline, "f", "SELECT $1::int", &[]);
                frontend::put_describe(&mut pipeline, TargetKind::Statement, "f");
                frontend::put_close(&mut pipeline, TargetKind::Statement, "f");
            }
        }
        frontend::put_sync(&mut pipeline);
        ready += 1;
    }
    for name in names {
        frontend::put_describe(&mut pipeline, TargetKind::Statement, name);
        execute(&mut pipeline, name, b"2");
        frontend::put_sync(&mut pipeline);
        ready += 1;
    }
    let (mut at_shard, mut through) = (direct(&setup, 0).await, setup.raw_for(0).await);
    for (bytes, ready) in [(&prepare, 1), (&pipeline, ready), (&pipeline, ready)] {
        let expected = pipelined(&mut at_shard, "evictions", bytes, ready).await;
        let found = pipelined(&mut through, "evictions", bytes, ready).await;
        assert_eq!(normalised(show(&found)), normalised(show(&expected)));
    }
}

#[tokio::test]
async fn options_are_read_as_postgresql_reads_them() {
    let setup = setup().await;
    let user = format!("shop.{}", setup.id(0));
    let looks = [
        "SHOW application_name",
        "SHOW search_path",
        "SHOW datestyle",
        "SHOW work_mem",
        "SELECT current_setting('my.x', true)",
        "RESET ALL",
        "SHOW application_name",
        "SELECT current_setting('my.x', true)",
    ];
    for options in [
        "-c application_name=plain",
        "-c application_name=a\\ b\\ \\ c",
        "-capplication_name=it's --search-path=public,\\ pg_catalog",
        "--DateStyle=German\t-c\twork-mem=7MB  -c my.x=\\\\back\\\\slash",
        "-c my.x= -c application_name=a=b=c",
        "-c my.x=\\'q\\' -c my.x=second",
        "",
        "   ",
        "--",
        "trailing\\",
        "-c",
        "-c application_name",
        "--application_name",
        "-c no_such_setting=1",
        "-c work_mem=nonsense",
        "-c =1",
    ] {
        let with = |login: Login| login.parameter("options", options);
        let through = RawClient::login(setup.address, &with(setup.login(&user))).await;
        let mut through = match through {
            Ok(through) => through,
            Err(RawError::Refused(found)) => {
                let (target, login) = direct_login(&setup, 0).await;
                let at_shard = RawClient::login(target, &with(login)).await;
                let Err(RawError::Refused(expected)) = at_shard else {
                    panic!("{options:?} is refused: {found:?}");
                };
                assert_eq!(
                    (found.code, found.message),
                    (expected.code, expected.message),
                    "{options:?}"
                );
                continue;
            }
            Err(error) => panic!("{options:?}: {error}"),
        };
        let mut at_shard = direct_with(&setup, 0, with).await;
        for look in looks {
            // Its default is the router's own.
            if look == "SHOW application_name" && !options.contains("application_name") {
                continue;
            }
            // A name that anybody has used is known on the connection.
            if look.contains("my.x") && !options.contains("my.x") {
                continue;
            }
            let mut bytes = BytesMut::new();
            frontend::put_query(&mut bytes, look);
            let expected = pipelined(&mut at_shard, look, &bytes, 1).await;
            let found = pipelined(&mut through, look, &bytes, 1).await;
            assert_eq!(
                normalised(show(&found)),
                normalised(show(&expected)),
                "{options:?} {look}"
            );
        }
    }
}

/// Names and values in another encoding, and what the client is told of it.
#[tokio::test]
async fn a_change_of_encoding_is_followed() {
    let fleet = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(fleet, |config| config.pool_size = 1).await;
    let (mut at_shard, mut through) = (direct(&setup, 0).await, setup.raw_for(0).await);
    let mut other = setup.raw_for(1).await;
    let latin1 = b"SELECT 'caf\xe9', octet_length('caf\xe9'), length('caf\xe9') AS \"gr\xf6\xdfe\"";
    let steps: [&[u8]; 16] = [
        b"SET client_encoding TO 'LATIN1'",
        latin1,
        b"SHOW client_encoding",
        b"BEGIN",
        b"SET LOCAL client_encoding TO UTF8",
        "SELECT 'caf\u{e9}'".as_bytes(),
        b"ROLLBACK",
        latin1,
        b"SET NAMES 'UTF8'",
        "SELECT 'caf\u{e9}'".as_bytes(),
        b"SELECT '\xe9'",
        b"SELECT set_config('client_encoding', 'WIN1252', false)",
        b"SELECT '\x80', octet_length('\x80')",
        b"SET client_encoding TO 'nonsense'",
        b"RESET client_encoding",
        "SELECT 'caf\u{e9}'".as_bytes(),
    ];
    for text in steps {
        let mut bytes = BytesMut::new();
        frontend::put_query(&mut bytes, text);
        let expected = pipelined(&mut at_shard, "encodings", &bytes, 1).await;
        let found = pipelined(&mut through, "encodings", &bytes, 1).await;
        let essence = |messages: &[Message]| {
            let encoding = |line: &&String| line.starts_with("S client_encoding");
            let lines = show(messages);
            let told: Vec<String> = lines.iter().filter(encoding).cloned().collect();
            (normalised(lines), told)
        };
        assert_eq!(
            essence(&found),
            essence(&expected),
            "{}",
            text.escape_ascii()
        );
        // The other client keeps its own on the same connection, once that is free.
        if expected.last().is_some_and(|ready| ready.body() != b"I") {
            continue;
        }
        let answer = show(
            &other
                .query("SELECT 'caf\u{e9}', current_setting('client_encoding')")
                .await
                .unwrap(),
        );
        assert!(
            answer
                .iter()
                .any(|line| line.contains("caf\u{e9}") && line.contains("UTF8")),
            "{answer:?}"
        );
    }
}

/// An error in a Query that the router runs statement by statement stands where the client wrote it.
#[tokio::test]
async fn errors_have_their_place_in_the_query() {
    let setup = setup().await;
    let (mut at_shard, mut through) = (direct(&setup, 0).await, setup.raw_for(0).await);
    for text in [
        "SELECT 1; COMMIT; SELECT nothing",
        "SELECT 'caf\u{e9}'; COMMIT; SELECT /* \u{20ac} */ nothing FROM events",
        "SELECT 1; ROLLBACK; SELECT 1/0, nothing; SELECT 2",
        "SELECT 1; COMMIT; SELECT 'x'::int",
        "SELECT nothing; COMMIT; SELECT 1",
        "SELECT 1; COMMIT; SELEC 1",
    ] {
        let mut positions = Vec::new();
        for client in [&mut at_shard, &mut through] {
            let error = error_of(&client.query(text).await.unwrap()).unwrap();
            positions.push((error.code, error.position));
        }
        assert_eq!(positions[1], positions[0], "{text}");
        assert!(positions[0].1.is_some(), "{text}");
    }
}

/// A setting that a Query commits in its middle is reported, although its end is rolled back.
#[tokio::test]
async fn what_a_query_commits_in_its_middle_is_reported() {
    let setup = setup().await;
    let (mut at_shard, mut through) = (direct(&setup, 0).await, setup.raw_for(0).await);
    let text = "SET IntervalStyle TO 'iso_8601'; END; RESET ALL; ROLLBACK TO b";
    let mut told = Vec::new();
    for client in [&mut at_shard, &mut through] {
        let mut lines = show(&client.query(text).await.unwrap());
        lines.retain(|line| line.starts_with("S IntervalStyle"));
        told.push(lines);
    }
    assert_eq!(told[0], ["S IntervalStyle\\0iso_8601\\0"]);
    assert_eq!(told[1], told[0]);
}
