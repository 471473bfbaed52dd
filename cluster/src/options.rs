//! How a server is to be started, and how it is to end.

use std::path::PathBuf;

/// What ends a server besides an explicit stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Dropping the handle or the end of this process, however it comes, stops the server.
    Bound,
    /// The server goes on until someone stops it; [`crate::Server::adopt`] finds it again.
    Detached,
}

/// How clients are treated when a server stops (PostgreSQL documentation, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Wait until all clients have left.
    Smart,
    /// Abort transactions, end sessions, write a checkpoint.
    Fast,
    /// End at once without a checkpoint; the next start recovers from the log.
    Immediate,
}

/// How to start a server.
#[derive(Clone)]
pub struct ServerOptions {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) port: Option<u16>,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) superuser_password: Option<String>,
    pub(crate) lifetime: Lifetime,
    pub(crate) tls: Option<ServerTls>,
}

/// What a server needs to encrypt, in PEM.
#[derive(Clone)]
pub(crate) struct ServerTls {
    pub(crate) certificate: String,
    pub(crate) private_key: String,
}

impl ServerOptions {
    /// A server in a new directory of its own: under `TMPDIR` if that is set, else in memory (`/dev/shm`) if there is
    /// room, else under the system's temporary directory. It does not fsync, and its files go when it stops for good.
    #[must_use]
    pub fn throwaway() -> Self {
        Self {
            dir: None,
            port: None,
            settings: Vec::new(),
            superuser_password: None,
            lifetime: Lifetime::Bound,
            tls: None,
        }
    }

    /// A server whose data stays in `dir`. The first start creates it; a later start finds it again, running or not.
    #[must_use]
    pub fn durable(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Some(dir.into()),
            ..Self::throwaway()
        }
    }

    /// Listens on this port of 127.0.0.1 instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Adds a line of postgresql.conf; it wins over the defaults of this crate.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// The password of the superuser `postgres`, set at the first start. Without it one is generated.
    #[must_use]
    pub fn superuser_password(mut self, password: impl Into<String>) -> Self {
        self.superuser_password = Some(password.into());
        self
    }

    /// Encrypts connections of clients that ask for it (`ssl = on`), with this certificate and its key in PEM. Clients
    /// that do not ask are served as before.
    #[must_use]
    pub fn tls(mut self, certificate: impl Into<String>, private_key: impl Into<String>) -> Self {
        self.tls = Some(ServerTls {
            certificate: certificate.into(),
            private_key: private_key.into(),
        });
        self
    }

    /// What ends the server; [`Lifetime::Bound`] unless said otherwise.
    ///
    /// A throwaway server is always bound: nobody would find it again.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.dir.is_some()
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.is_durable() && self.lifetime == Lifetime::Detached
    }
}

impl std::fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerOptions")
            .field("dir", &self.dir)
            .field("port", &self.port)
            .field("settings", &self.settings)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}
