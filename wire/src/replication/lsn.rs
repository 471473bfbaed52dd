//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log of one server: bytes since its beginning. Written `X/Y`, two hexadecimal halves.
/// Positions of different servers have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position. As the start of a stream it means wherever the slot stands.
    pub const INVALID: Self = Self(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a position in the write-ahead log: {0:?}")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// As PostgreSQL reads `pg_lsn`: one to eight hexadecimal digits on either side of the slash.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = matches!(digits.len(), 1..=8)
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain
                .then(|| u64::from_str_radix(digits, 16).ok())
                .flatten()
        };
        let (high, low) = text.split_once('/').unwrap_or_default();
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Self(high << 32 | low)),
            _ => Err(ParseLsnError(text.to_owned())),
        }
    }
}
