//! Connections before their login: floods, rates, the number of sessions; and what the startup packet agrees on.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::net::SocketAddr;

use common::probe::{assert_fields, busy_backends, refused_login, until};
use common::{DATABASE, config, setup, setup_with, start};
use tenantry_schema::secrets::SecretsFile;
use tenantry_testkit::{Fleet, RawClient, RawError, error_of, send_cancel};
use tenantry_wire::backend::Authentication;
use tenantry_wire::frontend;
use tenantry_wire::scram::{ChannelBinding, ClientExchange, Step};
use tenantry_wire::startup::ProtocolVersion;
use tenantry_wire::tag::backend as tag;

const MAX: usize = 20;

/// A connection that has asked for a session and does not go on.
async fn stuck(address: SocketAddr) -> RawClient {
    let mut client = RawClient::connect(address).await.unwrap();
    client
        .send(|out| {
            let parameters = [("user", "shop"), ("database", DATABASE)];
            frontend::put_startup(out, ProtocolVersion::V3_0, parameters);
        })
        .await
        .unwrap();
    assert_eq!(client.receive().await.unwrap().tag, tag::AUTHENTICATION);
    client
}

#[tokio::test]
async fn half_open_connections_make_room_for_those_that_log_in() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.clients_unauthenticated_max = MAX;
    })
    .await;
    let mut session = setup.raw_for(0).await;
    let mut first = stuck(setup.address).await;
    let mut flood = Vec::new();
    for _ in 0..10 * MAX {
        flood.push(RawClient::connect(setup.address).await.unwrap());
    }
    // Whoever has come as far as the startup packet is told.
    let error = error_of(&first.until_closed().await.unwrap()).unwrap();
    assert_fields(&error, "53300", "TOO_MANY_LOGINS");
    until("the oldest have made room", async || {
        let refused = setup
            .metric("login_failures_total", "TOO_MANY_LOGINS")
            .await;
        (refused > 9.0 * 20.0).then_some(())
    })
    .await;
    assert!(setup.metric("clients_unauthenticated", "").await <= 20.0);
    flood[0].until_closed().await.unwrap();
    // Neither sessions nor logins are in the way of the flood.
    session.query("SELECT 1").await.unwrap();
    for _ in 0..2 * MAX {
        setup.raw_for(0).await.query("SELECT 1").await.unwrap();
    }
    drop(flood);
    drop(session);
    setup.nothing_leaked(0).await;
    until("nobody is counted for ever", async || {
        (setup.metric("clients_unauthenticated", "").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_address_has_a_rate_of_connections() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.connection_rate_max = 4;
    })
    .await;
    let login = setup.login("shop");
    let mut refusals = 0;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        match RawClient::login(setup.address, &login).await {
            Ok(client) => sessions.push(client),
            Err(RawError::Refused(error)) => {
                assert_fields(&error, "53400", "CONNECTION_RATE");
                refusals += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refusals > 0 && sessions.len() >= 4, "{refusals}");
    for session in &mut sessions {
        session.query("SELECT 1").await.unwrap();
    }
    until("the rate allows another", async || {
        RawClient::login(setup.address, &login).await.ok()
    })
    .await;
}

#[tokio::test]
async fn an_address_has_a_rate_of_failed_logins() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.login_failure_rate_max = 3;
    })
    .await;
    let mut session = setup.raw().await;
    let right = setup.login("shop");
    let mut wrong = setup.login("shop");
    wrong.password.push('x');
    for _ in 0..3 {
        let error = refused_login(&setup, &wrong).await;
        assert_fields(&error, "28P01", "AUTHENTICATION_FAILED");
    }
    // Guessing goes on for nobody, the right password included.
    for login in [&wrong, &right] {
        let error = refused_login(&setup, login).await;
        assert_fields(&error, "53400", "LOGIN_FAILURE_RATE");
    }
    session.query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn guesses_that_come_together_are_as_few() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.login_failure_rate_max = 3;
    })
    .await;
    let mut guesses = Vec::new();
    for _ in 0..10 {
        let mut client = stuck(setup.address).await;
        let exchange = ClientExchange::new("guess", ChannelBinding::Unavailable);
        let first = exchange.start();
        client
            .send(|out| frontend::put_sasl_initial(out, "SCRAM-SHA-256", Some(&first)))
            .await
            .unwrap();
        let challenge = client.receive().await.unwrap();
        guesses.push((client, exchange, challenge));
    }
    let mut judged = 0;
    for (mut client, mut exchange, challenge) in guesses {
        let Ok(Authentication::SaslContinue(data)) = Authentication::decode(challenge.body())
        else {
            panic!("{challenge:?}")
        };
        let Step::Continue(proof) = exchange.step(data) else {
            panic!("no proof")
        };
        client
            .send(|out| frontend::put_sasl_response(out, &proof))
            .await
            .unwrap();
        let error = error_of(&client.until_closed().await.unwrap()).unwrap();
        if error.code == "28P01" {
            judged += 1;
        } else {
            assert_fields(&error, "53400", "LOGIN_FAILURE_RATE");
        }
    }
    assert_eq!(judged, 3);
}

