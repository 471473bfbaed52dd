//! The TLS server name as a way to name the tenant.

use tenantry_router::config::ClientSslMode;
use tenantry_testkit::{RawClient, rows_of};
use tenantry_wire::startup::ProtocolVersion;

use super::common::probe::{assert_fields, until};
use super::{ELSEWHERE, HOSTNAME, NAME, Stage};

async fn tenant_of(client: &mut RawClient) -> String {
    let rows = rows_of(&client.query("SHOW tenantry.tenant").await.unwrap());
    rows[0][0].clone().unwrap()
}

/// A session over TLS whose ClientHello has this name.
async fn login(stage: &Stage, name: &str, user: &str) -> RawClient {
    let mut client = stage.encrypted(&stage.trusting(), name).await;
    let login = stage.setup.login(user);
    client
        .start_session(ProtocolVersion::V3_0, &login)
        .await
        .unwrap();
    client
}

#[tokio::test]
async fn a_name_below_the_suffix_names_the_tenant() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let id = stage.setup.id(0);
    let slug = stage.setup.tenant(1).slug.clone();
    for (name, tenant) in [
        (format!("{id}.{NAME}"), id.clone()),
        (format!("{slug}.{NAME}"), stage.setup.id(1)),
        (
            format!("{}.{}", slug.to_uppercase(), NAME.to_uppercase()),
            stage.setup.id(1),
        ),
        (NAME.to_owned(), String::new()),
        (ELSEWHERE.to_owned(), String::new()),
    ] {
        let mut client = login(&stage, &name, "shop").await;
        assert_eq!(tenant_of(&mut client).await, tenant, "{name}");
    }
    // psql, as a tenant's own database host.
    let options = format!("sslmode=require host={id}.{NAME}");
    let shown = stage.psql(&options, "SHOW tenantry.tenant").await;
    assert_eq!(shown, (true, id));
}

#[tokio::test]
async fn a_tenants_hostname_names_it() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let catalog = stage.setup.fleet.catalog_session().await.unwrap();
    catalog
        .execute(
            "INSERT INTO tenantry.hostname (name, tenant, kind, verified_at) \
             SELECT $1, id, 'custom', now() FROM tenantry.tenant WHERE slug = $2",
            &[&HOSTNAME, &stage.setup.tenant(0).slug],
        )
        .await
        .unwrap();
    until("the router knows the hostname", async || {
        let mut client = login(&stage, HOSTNAME, "shop").await;
        (tenant_of(&mut client).await == stage.setup.id(0)).then_some(())
    })
    .await;
    // A role of one tenant needs no name and may have the right one only.
    login(&stage, HOSTNAME, "store1").await;
}

#[tokio::test]
async fn every_source_must_agree_with_the_name() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let (first, second) = (stage.setup.id(0), stage.setup.id(1));
    let name = format!("{first}.{NAME}");
    let agreed = format!("shop.{first}");
    let mut client = login(&stage, &name, &agreed).await;
    assert_eq!(tenant_of(&mut client).await, first);

    let config = stage.trusting();
    let by_user = stage.setup.login(&format!("shop.{second}"));
    let by_options = stage
        .setup
        .login("shop")
        .parameter("options", format!("-c tenantry.tenant={second}"));
    for login in [by_user, by_options] {
        let error = stage.refused(&config, &name, &login).await;
        assert_fields(&error, "28000", "TENANT_SOURCES_DISAGREE");
        assert!(error.message.contains("the TLS server name"), "{error:?}");
    }
    // Not this role's tenant.
    let error = stage
        .refused(
            &config,
            &format!("{second}.{NAME}"),
            &stage.setup.login("store1"),
        )
        .await;
    assert_fields(&error, "28000", "TENANT_NOT_ALLOWED");
    // A tenant that does not exist is told apart from a wrong password by nothing.
    let unknown = stage
        .refused(
            &config,
            &format!("nobody.{NAME}"),
            &stage.setup.login("shop"),
        )
        .await;
    let mut wrong = stage.setup.login("shop");
    wrong.password.push('x');
    let wrong = stage.refused(&config, NAME, &wrong).await;
    assert_fields(&unknown, "28P01", "AUTHENTICATION_FAILED");
    assert_eq!(unknown, wrong);
}
