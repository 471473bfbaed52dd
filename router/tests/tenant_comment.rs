//! A comment at the end of a statement names its tenant, for roles that allow it, as the weakest of all ways; and it names
//! it for that statement only.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::BytesMut;
use common::{DATABASE, PASSWORD, Setup, config, start};
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, Login, RawClient, error_of, rows_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};

const KIND: &str = "SELECT kind FROM events";

/// A fleet whose roles `shop` and `store1`, which is the first tenant's, heed comments.
async fn setup(shards: usize, pool_size: usize) -> Setup {
    let fleet = Fleet::builder()
        .shards(shards)
        .tenants(4)
        .start()
        .await
        .unwrap();
    let first = fleet.tenants()[0].id;
    for (name, kind, tenants) in [
        ("shop", RoleKind::Service, Vec::new()),
        ("plain", RoleKind::Service, Vec::new()),
        ("store1", RoleKind::Tenant, vec![first]),
    ] {
        fleet.add_role(name, PASSWORD, kind, tenants).await.unwrap();
    }
    for mut role in fleet.catalog().list_roles().await.unwrap() {
        role.limits.tenant_comment = role.name != "plain";
        fleet.catalog().upsert_role(&role).await.unwrap();
    }
    let mut config = config(&fleet);
    config.pool_size = pool_size;
    let router = start(config).await;
    let setup = Setup {
        address: router.pg_addr,
        http: router.http_addr,
        router: Some(router),
        fleet,
    };
    setup.seed().await;
    setup
}

fn named(text: &str, tenant: &str) -> String {
    format!("{text} /*db_driver='test',tenantry_tenant='{tenant}'*/")
}

/// The value of the first row, or the error.
fn first(messages: &[Message]) -> String {
    match error_of(messages) {
        Some(error) => format!("{} {}", error.code, error.routine.unwrap_or_default()),
        None => rows_of(messages)
            .first()
            .and_then(|row| row.first().cloned().flatten())
            .unwrap_or_default(),
    }
}

async fn ask(client: &mut RawClient, text: &str) -> String {
    first(&client.query(text).await.unwrap())
}

fn of(tenant: &str) -> String {
    format!("tenant-{tenant}")
}

fn run(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text, &[]);
    execute(out, "");
}

