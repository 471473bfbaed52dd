//! Messages that end where they say and do not hold what they must: PostgreSQL answers with an error and goes on, and so
//! does the router. What breaks the framing ends the session, see `bad_input`.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::compare::{direct, normalised, pipelined, show};
use common::probe::whole;
use common::setup;
use tenantry_testkit::RawClient;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::frontend as tag;

const INSERT: &str = "INSERT INTO events (id, kind, subject) VALUES (77, 'half', 'x')";

fn bodies() -> Vec<(u8, &'static [u8])> {
    vec![
        (tag::QUERY, b""),
        (tag::QUERY, b"SELECT 1"),
        (tag::QUERY, b"SELECT 1\0\0"),
        (tag::PARSE, b""),
        (tag::PARSE, b"\0SELECT 1"),
        (tag::PARSE, b"\0SELECT 1\0"),
        (tag::PARSE, b"\0SELECT 1\0\0\x09"),
        (tag::PARSE, b"\0SELECT 1\0\0\0more"),
        (tag::BIND, b""),
        (tag::BIND, b"\0name"),
        (tag::BIND, b"\0\0\0\0\xff\xff"),
        (tag::DESCRIBE, b""),
        (tag::DESCRIBE, b"Qname\0"),
        (tag::DESCRIBE, b"S"),
        (tag::DESCRIBE, b"P\0more"),
        (tag::EXECUTE, b"\0\0"),
        (tag::EXECUTE, b"portal"),
        (tag::CLOSE, b"x\0"),
        (tag::CLOSE, b"S"),
        (tag::CLOSE, b""),
        (tag::FUNCTION_CALL, b"\0"),
    ]
}

/// Where the message stands: what is sent before and behind it, and how many ReadyForQuery come when it is a Query, and
/// when it is a message of the extended protocol.
type Place = (&'static str, fn(&mut BytesMut), usize, usize);

fn run(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", &[], Format::Text);
    frontend::put_execute(out, "", 0);
}

fn places() -> [Place; 4] {
    [
        ("alone", |_| {}, 3, 2),
        (
            "in a transaction",
            |out| frontend::put_query(out, format!("BEGIN; {INSERT}")),
            4,
            3,
        ),
        (
            "in a transaction that has run nothing",
            |out| frontend::put_query(out, "BEGIN"),
            4,
            3,
        ),
        ("in a batch", |out| run(out, INSERT), 3, 2),
    ]
}

async fn play(client: &mut RawClient, name: &str, bytes: &[u8], ready: usize) -> Vec<String> {
    normalised(show(&pipelined(client, name, bytes, ready).await))
}

#[tokio::test]
async fn malformed_bodies_are_refused_as_postgresql_refuses_them() {
    let setup = setup().await;
    setup.seed().await;
    let mut differences = Vec::new();
    for (letter, body) in bodies() {
        for (place, put, when_query, when_extended) in places() {
            let name = format!("{} {} {place}", char::from(letter), body.escape_ascii());
            let mut bytes = BytesMut::new();
            put(&mut bytes);
            bytes.extend_from_slice(&whole(letter, body));
            let simple = matches!(letter, tag::QUERY | tag::FUNCTION_CALL);
            // Skipped behind a message of the extended protocol.
            run(&mut bytes, "SELECT 7");
            frontend::put_sync(&mut bytes);
            frontend::put_query(&mut bytes, "SELECT count(*) FROM events");
            let ready = if simple { when_query } else { when_extended };
            let mut clients = [direct(&setup, 0).await, setup.raw_for(0).await];
            let [at_shard, through] = &mut clients;
            let expected = play(at_shard, &name, &bytes, ready).await;
            let found = play(through, &name, &bytes, ready).await;
            if expected != found {
                differences.push(format!(
                    "--- {name}\nexpected {expected:#?}\nfound {found:#?}"
                ));
            }
            // Nothing of it stays, and the session is as good as before.
            for client in &mut clients {
                let mut end = BytesMut::new();
                frontend::put_query(&mut end, "ROLLBACK");
                frontend::put_query(&mut end, "SELECT id FROM events");
                let left = play(client, &name, &end, 2).await;
                assert_eq!(
                    left[left.len() - 3..],
                    ["D \\0\\u{1}\\0\\0\\0\\u{1}1", "C SELECT 1\\0", "Z I"],
                    "{name}"
                );
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    setup.nothing_leaked(0).await;
}
