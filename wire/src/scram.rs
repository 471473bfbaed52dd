//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: both sides, without a socket.
//!
//! An exchange takes a message and answers [`Step`]. The server side never sees a password and costs a few hashes; the
//! client side derives keys with PBKDF2, which takes milliseconds, so [`ClientKeys`] can be kept and given to the next
//! exchange with the same server. Secrets are compared in constant time and never shown by `Debug`.

mod client;
mod message;
mod server;
mod verifier;

pub use client::{ClientExchange, ClientKeys};
pub use server::ServerExchange;
pub use verifier::{DEFAULT_ITERATIONS, ParseVerifierError, Verifier};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::sqlstate;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What a message of the peer leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send these bytes and wait for the peer's next message.
    Continue(Vec<u8>),
    /// The peer has proved itself. A server sends these bytes as the final message; a client has nothing to send.
    Success(Vec<u8>),
    /// The exchange is over and the peer is not who it says, or does not speak SCRAM.
    Failure(ScramError),
}

/// How the connection is bound to the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// The connection is not encrypted: there is nothing to bind to.
    Unavailable,
    /// The connection is encrypted and binding is on offer, but the client chose the mechanism without it.
    Offered,
    /// The mechanism with channel binding: the hash of the server's certificate (`tls-server-end-point`).
    ServerEndPoint(Vec<u8>),
}

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message does not follow the grammar.
    #[error("malformed SCRAM message ({0})")]
    Malformed(&'static str),
    /// The client wants to act as somebody else, or uses an extension it declares mandatory.
    #[error("SCRAM exchange uses an unsupported feature ({0})")]
    Unsupported(&'static str),
    /// The client's view of channel binding differs from the server's: perhaps somebody is in the middle.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The nonce is not the one of this exchange.
    #[error("invalid SCRAM response (nonce does not match)")]
    Nonce,
    /// The client does not know the password, or there is no such user.
    #[error("password authentication failed")]
    WrongPassword,
    /// The server does not know the password either: it is not the server it says.
    #[error("incorrect server signature")]
    ServerSignature,
    /// The server refused and says why.
    #[error("server refused SCRAM exchange: {0}")]
    Refused(String),
    /// A message after the end of the exchange.
    #[error("SCRAM exchange is already finished")]
    Finished,
}

impl ScramError {
    /// The SQLSTATE that tells the client.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::WrongPassword => sqlstate::INVALID_PASSWORD,
            Self::ChannelBinding => sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::Unsupported(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::ServerSignature | Self::Refused(_) => sqlstate::CONNECTION_FAILURE,
            Self::Malformed(_) | Self::Nonce | Self::Finished => sqlstate::PROTOCOL_VIOLATION,
        }
    }
}

type Key = [u8; 32];

fn sha256(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

/// HMAC-SHA-256 over the parts. HMAC pads keys with zeros to the block size, so padding here changes nothing and
/// leaves no length that could be refused.
fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let mut block = [0; 64];
    let (front, _) = block.split_at_mut(key.len());
    front.copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// 18 random bytes in base64, as PostgreSQL and libpq make them.
fn random_nonce() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 18]>())
}

#[cfg(test)]
mod tests;
