//! One local PostgreSQL server: start, stop, kill, restart, adopt.

mod end;
mod launch;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::task::spawn_blocking;

use self::launch::Launch;
use crate::account::Account;
use crate::error::ServerError;
use crate::install::PgInstall;
use crate::layout::Layout;
use crate::options::{Lifetime, ServerOptions, StopMode};
use crate::postmaster::{self, LockFile};
use crate::watcher::Watcher;

const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A local PostgreSQL server. Dropping it ends the server unless it is detached.
#[derive(Debug)]
pub struct Server {
    install: PgInstall,
    account: Account,
    options: ServerOptions,
    layout: Layout,
    password: String,
    port: u16,
    /// One start, stop or kill at a time.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    watcher: Option<Watcher>,
}

#[derive(Debug)]
enum Process {
    Own(Child),
    /// Started by another process.
    Adopted(u32),
}

impl Process {
    fn pid(&self) -> u32 {
        match self {
            Self::Own(child) => child.id(),
            Self::Adopted(pid) => *pid,
        }
    }

    /// Whether the server has ended; collects it if it is ours.
    fn has_ended(&mut self) -> bool {
        match self {
            Self::Own(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Adopted(pid) => !postmaster::is_alive(*pid),
        }
    }
}

/// Starts several servers at once. If one fails, the others are stopped.
///
/// # Errors
/// The first [`ServerError`].
pub async fn start_many(options: Vec<ServerOptions>) -> Result<Vec<Server>, ServerError> {
    try_join_all(options.into_iter().map(Server::start)).await
}

/// Stops several servers at once.
///
/// # Errors
/// The first [`ServerError`]; the other servers are told to stop all the same.
pub async fn stop_many(servers: &[Server], mode: StopMode) -> Result<(), ServerError> {
    let results = join_all(servers.iter().map(|server| server.stop(mode))).await;
    results.into_iter().collect()
}

impl Server {
    /// Starts a server with the installation that [`PgInstall::discover`] finds. Running already (durable only), it
    /// is adopted as it is.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left running or lying about then, except the data of a durable server.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let install = spawn_blocking(PgInstall::discover)
            .await
            .unwrap_or_else(resume)?;
        Self::start_with(install, options).await
    }

    /// Starts a server with the given installation.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(
        install: PgInstall,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let account = Account::for_servers()?;
        let layout = match &options.dir {
            Some(dir) => Layout::durable(dir, &account)?,
            None => Layout::scratch(&account)?,
        };
        let mut server = Self {
            install,
            account,
            options,
            layout,
            password: String::new(),
            port: 0,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        };
        let layout = server.layout.clone();
        let lock = spawn_blocking(move || layout.lock())
            .await
            .unwrap_or_else(resume)?;
        if server.find_running()? {
            return Ok(server);
        }
        server.start_watcher()?;
        server.first_start(Arc::new(lock)).await?;
        Ok(server)
    }

    /// Takes over a server that runs in `dir`, started by [`ServerOptions::durable`] of any process. Dropping the
    /// handle leaves it running.
    ///
    /// # Errors
    /// [`ServerError::NotRunning`] if there is none.
    pub fn adopt(dir: impl AsRef<Path>) -> Result<Self, ServerError> {
        let dir = dir.as_ref();
        let not_running = || ServerError::NotRunning {
            dir: dir.to_owned(),
        };
        if !dir.is_dir() {
            return Err(not_running());
        }
        let account = Account::for_servers()?;
        let mut server = Self {
            install: PgInstall::discover()?,
            layout: Layout::durable(dir, &account)?,
            account,
            options: ServerOptions::durable(dir).lifetime(Lifetime::Detached),
            password: String::new(),
            port: 0,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        };
        if server.find_running()? {
            Ok(server)
        } else {
            Err(not_running())
        }
    }

    /// The port on 127.0.0.1; it stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Process id of the postmaster, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state.lock();
        let process = state.process.as_mut()?;
        (!process.has_ended()).then(|| process.pid())
    }

    /// The directory that holds data, log and socket.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.layout.dir
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.layout.socket_dir
    }

    /// The binaries in use.
    #[must_use]
    pub fn install(&self) -> &PgInstall {
        &self.install
    }

    /// Password of the superuser `postgres`.
    #[must_use]
    pub fn superuser_password(&self) -> &str {
        &self.password
    }

    /// Stops the server and waits until it has ended. One that does not run is no error.
    ///
    /// # Errors
    /// [`ServerError::Timeout`] when it does not end.
    pub async fn stop(&self, mode: StopMode) -> Result<(), ServerError> {
        let _turn = self.turn.lock().await;
        self.stop_in_turn(mode).await
    }

    /// Kills the postmaster and all its children at once, as a power failure would.
    ///
    /// # Errors
    /// [`ServerError::Timeout`] when the kernel does not end them.
    pub async fn kill9(&self) -> Result<(), ServerError> {
        let _turn = self.turn.lock().await;
        let Some(pid) = self.pid() else { return Ok(()) };
        let mut all = postmaster::children(pid);
        all.insert(0, pid);
        all.iter()
            .for_each(|pid| postmaster::signal(*pid, Signal::KILL));
        self.wait_ended(STOP_MAX).await?;
        if !postmaster::wait_gone(&all, STOP_MAX).await {
            return Err(self.timeout("stop", STOP_MAX));
        }
        Ok(())
    }

    /// Starts the server again on the same port, after a fast stop if it runs. After [`Server::kill9`] it recovers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart(&self) -> Result<(), ServerError> {
        let _turn = self.turn.lock().await;
        self.stop_in_turn(StopMode::Fast).await?;
        match self.launch(self.port).await? {
            Launch::Ready => Ok(()),
            Launch::PortTaken => Err(ServerError::PortTaken { port: self.port }),
        }
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        postmaster::log_tail(&self.layout.log, 0)
    }

    /// Takes over the server of this directory if one runs.
    fn find_running(&mut self) -> Result<bool, ServerError> {
        let Some(lock) = LockFile::of_running(&self.layout.data) else {
            return Ok(false);
        };
        let path = &self.layout.password;
        self.password = fs::read_to_string(path).map_err(ServerError::io("read", path))?;
        if let Some(port) = self.options.port.filter(|port| *port != lock.port) {
            tracing::info!(
                asked = port,
                found = lock.port,
                "a PostgreSQL server runs already, on another port"
            );
        }
        self.port = lock.port;
        self.layout.socket_dir = lock.socket_dir;
        self.start_watcher()?;
        let state = self.state.get_mut();
        state.process = Some(Process::Adopted(lock.pid));
        if let Some(watcher) = &mut state.watcher {
            watcher.watch(Some(lock.pid));
        }
        Ok(true)
    }

    fn start_watcher(&mut self) -> Result<(), ServerError> {
        if self.options.is_detached() {
            return Ok(());
        }
        let mut remove = Vec::new();
        if self.layout.scratch.is_some() {
            remove.push(self.layout.dir.clone());
        }
        if self.layout.has_outside_socket() {
            remove.push(self.layout.socket_dir.clone());
        }
        let signal = if self.options.is_durable() {
            "INT"
        } else {
            "QUIT"
        };
        self.state.get_mut().watcher = Some(Watcher::start(&self.layout.data, signal, &remove)?);
        Ok(())
    }
}

/// Goes on with the panic of a blocking task, or with the cancellation of the runtime that it ran on.
fn resume<T>(gone: tokio::task::JoinError) -> T {
    match gone.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => std::panic::resume_unwind(Box::new(cancelled.to_string())),
    }
}
