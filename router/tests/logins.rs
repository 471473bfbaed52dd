//! What must not become a session: malformed packets, strangers, and tenants or settings that the role may not have.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use common::probe::{assert_fields, message, refused_login, until, whole};
use common::{DATABASE, PASSWORD, Setup, setup, setup_with};
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, Login, RawClient, RawError, error_of, rows_of};
use tenantry_wire::backend::{Authentication, ErrorFields};
use tenantry_wire::frontend;
use tenantry_wire::scram::{ChannelBinding, ClientExchange, Step};
use tenantry_wire::startup::ProtocolVersion;
use tenantry_wire::tag::backend as tag;

/// A startup packet with this length field (0: the right one), version and body.
fn packet(length: u32, version: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let right = u32::try_from(body.len()).unwrap() + 8;
    out.put_u32(if length == 0 { right } else { length });
    out.put_u32(version);
    out.put_slice(body);
    out
}

/// What comes back until the router closes.
async fn last_words(setup: &Setup, bytes: &[u8]) -> Option<ErrorFields> {
    let mut client = RawClient::connect(setup.address).await.unwrap();
    client.send_bytes(bytes).await.unwrap();
    error_of(&client.until_closed().await.unwrap())
}

#[tokio::test]
async fn malformed_startup_packets_are_refused() {
    let setup = setup().await;
    const V3: u32 = 3 << 16;
    let long = [b"user\0".to_vec(), vec![b'x'; 9_990], b"\0\0".to_vec()].concat();
    // Whoever sends such a length does not speak the protocol and gets no answer, as from PostgreSQL.
    let silent: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        packet(4, V3, b""),
        packet(7, V3, b""),
        packet(0xffff_ffff, V3, b"user\0shop\0\0"),
        packet(0x8000_0000, V3, b""),
        packet(0, V3, &long),
    ];
    for bytes in silent {
        assert_eq!(last_words(&setup, &bytes).await, None, "{bytes:?}");
    }
    for (code, bytes) in [
        ("0A000", packet(0, 2 << 16, b"user\0shop\0\0")),
        ("0A000", packet(0, 4 << 16, b"user\0shop\0\0")),
        ("08P01", packet(0, V3, b"")),
        ("08P01", packet(0, V3, b"user\0shop")),
        ("08P01", packet(0, V3, b"user\0shop\0")),
        ("08P01", packet(0, V3, b"user\0\0\0more\0")),
        ("22021", packet(0, V3, b"user\0sh\xffop\0\0")),
        ("28000", packet(0, V3, b"\0")),
        ("28000", packet(0, V3, b"user\0\0\0")),
        (
            "42601",
            packet(0, V3, b"user\0shop\0database\0shop\0options\0-c x\0\0"),
        ),
        ("08P01", packet(0, (1234 << 16) | 5679, b"more")),
        ("08P01", packet(0, (1234 << 16) | 5680, b"more")),
        ("08P01", packet(0, (1234 << 16) | 5678, b"")),
    ] {
        let error = last_words(&setup, &bytes).await.unwrap();
        assert_fields(&error, code, "STARTUP_INVALID");
    }
    // Half a packet, then nothing.
    for cut in [1, 4, 9] {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        client
            .send_bytes(&packet(0, V3, b"user\0shop\0\0")[..cut])
            .await
            .unwrap();
    }
    setup.raw().await.query("SELECT 1").await.unwrap();
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn encryption_is_asked_for_once_and_before_anything_else() {
    let setup = setup().await;
    type Put = fn(&mut BytesMut);
    let (ssl, gss): (Put, Put) = (frontend::put_ssl_request, frontend::put_gssenc_request);
    for order in [vec![ssl], vec![gss], vec![ssl, gss], vec![gss, ssl]] {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        for request in order {
            client.send(request).await.unwrap();
            assert_eq!(client.receive_byte().await.unwrap(), b'N');
        }
        client
            .start_session(ProtocolVersion::V3_0, &setup.login("shop"))
            .await
            .unwrap();
    }
    for request in [ssl, gss] {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        client.send(request).await.unwrap();
        assert_eq!(client.receive_byte().await.unwrap(), b'N');
        client.send(request).await.unwrap();
        let error = error_of(&client.until_closed().await.unwrap()).unwrap();
        assert_fields(&error, "08P01", "STARTUP_INVALID");

        // A startup packet in the same write could have been put there by somebody in between.
        let mut client = RawClient::connect(setup.address).await.unwrap();
        client
            .send(|out| {
                request(out);
                frontend::put_startup(out, ProtocolVersion::V3_0, [("user", "shop")]);
            })
            .await
            .unwrap();
        let error = error_of(&client.until_closed().await.unwrap()).unwrap();
        assert_fields(&error, "08P01", "STARTUP_INVALID");
    }
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_newer_minor_version_and_unknown_protocol_options_are_negotiated() {
    let setup = setup().await;
    let mut client = RawClient::connect(setup.address).await.unwrap();
    let login = setup.login("shop").parameter("_pq_.teleport", "on");
    let version = ProtocolVersion { major: 3, minor: 9 };
    client.start_session(version, &login).await.unwrap();
    assert_eq!(
        rows_of(&client.query("SHOW tenantry.tenant").await.unwrap()),
        vec![vec![Some(String::new())]]
    );
}

#[tokio::test]
async fn malformed_logins_are_refused() {
    let setup = setup().await;
    let started = async || {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        client
            .send(|out| {
                let parameters = [("user", "shop"), ("database", DATABASE)];
                frontend::put_startup(out, ProtocolVersion::V3_0, parameters);
            })
            .await
            .unwrap();
        assert_eq!(client.receive().await.unwrap().tag, tag::AUTHENTICATION);
        client
    };
    let mut sasl = BytesMut::new();
    frontend::put_sasl_initial(&mut sasl, "SCRAM-SHA-1", Some(b"n,,n=,r=x"));
    let mut plus = BytesMut::new();
    frontend::put_sasl_initial(
        &mut plus,
        "SCRAM-SHA-256-PLUS",
        Some(b"p=tls-unique,,n=,r=x"),
    );
    let mut nonsense = BytesMut::new();
    frontend::put_sasl_initial(&mut nonsense, "SCRAM-SHA-256", Some(b"\xff\0\xff"));
    for (code, name, bytes) in [
        ("08P01", "PROTOCOL_VIOLATION", whole(b'Q', b"SELECT 1\0")),
        ("08P01", "PROTOCOL_VIOLATION", whole(b'z', b"")),
        ("08P01", "PROTOCOL_VIOLATION", message(b'p', 3, b"")),
        ("08P01", "PROTOCOL_VIOLATION", message(b'p', 70_000, b"")),
        (
            "08P01",
            "PROTOCOL_VIOLATION",
            message(b'p', 0x7fff_ffff, b""),
        ),
        ("08P01", "PROTOCOL_VIOLATION", whole(b'p', b"")),
        (
            "08P01",
            "PROTOCOL_VIOLATION",
            whole(b'p', b"SCRAM-SHA-256\0\0\0\xff\xffn"),
        ),
        ("08P01", "PROTOCOL_VIOLATION", sasl.to_vec()),
        ("08P01", "PROTOCOL_VIOLATION", plus.to_vec()),
        ("28P01", "AUTHENTICATION_FAILED", nonsense.to_vec()),
    ] {
        let mut client = started().await;
        client.send_bytes(&bytes).await.unwrap();
        let error = error_of(&client.until_closed().await.unwrap()).unwrap();
        assert_fields(&error, code, name);
    }
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_login_that_does_not_end_is_cut_off() {
    let builder = Fleet::builder().shards(1).tenants(1);
    let setup = setup_with(builder, |config| {
        config.timeouts.login = Duration::from_millis(500);
    })
    .await;
    let startup = packet(0, 3 << 16, b"user\0shop\0database\0shop\0\0");
    let mut waiting = Vec::new();
    for bytes in [b"".as_slice(), &startup[..5], &startup] {
        let mut client = RawClient::connect(setup.address).await.unwrap();
        client.send_bytes(bytes).await.unwrap();
        waiting.push(client);
    }
    for mut client in waiting {
        client.until_closed().await.unwrap();
    }
    until("all are counted", async || {
        let cut = setup.metric("login_failures_total", "LOGIN_TIMEOUT").await;
        (cut >= 3.0).then_some(())
    })
    .await;
    setup.raw().await.query("SELECT 1").await.unwrap();
    setup.nothing_leaked(0).await;
}

/// How an attempt to log in looks from outside.
struct Attempt {
    /// The server's first SCRAM message without the nonce: salt and iterations.
    challenge: String,
    error: ErrorFields,
    /// From the last message of the client to the refusal.
    answered: Duration,
}

async fn attempt(setup: &Setup, user: &str, password: &str) -> Attempt {
    let mut client = RawClient::connect(setup.address).await.unwrap();
    client
        .send(|out| {
            let parameters = [("user", user), ("database", DATABASE)];
            frontend::put_startup(out, ProtocolVersion::V3_0, parameters);
        })
        .await
        .unwrap();
    client.receive().await.unwrap();
    let mut exchange = ClientExchange::new(password, ChannelBinding::Unavailable);
    let first = exchange.start();
    client
        .send(|out| frontend::put_sasl_initial(out, "SCRAM-SHA-256", Some(&first)))
        .await
        .unwrap();
    let challenge = client.receive().await.unwrap();
    let Authentication::SaslContinue(data) = Authentication::decode(challenge.body()).unwrap()
    else {
        panic!("{challenge:?}")
    };
    let Step::Continue(proof) = exchange.step(data) else {
        panic!("no proof")
    };
    let text = String::from_utf8(data.to_vec()).unwrap();
    let sent = Instant::now();
    client
        .send(|out| frontend::put_sasl_response(out, &proof))
        .await
        .unwrap();
    let last = client.receive().await.unwrap();
    let answered = sent.elapsed();
    let mut error = error_of(&[last]).unwrap();
    error.message = error.message.replace(user, "USER");
    Attempt {
        challenge: text.split_once(",s=").unwrap().1.to_owned(),
        error,
        answered,
    }
}

#[tokio::test]
async fn nobody_can_tell_an_unknown_tenant_from_a_wrong_password() {
    let setup = setup().await;
    let known = format!("shop.{}", setup.id(0));
    let users = [
        (known.as_str(), "wrong"),
        ("shop.999999", PASSWORD),
        ("shop.no-such-store", PASSWORD),
        ("shop.no.such.host", PASSWORD),
        ("nobody", PASSWORD),
        ("nobody.1", PASSWORD),
    ];
    const ROUNDS: usize = 40;
    let mut times = vec![Vec::new(); users.len()];
    let reference = attempt(&setup, "shop", "wrong").await;
    assert_fields(&reference.error, "28P01", "AUTHENTICATION_FAILED");
    let stranger = attempt(&setup, "nobody.2", "wrong").await;
    for _ in 0..ROUNDS {
        for ((user, password), times) in users.iter().zip(&mut times) {
            let found = attempt(&setup, user, password).await;
            assert_eq!(found.error, reference.error, "{user}");
            // The salt is there before the password: it must not tell either.
            let expected = if user.starts_with("shop") {
                &reference
            } else {
                &stranger
            };
            assert_eq!(found.challenge, expected.challenge, "{user}");
            times.push(found.answered);
        }
    }
    // The fastest of each: what the work itself takes, whatever else the machine does meanwhile.
    let fastest: Vec<Duration> = times
        .iter()
        .map(|times| *times.iter().min().unwrap())
        .collect();
    println!("fastest of {users:?}: {fastest:?}");
    let (least, most) = (fastest.iter().min().unwrap(), fastest.iter().max().unwrap());
    assert!(*most < *least * 3, "{fastest:?}");
    let count = setup
        .metric("login_failures_total", "AUTHENTICATION_FAILED")
        .await;
    assert!(count >= 240.0, "{count}");
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn logins_that_must_not_become_sessions() {
    let setup = setup().await;
    let (one, two) = (setup.id(0), setup.id(1));
    let user = |user: String| Login::new(user, PASSWORD, DATABASE);
    let by_option = |login: Login| login.parameter("options", format!("-c tenantry.tenant={two}"));
    for (login, code, name) in [
        (user(format!("store1.{two}")), "28000", "TENANT_NOT_ALLOWED"),
        (
            by_option(user("store1".to_owned())),
            "28000",
            "TENANT_NOT_ALLOWED",
        ),
        (
            by_option(user(format!("shop.{one}"))),
            "28000",
            "TENANT_SOURCES_DISAGREE",
        ),
        (
            by_option(user(format!("store1.{one}"))),
            "28000",
            "TENANT_SOURCES_DISAGREE",
        ),
        (
            Login::new(format!("shop.{one}"), PASSWORD, format!("{DATABASE}/{two}")),
            "28000",
            "TENANT_SOURCES_DISAGREE",
        ),
        (
            Login::new("shop", PASSWORD, "elsewhere"),
            "28000",
            "DATABASE_UNKNOWN",
        ),
        (
            Login::new("shop", PASSWORD, format!("{DATABASE}/no-such-store")),
            "28P01",
            "AUTHENTICATION_FAILED",
        ),
        (
            setup.login("shop").parameter("replication", "true"),
            "0A000",
            "UNSUPPORTED",
        ),
        (
            setup.login("shop").parameter("role", "tenantry_agent"),
            "42501",
            "NOT_PERMITTED",
        ),
        (
            setup.login("shop").parameter("tenantry.shard", "s1"),
            "42704",
            "SETTING_UNKNOWN",
        ),
    ] {
        let error = refused_login(&setup, &login).await;
        assert_fields(&error, code, name);
    }
    // A setting that PostgreSQL refuses is refused in its words.
    let login = setup.login("shop").parameter("work_mem", "much");
    assert_eq!(refused_login(&setup, &login).await.code, "22023");
    // Sources that agree are no conflict, whatever form the name has.
    let slug = setup.tenant(1).slug.to_string();
    let login = by_option(user(format!("shop.{slug}")));
    RawClient::login(setup.address, &login).await.unwrap();
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_role_that_changed_is_another_one_at_the_next_login() {
    let setup = setup().await;
    let login = setup.login("shop");
    RawClient::login(setup.address, &login).await.unwrap();
    setup
        .fleet
        .add_role("shop", "another", RoleKind::Service, Vec::new())
        .await
        .unwrap();
    let error = until(
        "the old password is refused",
        async || match RawClient::login(setup.address, &login).await {
            Err(RawError::Refused(error)) => Some(error),
            _ => None,
        },
    )
    .await;
    assert_fields(&error, "28P01", "AUTHENTICATION_FAILED");
    RawClient::login(setup.address, &Login::new("shop", "another", DATABASE))
        .await
        .unwrap();
    setup.nothing_leaked(0).await;
}
