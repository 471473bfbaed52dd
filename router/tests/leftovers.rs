//! What one client leaves on a server connection must not be there for the next.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use common::probe::until;
use common::setup_with;
use tenantry_testkit::{Fleet, error_of, rows_of};
use tenantry_wire::frontend::{self, Format};

/// Ways to change a setting of the session for good, some of which no reader of statements can see.
const WAYS: &[&str] = &[
    "SET statement_timeout = '77s'",
    "SET SESSION statement_timeout TO 77000",
    "BEGIN; SET statement_timeout = '77s'; COMMIT",
    "SELECT set_config('statement_timeout', '77s', false)",
    "SELECT pg_catalog.\"set_config\"('statement_timeout', '77s', false), 1",
    "SELECT U&\"set\\005fconfig\"('statement_timeout', '77s', false)",
    "SELECT set_config('statement_' || 'timeout', '77s', false)",
    "SELECT set_config(name, '77s', false) FROM pg_settings WHERE name = 'statement_timeout'",
    "SELECT * FROM set_config('statement_timeout', '77s', false)",
    "WITH x AS (SELECT set_config('statement_timeout', '77s', false)) SELECT * FROM x",
    "VALUES (set_config('statement_timeout', '77s', false))",
    "COPY (SELECT set_config('statement_timeout', '77s', false)) TO STDOUT",
    "EXPLAIN ANALYZE SELECT set_config('statement_timeout', '77s', false)",
    "BEGIN; DECLARE c CURSOR FOR SELECT set_config('statement_timeout', '77s', false); FETCH c; COMMIT",
    "PREPARE p AS SELECT set_config('statement_timeout', '77s', false); EXECUTE p",
    "PREPARE p AS SELECT set_config($1, $2, false); EXECUTE p ('statement_timeout', '77s')",
    "INSERT INTO events (kind, subject) VALUES ('x', set_config('statement_timeout', '77s', false))",
    "UPDATE pg_settings SET setting = '77000' WHERE name = 'statement_timeout'",
    "SELECT query_to_xml('SELECT set_config(''statement_timeout'', ''77s'', false)', true, true, '')",
    "SELECT query_to_xml('SELECT set' || '_config(''statement_timeout'', ''77s'', false)', true, true, '')",
    "SELECT query_to_xml('UPDATE pg_settings SET setting = 77000 WHERE name = ''statement_timeout''', true, true, '')",
    "DO $$ BEGIN PERFORM set_config('statement_timeout', '77s', false); END $$",
    "DO $$ BEGIN SET statement_timeout = '77s'; END $$",
    "DO $$ BEGIN EXECUTE 'SE' || 'T statement_timeout = 77000'; END $$",
    "DO LANGUAGE plpgsql 'BEGIN EXECUTE ''SE'' || ''T statement_timeout = 77000''; END'",
    "BEGIN; DO $$ BEGIN EXECUTE 'SE' || 'T statement_timeout = 77000'; END $$; COMMIT",
    "SELECT 1; DO $$ BEGIN EXECUTE 'SE' || 'T statement_timeout = 77000'; END $$; SELECT 2",
    "PREPARE p AS SELECT 1; DO $$ BEGIN EXECUTE 'SE' || 'T statement_timeout = 77000'; END $$",
];

const END_BACKENDS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tenantry_app'";

/// A procedure that rolls back takes what was set in its transaction, and what the router brought into force for the client
/// is not among that.
#[tokio::test]
async fn a_procedure_that_rolls_back_keeps_its_clients_settings() {
    let fleet = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(fleet, |config| config.pool_size = 1).await;
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let procedure = "CREATE PROCEDURE public.looks(INOUT before text, INOUT behind text) LANGUAGE plpgsql AS \
         $$ BEGIN before := current_setting('work_mem'); ROLLBACK; behind := current_setting('work_mem'); END $$";
    admin.batch_execute(procedure).await.unwrap();
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(1).await);
    client.query("SET work_mem TO '5MB'").await.unwrap();
    let expected = [[Some("5MB".to_owned()), Some("5MB".to_owned())]];
    for extended in [false, true] {
        other.query("SET work_mem TO '7MB'").await.unwrap();
        client
            .send(|out| {
                let call = "CALL looks(NULL, NULL)";
                if extended {
                    frontend::put_parse(out, "", call, &[]);
                    frontend::put_bind(out, "", "", &[], Format::Text);
                    frontend::put_execute(out, "", 0);
                    frontend::put_sync(out);
                } else {
                    frontend::put_query(out, call);
                }
            })
            .await
            .unwrap();
        let answer = client.until_ready().await.unwrap();
        assert_eq!(rows_of(&answer), expected, "extended: {extended}");
        let shown = rows_of(&other.query("SHOW work_mem").await.unwrap());
        assert_eq!(shown, [[Some("7MB".to_owned())]]);
    }
}

