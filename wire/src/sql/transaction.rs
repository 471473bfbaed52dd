//! Statements that begin, end and shape transactions.

use std::fmt;

use super::{
    cursor::Cursor,
    decode::{Parsed, Refusal},
    kind::Kind,
};

/// Isolation level of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// READ UNCOMMITTED; PostgreSQL treats it as READ COMMITTED.
    ReadUncommitted,
    /// READ COMMITTED
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE
    Serializable,
}

impl Isolation {
    /// All levels, the weakest first.
    pub const ALL: [Self; 4] = [
        Self::ReadUncommitted,
        Self::ReadCommitted,
        Self::RepeatableRead,
        Self::Serializable,
    ];

    /// The level in the words of SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "READ UNCOMMITTED",
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

/// Modes of a transaction; `None` leaves the session's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransactionModes {
    /// ISOLATION LEVEL
    pub isolation: Option<Isolation>,
    /// READ ONLY or READ WRITE
    pub read_only: Option<bool>,
    /// DEFERRABLE or NOT DEFERRABLE
    pub deferrable: Option<bool>,
}

impl TransactionModes {
    /// Whether every mode is left at its default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// These modes, and where they say nothing, those of `self`.
    #[must_use]
    pub fn overridden_by(self, later: Self) -> Self {
        Self {
            isolation: later.isolation.or(self.isolation),
            read_only: later.read_only.or(self.read_only),
            deferrable: later.deferrable.or(self.deferrable),
        }
    }

    /// The settings that SET SESSION CHARACTERISTICS sets to these modes, with their values.
    pub fn default_settings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        let isolation = self
            .isolation
            .map(|level| level.name().to_ascii_lowercase());
        [
            ("default_transaction_isolation", isolation),
            ("default_transaction_read_only", self.read_only.map(on_off)),
            (
                "default_transaction_deferrable",
                self.deferrable.map(on_off),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// The modes as they follow BEGIN, empty if all are default: ` ISOLATION LEVEL SERIALIZABLE READ ONLY`.
impl fmt::Display for TransactionModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(level) = self.isolation {
            write!(f, " ISOLATION LEVEL {}", level.name())?;
        }
        if let Some(read_only) = self.read_only {
            f.write_str(if read_only {
                " READ ONLY"
            } else {
                " READ WRITE"
            })?;
        }
        if let Some(deferrable) = self.deferrable {
            f.write_str(if deferrable {
                " DEFERRABLE"
            } else {
                " NOT DEFERRABLE"
            })?;
        }
        Ok(())
    }
}

/// A text that is one word which begins or ends a transaction, as most of these are: told without reading tokens. `None`
/// says nothing.
pub(super) fn alone(text: &[u8]) -> Option<Kind<'static>> {
    let word = text.strip_suffix(b";").unwrap_or(text);
    let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
    match word.len() {
        3 if is(b"end") => Some(Kind::Commit { chain: false }),
        5 if is(b"begin") => Some(Kind::Begin(TransactionModes::default())),
        6 if is(b"commit") => Some(Kind::Commit { chain: false }),
        8 if is(b"rollback") => Some(Kind::Rollback { chain: false }),
        _ => None,
    }
}

fn work(cursor: &mut Cursor<'_>) {
    let _ = cursor.keyword("work") || cursor.keyword("transaction");
}

pub(super) fn begin<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    work(&mut cursor);
    let modes = optional_modes(&mut cursor)?;
    cursor.expect_end(Kind::Begin(modes))
}

pub(super) fn start<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    cursor.expect_keyword("transaction")?;
    let modes = optional_modes(&mut cursor)?;
    cursor.expect_end(Kind::Begin(modes))
}

/// COMMIT, which alone of the two may be PREPARED.
pub(super) fn commit<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.keyword("prepared") {
        return prepared(cursor);
    }
    end(cursor)
}

/// END, and the rest of COMMIT.
pub(super) fn end<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    work(&mut cursor);
    let chain = chain(&mut cursor)?;
    cursor.expect_end(Kind::Commit { chain })
}

/// ROLLBACK, which alone of the two may be PREPARED or go to a savepoint.
pub(super) fn rollback<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.keyword("prepared") {
        return prepared(cursor);
    }
    work(&mut cursor);
    if cursor.keyword("to") {
        let name = savepoint_name(&mut cursor)?;
        return cursor.expect_end(Kind::RollbackTo(name));
    }
    let chain = chain(&mut cursor)?;
    cursor.expect_end(Kind::Rollback { chain })
}

pub(super) fn abort<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    work(&mut cursor);
    let chain = chain(&mut cursor)?;
    cursor.expect_end(Kind::Rollback { chain })
}

/// COMMIT PREPARED and ROLLBACK PREPARED cannot run in a transaction block.
fn prepared<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    cursor.string()?;
    cursor.expect_end(Kind::NoTransaction)
}

pub(super) fn savepoint<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let name = cursor.name()?;
    cursor.expect_end(Kind::Savepoint(name))
}

pub(super) fn release<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let name = savepoint_name(&mut cursor)?;
    cursor.expect_end(Kind::Release(name))
}

/// `SAVEPOINT name` or `name`, where `savepoint` itself may be the name.
fn savepoint_name(cursor: &mut Cursor<'_>) -> Parsed<String> {
    let mut ahead = *cursor;
    if ahead.keyword("savepoint") && !ahead.at_end() {
        *cursor = ahead;
    }
    cursor.name()
}

fn chain(cursor: &mut Cursor<'_>) -> Parsed<bool> {
    if !cursor.keyword("and") {
        return Ok(false);
    }
    let chain = !cursor.keyword("no");
    cursor.expect_keyword("chain")?;
    Ok(chain)
}

fn optional_modes(cursor: &mut Cursor<'_>) -> Parsed<TransactionModes> {
    if cursor.at_end() {
        return Ok(TransactionModes::default());
    }
    modes(cursor)
}

/// One mode or more, with or without commas between them; of equal ones the last counts.
pub(super) fn modes(cursor: &mut Cursor<'_>) -> Parsed<TransactionModes> {
    let mut modes = TransactionModes::default();
    loop {
        mode(cursor, &mut modes)?;
        let comma = cursor.punct(b',');
        if !comma && cursor.at_end() {
            return Ok(modes);
        }
    }
}

fn mode(cursor: &mut Cursor<'_>, modes: &mut TransactionModes) -> Parsed<()> {
    if cursor.keywords(&["isolation", "level"]) {
        modes.isolation = Some(isolation(cursor)?);
    } else if cursor.keywords(&["read", "only"]) {
        modes.read_only = Some(true);
    } else if cursor.keywords(&["read", "write"]) {
        modes.read_only = Some(false);
    } else if cursor.keyword("deferrable") {
        modes.deferrable = Some(true);
    } else if cursor.keywords(&["not", "deferrable"]) {
        modes.deferrable = Some(false);
    } else {
        return Err(Refusal::Malformed);
    }
    Ok(())
}

fn isolation(cursor: &mut Cursor<'_>) -> Parsed<Isolation> {
    [
        (&["read", "uncommitted"][..], Isolation::ReadUncommitted),
        (&["read", "committed"], Isolation::ReadCommitted),
        (&["repeatable", "read"], Isolation::RepeatableRead),
        (&["serializable"], Isolation::Serializable),
    ]
    .into_iter()
    .find_map(|(words, level)| cursor.keywords(words).then_some(level))
    .ok_or(Refusal::Malformed)
}
