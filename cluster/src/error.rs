//! What can go wrong when a local server is found, started or stopped. Messages are read by newcomers: each says
//! what to do where that is known.

use std::io;
use std::path::PathBuf;

use crate::install::OLDEST_MAJOR;

/// No usable PostgreSQL installation.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// Nothing was found in any of the known places.
    #[error(
        "no PostgreSQL server binaries found (looked in {}); run scripts/setup, or point TENANTRY_PG_BIN at the \
         directory that holds `postgres` and `initdb`",
        .searched.join(", ")
    )]
    NotFound {
        /// The places that were looked at, in order.
        searched: Vec<String>,
    },
    /// `TENANTRY_PG_BIN` names a directory without the binaries.
    #[error("TENANTRY_PG_BIN is {}, but there is no `{missing}` in it", .dir.display())]
    BadOverride {
        /// The directory named.
        dir: PathBuf,
        /// The program that is not there.
        missing: &'static str,
    },
    /// Only versions that are not supported were found.
    #[error("PostgreSQL {found} in {} is too old: {OLDEST_MAJOR} or newer is needed; run scripts/setup", .dir.display())]
    TooOld {
        /// Version text as the server prints it.
        found: String,
        /// Where it was found.
        dir: PathBuf,
    },
    /// The program exists but does not say its version.
    #[error("{} does not run or prints no version: {output}", .program.display())]
    NoVersion {
        /// The program that was asked.
        program: PathBuf,
        /// What it printed instead.
        output: String,
    },
}

/// A server could not be prepared, started, reached or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// See [`DiscoverError`].
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// PostgreSQL refuses to run as root and no account to run it as exists.
    #[error(
        "PostgreSQL does not run as root, and account `{name}` does not exist; set TENANTRY_PG_USER to one that does"
    )]
    NoAccount {
        /// The account that was looked up last.
        name: String,
    },
    /// The server's account cannot enter a directory above the data.
    #[error("{} cannot be entered by account `{account}`, which runs PostgreSQL; choose another directory", .dir.display())]
    Unreachable {
        /// The closed directory.
        dir: PathBuf,
        /// The account that runs the server.
        account: String,
    },
    /// File system trouble.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program that should exist could not be started.
    #[error("cannot run {}", .program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Initdb {
        /// Everything it printed.
        output: String,
    },
    /// The data directory belongs to another major version.
    #[error("{} was created by PostgreSQL {found}, but the binaries found are version {have}", .dir.display())]
    WrongVersion {
        /// The data directory.
        dir: PathBuf,
        /// Major version in its PG_VERSION.
        found: String,
        /// Major version of the binaries.
        have: u32,
    },
    /// The requested port is in use.
    #[error("port {port} on 127.0.0.1 is in use by another program")]
    PortTaken {
        /// The port asked for.
        port: u16,
    },
    /// The server ended while starting.
    #[error("PostgreSQL in {} ended while starting: {log}", .dir.display())]
    Died {
        /// The server's directory.
        dir: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// The server did not become ready, or did not stop, in time.
    #[error("PostgreSQL in {} did not {what} within {seconds} s: {log}", .dir.display())]
    Timeout {
        /// The server's directory.
        dir: PathBuf,
        /// `start` or `stop`.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// The last lines of its log.
        log: String,
    },
    /// There is no server to adopt, or it was stopped.
    #[error("no PostgreSQL server runs in {}", .dir.display())]
    NotRunning {
        /// The server's directory.
        dir: PathBuf,
    },
    /// A session with the server failed.
    #[error("cannot use the new server")]
    Session(#[from] tokio_postgres::Error),
}

impl ServerError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
