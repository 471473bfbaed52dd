//! TLS towards clients: the certificate in force, its renewal while sessions go on, and the handshake.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::StartHandshake;

use super::files::{self, Stamp, TlsError, Watch};
use super::{ALPN, certificate, description, provider};
use crate::config::{ClientSslMode, ClientTls};
use crate::stream::Stream;

/// What a client that is encrypted has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Secured {
    /// What SCRAM binds to; `None` if the router's certificate cannot be bound to.
    pub(crate) end_point: Option<Vec<u8>>,
    /// Version and cipher suite.
    pub(crate) description: String,
    /// The name that the client asked for (SNI), in lower case.
    pub(crate) server_name: Option<String>,
    /// The client's certificate, which one of the authorities has signed.
    pub(crate) certificate: Option<ClientCertificate>,
}

/// A certificate that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// The common name of its subject.
    pub(crate) common_name: Option<String>,
}

/// Why a TLS handshake with a client failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientHandshakeError {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("the client closed the connection")]
    Closed,
    #[error("TLS failed")]
    Tls(#[from] rustls::Error),
    /// As PostgreSQL: another protocol's client must not be tricked into a session with this one.
    #[error("direct TLS without the ALPN protocol postgresql")]
    Alpn,
    #[error("TLS is switched off")]
    Off,
}

/// TLS towards clients.
#[derive(Debug)]
pub(crate) struct Clients {
    current: ArcSwap<ClientSide>,
    /// Held from before `current` is read until it is exchanged: settings that are put into force meanwhile would be
    /// undone.
    watch: Mutex<Watch>,
}

/// Settings, and what was read because of them.
#[derive(Debug)]
pub(crate) struct ClientSide {
    pub(crate) settings: ClientTls,
    /// `None` while TLS is switched off.
    identity: Option<Identity>,
    stamps: Vec<Stamp>,
}

/// What the router shows of itself, as of one reading of the files.
#[derive(Debug)]
struct Identity {
    config: Arc<ServerConfig>,
    facts: certificate::Facts,
}

impl ClientSide {
    /// Reads the files; nothing changes yet.
    pub(crate) fn read(settings: &ClientTls) -> Result<Self, TlsError> {
        // Before the files are read: what changes meanwhile is seen as a change later.
        let stamps = stamps(settings);
        let identity = match settings.sslmode {
            ClientSslMode::Disable => None,
            _ => Some(Identity::load(settings)?),
        };
        Ok(Self {
            settings: settings.clone(),
            identity,
            stamps,
        })
    }

    /// Whether a client that asks for encryption gets it.
    pub(crate) fn is_available(&self) -> bool {
        self.identity.is_some()
    }

    /// `ID.SUFFIX` names tenant ID.
    pub(crate) fn sni_suffix(&self) -> Option<&str> {
        self.settings.sni_suffix.as_deref()
    }

    /// When the certificate expires, in seconds since 1970.
    pub(crate) fn not_after(&self) -> Option<i64> {
        self.identity
            .as_ref()
            .map(|identity| identity.facts.not_after)
    }
}

impl Clients {
    pub(crate) fn new(state: ClientSide) -> Self {
        Self {
            watch: Mutex::new(Watch::new(state.stamps.clone())),
            current: ArcSwap::from_pointee(state),
        }
    }

    /// What is in force; a connection keeps to what it began with.
    pub(crate) fn current(&self) -> Arc<ClientSide> {
        self.current.load_full()
    }

    /// Puts what was read into force. Sessions that are open keep what they have.
    pub(crate) fn adopt(&self, state: ClientSide) {
        let mut watch = self.watch.lock();
        *watch = Watch::new(state.stamps.clone());
        self.current.store(Arc::new(state));
    }

    /// Reads the files again if they have changed; true if they are in force now. What cannot be used changes
    /// nothing, and is told once per change.
    pub(crate) fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let mut watch = self.watch.lock();
        let current = self.current();
        if !watch.has_changed(stamps(&current.settings)) {
            return Ok(false);
        }
        let state = ClientSide::read(&current.settings)?;
        *watch = Watch::new(state.stamps.clone());
        self.current.store(Arc::new(state));
        Ok(true)
    }
}

