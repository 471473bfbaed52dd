//! Roles whose pool mode is `session`: one server connection from the first statement of a tenant to
//! the end, clean for whoever gets it then.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use common::probe::{assert_refused, until};
use common::{PASSWORD, Setup, setup_with};
use tenantry_schema::fleet::{PoolMode, Role, RoleKind, RoleLimits};
use tenantry_testkit::{Fleet, Login, RawClient, error_of, rows_of};
use tenantry_wire::frontend;
use tenantry_wire::scram::Verifier;

/// A fleet with the service role `sticky`.
async fn setup(shards: usize, pool_size: usize) -> Setup {
    let setup = setup_with(Fleet::builder().shards(shards).tenants(4), |config| {
        config.pool_size = pool_size;
        config.timeouts.query_wait = std::time::Duration::from_millis(300);
    })
    .await;
    let role = Role {
        name: "sticky".to_owned(),
        verifier: Verifier::from_password(PASSWORD).to_string(),
        kind: RoleKind::Service,
        tenants: Vec::new(),
        limits: RoleLimits {
            pool_mode: PoolMode::Session,
            ..RoleLimits::default()
        },
        valid_until: None,
    };
    setup.fleet.catalog().upsert_role(&role).await.unwrap();
    until("the router knows the role", async || {
        let login = setup.login("sticky");
        RawClient::login(setup.address, &login).await.ok()
    })
    .await;
    setup
}

async fn sticky(setup: &Setup, index: usize) -> RawClient {
    let login: Login = setup.login(&format!("sticky.{}", setup.id(index)));
    RawClient::login(setup.address, &login).await.unwrap()
}

async fn value(client: &mut RawClient, text: &str) -> Option<String> {
    let answers = client.query(text).await.unwrap();
    assert_eq!(error_of(&answers), None, "{text}");
    rows_of(&answers)[0][0].clone()
}

/// Which server connection serves the session.
async fn backend(client: &mut RawClient) -> Option<String> {
    value(client, "SELECT pg_backend_pid() + 0").await
}

#[tokio::test]
async fn the_connection_is_the_sessions_until_its_end() {
    let setup = setup(1, 1).await;
    let mut first = sticky(&setup, 0).await;
    let pid = backend(&mut first).await;
    // What the router does not follow stays, for nobody else uses the connection.
    let unseen = "SELECT set_config('statement_' || 'timeout', '77s', false)";
    value(&mut first, unseen).await;
    value(&mut first, "PREPARE p AS SELECT 7; EXECUTE p").await;
    assert_eq!(
        value(&mut first, "SHOW statement_timeout").await.as_deref(),
        Some("77s")
    );
    assert_eq!(backend(&mut first).await, pid);
    let mut other = setup.raw_for(1).await;
    let refused = other.query("SELECT 1").await.unwrap();
    assert_refused(&refused, "53300", "QUEUE_TIMEOUT");
    // DISCARD ALL gives it up.
    first.query("DISCARD ALL").await.unwrap();
    assert_eq!(backend(&mut other).await, pid);
    assert_eq!(
        value(&mut other, "SHOW statement_timeout").await.as_deref(),
        Some("0")
    );

    value(&mut first, unseen).await;
    value(&mut first, "BEGIN; SELECT 1").await;
    drop(first);
    setup.nothing_leaked(1).await;
    assert_eq!(backend(&mut other).await, pid);
    assert_eq!(
        value(&mut other, "SHOW statement_timeout").await.as_deref(),
        Some("0")
    );
    let left = "SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE '\\_tenantry%'";
    assert_eq!(value(&mut other, left).await.as_deref(), Some("0"));
    drop(other);
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_tenant_of_another_shard_has_another_connection() {
    let setup = setup(2, 2).await;
    let [here, there] = setup.two_tenants().await;
    let mut client = RawClient::login(setup.address, &setup.login("sticky"))
        .await
        .unwrap();
    // Without a tenant there is nothing to keep.
    backend(&mut client).await;
    setup.nothing_leaked(1).await;
    let switch = |tenant: &str| format!("SET tenantry.tenant = '{tenant}'");
    client.query(&switch(&here)).await.unwrap();
    let first = backend(&mut client).await;
    assert_eq!(backend(&mut client).await, first);
    client.query(&switch(&there)).await.unwrap();
    let second = backend(&mut client).await;
    assert_ne!(second, first);
    assert_eq!(backend(&mut client).await, second);
    // For one transaction only: what follows is its own tenant's again.
    for _ in 0..2 {
        let local = format!("BEGIN; SET LOCAL tenantry.tenant = '{here}'; SHOW tenantry.tenant");
        assert_eq!(
            value(&mut client, &local).await.as_deref(),
            Some(here.as_str())
        );
        value(&mut client, "SELECT count(*) FROM events").await;
        client.query("COMMIT").await.unwrap();
        assert_eq!(
            value(&mut client, "SHOW tenantry.tenant").await.as_deref(),
            Some(there.as_str())
        );
        value(&mut client, "SELECT count(*) FROM events").await;
    }
    drop(client);
    setup.nothing_leaked(0).await;
}

/// A connection that is kept is no way around a suspension, and what is on it outlives one.
#[tokio::test]
async fn a_suspended_tenant_is_refused_on_the_connection_that_it_keeps() {
    let setup = setup(1, 2).await;
    let one = setup.id(0);
    let mut idle = sticky(&setup, 0).await;
    let mut busy = sticky(&setup, 0).await;
    let unseen = "SELECT set_config('statement_' || 'timeout', '77s', false)";
    value(&mut idle, unseen).await;
    let pid = backend(&mut idle).await;
    value(&mut busy, "BEGIN; SELECT 1").await;
    let catalog = setup.fleet.catalog();
    catalog.suspend_tenant(&one, Some("unpaid")).await.unwrap();
    until("the router knows of the suspension", async || {
        let answers = idle.query("SELECT 1").await.unwrap();
        error_of(&answers).map(|_| assert_refused(&answers, "42501", "TENANT_SUSPENDED"))
    })
    .await;
    // The transaction that was open goes on to its end; in all ways to begin another one is refused.
    value(&mut busy, "SELECT 2").await;
    busy.query("COMMIT").await.unwrap();
    for text in ["SELECT 1", "BEGIN; SELECT 1", "SELECT 1; SELECT 2"] {
        let refused = busy.query(text).await.unwrap();
        assert_refused(&refused, "42501", "TENANT_SUSPENDED");
        busy.query("ROLLBACK").await.unwrap();
    }
    idle.send(|out| {
        frontend::put_parse(out, "", "SELECT 1", &[]);
        frontend::put_bind(out, "", "", &[], frontend::Format::Text);
        frontend::put_execute(out, "", 0);
        frontend::put_sync(out);
    })
    .await
    .unwrap();
    let refused = idle.until_ready().await.unwrap();
    assert_refused(&refused, "42501", "TENANT_SUSPENDED");

    catalog.resume_tenant(&one).await.unwrap();
    until("the router knows that it is resumed", async || {
        let answers = idle.query("SELECT 1").await.unwrap();
        error_of(&answers).is_none().then_some(())
    })
    .await;
    assert_eq!(backend(&mut idle).await, pid);
    let shown = value(&mut idle, "SHOW statement_timeout").await;
    assert_eq!(shown.as_deref(), Some("77s"));
    drop((idle, busy));
    setup.nothing_leaked(0).await;
}
