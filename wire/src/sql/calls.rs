//! Calls of `set_config` and `current_setting`.
//!
//! A statement that is nothing but such calls can be answered by the router; in any other statement the calls are
//! listed so that the router can tell whether they touch what it keeps.

use super::{
    cursor::Cursor,
    decode::{Parsed, Refusal},
    kind::Kind,
    lexer::{Token, TokenKind},
};

/// A call of `set_config` or `current_setting`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingCall {
    /// `set_config(name, value, is_local)`
    Set {
        /// The setting; a constant is in lower case, as PostgreSQL compares it.
        name: Arg,
        /// What it becomes.
        value: Arg,
        /// For the transaction only.
        local: Arg,
        /// The column's alias, if the statement is whole and gives one.
        alias: Option<String>,
    },
    /// `current_setting(name)`, `current_setting(name, missing_ok)`
    Current {
        /// The setting; a constant is in lower case, as PostgreSQL compares it.
        name: Arg,
        /// Whether an unknown setting is NULL; `None` without the argument.
        missing_ok: Option<Arg>,
        /// The column's alias, if the statement is whole and gives one.
        alias: Option<String>,
    },
}

impl SettingCall {
    /// The setting's name.
    #[must_use]
    pub fn name(&self) -> &Arg {
        match self {
            Self::Set { name, .. } | Self::Current { name, .. } => name,
        }
    }

    /// The name of the result's column.
    #[must_use]
    pub fn column(&self) -> &str {
        let (alias, function) = match self {
            Self::Set { alias, .. } => (alias, "set_config"),
            Self::Current { alias, .. } => (alias, "current_setting"),
        };
        alias.as_deref().unwrap_or(function)
    }

    fn set_alias(&mut self, name: String) {
        match self {
            Self::Set { alias, .. } | Self::Current { alias, .. } => *alias = Some(name),
        }
    }
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// A constant, without quotes.
    Literal(String),
    /// `$1`, as text or boolean.
    Param(u16),
    /// `$1::bigint::text` and the like: the parameter has this type and its text is the argument.
    TypedParam(u16, ParamType),
    /// NULL
    Null,
    /// TRUE or FALSE
    Bool(bool),
    /// An expression that only PostgreSQL can evaluate.
    Other,
}

/// Type that a cast gives a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParamType {
    /// int
    Integer,
    /// bigint
    Bigint,
    /// uuid
    Uuid,
}

impl Arg {
    /// The argument as a boolean, as PostgreSQL reads booleans; `None` if that takes more than this text.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Literal(text) => bool_of(text),
            _ => None,
        }
    }

    /// The argument as text, if it is a constant.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            _ => None,
        }
    }
}

/// `boolin`: a unique prefix of true, false, yes or no, or on, off, 1, 0.
fn bool_of(text: &str) -> Option<bool> {
    let text = text.trim_ascii().to_ascii_lowercase();
    let is_prefix = |word: &str| !text.is_empty() && word.starts_with(&text);
    if is_prefix("true") || is_prefix("yes") || text == "on" || text == "1" {
        Some(true)
    } else if is_prefix("false") || is_prefix("no") || text == "of" || text == "off" || text == "0"
    {
        Some(false)
    } else {
        None
    }
}

/// Reads a statement that mentions one of the functions, from its first token on. `None`: it only mentions the name.
pub(super) fn statement<'a>(cursor: Cursor<'a>) -> Option<Kind<'a>> {
    if let Ok(calls) = whole(cursor) {
        return Some(Kind::SetConfig { calls, whole: true });
    }
    let calls = all(cursor);
    (!calls.is_empty()).then_some(Kind::SetConfig {
        calls,
        whole: false,
    })
}

/// `SELECT call [[AS] alias], ...`
fn whole(mut cursor: Cursor<'_>) -> Parsed<Vec<SettingCall>> {
    cursor.expect_keyword("select")?;
    let mut calls = Vec::new();
    loop {
        if cursor.keyword("pg_catalog") && !cursor.punct(b'.') {
            return Err(Refusal::Malformed);
        }
        let mut call = call(&mut cursor)?.ok_or(Refusal::Malformed)?;
        if cursor.keyword("as") {
            call.set_alias(cursor.any_name()?.0);
        } else if !cursor.at_punct(b',') && !cursor.at_end() {
            call.set_alias(cursor.name()?);
        }
        calls.push(call);
        if !cursor.punct(b',') {
            return cursor.expect_end(calls);
        }
    }
}

