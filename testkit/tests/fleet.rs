//! The fleet fixture: what it promises to other crates' tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use tenantry_schema::fleet::RoleKind;
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::tenant::{TenantKey, TenantState};
use tenantry_testkit::Fleet;

#[tokio::test]
async fn bound_sessions_see_their_own_tenant_only() {
    let fleet = Fleet::builder().shards(2).tenants(4).start().await.unwrap();
    let mut placed = 0;
    for shard in fleet.shards() {
        for tenant in fleet.tenants_of(shard).await.unwrap() {
            let app = shard.app_as(tenant.id).await.unwrap();
            let row = app
                .query_one("SELECT tenantry.tenant()", &[])
                .await
                .unwrap();
            assert_eq!(row.get::<_, i64>(0), tenant.id.as_bigint().unwrap());
            assert_eq!(fleet.shard_of(&tenant).await.unwrap().id(), shard.id());
            placed += 1;
        }
        let error = shard
            .app()
            .await
            .unwrap()
            .query("SELECT * FROM stores", &[])
            .await
            .unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42704");
    }
    assert_eq!(placed, 4);
}

#[tokio::test]
async fn a_signed_value_is_worth_nothing_on_another_session() {
    let fleet = Fleet::builder()
        .shards(1)
        .tenants(1)
        .key(TenantKey::Uuid)
        .start()
        .await
        .unwrap();
    let (shard, tenant) = (fleet.shard(0), &fleet.tenants()[0]);
    let mine = shard.app().await.unwrap();
    let value = shard.signed(&mine, tenant.id).await.unwrap();
    let other = shard.app().await.unwrap();
    other
        .execute("SELECT set_config('tenantry.tenant', $1, false)", &[&value])
        .await
        .unwrap();
    let error = other
        .query("SELECT tenantry.tenant()", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501");
}

#[tokio::test]
async fn without_an_agent_tenants_wait_and_with_one_they_become_active() {
    let mut fleet = Fleet::builder()
        .shards(1)
        .tenants(1)
        .agent(false)
        .start()
        .await
        .unwrap();
    let slug = fleet.tenants()[0].slug.clone();
    assert_eq!(
        fleet.catalog().tenant(&slug).await.unwrap().state,
        TenantState::Provisioning
    );
    fleet.start_agent();
    assert_eq!(
        fleet.wait_active(&slug).await.unwrap().state,
        TenantState::Active
    );
    fleet.stop_agent().await.unwrap();
}

#[tokio::test]
async fn roles_spares_and_secrets_are_where_routers_look() {
    let fleet = Fleet::builder().shards(1).spares(1).start().await.unwrap();
    fleet
        .add_role("shop", "secret", RoleKind::Service, Vec::new())
        .await
        .unwrap();
    let loaded = fleet.catalog().load_fleet().await.unwrap();
    assert!(loaded.roles.contains_key("shop"));
    assert_eq!(loaded.shards.len(), 2);
    let secrets = SecretsFile::load(fleet.secrets_path()).unwrap();
    for shard in fleet.shards() {
        assert_eq!(
            secrets.shard(shard.name().as_str()).unwrap(),
            shard.secrets()
        );
        shard.admin().await.unwrap();
    }
}

#[tokio::test]
async fn four_shards_and_the_catalog_are_up_within_five_seconds() {
    let start = Instant::now();
    let fleet = Fleet::builder()
        .shards(4)
        .separate_servers(true)
        .start()
        .await
        .unwrap();
    let took = start.elapsed();
    println!("catalog and four shards on servers of their own in {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    fleet.server_of(fleet.shard(3)).kill9().await.unwrap();
    fleet.shard(2).app().await.unwrap();
    assert!(fleet.shard(3).app().await.is_err());
}
