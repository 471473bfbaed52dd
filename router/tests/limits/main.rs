//! Limits of tenants, the kill switch, load and heat, through routers in front of real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod kill_switch;
mod load;
mod tenants;
mod two_routers;

use common::probe::until;
use common::{Setup, setup_with};
use tenantry_schema::limits::Limits;
use tenantry_testkit::{Fleet, RawClient, error_of};
use tenantry_wire::backend::ErrorFields;

/// One shard, two tenants, a router.
pub async fn fleet() -> Setup {
    setup_with(Fleet::builder().shards(1).tenants(2), |_| ()).await
}

pub fn limits(json: &str) -> Limits {
    serde_json::from_str(json).unwrap()
}

/// Gives a tenant these limits, and waits until the router knows them.
pub async fn limit(setup: &Setup, index: usize, json: &str) {
    let tenant = setup.tenant(index).id;
    let catalog = setup.fleet.catalog();
    catalog
        .set_tenant_limits(tenant, &limits(json))
        .await
        .unwrap();
    followed(setup).await;
}

/// Waits until the router has followed the catalog to where it is now.
pub async fn followed(setup: &Setup) {
    let sequence = setup.fleet.catalog().load_fleet().await.unwrap().sequence;
    let mut follow = setup.router.as_ref().unwrap().follow.clone();
    let wanted = follow.wait_for(|status| status.sequence >= Some(sequence));
    tokio::time::timeout(std::time::Duration::from_secs(10), wanted)
        .await
        .unwrap()
        .unwrap();
}

pub async fn refusal(client: &mut RawClient, text: &str) -> Option<ErrorFields> {
    error_of(&client.query(text).await.unwrap())
}

/// The number of milliseconds after which the error says to come again.
pub fn retry_ms(error: &ErrorFields) -> u64 {
    let detail = error.detail.as_deref().unwrap();
    let (_, rest) = detail.split_once("retry in ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Asks until the answer is what it should become.
pub async fn becomes(client: &mut RawClient, text: &str, code: Option<&str>) {
    until(&format!("{text} answered by {code:?}"), async || {
        let error = refusal(client, text).await;
        (error.as_ref().map(|error| error.code.as_str()) == code).then_some(())
    })
    .await;
}
