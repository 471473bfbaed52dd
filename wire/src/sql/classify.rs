//! The classifier: from a statement's first word to its kind.
//!
//! Nearly every statement is a query that concerns the router in nothing. For those the work is one token and one
//! search through the text, without allocation.

use super::{
    calls,
    cursor::Cursor,
    decode::{Parsed, Refusal},
    hints::{mentions_backend_pid, mentions_setting_function, mentions_temp},
    keywords::fold,
    kind::Kind,
    lexer::{Lexer, Token, TokenKind},
    session, setting, transaction,
};

/// Longest keyword that begins a statement of the list: `deallocate`.
const KEYWORD_LIMIT: usize = 10;

/// Longest text in which `SELECT pg_backend_pid()` is looked for, bytes.
const BACKEND_PID_MAX: usize = 128;

/// Tells what a statement is to the router. `text` holds one statement, with or without semicolons behind it; a text of
/// several is [`Kind::Plain`], as PostgreSQL refuses it in the extended protocol ([`super::split()`] divides simple
/// queries). `standard_conforming_strings` is the session's setting.
#[must_use]
pub fn classify<T: AsRef<[u8]> + ?Sized>(text: &T, standard_conforming_strings: bool) -> Kind<'_> {
    if let Some(kind) = transaction::alone(text.as_ref()) {
        return kind;
    }
    let mut lexer = Lexer::new(text.as_ref(), standard_conforming_strings);
    let first = lexer.find(|token| token.kind != TokenKind::Punct(b';'));
    let Some(first) = first else {
        return Kind::Empty;
    };
    match listed(lexer, first) {
        Some(Ok(Kind::Plain)) | None => query(lexer, first),
        Some(Ok(kind)) => kind,
        Some(Err(Refusal::Malformed)) => Kind::Plain,
        Some(Err(Refusal::NotUtf8)) => Kind::NotUtf8,
    }
}

/// Reads a statement whose first word is on the list. One line for each word.
fn listed(lexer: Lexer<'_>, first: Token) -> Option<Parsed<Kind<'_>>> {
    if first.kind != TokenKind::Ident {
        return None;
    }
    let mut folded = [0; KEYWORD_LIMIT];
    let word = fold(lexer.slice(first), &mut folded);
    let body = || Cursor::behind(lexer, first);
    Some(match word {
        b"abort" => transaction::abort(body()),
        b"alter" => session::alter(body()),
        b"begin" => transaction::begin(body()),
        b"close" => session::close(body()),
        b"cluster" => session::cluster(body()),
        b"commit" => transaction::commit(body()),
        b"copy" => session::copy(body()),
        b"create" => session::create(body()),
        b"deallocate" => session::deallocate(body()),
        b"declare" => session::declare(body()),
        b"discard" => session::discard(body()),
        b"drop" => session::drop(body()),
        b"end" => transaction::end(body()),
        b"execute" => session::execute(body()),
        b"listen" => session::listen(body()),
        b"lock" => Ok(Kind::LockTable),
        b"notify" => session::notify(body()),
        b"prepare" => session::prepare(body()),
        b"reindex" => session::reindex(body()),
        b"release" => transaction::release(body()),
        b"reset" => setting::reset(body()),
        b"rollback" => transaction::rollback(body()),
        b"savepoint" => transaction::savepoint(body()),
        b"set" => setting::set(body()),
        b"show" => setting::show(body()),
        b"start" => transaction::start(body()),
        b"truncate" => Ok(Kind::Truncate),
        b"unlisten" => session::unlisten(body()),
        b"vacuum" => Ok(Kind::NoTransaction),
        _ => return None,
    })
}

/// Any statement that its first words do not put on the list: it may still call the functions for settings, or select
/// into a temporary table.
fn query(lexer: Lexer<'_>, first: Token) -> Kind<'_> {
    let text = lexer.text();
    let cursor = || Cursor::at(lexer, first.start);
    if mentions_setting_function(text)
        && let Some(kind) = calls::statement(cursor())
    {
        return kind;
    }
    // Only the short statement is looked for: in others the function tells the server's number.
    if text.len() <= BACKEND_PID_MAX
        && mentions_backend_pid(text)
        && let Ok(column) = calls::backend_pid(cursor())
    {
        return Kind::BackendPid { column };
    }
    // Data can be long, and those who only change it select into nothing.
    let is_change = [&b"insert"[..], b"update", b"delete"]
        .iter()
        .any(|word| lexer.slice(first).eq_ignore_ascii_case(word));
    if !is_change && mentions_temp(text) && selects_into_temp(cursor()) {
        return Kind::CreateTemp;
    }
    Kind::Plain
}

/// `SELECT ... INTO TEMP`, which INSERT INTO a table of that name is not.
fn selects_into_temp(mut cursor: Cursor<'_>) -> bool {
    let mut inserts = false;
    while let Some(token) = cursor.bump() {
        if !inserts && cursor.is_keyword(Some(token), "into") {
            let mut ahead = cursor;
            let _ = ahead.keyword("local") || ahead.keyword("global");
            if ahead.keyword("temp") || ahead.keyword("temporary") {
                return true;
            }
        }
        inserts = ["insert", "merge"]
            .iter()
            .any(|keyword| cursor.is_keyword(Some(token), keyword));
    }
    false
}
