//! Time limits of sessions and connection limits of roles: each with its own error, none with a leak.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use common::probe::{get, until};
use common::{PASSWORD, Setup, setup_with};
use tenantry_router::Timeouts;
use tenantry_schema::fleet::{Role, RoleKind, RoleLimits};
use tenantry_testkit::{Fleet, RawClient, RawError, error_of, rows_of, status_of};
use tenantry_wire::backend::{ErrorFields, TxStatus};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::scram::Verifier;
use tenantry_wire::tag::backend as tag;

const LIMIT: Duration = Duration::from_millis(150);

async fn setup(change: impl FnOnce(&mut Timeouts)) -> Setup {
    let builder = Fleet::builder().shards(1).tenants(2);
    setup_with(builder, |config| {
        config.pool_size = 1;
        change(&mut config.timeouts);
    })
    .await
}

/// The error is the limit's, says which setting it is, and what to do.
fn assert_overtime(messages: &[Message], code: &str, name: &str, setting: &str) -> ErrorFields {
    let error = error_of(messages).unwrap();
    assert_eq!(
        (error.code.as_str(), error.routine.as_deref()),
        (code, Some(name))
    );
    assert_eq!(
        error.detail.as_deref(),
        Some(&*format!("{setting} is 150ms"))
    );
    assert!(error.hint.is_some());
    error
}

