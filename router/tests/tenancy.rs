//! `tenantry.tenant` behaves as a setting of PostgreSQL does, in both protocols, and binds.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bytes::BytesMut;
use common::setup;
use tenantry_testkit::{RawClient, error_of, rows_of};
use tenantry_wire::frontend::{self, Format, TargetKind};

/// The one value of the last row, or the SQLSTATE of the error.
async fn ask(client: &mut RawClient, text: &str) -> String {
    let messages = client.query(text).await.unwrap();
    match error_of(&messages) {
        Some(error) => format!("{} {}", error.code, error.routine.unwrap_or_default()),
        None => rows_of(&messages)
            .pop()
            .and_then(|row| row.into_iter().next().flatten())
            .unwrap_or_default(),
    }
}

fn run(out: &mut BytesMut, text: &str, parameters: &[Option<&[u8]>]) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", parameters, Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
}

#[tokio::test]
async fn the_setting_is_transactional() {
    let setup = setup().await;
    setup.seed().await;
    let (a, b) = (setup.id(0), setup.id(1));
    let kind = "SELECT kind FROM events";
    let of = |id: &str| format!("tenant-{id}");
    let mut client = setup.raw().await;

    assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, "");
    ask(&mut client, &format!("SET tenantry.tenant = '{a}'")).await;
    assert_eq!(ask(&mut client, kind).await, of(&a));

    // Rolled back with its transaction, kept with COMMIT.
    ask(&mut client, "BEGIN").await;
    ask(&mut client, &format!("SET tenantry.tenant TO '{b}'")).await;
    assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, b);
    assert_eq!(ask(&mut client, kind).await, of(&b));
    ask(&mut client, "ROLLBACK").await;
    assert_eq!(ask(&mut client, kind).await, of(&a));

    // Local to a transaction.
    ask(&mut client, "BEGIN").await;
    ask(&mut client, &format!("SET LOCAL tenantry.tenant TO '{b}'")).await;
    assert_eq!(ask(&mut client, kind).await, of(&b));
    ask(&mut client, "COMMIT").await;
    assert_eq!(ask(&mut client, kind).await, of(&a));

    // Local outside a transaction warns and does nothing.
    let messages = client
        .query(&format!("SET LOCAL tenantry.tenant TO '{b}'"))
        .await
        .unwrap();
    assert!(messages.iter().any(|message| message.tag == b'N'));
    assert_eq!(ask(&mut client, kind).await, of(&a));

    // Savepoints, before anything has reached a server.
    ask(&mut client, "BEGIN").await;
    ask(&mut client, "SAVEPOINT s").await;
    ask(&mut client, &format!("SET LOCAL tenantry.tenant TO '{b}'")).await;
    ask(&mut client, "ROLLBACK TO s").await;
    assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, a);
    ask(&mut client, "COMMIT").await;

    ask(&mut client, "RESET tenantry.tenant").await;
    assert!(ask(&mut client, kind).await.starts_with("42704 "));
}

#[tokio::test]
async fn resets_return_to_the_startup_tenant() {
    let setup = setup().await;
    setup.seed().await;
    let (a, b) = (setup.id(0), setup.id(1));
    let mut client = setup.raw_for(0).await;
    for reset in [
        "RESET tenantry.tenant",
        "RESET ALL",
        "DISCARD ALL",
        "SET tenantry.tenant TO DEFAULT",
    ] {
        ask(&mut client, &format!("SET \"tenantry\".\"tenant\" = '{b}'")).await;
        assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, b);
        ask(&mut client, reset).await;
        assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, a, "{reset}");
        assert_eq!(
            ask(&mut client, "SELECT kind FROM events").await,
            format!("tenant-{a}")
        );
    }
}

#[tokio::test]
async fn a_transaction_stays_with_its_tenant() {
    let setup = setup().await;
    setup.seed().await;
    let (a, b) = (setup.id(0), setup.id(1));
    let mut client = setup.raw_for(0).await;
    ask(&mut client, "BEGIN").await;
    ask(
        &mut client,
        "INSERT INTO events (id, kind, subject) VALUES (7, 'x', 'x')",
    )
    .await;
    let switch = format!("SET LOCAL tenantry.tenant TO '{b}'");
    assert_eq!(
        ask(&mut client, &switch).await,
        "25001 TENANT_SWITCH_IN_TRANSACTION"
    );
    // The refusal made the transaction fail on the server too, and it is the server that says so.
    assert_eq!(
        ask(&mut client, "SELECT 1").await,
        "25P02 exec_simple_query"
    );
    // COMMIT of a refused transaction rolls back.
    let messages = client.query("COMMIT").await.unwrap();
    assert_eq!(messages[0].body(), b"ROLLBACK\0");
    assert_eq!(
        ask(&mut client, "SELECT count(*) FROM events WHERE id = 7").await,
        "0"
    );
    assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, a);

    // A savepoint gets it back.
    ask(
        &mut client,
        "BEGIN; INSERT INTO events (id, kind, subject) VALUES (8, 'x', 'x'); SAVEPOINT s",
    )
    .await;
    assert_eq!(
        ask(&mut client, &switch).await,
        "25001 TENANT_SWITCH_IN_TRANSACTION"
    );
    ask(&mut client, "ROLLBACK TO s").await;
    assert_eq!(
        ask(&mut client, "SELECT count(*) FROM events WHERE id = 8").await,
        "1"
    );
    ask(&mut client, "ROLLBACK").await;
}

