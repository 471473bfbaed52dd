//! Framing: where one message ends and the next begins, in a buffer that the caller owns.
//!
//! A message is a type byte, a 32-bit length that counts itself and the body, and the body. Lengths are checked
//! against a limit before anyone allocates for them. The untagged messages before startup are
//! [`crate::startup`]'s.

use bytes::{Bytes, BytesMut};

use crate::{sqlstate, tag::frontend};

/// Largest length field of a message that carries data, as PostgreSQL has it (`PQ_LARGE_MESSAGE_LIMIT`).
pub const LARGE_MESSAGE_LIMIT: usize = 0x3fff_ffff - 1;
/// Largest length field of a message that carries at most a name (`PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL_MESSAGE_LIMIT: usize = 10_000;
/// Largest length field of a message during authentication (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub const AUTHENTICATION_LIMIT: usize = 65_535;
/// Type byte and length field.
pub const HEAD_LEN: usize = 5;

/// Type and extent of the message at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// The message's type byte.
    pub tag: u8,
    /// Bytes of the whole message, type byte and length field included.
    pub total: usize,
}

impl FrameHead {
    /// Bytes of the body.
    #[must_use]
    pub fn body_len(self) -> usize {
        self.total - HEAD_LEN
    }
}

/// A length field that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than the length field itself.
    #[error("invalid message length {len} for message type {}", printable(*tag))]
    TooShort {
        /// The message's type byte.
        tag: u8,
        /// What the length field said.
        len: u32,
    },
    /// Longer than such a message may be.
    #[error("message of type {} has length {len}, the limit is {limit}", printable(*tag))]
    TooLong {
        /// The message's type byte.
        tag: u8,
        /// What the length field said.
        len: u32,
        /// The largest length allowed here.
        limit: usize,
    },
    /// A type byte that a client never sends.
    #[error("invalid frontend message type {0}")]
    UnknownType(u8),
}

impl FrameError {
    /// The SQLSTATE that tells the peer. Framing is lost: the connection must end.
    #[must_use]
    pub fn sqlstate(self) -> &'static str {
        sqlstate::PROTOCOL_VIOLATION
    }
}

fn printable(tag: u8) -> String {
    std::ascii::escape_default(tag).to_string()
}

/// Reads the head of the message at the start of `buffer`, which may hold less than the whole message.
///
/// `limit` bounds the length field. `None` means that fewer than five bytes are there.
///
/// # Errors
/// The length field is below 4 or above `limit`.
pub fn peek(buffer: &[u8], limit: usize) -> Result<Option<FrameHead>, FrameError> {
    let Some(&[tag, l0, l1, l2, l3]) = buffer.first_chunk::<HEAD_LEN>() else {
        return Ok(None);
    };
    head(tag, u32::from_be_bytes([l0, l1, l2, l3]), limit).map(Some)
}

/// Reads the head of a client's message; the limit is the one PostgreSQL has for its type.
///
/// # Errors
/// No such type, or a length field below 4 or above the type's limit.
pub fn peek_frontend(buffer: &[u8]) -> Result<Option<FrameHead>, FrameError> {
    let Some(&tag) = buffer.first() else {
        return Ok(None);
    };
    let limit = frontend_limit(tag).ok_or(FrameError::UnknownType(tag))?;
    peek(buffer, limit)
}

fn head(tag: u8, len: u32, limit: usize) -> Result<FrameHead, FrameError> {
    if len < 4 {
        return Err(FrameError::TooShort { tag, len });
    }
    let field = usize::try_from(len).unwrap_or(usize::MAX);
    if field > limit {
        return Err(FrameError::TooLong { tag, len, limit });
    }
    Ok(FrameHead {
        tag,
        total: field + 1,
    })
}

