//! The way of a statement: login, tenant, shard, and back.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::setup;
use tenantry_testkit::{error_of, rows_of};

#[tokio::test]
async fn a_service_role_acts_for_two_tenants_in_one_session() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.raw().await;
    for index in [0, 1, 2, 3, 0] {
        let id = setup.id(index);
        let messages = client
            .query(&format!(
                "BEGIN; SET LOCAL tenantry.tenant = '{id}'; SELECT kind FROM events; COMMIT"
            ))
            .await
            .unwrap();
        assert_eq!(error_of(&messages), None);
        assert_eq!(rows_of(&messages), vec![vec![Some(format!("tenant-{id}"))]]);
    }
    let messages = client.query("SELECT kind FROM events").await.unwrap();
    let error = error_of(&messages).unwrap();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("42704", "no tenant is bound")
    );
}

#[tokio::test]
async fn every_way_to_name_a_tenant_leads_to_it() {
    let setup = setup().await;
    setup.seed().await;
    let id = setup.id(1);
    let slug = setup.tenant(1).slug.to_string();
    let expected = format!("tenant-{id}");
    for (user, database) in [
        (format!("shop.{id}"), "shop".to_owned()),
        (format!("shop.{slug}"), "shop".to_owned()),
        ("shop".to_owned(), format!("shop/{id}")),
        ("shop".to_owned(), format!("shop/{slug}")),
        (format!("shop.{id}"), format!("shop/{slug}")),
    ] {
        let client = setup.connect(&user, &database).await.unwrap();
        let row = client
            .query_one("SELECT kind FROM events", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{user} {database}");
    }
    let login = setup
        .login("shop")
        .parameter("options", format!("-c tenantry.tenant={slug}"));
    let mut client = tenantry_testkit::RawClient::login(setup.address, &login)
        .await
        .unwrap();
    let rows = rows_of(&client.query("SELECT kind FROM events").await.unwrap());
    assert_eq!(rows, vec![vec![Some(expected)]]);
    let shown = rows_of(&client.query("SHOW tenantry.tenant").await.unwrap());
    assert_eq!(shown, vec![vec![Some(id)]]);
}

#[tokio::test]
async fn a_driver_prepares_and_switches_tenants() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = setup.client("shop").await;
    for round in 0..3 {
        for index in 0..4 {
            let id = setup.id(index);
            let transaction = client.transaction().await.unwrap();
            transaction
                .execute("SELECT set_config('tenantry.tenant', $1, true)", &[&id])
                .await
                .unwrap();
            let statement = transaction
                .prepare("SELECT kind, $1::int4 FROM events WHERE id = $2")
                .await
                .unwrap();
            let row = transaction
                .query_one(&statement, &[&round, &1_i64])
                .await
                .unwrap();
            assert_eq!(row.get::<_, String>(0), format!("tenant-{id}"));
            assert_eq!(row.get::<_, i32>(1), round);
            transaction.commit().await.unwrap();
        }
    }
}
