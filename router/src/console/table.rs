//! Tables that the console answers with, and how their values travel.

use bytes::BytesMut;
use tenantry_wire::backend::{self, Column};
use tenantry_wire::frontend::Format;

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int4,
    Int8,
    /// Whole numbers only.
    Numeric,
    Bool,
}

impl Kind {
    /// Oid and `typlen`.
    fn of_postgres(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
            Self::Bool => (16, 1),
        }
    }
}

/// Name and type.
pub(super) type Head = (&'static str, Kind);

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Number(u64),
    Bool(bool),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

macro_rules! cell_from_number {
    ($($type:ty),+) => {
        $(impl From<$type> for Cell {
            fn from(number: $type) -> Self {
                Self::Number(u64::try_from(number).unwrap_or_default())
            }
        })+
    };
}

cell_from_number!(u16, u32, u64, usize, i32);

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Rows under one heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) heads: &'static [Head],
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(heads: &'static [Head]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has as many values as there are columns.
    pub(super) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.heads.len());
        self.rows.push(row);
    }
}

/// RowDescription in the formats asked for.
pub(super) fn put_heads(out: &mut BytesMut, heads: &[Head], formats: &[Format]) {
    let columns: Vec<Column<'_>> = heads
        .iter()
        .enumerate()
        .map(|(index, (name, kind))| {
            let (oid, len) = kind.of_postgres();
            Column {
                format: format(formats, index),
                ..Column::of_type(name, oid, len)
            }
        })
        .collect();
    backend::put_row_description(out, &columns);
}

/// DataRow in the formats asked for.
pub(super) fn put_row(out: &mut BytesMut, heads: &[Head], row: &[Cell], formats: &[Format]) {
    let values: Vec<Option<Vec<u8>>> = heads
        .iter()
        .zip(row)
        .enumerate()
        .map(|(index, ((_, kind), cell))| encode(*kind, cell, format(formats, index)))
        .collect();
    let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
    backend::put_data_row(out, &values);
}

/// No format means text for all, one means that one for all.
fn format(formats: &[Format], index: usize) -> Format {
    match formats {
        [all] => *all,
        each => each.get(index).copied().unwrap_or_default(),
    }
}

fn encode(kind: Kind, cell: &Cell, format: Format) -> Option<Vec<u8>> {
    let text = match cell {
        Cell::Null => return None,
        Cell::Text(text) => text.clone(),
        Cell::Bool(value) if format == Format::Binary => return Some(vec![u8::from(*value)]),
        Cell::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        Cell::Number(number) if format == Format::Binary => return Some(binary(kind, *number)),
        Cell::Number(number) => number.to_string(),
    };
    Some(text.into_bytes())
}

fn binary(kind: Kind, number: u64) -> Vec<u8> {
    match kind {
        Kind::Int4 => i32::try_from(number)
            .unwrap_or(i32::MAX)
            .to_be_bytes()
            .to_vec(),
        Kind::Int8 => i64::try_from(number)
            .unwrap_or(i64::MAX)
            .to_be_bytes()
            .to_vec(),
        Kind::Numeric => numeric(number),
        Kind::Text | Kind::Bool => number.to_string().into_bytes(),
    }
}

/// `numeric_send`: digits to the base 10,000, the weight of the first, sign and scale.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits: Vec<u16> = Vec::new();
    while number > 0 {
        digits.push(u16::try_from(number % 10_000).unwrap_or_default());
        number /= 10_000;
    }
    let weight = u16::try_from(digits.len().saturating_sub(1)).unwrap_or_default();
    while digits.first() == Some(&0) {
        digits.remove(0);
    }
    let count = u16::try_from(digits.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    for field in [count, weight, 0, 0]
        .into_iter()
        .chain(digits.into_iter().rev())
    {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_is_what_postgresql_sends() {
        // As `SELECT numeric_send(n)` shows them.
        for (number, expected) in [
            (0, "0000000000000000"),
            (7, "00010000000000000007"),
            (10_000, "00010001000000000001"),
            (123_456_789, "0003000200000000000109291a85"),
        ] {
            let hex: String = numeric(number).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, expected, "{number}");
        }
    }
}
