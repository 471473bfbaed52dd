//! Looks at a server from outside: its lock file `postmaster.pid`, its processes, its log. Works for servers that
//! this process did not start.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const POLL: Duration = Duration::from_millis(5);
const LOG_LINES: usize = 12;

/// Content of `postmaster.pid` (PostgreSQL's `miscadmin.h`, LOCK_FILE_LINE_*).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockFile {
    pub(crate) pid: u32,
    pub(crate) port: u16,
    pub(crate) socket_dir: PathBuf,
    /// Identifier of the System V shared memory segment that outlives a killed server.
    pub(crate) shared_memory: Option<String>,
    pub(crate) ready: bool,
}

impl LockFile {
    /// Reads the lock file of a data directory; `None` while it is missing or still being written.
    pub(crate) fn read(data: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(data.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Self {
            pid: lines.first()?.parse().ok()?,
            port: lines.get(3)?.parse().ok()?,
            socket_dir: PathBuf::from(lines.get(4)?),
            shared_memory: lines
                .get(6)
                .and_then(|line| line.split_whitespace().nth(1))
                .map(str::to_owned),
            ready: lines.get(7) == Some(&"ready"),
        })
    }

    /// The lock file of a server that really runs: its process exists and works in this data directory, so that the
    /// number of a dead server, in use by another process now, is not believed.
    pub(crate) fn of_running(data: &Path) -> Option<Self> {
        let lock = Self::read(data)?;
        if !is_alive(lock.pid) {
            return None;
        }
        match fs::read_link(format!("/proc/{}/cwd", lock.pid)) {
            Ok(cwd) => (Some(cwd) == fs::canonicalize(data).ok()).then_some(lock),
            Err(_) => Some(lock),
        }
    }
}

/// Whether the process exists and has not ended; one that ended and waits for its parent does not count.
pub(crate) fn is_alive(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // "pid (name) state …"; the name may contain anything.
        Ok(stat) => !matches!(
            stat.rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next()),
            Some('Z' | 'X')
        ),
        Err(_) if Path::new("/proc/self/stat").exists() => false,
        Err(_) => pid_of(pid).is_some_and(|pid| test_kill_process(pid).is_ok()),
    }
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// The server processes below a postmaster. Each is in a process group of its own, so they are found by parentage.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Waits until none of the processes is alive; false when `limit` passes first.
pub(crate) async fn wait_gone(pids: &[u32], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while pids.iter().any(|pid| is_alive(*pid)) {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Releases the System V segment of a server that was killed: nothing else would until the machine restarts.
pub(crate) fn release_shared_memory(lock: &LockFile) {
    if let Some(id) = &lock.shared_memory {
        let _ = Command::new("ipcrm")
            .args(["-m", id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// The last lines of a log file from byte `start` on, for an error message.
pub(crate) fn log_tail(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lock_files_are_read_in_every_stage() {
        let ready =
            "4711\n/data\n1763630000\n15001\n/tmp/s\n127.0.0.1\n 12345678      9\nready   \n";
        let lock = LockFile::parse(ready).unwrap();
        assert_eq!((lock.pid, lock.port, lock.ready), (4711, 15001, true));
        assert_eq!(lock.shared_memory.as_deref(), Some("9"));
        let starting = LockFile::parse("4711\n/data\n1763630000\n15001\n/tmp/s\n").unwrap();
        assert!(!starting.ready);
        assert_eq!(LockFile::parse("47"), None);
    }

    #[test]
    fn liveness_of_a_process_that_waits_for_its_parent() {
        assert!(is_alive(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        while is_alive(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}
