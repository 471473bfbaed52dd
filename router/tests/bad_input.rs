//! What sessions must not send, and what a router must refuse them: every refusal has its documented code, its name
//! and a hint, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use std::time::Duration;

use common::probe::{assert_fields, assert_refused, message, refused_login, until, whole};
use common::{config, setup, setup_with, start};
use tenantry_cluster::StopMode;
use tenantry_schema::shard::ShardState;
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of, send_cancel};
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frontend::{self, Format, TargetKind};

/// The session is in a transaction that holds a lock: whatever it sends, the transaction must be gone afterwards.
#[tokio::test]
async fn broken_framing_ends_the_session_and_its_transaction() {
    let builder = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(builder, |config| config.message_bytes_max = 100_000).await;
    setup.seed().await;
    for bytes in [
        whole(b'z', b""),
        whole(b'\0', b""),
        message(b'Q', 0, b""),
        message(b'Q', 3, b""),
        message(b'Q', 0xffff_ffff, b""),
        message(b'Q', 100_001, b""),
        message(b'P', 0x3fff_ffff, b""),
        message(b'S', 20_000, b""),
        message(b'd', 100_001, b""),
        whole(b'p', b"password\0"),
    ] {
        let mut client = setup.raw_for(0).await;
        let locked = client
            .query("BEGIN; UPDATE events SET subject = 'torn' WHERE id = 1")
            .await
            .unwrap();
        assert_eq!(error_of(&locked), None);
        client.send_bytes(&bytes).await.unwrap();
        let after = client.until_ready().await.unwrap();
        assert_refused(&after, "08P01", "PROTOCOL_VIOLATION");
        drop(client);
        setup.nothing_leaked(0).await;
    }
    let mut client = setup.raw_for(0).await;
    let rows = rows_of(&client.query("SELECT subject FROM events").await.unwrap());
    assert_eq!(rows, vec![vec![Some("test".to_owned())]]);
}

#[tokio::test]
async fn statements_for_tenants_that_are_not_to_be_had() {
    let setup = setup().await;
    setup.seed().await;
    let (one, two) = (setup.id(0), setup.id(1));
    let mut tenant = RawClient::login(setup.address, &setup.login("store1"))
        .await
        .unwrap();
    let mut service = setup.raw().await;
    let set = |id: &str| format!("SET tenantry.tenant = '{id}'");
    for (text, code, name) in [
        (set(&two), "42501", "TENANT_NOT_ALLOWED"),
        (set("no-such-store"), "22023", "TENANT_UNKNOWN"),
        (
            "SET tenantry.tenant = ''".to_owned(),
            "42501",
            "TENANT_IMMUTABLE",
        ),
        (
            "SET tenantry.shard = 's1'".to_owned(),
            "42501",
            "SETTING_READ_ONLY",
        ),
        (
            "SET tenantry.nonsense = 1".to_owned(),
            "42704",
            "SETTING_UNKNOWN",
        ),
    ] {
        assert_refused(&tenant.query(&text).await.unwrap(), code, name);
        let rows = rows_of(&tenant.query("SELECT kind FROM events").await.unwrap());
        assert_eq!(rows, vec![vec![Some(format!("tenant-{one}"))]], "{text}");
    }
    assert_refused(
        &service.query(&set("999999")).await.unwrap(),
        "22023",
        "TENANT_UNKNOWN",
    );
    let unbound = service.query("SELECT kind FROM events").await.unwrap();
    let error = error_of(&unbound).unwrap();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("42704", "no tenant is bound")
    );
    assert!(
        error.hint.unwrap().contains("SET"),
        "the hint shows the SET"
    );
    let text = format!(
        "BEGIN; {}; SELECT kind FROM events; {}",
        set(&one),
        set(&two)
    );
    assert_refused(
        &service.query(&text).await.unwrap(),
        "25001",
        "TENANT_SWITCH_IN_TRANSACTION",
    );
    assert_eq!(error_of(&service.query("ROLLBACK").await.unwrap()), None);
    drop((tenant, service));
    setup.nothing_leaked(0).await;
}

/// Runs the statement until the router has heard of a change in the catalog and refuses it.
async fn until_refused(client: &mut RawClient, text: &str) -> ErrorFields {
    until("a refusal", async || {
        error_of(&client.query(text).await.unwrap())
    })
    .await
}

