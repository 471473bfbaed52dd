//! The first messages of a connection: as clients send them, in pieces, and wrong.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::frontend::{put_cancel_request, put_gssenc_request, put_ssl_request, put_startup};

/// As `psql "host=::1 user=shop dbname=fleet options='-c tenantry.tenant=7'"` sends it.
const PSQL: &[u8] =
    b"\0\0\0\x77\0\x03\0\0user\0shop\0database\0fleet\0options\0-c tenantry.tenant=7\0\
    application_name\0psql\0client_encoding\0UTF8\0\0";

fn packet(put: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    put(&mut out);
    out.to_vec()
}

fn startup_of(version: ProtocolVersion, parameters: &[(&str, &str)]) -> Vec<u8> {
    packet(|out| put_startup(out, version, parameters.iter().copied()))
}

#[test]
fn a_captured_startup_is_read() {
    let mut captured = PSQL.to_vec();
    let len = u32::try_from(captured.len()).unwrap();
    captured[..4].copy_from_slice(&len.to_be_bytes());
    let (request, consumed) = decode(&captured).unwrap().unwrap();
    let InitialRequest::Startup(params) = request else {
        panic!("{request:?}")
    };
    assert_eq!(consumed, captured.len());
    assert_eq!(params.version, ProtocolVersion::V3_0);
    assert_eq!(
        (params.user(), params.database()),
        (Some("shop"), Some("fleet"))
    );
    assert_eq!(params.parameter("options"), Some("-c tenantry.tenant=7"));
    assert_eq!(params.parameters.len(), 5);
}

#[test]
fn the_last_of_equal_parameters_counts_and_the_database_defaults_to_the_user() {
    let bytes = startup_of(
        ProtocolVersion::V3_0,
        &[("user", "a"), ("user", "b"), ("database", "")],
    );
    let Some((InitialRequest::Startup(params), _)) = decode(&bytes).unwrap() else {
        panic!()
    };
    assert_eq!((params.user(), params.database()), (Some("b"), Some("b")));
}

#[test]
fn garbage_is_refused_at_once() {
    for garbage in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x16\x03\x01\x02\0\x01",
        b"\0\0\0\x07",
        b"\0\0\x27\x15",
        b"\xff\xff\xff\xff",
    ] {
        let error = decode(garbage).unwrap_err();
        assert!(matches!(error, StartupError::Length(_)), "{garbage:?}");
        assert!(!error.peer_speaks_postgres());
    }
    assert_eq!(
        decode(b"\0\0\x27\x14"),
        Ok(None),
        "10,004 bytes are allowed"
    );
}

#[test]
fn layouts_and_versions_are_checked() {
    let unsupported = decode(b"\0\0\0\x08\0\x02\0\0").unwrap_err();
    assert_eq!(unsupported.sqlstate(), "0A000");
    assert_eq!(
        unsupported.to_string(),
        "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
    );
    for layout in [
        &b"\0\0\0\x08\0\x03\0\0"[..],
        b"\0\0\0\x0a\0\x03\0\0a\0",
        b"\0\0\0\x0a\0\x03\0\0\0\0",
        b"\0\0\0\x0b\0\x03\0\0a\0b",
    ] {
        assert_eq!(decode(layout), Err(StartupError::Layout), "{layout:?}");
    }
    assert_eq!(
        decode(b"\0\0\0\x0d\0\x03\0\0a\0\xff\0\0"),
        Err(StartupError::NotUtf8)
    );
}

#[test]
fn cancel_keys_have_4_to_256_bytes() {
    let key = |len: usize| packet(|out| put_cancel_request(out, 77, &vec![9; len]));
    for len in [4, 32, 256] {
        let Some((InitialRequest::Cancel(cancel), _)) = decode(&key(len)).unwrap() else {
            panic!()
        };
        assert_eq!((cancel.pid, cancel.key.len()), (77, len));
        assert!(
            !format!("{cancel:?}").contains('9'),
            "the secret stays out of logs"
        );
    }
    for len in [0, 3, 257] {
        assert_eq!(decode(&key(len)).unwrap_err().sqlstate(), "08P01");
    }
}

