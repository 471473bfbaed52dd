//! Where a session on a shared connection was once told something else than PostgreSQL would have told it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use bytes::{BufMut as _, BytesMut};
use common::probe::whole;
use common::{setup, setup_with};
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::frontend as tag;

fn first(messages: &[Message]) -> String {
    if let Some(error) = error_of(messages) {
        return error.code;
    }
    rows_of(messages)[0][0].clone().unwrap_or_default()
}

async fn ask(client: &mut RawClient, text: &str) -> String {
    first(&client.query(text).await.unwrap())
}

/// The router brought a setting into force in the client's transaction; going back to a savepoint made later must not
/// bring it into force again, because that takes what the client set for the transaction.
#[tokio::test]
async fn a_savepoint_remembers_what_was_in_force() {
    let fleet = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(fleet, |config| config.pool_size = 1).await;
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(0).await);
    client.query("SET timezone TO 'Asia/Tokyo'").await.unwrap();
    other
        .query("SET timezone TO 'Europe/Vienna'")
        .await
        .unwrap();

    client.query("BEGIN").await.unwrap();
    client.query("SET LOCAL work_mem TO '8MB'").await.unwrap();
    for round in 0..3 {
        client.query("SAVEPOINT a").await.unwrap();
        client.query("SET LOCAL work_mem TO '9MB'").await.unwrap();
        client.query("ROLLBACK TO a").await.unwrap();
        assert_eq!(ask(&mut client, "SHOW work_mem").await, "8MB", "{round}");
        assert_eq!(ask(&mut client, "SHOW timezone").await, "Asia/Tokyo");
        assert_eq!(ask(&mut client, "SHOW tenantry.tenant").await, setup.id(0));
    }
    client.query("COMMIT").await.unwrap();
    assert_eq!(ask(&mut client, "SHOW work_mem").await, "4MB");
    assert_eq!(ask(&mut other, "SHOW timezone").await, "Europe/Vienna");
}

/// Eight bytes that are a number may be a text as well; which of the two they are is in the Bind message.
#[tokio::test]
async fn a_parameter_is_read_in_the_format_it_has() {
    let setup = setup().await;
    let id: i64 = setup.id(0).parse().unwrap();
    for (format, value) in [
        (1_u16, id.to_be_bytes().to_vec()),
        (0, id.to_string().into_bytes()),
    ] {
        let mut client = setup.raw().await;
        let mut body = BytesMut::new();
        body.put_slice(b"\0\0");
        body.put_u16(1);
        body.put_u16(format);
        body.put_u16(1);
        body.put_u32(u32::try_from(value.len()).unwrap());
        body.put_slice(&value);
        body.put_u16(0);
        client
            .send(|out| {
                let text = "SELECT set_config('tenantry.tenant', $1::bigint::text, false)";
                frontend::put_parse(out, "", text, &[]);
                out.put_slice(&whole(tag::BIND, &body));
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let answer = client.until_ready().await.unwrap();
        assert_eq!(first(&answer), setup.id(0), "format {format}");
    }
}

/// The SQL command EXECUTE by extended protocol runs what was prepared in either way.
#[tokio::test]
async fn execute_works_in_both_protocols() {
    let setup = setup().await;
    let mut client = setup.raw_for(0).await;
    client
        .query("PREPARE sum (int) AS SELECT $1 + 1")
        .await
        .unwrap();
    client
        .send(|out| {
            frontend::put_parse(out, "", "EXECUTE sum (41)", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(first(&client.until_ready().await.unwrap()), "42");
    assert_eq!(ask(&mut client, "EXECUTE sum (1)").await, "2");
}

/// A Query that the router refuses in the middle of a batch takes the batch with it, on the server too: nothing of it is
/// left open on the connection that the next session gets.
#[tokio::test]
async fn a_query_refused_in_a_batch_takes_the_batch_with_it() {
    let setup = common::setup_with(
        tenantry_testkit::Fleet::builder().shards(1).tenants(2),
        |config| {
            config.pool_size = 1;
        },
    )
    .await;
    let mut client = setup.raw_for(0).await;
    for refused in [
        "EXECUTE nothing",
        "SELECT 1; EXECUTE nothing",
        "DEALLOCATE nothing",
    ] {
        client
            .send(|out| {
                let insert = "INSERT INTO events (kind, subject) VALUES ('half', 'batch')";
                frontend::put_parse(out, "", insert, &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_query(out, refused);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let answer = client.until_ready().await.unwrap();
        assert_eq!(error_of(&answer).unwrap().code, "26000", "{refused}");
        client.until_ready().await.unwrap();
        let mut other = setup.raw_for(1).await;
        assert_eq!(ask(&mut other, "SELECT count(*) FROM events").await, "0");
        assert_eq!(
            ask(&mut other, "SHOW application_name").await,
            "tenantry-router"
        );
        assert_eq!(
            ask(&mut client, "SELECT count(*) FROM events").await,
            "0",
            "{refused}"
        );
        let admin = setup.fleet.shard(0).admin().await.unwrap();
        let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app' AND xact_start IS NOT NULL";
        assert_eq!(
            admin.query_one(open, &[]).await.unwrap().get::<_, i64>(0),
            0,
            "{refused}"
        );
    }
}
