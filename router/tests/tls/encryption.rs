//! How a connection becomes encrypted, and what is refused on the way.

use std::sync::Arc;
use std::time::Duration;

use tenantry_router::config::ClientSslMode;
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::tls::Authority;
use tenantry_testkit::{RawClient, RawError, error_of, rows_of};
use tenantry_wire::backend::Authentication;
use tenantry_wire::frontend;
use tenantry_wire::scram::{ChannelBinding, ClientExchange, Step};
use tenantry_wire::startup::ProtocolVersion;
use tenantry_wire::tag::backend as tag;

use super::common::probe::{assert_fields, assert_refused, refused_login, until};
use super::common::{DATABASE, PASSWORD};
use super::{NAME, Stage};

const LONG: &str = "SELECT pg_sleep(60)";

#[tokio::test]
async fn libpq_verifies_the_router_and_binds_the_channel() {
    // The hash of a binding is that of the authority's signature.
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ] {
        let authority = Authority::signing_with(algorithm).unwrap();
        let stage = Stage::with(ClientSslMode::Require, authority, |_| ()).await;
        let root = stage.root_file();
        let verified = format!("sslmode=verify-full sslrootcert={root} channel_binding=require");
        let answer = stage.psql(&verified, "SELECT 40 + 2").await;
        assert_eq!(answer, (true, "42".to_owned()));
        let unbound = "sslmode=require channel_binding=disable";
        assert!(stage.psql(unbound, "SELECT 1").await.0);

        let stranger = Authority::new().unwrap();
        let wrong = stage.dir().join("wrong.crt");
        stranger.save(&wrong).unwrap();
        let wrong = format!("sslmode=verify-full sslrootcert={}", wrong.display());
        let (content, text) = stage.psql(&wrong, "SELECT 1").await;
        assert!(
            !content && text.contains("certificate verify failed"),
            "{text}"
        );
        stage.setup.nothing_leaked(0).await;
    }
}

/// RFC 5929 has no hash for Ed25519: binding is not on offer, and nobody is kept out for it.
#[tokio::test]
async fn a_certificate_that_cannot_be_bound_to_serves_without() {
    let authority = Authority::signing_with(&rcgen::PKCS_ED25519).unwrap();
    let stage = Stage::with(ClientSslMode::Require, authority, |_| ()).await;
    assert_eq!(
        stage.psql("sslmode=require", "SELECT 1").await,
        (true, "1".to_owned())
    );
    let binding = "sslmode=require channel_binding=require";
    assert!(!stage.psql(binding, "SELECT 1").await.0);
}

#[tokio::test]
async fn plaintext_is_refused_where_encryption_is_required() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let error = refused_login(&stage.setup, &stage.setup.login("shop")).await;
    assert_fields(&error, "28000", "TLS_REQUIRED");
    let (content, text) = stage.psql("sslmode=disable", "SELECT 1").await;
    assert!(
        !content && text.contains("encrypted sessions only"),
        "{text}"
    );
    // Of an unknown role nothing else is said.
    let error = refused_login(&stage.setup, &stage.setup.login("nobody")).await;
    assert_fields(&error, "28000", "TLS_REQUIRED");
    stage.login("shop").await;
}

#[tokio::test]
async fn the_client_decides_where_encryption_is_allowed() {
    let stage = Stage::new(ClientSslMode::Allow).await;
    stage.setup.raw().await.query("SELECT 1").await.unwrap();
    let mut client = stage.login("shop").await;
    let rows = rows_of(&client.query("SELECT 1").await.unwrap());
    assert_eq!(rows, vec![vec![Some("1".to_owned())]]);
    assert!(stage.setup.metric("tls_handshakes_total", "").await >= 1.0);
    assert!(
        stage
            .setup
            .metric("tls_certificate_not_after_timestamp_seconds", "")
            .await
            > 1e9
    );
}

#[tokio::test]
async fn bytes_that_overtake_the_answer_to_sslrequest_are_refused() {
    let stage = Stage::new(ClientSslMode::Allow).await;
    let mut client = RawClient::connect(stage.setup.address).await.unwrap();
    client
        .send(|out| {
            frontend::put_ssl_request(out);
            frontend::put_startup(out, ProtocolVersion::V3_0, [("user", "shop")]);
        })
        .await
        .unwrap();
    let messages = client.until_closed().await.unwrap();
    let error = assert_refused(&messages, "08P01", "STARTUP_INVALID");
    assert!(
        error.message.contains("unencrypted data after SSL"),
        "{error:?}"
    );

    // Once is enough, also inside of TLS.
    let mut client = stage.encrypted(&stage.trusting(), NAME).await;
    client.send(frontend::put_ssl_request).await.unwrap();
    let error = error_of(&client.until_closed().await.unwrap()).unwrap();
    assert_fields(&error, "08P01", "STARTUP_INVALID");
}

