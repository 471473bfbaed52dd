//! A client that sends exactly the messages a test says and shows exactly the messages that come back.
//!
//! It has no opinion on order: whatever a driver would never send, a test can. Only [`RawClient::login`] follows a
//! script. Every wait is bounded, so that a missing answer fails a test instead of hanging it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tenantry_wire::backend::{Authentication, ErrorFields, TxStatus};
use tenantry_wire::frame::{FrameError, LARGE_MESSAGE_LIMIT, Message};
use tenantry_wire::scram::{ChannelBinding, ClientExchange, Step};
use tenantry_wire::startup::ProtocolVersion;
use tenantry_wire::tag::backend as tag;
use tenantry_wire::{MessageError, backend, frontend};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest wait for one message.
const RECEIVE_MAX: Duration = Duration::from_secs(15);

/// What keeps a raw client from going on.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The server said no to the login.
    #[error("the server refused the session: {} {}", .0.code, .0.message)]
    Refused(Box<ErrorFields>),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// Nothing came within the limit.
    #[error("no message came within {RECEIVE_MAX:?}")]
    Silent,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The server's framing makes no sense.
    #[error("the server's framing is broken")]
    Frame(#[from] FrameError),
    /// A message of the server cannot be read.
    #[error("a message of the server is malformed")]
    Message(#[from] MessageError),
    /// The server asks for a login that is not supported here, or fails to prove itself.
    #[error("cannot log in: {0}")]
    Login(String),
}

impl RawError {
    /// The server's own error, if it sent one.
    #[must_use]
    pub fn refusal(&self) -> Option<&ErrorFields> {
        match self {
            Self::Refused(fields) => Some(fields),
            _ => None,
        }
    }
}

/// Who logs in, and with which startup parameters besides `user` and `database`.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// Role name, with a tenant if that is how it is named.
    pub user: String,
    /// Password in clear text.
    pub password: String,
    /// Database name.
    pub database: String,
    /// Further startup parameters, in order.
    pub parameters: Vec<(String, String)>,
}

impl Login {
    /// A login without further parameters.
    pub fn new(
        user: impl Into<String>,
        password: impl Into<String>,
        database: impl Into<String>,
    ) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
            database: database.into(),
            parameters: Vec::new(),
        }
    }

    /// Adds a startup parameter.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }
}

/// What the messages travel over.
#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that speaks the protocol by hand.
#[derive(Debug)]
pub struct RawClient {
    stream: Socket,
    address: SocketAddr,
    input: BytesMut,
    key: Option<(i32, Vec<u8>)>,
    parameters: BTreeMap<String, String>,
}

