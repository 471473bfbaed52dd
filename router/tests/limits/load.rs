//! What routers tell of their load, and that a tenant that takes a shard over is found.

use std::time::Duration;

use crate::common::probe::{get, until};
use crate::common::{Setup, setup_with};
use crate::fleet;
use tenantry_testkit::Fleet;
use tokio_postgres::SimpleQueryMessage;

#[tokio::test]
async fn what_tenants_did_is_told_and_shown() {
    let setup = fleet().await;
    let mut client = setup.raw_for(0).await;
    for _ in 0..5 {
        client.query("SELECT generate_series(1, 30)").await.unwrap();
    }
    client.query("SELECT nonsense").await.unwrap();
    let id = setup.tenant(0).id;
    let told = until("the load is told", async || {
        let top = setup.fleet.catalog().top_tenants(5).await.unwrap();
        top.into_iter()
            .find(|load| load.tenant == id && load.total.errors > 0)
    })
    .await;
    assert_eq!(told.total.rows, 150);
    assert_eq!((told.total.errors, told.total.statements), (1, 6));
    assert!(told.total.busy_us > 0 && told.total.sent > 0);
    assert!(told.shard.is_some());

    let (status, body) = get(setup.http, "/metrics/tenants").await.unwrap();
    assert_eq!(status, 200);
    let line = format!(
        "tenantry_router_tenant_rows_total{{tenant=\"{}\"",
        setup.id(0)
    );
    let line = body.lines().find(|text| text.starts_with(&line)).unwrap();
    assert!(line.ends_with(" 150"), "{line}");
}

async fn hot(setup: &Setup) -> Vec<String> {
    let hot = setup.fleet.catalog().hot_tenants().await.unwrap();
    hot.iter()
        .map(|event| setup.fleet.id_text(event.tenant))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_takes_a_shard_over_is_hot_and_cold_again() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(3), |config| {
        config.pool_size = 8;
        config.hot.cold_window = Duration::from_secs(2);
    })
    .await;
    let client = |index: usize| setup.raw_for(index);
    let mut tasks = Vec::new();
    // One transaction that lasts counts while it lasts.
    for index in [0, 0, 0, 1] {
        let mut client = client(index).await;
        let text = if index == 0 {
            "SELECT pg_sleep(30)"
        } else {
            "SELECT pg_sleep(0.01)"
        };
        tasks.push(tokio::spawn(async move {
            while client.query(text).await.is_ok() {}
        }));
    }
    until("the aggressor is hot", async || {
        (hot(&setup).await == [setup.id(0)]).then_some(())
    })
    .await;
    let events = setup.fleet.catalog().heat_events(5).await.unwrap();
    assert_eq!(events.len(), 1);
    let evidence = &events[0].evidence;
    assert_eq!(evidence["why"], "share");
    assert!(evidence["share"].as_f64().unwrap() >= 0.3, "{evidence}");
    assert!(evidence["busy"].as_f64().unwrap() > 1.0, "{evidence}");

    let console = setup.connect("ops", "tenantry").await.unwrap();
    until("the console shows it", async || {
        let rows = console.simple_query("SHOW HOT_TENANTS").await.unwrap();
        rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => (row.get("tenant") == Some(&setup.id(0))).then_some(()),
            _ => None,
        })
    })
    .await;

    for task in tasks {
        task.abort();
    }
    until("it is cold", async || {
        hot(&setup).await.is_empty().then_some(())
    })
    .await;
    let events = setup.fleet.catalog().heat_events(5).await.unwrap();
    assert_eq!(
        events.iter().map(|event| event.is_hot).collect::<Vec<_>>(),
        [false, true]
    );
}
