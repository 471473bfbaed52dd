//! SET, RESET and SHOW.
//!
//! Every form is told apart because each must reach the setting it means: `tenantry.*` settings are the router's however
//! their name is quoted, and a setting that the router overlooks would leak to the connection's next client.

use super::{
    cursor::Cursor,
    decode::{Parsed, Refusal},
    kind::{Kind, SetValue},
    lexer::TokenKind,
    transaction,
};

pub(super) fn set<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.at_keyword("constraints") && !second_continues_name(&cursor) {
        return Ok(Kind::Plain);
    }
    let local = scope(&mut cursor);
    let tail_start = cursor.position();
    if cursor.at_keyword("transaction") && !second_continues_name(&cursor) {
        cursor.bump();
        return set_transaction(cursor);
    }
    if cursor.keywords(&["session", "characteristics", "as"]) {
        cursor.expect_keyword("transaction")?;
        let modes = transaction::modes(&mut cursor)?;
        return cursor.expect_end(Kind::SetSessionCharacteristics(modes));
    }
    let (name, value) = match special(&mut cursor)? {
        Some(assignment) => assignment,
        None => general(&mut cursor)?,
    };
    let tail = cursor.consumed_since(tail_start);
    cursor.expect_end(match name.as_str() {
        "role" => Kind::SetRole { local, value },
        "session_authorization" => Kind::SetSessionAuthorization { local, value },
        _ => Kind::Set {
            local,
            name,
            value,
            tail,
        },
    })
}

/// LOCAL or SESSION, unless it begins a name or one of the forms with SESSION.
fn scope(cursor: &mut Cursor<'_>) -> bool {
    if second_continues_name(cursor) {
        return false;
    }
    let mut ahead = *cursor;
    let is_form = ahead.keywords(&["session", "characteristics", "as"])
        || ahead.keywords(&["session", "authorization"]);
    if cursor.keyword("local") {
        return true;
    }
    if !is_form {
        cursor.keyword("session");
    }
    false
}

/// Whether the token behind the next one shows the next one to be a setting's name or its first part.
fn second_continues_name(cursor: &Cursor<'_>) -> bool {
    let second = cursor.peek_second();
    cursor.is_keyword(second, "to")
        || cursor.is_keyword(second, "from")
        || second.is_some_and(|token| {
            token.kind == TokenKind::Punct(b'.')
                || (token.kind == TokenKind::Operator && cursor.slice(token).starts_with(b"="))
        })
}

fn set_transaction<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.keyword("snapshot") {
        return Ok(Kind::Plain);
    }
    let modes = transaction::modes(&mut cursor)?;
    cursor.expect_end(Kind::SetTransaction(modes))
}

/// The forms that name their setting in words of their own. The words are settings' names if one of the general form's
/// signs follows.
fn special(cursor: &mut Cursor<'_>) -> Parsed<Option<(String, SetValue)>> {
    if second_continues_name(cursor) {
        return Ok(None);
    }
    let (name, value) = if cursor.keywords(&["time", "zone"]) {
        ("timezone", time_zone(cursor)?)
    } else if cursor.keyword("schema") {
        ("search_path", single(cursor.string()?))
    } else if cursor.keyword("names") {
        ("client_encoding", names(cursor)?)
    } else if cursor.keyword("role") {
        ("role", single(word_or_string(cursor)?))
    } else if cursor.keywords(&["session", "authorization"]) {
        let is_default = cursor.keyword("default");
        let value = if is_default {
            SetValue::Default
        } else {
            single(word_or_string(cursor)?)
        };
        ("session_authorization", value)
    } else if cursor.keywords(&["xml", "option"]) {
        let content = cursor.keyword("content");
        if !content {
            cursor.expect_keyword("document")?;
        }
        let value = if content { "content" } else { "document" };
        ("xmloption", single(value.to_owned()))
    } else {
        return Ok(None);
    };
    Ok(Some((name.to_owned(), value)))
}

fn single(value: String) -> SetValue {
    SetValue::Values(vec![value])
}

fn time_zone(cursor: &mut Cursor<'_>) -> Parsed<SetValue> {
    if cursor.keyword("local") || cursor.keyword("default") {
        return Ok(SetValue::Default);
    }
    if cursor.at_string() {
        return Ok(single(cursor.string()?));
    }
    if cursor.keyword("interval") {
        let precision = cursor.parenthesised()?.is_some();
        cursor.string()?;
        if !precision {
            interval_fields(cursor);
        }
        return Ok(SetValue::Interval);
    }
    match cursor.peek().map(|token| token.kind) {
        Some(TokenKind::Number | TokenKind::Operator) => Ok(single(number(cursor)?)),
        // Identifiers, but no keywords; a keyword that gets here is an unknown time zone to PostgreSQL.
        _ => Ok(single(cursor.word()?)),
    }
}