/// The check of a Query that is run statement by statement ends in an error, and takes with it what was brought into force
/// before it in the same batch.
#[tokio::test]
async fn a_checked_query_in_a_batch_leaves_nobody_elses_settings() {
    let fleet = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(fleet, |config| config.pool_size = 1).await;
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(1).await);
    for text in [
        "SET TRANSACTION READ ONLY; SELECT 1; ROLLBACK; SELEC 1",
        "SET TRANSACTION READ ONLY; SELECT 1; ROLLBACK; SELECT 1",
    ] {
        client.query("SET my.x TO 'mine'").await.unwrap();
        other.query("SET my.x TO 'other'").await.unwrap();
        client
            .send(|out| {
                frontend::put_parse(out, "", "SELECT $1::text", &[]);
                frontend::put_query(out, text);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        client.until_ready().await.unwrap();
        client.until_ready().await.unwrap();
        for (client, value) in [(&mut client, "mine"), (&mut other, "other")] {
            let shown = rows_of(&client.query("SHOW my.x").await.unwrap());
            assert_eq!(shown, [[Some(value.to_owned())]], "{text}");
        }
        assert_eq!(
            rows_of(&client.query("SHOW tenantry.tenant").await.unwrap()),
            [[Some(setup.id(0))]]
        );
    }
}

#[tokio::test]
async fn a_setting_stays_with_the_client_that_made_it() {
    let builder = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(builder, |config| config.pool_size = 1).await;
    setup.seed().await;
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let mut leaks = Vec::new();
    for way in WAYS {
        for extended in [false, true] {
            let single = !way.contains("; ") || way.contains("BEGIN PERFORM");
            if extended && !single {
                continue;
            }
            let mut client = setup.raw_for(0).await;
            client
                .send(|out| {
                    if extended {
                        frontend::put_parse(out, "", way, &[]);
                        frontend::put_bind(out, "", "", &[], Format::Text);
                        frontend::put_execute(out, "", 0);
                        frontend::put_sync(out);
                    } else {
                        frontend::put_query(out, way);
                    }
                })
                .await
                .unwrap();
            let answer = client.until_ready().await.unwrap();
            let refused = error_of(&answer).map(|error| error.code);
            // Not before, since the router may have chosen to keep the connection for this client.
            drop(client);
            setup.nothing_leaked(0).await;
            let mut next = setup.raw_for(1).await;
            let text = "SELECT current_setting('statement_timeout')";
            let shown = rows_of(&next.query(text).await.unwrap());
            if shown != vec![vec![Some("0".to_owned())]] {
                leaks.push(format!(
                    "{way} (extended: {extended}, {refused:?}): {shown:?}"
                ));
                // Whatever follows starts with a connection of its own.
                admin.execute(END_BACKENDS, &[]).await.unwrap();
                until("a new connection", async || {
                    let shown = rows_of(&next.query(text).await.unwrap());
                    (shown == vec![vec![Some("0".to_owned())]]).then_some(())
                })
                .await;
            }
        }
    }
    // FunctionCall of set_config(text, text, boolean), oid 2078.
    let mut client = setup.raw_for(0).await;
    let mut body = 2078_u32.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 0, 0, 3]);
    for argument in ["statement_timeout", "77s", "f"] {
        body.extend(u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    let length = u32::try_from(body.len()).unwrap() + 4;
    let call = [&b"F"[..], &length.to_be_bytes(), &body].concat();
    client.send_bytes(&call).await.unwrap();
    assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    drop(client);
    setup.nothing_leaked(0).await;
    let mut next = setup.raw_for(1).await;
    let shown = next
        .query("SELECT current_setting('statement_timeout')")
        .await
        .unwrap();
    if rows_of(&shown) != vec![vec![Some("0".to_owned())]] {
        leaks.push("FunctionCall".to_owned());
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

/// A cursor WITH HOLD needs its connection as long as it is open, and no longer: Django's iterators
/// make one and close it.
#[tokio::test]
async fn a_held_cursor_ties_the_session_until_it_is_closed() {
    let builder = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(builder, |config| {
        config.pool_size = 1;
        config.timeouts.query_wait = std::time::Duration::from_millis(200);
    })
    .await;
    let mut holder = setup.raw_for(0).await;
    let mut other = setup.raw_for(1).await;
    for (declare, close) in [
        ("DECLARE a CURSOR WITH HOLD FOR SELECT 1", "CLOSE a"),
        (
            "BEGIN; DECLARE a CURSOR WITH HOLD FOR SELECT 1; COMMIT",
            "BEGIN; CLOSE a; COMMIT",
        ),
        ("DECLARE \"A b\" CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL"),
    ] {
        assert_eq!(error_of(&holder.query(declare).await.unwrap()), None);
        let refused = error_of(&other.query("SELECT 1").await.unwrap()).unwrap();
        assert_eq!(refused.code, "53300", "{declare}");
        assert_eq!(error_of(&holder.query(close).await.unwrap()), None);
        assert_eq!(
            error_of(&other.query("SELECT 1").await.unwrap()),
            None,
            "{close}"
        );
    }

    // By extended protocol, and with one of two left.
    for text in [
        "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
        "DECLARE b CURSOR WITH HOLD FOR SELECT 1",
        "CLOSE a",
    ] {
        extended(&mut holder, text).await;
    }
    let refused = error_of(&other.query("SELECT 1").await.unwrap()).unwrap();
    assert_eq!(refused.code, "53300");
    extended(&mut holder, "CLOSE b").await;
    assert_eq!(error_of(&other.query("SELECT 1").await.unwrap()), None);
    let open = other
        .query("SELECT count(*) FROM pg_cursors WHERE is_holdable")
        .await
        .unwrap();
    assert_eq!(rows_of(&open), [[Some("0".to_owned())]]);
}

async fn extended(client: &mut tenantry_testkit::RawClient, text: &str) {
    client
        .send(|out| {
            frontend::put_parse(out, "", text, &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(
        error_of(&client.until_ready().await.unwrap()),
        None,
        "{text}"
    );
}
