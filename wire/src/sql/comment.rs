//! What a trailing comment in the format of sqlcommenter says: the tenant, the trace.
//! `/*key='value',tenantry_tenant='ID',traceparent='00-…'*/`

use super::lexer::{Lexer, TokenKind};

/// The key that names the tenant.
const TENANT: &str = "tenantry_tenant";
/// The key of the trace, as OpenTelemetry's instrumentations of drivers write it.
const TRACE: &str = "traceparent";

/// The tenant that the comment at the end of the text names, and where the statement before it ends. Only a block comment
/// behind the last token counts, semicolons aside, so that nothing inside a literal or a line comment is taken for it.
#[must_use]
pub fn tenant_comment<T: AsRef<[u8]> + ?Sized>(
    text: &T,
    standard_conforming_strings: bool,
) -> Option<(String, usize)> {
    value(text.as_ref(), standard_conforming_strings, TENANT)
}

/// The W3C trace id that the comment at the end of the text names, 32 lower-case hexadecimal digits. A text that does not
/// end in a comment costs one look at its end.
#[must_use]
pub fn sql_comment_trace<T: AsRef<[u8]> + ?Sized>(
    text: &T,
    standard_conforming_strings: bool,
) -> Option<String> {
    let text = text.as_ref();
    let is_trailing = |c: &u8| *c == b';' || c.is_ascii_whitespace();
    let end = text.iter().rposition(|c| !is_trailing(c))?;
    if !text.get(..=end)?.ends_with(b"*/") {
        return None;
    }
    trace_id(&value(text, standard_conforming_strings, TRACE)?.0)
}

/// The trace id of a `traceparent` (W3C Trace Context, section 3.2): `00-TRACE-SPAN-FLAGS`. `None` if it is malformed or
/// all zeros.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.split('-');
    let hex = |part: Option<&str>, len: usize| {
        let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        part.filter(|part| part.len() == len && part.bytes().all(is_hex))
            .map(str::to_owned)
    };
    let version = hex(parts.next(), 2)?;
    let trace = hex(parts.next(), 32)?;
    let span = hex(parts.next(), 16)?;
    hex(parts.next(), 2)?;
    let is_zero = |text: &str| text.bytes().all(|c| c == b'0');
    let ends = version != "00" || parts.next().is_none();
    (version != "ff" && ends && !is_zero(&trace) && !is_zero(&span)).then_some(trace)
}

/// The value of a key in the comment at the end of the text, and where the last token before the comment ends.
fn value(text: &[u8], standard_conforming_strings: bool, wanted: &str) -> Option<(String, usize)> {
    memchr::memmem::rfind(text, wanted.as_bytes())?;
    let mut statement_end = 0;
    for token in Lexer::new(text, standard_conforming_strings) {
        match token.kind {
            TokenKind::Unterminated => return None,
            TokenKind::Punct(b';') => {}
            _ => statement_end = token.end,
        }
    }
    let tail = text.get(statement_end..)?;
    let is_trailing = |c: &u8| *c == b';' || c.is_ascii_whitespace();
    let end = tail.iter().rposition(|c| !is_trailing(c))?;
    let tail = tail.get(..=end)?.strip_suffix(b"*/")?;
    let start = memchr::memmem::rfind(tail, b"/*")?;
    // A line comment could hold the opening: then the closing is part of it, too, and this is no block comment.
    let line = tail
        .get(..start)?
        .rsplit(|c| matches!(c, b'\n' | b'\r'))
        .next()?;
    if memchr::memmem::find(line, b"--").is_some() {
        return None;
    }
    let content = std::str::from_utf8(tail.get(start + 2..)?).ok()?;
    content
        .split(',')
        .find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
            (key.trim() == wanted).then(|| percent_decode(value))?
        })
        .map(|value| (value, statement_end))
}

/// Decodes `%XX`. `None` if the result is not text.
fn percent_decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(c) = rest.next() {
        if c == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(c);
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn the_trace_is_found_in_a_trailing_comment_only() {
        let trace = |text: &str| sql_comment_trace(text, true);
        let found = Some(TRACE_ID.to_owned());
        assert_eq!(
            trace(&format!("SELECT 1 /*traceparent='{PARENT}'*/")),
            found
        );
        assert_eq!(
            trace(&format!(
                "SELECT 1 /*db_driver='x',traceparent='{}',tenantry_tenant='a'*/ ; ",
                PARENT.replace('-', "%2D")
            )),
            found
        );
        for text in [
            format!("/*traceparent='{PARENT}'*/ SELECT 1"),
            format!("SELECT '/*traceparent=''{PARENT}''*/'"),
            format!("SELECT 1 -- /*traceparent='{PARENT}'*/"),
            "SELECT 1 /*traceparent='x'*/".to_owned(),
            "SELECT 1".to_owned(),
            String::new(),
        ] {
            assert_eq!(trace(&text), None, "{text}");
        }
    }

    #[test]
    fn a_malformed_parent_is_none() {
        assert_eq!(trace_id(PARENT).as_deref(), Some(TRACE_ID));
        assert!(trace_id(&format!("{}-more", PARENT.replace("00-0a", "01-0a"))).is_some());
        for parent in [
            format!("{PARENT}-more"),
            PARENT.to_uppercase(),
            PARENT.replace("00-0a", "ff-0a"),
            PARENT.replace(TRACE_ID, &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            TRACE_ID.to_owned(),
        ] {
            assert_eq!(trace_id(&parent), None, "{parent}");
        }
    }
}
