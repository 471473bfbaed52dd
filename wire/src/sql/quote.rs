//! Quoting of names and strings for statements that the router itself writes.

use super::keywords::may_be_name;

/// A name as an identifier, in quotes unless it means the same without.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    let is_plain =
        |(i, c): (usize, u8)| c.is_ascii_lowercase() || c == b'_' || (i > 0 && c.is_ascii_digit());
    if !name.is_empty() && name.bytes().enumerate().all(is_plain) && may_be_name(name) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as a literal that means the same whatever `standard_conforming_strings` is.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}
