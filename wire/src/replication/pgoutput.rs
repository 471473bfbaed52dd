//! Messages of the output plugin `pgoutput`.
//!
//! Parsed messages borrow from the body. A tuple is checked as a whole when its message is read, so that walking over
//! its values cannot fail.

use super::{Lsn, Timestamp};
use crate::{MessageError, reader::Reader};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PgOutput<'a> {
    /// A committed transaction begins.
    Begin {
        /// Where its commit record starts: transactions come in the order of these.
        final_lsn: Lsn,
        /// When it committed.
        committed_at: Timestamp,
        /// Its id.
        xid: u32,
    },
    /// The transaction that began is complete.
    Commit {
        /// Where the commit record starts.
        commit_lsn: Lsn,
        /// Where it ends. A stream that starts here begins with the next transaction.
        end_lsn: Lsn,
        /// When it committed.
        committed_at: Timestamp,
    },
    /// The transaction was replayed from elsewhere.
    Origin {
        /// Its commit there.
        commit_lsn: Lsn,
        /// The origin's name.
        name: &'a [u8],
    },
    /// A piece of a transaction that still runs.
    StreamStart {
        /// The transaction.
        xid: u32,
        /// It is the first piece.
        first: bool,
    },
    /// The piece ends.
    StreamStop,
    /// A transaction that came in pieces committed.
    StreamCommit {
        /// The transaction.
        xid: u32,
        /// Where the commit record starts.
        commit_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
        /// When it committed.
        committed_at: Timestamp,
    },
    /// A transaction that came in pieces, or a part of it, was rolled back.
    StreamAbort {
        /// The transaction.
        xid: u32,
        /// The subtransaction; the transaction itself if all of it was rolled back.
        subxid: u32,
    },
    /// Anything inside a transaction.
    Change {
        /// The transaction or subtransaction that did it; none outside pieces of a running transaction.
        xid: Option<u32>,
        /// What was done.
        change: Change<'a>,
    },
}

/// What stands inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Columns of a table whose rows follow; sent before the first and after changes of the table.
    Relation(Relation<'a>),
    /// A type that a following relation uses.
    Type {
        /// Its oid on the sending server.
        oid: u32,
        /// Its schema; empty for `pg_catalog`.
        schema: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// A row is new.
    Insert {
        /// Oid of the table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// Oid of the table.
        relation: u32,
        /// The old key if it changed or holds values stored out of line, the whole old row if the identity is full.
        old: Option<OldTuple<'a>>,
        /// The row as it is now.
        new: Tuple<'a>,
    },
    /// A row is gone.
    Delete {
        /// Oid of the table.
        relation: u32,
        /// Its key, or all of it.
        old: OldTuple<'a>,
    },
    /// Tables were emptied, of all their rows whatever a publication filters.
    Truncate {
        /// With CASCADE.
        cascade: bool,
        /// With RESTART IDENTITY.
        restart_identity: bool,
        /// Oids of the tables.
        relations: Vec<u32>,
    },
    /// `pg_logical_emit_message` was called.
    Message(LogicalMessage<'a>),
}

/// A message that a session wrote into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// It belongs to a transaction; otherwise it comes at once, whatever became of the transaction.
    pub transactional: bool,
    /// Its position.
    pub lsn: Lsn,
    /// Whose it is.
    pub prefix: &'a [u8],
    /// What it says.
    pub content: &'a [u8],
}

/// A table as the sending server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Its oid there, by which changes name it.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub schema: &'a [u8],
    /// Its name.
    pub name: &'a [u8],
    /// What old rows are identified by.
    pub identity: ReplicaIdentity,
    /// The columns that are sent, in order; generated ones are not.
    pub columns: Vec<RelationColumn<'a>>,
}

/// `pg_class.relreplident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing: updates and deletes cannot be published.
    Nothing,
    /// The whole row.
    Full,
    /// A unique index.
    Index,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// It is part of the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: &'a [u8],
    /// Oid of its type on the sending server.
    pub type_oid: u32,
    /// Its type modifier, -1 without one.
    pub type_modifier: i32,
}