#[tokio::test]
async fn suspended_and_closed_tenants() {
    let setup = setup().await;
    setup.seed().await;
    let catalog = setup.fleet.catalog();
    let (one, text) = (setup.id(0), "SELECT kind FROM events");
    let mut idle = setup.raw_for(0).await;
    let mut busy = setup.raw_for(0).await;
    let mut service = setup.raw().await;
    busy.query("BEGIN; INSERT INTO events (kind, subject) VALUES ('busy', 'test')")
        .await
        .unwrap();
    catalog
        .suspend_tenant(&one, Some("invoice 17 is open"))
        .await
        .unwrap();
    let error = until_refused(&mut idle, text).await;
    assert_fields(&error, "42501", "TENANT_SUSPENDED");
    let detail = error.detail.unwrap();
    assert!(
        detail.contains("invoice 17 is open") && detail.contains("since 20"),
        "{detail}"
    );
    let refused = service
        .query(&format!("SET tenantry.tenant = '{one}'"))
        .await
        .unwrap();
    assert_refused(&refused, "42501", "TENANT_SUSPENDED");
    let login = setup.login(&format!("shop.{one}"));
    assert_fields(
        &refused_login(&setup, &login).await,
        "28000",
        "TENANT_SUSPENDED",
    );
    // What had begun may end.
    assert_eq!(error_of(&busy.query("COMMIT").await.unwrap()), None);
    assert_refused(
        &busy.query(text).await.unwrap(),
        "42501",
        "TENANT_SUSPENDED",
    );

    catalog.resume_tenant(&one).await.unwrap();
    until("the tenant is served again", async || {
        error_of(&idle.query(text).await.unwrap())
            .is_none()
            .then_some(())
    })
    .await;
    let session = setup.fleet.catalog_session().await.unwrap();
    session
        .execute(
            "UPDATE tenantry.tenant SET state = 'closing' WHERE slug = 'store-1'",
            &[],
        )
        .await
        .unwrap();
    let error = until_refused(&mut idle, text).await;
    assert_fields(&error, "42501", "TENANT_CLOSED");
    assert_fields(
        &refused_login(&setup, &login).await,
        "28000",
        "TENANT_CLOSED",
    );
    drop((idle, busy, service));
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn an_empty_ring_keeps_those_who_have_a_place() {
    let builder = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(builder, |config| {
        config.timeouts.provisioning_wait = Duration::from_millis(50);
    })
    .await;
    setup.seed().await;
    let mut old = setup.raw_for(0).await;
    let mut service = setup.raw().await;
    let catalog = setup.fleet.catalog();
    let shard = setup.fleet.shard(0);
    catalog
        .set_shard_state(shard.id(), ShardState::Draining)
        .await
        .unwrap();
    let new = setup.fleet.create_tenant("late-comer").await.unwrap();
    let id = setup.fleet.id_text(new.id);
    let set = format!("SET tenantry.tenant = '{id}'");
    until("the router knows the tenant", async || {
        error_of(&service.query(&set).await.unwrap())
            .is_none()
            .then_some(())
    })
    .await;
    for _ in 0..2 {
        let refused = service.query("SELECT kind FROM events").await.unwrap();
        assert_refused(&refused, "57P03", "RING_EMPTY");
        // Active by hand, without a place.
        let session = setup.fleet.catalog_session().await.unwrap();
        session
            .execute(
                "UPDATE tenantry.tenant SET state = 'active' WHERE slug = 'late-comer'",
                &[],
            )
            .await
            .unwrap();
    }
    let rows = rows_of(&old.query("SELECT kind FROM events").await.unwrap());
    assert_eq!(rows, vec![vec![Some(format!("tenant-{}", setup.id(0)))]]);
    drop((old, service));
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_fleet_without_shards_admits_nobody() {
    let builder = Fleet::builder().shards(0).tenants(1).agent(false);
    let setup = setup_with(builder, |_| ()).await;
    let login = setup.login("shop");
    assert_fields(&refused_login(&setup, &login).await, "57P03", "NO_SHARD");
}

#[tokio::test]
async fn a_shard_that_is_down_at_start_keeps_nobody_else_waiting() {
    let builder = Fleet::builder().shards(2).tenants(8).separate_servers(true);
    let mut setup = setup_with(builder, |_| ()).await;
    setup.seed().await;
    let mut of_shard = Vec::new();
    for shard in setup.fleet.shards() {
        let tenants = setup.fleet.tenants_of(shard).await.unwrap();
        of_shard.push(
            setup
                .fleet
                .id_text(tenants.first().expect("a tenant on each shard").id),
        );
    }
    let down = setup.fleet.server_of(setup.fleet.shard(0));
    setup.router.take().unwrap().stop().await;
    down.stop(StopMode::Immediate).await.unwrap();
    let router = start(config(&setup.fleet)).await;
    (setup.address, setup.http) = (router.pg_addr, router.http_addr);
    setup.router = Some(router);

    let select = "SELECT kind FROM events";
    let own = |id: &str| vec![vec![Some(format!("tenant-{id}"))]];
    let mut client = setup.raw().await;
    let mut lost = RawClient::login(
        setup.address,
        &setup.login(&format!("shop.{}", of_shard[0])),
    )
    .await
    .unwrap();
    for _ in 0..3 {
        assert_refused(&lost.query(select).await.unwrap(), "57P03", "SHARD_DOWN");
        client
            .query(&format!("SET tenantry.tenant = '{}'", of_shard[0]))
            .await
            .unwrap();
        assert_refused(&client.query(select).await.unwrap(), "57P03", "SHARD_DOWN");
        // In a transaction, by extended protocol.
        client.query("BEGIN").await.unwrap();
        client
            .send(|out| {
                frontend::put_parse(out, "", select, &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_describe(out, TargetKind::Portal, "");
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        assert_refused(&client.until_ready().await.unwrap(), "57P03", "SHARD_DOWN");
        assert_eq!(error_of(&client.query("ROLLBACK").await.unwrap()), None);
        client
            .query(&format!("SET tenantry.tenant = '{}'", of_shard[1]))
            .await
            .unwrap();
        assert_eq!(
            rows_of(&client.query(select).await.unwrap()),
            own(&of_shard[1])
        );
    }
    setup
        .fleet
        .server_of(setup.fleet.shard(0))
        .restart()
        .await
        .unwrap();
    until("the shard serves again", async || {
        let rows = rows_of(&lost.query(select).await.unwrap());
        (rows == own(&of_shard[0])).then_some(())
    })
    .await;
    drop((client, lost));
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn too_many_of_everything() {
    let builder = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(builder, |config| {
        config.clients_max = 4;
        config.pool_size = 1;
        config.pool_queue_max = 1;
        config.timeouts.query_wait = Duration::from_millis(300);
    })
    .await;
    setup.seed().await;
    let mut holder = setup.raw_for(0).await;
    holder
        .query("BEGIN; SELECT kind FROM events")
        .await
        .unwrap();
    let mut waiting = setup.raw_for(0).await;
    let mut third = setup.raw_for(0).await;
    waiting
        .send(|out| frontend::put_query(out, "SELECT 1"))
        .await
        .unwrap();
    until("one session waits", async || {
        (setup.metric("pool_waiting", "").await == 1.0).then_some(())
    })
    .await;
    assert_refused(
        &third.query("SELECT 1").await.unwrap(),
        "53300",
        "QUEUE_FULL",
    );
    let timed_out = waiting.until_ready().await.unwrap();
    let error = assert_refused(&timed_out, "53300", "QUEUE_TIMEOUT");
    assert!(error.detail.unwrap().contains("query_wait_timeout"));
    let fourth = setup.raw().await;
    let error = refused_login(&setup, &setup.login("shop")).await;
    assert_fields(&error, "53300", "TOO_MANY_CLIENTS");
    // A cancel request is no session.
    let (pid, key) = fourth.cancel_key().unwrap();
    send_cancel(setup.address, pid, key).await.unwrap();
    holder.query("COMMIT").await.unwrap();
    assert_eq!(error_of(&waiting.query("SELECT 1").await.unwrap()), None);
    drop((holder, waiting, third, fourth));
    setup.nothing_leaked(0).await;
}