impl ClientSide {
    /// The handshake with a client whose first bytes may have been read already.
    pub(crate) async fn accept(
        &self,
        mut socket: TcpStream,
        mut input: BytesMut,
        direct: bool,
    ) -> Result<(Stream, Secured), ClientHandshakeError> {
        let identity = self.identity.as_ref().ok_or(ClientHandshakeError::Off)?;
        let hello = client_hello(&mut socket, &mut input).await?;
        if direct && !offers_postgresql(&hello) {
            return Err(ClientHandshakeError::Alpn);
        }
        let stream = StartHandshake::from_parts(hello, socket)
            .into_stream(Arc::clone(&identity.config))
            .await?;
        let (_, session) = stream.get_ref();
        let certificate = session
            .peer_certificates()
            .and_then(|chain| certificate::facts(chain.first()?))
            .map(|facts| ClientCertificate {
                common_name: facts.common_name,
            });
        let secured = Secured {
            end_point: identity.facts.end_point.clone(),
            description: description(session),
            server_name: session.server_name().map(str::to_ascii_lowercase),
            certificate,
        };
        Ok((Stream::tls(stream.into()), secured))
    }
}

fn stamps(settings: &ClientTls) -> Vec<Stamp> {
    files::stamps([&settings.cert_file, &settings.key_file, &settings.ca_file])
}

/// Reads up to the end of the ClientHello.
async fn client_hello(
    socket: &mut TcpStream,
    input: &mut BytesMut,
) -> Result<Accepted, ClientHandshakeError> {
    let mut acceptor = Acceptor::default();
    loop {
        while !input.is_empty() {
            let mut rest = &input[..];
            let taken = acceptor.read_tls(&mut rest)?;
            input.advance(taken);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                socket.write_all(&bytes).await?;
                return Err(error.into());
            }
        }
        if socket.read_buf(input).await? == 0 {
            return Err(ClientHandshakeError::Closed);
        }
    }
}

fn offers_postgresql(hello: &Accepted) -> bool {
    let hello = hello.client_hello();
    hello
        .alpn()
        .is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN))
}

impl Identity {
    fn load(settings: &ClientTls) -> Result<Self, TlsError> {
        let cert_file = named(&settings.cert_file, "client_tls_cert_file")?;
        let key_file = named(&settings.key_file, "client_tls_key_file")?;
        let chain = files::certificates(cert_file)?;
        let key = files::private_key(key_file)?;
        let unusable = |source| TlsError::Unusable {
            path: cert_file.clone(),
            source,
        };
        let facts = chain
            .first()
            .and_then(|first| certificate::facts(first))
            .ok_or_else(|| unusable(rustls::CertificateError::BadEncoding.into()))?;
        if facts.not_after <= jiff::Timestamp::now().as_second() {
            return Err(TlsError::Expired {
                path: cert_file.clone(),
            });
        }
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = if settings.sslmode.wants_certificate() {
            builder.with_client_cert_verifier(verifier(settings)?)
        } else {
            builder.with_no_client_auth()
        };
        // Fails if the key is another certificate's.
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As in PostgreSQL: sessions last, and a ticket would outlive a certificate that was withdrawn.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            facts,
        })
    }
}

/// A client without a certificate gets through the handshake, so that it can be told in words.
fn verifier(
    settings: &ClientTls,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let ca_file = named(&settings.ca_file, "client_tls_ca_file")?;
    let roots = Arc::new(files::authorities(ca_file)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|source| TlsError::Authorities {
            path: ca_file.clone(),
            source,
        })
}

fn named<'s>(
    path: &'s Option<std::path::PathBuf>,
    key: &'static str,
) -> Result<&'s std::path::PathBuf, TlsError> {
    path.as_ref().ok_or(TlsError::Unset(key))
}
