//! Each limit of a tenant, what it says when it refuses, and that nobody else notices.

use std::time::Duration;

use tenantry_schema::catalog::Plan;
use tenantry_testkit::{RawClient, error_of, rows_of, status_of};
use tenantry_wire::backend::TxStatus;
use tenantry_wire::frontend::{self, Format};
use tokio_postgres::SimpleQueryMessage;

use crate::common::probe::{assert_fields, assert_refused, refused_login, until};
use crate::{becomes, fleet, followed, limit, limits, refusal, retry_ms};

#[tokio::test]
async fn a_rate_is_refused_with_the_limit_and_when_to_retry() {
    let setup = fleet().await;
    limit(&setup, 0, r#"{"queries_per_second": 4, "query_burst": 3}"#).await;
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(1).await);
    let mut error = None;
    for _ in 0..20 {
        error = refusal(&mut client, "SELECT 1").await;
        assert_eq!(refusal(&mut other, "SELECT 1").await, None);
        if error.is_some() {
            break;
        }
    }
    let error = error.unwrap();
    assert_fields(&error, "53400", "TENANT_QUERY_RATE");
    let detail = error.detail.clone().unwrap();
    assert!(
        detail.starts_with("queries_per_second is 4; observed "),
        "{detail}"
    );
    let retry = Duration::from_millis(retry_ms(&error));
    assert!(retry <= Duration::from_millis(251), "{retry:?}");
    // It is in time what it said, and the session has lost nothing.
    tokio::time::sleep(retry).await;
    assert_eq!(refusal(&mut client, "SELECT 1").await, None);
}

/// What a transaction runs is paid for when it has ended.
#[tokio::test]
async fn statements_of_a_transaction_count_each() {
    let setup = fleet().await;
    limit(
        &setup,
        0,
        r#"{"queries_per_second": 20, "query_burst": 20}"#,
    )
    .await;
    let mut client = setup.raw_for(0).await;
    client.query("BEGIN").await.unwrap();
    for _ in 0..39 {
        assert_eq!(refusal(&mut client, "SELECT 1").await, None);
    }
    assert_eq!(refusal(&mut client, "COMMIT").await, None);
    let error = refusal(&mut client, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "TENANT_QUERY_RATE");
    assert!(retry_ms(&error) > 100, "{error:?}");
}

#[tokio::test]
async fn transactions_at_once_are_bounded() {
    let setup = fleet().await;
    limit(&setup, 0, r#"{"transactions": 2}"#).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(setup.raw_for(0).await);
    }
    let [one, two, three] = &mut clients[..] else {
        panic!()
    };
    one.query("BEGIN; SELECT 1").await.unwrap();
    two.query("BEGIN; SELECT 1").await.unwrap();
    let messages = three.query("SELECT 1").await.unwrap();
    let error = assert_refused(&messages, "53400", "TENANT_TRANSACTIONS");
    assert_eq!(status_of(&messages), Some(TxStatus::Idle));
    let detail = error.detail.unwrap();
    assert!(
        detail.starts_with("transactions is 2; observed 2; retry in "),
        "{detail}"
    );
    // By extended protocol, in a transaction of the client's.
    three.query("BEGIN").await.unwrap();
    three
        .send(|out| {
            frontend::put_parse(out, "", "SELECT 1", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    let messages = three.until_ready().await.unwrap();
    assert_refused(&messages, "53400", "TENANT_TRANSACTIONS");
    assert_eq!(status_of(&messages), Some(TxStatus::Failed));
    three.query("ROLLBACK").await.unwrap();

    let mut other = setup.raw_for(1).await;
    assert_eq!(refusal(&mut other, "SELECT 1").await, None);
    one.query("COMMIT").await.unwrap();
    assert_eq!(refusal(three, "SELECT 1").await, None);
    // A place is free again however its session ends.
    drop(clients);
    let mut last = setup.raw_for(0).await;
    becomes(&mut last, "BEGIN; SELECT 1; COMMIT", None).await;
    setup.nothing_leaked(2).await;

    // What the console says of it.
    let console = setup.connect("ops", "tenantry").await.unwrap();
    let rows = console.simple_query("SHOW LIMITS").await.unwrap();
    let shown = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            ["tenant", "limit", "value", "share", "used"]
                .map(|name| row.get(name).unwrap().to_owned()),
        ),
        _ => None,
    });
    let expected = [setup.id(0).as_str(), "transactions", "2", "2", "0"].map(str::to_owned);
    assert_eq!(shown, Some(expected));
}

