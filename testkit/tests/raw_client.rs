//! The raw client against a real server: what a driver does, and what none would.
#![allow(clippy::unwrap_used, clippy::panic)]

use tenantry_cluster::{Server, ServerOptions};
use tenantry_testkit::{
    Direction, FaultProxy, Login, RawClient, RawError, commands_of, error_of, rows_of, status_of,
    tags_of,
};
use tenantry_wire::backend::TxStatus;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::startup::ProtocolVersion;

async fn server() -> (Server, Login) {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    let login = Login::new("postgres", server.superuser_password(), "postgres");
    (server, login)
}

#[tokio::test]
async fn simple_queries_show_every_message() {
    let (server, login) = server().await;
    let login = login.parameter("application_name", "raw");
    let mut client = RawClient::login(server.address(), &login).await.unwrap();
    assert_eq!(client.parameter("application_name"), Some("raw"));
    let seen = client
        .query("BEGIN; SELECT 1, NULL; SELECT 1/0; SELECT 2")
        .await
        .unwrap();
    assert_eq!(tags_of(&seen), "CTDCEZ");
    assert_eq!(rows_of(&seen), [[Some("1".to_owned()), None]]);
    assert_eq!(commands_of(&seen), ["BEGIN", "SELECT 1"]);
    assert_eq!(error_of(&seen).unwrap().code, "22012");
    assert_eq!(status_of(&seen), Some(TxStatus::Failed));
}

#[tokio::test]
async fn a_pipeline_goes_out_in_one_write() {
    let (server, login) = server().await;
    let mut client = RawClient::login(server.address(), &login).await.unwrap();
    let pipeline = |out: &mut _| {
        frontend::put_parse(out, "s", "SELECT $1::int + 1", &[]);
        for value in ["1", "x", "3"] {
            frontend::put_bind(out, "", "s", &[Some(value.as_bytes())], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        }
    };
    client.send(pipeline).await.unwrap();
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(tags_of(&client.until_ready().await.unwrap()));
    }
    assert_eq!(tags, ["12DCZ", "EZ", "2DCZ"]);
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal() {
    let (server, login) = server().await;
    let login = Login {
        password: "wrong".to_owned(),
        ..login
    };
    let error = RawClient::login(server.address(), &login)
        .await
        .unwrap_err();
    assert_eq!(error.refusal().unwrap().code, "28P01", "{error}");
}

#[tokio::test]
async fn cancel_reaches_a_running_statement() {
    let (server, login) = server().await;
    let mut client = RawClient::login(server.address(), &login).await.unwrap();
    // The rows before the sleep fill the server's buffer, so one comes out and shows that the statement runs.
    let rows = "SELECT repeat('x', 9000) FROM generate_series(1, 3)";
    let text = format!("COPY ({rows} UNION ALL SELECT pg_sleep(60)::text) TO STDOUT");
    client
        .send(|out| frontend::put_query(out, text))
        .await
        .unwrap();
    client.until(b'd').await.unwrap();
    client.cancel().await.unwrap();
    let seen = client.until_ready().await.unwrap();
    assert_eq!(error_of(&seen).unwrap().code, "57014");
}

#[tokio::test]
async fn nonsense_is_answered_and_ends_the_session() {
    let (server, login) = server().await;
    let mut client = RawClient::login(server.address(), &login).await.unwrap();
    client.send_bytes(b"\x01\0\0\0\x04").await.unwrap();
    let seen = client.until_closed().await.unwrap();
    assert_eq!(error_of(&seen).unwrap().code, "08P01");

    let mut client = RawClient::connect(server.address()).await.unwrap();
    let version = ProtocolVersion { major: 9, minor: 9 };
    let error = client.start_session(version, &login).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, "0A000");

    let mut client = RawClient::connect(server.address()).await.unwrap();
    client.send(frontend::put_ssl_request).await.unwrap();
    assert_eq!(client.receive_byte().await.unwrap(), b'N');
}

#[tokio::test]
async fn an_answer_cut_in_the_middle_is_not_taken_for_a_message() {
    let (server, login) = server().await;
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let mut client = RawClient::login(proxy.address(), &login).await.unwrap();
    proxy.cut_after(Direction::ToClient, 20);
    let error = client
        .query("SELECT 'a long enough answer'")
        .await
        .unwrap_err();
    assert!(matches!(error, RawError::Closed), "{error}");
}
