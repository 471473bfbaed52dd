//! The demo's directory: what is in it, who may use it, and how it goes away.
//!
//! Two files carry the rules. `demo-state.json` says that the directory belongs to a demo, which is what purging
//! insists on, and what the demo was created with. `demo.lock` is locked by the process that runs the demo for as
//! long as it lives, so that "is it running" never trusts a process id that may have been reused.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Explain, Failure};

/// What a demo was created with; a later `demo up` continues it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct State {
    /// Layout version of the directory.
    pub(super) version: u32,
    pub(super) port_base: u16,
    pub(super) shards: u16,
    pub(super) tenants: u32,
    /// False until the first start has written everything; such a directory is built anew.
    pub(super) complete: bool,
}

/// The layout this binary writes and reads.
pub(super) const LAYOUT: u32 = 1;

/// A demo's directory, which need not exist yet.
#[derive(Clone, Debug)]
pub(super) struct Place {
    dir: PathBuf,
}

/// Proof that this process runs the demo of a directory. Dropping it lets others.
#[derive(Debug)]
pub(super) struct Running {
    _lock: File,
}

impl Place {
    /// The directory given, else the default for whoever runs this.
    pub(super) fn new(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let dir = match dir {
            Some(dir) => dir,
            // Root's home is closed to the account that runs its servers; this place is not.
            None => tenantry_cluster::default_data_dir("demo"),
        };
        let dir = std::path::absolute(&dir)
            .explain(|| format!("`{}` is no usable path", dir.display()))?;
        Ok(Self { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What tools read to find the running demo.
    pub(super) fn descriptor(&self) -> PathBuf {
        self.dir.join("demo.json")
    }

    /// Where a detached demo logs.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("demo.log")
    }

    /// Configuration with which the other commands act on the demo.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("tenantry.toml")
    }

    /// Keys and passwords of the shards.
    pub(super) fn secrets(&self) -> PathBuf {
        self.dir.join("secrets.json")
    }

    /// The router's directory snapshot.
    pub(super) fn snapshot(&self) -> PathBuf {
        self.dir.join("router.snapshot")
    }

    /// Directory of the server called `name`.
    pub(super) fn server(&self, name: &str) -> PathBuf {
        self.servers().join(name)
    }

    /// Parent of the servers' directories.
    pub(super) fn servers(&self) -> PathBuf {
        self.dir.join("servers")
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join("demo.lock")
    }

    fn state_file(&self) -> PathBuf {
        self.dir.join("demo-state.json")
    }

    /// What the demo here was created with; `None` when there is no demo.
    pub(super) fn state(&self) -> Result<Option<State>, Failure> {
        let text = match fs::read_to_string(self.state_file()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error)
                    .explain(|| format!("{} cannot be read", self.state_file().display()));
            }
        };
        let state: State = serde_json::from_str(&text)
            .explain(|| format!("{} is damaged", self.state_file().display()))?;
        if state.version == LAYOUT {
            return Ok(Some(state));
        }
        Err(Failure::precondition(format!(
            "the demo in {} has layout {}, this version knows {LAYOUT}",
            self.dir.display(),
            state.version
        ))
        .hint("remove it with the version that made it, or use another --dir"))
    }

    /// Records what the demo is made with.
    pub(super) fn save_state(&self, state: &State) -> Result<(), Failure> {
        write_atomically(&self.state_file(), state)
    }

    /// Takes the directory for this process. Creates it if need be, and refuses one that holds anything but a demo.
    pub(super) fn acquire(&self) -> Result<Running, Failure> {
        if self.state()?.is_none() && !is_vacant(&self.dir)? {
            return Err(Failure::precondition(format!(
                "{} is not empty and holds no demo",
                self.dir.display()
            ))
            .hint("choose another directory with --dir"));
        }
        fs::create_dir_all(&self.dir)
            .explain(|| format!("{} cannot be created", self.dir.display()))?;
        match self.try_lock()? {
            Some(lock) => {
                let mut file = &lock;
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Running { _lock: lock })
            }
            None => Err(Failure::precondition(format!(
                "a demo is already running in {}",
                self.dir.display()
            ))
            .hint("`tenantry demo status` describes it, `tenantry demo down` stops it")),
        }
    }

    /// The process that runs the demo here, if one does.
    pub(super) fn holder(&self) -> Result<Option<i32>, Failure> {
        if !self.lock_file().exists() || self.try_lock()?.is_some() {
            return Ok(None);
        }
        let text = fs::read_to_string(self.lock_file())?;
        Ok(text.trim().parse().ok())
    }

    fn try_lock(&self) -> Result<Option<File>, Failure> {
        let path = self.lock_file();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .explain(|| format!("{} cannot be opened", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).explain(|| format!("{} cannot be locked", path.display()))
            }
        }
    }

    /// Takes the descriptor away: the demo is no longer ready.
    pub(super) fn withdraw(&self) -> Result<(), Failure> {
        remove(fs::remove_file(self.descriptor()))
            .explain(|| format!("{} cannot be removed", self.descriptor().display()))
    }

    /// Removes everything a first start wrote, for a new one. The lock stays.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        for path in [
            self.descriptor(),
            self.config(),
            self.secrets(),
            self.snapshot(),
        ] {
            remove(fs::remove_file(&path))
                .explain(|| format!("{} cannot be removed", path.display()))?;
        }
        remove(fs::remove_dir_all(self.servers()))
            .explain(|| format!("{} cannot be removed", self.servers().display()))
    }

    /// Removes the directory with everything in it. The caller has made sure that nothing runs.
    pub(super) fn purge(&self) -> Result<(), Failure> {
        if self.state()?.is_none() {
            return Err(Failure::precondition(format!(
                "{} is no demo's directory, nothing is removed",
                self.dir.display()
            )));
        }
        fs::remove_dir_all(&self.dir)
            .explain(|| format!("{} cannot be removed", self.dir.display()))
    }
}

