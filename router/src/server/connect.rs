//! Opening a server connection: startup, SCRAM, the settings every connection starts with, the
//! backend's identity, and the statement that binds tenants.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use std::time::Duration;

use bytes::BytesMut;
use tenantry_schema::guard::GuardKey;
use tenantry_schema::shard::Shard;
use tenantry_wire::backend::{self, Authentication, ErrorFields, TxStatus};
use tenantry_wire::frame::{LARGE_MESSAGE_LIMIT, Message};
use tenantry_wire::frontend;
use tenantry_wire::scram::{
    ChannelBinding, ClientExchange, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Step,
};
use tenantry_wire::startup::ProtocolVersion;
use tenantry_wire::tag::backend as tag;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{
    BIND_STATEMENT, BIND_TEXT, BackendKey, Bound, Link, PreparedCache, Server, ServerState,
};
use crate::activity::{Activity, ServerGuard, ServerOrigin};
use crate::config::ServerSslMode;
use crate::session::Settings;
use crate::socket::prepare_socket;
use crate::stream::Stream;
use crate::threads;
use crate::tls::{Opened, ShardTlsError, Shards};

/// How to log in to one shard.
#[derive(Clone)]
pub(crate) struct ServerLogin {
    pub(crate) shard: Arc<Shard>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) guard: GuardKey,
    pub(crate) tls: Arc<Shards>,
    pub(crate) statements_max: usize,
    /// Where its connections are listed.
    pub(crate) activity: Arc<Activity>,
}

impl ServerLogin {
    /// Puts a connection among those that operators see.
    fn list(&self, key: &BackendKey, local: Option<SocketAddr>, tls: String) -> ServerGuard {
        self.activity.server(ServerOrigin {
            shard: Arc::clone(&self.shard),
            user: self.user.clone(),
            pid: key.pid,
            peer: Some(key.address),
            local,
            tls,
        })
    }
}

/// Without the password.
impl std::fmt::Debug for ServerLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerLogin")
            .field("shard", &self.shard.name)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why a server connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot reach {address}")]
    Unreachable {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection is not encrypted as it should be")]
    Tls(#[from] ShardTlsError),
    #[error("the connection broke during login")]
    Broken(#[source] io::Error),
    #[error("the server closed the connection during login")]
    Closed,
    #[error("the server refused: {} ({})", .0.message, .0.code)]
    Refused(Box<ErrorFields>),
    #[error("the server asks for an authentication that is not SCRAM-SHA-256")]
    Authentication,
    #[error("the server did not prove that it knows the password")]
    Scram,
    #[error("the server sent what login does not allow: {0}")]
    Protocol(String),
    #[error("the shard has no guard: bootstrap it with the shard agent")]
    NoGuard,
    #[error("login took longer than the limit")]
    Timeout,
}

impl ConnectError {
    /// The kind, for metrics.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Tls(_) => "tls",
            Self::Broken(_) | Self::Closed => "broken",
            Self::Refused(_) if self.is_saturation() => "saturated",
            Self::Refused(_) => "refused",
            Self::Authentication | Self::Scram => "authentication",
            Self::Protocol(_) => "protocol",
            Self::NoGuard => "no_guard",
            Self::Timeout => "timeout",
        }
    }

    /// The shard is up and has no connection to spare; not a reason to leave it alone.
    pub(crate) fn is_saturation(&self) -> bool {
        matches!(self, Self::Refused(fields) if fields.code == "53300")
    }
}

/// What every server connection starts with. Said explicitly, so that no default of a role or a
/// database decides what a client sees.
const STARTUP_SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("search_path", "\"$user\", public"),
    ("row_security", "on"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("application_name", "tenantry-router"),
    // A statement whose router has left it ends: a cancel request can arrive before the statement,
    // and a router that was killed sends none.
    ("client_connection_check_interval", "1s"),
];

/// Opens a connection that is ready to be bound. The caller bounds the time.
pub(crate) async fn open(login: &ServerLogin) -> Result<Server, ConnectError> {
    let mut opening = Opening::connect(login).await?;
    opening
        .start(login, STARTUP_SETTINGS.iter().copied())
        .await?;
    opening.authenticate(&login.password).await?;
    opening.until_ready().await?;
    let identity = opening.identify().await?;
    opening.finish(login, identity)
}