/// The one server connection of the pool serves someone else.
async fn assert_pool_is_free(setup: &Setup) {
    let mut other = setup.raw_for(1).await;
    let messages = other.query("SELECT count(*) FROM events").await.unwrap();
    assert_eq!(rows_of(&messages), [[Some("0".to_owned())]]);
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_cancelled() {
    let setup = setup(|timeouts| timeouts.query = LIMIT).await;
    let mut client = setup.raw_for(0).await;
    let messages = client.query("SELECT pg_sleep(30)").await.unwrap();
    let error = assert_overtime(&messages, "57014", "STATEMENT_TIMEOUT", "query_timeout");
    assert_eq!(
        error.message,
        "canceling statement due to statement timeout"
    );
    assert_eq!(status_of(&messages), Some(TxStatus::Idle));
    assert_pool_is_free(&setup).await;

    // In a transaction it fails the transaction and no more, in either protocol.
    client.query("BEGIN").await.unwrap();
    client
        .send(|out| {
            frontend::put_parse(out, "", "SELECT pg_sleep(30)", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    let messages = client.until_ready().await.unwrap();
    assert_overtime(&messages, "57014", "STATEMENT_TIMEOUT", "query_timeout");
    assert_eq!(status_of(&messages), Some(TxStatus::Failed));
    assert_eq!(error_of(&client.query("ROLLBACK").await.unwrap()), None);
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
}

/// Many short statements without a pause are no long one.
#[tokio::test]
async fn a_long_pipeline_of_short_statements_is_not_overtime() {
    let setup = setup(|timeouts| {
        timeouts.query = LIMIT;
        timeouts.transaction = LIMIT;
    })
    .await;
    let mut client = setup.raw_for(0).await;
    let count = 40;
    client
        .send(|out| {
            for _ in 0..count {
                frontend::put_query(out, "SELECT pg_sleep(0.02)");
            }
        })
        .await
        .unwrap();
    for _ in 0..count {
        assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    }
}

#[tokio::test]
async fn a_transaction_that_lasts_too_long_is_rolled_back() {
    let setup = setup(|timeouts| timeouts.transaction = LIMIT).await;
    let mut client = setup.raw_for(0).await;
    // While a statement runs.
    client
        .query("BEGIN; SELECT count(*) FROM events")
        .await
        .unwrap();
    let messages = client.query("SELECT pg_sleep(30)").await.unwrap();
    assert_overtime(
        &messages,
        "25P04",
        "TRANSACTION_TIMEOUT",
        "transaction_timeout",
    );
    assert_eq!(status_of(&messages), Some(TxStatus::Failed));
    // Its server connection does not wait for the client's ROLLBACK.
    assert_pool_is_free(&setup).await;
    let error = error_of(&client.query("SELECT 1").await.unwrap()).unwrap();
    assert_eq!(error.code, "25P02");
    assert_eq!(error_of(&client.query("ROLLBACK").await.unwrap()), None);

    // While none does.
    client
        .query("BEGIN; INSERT INTO events (kind, subject) VALUES ('lost', 'b')")
        .await
        .unwrap();
    assert_pool_is_free(&setup).await;
    let messages = client.query("COMMIT").await.unwrap();
    assert_overtime(
        &messages,
        "25P04",
        "TRANSACTION_TIMEOUT",
        "transaction_timeout",
    );
    let rows = rows_of(&client.query("SELECT count(*) FROM events").await.unwrap());
    assert_eq!(rows, [[Some("0".to_owned())]]);
}

#[tokio::test]
async fn a_silent_client_does_not_hold_its_transaction_open() {
    let setup = setup(|timeouts| timeouts.idle_transaction = LIMIT).await;
    let mut client = setup.raw_for(0).await;
    client
        .query("SET application_name = 'before'")
        .await
        .unwrap();
    client
        .query("BEGIN; SET application_name = 'within'; INSERT INTO events (kind, subject) VALUES ('lost', 'b')")
        .await
        .unwrap();
    assert_pool_is_free(&setup).await;
    let messages = client.query("SELECT 1").await.unwrap();
    assert_overtime(
        &messages,
        "25P03",
        "IDLE_IN_TRANSACTION_TIMEOUT",
        "idle_transaction_timeout",
    );
    assert_eq!(status_of(&messages), Some(TxStatus::Failed));
    let error = error_of(&client.query("SELECT 1").await.unwrap()).unwrap();
    assert_eq!(error.code, "25P02");
    assert_eq!(error_of(&client.query("ROLLBACK").await.unwrap()), None);
    let rows = rows_of(&client.query("SHOW application_name").await.unwrap());
    assert_eq!(rows, [[Some("before".to_owned())]]);
    let rows = rows_of(&client.query("SELECT count(*) FROM events").await.unwrap());
    assert_eq!(rows, [[Some("0".to_owned())]]);

    // A transaction without a statement is no different, nor is one by extended protocol.
    client.query("BEGIN").await.unwrap();
    refusals(&setup, "IDLE_IN_TRANSACTION_TIMEOUT", 2).await;
    let messages = client.query("SELECT 1").await.unwrap();
    assert_overtime(
        &messages,
        "25P03",
        "IDLE_IN_TRANSACTION_TIMEOUT",
        "idle_transaction_timeout",
    );
    client.query("ROLLBACK").await.unwrap();
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
}

/// Waits until so many sessions have passed the limit.
async fn refusals(setup: &Setup, name: &str, count: u32) {
    let line = format!("tenantry_router_refusals_total{{name=\"{name}\"}} {count}");
    until("the limit has passed", async || {
        let (_, body) = get(setup.http, "/metrics").await.unwrap();
        body.lines().any(|found| found == line).then_some(())
    })
    .await;
}

/// What a cancel request cannot end, because the server waits for the client, ends with the session.
#[tokio::test]
async fn a_statement_that_waits_for_its_client_ends_too() {
    let setup = setup(|timeouts| timeouts.query = LIMIT).await;
    let mut stalled = setup.raw_for(0).await;
    stalled
        .send(|out| frontend::put_query(out, "COPY events (kind, subject) FROM STDIN"))
        .await
        .unwrap();
    stalled.until(tag::COPY_IN).await.unwrap();
    let messages = stalled.until_closed().await.unwrap();
    assert_overtime(&messages, "57014", "STATEMENT_TIMEOUT", "query_timeout");
    assert_pool_is_free(&setup).await;

    let mut unsynced = setup.raw_for(0).await;
    unsynced
        .send(|out| {
            frontend::put_parse(out, "", "SELECT 1", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_flush(out);
        })
        .await
        .unwrap();
    let messages = unsynced.until_closed().await.unwrap();
    assert_overtime(&messages, "57014", "STATEMENT_TIMEOUT", "query_timeout");
    assert_pool_is_free(&setup).await;
}

/// A session that keeps its connection cannot go on without its transaction.
#[tokio::test]
async fn a_silent_client_with_a_connection_of_its_own_is_sent_away() {
    let setup = setup(|timeouts| timeouts.idle_transaction = LIMIT).await;
    let mut client = setup.raw_for(0).await;
    client.query("LISTEN news").await.unwrap();
    client
        .query("BEGIN; INSERT INTO events (kind, subject) VALUES ('lost', 'b')")
        .await
        .unwrap();
    let messages = client.until_closed().await.unwrap();
    assert_overtime(
        &messages,
        "25P03",
        "IDLE_IN_TRANSACTION_TIMEOUT",
        "idle_transaction_timeout",
    );
    assert_pool_is_free(&setup).await;
}

#[tokio::test]
async fn a_client_that_is_silent_too_long_is_sent_away() {
    let setup = setup(|timeouts| timeouts.client_idle = LIMIT).await;
    let mut client = setup.raw_for(0).await;
    let messages = client.until_closed().await.unwrap();
    let error = assert_overtime(
        &messages,
        "57P05",
        "IDLE_CLIENT_TIMEOUT",
        "client_idle_timeout",
    );
    assert_eq!(error.severity.name(), "FATAL");

    // One that is in a transaction is not idle, nor is one that works.
    let mut busy = setup.raw_for(0).await;
    assert_eq!(
        error_of(&busy.query("SELECT pg_sleep(0.6)").await.unwrap()),
        None
    );
    busy.query("BEGIN; SELECT 1").await.unwrap();
    let mut other = setup.raw_for(1).await;
    other.until_closed().await.unwrap();
    assert_eq!(error_of(&busy.query("COMMIT").await.unwrap()), None);
}

#[tokio::test]
async fn a_role_has_so_many_connections_and_no_more() {
    let setup = setup(|_| ()).await;
    let mut role = Role {
        name: "few".to_owned(),
        verifier: Verifier::from_password(PASSWORD).to_string(),
        kind: RoleKind::Service,
        tenants: Vec::new(),
        limits: RoleLimits {
            max_connections: Some(2),
            ..RoleLimits::default()
        },
        valid_until: None,
    };
    let catalog = setup.fleet.catalog();
    catalog.upsert_role(&role).await.unwrap();
    let login = setup.login("few");
    let mut sessions = Vec::new();
    until("the role is known", async || {
        let session = RawClient::login(setup.address, &login).await.ok()?;
        sessions.push(session);
        Some(())
    })
    .await;
    sessions.push(RawClient::login(setup.address, &login).await.unwrap());
    let refused = RawClient::login(setup.address, &login).await.unwrap_err();
    let error = refused.refusal().unwrap();
    assert_eq!(
        (error.code.as_str(), error.routine.as_deref()),
        ("53300", Some("TOO_MANY_ROLE_CONNECTIONS"))
    );
    // Others are not concerned, and a place that is left is free again.
    setup.raw_for(0).await;
    drop(sessions.pop());
    until("the place is free", async || {
        sessions.push(RawClient::login(setup.address, &login).await.ok()?);
        Some(())
    })
    .await;

    // Raised while the router runs.
    role.limits.max_connections = Some(3);
    catalog.upsert_role(&role).await.unwrap();
    until("the limit is raised", async || {
        let third: Result<RawClient, RawError> = RawClient::login(setup.address, &login).await;
        sessions.push(third.ok()?);
        Some(())
    })
    .await;
}