#[tokio::test]
async fn direct_tls_needs_the_protocols_name() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let named = stage.trusting();
    let mut config = (*named).clone();
    config.alpn_protocols = Vec::new();
    let nameless = Arc::new(config.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let other = Arc::new(config);
    let connect = || RawClient::connect(stage.setup.address);

    let mut client = connect()
        .await
        .unwrap()
        .handshake(&named, NAME)
        .await
        .unwrap();
    assert_eq!(
        client.tls().unwrap().alpn_protocol(),
        Some(&b"postgresql"[..])
    );
    client
        .start_session(ProtocolVersion::V3_0, &stage.setup.login("shop"))
        .await
        .unwrap();

    for config in [&nameless, &other] {
        let refused = connect().await.unwrap().handshake(config, NAME).await;
        assert!(matches!(refused, Err(RawError::Io(_))), "{refused:?}");
    }
    // After SSLRequest the name may be left out, and must be right if it is there.
    stage.encrypted(&nameless, NAME).await;
    let refused = connect().await.unwrap().encrypt(&other, NAME).await;
    assert!(matches!(refused, Err(RawError::Io(_))), "{refused:?}");
    until("all are counted", async || {
        let failed = stage
            .setup
            .metric("login_failures_total", "TLS_HANDSHAKE")
            .await;
        (failed >= 3.0).then_some(())
    })
    .await;
}

/// Sends SASLInitialResponse over TLS and answers until the end: the error, if one came.
async fn scram(
    stage: &Stage,
    mechanism: &str,
    binding: impl FnOnce(Vec<u8>) -> ChannelBinding,
) -> Option<tenantry_wire::backend::ErrorFields> {
    let mut client = stage.encrypted(&stage.trusting(), NAME).await;
    let der = client.tls().unwrap().peer_certificates().unwrap()[0].to_vec();
    let hash = sha256(&der);
    client
        .send(|out| {
            let parameters = [("user", "shop"), ("database", DATABASE)];
            frontend::put_startup(out, ProtocolVersion::V3_0, parameters);
        })
        .await
        .unwrap();
    let offer = client.receive().await.unwrap();
    let Authentication::Sasl(offered) = Authentication::decode(offer.body()).unwrap() else {
        panic!("{offer:?}")
    };
    assert_eq!(offered, [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
    let mut exchange = ClientExchange::new(PASSWORD, binding(hash));
    let first = exchange.start();
    client
        .send(|out| frontend::put_sasl_initial(out, mechanism, Some(&first)))
        .await
        .unwrap();
    loop {
        let message = client.receive().await.unwrap();
        if message.tag == tag::ERROR {
            return error_of(&[message]);
        }
        match Authentication::decode(message.body()).unwrap() {
            Authentication::SaslContinue(data) => {
                let Step::Continue(proof) = exchange.step(data) else {
                    panic!("no proof")
                };
                client
                    .send(|out| frontend::put_sasl_response(out, &proof))
                    .await
                    .unwrap();
            }
            Authentication::SaslFinal(data) => {
                assert!(matches!(exchange.step(data), Step::Success(_)))
            }
            Authentication::Ok => return None,
            other => panic!("{other:?}"),
        }
    }
}

fn sha256(der: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest(der).to_vec()
}

#[tokio::test]
async fn channel_binding_shows_who_sits_in_between() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let (plus, plain) = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256");
    assert_eq!(
        scram(&stage, plus, ChannelBinding::ServerEndPoint).await,
        None
    );
    assert_eq!(
        scram(&stage, plain, |_| ChannelBinding::Unavailable).await,
        None
    );
    // The hash of another certificate: TLS ends before the client.
    let error = scram(&stage, plus, |mut hash| {
        hash[0] ^= 1;
        ChannelBinding::ServerEndPoint(hash)
    });
    assert_fields(&error.await.unwrap(), "28000", "CHANNEL_BINDING");
    // A client that could bind and saw no offer: somebody took the offer away.
    let error = scram(&stage, plain, |_| ChannelBinding::Offered).await;
    assert_fields(&error.unwrap(), "28000", "CHANNEL_BINDING");
    // The wrong flag for the mechanism.
    let error = scram(&stage, plus, |_| ChannelBinding::Unavailable).await;
    assert_fields(&error.unwrap(), "28000", "CHANNEL_BINDING");
}

#[tokio::test]
async fn an_encrypted_session_is_cancelled_over_either_kind_of_connection() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let mut client = stage.login(&format!("shop.{}", stage.setup.id(0))).await;
    for encrypted in [true, false] {
        client
            .send(|out| frontend::put_query(out, LONG))
            .await
            .unwrap();
        until("the statement runs", async || {
            let busy = super::common::probe::busy_backends(stage.setup.fleet.shard(0));
            (busy.await.unwrap() == 1).then_some(())
        })
        .await;
        if encrypted {
            let (pid, key) = client.cancel_key().unwrap();
            let mut side = stage.encrypted(&stage.trusting(), NAME).await;
            side.send(|out| frontend::put_cancel_request(out, pid, key))
                .await
                .unwrap();
            // Closed with TLS's own goodbye: libpq takes anything else for a failure.
            let messages = side.until_closed().await.unwrap();
            assert!(messages.is_empty(), "{messages:?}");
        } else {
            // As libpq does before version 17.
            client.cancel().await.unwrap();
        }
        let error = error_of(&client.until_ready().await.unwrap()).unwrap();
        assert_eq!(error.code, "57014");
    }
    drop(client);
    stage.setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn much_travels_both_ways_at_once() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let mut client = stage.login(&format!("shop.{}", stage.setup.id(0))).await;
    let rows = client
        .query("SELECT n, repeat('x', 200) FROM generate_series(1, 50000) n")
        .await
        .unwrap();
    let rows = rows_of(&rows);
    assert_eq!(rows.len(), 50_000);
    assert!(
        rows.iter()
            .enumerate()
            .all(|(at, row)| row[0] == Some((at + 1).to_string()))
    );
    // A message larger than every buffer, and its like in return.
    let text = "y".repeat(3 << 20);
    let rows = client.query(&format!("SELECT '{text}'")).await.unwrap();
    assert_eq!(rows_of(&rows), vec![vec![Some(text)]]);
    // Many statements before the first answer is read.
    client
        .send(|out| (0..2000).for_each(|n| frontend::put_query(out, format!("SELECT {n}"))))
        .await
        .unwrap();
    for n in 0..2000 {
        let rows = rows_of(&client.until_ready().await.unwrap());
        assert_eq!(rows, vec![vec![Some(n.to_string())]]);
    }
}

