//! The grammar of SCRAM messages: attributes `x=value` separated by commas.

use super::ScramError;

/// Takes the value of attribute `name` from the front of `rest`, and the comma behind it if more follows.
pub(super) fn attribute<'a>(
    rest: &mut &'a str,
    name: char,
    missing: &'static str,
) -> Result<&'a str, ScramError> {
    let value = rest
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('='))
        .ok_or(ScramError::Malformed(missing))?;
    let (value, tail) = value.split_once(',').unwrap_or((value, ""));
    *rest = tail;
    Ok(value)
}

/// SCRAM messages are UTF-8 without zero bytes.
pub(super) fn text(bytes: &[u8]) -> Result<&str, ScramError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(ScramError::Malformed("not a text")),
    }
}

/// Printable ASCII without a comma, and not empty.
pub(super) fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|c| c.is_ascii_graphic() && c != b',')
}