/// True for a directory that is absent, empty, or holds only what an interrupted [`Place::acquire`] leaves.
fn is_vacant(dir: &Path) -> Result<bool, Failure> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.all(|entry| {
            entry.is_ok_and(|entry| {
                ["demo.lock", "demo.log"].contains(&entry.file_name().to_string_lossy().as_ref())
            })
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).explain(|| format!("{} cannot be read", dir.display())),
    }
}

fn remove(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes JSON beside `path` and renames it, readable by its owner only: everything here may hold passwords.
pub(super) fn write_atomically(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .explain(|| format!("{} cannot be written", path.display()))?;
    write_private(path, &(text + "\n"))
}

/// Replaces `path` by `text` in one step, readable by its owner only.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;

    let beside = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::rename(&beside, path));
    written.explain(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::exit::Exit;

    fn place(dir: &Path) -> Place {
        Place::new(Some(dir.join("demo"))).unwrap()
    }

    fn state() -> State {
        State {
            version: LAYOUT,
            port_base: 6432,
            shards: 4,
            tenants: 200,
            complete: true,
        }
    }

    #[test]
    fn one_process_runs_a_directory_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert_eq!(place.holder().unwrap(), None);
        let running = place.acquire().unwrap();
        assert_eq!(
            place.holder().unwrap(),
            Some(std::process::id().cast_signed())
        );
        assert_eq!(place.acquire().unwrap_err().exit(), Exit::Precondition);
        drop(running);
        assert_eq!(place.holder().unwrap(), None);
        place.acquire().unwrap();
    }

    #[test]
    fn a_strangers_directory_is_neither_used_nor_purged() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        fs::create_dir(place.dir()).unwrap();
        fs::write(place.dir().join("thesis.tex"), "years").unwrap();
        assert_eq!(place.acquire().unwrap_err().exit(), Exit::Precondition);
        assert_eq!(place.purge().unwrap_err().exit(), Exit::Precondition);
        assert!(place.dir().join("thesis.tex").exists());
    }

    #[test]
    fn state_survives_and_purge_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert_eq!(place.state().unwrap(), None);
        let running = place.acquire().unwrap();
        place.save_state(&state()).unwrap();
        assert_eq!(place.state().unwrap(), Some(state()));
        drop(running);
        place.purge().unwrap();
        assert!(!place.dir().exists());
    }

    #[test]
    fn another_layout_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let _running = place.acquire().unwrap();
        place
            .save_state(&State {
                version: 2,
                ..state()
            })
            .unwrap();
        assert_eq!(place.state().unwrap_err().exit(), Exit::Precondition);
    }
}