/// What is known about a row before it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// The columns of the replica identity; all others are NULL here.
    Key(Tuple<'a>),
    /// All columns.
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The values, as many as the relation has columns.
    #[must_use]
    pub fn tuple(self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// The values of a row.
///
/// Invariant: `values` holds exactly `count` well-formed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: usize,
    values: &'a [u8],
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// NULL.
    Null,
    /// Stored out of line and not changed: the value is not sent.
    Unchanged,
    /// As the type's output function writes it.
    Text(&'a [u8]),
    /// As the type's send function writes it; only if the stream was asked for binary values.
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// No values at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values, in the order of the relation's columns.
    #[must_use]
    pub fn values(&self) -> TupleValues<'a> {
        TupleValues {
            left: self.count,
            reader: Reader::new(self.values),
        }
    }
}

/// Walks over the values of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct TupleValues<'a> {
    left: usize,
    reader: Reader<'a>,
}

impl<'a> Iterator for TupleValues<'a> {
    type Item = TupleValue<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        tuple_value(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Reads messages in the order of a stream: whether a message names a transaction depends on the piece it stands in.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    pub(super) in_piece: bool,
}

impl Decoder {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For messages of pieces that were kept, without the messages that begin and end a piece.
    #[must_use]
    pub fn inside_piece() -> Self {
        Self { in_piece: true }
    }

    /// Reads the stream's next message.
    ///
    /// # Errors
    /// The message is malformed, of an unknown kind, or stands where it must not.
    pub fn decode<'a>(&mut self, message: &'a [u8]) -> Result<PgOutput<'a>, MessageError> {
        let mut reader = Reader::new(message);
        let kind = reader.u8()?;
        let decoded = match kind {
            b'B' | b'C' | b'O' | b'c' | b'A' if !self.in_piece => transaction(kind, &mut reader)?,
            b'S' if !self.in_piece => {
                self.in_piece = true;
                PgOutput::StreamStart {
                    xid: reader.u32()?,
                    first: reader.u8()? != 0,
                }
            }
            b'E' if self.in_piece => {
                self.in_piece = false;
                PgOutput::StreamStop
            }
            b'O' => transaction(kind, &mut reader)?,
            b'B' | b'C' | b'c' | b'A' | b'S' | b'E' => {
                return Err(MessageError::ReplicationKind(kind));
            }
            kind => PgOutput::Change {
                xid: self.in_piece.then(|| reader.u32()).transpose()?,
                change: change(kind, &mut reader)?,
            },
        };
        reader.finish()?;
        Ok(decoded)
    }
}

/// Messages about transactions as a whole.
fn transaction<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<PgOutput<'a>, MessageError> {
    Ok(match kind {
        b'B' => PgOutput::Begin {
            final_lsn: lsn(reader)?,
            committed_at: timestamp(reader)?,
            xid: reader.u32()?,
        },
        b'C' => {
            // Flags, none of which exists.
            reader.u8()?;
            PgOutput::Commit {
                commit_lsn: lsn(reader)?,
                end_lsn: lsn(reader)?,
                committed_at: timestamp(reader)?,
            }
        }
        b'c' => {
            let xid = reader.u32()?;
            reader.u8()?;
            PgOutput::StreamCommit {
                xid,
                commit_lsn: lsn(reader)?,
                end_lsn: lsn(reader)?,
                committed_at: timestamp(reader)?,
            }
        }
        b'A' => PgOutput::StreamAbort {
            xid: reader.u32()?,
            subxid: reader.u32()?,
        },
        b'O' => PgOutput::Origin {
            commit_lsn: lsn(reader)?,
            name: reader.cstr()?,
        },
        kind => return Err(MessageError::ReplicationKind(kind)),
    })
}

