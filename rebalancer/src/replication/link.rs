//! A connection to a shard over the `wire` crate: login by SCRAM, messages in, messages out.
//!
//! For sessions whose every message matters: walsenders, and the session that applies changes, which sends statements
//! with values as they came and many in one write. Everything else uses an ordinary client.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tenantry_schema::guard::role;
use tenantry_wire::backend::{self, Authentication, ErrorFields};
use tenantry_wire::frame::{FrameError, LARGE_MESSAGE_LIMIT, Message};
use tenantry_wire::scram::{ChannelBinding, ClientExchange, SCRAM_SHA_256, Step};
use tenantry_wire::startup::{CancelKey, ProtocolVersion};
use tenantry_wire::tag::backend as tag;
use tenantry_wire::{MessageError, frontend};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::shard::ShardEndpoint;

/// Longest time until a session is ready.
const LOGIN_MAX: Duration = Duration::from_secs(15);
/// As for all sessions with shards.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);
/// Room made for each read.
const READ_BYTES: usize = 64 * 1024;

/// What both ends of a stream of text values agree on: a value that one session writes, the other reads as the same.
/// Names are written with their schema.
const FORMATS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("search_path", "pg_catalog"),
    ("standard_conforming_strings", "on"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("application_name", crate::shard::APPLICATION),
];

