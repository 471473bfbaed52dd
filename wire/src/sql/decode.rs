//! From a token to what it means: folded identifiers, literals without their quotes and escapes.

use super::lexer::continuation;

/// Why a statement of the router's list is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not follow the grammar: PostgreSQL shall report the error.
    Malformed,
    /// A name or value in it is not UTF-8.
    NotUtf8,
}

pub(super) type Parsed<T> = Result<T, Refusal>;

/// Longest identifier (`NAMEDATALEN` - 1); the rest is cut off.
const IDENTIFIER_LIMIT: usize = 63;

/// An identifier without quotes: ASCII letters fold to lower case, others stay.
pub(super) fn ident(raw: &[u8]) -> Parsed<String> {
    utf8(raw.to_ascii_lowercase()).map(truncate)
}

/// `"..."`, with its quotes.
pub(super) fn quoted_ident(raw: &[u8]) -> Parsed<String> {
    named(undouble(inner(raw, 1), b'"'))
}

/// `U&"..."`, with its quotes.
pub(super) fn unicode_ident(raw: &[u8], escape: u8) -> Parsed<String> {
    named(unicode_escapes(&undouble(inner(raw, 3), b'"'), escape)?)
}

fn named(bytes: Vec<u8>) -> Parsed<String> {
    if bytes.is_empty() {
        return Err(Refusal::Malformed);
    }
    utf8(bytes).map(truncate)
}

/// `'...'` in which a backslash is a backslash, with its quotes.
pub(super) fn string(raw: &[u8]) -> Parsed<String> {
    utf8(join(raw, 1))
}

/// `U&'...'`, with its quotes.
pub(super) fn unicode_string(raw: &[u8], escape: u8) -> Parsed<String> {
    utf8(unicode_escapes(&join(raw, 3), escape)?)
}

/// `$tag$...$tag$`, with its delimiters.
pub(super) fn dollar_string(raw: &[u8]) -> Parsed<String> {
    let tag = raw
        .iter()
        .skip(1)
        .position(|c| *c == b'$')
        .map(|tag| tag + 2);
    let body = tag.and_then(|tag| raw.get(tag..raw.len().checked_sub(tag)?));
    utf8(body.ok_or(Refusal::Malformed)?.to_vec())
}

/// `E'...'`, or `'...'` while `standard_conforming_strings` is off, with its quotes.
pub(super) fn escape_string(raw: &[u8]) -> Parsed<String> {
    let opening = if raw.first() == Some(&b'\'') { 1 } else { 2 };
    let end = raw.len().saturating_sub(1);
    let mut out = Vec::with_capacity(raw.len());
    let mut surrogate = None;
    let mut pos = opening;
    while pos < end {
        let c = raw[pos];
        let unicode = match (c, raw.get(pos + 1)) {
            (b'\\', Some(b'u')) => Some(4),
            (b'\\', Some(b'U')) => Some(8),
            _ => None,
        };
        if let Some(digits) = unicode {
            let code = hex(raw.get(pos + 2..pos + 2 + digits))?;
            push_code(&mut out, &mut surrogate, code)?;
            pos += 2 + digits;
            continue;
        }
        if surrogate.is_some() {
            return Err(Refusal::Malformed);
        }
        pos = match c {
            b'\\' => escaped(raw, pos + 1, &mut out)?,
            b'\'' => quote(raw, pos, &mut out),
            c => {
                out.push(c);
                pos + 1
            }
        };
    }
    if surrogate.is_some() {
        return Err(Refusal::Malformed);
    }
    utf8(out)
}

/// Decodes the escape behind a backslash at `pos` and returns the position behind it.
fn escaped(raw: &[u8], pos: usize, out: &mut Vec<u8>) -> Parsed<usize> {
    let c = *raw.get(pos).ok_or(Refusal::Malformed)?;
    let digits = |from: usize, limit: usize, base: u32| {
        let rest = raw.get(from..).unwrap_or_default().iter().take(limit);
        rest.map_while(|c| char::from(*c).to_digit(base))
            .fold((0_u32, 0_usize), |(value, len), digit| {
                (value * base + digit, len + 1)
            })
    };
    let (byte, end) = match c {
        b'b' => (8, pos + 1),
        b'f' => (12, pos + 1),
        b'n' => (10, pos + 1),
        b'r' => (13, pos + 1),
        b't' => (9, pos + 1),
        b'0'..=b'7' => {
            let (value, len) = digits(pos, 3, 8);
            // Three octal digits reach 511: PostgreSQL keeps the low byte.
            (value.to_le_bytes()[0], pos + len)
        }
        b'x' => match digits(pos + 1, 2, 16) {
            (_, 0) => (b'x', pos + 1),
            (value, len) => (value.to_le_bytes()[0], pos + 1 + len),
        },
        c => (c, pos + 1),
    };
    out.push(byte);
    Ok(end)
}

