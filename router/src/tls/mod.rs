//! TLS towards clients and shards: what is read from files, and what a handshake leads to.
//!
//! rustls speaks it. Nothing here decides who may log in; that is for `login` and `server`, which are told what the
//! handshake has shown.

mod certificate;
mod clients;
mod files;
mod shards;

pub(crate) use clients::{ClientHandshakeError, ClientSide, Clients, Secured};
pub use files::TlsError;
pub(crate) use shards::{Opened, ShardSide, ShardTlsError, Shards};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{CommonState, ProtocolVersion};

/// PostgreSQL's name in the registry of ALPN protocols.
const ALPN: &[u8] = b"postgresql";

/// The one implementation of cryptography, named so that no other crate's choice decides.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// As PgBouncer shows it: `TLSv1.3/TLS13_AES_256_GCM_SHA384`.
fn description(session: &CommonState) -> String {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    match session.negotiated_cipher_suite() {
        Some(suite) => format!("{version}/{:?}", suite.suite()),
        None => version.to_owned(),
    }
}
