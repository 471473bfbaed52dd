//! Limits hold over the whole fleet, however its clients spread over routers.

use std::time::{Duration, Instant};

use tenantry_router::Running;
use tenantry_testkit::{RawClient, error_of};

use crate::common::probe::until;
use crate::common::{Setup, config, start};
use crate::{fleet, limit};

async fn second(setup: &Setup) -> Running {
    let mut config = config(&setup.fleet);
    config.name = "router-2".to_owned();
    config.snapshot_file = None;
    start(config).await
}

async fn client(setup: &Setup, router: &Running) -> RawClient {
    let user = format!("shop.{}", setup.id(0));
    RawClient::login(router.pg_addr, &setup.login(&user))
        .await
        .unwrap()
}

/// How many statements are served until the deadline.
async fn served(client: &mut RawClient, until: Instant) -> f64 {
    let mut served = 0.0;
    while Instant::now() < until {
        match error_of(&client.query("SELECT 1").await.unwrap()) {
            None => served += 1.0,
            Some(error) => {
                assert_eq!(error.code, "53400", "{error:?}");
                let wait = crate::retry_ms(&error).min(20);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
    }
    served
}

/// Routers that have told of their load.
async fn telling(setup: &Setup) -> i64 {
    one_number(setup, "SELECT count(*) FROM tenantry.router_load").await
}

/// Routers that have told of connections of a tenant.
async fn told_of(setup: &Setup) -> i64 {
    let select = "SELECT count(*) FROM tenantry.tenant_load WHERE connections_held > 0";
    one_number(setup, select).await
}

async fn one_number(setup: &Setup, select: &str) -> i64 {
    let server = setup.fleet.catalog_server();
    let psql = server.connect("catalog").await.unwrap();
    psql.query_one(select, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_shared_by_demand_and_changes_reach_all_routers() {
    let setup = fleet().await;
    let other = second(&setup).await;
    until("both routers tell their load", async || {
        (telling(&setup).await == 2).then_some(())
    })
    .await;
    let (mut here, mut there) = (
        client(&setup, setup.router.as_ref().unwrap()).await,
        client(&setup, &other).await,
    );
    let changed = Instant::now();
    limit(
        &setup,
        0,
        r#"{"queries_per_second": 100, "query_burst": 10}"#,
    )
    .await;
    // In force on both within a second.
    for client in [&mut here, &mut there] {
        let first = until("refused", async || {
            error_of(&client.query("SELECT 1").await.unwrap())
        });
        first.await;
    }
    assert!(changed.elapsed() < Duration::from_secs(5));

    // Both ask for more than there is, for as long as it takes the routers to agree, and then some.
    let warm = Instant::now() + Duration::from_secs(3);
    tokio::join!(served(&mut here, warm), served(&mut there, warm));
    let seconds = 3.0;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (a, b) = tokio::join!(served(&mut here, end), served(&mut there, end));
    let (least, most) = (100.0 * seconds * 0.6, 100.0 * seconds * 1.15 + 10.0);
    assert!((least..=most).contains(&(a + b)), "{a} + {b}");
    assert!(a > 60.0 && b > 60.0, "{a} and {b}");

    // Only one asks: it gets nearly all of it.
    let warm = Instant::now() + Duration::from_secs(3);
    served(&mut here, warm).await;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let alone = served(&mut here, end).await;
    let (least, most) = (100.0 * seconds * 0.7, 100.0 * seconds * 1.05 + 10.0);
    assert!((least..=most).contains(&alone), "{alone}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_over_all_routers() {
    let setup = fleet().await;
    let other = second(&setup).await;
    until("both routers tell their load", async || {
        (telling(&setup).await == 2).then_some(())
    })
    .await;
    limit(&setup, 0, r#"{"connections": 4}"#).await;
    let here = setup.router.as_ref().unwrap();
    let user = format!("shop.{}", setup.id(0));
    let mut held = Vec::new();
    // One router is given as many as there may be.
    until("four connections at one router", async || {
        let login = RawClient::login(here.pg_addr, &setup.login(&user)).await;
        held.extend(login.ok());
        (held.len() == 4).then_some(())
    })
    .await;
    RawClient::login(here.pg_addr, &setup.login(&user))
        .await
        .unwrap_err();
    // The other knows nothing of that yet and gives its even part; once it has been told, no more.
    let mut there = Vec::new();
    for _ in 0..5 {
        let login = RawClient::login(other.pg_addr, &setup.login(&user)).await;
        there.extend(login.ok());
    }
    assert!((1..=2).contains(&there.len()), "{}", there.len());
    until("both have told of the tenant", async || {
        (told_of(&setup).await == 2).then_some(())
    })
    .await;
    drop(there.pop());
    until("its place is not given again", async || {
        let login = RawClient::login(other.pg_addr, &setup.login(&user)).await;
        login.is_err().then_some(())
    })
    .await;
    drop((held, there));
    other.stop().await;
}
