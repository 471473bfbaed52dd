//! Before the session: the untagged first messages, and what they may ask for.
//!
//! PostgreSQL documentation, "Start-up" and "Message Formats". Limits and texts follow PostgreSQL's, so that a
//! driver sees what it would see from a server.

mod handshake;
mod options;

pub use handshake::{Accepted, Encryption, Handshake, HandshakeError, Negotiation, Progress};
pub use options::{OptionsError, parse_options};

use crate::{MessageError, reader::Reader, sqlstate};

/// Most bytes of a startup packet after its length field (`MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_LIMIT: usize = 10_000;
/// Longest secret of a cancel request.
pub const CANCEL_KEY_LIMIT: usize = 256;
/// Code of CancelRequest, in the place of a version.
pub const CANCEL_REQUEST_CODE: u32 = (1234 << 16) | 5678;
/// Code of SSLRequest.
pub const SSL_REQUEST_CODE: u32 = (1234 << 16) | 5679;
/// Code of GSSENCRequest.
pub const GSSENC_REQUEST_CODE: u32 = (1234 << 16) | 5680;

/// A protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// 3 for every version in use.
    pub major: u16,
    /// 0 for most drivers, 2 since PostgreSQL 18.
    pub minor: u16,
}

impl ProtocolVersion {
    /// Protocol 3.0: cancel keys of four bytes.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// Protocol 3.2: cancel keys of variable length.
    pub const V3_2: Self = Self { major: 3, minor: 2 };
}

impl std::fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The first message of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialRequest {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    GssEnc,
    /// CancelRequest.
    Cancel(CancelKey),
    /// StartupMessage.
    Startup(StartupParams),
}

/// What a cancel request names.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id from BackendKeyData.
    pub pid: i32,
    /// Secret from BackendKeyData, 4 to 256 bytes.
    pub key: Vec<u8>,
}

/// The key is a secret: whoever knows it may cancel.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey")
            .field("pid", &self.pid)
            .field("key_len", &self.key.len())
            .finish()
    }
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupParams {
    /// The protocol version the client asks for; the major number is 3.
    pub version: ProtocolVersion,
    /// Parameters in the order they came, without the protocol options.
    pub parameters: Vec<(String, String)>,
    /// Options of the protocol itself, names with their prefix `_pq_.`.
    pub protocol_options: Vec<(String, String)>,
}

impl StartupParams {
    /// The value of a parameter; the last one counts, as in PostgreSQL.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The user, if one is named.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.parameter("user").filter(|user| !user.is_empty())
    }

    /// The database, which defaults to the user's name.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        self.parameter("database")
            .filter(|database| !database.is_empty())
            .or_else(|| self.user())
    }
}

/// A first message that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// A length field that no startup packet can have. Whatever speaks here may not be a PostgreSQL client.
    #[error("invalid length of startup packet")]
    Length(u32),
    /// A request of fixed size that has another.
    #[error("invalid length of {request} packet")]
    RequestLength {
        /// Which request.
        request: &'static str,
    },
    /// A version that is not 3.x.
    #[error("unsupported frontend protocol {0}: server supports 3.0 to 3.2")]
    UnsupportedVersion(ProtocolVersion),
    /// Names and values do not end with a terminator as the last byte.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// A name or value that is not UTF-8.
    #[error("startup parameters must be UTF-8")]
    NotUtf8,
}

impl StartupError {
    /// The SQLSTATE that tells the peer.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::UnsupportedVersion(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::NotUtf8 => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            Self::Length(_) | Self::RequestLength { .. } | Self::Layout => {
                sqlstate::PROTOCOL_VIOLATION
            }
        }
    }

    /// Whether the peer can be expected to understand an ErrorResponse. Behind a length out of range there is
    /// rather another protocol; PostgreSQL closes such a connection without a word.
    #[must_use]
    pub fn peer_speaks_postgres(&self) -> bool {
        !matches!(self, Self::Length(_))
    }
}

/// Reads the first message at the start of `buffer` and the bytes it takes, or `None` while it is incomplete.
///
/// # Errors
/// The message breaks the protocol; lengths are refused before the rest is waited for.
pub fn decode(buffer: &[u8]) -> Result<Option<(InitialRequest, usize)>, StartupError> {
    let Some(field) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let field = u32::from_be_bytes(*field);
    let total = usize::try_from(field).unwrap_or(usize::MAX);
    if !(8..=STARTUP_LIMIT + 4).contains(&total) {
        return Err(StartupError::Length(field));
    }
    let Some(body) = buffer.get(4..total) else {
        return Ok(None);
    };
    request(body).map(|request| Some((request, total)))
}

fn request(body: &[u8]) -> Result<InitialRequest, StartupError> {
    let mut reader = Reader::new(body);
    let code = reader.u32().map_err(|_| StartupError::Layout)?;
    let plain = |request, name| match reader.rest() {
        [] => Ok(request),
        _ => Err(StartupError::RequestLength { request: name }),
    };
    match code {
        SSL_REQUEST_CODE => plain(InitialRequest::Ssl, "SSLRequest"),
        GSSENC_REQUEST_CODE => plain(InitialRequest::GssEnc, "GSSENCRequest"),
        CANCEL_REQUEST_CODE => cancel(reader).map(InitialRequest::Cancel),
        version => {
            let [a, b, c, d] = version.to_be_bytes();
            let version = ProtocolVersion {
                major: u16::from_be_bytes([a, b]),
                minor: u16::from_be_bytes([c, d]),
            };
            startup(version, reader).map(InitialRequest::Startup)
        }
    }
}

fn cancel(mut reader: Reader<'_>) -> Result<CancelKey, StartupError> {
    let wrong = StartupError::RequestLength {
        request: "CancelRequest",
    };
    let Ok(pid) = reader.i32() else {
        return Err(wrong);
    };
    let key = reader.rest();
    if !(4..=CANCEL_KEY_LIMIT).contains(&key.len()) {
        return Err(wrong);
    }
    Ok(CancelKey {
        pid,
        key: key.to_vec(),
    })
}

fn startup(version: ProtocolVersion, reader: Reader<'_>) -> Result<StartupParams, StartupError> {
    if version.major != 3 {
        return Err(StartupError::UnsupportedVersion(version));
    }
    let mut params = StartupParams {
        version,
        parameters: Vec::new(),
        protocol_options: Vec::new(),
    };
    let layout = |_: MessageError| StartupError::Layout;
    let mut reader = reader;
    loop {
        let name = reader.cstr().map_err(layout)?;
        if name.is_empty() {
            break;
        }
        let pair = (utf8(name)?, utf8(reader.cstr().map_err(layout)?)?);
        if name.starts_with(b"_pq_.") {
            params.protocol_options.push(pair);
        } else {
            params.parameters.push(pair);
        }
    }
    reader.finish().map_err(layout)?;
    Ok(params)
}

fn utf8(bytes: &[u8]) -> Result<String, StartupError> {
    let text = std::str::from_utf8(bytes).map_err(|_| StartupError::NotUtf8)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