/// A connection that is one client's alone: no guard is asked for and nothing is prepared.
#[derive(Debug)]
pub(crate) struct Unguarded {
    pub(crate) stream: Stream,
    pub(crate) key: BackendKey,
    /// What has been read behind the first ReadyForQuery.
    pub(crate) input: BytesMut,
    /// The messages between AuthenticationOk and BackendKeyData or ReadyForQuery, as they came.
    pub(crate) greeting: BytesMut,
    /// Keeps the connection among those that operators see.
    pub(crate) listed: ServerGuard,
}

/// Opens a connection with the client's own startup parameters. The caller bounds the time.
pub(crate) async fn open_unguarded(
    login: &ServerLogin,
    parameters: impl Iterator<Item = &(String, String)>,
) -> Result<Unguarded, ConnectError> {
    let mut opening = Opening::connect(login).await?;
    let parameters = parameters.map(|(name, value)| (name.as_str(), value.as_str()));
    opening.start(login, parameters).await?;
    opening.authenticate(&login.password).await?;
    let mut greeting = BytesMut::new();
    loop {
        let message = opening.receive().await?;
        match message.tag {
            tag::BACKEND_KEY_DATA => opening.note_key(&message)?,
            tag::READY_FOR_QUERY => break,
            tag::PARAMETER_STATUS | tag::NOTICE => greeting.extend_from_slice(&message.bytes),
            _ => return Err(unexpected(&message)),
        }
    }
    let key = opening.key.ok_or_else(no_key)?;
    Ok(Unguarded {
        listed: login.list(&key, opening.local, opening.tls),
        stream: opening.stream,
        key,
        input: opening.input,
        greeting,
    })
}

/// A connection that is encrypted as `server_tls_sslmode` says.
async fn encrypted(login: &ServerLogin) -> Result<(SocketAddr, Opened), ConnectError> {
    let host = &login.shard.address.host;
    let (peer, socket) = reach(login).await?;
    match login.tls.open(socket, host).await {
        // As libpq's `prefer`: a server whose TLS does not work may still do without.
        Err(ShardTlsError::Handshake(error)) if login.tls.mode() == ServerSslMode::Prefer => {
            tracing::debug!(shard = %login.shard.name, %error, "going on without TLS");
            let (peer, socket) = reach(login).await?;
            Ok((peer, Opened::plain(socket)))
        }
        opened => Ok((peer, opened?)),
    }
}

async fn reach(login: &ServerLogin) -> Result<(SocketAddr, TcpStream), ConnectError> {
    let address = &login.shard.address;
    let socket = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|source| ConnectError::Unreachable {
            address: format!("{}:{}", address.host, address.port),
            source,
        })?;
    prepare_socket(&socket).map_err(ConnectError::Broken)?;
    let peer = socket.peer_addr().map_err(ConnectError::Broken)?;
    Ok((peer, socket))
}

struct Opening {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    stream: Stream,
    /// What SCRAM can bind to.
    end_point: Option<Vec<u8>>,
    /// Version and cipher suite of TLS, if any.
    tls: String,
    /// How cancel requests to this server are encrypted.
    cancel_tls: Option<(Arc<Shards>, Arc<str>)>,
    input: BytesMut,
    output: BytesMut,
    key: Option<BackendKey>,
    parameters: BTreeMap<String, String>,
}

impl Opening {
    async fn connect(login: &ServerLogin) -> Result<Self, ConnectError> {
        let (peer, opened) = encrypted(login).await?;
        let is_encrypted = matches!(opened.stream, Stream::Tls(_));
        Ok(Self {
            local: opened.stream.local_addr().ok(),
            peer,
            cancel_tls: is_encrypted.then(|| {
                let host = login.shard.address.host.as_str();
                (Arc::clone(&login.tls), Arc::from(host))
            }),
            stream: opened.stream,
            end_point: opened.end_point,
            tls: opened.description,
            input: BytesMut::with_capacity(8 << 10),
            output: BytesMut::new(),
            key: None,
            parameters: BTreeMap::new(),
        })
    }