#[tokio::test]
async fn logins_at_the_same_time_do_not_pass_the_limit_together() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.clients_max = 3;
    })
    .await;
    let login = setup.login("shop");
    let attempts = (0..12).map(|_| RawClient::login(setup.address, &login));
    let mut sessions = Vec::new();
    for outcome in futures_util::future::join_all(attempts).await {
        match outcome {
            Ok(client) => sessions.push(client),
            Err(RawError::Refused(error)) => assert_fields(&error, "53300", "TOO_MANY_CLIENTS"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(sessions.len(), 3);
}

#[tokio::test]
async fn cancel_keys_are_as_long_as_the_protocol_allows() {
    let setup = setup().await;
    let minor = |minor| ProtocolVersion { major: 3, minor };
    for (version, length) in [
        (ProtocolVersion::V3_0, 4),
        (minor(1), 4),
        (ProtocolVersion::V3_2, 32),
        (minor(9999), 32),
    ] {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        let user = format!("shop.{}", setup.id(0));
        client
            .start_session(version, &setup.login(&user))
            .await
            .unwrap();
        let (pid, key) = client.cancel_key().unwrap();
        let key = key.to_vec();
        assert_eq!(key.len(), length, "{version}");

        let shard = setup.fleet.shard_of(setup.tenant(0)).await.unwrap();
        let running = async || (busy_backends(shard).await.unwrap() == 1).then_some(());
        client
            .send(|out| frontend::put_query(out, "SELECT pg_sleep(60)"))
            .await
            .unwrap();
        until("the statement runs", running).await;
        let mut other = key.clone();
        *other.last_mut().unwrap() ^= 1;
        let longer = [&key[..], b"x"].concat();
        for wrong in [&other[..], &key[..4].repeat(2), &longer] {
            send_cancel(setup.address, pid, wrong).await.unwrap();
        }
        assert_eq!(busy_backends(shard).await.unwrap(), 1, "{version}");
        send_cancel(setup.address, pid, &key).await.unwrap();
        let error = error_of(&client.until_ready().await.unwrap()).unwrap();
        assert_eq!(error.code, "57014");
    }
}

/// Bytes as the chapter on the protocol has them: type, length, the version as in a startup packet, the number of
/// options that are not known, their names.
#[tokio::test]
async fn what_is_not_spoken_here_is_told_before_anything_else() {
    let setup = setup().await;
    let newer: &[u8] = b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0";
    let option: &[u8] = b"v\0\0\0\x1a\0\x03\0\0\0\0\0\x01_pq_.teleport\0";
    let both: &[u8] = b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x01_pq_.teleport\0";
    for (minor, extra, golden) in [
        (9999, None, newer),
        (0, Some("_pq_.teleport"), option),
        (9999, Some("_pq_.teleport"), both),
    ] {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        let version = ProtocolVersion { major: 3, minor };
        let mut parameters = vec![("user", "shop"), ("database", DATABASE)];
        parameters.extend(extra.map(|name| (name, "on")));
        client
            .send(|out| frontend::put_startup(out, version, parameters))
            .await
            .unwrap();
        let first = client.receive().await.unwrap();
        assert_eq!(&first.bytes[..], golden);
        assert_eq!(client.receive().await.unwrap().tag, tag::AUTHENTICATION);
    }
}

/// The salt that a router sends for a user.
async fn salt(address: SocketAddr, user: &str) -> String {
    let mut client = RawClient::connect(address).await.unwrap();
    client
        .send(|out| {
            let parameters = [("user", user), ("database", DATABASE)];
            frontend::put_startup(out, ProtocolVersion::V3_0, parameters);
        })
        .await
        .unwrap();
    client.receive().await.unwrap();
    let first = ClientExchange::new("", ChannelBinding::Unavailable).start();
    client
        .send(|out| frontend::put_sasl_initial(out, "SCRAM-SHA-256", Some(&first)))
        .await
        .unwrap();
    let challenge = client.receive().await.unwrap();
    let Authentication::SaslContinue(data) = Authentication::decode(challenge.body()).unwrap()
    else {
        panic!("{challenge:?}")
    };
    let text = String::from_utf8(data.to_vec()).unwrap();
    let salt = text.split(',').find(|part| part.starts_with("s=")).unwrap();
    salt.to_owned()
}

#[tokio::test]
async fn every_router_has_the_same_salt_for_a_role_that_does_not_exist() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |_| ()).await;
    let path = setup.fleet.secrets_path();
    let mut secrets = SecretsFile::load(&path).unwrap();
    let mut salts = Vec::new();
    // With the nonce, and in a file that was written before there was one.
    for nonce in [secrets.mock_authentication_nonce.clone(), None] {
        secrets.mock_authentication_nonce = nonce;
        secrets.save(&path).unwrap();
        let mut other = config(&setup.fleet);
        other.name = "another".to_owned();
        let other = start(other).await;
        let expected = salt(other.pg_addr, "nobody").await;
        until("the running router has read the file", async || {
            (salt(setup.address, "nobody").await == expected).then_some(())
        })
        .await;
        assert_ne!(salt(other.pg_addr, "somebody").await, expected);
        // And of a role that does exist.
        let real = salt(other.pg_addr, "shop").await;
        assert_eq!(salt(setup.address, "shop").await, real);
        other.stop().await;
        salts.push(expected);
    }
    assert_ne!(salts[0], salts[1]);
}
