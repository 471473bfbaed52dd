//! Messages of servers: what is built reads back, and what is malformed is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::{MessageError, frame::Message, frontend::Format, tag::backend as tag};

fn message(put: impl FnOnce(&mut BytesMut)) -> Message {
    let mut out = BytesMut::new();
    put(&mut out);
    let message = Message::take(&mut out, usize::MAX).unwrap().unwrap();
    assert!(out.is_empty(), "exactly one message");
    message
}

/// What PostgreSQL 15 answers to `select 1/0`.
const DIVISION: &[u8] = b"SERROR\0VERROR\0C22012\0Mdivision by zero\0Fint.c\0L841\0Rint4div\0\0";

#[test]
fn a_captured_error_is_read_and_written_again() {
    let fields = ErrorFields::decode(DIVISION).unwrap();
    assert_eq!(fields.severity, Severity::Error);
    assert_eq!(
        (fields.code.as_str(), fields.message.as_str()),
        ("22012", "division by zero")
    );
    assert_eq!(fields.routine.as_deref(), Some("int4div"));
    assert_eq!(error_code(DIVISION), Some(&b"22012"[..]));
    assert_eq!(fields.to_string(), "ERROR: division by zero (22012)");
    assert_eq!(message(|out| put_error(out, &fields)).body(), DIVISION);
}

#[test]
fn unknown_fields_and_translated_severities_are_kept() {
    let body = b"SFEHLER\0VERROR\0C23505\0Mx\0D(a)\0spublic\0tt\0nkey\0Zlater\0\0";
    let fields = ErrorFields::decode(body).unwrap();
    assert_eq!(fields.localised_severity.as_deref(), Some("FEHLER"));
    assert_eq!(fields.others.len(), 4);
    assert_eq!(
        ErrorFields::decode(message(|out| put_error(out, &fields)).body()).unwrap(),
        fields
    );
}

#[test]
fn our_errors_carry_hint_and_routine() {
    let fields = ErrorFields::error("42704", "no tenant is bound")
        .with_detail("d")
        .with_hint("SET tenantry.tenant = '...'")
        .with_routine("TENANT_UNBOUND");
    let sent = message(|out| put_error(out, &fields));
    assert_eq!(sent.tag, tag::ERROR);
    assert_eq!(
        sent.body(),
        b"SERROR\0VERROR\0C42704\0Mno tenant is bound\0Dd\0HSET tenantry.tenant = '...'\0RTENANT_UNBOUND\0\0"
    );
}

#[test]
fn truncated_errors_are_errors() {
    assert_eq!(
        ErrorFields::decode(b"SERROR\0C22012"),
        Err(MessageError::UnterminatedString)
    );
    assert_eq!(
        ErrorFields::decode(b"SERROR\0"),
        Err(MessageError::Truncated)
    );
    assert_eq!(
        ErrorFields::decode(b"\0x"),
        Err(MessageError::TrailingBytes)
    );
    assert_eq!(error_code(b"SERROR\0"), None);
}

