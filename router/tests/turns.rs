//! One connection of a client goes from tenant to tenant and from shard to shard: in one Query, in
//! one pipeline, without waiting for answers.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::setup;
use tenantry_testkit::{RawClient, error_of, rows_of, tags_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};

fn column(messages: &[Message]) -> Vec<String> {
    rows_of(messages)
        .into_iter()
        .map(|row| row[0].clone().unwrap_or_default())
        .collect()
}

fn put_statement(out: &mut BytesMut, text: &str, parameters: &[&str]) {
    let parameters: Vec<Option<&[u8]>> = parameters
        .iter()
        .map(|parameter| Some(parameter.as_bytes()))
        .collect();
    frontend::put_parse(out, "", text.as_bytes(), &[]);
    frontend::put_bind(out, "", "", &parameters, Format::Text);
    frontend::put_execute(out, "", 0);
}

/// Runs the statements by extended protocol with one Sync behind the last.
async fn pipeline(client: &mut RawClient, statements: &[&str]) -> Vec<Message> {
    client
        .send(|out| {
            for text in statements {
                put_statement(out, text, &[]);
            }
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    client.until_ready().await.unwrap()
}

fn transaction(id: &str) -> [String; 4] {
    [
        "BEGIN".to_owned(),
        format!("SET LOCAL tenantry.tenant = '{id}'"),
        "SELECT kind FROM events".to_owned(),
        "COMMIT".to_owned(),
    ]
}

#[tokio::test]
async fn a_session_without_a_tenant_stays_with_one_shard() {
    let setup = setup().await;
    for _ in 0..4 {
        let mut client = setup.raw().await;
        let oid = "SELECT current_database(), 'orders'::regclass::oid";
        let first = rows_of(&client.query(oid).await.unwrap());
        for id in setup.two_tenants().await {
            let text = transaction(&id).join(";");
            assert_eq!(error_of(&client.query(&text).await.unwrap()), None);
            assert_eq!(rows_of(&client.query(oid).await.unwrap()), first);
        }
    }
}

#[tokio::test]
async fn one_query_holds_transactions_of_two_tenants() {
    let setup = setup().await;
    setup.seed().await;
    let [a, b] = setup.two_tenants().await;
    let expected = vec![format!("tenant-{a}"), format!("tenant-{b}")];
    let mut client = setup.raw().await;
    let statements = [transaction(&a), transaction(&b)].concat();
    let messages = client.query(&statements.join(";")).await.unwrap();
    assert_eq!(error_of(&messages), None);
    assert_eq!(column(&messages), expected);

    let statements: Vec<_> = statements.iter().map(String::as_str).collect();
    let messages = pipeline(&mut client, &statements).await;
    assert_eq!(error_of(&messages), None);
    assert_eq!(column(&messages), expected);
    assert_eq!(tags_of(&messages), "12C12C12DC12C12C12C12DC12CZ");
}

#[tokio::test]
async fn a_transaction_that_only_read_moves_to_its_tenant() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw().await;
    for id in setup.two_tenants().await {
        let statements = [
            "BEGIN",
            "SELECT relname FROM pg_class WHERE relname = 'orders'",
            &format!("SET LOCAL tenantry.tenant = '{id}'"),
            "SELECT kind FROM events",
            "COMMIT",
        ];
        let expected = vec!["orders".to_owned(), format!("tenant-{id}")];
        let messages = client.query(&statements.join(";")).await.unwrap();
        assert_eq!(error_of(&messages), None);
        assert_eq!(column(&messages), expected);
        let messages = pipeline(&mut client, &statements).await;
        assert_eq!(error_of(&messages), None);
        assert_eq!(column(&messages), expected);
    }
}

#[tokio::test]
async fn what_follows_a_commit_unawaited_is_not_the_transactions() {
    let setup = setup().await;
    setup.seed().await;
    let [a, b] = setup.two_tenants().await;
    let mut client = setup.raw().await;
    let set = format!("SET tenantry.tenant = '{b}'");
    assert_eq!(error_of(&client.query(&set).await.unwrap()), None);

    for end in ["COMMIT", "ROLLBACK"] {
        let mut statements = transaction(&a);
        statements[3] = end.to_owned();
        let last = "SELECT kind FROM events".to_owned();
        let statements = [statements.as_slice(), &[last]].concat();
        // One Query each, all in one write.
        client
            .send(|out| {
                for text in &statements {
                    frontend::put_query(out, text.as_bytes());
                }
            })
            .await
            .unwrap();
        let mut seen = Vec::new();
        for _ in &statements {
            let messages = client.until_ready().await.unwrap();
            assert_eq!(error_of(&messages), None);
            seen.extend(column(&messages));
        }
        assert_eq!(seen, [format!("tenant-{a}"), format!("tenant-{b}")]);

        // One Sync behind each, all in one write.
        client
            .send(|out| {
                for text in &statements {
                    put_statement(out, text, &[]);
                    frontend::put_sync(out);
                }
            })
            .await
            .unwrap();
        let mut seen = Vec::new();
        for _ in &statements {
            let messages = client.until_ready().await.unwrap();
            assert_eq!(error_of(&messages), None);
            seen.extend(column(&messages));
        }
        assert_eq!(seen, [format!("tenant-{a}"), format!("tenant-{b}")]);

        // One Sync behind the last.
        let statements: Vec<_> = statements.iter().map(String::as_str).collect();
        let messages = pipeline(&mut client, &statements).await;
        assert_eq!(error_of(&messages), None);
        assert_eq!(
            column(&messages),
            [format!("tenant-{a}"), format!("tenant-{b}")]
        );
    }
}

#[tokio::test]
async fn a_commit_that_fails_stops_its_pipeline() {
    let setup = setup().await;
    setup.seed().await;
    let [a, b] = setup.two_tenants().await;
    let mut client = setup.raw().await;
    let [begin, set, _, commit] = transaction(&a);
    let other = transaction(&b);
    let mut statements = vec![
        begin.as_str(),
        set.as_str(),
        "SELECT 1 / 0",
        commit.as_str(),
    ];
    statements.extend(other.iter().map(String::as_str));
    let messages = pipeline(&mut client, &statements).await;
    assert_eq!(error_of(&messages).unwrap().code, "22012");
    assert_eq!(tags_of(&messages), "12C12C1EZ");
    let messages = client.query("ROLLBACK").await.unwrap();
    assert_eq!(error_of(&messages), None);
    let messages = client.query(&other.join(";")).await.unwrap();
    assert_eq!(column(&messages), [format!("tenant-{b}")]);
}

#[tokio::test]
async fn a_setting_may_be_named_by_a_parameter() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw().await;
    for id in setup.two_tenants().await {
        client
            .send(|out| {
                put_statement(out, "BEGIN", &[]);
                let call = "SELECT set_config($1, $2, true)";
                put_statement(out, call, &["tenantry.tenant", &id]);
                put_statement(out, call, &["application_name", "storefront"]);
                put_statement(out, "SELECT kind FROM events", &[]);
                put_statement(out, "SELECT current_setting($1)", &["application_name"]);
                put_statement(out, "SELECT current_setting($1)", &["tenantry.tenant"]);
                put_statement(out, "COMMIT", &[]);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(error_of(&messages), None);
        let kind = format!("tenant-{id}");
        assert_eq!(
            column(&messages),
            [&id, "storefront", &kind, "storefront", &id]
        );
    }
}

#[tokio::test]
async fn the_reset_of_a_drivers_pool_is_allowed() {
    let setup = setup().await;
    let mut client = setup.raw().await;
    let reset = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    let messages = client.query(reset).await.unwrap();
    assert_eq!(error_of(&messages), None);
    assert_eq!(tags_of(&messages), "TDCCCCZ");

    // It takes the tenant and the settings of the session away, whatever ran for them before.
    let set = format!(
        "SET tenantry.tenant = '{}'; SET timezone = 'Asia/Tokyo'",
        setup.id(0)
    );
    assert_eq!(error_of(&client.query(&set).await.unwrap()), None);
    assert_eq!(
        error_of(&client.query("SELECT count(*) FROM events").await.unwrap()),
        None
    );
    let messages = client.query(reset).await.unwrap();
    assert_eq!(error_of(&messages), None);
    let rows = rows_of(&client.query("SHOW tenantry.tenant").await.unwrap());
    assert_eq!(rows, [[Some(String::new())]]);
    let rows = rows_of(&client.query("SHOW timezone").await.unwrap());
    assert_ne!(rows, [[Some("Asia/Tokyo".to_owned())]]);
    let unbound = error_of(&client.query("SELECT count(*) FROM events").await.unwrap()).unwrap();
    assert_eq!(unbound.code, "42704");
}