/// Messages inside a transaction.
fn change<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Change<'a>, MessageError> {
    Ok(match kind {
        b'R' => Change::Relation(relation(reader)?),
        b'Y' => Change::Type {
            oid: reader.u32()?,
            schema: reader.cstr()?,
            name: reader.cstr()?,
        },
        b'I' => {
            let relation = reader.u32()?;
            expect(reader, b'N')?;
            let new = tuple(reader)?;
            Change::Insert { relation, new }
        }
        b'U' => update(reader)?,
        b'D' => {
            let relation = reader.u32()?;
            let old = match reader.u8()? {
                b'K' => OldTuple::Key(tuple(reader)?),
                b'O' => OldTuple::Full(tuple(reader)?),
                kind => return Err(MessageError::ReplicationKind(kind)),
            };
            Change::Delete { relation, old }
        }
        b'T' => truncate(reader)?,
        b'M' => Change::Message(LogicalMessage {
            transactional: reader.u8()? & 1 != 0,
            lsn: lsn(reader)?,
            prefix: reader.cstr()?,
            content: {
                let len = length(reader.i32()?)?;
                reader.bytes(len)?
            },
        }),
        kind => return Err(MessageError::ReplicationKind(kind)),
    })
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<Change<'a>, MessageError> {
    let relation = reader.u32()?;
    let old = match reader.u8()? {
        b'K' => Some(OldTuple::Key(tuple(reader)?)),
        b'O' => Some(OldTuple::Full(tuple(reader)?)),
        b'N' => None,
        kind => return Err(MessageError::ReplicationKind(kind)),
    };
    if old.is_some() {
        expect(reader, b'N')?;
    }
    let new = tuple(reader)?;
    Ok(Change::Update { relation, old, new })
}

fn truncate<'a>(reader: &mut Reader<'a>) -> Result<Change<'a>, MessageError> {
    let count = length(reader.i32()?)?;
    let options = reader.u8()?;
    let mut relations = Vec::with_capacity(count.min(reader.rest().len() / 4));
    for _ in 0..count {
        relations.push(reader.u32()?);
    }
    Ok(Change::Truncate {
        cascade: options & 1 != 0,
        restart_identity: options & 2 != 0,
        relations,
    })
}

fn relation<'a>(reader: &mut Reader<'a>) -> Result<Relation<'a>, MessageError> {
    let oid = reader.u32()?;
    let schema = reader.cstr()?;
    let name = reader.cstr()?;
    let identity = match reader.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        kind => return Err(MessageError::ReplicationKind(kind)),
    };
    let count = reader.count()?;
    let mut columns = Vec::with_capacity(count.min(reader.rest().len() / 10));
    for _ in 0..count {
        columns.push(RelationColumn {
            is_key: reader.u8()? & 1 != 0,
            name: reader.cstr()?,
            type_oid: reader.u32()?,
            type_modifier: reader.i32()?,
        });
    }
    Ok(Relation {
        oid,
        schema,
        name,
        identity,
        columns,
    })
}

fn tuple<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, MessageError> {
    let count = reader.count()?;
    let before = reader.rest();
    for _ in 0..count {
        tuple_value(reader)?;
    }
    let len = before.len() - reader.rest().len();
    let values = before.get(..len).unwrap_or_default();
    Ok(Tuple { count, values })
}

fn tuple_value<'a>(reader: &mut Reader<'a>) -> Result<TupleValue<'a>, MessageError> {
    let data = |reader: &mut Reader<'a>| {
        let len = length(reader.i32()?)?;
        reader.bytes(len)
    };
    match reader.u8()? {
        b'n' => Ok(TupleValue::Null),
        b'u' => Ok(TupleValue::Unchanged),
        b't' => data(reader).map(TupleValue::Text),
        b'b' => data(reader).map(TupleValue::Binary),
        kind => Err(MessageError::ReplicationKind(kind)),
    }
}

fn expect(reader: &mut Reader<'_>, kind: u8) -> Result<(), MessageError> {
    match reader.u8()? {
        found if found == kind => Ok(()),
        found => Err(MessageError::ReplicationKind(found)),
    }
}

fn length(len: i32) -> Result<usize, MessageError> {
    usize::try_from(len).map_err(|_| MessageError::NegativeLength(len))
}

fn lsn(reader: &mut Reader<'_>) -> Result<Lsn, MessageError> {
    reader.u64().map(Lsn)
}

fn timestamp(reader: &mut Reader<'_>) -> Result<Timestamp, MessageError> {
    reader.i64().map(Timestamp)
}