#[test]
fn authentication_messages_survive_the_round_trip() {
    let read = |put: &dyn Fn(&mut BytesMut)| message(put).body().to_vec();
    assert_eq!(
        Authentication::decode(&read(&put_auth_ok)).unwrap(),
        Authentication::Ok
    );
    assert_eq!(
        Authentication::decode(&read(&|out| put_auth_sasl(
            out,
            &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
        )))
        .unwrap(),
        Authentication::Sasl(vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"])
    );
    assert_eq!(
        Authentication::decode(&read(&|out| put_auth_sasl_continue(out, b"r=x"))).unwrap(),
        Authentication::SaslContinue(b"r=x")
    );
    assert_eq!(
        Authentication::decode(&read(&|out| put_auth_sasl_final(out, b"v=x"))).unwrap(),
        Authentication::SaslFinal(b"v=x")
    );
    assert_eq!(
        Authentication::decode(b"\0\0\0\x05abcd").unwrap(),
        Authentication::Md5Password(*b"abcd")
    );
    assert_eq!(
        Authentication::decode(b"\0\0\0\x07").unwrap(),
        Authentication::Unsupported(7)
    );
    assert_eq!(
        Authentication::decode(b"\0\0\0\x63"),
        Err(MessageError::AuthenticationKind(99))
    );
    assert_eq!(
        Authentication::decode(b"\0\0\0\x0aX\0"),
        Err(MessageError::UnterminatedString)
    );
}

#[test]
fn session_messages_survive_the_round_trip() {
    let key = message(|out| put_backend_key_data(out, 7, b"0123456789"));
    assert_eq!(
        backend_key_data(key.body()).unwrap(),
        BackendKeyData {
            pid: 7,
            key: b"0123456789"
        }
    );
    assert!(backend_key_data(b"\0\0\0\x07abc").is_err());
    for status in [TxStatus::Idle, TxStatus::InTransaction, TxStatus::Failed] {
        assert_eq!(
            ready_for_query(message(|out| put_ready(out, status)).body()),
            Ok(status)
        );
    }
    assert_eq!(
        ready_for_query(b"X"),
        Err(MessageError::TransactionStatus(b'X'))
    );
    let status = message(|out| put_parameter_status(out, "TimeZone", "UTC"));
    assert_eq!(
        parameter_status(status.body()).unwrap(),
        ParameterStatus {
            name: b"TimeZone",
            value: b"UTC"
        }
    );
    let complete = message(|out| put_command_complete(out, "SELECT 1"));
    assert_eq!(command_complete(complete.body()), Ok(&b"SELECT 1"[..]));
    let notified = message(|out| put_notification(out, 3, "c", ""));
    assert_eq!(
        notification(notified.body()).unwrap(),
        Notification {
            pid: 3,
            channel: b"c",
            payload: b""
        }
    );
    let negotiated = message(|out| put_negotiate_protocol_version(out, 2, &["_pq_.a"]));
    assert_eq!(negotiated.body(), b"\0\x03\0\x02\0\0\0\x01_pq_.a\0");
    assert_eq!(
        negotiate_protocol_version(negotiated.body()),
        Ok((2, vec![&b"_pq_.a"[..]]))
    );
    let copy = message(|out| put_copy_in(out, Format::Text, &[Format::Text, Format::Binary]));
    assert_eq!(copy.tag, tag::COPY_IN);
    assert_eq!(
        copy_response(copy.body()).unwrap().columns,
        [Format::Text, Format::Binary]
    );
}

#[test]
fn bodyless_messages_are_five_bytes() {
    for (put, tag) in [
        (put_parse_complete as fn(&mut BytesMut), tag::PARSE_COMPLETE),
        (put_bind_complete, tag::BIND_COMPLETE),
        (put_close_complete, tag::CLOSE_COMPLETE),
        (put_no_data, tag::NO_DATA),
        (put_empty_query, tag::EMPTY_QUERY),
        (put_portal_suspended, tag::PORTAL_SUSPENDED),
        (put_copy_done, tag::COPY_DONE),
    ] {
        let mut out = BytesMut::new();
        put(&mut out);
        assert_eq!(&out[..], [tag, 0, 0, 0, 4]);
    }
}

#[test]
fn a_result_set_is_described_and_sent() {
    let described =
        message(|out| put_row_description(out, &[Column::text("tenant"), Column::bigint("n")]));
    let read = columns(described.body()).unwrap();
    assert_eq!(read, [Column::text("tenant"), Column::bigint("n")]);
    let row = message(|out| put_data_row(out, &[Some(b"7"), None]));
    assert_eq!(data_row(row.body()).unwrap(), [Some(&b"7"[..]), None]);
    let types = message(|out| put_parameter_description(out, &[20, 25]));
    assert_eq!(parameter_description(types.body()).unwrap(), [20, 25]);
}

#[test]
fn a_count_beyond_the_body_allocates_nothing_for_it() {
    assert_eq!(columns(b"\xff\xff"), Err(MessageError::UnterminatedString));
    assert_eq!(data_row(b"\xff\xff"), Err(MessageError::Truncated));
    assert_eq!(
        negotiate_protocol_version(b"\0\x03\0\0\x7f\xff\xff\xff"),
        Err(MessageError::UnterminatedString)
    );
}

proptest! {
    #[test]
    fn rows_survive_the_round_trip(
        values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)), 0..20),
    ) {
        let borrowed: Vec<_> = values.iter().map(Option::as_deref).collect();
        let row = message(|out| put_data_row(out, &borrowed));
        prop_assert_eq!(data_row(row.body()).unwrap(), borrowed);
    }

    #[test]
    fn no_body_makes_a_parser_panic(body: Vec<u8>) {
        let _ = Authentication::decode(&body);
        let _ = ErrorFields::decode(&body);
        let _ = error_code(&body);
        let _ = columns(&body);
        let _ = data_row(&body);
        let _ = parameter_description(&body);
        let _ = parameter_status(&body);
        let _ = backend_key_data(&body);
        let _ = ready_for_query(&body);
        let _ = command_complete(&body);
        let _ = notification(&body);
        let _ = copy_response(&body);
        let _ = negotiate_protocol_version(&body);
    }
}
