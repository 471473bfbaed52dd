//! Ending: politely with a runtime, and in any case without one.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{POLL, STOP_MAX, Server};
use crate::error::ServerError;
use crate::options::StopMode;
use crate::postmaster::{self, LockFile};

/// After this a handle that is dropped stops being polite.
const DROP_MAX: Duration = Duration::from_secs(20);

impl Server {
    pub(super) async fn stop_in_turn(&self, mode: StopMode) -> Result<(), ServerError> {
        if let Some(pid) = self.pid() {
            let signal = match mode {
                StopMode::Smart => Signal::TERM,
                StopMode::Fast => Signal::INT,
                StopMode::Immediate => Signal::QUIT,
            };
            postmaster::signal(pid, signal);
            self.wait_ended(STOP_MAX).await?;
        }
        self.layout.remove_outside_socket_dir();
        Ok(())
    }

    pub(super) async fn wait_ended(&self, limit: Duration) -> Result<(), ServerError> {
        let deadline = Instant::now() + limit;
        while self.pid().is_some() {
            if Instant::now() > deadline {
                return Err(self.timeout("stop", limit));
            }
            tokio::time::sleep(POLL).await;
        }
        self.forget_process();
        Ok(())
    }

    pub(super) fn forget_process(&self) {
        let mut state = self.state.lock();
        state.process = None;
        if let Some(watcher) = &mut state.watcher {
            watcher.watch(None);
        }
    }

    pub(super) fn timeout(&self, what: &'static str, limit: Duration) -> ServerError {
        ServerError::Timeout {
            dir: self.layout.dir.clone(),
            what,
            seconds: limit.as_secs(),
            log: self.log_tail(),
        }
    }

    /// Ends the process without a runtime: politely if its data is kept, and in any case.
    // Drop has no runtime to wait on.
    #[allow(clippy::disallowed_methods)]
    fn end_now(&mut self) {
        let state = self.state.get_mut();
        if let Some(mut process) = state.process.take()
            && !process.has_ended()
        {
            let polite = if self.options.is_durable() {
                Signal::INT
            } else {
                Signal::QUIT
            };
            let deadline = Instant::now() + DROP_MAX;
            postmaster::signal(process.pid(), polite);
            while !process.has_ended() {
                std::thread::sleep(POLL);
                if Instant::now() > deadline {
                    postmaster::signal(process.pid(), Signal::KILL);
                }
            }
        }
        if self.layout.scratch.is_some()
            && let Some(lock) = LockFile::read(&self.layout.data)
        {
            postmaster::release_shared_memory(&lock);
        }
        self.layout.remove_outside_socket_dir();
        if let Some(watcher) = state.watcher.take() {
            watcher.release();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.options.is_detached() {
            self.end_now();
        }
    }
}
