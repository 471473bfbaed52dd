//! The exchange before authentication, as states that are consumed.
//!
//! A client may ask for TLS and for GSSAPI encryption, once each and in either order, and then starts a session or
//! cancels another. The state owns what was asked already, so that nothing can be asked twice.

use super::{CancelKey, InitialRequest, ProtocolVersion, StartupError, StartupParams, decode};
use crate::sqlstate;

/// What the router does about TLS on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// No certificate is configured: SSLRequest is answered `N`.
    Unavailable,
    /// SSLRequest is answered `S`.
    Available,
    /// The connection is encrypted already.
    Established,
}

/// The state of a connection that has not started a session yet.
#[derive(Debug)]
#[must_use]
pub struct Handshake {
    encryption: Encryption,
    ssl_asked: bool,
    gss_asked: bool,
}

/// What the client's bytes lead to.
#[derive(Debug)]
pub enum Progress {
    /// The message is incomplete: read more and call again with this state.
    NeedMore(Handshake),
    /// Consume `consumed` bytes, send `reply`, go on with `next`.
    Reply {
        /// `N`: not available.
        reply: u8,
        /// Bytes of the request.
        consumed: usize,
        /// The state after the reply.
        next: Handshake,
    },
    /// Consume `consumed` bytes, send `reply`, do the TLS handshake, and go on with `next` inside it.
    StartTls {
        /// `S`: available.
        reply: u8,
        /// Bytes of the request; the buffer is empty behind them.
        consumed: usize,
        /// The state inside TLS.
        next: Handshake,
    },
    /// The bytes are a TLS ClientHello (direct TLS): give them to TLS unconsumed and go on with `next` inside it. The
    /// ALPN protocol must be `postgresql`.
    DirectTls {
        /// The state inside TLS.
        next: Handshake,
    },
    /// A cancel request: act on it and close without an answer.
    Cancel(CancelKey),
    /// A session starts: consume `consumed` bytes and authenticate.
    Startup {
        /// What was agreed.
        accepted: Accepted,
        /// Bytes of the message.
        consumed: usize,
    },
}

/// A session that may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The client's parameters.
    pub params: StartupParams,
    /// The version both sides speak from now on.
    pub version: ProtocolVersion,
    /// What NegotiateProtocolVersion has to tell the client before authentication, if anything.
    pub negotiation: Option<Negotiation>,
}

/// The content of NegotiateProtocolVersion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation {
    /// The newest minor version spoken here.
    pub newest_minor: u16,
    /// Options of the protocol that are unknown here.
    pub unrecognised: Vec<String>,
}

/// A handshake that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The message itself is malformed.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// Encryption was asked for a second time, or inside encryption.
    #[error("{0} request was made already")]
    RepeatedRequest(&'static str),
    /// Bytes followed a request for encryption before its answer: not encrypted, perhaps not the client's.
    #[error("received unencrypted data after {0} request")]
    EarlyPlaintext(&'static str),
}

impl HandshakeError {
    /// The SQLSTATE that tells the peer.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Startup(error) => error.sqlstate(),
            Self::RepeatedRequest(_) | Self::EarlyPlaintext(_) => sqlstate::PROTOCOL_VIOLATION,
        }
    }

    /// Whether the peer can be expected to understand an ErrorResponse.
    #[must_use]
    pub fn peer_speaks_postgres(&self) -> bool {
        match self {
            Self::Startup(error) => error.peer_speaks_postgres(),
            Self::RepeatedRequest(_) | Self::EarlyPlaintext(_) => true,
        }
    }
}

/// First byte of a TLS record that carries a handshake. As a startup length it would be out of range.
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
/// The newest version spoken here.
const NEWEST: ProtocolVersion = ProtocolVersion::V3_2;

impl Handshake {
    /// The state of a new connection.
    pub fn new(encryption: Encryption) -> Self {
        Self {
            encryption,
            ssl_asked: encryption == Encryption::Established,
            gss_asked: encryption == Encryption::Established,
        }
    }

    /// Reads what the client sent so far; `buffer` holds all bytes not consumed yet.
    ///
    /// # Errors
    /// The client broke the protocol and the connection must end.
    pub fn handle(self, buffer: &[u8]) -> Result<Progress, HandshakeError> {
        if buffer.first() == Some(&TLS_HANDSHAKE_RECORD) && self.may_start_tls() {
            let next = Self::new(Encryption::Established);
            return Ok(Progress::DirectTls { next });
        }
        let Some((request, consumed)) = decode(buffer)? else {
            return Ok(Progress::NeedMore(self));
        };
        let early = buffer.len() > consumed;
        match request {
            InitialRequest::Ssl => self.ssl(consumed, early),
            InitialRequest::GssEnc => self.gss(consumed, early),
            InitialRequest::Cancel(key) => Ok(Progress::Cancel(key)),
            InitialRequest::Startup(params) => Ok(Progress::Startup {
                accepted: accept(params),
                consumed,
            }),
        }
    }

    /// Direct TLS is for the first bytes of a connection only.
    fn may_start_tls(&self) -> bool {
        self.encryption == Encryption::Available && !self.ssl_asked && !self.gss_asked
    }

    fn ssl(self, consumed: usize, early: bool) -> Result<Progress, HandshakeError> {
        if self.ssl_asked {
            return Err(HandshakeError::RepeatedRequest("SSL"));
        }
        if early {
            return Err(HandshakeError::EarlyPlaintext("SSL"));
        }
        match self.encryption {
            Encryption::Available => Ok(Progress::StartTls {
                reply: b'S',
                consumed,
                next: Self::new(Encryption::Established),
            }),
            Encryption::Unavailable | Encryption::Established => Ok(Progress::Reply {
                reply: b'N',
                consumed,
                next: Self {
                    ssl_asked: true,
                    ..self
                },
            }),
        }
    }

    fn gss(self, consumed: usize, early: bool) -> Result<Progress, HandshakeError> {
        if self.gss_asked {
            return Err(HandshakeError::RepeatedRequest("GSSAPI encryption"));
        }
        if early {
            return Err(HandshakeError::EarlyPlaintext("GSSAPI encryption"));
        }
        Ok(Progress::Reply {
            reply: b'N',
            consumed,
            next: Self {
                gss_asked: true,
                ..self
            },
        })
    }
}

/// No protocol option is known here, and a newer minor version than ours is answered with ours.
fn accept(params: StartupParams) -> Accepted {
    let version = params.version.min(NEWEST);
    let unrecognised: Vec<_> = params
        .protocol_options
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let negotiation =
        (version != params.version || !unrecognised.is_empty()).then_some(Negotiation {
            newest_minor: version.minor,
            unrecognised,
        });
    Accepted {
        params,
        version,
        negotiation,
    }
}
