//! Folding is checked against a table in memory; the statements' texts as they are sent.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::apply::sql::statement;
use crate::tables::{Column, TenantTable};

fn column(name: &str, type_sql: &str, identity: bool) -> Column {
    Column {
        name: name.to_owned(),
        type_sql: type_sql.to_owned(),
        type_oid: 20,
        generated: false,
        identity,
        binary: true,
    }
}

fn targets(key: &[usize], more: Column) -> Arc<Targets> {
    let table = TenantTable {
        oid: 1,
        schema: "public".to_owned(),
        name: "Order".to_owned(),
        columns: vec![
            column("tenant_id", "bigint", false),
            column("id", "bigint", true),
            column("note", "character varying(9)", false),
            more,
        ],
        key: key.to_vec(),
        tenant: 0,
        sequences: Vec::new(),
        partitioned: false,
    };
    Arc::new(Targets::new(&[Arc::new(table)], "1").unwrap())
}

fn plain() -> Targets {
    Arc::into_inner(targets(&[0, 1], column("big", "text", false))).unwrap()
}

#[test]
fn statements_are_written_for_any_number_of_rows() {
    let targets = plain();
    let text = |kind: &Kind, rows| statement(targets.target(0), kind, rows);
    let update = |unchanged: &[usize]| Kind::Update {
        unchanged: unchanged.to_vec(),
    };
    let rewrite = Kind::Rewrite { unchanged: vec![3] };
    let all = [
        text(&Kind::Insert, 1),
        text(&Kind::Insert, 2),
        text(&update(&[]), 1),
        text(&update(&[]), 2),
        text(&update(&[3]), 1),
        text(&update(&[2]), 2),
        text(&Kind::Delete, 1),
        text(&Kind::Delete, 2),
        text(&rewrite, 1),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn an_identity_column_outside_the_key_is_never_updated_in_place() {
    let targets = targets(&[0, 1], column("serial", "bigint", true));
    let mut batch = Batch::new(Arc::clone(&targets), false);
    batch.push(0, op_update(1, "a", Value::Null, None)).unwrap();
    let statements = batch.take();
    assert_eq!(statements.len(), 1);
    assert!(
        matches!(statements[0].kind, Kind::Rewrite { .. }),
        "{statements:?}"
    );
}

#[test]
fn a_contradiction_is_an_error_and_not_a_guess() {
    for (first, second) in [
        (op_insert(1, "a"), op_insert(1, "b")),
        (op_update(1, "a", Value::Null, None), op_insert(1, "b")),
        (op_delete(1), op_update(1, "a", Value::Null, None)),
        (op_delete(1), op_delete(1)),
    ] {
        let mut batch = Batch::new(Arc::new(plain()), false);
        batch.push(0, first).unwrap();
        let error = batch.push(0, second).unwrap_err();
        assert!(
            matches!(&error, ApplyError::Contradiction { key, .. } if key == "(1, 1)"),
            "{error}"
        );
    }
}

fn text(text: impl ToString) -> Value {
    Value::Text(Bytes::from(text.to_string()))
}

fn op_insert(id: u8, note: &str) -> Op {
    Op::Insert(Box::new([text(1), text(id), text(note), text("big")]))
}

fn op_update(id: u8, note: &str, big: Value, old: Option<u8>) -> Op {
    Op::Update {
        old_key: old.map(|old| -> Row { Box::new([text(1), text(old)]) }),
        new: Box::new([text(1), text(id), text(note), big]),
    }
}

fn op_delete(id: u8) -> Op {
    Op::Delete {
        key: Box::new([text(1), text(id)]),
    }
}

/// A table by its key.
type Table = BTreeMap<Vec<Vec<u8>>, Row>;

fn key(row: &[Value]) -> Vec<Vec<u8>> {
    row.iter()
        .take(2)
        .map(|value| value.parameter().unwrap().to_vec())
        .collect()
}

/// What PostgreSQL would do with a statement; rows that are not there, or there already, are errors.
fn run(table: &mut Table, statement: &Statement) {
    for row in &statement.rows {
        match &statement.kind {
            Kind::Insert => assert!(table.insert(key(row), row.clone()).is_none(), "{row:?}"),
            Kind::Delete => assert!(table.remove(&key(row)).is_some(), "{row:?}"),
            Kind::Update { unchanged } => {
                let stored = table.get_mut(&key(row)).unwrap();
                let given = (2..4).filter(|i| !unchanged.contains(i));
                for (i, value) in given.zip(row.iter().skip(2)) {
                    stored[i] = value.clone();
                }
            }
            Kind::Rewrite { unchanged } => {
                let mut stored = table.remove(&key(row)).unwrap();
                let given = (0..4).filter(|i| !unchanged.contains(i));
                for (i, value) in given.zip(row.iter().skip(2)) {
                    stored[i] = value.clone();
                }
                assert!(table.insert(key(&stored), stored).is_none());
            }
        }
    }
}

proptest! {
    #[test]
    fn a_folded_batch_leaves_the_same_rows_and_touches_each_once(
        before in prop::collection::btree_set(0_u8..8, 0..8),
        steps in prop::collection::vec((0_u8..8, 0_u8..4, 0_u8..8, any::<bool>()), 0..60),
        in_order in any::<bool>(),
    ) {
        let mut source: Table = BTreeMap::new();
        for id in &before {
            let Op::Insert(row) = op_insert(*id, "before") else { unreachable!() };
            source.insert(key(&row), row);
        }
        let mut destination = source.clone();
        let mut batch = Batch::new(Arc::new(plain()), in_order);
        let mut rekeyed = false;
        for (n, (id, what, other, keeps_big)) in steps.into_iter().enumerate() {
            let name = |id: u8| vec![b"1".to_vec(), id.to_string().into_bytes()];
            let big = if keeps_big { Value::Unchanged } else { text(n) };
            let op = match (source.contains_key(&name(id)), what) {
                (false, _) => op_insert(id, &n.to_string()),
                (true, 0) => op_delete(id),
                (true, 1) if !source.contains_key(&name(other)) => {
                    rekeyed = true;
                    op_update(other, &n.to_string(), big, Some(id))
                }
                (true, _) => op_update(id, &n.to_string(), big, None),
            };
            let mut single = Batch::new(Arc::new(plain()), true);
            single.push(0, op.clone()).unwrap();
            for statement in single.take() {
                run(&mut source, &statement);
            }
            batch.push(0, op).unwrap();
        }
        let statements = batch.take();
        if !in_order && !rekeyed {
            let mut seen = std::collections::HashSet::new();
            for statement in statements.iter().filter(|statement| statement.kind != Kind::Delete) {
                prop_assert!(statement.rows.iter().all(|row| seen.insert(key(row))));
            }
        }
        for statement in &statements {
            run(&mut destination, statement);
        }
        prop_assert_eq!(destination, source);
        prop_assert_eq!((batch.ops(), batch.bytes(), batch.take().len()), (0, 0, 0));
    }
}
