//! From accept to the startup packet: requests for encryption, the TLS handshake, cancel requests, and whether this
//! router takes another session now.

use bytes::{Buf as _, BytesMut};
use tenantry_schema::causes::one_line;
use tenantry_wire::startup::{Accepted, Encryption, Handshake, HandshakeError, Progress};
use tokio::io::AsyncReadExt as _;

use super::{CONSOLE_RESERVE, Login, LoginEnd};
use crate::error::Refusal;
use crate::identify::Destination;
use crate::stream::Stream;
use crate::tls::ClientHandshakeError;

impl Login {
    /// Reads up to the startup packet.
    pub(super) async fn handshake(mut self) -> Result<(Self, Accepted), LoginEnd> {
        let mut handshake = Handshake::new(if self.tls.is_available() {
            Encryption::Available
        } else {
            Encryption::Unavailable
        });
        loop {
            let progress = match handshake.handle(&self.input) {
                Ok(progress) => progress,
                Err(error) => return Err(self.broken(&error).await),
            };
            handshake = match progress {
                Progress::NeedMore(next) => {
                    self.fill().await?;
                    next
                }
                Progress::Reply {
                    reply,
                    consumed,
                    next,
                } => {
                    self.input.advance(consumed);
                    self.stream.send(&[reply]).await?;
                    next
                }
                Progress::StartTls {
                    reply,
                    consumed,
                    next,
                } => {
                    // Before the handshake, which is what costs most. A client of PostgreSQL reads an error here.
                    self.admit_address().await?;
                    self.input.advance(consumed);
                    self.stream.send(&[reply]).await?;
                    self = self.encrypt(false).await?;
                    next
                }
                Progress::DirectTls { next } => {
                    if let Some(refusal) = &self.throttled {
                        return Err(LoginEnd::Refused(refusal.name()));
                    }
                    self = self.encrypt(true).await?;
                    next
                }
                Progress::Cancel(key) => {
                    self.router.cancel(key.pid, &key.key).await;
                    // Over TLS, libpq takes an end without goodbye for a failed request.
                    self.leave().await;
                    return Err(LoginEnd::Done);
                }
                Progress::Startup { accepted, consumed } => {
                    self.input.advance(consumed);
                    self.has_started = true;
                    self.admit_address().await?;
                    self.admit().await?;
                    return Ok((self, accepted));
                }
            };
        }
    }

    /// Reads more, unless this connection has to make room for a newer one.
    pub(super) async fn fill(&mut self) -> Result<(), LoginEnd> {
        let read = tokio::select! {
            biased;
            () = pushed_out(self.arrival.as_ref()) => None,
            read = self.stream.read_buf(&mut self.input) => Some(read),
        };
        match read {
            Some(Ok(0)) => Err(LoginEnd::Done),
            Some(read) => Ok(read.map(drop)?),
            None => Err(self.make_room().await),
        }
    }

    /// A client that has sent its startup packet is told; one that has not would not understand.
    async fn make_room(&mut self) -> LoginEnd {
        let limit = self.router.config().clients_unauthenticated_max;
        let refusal = Refusal::TooManyLogins { limit };
        if self.has_started {
            return self.refuse(&refusal).await;
        }
        LoginEnd::Refused(refusal.name())
    }

    async fn encrypt(mut self, direct: bool) -> Result<Self, LoginEnd> {
        // The protocol's states let nobody encrypt twice.
        let Stream::Plain(socket) = self.stream else {
            return Err(LoginEnd::Done);
        };
        let input = std::mem::replace(&mut self.input, BytesMut::with_capacity(1024));
        let handshake = tokio::select! {
            biased;
            () = pushed_out(self.arrival.as_ref()) => {
                let limit = self.router.config().clients_unauthenticated_max;
                return Err(LoginEnd::Refused(Refusal::TooManyLogins { limit }.name()));
            }
            handshake = Box::pin(self.tls.accept(socket, input, direct)) => handshake,
        };
        match handshake {
            Ok((stream, secured)) => {
                self.router.metrics.encrypted();
                Ok(Self {
                    stream,
                    secured: Some(secured),
                    ..self
                })
            }
            Err(ClientHandshakeError::Closed) => Err(LoginEnd::Done),
            Err(error) => {
                tracing::info!(from = %self.from, error = one_line(&error), "TLS handshake failed");
                Err(LoginEnd::Refused("TLS_HANDSHAKE"))
            }
        }
    }

    async fn admit_address(&mut self) -> Result<(), LoginEnd> {
        match self.throttled.take() {
            Some(refusal) => Err(self.refuse(&refusal).await),
            None => Ok(()),
        }
    }

    /// Refuses sessions that this router cannot take now, or not in this way.
    async fn admit(&mut self) -> Result<(), LoginEnd> {
        let mode = self.tls.settings.sslmode;
        let certificate = self
            .secured
            .as_ref()
            .and_then(|secured| secured.certificate.as_ref());
        let refusal = if self.router.refuses_sessions() {
            Refusal::ShuttingDown
        } else if mode.is_required() && self.secured.is_none() {
            Refusal::TlsRequired
        } else if mode.wants_certificate() && certificate.is_none() {
            Refusal::CertificateRequired
        } else if !self.router.fleet.is_known() {
            Refusal::Starting
        } else {
            return Ok(());
        };
        Err(self.refuse(&refusal).await)
    }

    /// Refuses one session too many before it costs a password's check. Whoever gets past it together with others is
    /// counted again when it begins.
    pub(super) async fn admit_to(&mut self, destination: &Destination) -> Result<(), LoginEnd> {
        let limit = self.router.config().clients_max;
        let reserve = match destination {
            Destination::Console => CONSOLE_RESERVE,
            Destination::Fleet | Destination::Shard(_) => 0,
        };
        if self.router.cancels.sessions() < limit + reserve {
            return Ok(());
        }
        Err(self.refuse(&Refusal::TooManyClients { limit }).await)
    }

    async fn broken(&mut self, error: &HandshakeError) -> LoginEnd {
        tracing::debug!(%error, "startup refused");
        if !error.peer_speaks_postgres() {
            return LoginEnd::Refused("PROTOCOL_VIOLATION");
        }
        let refusal = Refusal::Startup {
            code: error.sqlstate(),
            message: error.to_string(),
        };
        self.refuse(&refusal).await
    }
}

async fn pushed_out(arrival: Option<&crate::arrivals::Arrival>) {
    match arrival {
        Some(arrival) => arrival.pushed_out().await,
        None => std::future::pending().await,
    }
}