    async fn start<'p>(
        &mut self,
        login: &'p ServerLogin,
        settings: impl Iterator<Item = (&'p str, &'p str)>,
    ) -> Result<(), ConnectError> {
        let own = [
            ("user", login.user.as_str()),
            ("database", login.shard.address.database.as_str()),
        ];
        let parameters = own.into_iter().chain(settings);
        frontend::put_startup(&mut self.output, ProtocolVersion::V3_0, parameters);
        self.send().await
    }

    async fn authenticate(&mut self, password: &str) -> Result<(), ConnectError> {
        let mut exchange = None;
        let mut proved = false;
        loop {
            let message = self.receive().await?;
            if message.tag != tag::AUTHENTICATION {
                return Err(unexpected(&message));
            }
            match Authentication::decode(message.body()).map_err(protocol)? {
                Authentication::Ok if proved => return Ok(()),
                Authentication::Sasl(offered) => {
                    let (mechanism, binding) = self
                        .mechanism(&offered)
                        .ok_or(ConnectError::Authentication)?;
                    let started = exchange.insert(ClientExchange::new(password, binding));
                    let first = started.start();
                    frontend::put_sasl_initial(&mut self.output, mechanism, Some(&first));
                    self.send().await?;
                }
                Authentication::SaslContinue(data) => match step(&mut exchange, data)? {
                    Step::Continue(reply) => {
                        frontend::put_sasl_response(&mut self.output, &reply);
                        self.send().await?;
                    }
                    _ => return Err(ConnectError::Scram),
                },
                Authentication::SaslFinal(data) => match step(&mut exchange, data)? {
                    Step::Success(_) => proved = true,
                    _ => return Err(ConnectError::Scram),
                },
                _ => return Err(ConnectError::Authentication),
            }
        }
    }

    /// The best of the mechanisms on offer. Over TLS the exchange tells the server that binding was possible, so that
    /// nobody in between can have hidden the offer.
    fn mechanism(&self, offered: &[&[u8]]) -> Option<(&'static str, ChannelBinding)> {
        let offers = |mechanism: &str| offered.contains(&mechanism.as_bytes());
        match &self.end_point {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => Some((
                SCRAM_SHA_256_PLUS,
                ChannelBinding::ServerEndPoint(hash.clone()),
            )),
            Some(_) if offers(SCRAM_SHA_256) => Some((SCRAM_SHA_256, ChannelBinding::Offered)),
            None if offers(SCRAM_SHA_256) => Some((SCRAM_SHA_256, ChannelBinding::Unavailable)),
            _ => None,
        }
    }

    /// Takes the parameters and the cancel key up to ReadyForQuery.
    async fn until_ready(&mut self) -> Result<(), ConnectError> {
        loop {
            let message = self.receive().await?;
            match message.tag {
                tag::BACKEND_KEY_DATA => self.note_key(&message)?,
                tag::READY_FOR_QUERY => return Ok(()),
                tag::PARSE_COMPLETE | tag::PARAMETER_STATUS | tag::NOTICE => {
                    self.note_parameter(&message)?;
                }
                _ => return Err(unexpected(&message)),
            }
        }
    }

    fn note_key(&mut self, message: &Message) -> Result<(), ConnectError> {
        let data = backend::backend_key_data(message.body()).map_err(protocol)?;
        self.key = Some(BackendKey {
            address: self.peer,
            tls: self.cancel_tls.clone(),
            pid: data.pid,
            secret: data.key.to_vec(),
        });
        Ok(())
    }

    fn note_parameter(&mut self, message: &Message) -> Result<(), ConnectError> {
        if message.tag == tag::PARAMETER_STATUS {
            let status = backend::parameter_status(message.body()).map_err(protocol)?;
            self.parameters.insert(
                String::from_utf8_lossy(status.name).into_owned(),
                String::from_utf8_lossy(status.value).into_owned(),
            );
        }
        Ok(())
    }

    /// Asks for what binds are signed over, and prepares the bind.
    async fn identify(&mut self) -> Result<String, ConnectError> {
        frontend::put_query(&mut self.output, "SELECT tenantry.backend_identity()");
        frontend::put_parse(&mut self.output, BIND_STATEMENT, BIND_TEXT, &[]);
        frontend::put_sync(&mut self.output);
        self.send().await?;
        let mut identity = None;
        loop {
            let message = match self.receive().await {
                Err(ConnectError::Refused(fields))
                    if matches!(fields.code.as_str(), "3F000" | "42883") =>
                {
                    return Err(ConnectError::NoGuard);
                }
                other => other?,
            };
            match message.tag {
                tag::DATA_ROW => {
                    let row = backend::data_row(message.body()).map_err(protocol)?;
                    if let Some(Some(value)) = row.first() {
                        identity = Some(String::from_utf8_lossy(value).into_owned());
                    }
                }
                tag::READY_FOR_QUERY => break,
                tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE => {}
                _ => self.note_parameter(&message)?,
            }
        }
        self.until_ready().await?;
        identity.ok_or_else(|| ConnectError::Protocol("no backend identity".to_owned()))
    }

    fn finish(self, login: &ServerLogin, identity: String) -> Result<Server, ConnectError> {
        let key = Arc::new(self.key.ok_or_else(no_key)?);
        let listed = login.list(&key, self.local, self.tls);
        let link = Link {
            input: BytesMut::new(),
            output: BytesMut::new(),
            state: ServerState {
                key,
                identity,
                guard: login.guard.clone(),
                bound: Bound::Known(None),
                fallback: Bound::Known(None),
                applied: Some(Settings::default()),
                bound_in_transaction: false,
                applied_in_transaction: false,
                applied_by_router: false,
                savepoints: Vec::new(),
                copy_role: false,
                read_only: false,
                prepared: PreparedCache::new(login.statements_max),
                kept: crate::session::Kept::default(),
                unnamed: None,
                parameters: self.parameters,
                status: TxStatus::Idle,
                dirty: false,
            },
        };
        Ok(Server {
            stream: self.stream,
            link,
            thread: threads::here(),
            listed,
        })
    }

    async fn send(&mut self) -> Result<(), ConnectError> {
        let output = self.output.split();
        self.stream
            .send(&output)
            .await
            .map_err(ConnectError::Broken)
    }

    async fn receive(&mut self) -> Result<Message, ConnectError> {
        loop {
            if let Some(message) =
                Message::take(&mut self.input, LARGE_MESSAGE_LIMIT).map_err(protocol)?
            {
                if message.tag == tag::ERROR {
                    let fields = ErrorFields::decode(message.body()).map_err(protocol)?;
                    return Err(ConnectError::Refused(Box::new(fields)));
                }
                return Ok(message);
            }
            let read = self
                .stream
                .read_buf(&mut self.input)
                .await
                .map_err(ConnectError::Broken)?;
            if read == 0 {
                return Err(ConnectError::Closed);
            }
        }
    }
}