/// Decodes the quote at `pos` inside a literal: doubled, or the end of a line's part.
fn quote(raw: &[u8], pos: usize, out: &mut Vec<u8>) -> usize {
    if raw.get(pos + 1) == Some(&b'\'') && pos + 2 < raw.len() {
        out.push(b'\'');
        return pos + 2;
    }
    continuation(raw, pos + 1).unwrap_or(raw.len())
}

/// Joins the parts of a literal without escapes; `opening` bytes stand before its content.
fn join(raw: &[u8], opening: usize) -> Vec<u8> {
    let end = raw.len().saturating_sub(1);
    let mut out = Vec::with_capacity(raw.len());
    let mut pos = opening;
    while pos < end {
        if raw[pos] == b'\'' {
            pos = quote(raw, pos, &mut out);
        } else {
            out.push(raw[pos]);
            pos += 1;
        }
    }
    out
}

fn inner(raw: &[u8], opening: usize) -> &[u8] {
    raw.get(opening..raw.len().saturating_sub(1))
        .unwrap_or_default()
}

fn undouble(raw: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(c) = bytes.next() {
        out.push(c);
        if c == quote {
            bytes.next();
        }
    }
    out
}

/// The escapes of `U&` literals: `\XXXX`, `\+XXXXXX`, and the escape character doubled.
fn unicode_escapes(raw: &[u8], escape: u8) -> Parsed<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut surrogate = None;
    let mut pos = 0;
    while let Some(&c) = raw.get(pos) {
        if c == escape && raw.get(pos + 1) != Some(&escape) {
            let (digits, start) = match raw.get(pos + 1) {
                Some(b'+') => (6, pos + 2),
                _ => (4, pos + 1),
            };
            push_code(
                &mut out,
                &mut surrogate,
                hex(raw.get(start..start + digits))?,
            )?;
            pos = start + digits;
            continue;
        }
        if surrogate.is_some() {
            return Err(Refusal::Malformed);
        }
        out.push(c);
        pos += if c == escape { 2 } else { 1 };
    }
    if surrogate.is_some() {
        return Err(Refusal::Malformed);
    }
    Ok(out)
}

/// Appends a code point; the first half of a surrogate pair waits in `surrogate` for the second.
fn push_code(out: &mut Vec<u8>, surrogate: &mut Option<u32>, code: u32) -> Parsed<()> {
    let code = match (surrogate.take(), code) {
        (None, 0xd800..=0xdbff) => {
            *surrogate = Some(code);
            return Ok(());
        }
        (None, code) => code,
        (Some(high), 0xdc00..=0xdfff) => 0x10000 + ((high - 0xd800) << 10) + (code - 0xdc00),
        (Some(_), _) => return Err(Refusal::Malformed),
    };
    let c = char::from_u32(code).ok_or(Refusal::Malformed)?;
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(())
}

fn hex(digits: Option<&[u8]>) -> Parsed<u32> {
    let digits = digits.ok_or(Refusal::Malformed)?;
    digits.iter().try_fold(0_u32, |value, c| {
        let digit = char::from(*c).to_digit(16).ok_or(Refusal::Malformed)?;
        value
            .checked_mul(16)
            .map(|value| value + digit)
            .ok_or(Refusal::Malformed)
    })
}

/// PostgreSQL refuses a zero byte wherever an escape puts it.
fn utf8(bytes: Vec<u8>) -> Parsed<String> {
    if memchr::memchr(0, &bytes).is_some() {
        return Err(Refusal::Malformed);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::NotUtf8)
}

fn truncate(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(IDENTIFIER_LIMIT));
    name
}
