//! Statements about the session's other possessions: prepared statements, channels, cursors, COPY, temporary things.

use super::{
    cursor::Cursor,
    decode::{Parsed, Refusal},
    kind::{DiscardTarget, Kind},
    lexer::TokenKind,
};

pub(super) fn prepare<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let mut ahead = cursor;
    if ahead.keyword("transaction") && ahead.at_string() {
        ahead.string()?;
        return ahead.expect_end(Kind::PrepareTransaction);
    }
    let name = cursor.name()?;
    let types = match cursor.parenthesised()? {
        Some(list) => split_list(list, &cursor)?,
        None => Vec::new(),
    };
    cursor.expect_keyword("as")?;
    let may_be_prepared = [
        "select", "insert", "update", "delete", "merge", "with", "values", "table",
    ]
    .iter()
    .any(|keyword| cursor.at_keyword(keyword));
    if !may_be_prepared && !cursor.at_punct(b'(') {
        return Err(Refusal::Malformed);
    }
    let text = cursor.rest()?;
    Ok(Kind::PrepareStatement { name, types, text })
}

/// Splits a list of types at its top-level commas.
fn split_list<'a>(list: &'a [u8], outer: &Cursor<'a>) -> Parsed<Vec<&'a [u8]>> {
    let mut items = Vec::new();
    let mut cursor = outer.over(list);
    loop {
        let start = cursor.position();
        let mut depth = 0_usize;
        while let Some(token) = cursor.peek() {
            match token.kind {
                TokenKind::Punct(b'(' | b'[') => depth += 1,
                TokenKind::Punct(b')' | b']') => depth = depth.saturating_sub(1),
                TokenKind::Punct(b',') if depth == 0 => break,
                TokenKind::Punct(b';') => return Err(Refusal::Malformed),
                _ => {}
            }
            cursor.bump();
        }
        match cursor.consumed_since(start) {
            b"" => return Err(Refusal::Malformed),
            item => items.push(item),
        }
        if !cursor.punct(b',') {
            return Ok(items);
        }
    }
}

pub(super) fn execute<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let name = cursor.name()?;
    let args = match cursor.parenthesised()? {
        Some(b"") => return Err(Refusal::Malformed),
        Some(args) => args,
        None => b"",
    };
    cursor.expect_end(Kind::ExecuteStatement { name, args })
}

pub(super) fn deallocate<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let mut ahead = cursor;
    if ahead.keyword("prepare") && !ahead.at_end() {
        cursor = ahead;
    }
    if cursor.keyword("all") {
        return cursor.expect_end(Kind::DeallocateAll);
    }
    let name = cursor.name()?;
    cursor.expect_end(Kind::Deallocate(name))
}

pub(super) fn discard<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let target = [
        ("all", DiscardTarget::All),
        ("plans", DiscardTarget::Plans),
        ("sequences", DiscardTarget::Sequences),
        ("temp", DiscardTarget::Temp),
        ("temporary", DiscardTarget::Temp),
    ]
    .into_iter()
    .find_map(|(keyword, target)| cursor.keyword(keyword).then_some(target));
    cursor.expect_end(Kind::Discard(target.ok_or(Refusal::Malformed)?))
}

pub(super) fn listen<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let channel = cursor.name()?;
    cursor.expect_end(Kind::Listen(channel))
}

pub(super) fn unlisten<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let channel = if cursor.operator(b"*") {
        None
    } else {
        Some(cursor.name()?)
    };
    cursor.expect_end(Kind::Unlisten(channel))
}

pub(super) fn notify<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let channel = cursor.name()?;
    let payload = if cursor.punct(b',') {
        Some(cursor.string()?)
    } else {
        None
    };
    cursor.expect_end(Kind::Notify { channel, payload })
}

pub(super) fn copy<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let is_query = cursor.parenthesised()?.is_some();
    let mut table: &[u8] = b"";
    if !is_query {
        if second_is_name(&cursor) {
            cursor.keyword("binary");
        }
        let start = cursor.position();
        cursor.name()?;
        while cursor.punct(b'.') {
            cursor.any_name()?;
        }
        table = cursor.consumed_since(start);
        cursor.parenthesised()?;
    }
    let from = !is_query && cursor.keyword("from");
    if !from {
        cursor.expect_keyword("to")?;
    }
    // STDIN and STDOUT mean the same to PostgreSQL: the client.
    let with_client = cursor.keyword("stdin") || cursor.keyword("stdout");
    if !with_client {
        return Ok(Kind::Plain);
    }
    let options = cursor.at_end() || cursor.rest().is_ok();
    match (options, from) {
        (false, _) => Err(Refusal::Malformed),
        (true, true) => Ok(Kind::CopyFromStdin { table }),
        (true, false) => Ok(Kind::CopyToStdout),
    }
}