/// `SELECT pg_backend_pid() [[AS] alias]`: the name of its column.
pub(super) fn backend_pid(mut cursor: Cursor<'_>) -> Parsed<String> {
    cursor.expect_keyword("select")?;
    if cursor.keyword("pg_catalog") && !cursor.punct(b'.') {
        return Err(Refusal::Malformed);
    }
    let mut column = cursor.any_name()?.0;
    if column != "pg_backend_pid" || !cursor.punct(b'(') || !cursor.punct(b')') {
        return Err(Refusal::Malformed);
    }
    if cursor.keyword("as") {
        column = cursor.any_name()?.0;
    } else if !cursor.at_end() {
        column = cursor.name()?;
    }
    cursor.expect_end(column)
}

/// The calls in a text, whatever statement they stand in, nested ones included.
#[must_use]
pub fn setting_calls(text: &[u8], standard_conforming_strings: bool) -> Vec<SettingCall> {
    all(Cursor::new(text, standard_conforming_strings))
}

/// Every call in the statement, nested ones included.
fn all(mut cursor: Cursor<'_>) -> Vec<SettingCall> {
    let mut calls = Vec::new();
    let mut before: [Option<Token>; 2] = [None, None];
    while let Some(token) = cursor.peek() {
        if is_function_place(&cursor, before) {
            let mut ahead = cursor;
            if let Ok(Some(call)) = call(&mut ahead) {
                calls.push(call);
            }
        }
        cursor.bump();
        before = [before[1], Some(token)];
    }
    calls
}

/// Whether a function of `pg_catalog` may be named here: no schema stands before the name, or that one.
fn is_function_place(cursor: &Cursor<'_>, before: [Option<Token>; 2]) -> bool {
    let [schema, dot] = before;
    if dot.is_none_or(|token| token.kind != TokenKind::Punct(b'.')) {
        return true;
    }
    schema.is_some_and(|token| match token.kind {
        TokenKind::Ident => cursor.slice(token).eq_ignore_ascii_case(b"pg_catalog"),
        TokenKind::QuotedIdent => cursor.slice(token) == b"\"pg_catalog\"",
        // Which schema an escaped name means is decided on the safe side.
        TokenKind::UnicodeIdent => true,
        _ => false,
    })
}

/// One call, or `None` if the next tokens are another function's or no call at all.
fn call(cursor: &mut Cursor<'_>) -> Parsed<Option<SettingCall>> {
    let name = cursor.any_name()?.0;
    let is_set = name == "set_config";
    if (!is_set && name != "current_setting") || !cursor.punct(b'(') {
        return Ok(None);
    }
    let mut arguments = Vec::with_capacity(3);
    while !cursor.punct(b')') {
        arguments.push(argument(cursor)?);
        if !cursor.punct(b',') && !cursor.at_punct(b')') {
            return Err(Refusal::Malformed);
        }
    }
    if let Some(Arg::Literal(name)) = arguments.first_mut() {
        name.make_ascii_lowercase();
    }
    let mut arguments = arguments.into_iter();
    let mut next = || arguments.next();
    let call = if is_set {
        let (name, value, local) = (next(), next(), next());
        let (Some(name), Some(value), Some(local)) = (name, value, local) else {
            return Err(Refusal::Malformed);
        };
        SettingCall::Set {
            name,
            value,
            local,
            alias: None,
        }
    } else {
        SettingCall::Current {
            name: next().ok_or(Refusal::Malformed)?,
            missing_ok: next(),
            alias: None,
        }
    };
    if arguments.next().is_some() {
        return Err(Refusal::Malformed);
    }
    Ok(Some(call))
}

/// One argument, up to its comma or parenthesis.
fn argument(cursor: &mut Cursor<'_>) -> Parsed<Arg> {
    let mut ahead = *cursor;
    let simple = if ahead.keyword("cast") && ahead.punct(b'(') {
        cast(&mut ahead)
    } else {
        ahead = *cursor;
        constant(&mut ahead)
    };
    if let Ok(arg) = simple
        && (ahead.at_punct(b',') || ahead.at_punct(b')'))
    {
        *cursor = ahead;
        return Ok(arg);
    }
    skip_argument(cursor)?;
    Ok(Arg::Other)
}

fn skip_argument(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let mut depth = 0_usize;
    while let Some(token) = cursor.peek() {
        match token.kind {
            TokenKind::Punct(b'(' | b'[') => depth += 1,
            TokenKind::Punct(b',' | b')') if depth == 0 => return Ok(()),
            TokenKind::Punct(b')' | b']') => {
                depth = depth.checked_sub(1).ok_or(Refusal::Malformed)?;
            }
            TokenKind::Unterminated => break,
            _ => {}
        }
        cursor.bump();
    }
    Err(Refusal::Malformed)
}

/// An operand on its way to being an argument.
enum Operand {
    /// Fit to be one.
    Fit(Arg),
    /// A number, which needs a cast to text.
    Number(i64),
    /// A parameter with a type that needs a cast to text.
    Typed(u16, ParamType),
}

/// The types that a cast may name here.
enum Cast {
    Text,
    Bool,
    Typed(ParamType),
}

