//! Starting: the data directory, a port, the process, and waiting until it accepts sessions.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::{POLL, Process, Server, resume};
use crate::conf;
use crate::error::ServerError;
use crate::ports;
use crate::postmaster::{self, LockFile};
use crate::session::SUPERUSER;

const START_MAX: Duration = Duration::from_secs(60);
const PORT_TRIES: usize = 20;

/// How an attempt to start ended, if not with an error.
pub(super) enum Launch {
    Ready,
    PortTaken,
}

impl Server {
    /// Brings the data directory into being if need be, and starts the process.
    pub(super) async fn first_start(&mut self, lock: Arc<File>) -> Result<(), ServerError> {
        let (layout, install, account) = (
            self.layout.clone(),
            self.install.clone(),
            self.account.clone(),
        );
        let wanted = self.options.superuser_password.clone();
        let held = Arc::clone(&lock);
        let prepare = move || {
            // The copy goes on when this start is given up; nobody may begin another one in the meantime.
            let _held = held;
            layout.prepare(&install, &account, wanted)
        };
        let prepared = spawn_blocking(prepare).await.unwrap_or_else(resume)?;
        self.password = prepared.password;
        self.port = self.launch_on_some_port().await?;
        if let Some(password) = prepared.change_to {
            let client = self.connect("postgres").await?;
            let quoted = password.replace('\'', "''");
            client
                .batch_execute(&format!("ALTER ROLE {SUPERUSER} PASSWORD '{quoted}'"))
                .await?;
            self.layout.write_password(&password)?;
            self.password = password;
        }
        Ok(())
    }

    async fn launch_on_some_port(&self) -> Result<u16, ServerError> {
        if let Some(port) = self.options.port {
            if ports::is_free(port) && matches!(self.launch(port).await?, Launch::Ready) {
                return Ok(port);
            }
            return Err(ServerError::PortTaken { port });
        }
        let mut port = 0;
        for _ in 0..PORT_TRIES {
            port = ports::free_port().ok_or(ServerError::PortTaken { port })?;
            if matches!(self.launch(port).await?, Launch::Ready) {
                return Ok(port);
            }
        }
        Err(ServerError::PortTaken { port })
    }

    /// Starts the process and waits until it accepts sessions.
    pub(super) async fn launch(&self, port: u16) -> Result<Launch, ServerError> {
        self.layout.create_socket_dir(&self.account)?;
        conf::write(
            &self.layout.data,
            &self.layout.socket_dir,
            port,
            &self.options,
            &self.account,
        )?;
        let log_start = fs::metadata(&self.layout.log).map_or(0, |meta| meta.len());
        let pid = self.spawn()?;
        let deadline = Instant::now() + START_MAX;
        loop {
            if self.pid().is_none() {
                let log = postmaster::log_tail(&self.layout.log, log_start);
                self.forget_process();
                if log.contains("Address already in use") {
                    self.layout.remove_outside_socket_dir();
                    return Ok(Launch::PortTaken);
                }
                return Err(ServerError::Died {
                    dir: self.layout.dir.clone(),
                    log,
                });
            }
            if LockFile::read(&self.layout.data).is_some_and(|lock| lock.pid == pid && lock.ready) {
                return Ok(Launch::Ready);
            }
            if Instant::now() > deadline {
                return Err(self.timeout("start", START_MAX));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn spawn(&self) -> Result<u32, ServerError> {
        let path = &self.layout.log;
        let log = fs::OpenOptions::new().append(true).create(true).open(path);
        let log = log.map_err(ServerError::io("open", path))?;
        let program = self.install.program("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(&self.layout.data);
        self.account.apply(&mut command);
        // A group of its own: ctrl-c reaches whoever owns the server, and the owner decides how it ends.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command
            .spawn()
            .map_err(|source| ServerError::Spawn { program, source })?;
        let pid = child.id();
        let mut state = self.state.lock();
        if let Some(watcher) = &mut state.watcher {
            watcher.watch(Some(pid));
        }
        state.process = Some(Process::Own(child));
        Ok(pid)
    }
}
