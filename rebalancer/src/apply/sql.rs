//! Statements that apply rows: pure text, one shape for each table, kind and number of rows.
//!
//! Values are parameters in text format; where the server could not infer their types they are cast. Rows are named by
//! their key alone, which contains the tenant column.

use std::fmt::Write as _;

use super::target::Target;
use crate::tables::{Column, list};

/// What a statement does with its rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Parameters: all columns.
    Insert,
    /// Parameters: the key, then the columns that are set.
    Update {
        /// Positions of columns that keep their value.
        unchanged: Vec<usize>,
    },
    /// Parameters: the key.
    Delete,
    /// Deletes the row and inserts it again, one row at a time: for a key that changes, and for identity columns, which
    /// UPDATE cannot set. Parameters: the old key, then all columns that are not kept.
    Rewrite {
        /// Positions of columns whose value is taken from the old row.
        unchanged: Vec<usize>,
    },
}

impl Kind {
    /// The command, for errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update { .. } | Self::Rewrite { .. } => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    /// Positions of the columns that a row's parameters stand for, behind those of the key.
    pub(super) fn given(&self, target: &Target) -> Vec<usize> {
        let all = 0..target.columns.len();
        match self {
            Self::Insert => all.collect(),
            Self::Update { unchanged } => all
                .filter(|i| !target.key.contains(i) && !unchanged.contains(i))
                .collect(),
            Self::Delete => Vec::new(),
            Self::Rewrite { unchanged } => all.filter(|i| !unchanged.contains(i)).collect(),
        }
    }

    /// Whether a row's parameters begin with its key.
    pub(super) fn has_key(&self) -> bool {
        !matches!(self, Self::Insert)
    }

    /// Parameters of one row.
    pub(super) fn width(&self, target: &Target) -> usize {
        let key = if self.has_key() { target.key.len() } else { 0 };
        key + self.given(target).len()
    }
}

/// The statement for this many rows.
pub(super) fn statement(target: &Target, kind: &Kind, rows: usize) -> String {
    match kind {
        Kind::Insert => insert(target, rows),
        Kind::Update { .. } if rows == 1 => update_one(target, kind),
        Kind::Update { .. } => update_many(target, kind, rows),
        Kind::Delete if rows == 1 => delete_one(target),
        Kind::Delete => delete_many(target, rows),
        Kind::Rewrite { .. } => rewrite(target, kind),
    }
}

fn insert(target: &Target, rows: usize) -> String {
    let columns = &target.columns;
    let mut text = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ",
        target.table.relation(),
        list(columns.iter())
    );
    // Their types are those of the columns.
    rows_of_parameters(&mut text, columns.len(), rows, |_| "");
    text
}

fn update_one(target: &Target, kind: &Kind) -> String {
    let given = kind.given(target);
    let mut text = format!("UPDATE {} AS t SET ", target.table.relation());
    for (n, i) in given.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let parameter = target.key.len() + n + 1;
        let _ = write!(text, "{comma}{} = ${parameter}", column(target, *i).sql());
    }
    text.push_str(" WHERE ");
    key_is_parameters(&mut text, target, "t.");
    text
}

fn update_many(target: &Target, kind: &Kind, rows: usize) -> String {
    let given = kind.given(target);
    let mut text = format!("UPDATE {} AS t SET ", target.table.relation());
    for (n, i) in given.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let value = target.key.len() + n + 1;
        let _ = write!(text, "{comma}{} = v.c{value}", column(target, *i).sql());
    }
    text.push_str(" FROM (VALUES ");
    let of_key = target.key.iter().chain(&given).copied();
    let types: Vec<&str> = of_key
        .map(|i| column(target, i).type_sql.as_str())
        .collect();
    rows_of_parameters(&mut text, types.len(), rows, |i| types[i]);
    values_named(&mut text, types.len());
    key_is_values(&mut text, target);
    text
}

fn delete_one(target: &Target) -> String {
    let mut text = format!("DELETE FROM {} AS t WHERE ", target.table.relation());
    key_is_parameters(&mut text, target, "t.");
    text
}

fn delete_many(target: &Target, rows: usize) -> String {
    let mut text = format!(
        "DELETE FROM {} AS t USING (VALUES ",
        target.table.relation()
    );
    let types = |i: usize| column(target, target.key[i]).type_sql.as_str();
    rows_of_parameters(&mut text, target.key.len(), rows, types);
    values_named(&mut text, target.key.len());
    key_is_values(&mut text, target);
    text
}

fn rewrite(target: &Target, kind: &Kind) -> String {
    let relation = target.table.relation();
    let given = kind.given(target);
    let mut text = format!("WITH gone AS (DELETE FROM {relation} AS t WHERE ");
    key_is_parameters(&mut text, target, "t.");
    let _ = write!(
        text,
        " RETURNING *) INSERT INTO {relation} ({}) OVERRIDING SYSTEM VALUE SELECT ",
        list(target.columns.iter())
    );
    let mut parameter = target.key.len();
    for (i, column) in target.columns.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        if given.contains(&i) {
            parameter += 1;
            let _ = write!(text, "{comma}${parameter}::{}", column.type_sql);
        } else {
            let _ = write!(text, "{comma}gone.{}", column.sql());
        }
    }
    text.push_str(" FROM gone");
    text
}

/// `($1::a, $2::b), ($3::a, $4::b)`.
fn rows_of_parameters<'a>(
    text: &mut String,
    width: usize,
    rows: usize,
    type_of: impl Fn(usize) -> &'a str,
) {
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for i in 0..width {
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}${}", row * width + i + 1);
            let cast = type_of(i);
            if !cast.is_empty() {
                let _ = write!(text, "::{cast}");
            }
        }
        text.push(')');
    }
}

fn values_named(text: &mut String, width: usize) {
    text.push_str(") AS v (");
    for i in 1..=width {
        let comma = if i == 1 { "" } else { ", " };
        let _ = write!(text, "{comma}c{i}");
    }
    text.push_str(") WHERE ");
}

fn key_is_parameters(text: &mut String, target: &Target, qualifier: &str) {
    for (n, i) in target.key.iter().enumerate() {
        let and = if n == 0 { "" } else { " AND " };
        let column = column(target, *i);
        let (name, parameter) = (column.sql(), n + 1);
        // Without the cast it would have the type of the operator, which for regclass and others is oid.
        let _ = write!(
            text,
            "{and}{qualifier}{name} = ${parameter}::{}",
            column.type_sql
        );
    }
}

fn key_is_values(text: &mut String, target: &Target) {
    for (n, i) in target.key.iter().enumerate() {
        let and = if n == 0 { "" } else { " AND " };
        let _ = write!(text, "{and}t.{} = v.c{}", column(target, *i).sql(), n + 1);
    }
}

fn column(target: &Target, i: usize) -> &Column {
    &target.columns[i]
}
