//! What clients must not send, and what a router must refuse: every refusal has its documented code, its name and a
//! hint, and leaves nothing behind.

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
use common::probe::{assert_fields, assert_refused, until};
use common::{DATABASE, PASSWORD, Setup, config, setup, setup_with, start};
use tenantry_cluster::StopMode;
use tenantry_schema::fleet::RoleKind;
use tenantry_schema::shard::ShardState;
use tenantry_testkit::{Fleet, Login, RawClient, RawError, error_of, rows_of, send_cancel};
use tenantry_wire::backend::{Authentication, ErrorFields};
use tenantry_wire::frontend::{self, Format, TargetKind};
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

fn message(letter: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![letter];
    out.put_u32(length);
    out.put_slice(body);
    out
}

/// A message with the right length.
fn whole(letter: u8, body: &[u8]) -> Vec<u8> {
    message(letter, u32::try_from(body.len()).unwrap() + 4, body)
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

/// The session is in a transaction that holds a lock: whatever it sends, the transaction must be gone afterwards.
#[tokio::test]
async fn malformed_messages_end_the_session_and_its_transaction() {
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
        whole(b'Q', b"SELECT 1"),
        whole(b'Q', b"SELECT 1\0\0"),
        whole(b'P', b"\0SELECT 1"),
        whole(b'P', b"\0SELECT 1\0\0\x09"),
        whole(b'D', b"Qname\0"),
        whole(b'E', b"\0\0"),
        whole(b'C', b"S"),
        whole(b'p', b"password\0"),
    ] {
        let mut client = setup.raw_for(0).await;
        let locked = client
            .query("BEGIN; UPDATE events SET subject = 'torn' WHERE id = 1")
            .await
            .unwrap();
        assert_eq!(error_of(&locked), None);
        client.send_bytes(&bytes).await.unwrap();
        // One that is wrong inside may leave the session usable; the framing is intact.
        let mut after = client.until_ready().await.unwrap();
        if !after.iter().any(|message| message.tag == tag::ERROR) {
            after.extend(client.query("SELECT 1").await.unwrap());
        }
        assert_refused(&after, "08P01", "PROTOCOL_VIOLATION");
        drop(client);
        setup.nothing_leaked(0).await;
    }
    let mut client = setup.raw_for(0).await;
    let rows = rows_of(&client.query("SELECT subject FROM events").await.unwrap());
    assert_eq!(rows, vec![vec![Some("test".to_owned())]]);
    // Parameters are PostgreSQL's to read: it refuses, and the session goes on behind Sync.
    let bind = whole(b'B', b"\0\0\0\0\xff\xff");
    let parse = whole(b'P', b"\0SELECT 1\0\0\0");
    client
        .send_bytes(&[parse, bind, whole(b'S', b"")].concat())
        .await
        .unwrap();
    let refused = client.until_ready().await.unwrap();
    assert_eq!(error_of(&refused).unwrap().code, "08P01");
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
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
    let medians: Vec<Duration> = times
        .iter_mut()
        .map(|times| {
            times.sort_unstable();
            times[times.len() / 2]
        })
        .collect();
    println!("medians of {users:?}: {medians:?}");
    let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
    assert!(*most < *least * 3, "{medians:?}");
    let count = setup
        .metric("login_failures_total", "AUTHENTICATION_FAILED")
        .await;
    assert!(count >= 240.0, "{count}");
    setup.nothing_leaked(0).await;
}

async fn refused_login(setup: &Setup, login: &Login) -> ErrorFields {
    match RawClient::login(setup.address, login).await {
        Err(RawError::Refused(fields)) => *fields,
        other => panic!("{other:?}"),
    }
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