impl Operand {
    fn cast(self, cast: Cast) -> Parsed<Self> {
        Ok(Self::Fit(match (self, cast) {
            (Self::Fit(Arg::Param(number)), Cast::Typed(param_type)) => {
                return Ok(Self::Typed(number, param_type));
            }
            (Self::Fit(Arg::Literal(text)), Cast::Typed(param_type)) => {
                return number_of(text.trim_ascii(), param_type).map(Self::Number);
            }
            (Self::Fit(Arg::Null), _) => Arg::Null,
            (Self::Fit(arg @ (Arg::Param(_) | Arg::Literal(_))), Cast::Text)
            | (Self::Fit(arg @ (Arg::Param(_) | Arg::Bool(_))), Cast::Bool) => arg,
            (Self::Fit(Arg::Literal(text)), Cast::Bool) => {
                Arg::Bool(bool_of(&text).ok_or(Refusal::Malformed)?)
            }
            (Self::Fit(Arg::Bool(value)), Cast::Text) => Arg::Literal(value.to_string()),
            (Self::Number(number), Cast::Text) => Arg::Literal(number.to_string()),
            (Self::Typed(number, param_type), Cast::Text) => Arg::TypedParam(number, param_type),
            _ => return Err(Refusal::Malformed),
        }))
    }
}

/// The text as an integer of the type; anything else but plain digits is left to PostgreSQL.
fn number_of(text: &str, number_type: ParamType) -> Parsed<i64> {
    let number = match number_type {
        ParamType::Integer => text.parse::<i32>().ok().map(i64::from),
        ParamType::Bigint => text.parse().ok(),
        ParamType::Uuid => None,
    };
    number.ok_or(Refusal::Malformed)
}

/// The constant or parameter that an argument is.
fn constant(cursor: &mut Cursor<'_>) -> Parsed<Arg> {
    match operand(cursor)? {
        Operand::Fit(arg) => Ok(arg),
        Operand::Number(_) | Operand::Typed(..) => Err(Refusal::Malformed),
    }
}

/// `CAST(constant AS type)`, behind its opening parenthesis.
fn cast(cursor: &mut Cursor<'_>) -> Parsed<Arg> {
    let operand = operand(cursor)?;
    cursor.expect_keyword("as")?;
    let cast = type_name(cursor)?;
    match operand.cast(cast)? {
        Operand::Fit(arg) if cursor.punct(b')') => Ok(arg),
        _ => Err(Refusal::Malformed),
    }
}

/// A constant or parameter, with parentheses and casts around it.
fn operand(cursor: &mut Cursor<'_>) -> Parsed<Operand> {
    // Counted and not recursed into: a client may write any number of them.
    let mut open = 0_usize;
    while cursor.punct(b'(') {
        open += 1;
    }
    let mut operand = atom(cursor)?;
    loop {
        while cursor.type_cast() {
            operand = operand.cast(type_name(cursor)?)?;
        }
        if open == 0 {
            return Ok(operand);
        }
        if !cursor.punct(b')') {
            return Err(Refusal::Malformed);
        }
        open -= 1;
    }
}

fn atom(cursor: &mut Cursor<'_>) -> Parsed<Operand> {
    let token = cursor.peek().ok_or(Refusal::Malformed)?;
    let raw = std::str::from_utf8(cursor.slice(token)).map_err(|_| Refusal::NotUtf8)?;
    Ok(match token.kind {
        TokenKind::Param => {
            cursor.bump();
            let number = raw.get(1..).and_then(|digits| digits.parse().ok());
            Operand::Fit(Arg::Param(number.ok_or(Refusal::Malformed)?))
        }
        TokenKind::Number => {
            cursor.bump();
            Operand::Number(raw.parse().map_err(|_| Refusal::Malformed)?)
        }
        _ if cursor.keyword("null") => Operand::Fit(Arg::Null),
        _ if cursor.keyword("true") => Operand::Fit(Arg::Bool(true)),
        _ if cursor.keyword("false") => Operand::Fit(Arg::Bool(false)),
        _ => Operand::Fit(Arg::Literal(cursor.string()?)),
    })
}

fn type_name(cursor: &mut Cursor<'_>) -> Parsed<Cast> {
    let mut ahead = *cursor;
    if ahead.keyword("pg_catalog") && ahead.punct(b'.') {
        *cursor = ahead;
    }
    let name = cursor.any_name()?.0;
    Ok(match name.as_str() {
        "text" | "varchar" => Cast::Text,
        "bool" | "boolean" => Cast::Bool,
        "int" | "integer" | "int4" => Cast::Typed(ParamType::Integer),
        "bigint" | "int8" => Cast::Typed(ParamType::Bigint),
        "uuid" => Cast::Typed(ParamType::Uuid),
        _ => return Err(Refusal::Malformed),
    })
}
