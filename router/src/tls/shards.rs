//! TLS towards shards: SSLRequest, the handshake, and how much of a server's certificate is checked.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tenantry_wire::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::files::{self, Stamp, TlsError, Watch};
use super::{ALPN, certificate, description, provider};
use crate::config::{ServerSslMode, ServerTls};
use crate::stream::Stream;

/// Why a connection to a shard is not encrypted as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShardTlsError {
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("the server does not support TLS, and server_tls_sslmode asks for it")]
    Refused,
    #[error("the server answered SSLRequest with {0:?}")]
    Answer(char),
    #[error("the shard's host is no name that a certificate could be for")]
    Name(#[source] InvalidDnsNameError),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// TLS towards shards.
#[derive(Debug)]
pub(crate) struct Shards {
    current: ArcSwap<ShardSide>,
    /// Held from before `current` is read until it is exchanged: settings that are put into force meanwhile would be
    /// undone.
    watch: Mutex<Watch>,
}

/// Settings, and what was read because of them.
#[derive(Debug)]
pub(crate) struct ShardSide {
    settings: ServerTls,
    config: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
}

/// A connection on which startup may begin.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    /// What SCRAM can bind to, on an encrypted connection.
    pub(crate) end_point: Option<Vec<u8>>,
    /// Version and cipher suite; empty without encryption.
    pub(crate) description: String,
}

impl ShardSide {
    /// Reads the authorities; nothing changes yet.
    pub(crate) fn read(settings: &ServerTls) -> Result<Self, TlsError> {
        // Before the file is read: what changes meanwhile is seen as a change later.
        let stamps = files::stamps([&settings.ca_file]);
        Ok(Self {
            config: Arc::new(config(settings)?),
            settings: settings.clone(),
            stamps,
        })
    }
}

impl Shards {
    pub(crate) fn new(state: ShardSide) -> Self {
        Self {
            watch: Mutex::new(Watch::new(state.stamps.clone())),
            current: ArcSwap::from_pointee(state),
        }
    }

    pub(crate) fn mode(&self) -> ServerSslMode {
        self.current.load().settings.sslmode
    }

    /// Puts what was read into force. Connections that are open keep what they have.
    pub(crate) fn adopt(&self, state: ShardSide) {
        let mut watch = self.watch.lock();
        *watch = Watch::new(state.stamps.clone());
        self.current.store(Arc::new(state));
    }

    /// Reads the authorities again if they have changed; true if they are in force now.
    pub(crate) fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let mut watch = self.watch.lock();
        let current = self.current.load_full();
        if !watch.has_changed(files::stamps([&current.settings.ca_file])) {
            return Ok(false);
        }
        let state = ShardSide::read(&current.settings)?;
        *watch = Watch::new(state.stamps.clone());
        self.current.store(Arc::new(state));
        Ok(true)
    }

    /// Asks for encryption as the mode says.
    pub(crate) async fn open(
        &self,
        socket: TcpStream,
        host: &str,
    ) -> Result<Opened, ShardTlsError> {
        let state = self.current.load_full();
        match state.settings.sslmode {
            ServerSslMode::Disable => Ok(Opened::plain(socket)),
            _ => state.negotiate(socket, host).await,
        }
    }
}

impl ShardSide {
    async fn negotiate(&self, mut socket: TcpStream, host: &str) -> Result<Opened, ShardTlsError> {
        let mut request = BytesMut::new();
        frontend::put_ssl_request(&mut request);
        socket
            .write_all(&request)
            .await
            .map_err(ShardTlsError::Io)?;
        // Exactly one byte: what follows belongs to TLS, whoever sent it.
        match socket.read_u8().await.map_err(ShardTlsError::Io)? {
            b'S' => self.handshake(socket, host).await,
            b'N' if self.settings.sslmode == ServerSslMode::Prefer => Ok(Opened::plain(socket)),
            b'N' => Err(ShardTlsError::Refused),
            other => Err(ShardTlsError::Answer(char::from(other))),
        }
    }

    async fn handshake(&self, socket: TcpStream, host: &str) -> Result<Opened, ShardTlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(ShardTlsError::Name)?;
        let stream = TlsConnector::from(Arc::clone(&self.config))
            .connect(name, socket)
            .await
            .map_err(ShardTlsError::Handshake)?;
        let (_, session) = stream.get_ref();
        let end_point = session
            .peer_certificates()
            .and_then(|chain| certificate::facts(chain.first()?))
            .and_then(|facts| facts.end_point);
        let description = description(session);
        Ok(Opened {
            stream: Stream::tls(stream.into()),
            end_point,
            description,
        })
    }
}

impl Opened {
    pub(crate) fn plain(socket: TcpStream) -> Self {
        Self {
            stream: Stream::Plain(socket),
            end_point: None,
            description: String::new(),
        }
    }
}

fn config(settings: &ServerTls) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match (settings.sslmode, &settings.ca_file) {
        (ServerSslMode::VerifyFull, Some(path)) => {
            let roots = Arc::new(files::authorities(path)?);
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|source| TlsError::Authorities {
                    path: path.clone(),
                    source,
                })?
        }
        (ServerSslMode::VerifyCa, Some(path)) => Arc::new(WithoutName {
            roots: Some(files::authorities(path)?),
            provider: Arc::clone(&provider),
        }),
        (ServerSslMode::VerifyCa | ServerSslMode::VerifyFull, None) => {
            return Err(TlsError::Unset("server_tls_ca_file"));
        }
        (ServerSslMode::Disable | ServerSslMode::Prefer | ServerSslMode::Require, _) => {
            Arc::new(WithoutName {
                roots: None,
                provider: Arc::clone(&provider),
            })
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Unusable {
            path: settings.ca_file.clone().unwrap_or_default(),
            source,
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL gives no tickets.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What libpq's `require` and `verify-ca` check: that the server has the key of its certificate, and for the latter
/// that an authority signed it, whoever it is for.
#[derive(Debug)]
struct WithoutName {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for WithoutName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
