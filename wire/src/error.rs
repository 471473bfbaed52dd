//! What a message body that breaks the protocol is answered with.
//!
//! These errors say that the peer misbehaved. Misuse of the builders by our own code cannot be expressed: they
//! take what they can encode.

use crate::sqlstate;

/// A message whose body does not follow its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body ends before the field does.
    #[error("insufficient data left in message")]
    Truncated,
    /// A string has no terminating zero byte.
    #[error("invalid string in message")]
    UnterminatedString,
    /// Bytes follow the last field.
    #[error("invalid message format")]
    TrailingBytes,
    /// A count or length is negative where only -1 or nothing may be.
    #[error("invalid length {0} in message")]
    NegativeLength(i32),
    /// A number of format codes that is neither none, one, nor one for each value.
    #[error("message has {formats} formats but {values} values")]
    FormatCount {
        /// Format codes present.
        formats: usize,
        /// Values present.
        values: usize,
    },
    /// A format code other than text (0) and binary (1).
    #[error("unsupported format code: {0}")]
    FormatCode(i16),
    /// Describe or Close of neither a statement (S) nor a portal (P).
    #[error("invalid message subtype {0}")]
    TargetKind(u8),
    /// ReadyForQuery with a status other than I, T and E.
    #[error("invalid transaction status {0}")]
    TransactionStatus(u8),
    /// An authentication request of a kind that does not exist.
    #[error("unknown authentication request {0}")]
    AuthenticationKind(i32),
    /// A byte that says of what kind a part of the replication stream is, and does not exist or must not stand here.
    #[error("unexpected byte {0} in replication stream")]
    ReplicationKind(u8),
    /// Text that must be UTF-8 and is not.
    #[error("invalid byte sequence for encoding \"UTF8\"")]
    NotUtf8,
}

impl MessageError {
    /// The SQLSTATE that tells the peer.
    #[must_use]
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::NotUtf8 => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            Self::FormatCode(_) => sqlstate::INVALID_PARAMETER_VALUE,
            _ => sqlstate::PROTOCOL_VIOLATION,
        }
    }
}