#[tokio::test]
async fn an_unbound_read_only_transaction_begins_anew_for_its_tenant() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw().await;
    for index in 0..4 {
        let id = setup.id(index);
        ask(&mut client, "BEGIN").await;
        assert_eq!(
            ask(&mut client, "SELECT count(*) FROM pg_class WHERE false").await,
            "0"
        );
        ask(&mut client, &format!("SET LOCAL tenantry.tenant TO '{id}'")).await;
        assert_eq!(
            ask(&mut client, "SELECT kind FROM events").await,
            format!("tenant-{id}")
        );
        ask(&mut client, "COMMIT").await;
    }
    // An older snapshot cannot be had again elsewhere.
    ask(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    ask(&mut client, "SELECT 1").await;
    let switch = format!("SET LOCAL tenantry.tenant TO '{}'", setup.id(0));
    assert_eq!(
        ask(&mut client, &switch).await,
        "25001 TENANT_SWITCH_IN_TRANSACTION"
    );
    ask(&mut client, "ROLLBACK").await;
}

#[tokio::test]
async fn a_tenant_role_never_leaves_its_tenant() {
    let setup = setup().await;
    setup.seed().await;
    let (a, b) = (setup.id(0), setup.id(1));
    let mut client = RawClient::login(setup.address, &setup.login("store1"))
        .await
        .unwrap();
    assert_eq!(
        ask(&mut client, "SELECT kind FROM events").await,
        format!("tenant-{a}")
    );
    for text in [
        format!("SET tenantry.tenant = '{b}'"),
        format!("SELECT set_config('tenantry.tenant', '{b}', false)"),
        "SET tenantry.tenant = ''".to_owned(),
    ] {
        let answer = ask(&mut client, &text).await;
        assert!(answer.starts_with("42501 "), "{text}: {answer}");
    }
    assert_eq!(
        ask(&mut client, &format!("SET tenantry.tenant = '{a}'")).await,
        ""
    );
    assert_eq!(
        ask(&mut client, "SELECT kind FROM events").await,
        format!("tenant-{a}")
    );
}

#[tokio::test]
async fn set_config_and_current_setting_are_answered() {
    let setup = setup().await;
    setup.seed().await;
    let b = setup.id(1);
    let slug = setup.tenant(1).slug.to_string();
    let mut client = setup.raw().await;
    let set = format!(
        "SELECT set_config('tenantry.tenant', '{slug}', false) AS t, current_setting('tenantry.tenant')"
    );
    let messages = client.query(&set).await.unwrap();
    assert_eq!(
        rows_of(&messages),
        vec![vec![Some(b.clone()), Some(b.clone())]]
    );
    assert_eq!(
        ask(&mut client, "SELECT kind FROM events").await,
        format!("tenant-{b}")
    );
    assert!(!ask(&mut client, "SHOW tenantry.shard").await.is_empty());
    assert_eq!(
        ask(&mut client, "SET tenantry.nosuch = 1").await,
        "42704 SETTING_UNKNOWN"
    );
    assert_eq!(
        ask(&mut client, "SET tenantry.shard = 's1'").await,
        "42501 SETTING_READ_ONLY"
    );
    assert_eq!(
        ask(&mut client, "SET tenantry.tenant = 'nosuch'").await,
        "22023 TENANT_UNKNOWN"
    );
    assert_eq!(
        ask(
            &mut client,
            "SELECT set_config('tenantry.tenant', 'x' || 'y', false)"
        )
        .await,
        "0A000 UNSUPPORTED"
    );
}

