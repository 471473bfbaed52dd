//! LISTEN, NOTIFY and UNLISTEN of tenants: compared with a direct session where PostgreSQL has an
//! answer, and what tenants hear of each other, which is nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use bytes::BytesMut;
use common::probe::{assert_fields, assert_refused, until};
use common::{Setup, setup, setup_with};
use tenantry_testkit::{Fleet, RawClient, commands_of, error_of, rows_of, tags_of};
use tenantry_wire::backend;
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::tag::backend as tag;

/// Channel and payload of every notification.
fn heard(messages: &[Message]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    messages
        .iter()
        .filter(|message| message.tag == tag::NOTIFICATION)
        .map(|message| backend::notification(message.body()).unwrap())
        .map(|found| (text(found.channel), text(found.payload)))
        .collect()
}

fn said(channel: &str, payload: &str) -> Vec<(String, String)> {
    vec![(channel.to_owned(), payload.to_owned())]
}

/// What has arrived by the time that a statement of one's own is answered. Notifications are
/// delivered before ReadyForQuery of whatever runs next.
async fn news(client: &mut RawClient) -> Vec<(String, String)> {
    let answers = client.query("SELECT 'news'").await.unwrap();
    assert_eq!(error_of(&answers), None);
    heard(&answers)
}

async fn run(client: &mut RawClient, text: &str) -> Vec<Message> {
    let answers = client.query(text).await.unwrap();
    assert_eq!(error_of(&answers), None, "{text}");
    answers
}

/// Parse, Bind, Describe, Execute and Sync.
fn put_extended(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", &[], Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
    frontend::put_sync(out);
}

async fn extended(client: &mut RawClient, text: &str) -> Vec<Message> {
    client.send(|out| put_extended(out, text)).await.unwrap();
    client.until_ready().await.unwrap()
}

async fn one_shard() -> Setup {
    setup_with(Fleet::builder().shards(1).tenants(2), |_| ()).await
}

#[tokio::test]
async fn a_tenant_hears_its_own_and_nothing_else() {
    let setup = one_shard().await;
    let mut listener = setup.raw_for(0).await;
    let mut sender = setup.raw_for(0).await;
    let mut stranger = setup.raw_for(1).await;
    for (name, plain) in [
        ("orders", true),
        ("\"Mixed Case\"", false),
        ("\"a\"\"b'; --\"", false),
        ("\"ünï\"", false),
    ] {
        let bare = if plain {
            name.to_owned()
        } else {
            name.trim_matches('"').replace("\"\"", "\"")
        };
        for client in [&mut listener, &mut stranger] {
            assert_eq!(tags_of(&run(client, &format!("LISTEN {name}")).await), "CZ");
        }
        let answers = run(&mut sender, &format!("NOTIFY {name}, 'it''s \\ here'")).await;
        assert_eq!(tags_of(&answers), "CZ");
        assert_eq!(commands_of(&answers), ["NOTIFY"]);
        // Idle, and told without asking.
        let message = listener.receive().await.unwrap();
        assert_eq!(heard(&[message]), said(&bare, "it's \\ here"));
        assert_eq!(news(&mut stranger).await, []);
        run(&mut sender, &format!("NOTIFY {name}")).await;
        let message = listener.receive().await.unwrap();
        assert_eq!(heard(&[message]), said(&bare, ""));
    }
    // By function as well.
    run(
        &mut sender,
        "SELECT tenantry.pg_notify('orders', 'by function')",
    )
    .await;
    let message = listener.receive().await.unwrap();
    assert_eq!(heard(&[message]), said("orders", "by function"));
    assert_eq!(news(&mut stranger).await, []);
    // Those who notify and do not listen share connections.
    drop(listener);
    drop(stranger);
    setup.nothing_leaked(1).await;
}

