//! Rows as they travel: values as text, in the order of a table's written columns.

use bytes::Bytes;

/// One value. A clone shares the bytes of the message it came in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Null,
    /// Stored out of line and not changed: the row that is there has it.
    Unchanged,
    Text(Bytes),
}

impl Value {
    /// As a parameter. What is unchanged has none.
    pub(super) fn parameter(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Unchanged => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parameter().map_or(0, <[u8]>::len)
    }
}

/// Values of one row, or of some of its columns.
pub(super) type Row = Box<[Value]>;

/// What happened to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Insert(Row),
    Update {
        /// The key before; none if it is the new row's.
        old_key: Option<Row>,
        new: Row,
    },
    Delete {
        key: Row,
    },
}

impl Op {
    /// About as much memory as it takes.
    pub(super) fn bytes(&self) -> usize {
        let row = |row: &Row| -> usize {
            row.iter()
                .map(|value| value.len() + size_of::<Value>())
                .sum()
        };
        match self {
            Self::Insert(new) | Self::Update { old_key: None, new } => row(new),
            Self::Update {
                old_key: Some(key),
                new,
            } => row(key) + row(new),
            Self::Delete { key } => row(key),
        }
    }
}