#[tokio::test]
async fn connections_are_bounded_at_login_and_by_set() {
    let setup = fleet().await;
    limit(&setup, 0, r#"{"connections": 1}"#).await;
    let first = setup.raw_for(0).await;
    let user = format!("shop.{}", setup.id(0));
    let error = refused_login(&setup, &setup.login(&user)).await;
    assert_fields(&error, "53400", "TENANT_CONNECTIONS");
    let detail = error.detail.unwrap();
    assert!(
        detail.starts_with("connections is 1; observed 1"),
        "{detail}"
    );

    let mut switching = setup.raw().await;
    let set = format!("SET tenantry.tenant = '{}'", setup.id(0));
    switching.query(&set).await.unwrap();
    let messages = switching.query("SELECT 1").await.unwrap();
    assert_refused(&messages, "53400", "TENANT_CONNECTIONS");
    let set = format!("SET tenantry.tenant = '{}'", setup.id(1));
    switching.query(&set).await.unwrap();
    assert_eq!(refusal(&mut switching, "SELECT 1").await, None);

    drop(first);
    until("the place is free", async || {
        RawClient::login(setup.address, &setup.login(&user))
            .await
            .ok()
    })
    .await;
}

#[tokio::test]
async fn statements_and_transactions_have_a_time() {
    let setup = fleet().await;
    let plan = Plan {
        name: "brief".to_owned(),
        limits: limits(r#"{"statement_time_ms": 150, "transaction_time_ms": 400}"#),
    };
    let catalog = setup.fleet.catalog();
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(1).await);
    other
        .send(|out| frontend::put_query(out, "SELECT pg_sleep(1)"))
        .await
        .unwrap();
    // The plan comes while a statement runs that is too long for it.
    client
        .send(|out| frontend::put_query(out, "SELECT pg_sleep(60)"))
        .await
        .unwrap();
    catalog.upsert_plan(&plan).await.unwrap();
    catalog
        .set_tenant_plan(setup.tenant(0).id, "brief")
        .await
        .unwrap();
    let messages = client.until_ready().await.unwrap();
    let error = assert_refused(&messages, "57014", "STATEMENT_TIMEOUT");
    assert_eq!(
        error.detail.as_deref(),
        Some("statement_time of the tenant is 150ms")
    );
    client.query("BEGIN; SELECT 1").await.unwrap();
    let text = "SELECT pg_sleep(0.05)";
    let error = until("the transaction is too long", async || {
        refusal(&mut client, text).await
    })
    .await;
    assert_fields(&error, "25P04", "TRANSACTION_TIMEOUT");
    assert_eq!(
        error.detail.as_deref(),
        Some("transaction_time of the tenant is 400ms")
    );
    assert_eq!(error_of(&other.until_ready().await.unwrap()), None);
}

/// A kept connection is no way around: in pool mode `session`, and in a pipeline.
#[tokio::test]
async fn who_keeps_a_connection_is_limited_too() {
    let setup = fleet().await;
    limit(
        &setup,
        0,
        r#"{"queries_per_second": 10, "query_burst": 10}"#,
    )
    .await;
    let mut client = setup.raw_for(0).await;
    client.query("LISTEN news").await.unwrap();
    let mut refused = None;
    for _ in 0..50 {
        refused = refusal(&mut client, "SELECT 1").await;
        if refused.is_some() {
            break;
        }
    }
    assert_fields(&refused.unwrap(), "53400", "TENANT_QUERY_RATE");

    limit(
        &setup,
        1,
        r#"{"queries_per_second": 10, "query_burst": 10}"#,
    )
    .await;
    let mut client = setup.raw_for(1).await;
    let count = 200;
    client
        .send(|out| {
            for _ in 0..count {
                frontend::put_query(out, "SELECT 1");
            }
        })
        .await
        .unwrap();
    let mut served = 0;
    for _ in 0..count {
        let messages = client.until_ready().await.unwrap();
        served += rows_of(&messages).len();
    }
    assert!(served < count, "all of {count} were served");
}

#[tokio::test]
async fn limits_come_and_go_while_sessions_stay() {
    let setup = fleet().await;
    let mut client = setup.raw_for(0).await;
    assert_eq!(refusal(&mut client, "SELECT 1").await, None);
    limit(&setup, 0, r#"{"queries_per_second": 1, "query_burst": 1}"#).await;
    becomes(&mut client, "SELECT 1", Some("53400")).await;
    limit(&setup, 0, "{}").await;
    for _ in 0..20 {
        assert_eq!(refusal(&mut client, "SELECT 1").await, None);
    }
    // By hand, and by the plan.
    let psql = setup
        .fleet
        .catalog_server()
        .connect("catalog")
        .await
        .unwrap();
    psql.batch_execute(
        "UPDATE tenantry.plan SET limits = '{\"queries_per_second\": 1}' WHERE name = 'standard'",
    )
    .await
    .unwrap();
    becomes(&mut client, "SELECT 1", Some("53400")).await;
    limit(&setup, 0, r#"{"queries_per_second": null}"#).await;
    followed(&setup).await;
    for _ in 0..20 {
        assert_eq!(refusal(&mut client, "SELECT 1").await, None);
    }
}

#[tokio::test]
async fn statements_of_one_query_count_each() {
    let setup = fleet().await;
    limit(
        &setup,
        0,
        r#"{"queries_per_second": 10, "query_burst": 10}"#,
    )
    .await;
    let mut client = setup.raw_for(0).await;
    let many = vec!["SELECT 1"; 30].join(";");
    assert_eq!(refusal(&mut client, &many).await, None);
    let error = refusal(&mut client, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "TENANT_QUERY_RATE");
    assert!(retry_ms(&error) > 1000, "{error:?}");
}

/// A connection that a session keeps is a transaction's place for as long as it is kept, and the place of the tenant that
/// it is used for.
#[tokio::test]
async fn who_keeps_a_connection_keeps_its_place() {
    let setup = fleet().await;
    limit(
        &setup,
        0,
        r#"{"transactions": 1, "queries_per_second": 10, "query_burst": 10}"#,
    )
    .await;
    let (mut keeps, mut other) = (setup.raw_for(0).await, setup.raw_for(0).await);
    keeps.query("LISTEN news").await.unwrap();
    let error = refusal(&mut other, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "TENANT_TRANSACTIONS");
    until("its rate is used up", async || {
        let error = refusal(&mut keeps, "SELECT 1").await?;
        assert_fields(&error, "53400", "TENANT_QUERY_RATE");
        Some(())
    })
    .await;
    let error = refusal(&mut other, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "TENANT_TRANSACTIONS");
    drop(keeps);
    limit(&setup, 0, r#"{"transactions": 1}"#).await;
    becomes(&mut other, "SELECT 1", None).await;

    // For one tenant it is kept, for another it is used.
    let mut switches = setup.raw().await;
    let set =
        |index: usize, local: &str| format!("SET {local} tenantry.tenant = '{}'", setup.id(index));
    switches.query(&set(1, "")).await.unwrap();
    switches.query("LISTEN news").await.unwrap();
    switches.query(&set(0, "")).await.unwrap();
    assert_eq!(refusal(&mut switches, "SELECT 1").await, None);
    let error = refusal(&mut other, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "TENANT_TRANSACTIONS");
    let error = refusal(&mut switches, "SELECT 1").await;
    assert_eq!(error, None, "it has the place");
    switches.query(&set(1, "")).await.unwrap();
    assert_eq!(refusal(&mut switches, "SELECT 1").await, None);
    becomes(&mut other, "SELECT 1", None).await;
    let begin = format!("BEGIN; {}; SELECT 1", set(0, "LOCAL"));
    // A place is given back a moment after its client has its answer.
    until("the other's place is free", async || {
        let error = refusal(&mut switches, &begin).await;
        if error.is_some() {
            switches.query("ROLLBACK").await.unwrap();
        }
        error.is_none().then_some(())
    })
    .await;
    let error = refusal(&mut other, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "TENANT_TRANSACTIONS");
    switches.query("COMMIT").await.unwrap();
    becomes(&mut other, "SELECT 1", None).await;
}