/// Why a session with a shard cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The server ended the connection without a word.
    #[error("the server closed the connection")]
    Closed,
    /// The server answered with an error.
    #[error("the server refused")]
    Refused(#[source] Box<ErrorFields>),
    /// The server asks for something else than SCRAM-SHA-256.
    #[error("the server asks for an authentication that is not SCRAM-SHA-256")]
    Authentication,
    /// Whatever answers there does not know the password.
    #[error("the server did not prove that it knows the password")]
    Scram,
    /// Login takes too long.
    #[error("login took longer than {LOGIN_MAX:?}")]
    Timeout,
    /// The framing of the server makes no sense.
    #[error("the server's framing is broken")]
    Frame(#[from] FrameError),
    /// A message of the server makes no sense.
    #[error("a message of the server is malformed")]
    Message(#[from] MessageError),
    /// A message that must not come now.
    #[error("message {0} was not expected")]
    Unexpected(char),
}

impl LinkError {
    /// The server's own error, if it sent one.
    #[must_use]
    pub fn refusal(&self) -> Option<&ErrorFields> {
        match self {
            Self::Refused(fields) => Some(fields),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server sent one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.refusal().map(|fields| fields.code.as_str())
    }

    /// Whether the same may succeed later without anyone's help: the connection was lost, the server is starting or
    /// stopping, has no connection to spare, or ended a deadlock.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) | Self::Closed | Self::Timeout => true,
            Self::Refused(fields) => {
                let code = fields.code.as_str();
                code.starts_with("08")
                    || code.starts_with("53")
                    || code.starts_with("57P")
                    || matches!(code, "40001" | "40P01" | "55P03" | "57014" | "55006")
            }
            _ => false,
        }
    }
}

/// An open session.
///
/// Invariant: `output` holds only whole messages.
#[derive(Debug)]
pub struct Link {
    socket: TcpStream,
    input: BytesMut,
    output: BytesMut,
    key: CancelKey,
}

impl Link {
    /// Opens a session of the agent's role with further startup parameters.
    ///
    /// # Errors
    /// The shard does not answer in time or refuses.
    pub async fn open(
        endpoint: &ShardEndpoint,
        parameters: &[(&str, &str)],
    ) -> Result<Self, LinkError> {
        match timeout(LOGIN_MAX, Self::log_in(endpoint, parameters)).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(LinkError::Timeout),
        }
    }

    async fn log_in(
        endpoint: &ShardEndpoint,
        parameters: &[(&str, &str)],
    ) -> Result<Self, LinkError> {
        let address = &endpoint.address;
        let socket = TcpStream::connect((address.host.as_str(), address.port)).await;
        let socket = socket.map_err(|source| LinkError::Unreachable {
            address: format!("{}:{}", address.host, address.port),
            source,
        })?;
        prepare(&socket).map_err(LinkError::Broken)?;
        let mut link = Self {
            socket,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            key: CancelKey {
                pid: 0,
                key: Vec::new(),
            },
        };
        let who = [("user", role::AGENT), ("database", &address.database)];
        let all = who.iter().chain(FORMATS).chain(parameters).copied();
        frontend::put_startup(&mut link.output, ProtocolVersion::V3_0, all);
        link.authenticate(endpoint.password.expose()).await?;
        link.until_ready().await?;
        Ok(link)
    }

    async fn authenticate(&mut self, password: &str) -> Result<(), LinkError> {
        let mut exchange = ClientExchange::new(password, ChannelBinding::Unavailable);
        self.flush().await?;
        loop {
            let message = self.receive().await?;
            if message.tag != tag::AUTHENTICATION {
                return Err(unexpected(&message));
            }
            match Authentication::decode(message.body())? {
                Authentication::Ok => return Ok(()),
                Authentication::Sasl(offered) if offered.contains(&SCRAM_SHA_256.as_bytes()) => {
                    let first = exchange.start();
                    frontend::put_sasl_initial(&mut self.output, SCRAM_SHA_256, Some(&first));
                }
                Authentication::SaslContinue(data) => match exchange.step(data) {
                    Step::Continue(answer) => {
                        frontend::put_sasl_response(&mut self.output, &answer);
                    }
                    Step::Success(_) | Step::Failure(_) => return Err(LinkError::Scram),
                },
                Authentication::SaslFinal(data) => match exchange.step(data) {
                    Step::Success(_) => {}
                    Step::Continue(_) | Step::Failure(_) => return Err(LinkError::Scram),
                },
                _ => return Err(LinkError::Authentication),
            }
            self.flush().await?;
        }
    }

    async fn until_ready(&mut self) -> Result<(), LinkError> {
        loop {
            let message = self.receive().await?;
            match message.tag {
                tag::BACKEND_KEY_DATA => {
                    let data = backend::backend_key_data(message.body())?;
                    self.key = CancelKey {
                        pid: data.pid,
                        key: data.key.to_vec(),
                    };
                }
                tag::READY_FOR_QUERY => return Ok(()),
                _ => return Err(unexpected(&message)),
            }
        }
    }

    /// What a cancel request has to name.
    #[must_use]
    pub fn cancel_key(&self) -> &CancelKey {
        &self.key
    }

    /// Where whole messages are appended that [`Link::flush`] sends.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends what was appended. Reads meanwhile what comes, so that neither side waits for the other to read.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.output.is_empty() {
            let both = Interest::READABLE | Interest::WRITABLE;
            let ready = self.socket.ready(both).await.map_err(LinkError::Broken)?;
            if ready.is_writable() {
                match self.socket.try_write(&self.output) {
                    Ok(written) => {
                        let _ = self.output.split_to(written);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(LinkError::Broken(error)),
                }
            }
            if ready.is_readable() {
                self.read_available()?;
            }
        }
        Ok(())
    }

    /// The next message, errors as [`LinkError::Refused`]; notices and settings are passed over. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost, the server refused something, or what it sends makes no sense.
    pub async fn receive(&mut self) -> Result<Message, LinkError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.input.reserve(READ_BYTES);
            let read = self.socket.read_buf(&mut self.input).await;
            if read.map_err(LinkError::Broken)? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// The next message if it is here already.
    ///
    /// # Errors
    /// As [`Link::receive`].
    pub fn try_receive(&mut self) -> Result<Option<Message>, LinkError> {
        if let Some(message) = self.take()? {
            return Ok(Some(message));
        }
        self.read_available()?;
        self.take()
    }

    /// Runs one command of the simple protocol and returns its rows as text.
    ///
    /// # Errors
    /// The server refuses, or the connection is lost. The session can be used again after a refusal.
    pub async fn simple(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, LinkError> {
        frontend::put_query(&mut self.output, command);
        self.flush().await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.receive().await {
                Ok(message) => match message.tag {
                    tag::READY_FOR_QUERY => break,
                    tag::DATA_ROW => rows.push(text_row(&message)?),
                    tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY => {}
                    _ => return Err(unexpected(&message)),
                },
                // A session that ends says so without becoming ready again.
                Err(LinkError::Refused(fields)) if fields.severity < backend::Severity::Fatal => {
                    refused = Some(fields);
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(fields) => Err(LinkError::Refused(fields)),
            None => Ok(rows),
        }
    }

    fn read_available(&mut self) -> Result<(), LinkError> {
        self.input.reserve(READ_BYTES);
        match self.socket.try_read_buf(&mut self.input) {
            Ok(0) => Err(LinkError::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(LinkError::Broken(error)),
        }
    }

    fn take(&mut self) -> Result<Option<Message>, LinkError> {
        while let Some(message) = Message::take(&mut self.input, LARGE_MESSAGE_LIMIT)? {
            match message.tag {
                tag::NOTICE | tag::PARAMETER_STATUS | tag::NOTIFICATION => {}
                tag::ERROR => {
                    let fields = ErrorFields::decode(message.body())?;
                    return Err(LinkError::Refused(Box::new(fields)));
                }
                _ => return Ok(Some(message)),
            }
        }
        Ok(None)
    }
}

/// Small messages travel at once, and a peer that vanished without a word is noticed.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

fn text_row(message: &Message) -> Result<Vec<Option<String>>, LinkError> {
    let values = backend::data_row(message.body())?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(values.into_iter().map(|value| value.map(text)).collect())
}

/// The error for a message that has no place here.
pub(crate) fn unexpected(message: &Message) -> LinkError {
    LinkError::Unexpected(char::from(message.tag))
}
