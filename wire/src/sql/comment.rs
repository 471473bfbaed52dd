//! The tenant in a trailing comment, in the format of sqlcommenter: `/*key='value',tenantry_tenant='ID'*/`.

use super::lexer::{Lexer, TokenKind};

/// The key that names the tenant.
const KEY: &str = "tenantry_tenant";

/// The tenant that the comment at the end of the text names. Only a block comment behind the last token counts, semicolons
/// aside, so that nothing inside a literal or a line comment is taken for it.
#[must_use]
pub fn sql_comment_tenant<T: AsRef<[u8]> + ?Sized>(
    text: &T,
    standard_conforming_strings: bool,
) -> Option<String> {
    let text = text.as_ref();
    memchr::memmem::rfind(text, KEY.as_bytes())?;
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
    content.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        (key.trim() == KEY).then(|| percent_decode(value))?
    })
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