#[test]
fn encryption_is_asked_for_once_each() {
    let ssl = packet(put_ssl_request);
    let gss = packet(put_gssenc_request);
    let refused = |state: Handshake, bytes: &[u8]| match state.handle(bytes).unwrap() {
        Progress::Reply {
            reply: b'N',
            consumed: 8,
            next,
        } => next,
        other => panic!("{other:?}"),
    };
    let state = refused(Handshake::new(Encryption::Unavailable), &gss);
    let state = refused(state, &ssl);
    let error = state.handle(&ssl).unwrap_err();
    assert_eq!(error, HandshakeError::RepeatedRequest("SSL"));

    let state = refused(Handshake::new(Encryption::Available), &gss);
    let Progress::StartTls {
        reply: b'S', next, ..
    } = state.handle(&ssl).unwrap()
    else {
        panic!()
    };
    assert!(matches!(
        next.handle(&ssl),
        Err(HandshakeError::RepeatedRequest("SSL"))
    ));
}

#[test]
fn plaintext_behind_a_request_for_encryption_is_refused() {
    for encryption in [Encryption::Available, Encryption::Unavailable] {
        let mut bytes = packet(put_ssl_request);
        bytes.extend_from_slice(&startup_of(ProtocolVersion::V3_0, &[("user", "a")]));
        let error = Handshake::new(encryption).handle(&bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "received unencrypted data after SSL request"
        );
        assert_eq!(error.sqlstate(), "08P01");
    }
}

#[test]
fn direct_tls_is_recognised_only_where_tls_is_and_first() {
    let hello = b"\x16\x03\x01\x02\0\x01\0";
    let state = Handshake::new(Encryption::Available);
    assert!(matches!(
        state.handle(hello),
        Ok(Progress::DirectTls { .. })
    ));
    assert!(
        Handshake::new(Encryption::Unavailable)
            .handle(hello)
            .is_err()
    );
    assert!(
        Handshake::new(Encryption::Established)
            .handle(hello)
            .is_err()
    );
}

/// The bytes of protocol 3.2 as "Message Formats" of PostgreSQL 18 lays them out.
#[test]
fn protocol_3_2_is_written_and_read_as_documented() {
    let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());

    let startup = b"\0\0\0\x10\0\x03\0\x02user\0a\0\0";
    let Some((InitialRequest::Startup(params), _)) = decode(startup).unwrap() else {
        panic!("no startup message")
    };
    assert_eq!(params.version, ProtocolVersion::V3_2);
    assert_eq!(startup_of(ProtocolVersion::V3_2, &[("user", "a")]), startup);

    let key_data = [&b"K\0\0\0\x28\x12\x34\x56\x78"[..], &key].concat();
    let put = packet(|out| crate::backend::put_backend_key_data(out, 0x1234_5678, &key));
    assert_eq!(put, key_data);

    let cancel = [&b"\0\0\0\x2c\x04\xd2\x16\x2e\x12\x34\x56\x78"[..], &key].concat();
    assert_eq!(
        packet(|out| put_cancel_request(out, 0x1234_5678, &key)),
        cancel
    );
    let expected = CancelKey {
        pid: 0x1234_5678,
        key: key.to_vec(),
    };
    assert_eq!(
        decode(&cancel).unwrap(),
        Some((InitialRequest::Cancel(expected), cancel.len()))
    );

    let negotiation = b"v\0\0\0\x18\0\x03\0\x02\0\0\0\x01_pq_.test_1\0";
    let put =
        packet(|out| crate::backend::put_negotiate_protocol_version(out, 2, &["_pq_.test_1"]));
    assert_eq!(put, negotiation);
}