/// `HOUR TO MINUTE` and the like. PostgreSQL accepts no other fields for a time zone; it says so itself.
fn interval_fields(cursor: &mut Cursor<'_>) {
    while let Some(token) = cursor.peek() {
        if token.kind != TokenKind::Ident {
            return;
        }
        cursor.bump();
    }
}

fn names(cursor: &mut Cursor<'_>) -> Parsed<SetValue> {
    if cursor.keyword("default") || cursor.at_end() {
        return Ok(SetValue::Default);
    }
    cursor.string().map(single)
}

/// `name TO value, ...`, `name = value, ...`, `name FROM CURRENT`
fn general(cursor: &mut Cursor<'_>) -> Parsed<(String, SetValue)> {
    let name = setting_name(cursor)?;
    if cursor.keyword("from") {
        cursor.expect_keyword("current")?;
        return Ok((name, SetValue::FromCurrent));
    }
    if !cursor.keyword("to") && !cursor.operator(b"=") {
        return Err(Refusal::Malformed);
    }
    if cursor.keyword("default") {
        return Ok((name, SetValue::Default));
    }
    let mut values = vec![value(cursor)?];
    while cursor.punct(b',') {
        values.push(value(cursor)?);
    }
    Ok((name, SetValue::Values(values)))
}

/// A setting's name in one or more parts. PostgreSQL joins the parts and compares without regard to case, so that
/// `"Tenantry"."tenant"`, `"tenantry.tenant"` and `tenantry.TENANT` are one setting.
fn setting_name(cursor: &mut Cursor<'_>) -> Parsed<String> {
    let mut name = cursor.name()?;
    while cursor.punct(b'.') {
        name.push('.');
        name.push_str(&cursor.name()?);
    }
    name.make_ascii_lowercase();
    Ok(name)
}

fn value(cursor: &mut Cursor<'_>) -> Parsed<String> {
    match cursor.peek().map(|token| token.kind) {
        Some(TokenKind::Number | TokenKind::Operator) => number(cursor),
        _ => {
            for keyword in ["true", "false", "on"] {
                if cursor.keyword(keyword) {
                    return Ok(keyword.to_owned());
                }
            }
            word_or_string(cursor)
        }
    }
}

fn word_or_string(cursor: &mut Cursor<'_>) -> Parsed<String> {
    if cursor.at_string() {
        cursor.string()
    } else {
        cursor.word()
    }
}

/// A number with its sign, as PostgreSQL would print it: integers of 32 bits in decimal, others as they are written.
fn number(cursor: &mut Cursor<'_>) -> Parsed<String> {
    let negative = cursor.operator(b"-");
    if !negative {
        cursor.operator(b"+");
    }
    let token = cursor.bump().ok_or(Refusal::Malformed)?;
    if token.kind != TokenKind::Number {
        return Err(Refusal::Malformed);
    }
    let raw = String::from_utf8_lossy(cursor.slice(token)).replace('_', "");
    let digits = match raw.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => i32::from_str_radix(&raw[2..], 16),
        Some("0o") => i32::from_str_radix(&raw[2..], 8),
        Some("0b") => i32::from_str_radix(&raw[2..], 2),
        _ => raw.parse(),
    };
    let text = digits.map_or(raw, |number| number.to_string());
    Ok(if negative && text != "0" {
        format!("-{text}")
    } else {
        text
    })
}

pub(super) fn reset<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.keyword("all") {
        return cursor.expect_end(Kind::ResetAll);
    }
    let name = named(&mut cursor)?;
    cursor.expect_end(Kind::Reset(name))
}

pub(super) fn show<'a>(mut cursor: Cursor<'a>) -> Parsed<Kind<'a>> {
    if cursor.keyword("all") {
        return cursor.expect_end(Kind::ShowAll);
    }
    let name = named(&mut cursor)?;
    cursor.expect_end(Kind::Show(name))
}

/// What RESET and SHOW name.
fn named(cursor: &mut Cursor<'_>) -> Parsed<String> {
    let special = [
        (&["time", "zone"][..], "timezone"),
        (
            &["transaction", "isolation", "level"],
            "transaction_isolation",
        ),
        (&["session", "authorization"], "session_authorization"),
    ]
    .into_iter()
    .find_map(|(words, name)| cursor.keywords(words).then_some(name));
    match special {
        Some(name) => Ok(name.to_owned()),
        None => setting_name(cursor),
    }
}