impl RawClient {
    /// Opens the connection and sends nothing.
    ///
    /// # Errors
    /// The connection cannot be opened.
    pub async fn connect(address: SocketAddr) -> Result<Self, RawError> {
        let stream = timeout(RECEIVE_MAX, TcpStream::connect(address))
            .await
            .map_err(|_| RawError::Silent)??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Socket::Plain(stream),
            address,
            input: BytesMut::new(),
            key: None,
            parameters: BTreeMap::new(),
        })
    }

    /// Opens a session with protocol 3.0 and waits until it is ready.
    ///
    /// # Errors
    /// [`RawError::Refused`] with the server's error, or what else goes wrong.
    pub async fn login(address: SocketAddr, login: &Login) -> Result<Self, RawError> {
        let mut client = Self::connect(address).await?;
        client.start_session(ProtocolVersion::V3_0, login).await?;
        Ok(client)
    }

    /// Sends the startup packet, authenticates and waits until the session is ready. Returns the messages from
    /// AuthenticationOk on.
    ///
    /// # Errors
    /// As [`RawClient::login`].
    pub async fn start_session(
        &mut self,
        version: ProtocolVersion,
        login: &Login,
    ) -> Result<Vec<Message>, RawError> {
        let mut parameters = vec![
            ("user", login.user.as_str()),
            ("database", login.database.as_str()),
        ];
        parameters.extend(
            login
                .parameters
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        self.send(|out| frontend::put_startup(out, version, parameters))
            .await?;
        let first = self.authenticate(&login.password).await?;
        let mut seen = vec![first];
        seen.extend(self.until_ready().await?);
        match error_of(&seen) {
            Some(error) => Err(RawError::Refused(Box::new(error))),
            None => Ok(seen),
        }
    }

    /// Answers authentication requests until AuthenticationOk or an error, which is returned.
    async fn authenticate(&mut self, password: &str) -> Result<Message, RawError> {
        let mut exchange = ClientExchange::new(password, ChannelBinding::Unavailable);
        loop {
            let message = self.receive().await?;
            match message.tag {
                tag::AUTHENTICATION => {}
                tag::ERROR => {
                    return Err(RawError::Refused(Box::new(ErrorFields::decode(
                        message.body(),
                    )?)));
                }
                // NegotiateProtocolVersion and notices.
                _ => continue,
            }
            let answer = match Authentication::decode(message.body())? {
                Authentication::Ok => return Ok(message),
                Authentication::CleartextPassword => {
                    self.send(|out| frontend::put_password(out, password))
                        .await?;
                    continue;
                }
                Authentication::Sasl(_) => {
                    let first = exchange.start();
                    self.send(|out| frontend::put_sasl_initial(out, "SCRAM-SHA-256", Some(&first)))
                        .await?;
                    continue;
                }
                Authentication::SaslContinue(data) | Authentication::SaslFinal(data) => {
                    exchange.step(data)
                }
                other => return Err(RawError::Login(format!("the server asks for {other:?}"))),
            };
            match answer {
                Step::Continue(data) => {
                    self.send(|out| frontend::put_sasl_response(out, &data))
                        .await?
                }
                Step::Success(_) => {}
                Step::Failure(error) => return Err(RawError::Login(error.to_string())),
            }
        }
    }

    /// Sends what `build` puts into the buffer, in one write.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&mut self, build: impl FnOnce(&mut BytesMut)) -> Result<(), RawError> {
        let mut out = BytesMut::new();
        build(&mut out);
        self.send_bytes(&out).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), RawError> {
        match &mut self.stream {
            Socket::Plain(stream) => stream.write_all(bytes).await?,
            Socket::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
        }
        Ok(())
    }

    /// Reads one byte outside of any message: the answer to SSLRequest and GSSENCRequest.
    ///
    /// # Errors
    /// It does not come.
    pub async fn receive_byte(&mut self) -> Result<u8, RawError> {
        while self.input.is_empty() {
            self.fill().await?;
        }
        Ok(self.input.split_to(1)[0])
    }

    /// The next message. Keys and parameters are noted in passing.
    ///
    /// # Errors
    /// It does not come, or makes no sense.
    pub async fn receive(&mut self) -> Result<Message, RawError> {
        loop {
            if let Some(message) = Message::take(&mut self.input, LARGE_MESSAGE_LIMIT)? {
                self.note(&message)?;
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// All messages up to and including ReadyForQuery, or until the server closes after a last error.
    ///
    /// # Errors
    /// As [`RawClient::receive`].
    pub async fn until_ready(&mut self) -> Result<Vec<Message>, RawError> {
        self.until(tag::READY_FOR_QUERY).await
    }

    /// All messages up to and including the first with `tag`, or until the server closes after a last error.
    ///
    /// # Errors
    /// As [`RawClient::receive`].
    pub async fn until(&mut self, tag: u8) -> Result<Vec<Message>, RawError> {
        let mut seen: Vec<Message> = Vec::new();
        loop {
            match self.receive().await {
                Ok(message) => {
                    let last = message.tag == tag;
                    seen.push(message);
                    if last {
                        return Ok(seen);
                    }
                }
                Err(RawError::Closed) if seen.last().is_some_and(|last| last.tag == tag::ERROR) => {
                    return Ok(seen);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a simple query and returns everything up to ReadyForQuery.
    ///
    /// # Errors
    /// As [`RawClient::receive`]; an error of the statement is among the messages.
    pub async fn query(&mut self, text: &str) -> Result<Vec<Message>, RawError> {
        self.send(|out| frontend::put_query(out, text)).await?;
        self.until_ready().await
    }

    /// Waits until the server closes; messages before that are returned.
    ///
    /// # Errors
    /// It does not close, or closes in the middle of a message.
    pub async fn until_closed(&mut self) -> Result<Vec<Message>, RawError> {
        let mut seen = Vec::new();
        loop {
            match self.receive().await {
                Ok(message) => seen.push(message),
                Err(RawError::Closed) if self.input.is_empty() => return Ok(seen),
                Err(error) => return Err(error),
            }
        }
    }

    /// Process id and secret of this session, once the server has told them.
    #[must_use]
    pub fn cancel_key(&self) -> Option<(i32, &[u8])> {
        self.key.as_ref().map(|(pid, key)| (*pid, key.as_slice()))
    }

    /// Value of a setting as the server reported it last.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Sends a cancel request for this session over a connection of its own and waits until the server has closed
    /// that one.
    ///
    /// # Errors
    /// No key is known or the connection fails.
    pub async fn cancel(&self) -> Result<(), RawError> {
        let (pid, key) = self
            .cancel_key()
            .ok_or_else(|| RawError::Login("no cancel key is known".to_owned()))?;
        send_cancel(self.address, pid, key).await
    }

    /// The socket, for what a test does below the protocol.
    #[must_use]
    pub fn stream(&mut self) -> &mut TcpStream {
        match &mut self.stream {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream.get_mut().0,
        }
    }

    /// Asks for encryption, and encrypts if the server agrees.
    ///
    /// # Errors
    /// The server does not agree, or the handshake fails.
    pub async fn encrypt(
        mut self,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> Result<Self, RawError> {
        self.send(frontend::put_ssl_request).await?;
        match self.receive_byte().await? {
            b'S' => self.handshake(config, name).await,
            other => Err(RawError::Login(format!(
                "SSLRequest was answered with {:?}",
                char::from(other)
            ))),
        }
    }

    /// The TLS handshake at once: direct TLS, or after an `S` that was received.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn handshake(self, config: &Arc<ClientConfig>, name: &str) -> Result<Self, RawError> {
        let Socket::Plain(socket) = self.stream else {
            return Err(RawError::Login("encrypted already".to_owned()));
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| RawError::Login(error.to_string()))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = timeout(RECEIVE_MAX, connector.connect(name, socket))
            .await
            .map_err(|_| RawError::Silent)??;
        Ok(Self {
            stream: Socket::Tls(Box::new(stream)),
            ..self
        })
    }

    /// What the TLS handshake has shown of the server; `None` without TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&ClientConnection> {
        match &self.stream {
            Socket::Plain(_) => None,
            Socket::Tls(stream) => Some(stream.get_ref().1),
        }
    }

    fn note(&mut self, message: &Message) -> Result<(), RawError> {
        match message.tag {
            tag::BACKEND_KEY_DATA => {
                let data = backend::backend_key_data(message.body())?;
                self.key = Some((data.pid, data.key.to_vec()));
            }
            tag::PARAMETER_STATUS => {
                let status = backend::parameter_status(message.body())?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                self.parameters
                    .insert(text(status.name), text(status.value));
            }
            _ => {}
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), RawError> {
        let read = async {
            match &mut self.stream {
                Socket::Plain(stream) => stream.read_buf(&mut self.input).await,
                Socket::Tls(stream) => stream.read_buf(&mut self.input).await,
            }
        };
        match timeout(RECEIVE_MAX, read).await {
            Err(_) => Err(RawError::Silent),
            Ok(Ok(0)) => Err(RawError::Closed),
            Ok(Ok(_)) => Ok(()),
            // A server that closes while our bytes are under way resets the connection.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(RawError::Closed)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }
}

/// Sends a cancel request and waits until the server has closed the connection.
///
/// # Errors
/// The connection fails.
pub async fn send_cancel(address: SocketAddr, pid: i32, key: &[u8]) -> Result<(), RawError> {
    let mut side = RawClient::connect(address).await?;
    side.send(|out| frontend::put_cancel_request(out, pid, key))
        .await?;
    side.until_closed().await.map(drop)
}

/// The first error among messages.
#[must_use]
pub fn error_of(messages: &[Message]) -> Option<ErrorFields> {
    let message = messages.iter().find(|message| message.tag == tag::ERROR)?;
    ErrorFields::decode(message.body()).ok()
}

/// The data rows among messages, as text with replacement characters; `None` is NULL.
#[must_use]
pub fn rows_of(messages: &[Message]) -> Vec<Vec<Option<String>>> {
    let text =
        |value: Option<&[u8]>| value.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let rows = messages
        .iter()
        .filter(|message| message.tag == tag::DATA_ROW);
    rows.filter_map(|row| backend::data_row(row.body()).ok())
        .map(|row| row.into_iter().map(text).collect())
        .collect()
}

/// The types of messages, in order: `TDCZ` for a query that returned one row.
#[must_use]
pub fn tags_of(messages: &[Message]) -> String {
    messages
        .iter()
        .map(|message| char::from(message.tag))
        .collect()
}

/// The command tags among messages.
#[must_use]
pub fn commands_of(messages: &[Message]) -> Vec<String> {
    let complete = messages
        .iter()
        .filter(|message| message.tag == tag::COMMAND_COMPLETE);
    complete
        .filter_map(|message| backend::command_complete(message.body()).ok())
        .map(|command| String::from_utf8_lossy(command).into_owned())
        .collect()
}

/// The transaction status of the last ReadyForQuery among messages.
#[must_use]
pub fn status_of(messages: &[Message]) -> Option<TxStatus> {
    let ready = messages
        .iter()
        .rfind(|message| message.tag == tag::READY_FOR_QUERY)?;
    backend::ready_for_query(ready.body()).ok()
}