#[tokio::test]
async fn a_session_that_notifies_itself_sees_its_own_process_id() {
    let setup = one_shard().await;
    let mut client = setup.raw_for(0).await;
    let (pid, _) = client.cancel_key().unwrap();
    run(&mut client, "LISTEN me").await;
    for (answers, order) in [
        (run(&mut client, "NOTIFY me, 'x'").await, "CAZ"),
        (extended(&mut client, "NOTIFY me, 'x'").await, "12nCAZ"),
        (
            run(&mut client, "LISTEN twice; NOTIFY me, 'x'").await,
            "CCAZ",
        ),
        (run(&mut client, "NOTIFY me, 'x'; SELECT 1").await, "CTDCAZ"),
    ] {
        assert_eq!(tags_of(&answers), order);
        assert_eq!(heard(&answers), said("me", "x"));
        let found = answers
            .iter()
            .find(|message| message.tag == tag::NOTIFICATION);
        assert_eq!(
            backend::notification(found.unwrap().body()).unwrap().pid,
            pid
        );
    }
}

#[tokio::test]
async fn everything_is_transactional() {
    let setup = one_shard().await;
    let mut client = setup.raw_for(0).await;
    let mut sender = setup.raw_for(0).await;
    // Rolled back, it never happened, nor does it hold a connection.
    run(&mut client, "BEGIN; LISTEN a; ROLLBACK").await;
    setup.nothing_leaked(2).await;
    run(
        &mut client,
        "BEGIN; SAVEPOINT s; LISTEN a; ROLLBACK TO s; LISTEN b; COMMIT",
    )
    .await;
    run(&mut sender, "NOTIFY a; NOTIFY b, '1'").await;
    assert_eq!(heard(&[client.receive().await.unwrap()]), said("b", "1"));
    assert_eq!(news(&mut client).await, []);
    // Told at commit, and once for equal ones.
    run(
        &mut sender,
        "BEGIN; NOTIFY b, '2'; NOTIFY b, '2'; NOTIFY b, '3'",
    )
    .await;
    assert_eq!(news(&mut client).await, []);
    run(&mut sender, "COMMIT").await;
    let two = [
        client.receive().await.unwrap(),
        client.receive().await.unwrap(),
    ];
    assert_eq!(heard(&two), [said("b", "2"), said("b", "3")].concat());
    run(&mut sender, "BEGIN; NOTIFY b, 'never'; ROLLBACK").await;
    assert_eq!(news(&mut client).await, []);
    // In a transaction of its own, the client hears at the end of it.
    run(&mut client, "BEGIN; SELECT 1").await;
    run(&mut sender, "NOTIFY b, '4'").await;
    assert_eq!(news(&mut client).await, []);
    assert_eq!(heard(&run(&mut client, "COMMIT").await), said("b", "4"));
    // UNLISTEN that is rolled back is none; one that commits frees the connection.
    run(&mut client, "BEGIN; UNLISTEN *; ROLLBACK").await;
    run(&mut sender, "NOTIFY b, '5'").await;
    assert_eq!(heard(&[client.receive().await.unwrap()]), said("b", "5"));
    run(&mut client, "UNLISTEN nothing; UNLISTEN b").await;
    run(&mut sender, "NOTIFY b, '6'").await;
    assert_eq!(news(&mut client).await, []);
    setup.nothing_leaked(2).await;
    // An error after it takes it back too.
    let failed = client.query("LISTEN a; SELECT 1/0").await.unwrap();
    assert_eq!(error_of(&failed).unwrap().code, "22012");
    run(&mut sender, "NOTIFY a").await;
    assert_eq!(news(&mut client).await, []);
    setup.nothing_leaked(2).await;
}

