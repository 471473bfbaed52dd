//! Appending to an outgoing buffer: frames with their length filled in afterwards, strings, values.

use bytes::{BufMut, BytesMut};

/// Appends a message of type `tag` whose body `body` writes.
///
/// The length field is patched once the body is there. No body of ours approaches the field's two gigabytes; a
/// length that does not fit is sent as the largest one, which every peer refuses.
pub(crate) fn frame(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    untagged(out, body);
}

/// Appends a message without a body.
pub(crate) fn bare(out: &mut BytesMut, tag: u8) {
    out.extend_from_slice(&[tag, 0, 0, 0, 4]);
}

/// Appends a message that has no type byte, as those before startup.
pub(crate) fn untagged(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    body(out);
    let len = length(out.len() - start);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Appends a string and its terminator. The protocol cannot carry a zero byte inside a string: as for a C
/// program, the string ends there, so that no value can smuggle in a field.
pub(crate) fn cstr(out: &mut BytesMut, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or(text));
    out.put_u8(0);
}

/// Appends a value with its length; `None` is NULL.
pub(crate) fn value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            out.put_i32(length(value.len()));
            out.extend_from_slice(value);
        }
        None => out.put_i32(-1),
    }
}

/// Appends a 16-bit count. More than 65,535 things cannot be said; callers stay far below (PostgreSQL's own limit
/// on columns is 1,664).
pub(crate) fn count(out: &mut BytesMut, count: usize) {
    out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

pub(crate) fn length(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}