#[tokio::test]
async fn a_refusal_in_a_pipeline_undoes_the_pipeline() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw_for(0).await;
    let insert = "INSERT INTO events (id, kind, subject) VALUES (9, 'x', 'x')";
    client
        .send(|out| {
            run(out, insert, &[]);
            run(out, "SET tenantry.tenant = 'nosuch'", &[]);
            run(out, "SELECT 1", &[]);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    let messages = client.until_ready().await.unwrap();
    assert_eq!(error_of(&messages).unwrap().code, "22023");
    assert_eq!(messages.last().unwrap().body(), b"I");
    let count = "SELECT count(*) FROM events WHERE id = 9";
    assert_eq!(ask(&mut client, count).await, "0");
    // The same as one simple query.
    let text = format!("{insert}; SET tenantry.tenant = 'nosuch'; SELECT 1");
    assert_eq!(ask(&mut client, &text).await, "22023 TENANT_UNKNOWN");
    assert_eq!(ask(&mut client, count).await, "0");
}

#[tokio::test]
async fn a_pipeline_binds_and_reads_in_one_go() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw().await;
    for round in 0..20 {
        let id = setup.id(round % 4);
        client
            .send(|out| {
                run(out, "BEGIN", &[]);
                let value = [Some(id.as_bytes())];
                run(
                    out,
                    "SELECT set_config('tenantry.tenant', $1, true)",
                    &value,
                );
                run(out, "SELECT kind FROM events", &[]);
                run(out, "COMMIT", &[]);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(error_of(&messages), None);
        assert_eq!(
            rows_of(&messages),
            vec![vec![Some(id.clone())], vec![Some(format!("tenant-{id}"))]]
        );
    }
}

#[tokio::test]
async fn settings_follow_the_client_and_never_reach_another() {
    let setup = common::setup_with(
        tenantry_testkit::Fleet::builder().shards(1).tenants(2),
        |config| config.pool_size = 1,
    )
    .await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    ask(&mut a, "SET TIME ZONE 'Asia/Tokyo'").await;
    ask(
        &mut a,
        "SELECT set_config('application_name', 'a''s \\ name', false)",
    )
    .await;
    assert_eq!(
        ask(&mut b, "SHOW timezone").await,
        ask(&mut b, "SELECT current_setting('timezone')").await
    );
    assert_ne!(ask(&mut b, "SHOW timezone").await, "Asia/Tokyo");
    assert_eq!(ask(&mut a, "SHOW timezone").await, "Asia/Tokyo");
    assert_eq!(ask(&mut a, "SHOW application_name").await, "a's \\ name");
    assert_ne!(ask(&mut b, "SHOW application_name").await, "a's \\ name");
    ask(&mut a, "BEGIN; SET TIME ZONE 'Asia/Seoul'; SELECT 1").await;
    ask(&mut a, "ROLLBACK").await;
    ask(&mut b, "SELECT 1").await;
    assert_eq!(ask(&mut a, "SHOW timezone").await, "Asia/Tokyo");
    assert_eq!(a.parameter("TimeZone"), Some("Asia/Tokyo"));

    let login = setup
        .login(&format!("shop.{}", setup.id(0)))
        .parameter(
            "options",
            "-c search_path=pg_catalog,public -c statement_timeout=5s",
        )
        .parameter("application_name", "c");
    let mut c = RawClient::login(setup.address, &login).await.unwrap();
    assert_eq!(c.parameter("application_name"), Some("c"));
    assert_eq!(ask(&mut c, "SHOW search_path").await, "pg_catalog,public");
    assert_eq!(ask(&mut b, "SHOW statement_timeout").await, "0");
    let wrong = setup.login("shop").parameter("TimeZone", "Nowhere");
    let refused = RawClient::login(setup.address, &wrong).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().code, "22023");
}

#[tokio::test]
async fn encodings_that_could_hide_a_quote_are_refused() {
    let setup = setup().await;
    for encoding in ["SJIS", "GBK", "big5"] {
        let login = setup.login("shop").parameter("client_encoding", encoding);
        let refused = RawClient::login(setup.address, &login).await.unwrap_err();
        assert_eq!(refused.refusal().unwrap().code, "0A000", "{encoding}");
    }
    let mut client = setup.raw_for(0).await;
    for text in [
        "SET client_encoding TO 'SJIS'",
        "SET NAMES 'GB18030'",
        "SELECT set_config('client_encoding', 'GBK', false)",
        "SELECT 1, set_config('client_encoding', 'S' || 'JIS', false)",
    ] {
        assert_eq!(ask(&mut client, text).await, "0A000 UNSUPPORTED", "{text}");
    }
    assert_eq!(ask(&mut client, "SET NAMES 'LATIN1'").await, "");
    assert_eq!(ask(&mut client, "SHOW client_encoding").await, "LATIN1");
}
