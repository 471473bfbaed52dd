//! Positions, commands and frames; messages by property. Captured messages are in `tests/replication.rs`.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{MessageError, frame::Message, put, tag::frontend as tag};

#[test]
fn positions_are_written_as_postgresql_writes_them() {
    assert_eq!(Lsn(0x1_6B37_4D84).to_string(), "1/6B374D84");
    assert_eq!("0/0".parse(), Ok(Lsn::INVALID));
    assert_eq!("FFFFFFFF/fffffff0".parse(), Ok(Lsn(u64::MAX - 15)));
    for text in [
        "",
        "1",
        "/",
        "1/",
        "/1",
        "1/2/3",
        "+1/2",
        "1/g",
        "1/000000001",
    ] {
        let error = text.parse::<Lsn>().unwrap_err();
        assert!(error.to_string().contains(text), "{text}");
    }
}

#[test]
fn commands_quote_what_they_are_given() {
    assert_eq!(
        create_slot("a\"b", SlotKind::Temporary, SnapshotAction::Export),
        "CREATE_REPLICATION_SLOT \"a\"\"b\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
    );
    assert_eq!(
        create_slot("s", SlotKind::Permanent, SnapshotAction::Nothing),
        "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing')"
    );
    assert_eq!(
        start_replication("s", Lsn(0x1_0000_0002), "It's"),
        "START_REPLICATION SLOT \"s\" LOGICAL 1/2 (proto_version '2', streaming 'on', messages 'true', \
         publication_names '\"It''s\"')"
    );
}

#[test]
fn a_status_is_one_message_of_34_bytes() {
    let status = StandbyStatus {
        written: Lsn(3),
        flushed: Lsn(1),
        applied: Lsn(2),
        sent_at: Timestamp::from_unix_micros(EPOCH_MICROS + 7),
        reply: true,
    };
    let mut out = BytesMut::new();
    status.put(&mut out);
    let message = Message::take(&mut out, usize::MAX).unwrap().unwrap();
    assert_eq!(message.tag, tag::COPY_DATA);
    assert_eq!(
        message.body(),
        b"r\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x07\x01"
    );
}

#[test]
fn frames_are_read_and_refused() {
    let keepalive = b"k\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x05\x01";
    assert_eq!(
        WalFrame::decode(keepalive),
        Ok(WalFrame::Keepalive(Keepalive {
            end: Lsn(0x100_0000),
            sent_at: Timestamp(5),
            reply: true
        }))
    );
    let data = b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xffrest";
    let Ok(WalFrame::XLogData(data)) = WalFrame::decode(data) else {
        panic!("not data");
    };
    assert_eq!(
        (data.start, data.end, data.data),
        (Lsn(1), Lsn(2), &b"rest"[..])
    );
    assert_eq!(data.sent_at.unix_micros(), EPOCH_MICROS - 1);
    assert_eq!(WalFrame::decode(b""), Err(MessageError::Truncated));
    assert_eq!(
        WalFrame::decode(b"x"),
        Err(MessageError::ReplicationKind(b'x'))
    );
    assert_eq!(
        WalFrame::decode(&[&keepalive[..], b"."].concat()),
        Err(MessageError::TrailingBytes)
    );
}

#[test]
fn pieces_neither_nest_nor_end_twice() {
    let mut decoder = Decoder::new();
    assert_eq!(
        decoder.decode(b"E"),
        Err(MessageError::ReplicationKind(b'E'))
    );
    decoder.decode(b"S\0\0\0\x07\x01").unwrap();
    assert_eq!(
        decoder.decode(b"S\0\0\0\x08\x01"),
        Err(MessageError::ReplicationKind(b'S'))
    );
    assert_eq!(
        decoder.decode(b"A\0\0\0\x07\0\0\0\x07"),
        Err(MessageError::ReplicationKind(b'A'))
    );
    assert_eq!(decoder.decode(b"E"), Ok(PgOutput::StreamStop));
}

/// A value as a test has it, and as it travels.
#[derive(Debug, Clone)]
enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Value {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Null => out.put_u8(b'n'),
            Self::Unchanged => out.put_u8(b'u'),
            Self::Text(data) => {
                out.put_u8(b't');
                put::value(out, Some(data));
            }
            Self::Binary(data) => {
                out.put_u8(b'b');
                put::value(out, Some(data));
            }
        }
    }

    fn is(&self, read: TupleValue<'_>) -> bool {
        match (self, read) {
            (Self::Null, TupleValue::Null) | (Self::Unchanged, TupleValue::Unchanged) => true,
            (Self::Text(a), TupleValue::Text(b)) | (Self::Binary(a), TupleValue::Binary(b)) => {
                a == b
            }
            _ => false,
        }
    }
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    let data = || prop::collection::vec(any::<u8>(), 0..20);
    prop::collection::vec(
        prop_oneof![
            Just(Value::Null),
            Just(Value::Unchanged),
            data().prop_map(Value::Text),
            data().prop_map(Value::Binary),
        ],
        0..12,
    )
}

fn put_tuple(out: &mut BytesMut, kind: u8, values: &[Value]) {
    out.put_u8(kind);
    put::count(out, values.len());
    for value in values {
        value.put(out);
    }
}

fn same(tuple: Tuple<'_>, expected: &[Value]) -> bool {
    tuple.len() == expected.len()
        && tuple.values().count() == expected.len()
        && tuple
            .values()
            .zip(expected)
            .all(|(read, value)| value.is(read))
}

proptest! {
    #[test]
    fn positions_survive_their_text(position in any::<u64>()) {
        prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
    }

    #[test]
    fn updates_survive_the_round_trip(
        xid in prop::option::of(any::<u32>()), relation in any::<u32>(),
        old in prop::option::of((any::<bool>(), values())), new in values()
    ) {
        let mut message = BytesMut::from(&b"U"[..]);
        message.extend(xid.map(u32::to_be_bytes).into_iter().flatten());
        message.put_u32(relation);
        if let Some((full, values)) = &old {
            put_tuple(&mut message, if *full { b'O' } else { b'K' }, values);
        }
        put_tuple(&mut message, b'N', &new);
        let mut decoder = Decoder { in_piece: xid.is_some() };
        let read = decoder.decode(&message).unwrap();
        let PgOutput::Change { xid: in_piece, change: Change::Update { relation: of, old: before, new: after } } = read else {
            panic!("not an update");
        };
        prop_assert_eq!((in_piece, of), (xid, relation));
        prop_assert!(same(after, &new));
        match (before, &old) {
            (None, None) => {}
            (Some(OldTuple::Key(tuple)), Some((false, values)))
            | (Some(OldTuple::Full(tuple)), Some((true, values))) => prop_assert!(same(tuple, values)),
            _ => prop_assert!(false, "another kind of old row"),
        }
    }

    #[test]
    fn arbitrary_messages_are_read_or_refused(
        kind in prop::sample::select(&b"BCOYRIUDTMSEcA"[..]),
        rest in prop::collection::vec(any::<u8>(), 0..80),
        in_piece in any::<bool>(),
    ) {
        let message = [&[kind][..], &rest].concat();
        if let Ok(PgOutput::Change { change: Change::Insert { new, .. }, .. }) =
            (Decoder { in_piece }).decode(&message)
        {
            prop_assert_eq!(new.values().count(), new.len());
        }
        let _ = WalFrame::decode(&message);
    }
}