#[tokio::test]
async fn by_extended_protocol_and_in_pipelines() {
    let setup = one_shard().await;
    let mut client = setup.raw_for(0).await;
    let mut sender = setup.raw_for(0).await;
    let statements = [
        "LISTEN a",
        "LISTEN \"B b\"",
        "UNLISTEN a",
        "NOTIFY \"B b\", 'mine'",
    ];
    client
        .send(|out| {
            for text in statements {
                put_extended(out, text);
            }
        })
        .await
        .unwrap();
    let mut answers = Vec::new();
    for _ in statements {
        answers.extend(client.until_ready().await.unwrap());
    }
    assert_eq!(tags_of(&answers), "12nCZ12nCZ12nCZ12nCAZ");
    assert_eq!(
        commands_of(&answers),
        ["LISTEN", "LISTEN", "UNLISTEN", "NOTIFY"]
    );
    extended(&mut sender, "NOTIFY a").await;
    extended(&mut sender, "NOTIFY \"B b\", 'two'").await;
    assert_eq!(
        heard(&[client.receive().await.unwrap()]),
        said("B b", "two")
    );
    // One Sync for all, an error in the middle: nothing of it happens.
    client
        .send(|out| {
            for text in ["LISTEN c", "SELECT 1/0", "LISTEN d"] {
                frontend::put_parse(out, "", text, &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_execute(out, "", 0);
            }
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    let answers = client.until_ready().await.unwrap();
    assert_eq!(tags_of(&answers), "12C1EZ");
    run(&mut sender, "NOTIFY c; NOTIFY d").await;
    assert_eq!(news(&mut client).await, []);
    extended(&mut client, "UNLISTEN *").await;
    setup.nothing_leaked(2).await;
}

#[tokio::test]
async fn without_a_tenant_there_is_no_channel() {
    let setup = setup().await;
    let mut client = setup.raw().await;
    for text in ["LISTEN a", "NOTIFY a", "BEGIN; LISTEN a"] {
        let answers = client.query(text).await.unwrap();
        let error = error_of(&answers).unwrap();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("42704", "no tenant is bound"),
            "{text}"
        );
        let answers = extended(&mut client, "LISTEN a").await;
        assert!(matches!(
            error_of(&answers).unwrap().code.as_str(),
            "42704" | "25P02"
        ));
        run(&mut client, "ROLLBACK").await;
    }
    assert_eq!(
        commands_of(&run(&mut client, "UNLISTEN a; UNLISTEN *").await),
        ["UNLISTEN", "UNLISTEN"]
    );
    let mut tenant = setup.raw_for(0).await;
    let long = "x".repeat(8000);
    let answers = tenant.query(&format!("NOTIFY a, '{long}'")).await.unwrap();
    assert_eq!(error_of(&answers).unwrap().code, "22023");
    setup.nothing_leaked(2).await;
}

#[tokio::test]
async fn a_channel_stays_the_tenants_that_was_bound_at_listen() {
    let setup = one_shard().await;
    let [a, b] = [setup.id(0), setup.id(1)];
    let mut service = setup.raw().await;
    let mut first = setup.raw_for(0).await;
    let mut second = setup.raw_for(1).await;
    run(
        &mut service,
        &format!("SET tenantry.tenant = '{a}'; LISTEN news"),
    )
    .await;
    run(&mut service, &format!("SET tenantry.tenant = '{b}'")).await;
    run(&mut second, "NOTIFY news, 'of b'").await;
    assert_eq!(news(&mut service).await, []);
    run(&mut first, "NOTIFY news, 'of a'").await;
    assert_eq!(
        heard(&[service.receive().await.unwrap()]),
        said("news", "of a")
    );
    // Both under one name; UNLISTEN ends both.
    run(&mut service, "LISTEN news").await;
    run(&mut second, "NOTIFY news, 'of b'").await;
    assert_eq!(
        heard(&[service.receive().await.unwrap()]),
        said("news", "of b")
    );
    run(&mut service, "UNLISTEN news").await;
    run(&mut first, "NOTIFY news").await;
    run(&mut second, "NOTIFY news").await;
    assert_eq!(news(&mut service).await, []);
    setup.nothing_leaked(3).await;

    // The connection that listens cannot follow to another shard.
    let setup = common::setup().await;
    let [here, there] = setup.two_tenants().await;
    let mut service = setup.raw().await;
    run(
        &mut service,
        &format!("SET tenantry.tenant = '{here}'; LISTEN news"),
    )
    .await;
    let answers = service
        .query(&format!("SET tenantry.tenant = '{there}'"))
        .await
        .unwrap();
    assert_refused(&answers, "42501", "NOT_PERMITTED");
    run(&mut service, "DISCARD ALL").await;
    run(&mut service, &format!("SET tenantry.tenant = '{there}'")).await;
    setup.nothing_leaked(1).await;
}

#[tokio::test]
async fn a_listening_session_is_told_of_its_end() {
    let mut setup = one_shard().await;
    let shard = setup.fleet.shard(0);
    let admin = shard.admin().await.unwrap();
    let mut client = setup.raw_for(0).await;
    run(&mut client, "LISTEN a").await;
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tenantry_app'";
    admin.execute(end, &[]).await.unwrap();
    let last = error_of(&client.until_closed().await.unwrap()).unwrap();
    assert_eq!(
        (last.code.as_str(), last.severity.name()),
        ("57P01", "FATAL")
    );
    assert_eq!(
        last.message,
        "terminating connection due to administrator command"
    );
    setup.nothing_leaked(0).await;

    // So is one whose router stops.
    let mut client = setup.raw_for(0).await;
    run(&mut client, "LISTEN a").await;
    let router = setup.router.take().unwrap();
    let stopping = tokio::spawn(router.stop());
    let last = error_of(&client.until_closed().await.unwrap()).unwrap();
    assert_eq!(last.routine.as_deref(), Some("SHUTDOWN"));
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_listener_is_refused_while_its_tenant_is_suspended() {
    let setup = one_shard().await;
    let one = setup.id(0);
    let mut client = setup.raw_for(0).await;
    run(&mut client, "LISTEN a").await;
    let catalog = setup.fleet.catalog();
    catalog.suspend_tenant(&one, None).await.unwrap();
    until("the router knows of the suspension", async || {
        let answers = client.query("SELECT 1").await.unwrap();
        error_of(&answers).map(|_| assert_refused(&answers, "42501", "TENANT_SUSPENDED"))
    })
    .await;
    for text in ["NOTIFY a", "LISTEN b", "UNLISTEN a"] {
        let refused = client.query(text).await.unwrap();
        assert_refused(&refused, "42501", "TENANT_SUSPENDED");
    }
    catalog.resume_tenant(&one).await.unwrap();
    until("the router knows that it is resumed", async || {
        let answers = client.query("SELECT 1").await.unwrap();
        error_of(&answers).is_none().then_some(())
    })
    .await;
    // It has listened all the time.
    let mut sender = setup.raw_for(0).await;
    run(&mut sender, "NOTIFY a, 'x'").await;
    assert_eq!(heard(&[client.receive().await.unwrap()]), said("a", "x"));
    drop(client);
    setup.nothing_leaked(1).await;
}

/// Where its tenant lives from now on, nobody listens for it: silence would look like no news.
#[tokio::test]
async fn a_listener_whose_tenant_has_moved_is_told() {
    let setup = setup().await;
    let [here, there] = setup.two_tenants().await;
    let catalog = setup.fleet.catalog_session().await.unwrap();
    let mut idle = setup.raw().await;
    let mut busy = setup.raw().await;
    let mut shared = setup.raw().await;
    let mut other = setup.raw().await;
    for client in [&mut idle, &mut busy, &mut shared] {
        run(client, &format!("SET tenantry.tenant = '{here}'; LISTEN a")).await;
    }
    run(
        &mut other,
        &format!("SET tenantry.tenant = '{there}'; LISTEN a"),
    )
    .await;
    // It listens for the one tenant and acts for no one.
    run(&mut shared, "RESET tenantry.tenant").await;
    run(&mut busy, "BEGIN; SELECT 1").await;
    let pin = format!(
        "INSERT INTO tenantry.pin (tenant, shard) \
         SELECT '{here}', shard FROM (SELECT id AS shard FROM tenantry.shard) s \
         WHERE shard <> {}",
        setup
            .fleet
            .shard_of(setup.tenant(0))
            .await
            .unwrap()
            .id()
            .number()
    );
    catalog.batch_execute(&pin).await.unwrap();
    for client in [&mut idle, &mut shared] {
        let last = error_of(&client.until_closed().await.unwrap()).unwrap();
        assert_fields(&last, "57P01", "TENANT_MOVED");
        assert_eq!(last.severity.name(), "FATAL");
    }
    // In a transaction, at its end.
    run(&mut busy, "SELECT 2").await;
    busy.send(|out| frontend::put_query(out, "COMMIT"))
        .await
        .unwrap();
    let answers = busy.until_closed().await.unwrap();
    assert_eq!(commands_of(&answers), ["COMMIT"]);
    assert_fields(&error_of(&answers).unwrap(), "57P01", "TENANT_MOVED");
    assert_eq!(news(&mut other).await, []);
    drop(other);
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn what_listened_never_listens_for_the_next() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 2
    })
    .await;
    for _ in 0..3 {
        let mut client = setup.raw_for(0).await;
        run(&mut client, "LISTEN a; LISTEN b").await;
        drop(client);
    }
    setup.nothing_leaked(0).await;
    let mut next = setup.raw_for(0).await;
    let listening = run(&mut next, "SELECT * FROM pg_listening_channels()").await;
    assert_eq!(rows_of(&listening), Vec::<Vec<_>>::new());
    let mut sender = setup.raw_for(0).await;
    run(&mut sender, "NOTIFY a").await;
    assert_eq!(news(&mut next).await, []);
    // A client that listens keeps one of the two connections; the other is enough for everyone.
    run(&mut next, "LISTEN a").await;
    until("the listener hears", async || {
        run(&mut sender, "NOTIFY a, 'x'").await;
        let message = tokio::time::timeout(Duration::from_secs(1), next.receive()).await;
        message
            .ok()
            .map(|message| assert_eq!(heard(&[message.unwrap()]), said("a", "x")))
    })
    .await;
}

#[tokio::test]
async fn the_process_id_is_one_wherever_a_client_looks() {
    let setup = setup().await;
    let mut service = setup.raw().await;
    let (pid, _) = service.cancel_key().unwrap();
    let [here, there] = setup.two_tenants().await;
    for tenant in [here, there] {
        run(&mut service, &format!("SET tenantry.tenant = '{tenant}'")).await;
        for (text, column) in [
            ("SELECT pg_backend_pid()", "pg_backend_pid"),
            (
                "select PG_CATALOG.pg_backend_pid ( ) AS \"My pid\";",
                "My pid",
            ),
            ("/* who */ SELECT pg_backend_pid() me -- I\n", "me"),
        ] {
            let answers = run(&mut service, text).await;
            assert_eq!(tags_of(&answers), "TDCZ");
            assert_eq!(rows_of(&answers), [[Some(pid.to_string())]]);
            let described = backend::columns(answers[0].body()).unwrap();
            assert_eq!(
                (described[0].name, described[0].type_oid),
                (column.as_bytes(), 23)
            );
            for format in [Format::Text, Format::Binary] {
                service
                    .send(|out| {
                        frontend::put_parse(out, "s", text, &[]);
                        frontend::put_describe(out, TargetKind::Statement, "s");
                        frontend::put_bind(out, "", "s", &[], format);
                        frontend::put_describe(out, TargetKind::Portal, "");
                        frontend::put_execute(out, "", 0);
                        frontend::put_close(out, TargetKind::Statement, "s");
                        frontend::put_sync(out);
                    })
                    .await
                    .unwrap();
                let answers = service.until_ready().await.unwrap();
                assert_eq!(tags_of(&answers), "1tT2TDC3Z");
                let described = backend::columns(answers[4].body()).unwrap();
                assert_eq!(described[0].format, format);
                let row = backend::data_row(answers[5].body()).unwrap();
                let wanted = match format {
                    Format::Text => pid.to_string().into_bytes(),
                    Format::Binary => pid.to_be_bytes().to_vec(),
                };
                assert_eq!(row, [Some(wanted.as_slice())]);
            }
        }
    }
    // Not a statement of its own: PostgreSQL's answer.
    let other = run(&mut service, "SELECT pg_backend_pid(), 1").await;
    assert_ne!(rows_of(&other)[0][0], Some(pid.to_string()));
}