#[tokio::test]
async fn a_slow_handshake_is_cut_off() {
    let stage = Stage::with(ClientSslMode::Allow, Authority::new().unwrap(), |config| {
        config.timeouts.login = Duration::from_millis(700);
    })
    .await;
    let connect = || async { RawClient::connect(stage.setup.address).await.unwrap() };
    let mut nothing_after_request = connect().await;
    nothing_after_request
        .send(frontend::put_ssl_request)
        .await
        .unwrap();
    assert_eq!(nothing_after_request.receive_byte().await.unwrap(), b'S');
    let mut half_a_hello = connect().await;
    half_a_hello
        .send_bytes(b"\x16\x03\x01\x02\x00\x01\x00")
        .await
        .unwrap();
    let mut nothing_inside = stage.encrypted(&stage.trusting(), NAME).await;
    for client in [
        &mut nothing_after_request,
        &mut half_a_hello,
        &mut nothing_inside,
    ] {
        match client.until_closed().await {
            Ok(messages) => assert!(messages.is_empty(), "{messages:?}"),
            // Without TLS's own goodbye.
            Err(RawError::Io(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    until("all are counted", async || {
        let cut = stage
            .setup
            .metric("login_failures_total", "LOGIN_TIMEOUT")
            .await;
        (cut >= 3.0).then_some(())
    })
    .await;
    assert_eq!(stage.setup.metric("clients_unauthenticated", "").await, 0.0);
}

#[tokio::test]
async fn an_operators_session_on_one_shard_is_encrypted_too() {
    let stage = Stage::new(ClientSslMode::Require).await;
    stage
        .setup
        .fleet
        .add_role("ops", PASSWORD, RoleKind::Operator, Vec::new())
        .await
        .unwrap();
    let shard = stage.setup.fleet.shard(0).name().to_string();
    let options = format!("sslmode=require channel_binding=require user=ops dbname=shard/{shard}");
    let much = "SELECT sum(length(repeat('x', n))) FROM generate_series(1, 1000) n";
    until("the router knows the role", async || {
        let (content, text) = stage.psql(&options, much).await;
        content.then(|| assert_eq!(text, "500500"))
    })
    .await;
    let (content, text) = stage.psql(&options, "SELECT repeat('y', 3000000)").await;
    assert!(content && text.len() == 3_000_000, "{}", text.len());
}