#[test]
fn newer_versions_and_unknown_options_are_negotiated() {
    let accepted = |version, parameters: &[(&str, &str)]| {
        let bytes = startup_of(version, parameters);
        match Handshake::new(Encryption::Unavailable)
            .handle(&bytes)
            .unwrap()
        {
            Progress::Startup { accepted, consumed } if consumed == bytes.len() => accepted,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        accepted(ProtocolVersion::V3_0, &[("user", "a")]).negotiation,
        None
    );
    assert_eq!(
        accepted(ProtocolVersion::V3_2, &[("user", "a")]).negotiation,
        None
    );
    let grease = accepted(
        ProtocolVersion {
            major: 3,
            minor: 9999,
        },
        &[("user", "a"), ("_pq_.grease", "1")],
    );
    assert_eq!(grease.version, ProtocolVersion::V3_2);
    assert_eq!(grease.params.parameters.len(), 1);
    let told = Negotiation {
        newest_minor: 2,
        unrecognised: vec!["_pq_.grease".to_owned()],
    };
    assert_eq!(grease.negotiation, Some(told));
    let option = accepted(ProtocolVersion::V3_0, &[("user", "a"), ("_pq_.x", "")]);
    assert_eq!(option.negotiation.map(|told| told.newest_minor), Some(0));
}

#[test]
fn options_follow_the_escapes_of_postgresql() {
    let parsed = |text| parse_options(text).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        parsed("-c tenantry.tenant=7"),
        [pair("tenantry.tenant", "7")]
    );
    assert_eq!(
        parsed("  -cgeqo=off\t--search-path=a\\ b,\\\\c --x=-y -c my-ext.name=a-b=c "),
        [
            pair("geqo", "off"),
            pair("search_path", "a b,\\c"),
            pair("x", "-y"),
            pair("my_ext.name", "a-b=c")
        ]
    );
    assert_eq!(parsed("-c a="), [pair("a", "")]);
    assert_eq!(parsed("-c a=b\\"), [pair("a", "b")]);
    assert_eq!(parsed(""), []);
    assert_eq!(parsed("--"), []);
}

#[test]
fn options_that_set_nothing_are_refused() {
    let message = |text| parse_options(text).unwrap_err().to_string();
    assert_eq!(message("-c geqo"), "-c geqo requires a value");
    assert_eq!(message("--geqo"), "--geqo requires a value");
    assert_eq!(
        message("-c"),
        "invalid command-line argument for server process: -c"
    );
    assert_eq!(
        message("-e"),
        "invalid command-line argument for server process: -e"
    );
    assert_eq!(
        message("-- x"),
        "invalid command-line argument for server process: --"
    );
    assert_eq!(
        message("geqo=on"),
        "invalid command-line argument for server process: geqo=on"
    );
}

proptest! {
    #[test]
    fn startup_survives_the_round_trip(
        pairs in proptest::collection::vec(("[a-z_.]{1,12}", "[^\\x00]{0,20}"), 0..8),
        minor: u16,
    ) {
        let version = ProtocolVersion { major: 3, minor };
        let bytes = packet(|out| put_startup(out, version, pairs.iter().map(|(name, value)| (name, value))));
        let Some((InitialRequest::Startup(params), consumed)) = decode(&bytes).unwrap() else { panic!() };
        prop_assert_eq!(consumed, bytes.len());
        prop_assert_eq!(params.version, version);
        let (options, parameters): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| name.starts_with("_pq_."));
        prop_assert_eq!(params.parameters, parameters);
        prop_assert_eq!(params.protocol_options, options);
    }

    #[test]
    fn escaped_options_mean_the_text_they_escape(values in proptest::collection::vec("[^\\x00]{0,20}", 0..5)) {
        let escape = |value: &str| value.chars().flat_map(|c| ['\\', c]).collect::<String>();
        let options: Vec<_> = values.iter().map(|value| format!("-c a.b={}", escape(value))).collect();
        let parsed = parse_options(&options.join(" ")).unwrap();
        prop_assert_eq!(parsed.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), values);
    }

    #[test]
    fn no_bytes_make_the_handshake_panic(bytes: Vec<u8>, available: bool) {
        let encryption = if available { Encryption::Available } else { Encryption::Unavailable };
        let _ = Handshake::new(encryption).handle(&bytes);
    }
}
