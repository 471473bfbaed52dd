//! The control plane itself: who may speak, what is understood, where it is.

use std::net::SocketAddr;
use std::time::Duration;

use tenantry_schema::secrets::SecretsFile;
use tenantry_testkit::Fleet;

use super::common::probe::until;
use super::common::setup_with;
use super::fleet;
use super::mover::{Mover, post, request, token};

const HOLD: &str = "/control/v1/hold";

#[tokio::test]
async fn only_who_has_the_token_may_hold_a_tenant() {
    let setup = fleet().await;
    let token = token(&setup.fleet);
    for wrong in [None, Some("wrong"), Some(""), Some(&token[1..])] {
        let (status, body) = post(setup.http, HOLD, wrong, "{}").await;
        assert_eq!(status, 401, "{body}");
        assert!(!body.contains(&token));
    }
    let (status, _) = request(setup.http, "GET", HOLD, Some(&token), "").await;
    assert_eq!(status, 405);
    for malformed in ["", "{}", "[1]", r#"{"tenant":"0"}"#] {
        let (status, body) = post(setup.http, HOLD, Some(&token), malformed).await;
        assert_eq!(status, 400, "{body}");
    }
    let long = " ".repeat(20 << 10);
    assert_eq!(post(setup.http, HOLD, Some(&token), &long).await.0, 400);
    let (status, body) = post(setup.http, "/control/v2/hold", Some(&token), "{}").await;
    assert_eq!(status, 404, "{body}");
    let shown = super::common::probe::get(setup.http, "/metrics")
        .await
        .unwrap();
    assert!(!shown.1.contains(&token));
}

#[tokio::test]
async fn the_catalog_knows_where_it_is() {
    let setup = setup_with(Fleet::builder().shards(2).tenants(2), |config| {
        config.control_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    let control = setup.router.as_ref().unwrap().control_addr;
    assert_ne!(control, setup.http);
    let catalog = setup.fleet.catalog();
    until("the router is registered", async || {
        let routers = catalog.list_routers().await.unwrap();
        let address = routers.first()?.control_address.clone()?;
        (address == control.to_string()).then_some(())
    })
    .await;
    // Each place serves its own only.
    let token = token(&setup.fleet);
    assert_eq!(post(setup.http, HOLD, Some(&token), "{}").await.0, 405);
    assert_eq!(request(control, "GET", "/metrics", None, "").await.0, 404);
    let mover = Mover::of(&setup, 0).await;
    assert_eq!(mover.hold(control, 1).await.in_flight, 0);
}

#[tokio::test]
async fn a_router_without_a_token_has_none_and_says_so() {
    let mut setup = fleet().await;
    setup.router.take().unwrap().stop().await;
    let token = token(&setup.fleet);
    let path = setup.fleet.secrets_path();
    let mut secrets = SecretsFile::load(&path).unwrap();
    secrets.control_token = None;
    secrets.save(&path).unwrap();
    let router = super::common::start(super::common::config(&setup.fleet)).await;
    let (status, body) = post(router.http_addr, HOLD, Some(&token), "{}").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("control_token"), "{body}");
    let catalog = setup.fleet.catalog();
    until(
        "the router is registered without a control plane",
        async || {
            let routers = catalog.list_routers().await.unwrap();
            let router = routers.first()?;
            router.control_address.is_none().then_some(())
        },
    )
    .await;
    router.stop().await;
}

/// The successor takes the control plane over with the sockets, and the replaced router holds nobody any longer.
#[tokio::test]
async fn a_restart_hands_it_over() {
    let mut path = std::path::PathBuf::new();
    let mut setup = setup_with(Fleet::builder().shards(2).tenants(2), |config| {
        path = config.secrets_file.with_file_name("handover");
        config.handover_socket = Some(path.clone());
        config.control_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.timeouts.drain = Duration::from_secs(20);
    })
    .await;
    let old = setup.router.take().unwrap();
    let control = old.control_addr;
    let mut mover = Mover::of(&setup, 0).await;
    mover.prepare(control).await;
    mover.hold(control, 60_000).await;
    let mut held = setup.raw_for(0).await;
    held.send(|out| tenantry_wire::frontend::put_query(out, "SELECT count(*) FROM events"))
        .await
        .unwrap();
    mover.fence("1 min").await;

    let mut config = super::common::config(&setup.fleet);
    config.handover_socket = Some(path);
    config.control_listen = Some(control);
    let next = super::common::start(config).await;
    old.replaced().await;
    assert_eq!(next.control_addr, control);
    let draining = tokio::spawn(async move {
        old.stop_replaced(&tokio_util::sync::CancellationToken::new())
            .await;
    });
    // The session on the old router finds the tenant by itself.
    mover.copy_rows().await;
    mover.hand_over().await;
    mover.activate().await;
    let answer = held.until_ready().await.unwrap();
    assert_eq!(tenantry_testkit::error_of(&answer), None);
    let released = mover.release(control, mover.destination).await;
    assert_eq!(released.held, 0);
    let mut client = setup.raw_for(0).await;
    let answer = client.query("SELECT count(*) FROM events").await.unwrap();
    assert_eq!(tenantry_testkit::error_of(&answer), None);
    draining.await.unwrap();
    next.stop().await;
}
