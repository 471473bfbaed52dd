//! A small shell process beside each bound server that ends it when this process dies, SIGKILL included. It notices
//! by end of file on a pipe that only this process holds: the one signal that the kernel delivers in every case,
//! and from any thread (a parent-death signal would follow the *thread* that forked).

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::ServerError;

const SCRIPT: &str = include_str!("watcher.sh");

/// Ends the server in one data directory unless [`Watcher::release`] is called.
#[derive(Debug)]
pub(crate) struct Watcher {
    shell: Child,
}

impl Watcher {
    /// `data` must be an absolute path without symbolic links. `remove` is deleted after the server ended.
    pub(crate) fn start(
        data: &Path,
        signal: &str,
        remove: &[PathBuf],
    ) -> Result<Self, ServerError> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "tenantry-watcher"])
            .arg(data)
            .arg(signal)
            .args(remove);
        // Out of the terminal's and the test runner's process group: what ends us by group must not end it. None of
        // our output handles: whoever waits for their end must not wait for the watcher.
        let shell = command
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| ServerError::Spawn {
                program: "/bin/sh".into(),
                source,
            })?;
        Ok(Self { shell })
    }

    /// Tells which process to end; `None` when there is none at the moment.
    pub(crate) fn watch(&mut self, pid: Option<u32>) {
        match pid {
            Some(pid) => self.say(&format!("pid {pid}\n")),
            None => self.say("pid\n"),
        }
    }

    /// There is nothing left to end or delete.
    pub(crate) fn release(mut self) {
        self.say("done\n");
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }

    /// A watcher that is gone cannot be helped; the server still ends with its handle.
    fn say(&mut self, line: &str) {
        if let Some(stdin) = &mut self.shell.stdin
            && let Err(error) = stdin.write_all(line.as_bytes())
        {
            tracing::warn!(%error, "the watcher of a PostgreSQL server is gone");
        }
    }
}