/// The largest length field of a client's message of this type after startup; `None` if there is no such type.
#[must_use]
pub fn frontend_limit(tag: u8) -> Option<usize> {
    match tag {
        frontend::QUERY
        | frontend::PARSE
        | frontend::BIND
        | frontend::FUNCTION_CALL
        | frontend::COPY_DATA => Some(LARGE_MESSAGE_LIMIT),
        frontend::CLOSE
        | frontend::DESCRIBE
        | frontend::EXECUTE
        | frontend::FLUSH
        | frontend::SYNC
        | frontend::TERMINATE
        | frontend::COPY_DONE
        | frontend::COPY_FAIL => Some(SMALL_MESSAGE_LIMIT),
        frontend::PASSWORD => Some(AUTHENTICATION_LIMIT),
        _ => None,
    }
}

/// One whole message, borrowed from a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message's type byte.
    pub tag: u8,
    /// What follows the length field.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The whole message at the start of `buffer` and the bytes it takes, or `None` while it is incomplete.
    ///
    /// # Errors
    /// As [`peek`].
    pub fn decode(buffer: &'a [u8], limit: usize) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(head) = peek(buffer, limit)? else {
            return Ok(None);
        };
        Ok(buffer.get(HEAD_LEN..head.total).map(|body| {
            let frame = Self {
                tag: head.tag,
                body,
            };
            (frame, head.total)
        }))
    }
}

/// One whole message that owns a share of the buffer it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The message's type byte.
    pub tag: u8,
    /// The whole message as it travels: type byte, length, body.
    pub bytes: Bytes,
}

impl Message {
    /// Takes the message at the start of `buffer`, or leaves `buffer` as it is while the message is incomplete.
    ///
    /// # Errors
    /// As [`peek`].
    pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Self>, FrameError> {
        match peek(buffer, limit)? {
            Some(head) if buffer.len() >= head.total => Ok(Some(Self {
                tag: head.tag,
                bytes: buffer.split_to(head.total).freeze(),
            })),
            _ => Ok(None),
        }
    }

    /// What follows the length field.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEAD_LEN..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_head_needs_five_bytes_and_no_body() {
        assert_eq!(peek(b"Q\0\0\0", 100), Ok(None));
        let head = peek(b"Q\0\0\0\x09", 100).unwrap().unwrap();
        assert_eq!((head.tag, head.total, head.body_len()), (b'Q', 10, 5));
    }

    #[test]
    fn lengths_are_refused_before_the_body_is_there() {
        let short = peek(b"S\0\0\0\x03", 100).unwrap_err();
        assert_eq!(
            short.to_string(),
            "invalid message length 3 for message type S"
        );
        let long = peek(b"\xff\x7f\xff\xff\xff", 100).unwrap_err();
        assert_eq!(
            long.to_string(),
            "message of type \\xff has length 2147483647, the limit is 100"
        );
        assert_eq!(long.sqlstate(), "08P01");
        assert!(peek(b"Q\xff\xff\xff\xff", LARGE_MESSAGE_LIMIT).is_err());
    }

    #[test]
    fn client_messages_have_the_limits_of_their_type() {
        assert!(peek_frontend(b"Q\0\x01\0\0").unwrap().is_some());
        assert!(matches!(
            peek_frontend(b"S\0\x01\0\0"),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(peek_frontend(b"z"), Err(FrameError::UnknownType(b'z')));
        assert_eq!(peek_frontend(b""), Ok(None));
    }

    #[test]
    fn messages_are_taken_whole_or_not_at_all() {
        let mut buffer = BytesMut::from(&b"S\0\0\0\x04Q\0\0\0\x06a"[..]);
        let sync = Message::take(&mut buffer, 100).unwrap().unwrap();
        assert_eq!((sync.tag, sync.body()), (b'S', &b""[..]));
        assert_eq!(Message::take(&mut buffer, 100), Ok(None));
        buffer.extend_from_slice(b"\0");
        let query = Message::take(&mut buffer, 100).unwrap().unwrap();
        assert_eq!(query.body(), b"a\0");
        assert!(buffer.is_empty());
    }
}
