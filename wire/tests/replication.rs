//! What PostgreSQL 15 really sends for logical decoding, message by message, read by this crate.
//!
//! The files `captured/pgoutput.*.hex` hold the messages of one slot, a line each, as `pg_logical_slot_peek_binary_changes`
//! gave them: version 1 with every kind of change, version 2 with transactions sent in pieces, one of them with a part
//! rolled back and one rolled back as a whole. What was read stands in the snapshots.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;

use tenantry_wire::replication::{Change, Decoder, OldTuple, PgOutput, Tuple, TupleValue};

fn bytes(line: &str) -> Vec<u8> {
    (0..line.len() / 2)
        .map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

fn row(tuple: Tuple<'_>) -> String {
    let value = |value: TupleValue<'_>| match value {
        TupleValue::Null => "null".to_owned(),
        TupleValue::Unchanged => "unchanged".to_owned(),
        TupleValue::Text(text) if text.len() > 20 => format!("text of {}", text.len()),
        TupleValue::Text(text) => format!("'{}'", text.escape_ascii()),
        TupleValue::Binary(data) => format!("binary of {}", data.len()),
    };
    let values: Vec<_> = tuple.values().map(value).collect();
    assert_eq!(values.len(), tuple.len());
    format!("({})", values.join(", "))
}

fn old(tuple: OldTuple<'_>) -> String {
    match tuple {
        OldTuple::Key(tuple) => format!("key {}", row(tuple)),
        OldTuple::Full(tuple) => format!("row {}", row(tuple)),
    }
}

fn shown(message: &PgOutput<'_>) -> String {
    let PgOutput::Change { xid, change } = message else {
        return format!("{message:?}");
    };
    let change = match change {
        Change::Insert { relation, new } => format!("insert {relation} {}", row(*new)),
        Change::Update {
            relation,
            old: before,
            new,
        } => {
            let before = before.map(old).unwrap_or_default();
            format!("update {relation} {before} -> {}", row(*new))
        }
        Change::Delete {
            relation,
            old: gone,
        } => format!("delete {relation} {}", old(*gone)),
        Change::Relation(relation) => {
            let mut text = format!(
                "relation {} {}.{} {:?}",
                relation.oid,
                relation.schema.escape_ascii(),
                relation.name.escape_ascii(),
                relation.identity
            );
            for column in &relation.columns {
                let key = if column.is_key { " key" } else { "" };
                write!(
                    text,
                    "\n    {} {} {}{key}",
                    column.name.escape_ascii(),
                    column.type_oid,
                    column.type_modifier
                )
                .unwrap();
            }
            text
        }
        Change::Type { oid, schema, name } => {
            format!(
                "type {oid} {}.{}",
                schema.escape_ascii(),
                name.escape_ascii()
            )
        }
        Change::Message(message) => format!(
            "message {} {} at {}: {}",
            if message.transactional {
                "in transaction"
            } else {
                "at once"
            },
            message.prefix.escape_ascii(),
            message.lsn,
            message.content.escape_ascii()
        ),
        other => format!("{other:?}"),
    };
    match xid {
        Some(xid) => format!("  [{xid}] {change}"),
        None => format!("  {change}"),
    }
}

fn transcript(lines: &str) -> String {
    let mut decoder = Decoder::new();
    let mut out = String::new();
    for line in lines.lines() {
        let message = bytes(line);
        let mut copy = decoder.clone();
        writeln!(out, "{}", shown(&decoder.decode(&message).unwrap())).unwrap();
        // No message is complete before its last byte, and none goes on behind it.
        for len in 0..message.len() {
            assert!(copy.clone().decode(&message[..len]).is_err(), "{line}");
        }
        assert!(copy.decode(&[&message[..], b"x"].concat()).is_err());
    }
    out
}

#[test]
fn version_1_is_read_in_full() {
    insta::assert_snapshot!(transcript(include_str!("captured/pgoutput.v1.hex")));
}

#[test]
fn version_2_is_read_in_full() {
    insta::assert_snapshot!(transcript(include_str!("captured/pgoutput.v2.hex")));
}
