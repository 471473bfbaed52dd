//! Whatever rolls a transaction back, in whatever words: the connection never falls back to the
//! tenant it served before.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Setup, setup_with};
use tenantry_testkit::{Fleet, error_of, rows_of};
use tenantry_wire::frontend::{self, Format, TargetKind};

/// One connection, so that every switch is a switch on it.
async fn one_connection() -> Setup {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    setup
}

#[tokio::test]
async fn a_rollback_inside_a_query_leads_to_nobody_elses_rows() {
    let setup = one_connection().await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    let own = vec![vec![Some(format!("tenant-{}", setup.id(0)))]];
    for text in [
        "ROLLBACK; SELECT kind FROM events",
        "BEGIN; ROLLBACK; SELECT kind FROM events",
        "SELECT 1 WHERE false; ABORT; SELECT kind FROM events",
        "BEGIN; SELECT 1 WHERE false; ROLLBACK; SELECT kind FROM events",
        "COMMIT; SELECT kind FROM events",
    ] {
        // The connection serves the other tenant first.
        b.query("SELECT kind FROM events").await.unwrap();
        let messages = a.query(text).await.unwrap();
        assert_eq!(error_of(&messages), None, "{text}");
        assert_eq!(rows_of(&messages), own, "{text}");
    }
}

#[tokio::test]
async fn a_text_read_differently_by_the_server_leads_to_nobody_elses_rows() {
    let setup = one_connection().await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    b.query("SELECT kind FROM events").await.unwrap();
    a.query("BEGIN").await.unwrap();
    a.query("SELECT 1").await.unwrap();
    // Both in one write: the second is looked at before the first has been answered.
    a.send(|out| {
        frontend::put_query(out, "SET LOCAL standard_conforming_strings = off");
        frontend::put_query(out, r"SELECT '\''; ROLLBACK; SELECT kind FROM events --'");
    })
    .await
    .unwrap();
    let mut messages = a.until_ready().await.unwrap();
    messages.extend(a.until_ready().await.unwrap());
    let foreign = Some(format!("tenant-{}", setup.id(1)));
    assert!(
        !rows_of(&messages)
            .iter()
            .flatten()
            .any(|value| *value == foreign)
    );
}

#[tokio::test]
async fn what_extended_protocol_sets_is_the_sessions_own() {
    let setup = one_connection().await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    for (text, show) in [
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SHOW default_transaction_read_only",
        ),
        (
            "SELECT set_config('statement_timeout', '7s', false)",
            "SHOW statement_timeout",
        ),
    ] {
        let before = rows_of(&b.query(show).await.unwrap());
        a.send(|out| {
            frontend::put_parse(out, "", text, &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_describe(out, TargetKind::Portal, "");
            // A row limit, as drivers have that fetch one value.
            frontend::put_execute(out, "", 1);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
        assert_eq!(error_of(&a.until_ready().await.unwrap()), None, "{text}");
        assert_eq!(rows_of(&b.query(show).await.unwrap()), before, "{text}");
        assert_ne!(rows_of(&a.query(show).await.unwrap()), before, "{text}");
    }
}

#[tokio::test]
async fn transactions_begin_with_the_modes_of_their_own_client() {
    let setup = one_connection().await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    let set = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE";
    assert_eq!(error_of(&a.query(set).await.unwrap()), None);
    let modes = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), \
                 current_setting('transaction_deferrable')";
    let row = |values: [&str; 3]| vec![values.map(|value| Some(value.to_owned())).to_vec()];
    let (as_set, as_connected) = (
        row(["serializable", "on", "on"]),
        row(["read committed", "off", "off"]),
    );
    let named = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE";
    // After a rollback the router does not know what is set on the connection.
    for end in ["COMMIT", "ROLLBACK"] {
        for begin in ["BEGIN", "BEGIN; SAVEPOINT s", named] {
            for (client, wanted) in [(&mut a, &as_set), (&mut b, &as_connected)] {
                // A transaction of its own first: nothing precedes it on this connection but the other client's.
                assert_eq!(rows_of(&client.query(modes).await.unwrap()), *wanted);
            }
            for (client, wanted, deferrable) in
                [(&mut a, &as_set, "on"), (&mut b, &as_connected, "off")]
            {
                client.query(begin).await.unwrap();
                let wanted = match begin == named {
                    true => row(["repeatable read", "off", deferrable]),
                    false => wanted.clone(),
                };
                assert_eq!(
                    rows_of(&client.query(modes).await.unwrap()),
                    wanted,
                    "{begin}"
                );
                assert_eq!(error_of(&client.query(end).await.unwrap()), None);
            }
        }
    }
}

#[tokio::test]
async fn no_role_is_left_on_a_connection() {
    let setup = one_connection().await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    for name in ["role", "session_authorization"] {
        let text = format!("SELECT set_config('{name}', 'tenantry_copy', false)");
        let error = error_of(&a.query(&text).await.unwrap()).unwrap();
        assert_eq!(error.code, "42501");
        a.send(|out| {
            frontend::put_parse(out, "", "SELECT set_config($1, $2, false)", &[25, 25]);
            let parameters = [Some(name.as_bytes()), Some(&b"tenantry_copy"[..])];
            frontend::put_bind(out, "", "", &parameters, Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
        let error = error_of(&a.until_ready().await.unwrap()).unwrap();
        assert_eq!(error.code, "42501");
        let user = rows_of(&b.query("SELECT current_user").await.unwrap());
        assert_eq!(user, vec![vec![Some("tenantry_app".to_owned())]]);
    }
}