/// `COPY BINARY t` has a name behind the word, `COPY binary FROM` would not be accepted.
fn second_is_name(cursor: &Cursor<'_>) -> bool {
    cursor.peek_second().is_some_and(|token| {
        matches!(
            token.kind,
            TokenKind::Ident | TokenKind::QuotedIdent | TokenKind::UnicodeIdent
        )
    })
}

pub(super) fn declare<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let name = cursor.name()?;
    let mut plain = true;
    while ["binary", "insensitive", "asensitive", "scroll", "no"]
        .iter()
        .any(|option| cursor.keyword(option))
    {
        plain = false;
    }
    cursor.expect_keyword("cursor")?;
    let hold = cursor.keywords(&["with", "hold"]);
    if !hold {
        cursor.keywords(&["without", "hold"]);
    }
    cursor.expect_keyword("for")?;
    let query = cursor.rest()?;
    Ok(Kind::DeclareCursor {
        name,
        hold,
        query: (plain && !hold).then_some(query),
    })
}

pub(super) fn close<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let name = if cursor.keyword("all") {
        None
    } else {
        Some(cursor.name()?)
    };
    cursor.expect_end(Kind::CloseCursor(name))
}

/// ALTER ROLE and its synonyms; ALTER SYSTEM cannot run in a transaction block.
pub(super) fn alter<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.keywords(&["user", "mapping"]) {
        return Ok(Kind::Plain);
    }
    if ["role", "user", "group"]
        .iter()
        .any(|noun| cursor.keyword(noun))
    {
        return Ok(Kind::AlterRole);
    }
    if cursor.keyword("system") {
        return Ok(Kind::NoTransaction);
    }
    Ok(if mentions_keyword(cursor, "concurrently") {
        Kind::NoTransaction
    } else {
        Kind::Plain
    })
}

pub(super) fn create<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    cursor.keywords(&["or", "replace"]);
    let is_scope = cursor.at_keyword("global") || cursor.at_keyword("local");
    if is_scope {
        cursor.bump();
    }
    if cursor.keyword("temp") || cursor.keyword("temporary") || names_temp_schema(cursor) {
        return Ok(Kind::CreateTemp);
    }
    let outside = ["database", "tablespace", "subscription"]
        .iter()
        .any(|noun| cursor.keyword(noun));
    cursor.keyword("unique");
    let is_concurrent = cursor.keywords(&["index", "concurrently"]);
    Ok(if outside || is_concurrent {
        Kind::NoTransaction
    } else {
        Kind::Plain
    })
}

fn names_temp_schema(mut cursor: Cursor<'_>) -> bool {
    while let Some(token) = cursor.bump() {
        let is_temp = match token.kind {
            TokenKind::Ident => cursor.slice(token).eq_ignore_ascii_case(b"pg_temp"),
            TokenKind::QuotedIdent => cursor.slice(token) == b"\"pg_temp\"",
            _ => false,
        };
        if is_temp && cursor.at_punct(b'.') {
            return true;
        }
    }
    false
}

pub(super) fn drop<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let outside = ["database", "tablespace", "subscription"]
        .iter()
        .any(|noun| cursor.keyword(noun));
    Ok(if outside || cursor.keywords(&["index", "concurrently"]) {
        Kind::NoTransaction
    } else {
        Kind::Plain
    })
}

pub(super) fn reindex<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    let is_concurrent = mentions_keyword(cursor, "concurrently");
    cursor.parenthesised()?;
    let is_whole = ["database", "system", "schema"]
        .iter()
        .any(|noun| cursor.at_keyword(noun));
    Ok(if is_concurrent || is_whole {
        Kind::NoTransaction
    } else {
        Kind::Plain
    })
}

/// CLUSTER of one table may run in a transaction block, of all tables it may not.
pub(super) fn cluster<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    cursor.parenthesised()?;
    cursor.keyword("verbose");
    Ok(if cursor.at_end() {
        Kind::NoTransaction
    } else {
        Kind::Plain
    })
}

fn mentions_keyword(mut cursor: Cursor<'_>, keyword: &str) -> bool {
    while let Some(token) = cursor.bump() {
        if cursor.is_keyword(Some(token), keyword) {
            return true;
        }
    }
    false
}