fn execute(out: &mut BytesMut, name: &str) {
    frontend::put_bind(out, "", name, &[], Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
}

async fn batch(client: &mut RawClient, put: impl FnOnce(&mut BytesMut)) -> String {
    client.send(put).await.unwrap();
    first(&client.until_ready().await.unwrap())
}

#[tokio::test]
async fn a_comment_names_the_tenant_of_its_statement_only() {
    let setup = setup(2, 1).await;
    let [a, b] = setup.two_tenants().await;
    let mut client = setup.raw().await;
    for tenant in [&a, &b, &a] {
        assert_eq!(ask(&mut client, &named(KIND, tenant)).await, of(tenant));
        assert!(ask(&mut client, KIND).await.starts_with("42704 "));
        assert_eq!(
            ask(&mut client, &named("SHOW tenantry.tenant", tenant)).await,
            *tenant
        );
        assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, "");
        let found = batch(&mut client, |out| {
            run(out, &named(KIND, tenant));
            frontend::put_sync(out);
        });
        assert_eq!(found.await, of(tenant));
    }
    assert_eq!(
        ask(&mut client, &named("SELECT 1/0", &a)).await,
        "22012 int4div"
    );
    assert!(ask(&mut client, KIND).await.starts_with("42704 "));
    // Weaker than SET, stronger than the startup packet.
    client
        .query(&format!("SET tenantry.tenant = '{a}'"))
        .await
        .unwrap();
    assert_eq!(ask(&mut client, &named(KIND, &b)).await, of(&a));
    client.query("RESET tenantry.tenant").await.unwrap();
    assert_eq!(ask(&mut client, &named(KIND, &b)).await, of(&b));
    client
        .query(&format!("BEGIN; SET LOCAL tenantry.tenant = '{a}'"))
        .await
        .unwrap();
    assert_eq!(ask(&mut client, &named(KIND, &b)).await, of(&a));
    client.query("COMMIT").await.unwrap();
    let user = format!("shop.{a}");
    let mut started = RawClient::login(setup.address, &setup.login(&user))
        .await
        .unwrap();
    assert_eq!(ask(&mut started, &named(KIND, &b)).await, of(&b));
    assert_eq!(ask(&mut started, KIND).await, of(&a));
    drop((client, started));
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_transaction_has_one_tenant() {
    let setup = setup(2, 2).await;
    let [a, b] = setup.two_tenants().await;
    let mut client = setup.raw().await;
    for begin in [
        "BEGIN".to_owned(),
        named("BEGIN", &a),
        "BEGIN; SELECT 1".to_owned(),
    ] {
        for text in begin.split("; ") {
            client.query(text).await.unwrap();
        }
        assert_eq!(ask(&mut client, &named(KIND, &a)).await, of(&a), "{begin}");
        // To the end of the transaction, as SET LOCAL.
        assert_eq!(ask(&mut client, KIND).await, of(&a), "{begin}");
        assert_eq!(
            ask(&mut client, &named(KIND, &b)).await,
            "25001 TENANT_SWITCH_IN_TRANSACTION",
            "{begin}"
        );
        assert!(ask(&mut client, KIND).await.starts_with("25P02"), "{begin}");
        client.query(&named("ROLLBACK", &b)).await.unwrap();
        assert!(
            ask(&mut client, KIND).await.starts_with("42704 "),
            "{begin}"
        );
    }
    // A batch is a transaction, too; the next batch need not wait for its answer.
    let found = batch(&mut client, |out| {
        run(
            out,
            &named(
                "INSERT INTO events (id, kind, subject) VALUES (5, 'half', 's')",
                &a,
            ),
        );
        run(out, &named(KIND, &b));
        frontend::put_sync(out);
        for tenant in [&b, &a, &b] {
            run(out, &named(KIND, tenant));
            frontend::put_sync(out);
        }
        frontend::put_query(out, named("SELECT count(*) FROM events", &a));
        frontend::put_query(out, KIND);
    });
    assert_eq!(found.await, "25001 TENANT_SWITCH_IN_TRANSACTION");
    for expected in [of(&b), of(&a), of(&b), "1".to_owned()] {
        assert_eq!(first(&client.until_ready().await.unwrap()), expected);
    }
    assert!(first(&client.until_ready().await.unwrap()).starts_with("42704 "));
    // As is a Query inside of one.
    let found = batch(&mut client, |out| {
        run(
            out,
            &named(
                "INSERT INTO events (id, kind, subject) VALUES (5, 'half', 's')",
                &a,
            ),
        );
        frontend::put_query(out, named(KIND, &b));
        frontend::put_sync(out);
    });
    assert_eq!(found.await, "25001 TENANT_SWITCH_IN_TRANSACTION");
    client.until_ready().await.unwrap();
    assert_eq!(
        ask(&mut client, &named("SELECT count(*) FROM events", &a)).await,
        "1"
    );
}

/// A prepared statement keeps its tenant, and is one and the same for all tenants on the server.
#[tokio::test]
async fn comments_are_not_part_of_prepared_statements() {
    let setup = setup(1, 1).await;
    let mut client = setup.raw().await;
    let tenants: Vec<String> = (0..3).map(|index| setup.id(index)).collect();
    for tenant in &tenants {
        let prepared = batch(&mut client, |out| {
            frontend::put_parse(out, tenant, named(KIND, tenant), &[]);
            frontend::put_describe(out, TargetKind::Statement, tenant);
            frontend::put_sync(out);
        });
        assert_eq!(prepared.await, "");
    }
    for tenant in tenants.iter().chain(&tenants) {
        let found = batch(&mut client, |out| {
            execute(out, tenant);
            frontend::put_sync(out);
        });
        assert_eq!(found.await, of(tenant));
    }
    let count =
        format!("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '{KIND}%'");
    assert_eq!(ask(&mut client, &named(&count, &tenants[0])).await, "1");
}

#[tokio::test]
async fn comments_lead_nowhere_else() {
    let setup = setup(2, 2).await;
    let [a, b] = setup.two_tenants().await;
    let login = |user: &str| Login::new(user, PASSWORD, DATABASE);
    // Bound to its tenant.
    let mut tenant = RawClient::login(setup.address, &login("store1"))
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&mut tenant, &named(KIND, &a)).await, of(&a));
        assert_eq!(
            ask(&mut tenant, &named(KIND, &b)).await,
            "42501 TENANT_NOT_ALLOWED"
        );
        let found = batch(&mut tenant, |out| {
            run(out, &named(KIND, &b));
            frontend::put_sync(out);
        });
        assert_eq!(found.await, "42501 TENANT_NOT_ALLOWED");
        assert_eq!(ask(&mut tenant, KIND).await, of(&a));
    }
    // The comment would end before the last statement begins.
    let mut client = setup.raw().await;
    for text in ["COMMIT", "BEGIN; SELECT 1; COMMIT"] {
        let found = ask(&mut client, &named(&format!("{text}; {KIND}"), &a)).await;
        assert!(found.starts_with("0A000 "), "{found}");
    }
    drop(client);
    // Not a tenant at all.
    let mut client = setup.raw().await;
    assert_eq!(
        ask(&mut client, &named(KIND, "nobody")).await,
        "22023 TENANT_UNKNOWN"
    );
    assert!(ask(&mut client, KIND).await.starts_with("42704 "));
    // Not a comment at the end.
    for text in [
        format!("/*tenantry_tenant='{a}'*/ {KIND}"),
        format!("{KIND} -- /*tenantry_tenant='{a}'*/"),
        format!("{KIND} WHERE kind <> '/*tenantry_tenant=''{a}''*/'"),
    ] {
        assert!(
            ask(&mut client, &text).await.starts_with("42704 "),
            "{text}"
        );
    }
    // A role that does not heed them.
    let user = format!("plain.{a}");
    let mut plain = RawClient::login(setup.address, &login(&user))
        .await
        .unwrap();
    assert_eq!(ask(&mut plain, &named(KIND, &b)).await, of(&a));
    drop((tenant, client, plain));
    setup.nothing_leaked(0).await;
}