/// The next step of an exchange that must have begun.
fn step(exchange: &mut Option<ClientExchange>, data: &[u8]) -> Result<Step, ConnectError> {
    let exchange = exchange.as_mut().ok_or(ConnectError::Authentication)?;
    Ok(exchange.step(data))
}

fn protocol(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::Protocol(error.to_string())
}

fn no_key() -> ConnectError {
    ConnectError::Protocol("no BackendKeyData".to_owned())
}

fn unexpected(message: &Message) -> ConnectError {
    ConnectError::Protocol(format!(
        "message {}",
        std::ascii::escape_default(message.tag)
    ))
}

/// Longest time for a cancel request: its session waits for it before it gives its connection up.
const CANCEL_TIME: Duration = Duration::from_secs(2);

/// Sends a cancel request and waits until the server has acted on it: it signals the backend
/// before it closes this connection.
pub(crate) async fn send_cancel(key: &BackendKey) -> io::Result<()> {
    match timeout(CANCEL_TIME, deliver_cancel(key)).await {
        Ok(delivered) => delivered,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn deliver_cancel(key: &BackendKey) -> io::Result<()> {
    let socket = TcpStream::connect(key.address).await?;
    let mut stream = match &key.tls {
        None => Stream::Plain(socket),
        // The key is a secret: it travels as the session's bytes do.
        Some((tls, host)) => match tls.open(socket, host).await.map_err(io::Error::other)? {
            Opened {
                stream: stream @ Stream::Tls(_),
                ..
            } => stream,
            Opened { .. } => return Err(io::Error::other(ShardTlsError::Refused)),
        },
    };
    let mut request = BytesMut::new();
    frontend::put_cancel_request(&mut request, key.pid, &key.secret);
    stream.send(&request).await?;
    let mut rest = [0_u8; 16];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // PostgreSQL closes without TLS's own goodbye.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
