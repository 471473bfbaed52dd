//! The messages that PostgreSQL's JDBC driver sends, byte for byte as it arranges them: startup
//! settings, statements of its own at connect, BEGIN in front of the first statement of a batch,
//! named statements after some uses, portals with a fetch size.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bytes::BytesMut;
use common::{Setup, setup};
use tenantry_testkit::{RawClient, error_of, rows_of, status_of, tags_of};
use tenantry_wire::backend::TxStatus;
use tenantry_wire::frontend::{self, Format, TargetKind};

/// Parse, Bind, Describe and Execute of the unnamed statement.
fn put(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text.as_bytes(), &[]);
    frontend::put_bind(out, "", "", &[], Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", 0);
}

/// BEGIN as the driver puts it in front of a statement.
fn put_begin(out: &mut BytesMut) {
    frontend::put_parse(out, "", b"BEGIN", &[]);
    frontend::put_bind(out, "", "", &[], Format::Text);
    frontend::put_execute(out, "", 0);
}

async fn connect(setup: &Setup) -> RawClient {
    let login = setup
        .login("shop")
        .parameter("client_encoding", "UTF8")
        .parameter("DateStyle", "ISO")
        .parameter("TimeZone", "Europe/Vienna")
        .parameter("extra_float_digits", "2");
    let mut client = RawClient::login(setup.address, &login).await.unwrap();
    for text in [
        "SET extra_float_digits = 3",
        "SET application_name = 'PostgreSQL JDBC Driver'",
    ] {
        client
            .send(|out| {
                frontend::put_parse(out, "", text.as_bytes(), &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_execute(out, "", 1);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(tags_of(&messages).replace('S', ""), "12CZ");
    }
    client
}

#[tokio::test]
async fn begin_travels_with_the_statement_that_names_the_tenant() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = connect(&setup).await;
    for _ in 0..2 {
        for id in setup.two_tenants().await {
            client
                .send(|out| {
                    put_begin(out);
                    put(out, &format!("SET LOCAL tenantry.tenant = '{id}'"));
                    frontend::put_sync(out);
                })
                .await
                .unwrap();
            let messages = client.until_ready().await.unwrap();
            assert_eq!(tags_of(&messages), "12C12nCZ");
            assert_eq!(status_of(&messages), Some(TxStatus::InTransaction));
            client
                .send(|out| {
                    put(out, "SELECT kind, current_setting('extra_float_digits'), current_setting('timezone') FROM events");
                    frontend::put_sync(out);
                })
                .await
                .unwrap();
            let messages = client.until_ready().await.unwrap();
            assert_eq!(tags_of(&messages), "12TDCZ");
            let row = [&format!("tenant-{id}"), "3", "Europe/Vienna"].map(|v| Some(v.to_owned()));
            assert_eq!(rows_of(&messages), [row]);
            client
                .send(|out| {
                    frontend::put_parse(out, "S_1", b"COMMIT", &[]);
                    frontend::put_bind(out, "", "S_1", &[], Format::Text);
                    frontend::put_execute(out, "", 1);
                    frontend::put_close(out, TargetKind::Statement, "S_1");
                    frontend::put_sync(out);
                })
                .await
                .unwrap();
            let messages = client.until_ready().await.unwrap();
            assert_eq!(tags_of(&messages), "12C3Z");
            assert_eq!(status_of(&messages), Some(TxStatus::Idle));
        }
    }
}

#[tokio::test]
async fn a_named_portal_is_read_in_pieces_over_several_syncs() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = connect(&setup).await;
    for id in setup.two_tenants().await {
        client
            .send(|out| {
                put_begin(out);
                put(
                    out,
                    &format!("SELECT set_config('tenantry.tenant', '{id}', true)"),
                );
                frontend::put_parse(
                    out,
                    "S_2",
                    b"SELECT kind, generate_series(1, 5) FROM events",
                    &[],
                );
                frontend::put_bind(out, "C_3", "S_2", &[], Format::Text);
                frontend::put_describe(out, TargetKind::Portal, "C_3");
                frontend::put_execute(out, "C_3", 2);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(tags_of(&messages), "12C12TDC12TDDsZ");
        for tags in ["DDsZ", "DCZ"] {
            client
                .send(|out| {
                    frontend::put_execute(out, "C_3", 2);
                    frontend::put_sync(out);
                })
                .await
                .unwrap();
            let messages = client.until_ready().await.unwrap();
            assert_eq!(tags_of(&messages), tags);
        }
        client
            .send(|out| {
                frontend::put_close(out, TargetKind::Portal, "C_3");
                frontend::put_close(out, TargetKind::Statement, "S_2");
                put(out, "COMMIT");
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(error_of(&messages), None);
        assert_eq!(tags_of(&messages), "3312nCZ");
    }
}

#[tokio::test]
async fn a_batch_fails_as_a_whole_and_the_next_one_works() {
    let setup = setup().await;
    setup.seed().await;
    let mut client = connect(&setup).await;
    for id in setup.two_tenants().await {
        client
            .send(|out| {
                put_begin(out);
                put(out, &format!("SET LOCAL tenantry.tenant = '{id}'"));
                put(out, "DELETE FROM events");
                put(out, "SELECT no_such_column");
                put(out, "SELECT 1");
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(tags_of(&messages), "12C12nC12nCEZ");
        assert_eq!(status_of(&messages), Some(TxStatus::Failed));
        client
            .send(|out| {
                put(out, "ROLLBACK");
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let messages = client.until_ready().await.unwrap();
        assert_eq!(tags_of(&messages), "12nCZ");
        let text =
            format!("BEGIN; SET LOCAL tenantry.tenant = '{id}'; SELECT kind FROM events; COMMIT");
        let messages = client.query(&text).await.unwrap();
        assert_eq!(rows_of(&messages), [[Some(format!("tenant-{id}"))]]);
    }
}
