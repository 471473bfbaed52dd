//! Messages of clients: what is built reads back, and what is malformed is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::frame::{HEAD_LEN, Message};

fn body(put: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    put(&mut out);
    let message = Message::take(&mut out, usize::MAX).unwrap().unwrap();
    assert!(out.is_empty(), "exactly one message");
    message.body().to_vec()
}

/// `select $1::int8` with a binary parameter, as psycopg 3 sends it.
#[test]
fn a_captured_extended_batch_is_read() {
    let parse = Parse::decode(b"\0select $1::int8\0\0\x01\0\0\0\x14").unwrap();
    assert_eq!(
        (parse.name, parse.text),
        (&b""[..], &b"select $1::int8"[..])
    );
    assert_eq!(parse.type_oids().collect::<Vec<_>>(), [20]);

    let bind =
        Bind::decode(b"\0\0\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x2a\0\x01\0\0").unwrap();
    let parameters: Vec<_> = bind.parameters().unwrap().map(Result::unwrap).collect();
    assert_eq!(
        parameters,
        [(Format::Binary, Some(&b"\0\0\0\0\0\0\0\x2a"[..]))]
    );
    assert_eq!(bind.result_formats().unwrap(), [Format::Text]);

    let describe = Describe::decode(b"P\0").unwrap();
    assert_eq!(describe.kind, TargetKind::Portal);
    let execute = Execute::decode(b"\0\0\0\0\0").unwrap();
    assert_eq!((execute.portal, execute.max_rows), (&b""[..], 0));
}

#[test]
fn malformed_bodies_are_named() {
    assert_eq!(
        query_text(b"select 1"),
        Err(MessageError::UnterminatedString)
    );
    assert_eq!(query_text(b"a\0b\0"), Err(MessageError::TrailingBytes));
    assert_eq!(
        Parse::decode(b"\0\0\0\x02\0\0\0\x14"),
        Err(MessageError::Truncated)
    );
    assert_eq!(Target::decode(b"X\0"), Err(MessageError::TargetKind(b'X')));
    assert_eq!(Execute::decode(b"\0\0\0"), Err(MessageError::Truncated));
    let two_formats_three_values = Bind::decode(b"\0\0\0\x02\0\0\0\0\0\x03").unwrap();
    assert!(matches!(
        two_formats_three_values.parameters(),
        Err(MessageError::FormatCount {
            formats: 2,
            values: 3
        })
    ));
    let negative = Bind::decode(b"\0\0\0\0\0\x01\xff\xff\xff\xfe").unwrap();
    let values: Vec<_> = negative.parameters().unwrap().collect();
    assert_eq!(values, [Err(MessageError::NegativeLength(-2))]);
}

#[test]
fn the_names_of_a_bind_are_read_before_its_parameters_arrive() {
    assert_eq!(BindHead::decode(b"portal\0state"), None);
    let head = BindHead::decode(b"portal\0statement\0\0\0\0").unwrap();
    assert_eq!(
        (head.portal, head.statement, head.len),
        (&b"portal"[..], &b"statement"[..], 17)
    );
}

#[test]
fn a_renamed_bind_announces_the_bytes_the_caller_sends() {
    let mut out = BytesMut::new();
    put_bind_head(&mut out, "p", "s9", 1000);
    assert_eq!(&out[..], b"B\0\0\x03\xf1p\0s9\0");
    assert_eq!(out.len() + 1000, 0x3f1 + 1);
}

#[test]
fn a_zero_byte_ends_a_string_instead_of_starting_a_field() {
    let parse = body(|out| put_parse(out, "a\0b", "select 1\0; drop", &[]));
    let parse = Parse::decode(&parse).unwrap();
    assert_eq!((parse.name, parse.text), (&b"a"[..], &b"select 1"[..]));
}

#[test]
fn a_function_call_is_read() {
    let call =
        function_call(b"\0\0\0\x2a\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\0").unwrap();
    assert_eq!(call.function, 42);
    assert_eq!(
        call.arguments,
        [(Format::Binary, None), (Format::Binary, Some(&b"x"[..]))]
    );
    assert_eq!(call.result, Format::Text);
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1u8.., 0..40)
}

proptest! {
    #[test]
    fn parse_survives_the_round_trip(name in name(), text in name(), oids: Vec<u32>) {
        let body = body(|out| put_parse(out, &name, &text, &oids));
        let parse = Parse::decode(&body).unwrap();
        prop_assert_eq!(parse.name, &name);
        prop_assert_eq!(parse.text, &text);
        prop_assert_eq!(parse.type_oids().collect::<Vec<_>>(), oids);
    }

    #[test]
    fn bind_survives_renaming(
        portal in name(),
        statement in name(),
        renamed in name(),
        values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..30)), 0..20),
    ) {
        let borrowed: Vec<_> = values.iter().map(Option::as_deref).collect();
        let original = body(|out| put_bind(out, &portal, &statement, &borrowed, Format::Binary));
        let bind = Bind::decode(&original).unwrap();
        prop_assert_eq!(bind.statement, &statement);
        let renamed_body = body(|out| put_bind_renamed(out, bind.portal, &renamed, bind.rest));
        let bind = Bind::decode(&renamed_body).unwrap();
        prop_assert_eq!(bind.portal, &portal);
        prop_assert_eq!(bind.statement, &renamed);
        let read: Vec<_> = bind.parameters().unwrap().map(|value| value.unwrap().1).collect();
        prop_assert_eq!(read, borrowed);
        prop_assert_eq!(bind.result_formats().unwrap(), [Format::Binary]);
    }

    #[test]
    fn no_body_makes_a_parser_panic(body: Vec<u8>) {
        let _ = Parse::decode(&body);
        let _ = Target::decode(&body);
        let _ = Execute::decode(&body);
        let _ = function_call(&body);
        let _ = sasl_initial(&body);
        if let Ok(bind) = Bind::decode(&body) {
            let _ = bind.result_formats();
        }
    }

    #[test]
    fn heads_cover_the_names_exactly(portal in name(), statement in name(), tail: Vec<u8>) {
        let full = body(|out| put_bind_renamed(out, &portal, &statement, &tail));
        let head = BindHead::decode(&full).unwrap();
        prop_assert_eq!(&full[head.len..], &tail[..]);
        prop_assert!(HEAD_LEN + full.len() >= head.len);
    }
}
