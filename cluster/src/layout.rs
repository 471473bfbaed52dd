//! Where the files of one server are, and how a data directory comes to be.
//!
//! ```text
//! DIR/                      private to the server's account
//!   data/                   PGDATA
//!   run/                    the socket, unless DIR is too long for one
//!   server.log
//!   lock                    held while somebody starts the server
//!   superuser.password      written last: without it the first start did not come to its end
//! ```

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::account::Account;
use crate::error::ServerError;
use crate::install::PgInstall;
use crate::template::{Template, random_password, write_private};

/// A socket's path must fit into `sockaddr_un`: 108 bytes on Linux, 104 on macOS.
const SOCKET_PATH_MAX: usize = 100;
const SOCKET_NAME: &str = "/.s.PGSQL.65535";

/// Memory file system of Linux. A disk that others keep busy makes the thousand small files of a new server take
/// seconds; here they take a tenth of one.
const MEMORY_DIR: &str = "/dev/shm";
/// Free space from which on it is used: some servers with test data. Containers often have 64 MB.
const MEMORY_DIR_FREE_MIN: u64 = 2 << 30;

/// The directories of one server.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) socket_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) password: PathBuf,
    /// Present if the directory is to be deleted; shared with whoever still writes into it.
    pub(crate) scratch: Option<Arc<TempDir>>,
}

/// The superuser's password, and whether the server has still to learn it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) password: String,
    pub(crate) change_to: Option<String>,
}

impl Layout {
    /// Opens or creates a directory whose data is kept.
    pub(crate) fn durable(dir: &Path, account: &Account) -> Result<Self, ServerError> {
        let dir = std::path::absolute(dir).map_err(ServerError::io("find", dir))?;
        account.check_reach(&dir.join("data"))?;
        if !dir.exists() {
            account.create_dir(&dir)?;
        }
        let dir = fs::canonicalize(&dir).map_err(ServerError::io("find", &dir))?;
        // Again: the link may have led below a closed directory.
        account.check_reach(&dir.join("data"))?;
        Ok(Self::at(dir, None))
    }

    /// Creates a directory that goes with the server.
    pub(crate) fn scratch(account: &Account) -> Result<Self, ServerError> {
        let temp = scratch_parent();
        let scratch = tempfile::Builder::new()
            .prefix("tenantry-pg-")
            .tempdir_in(&temp)
            .map_err(ServerError::io("create a directory in", temp))?;
        account.own(scratch.path())?;
        let dir =
            fs::canonicalize(scratch.path()).map_err(ServerError::io("find", scratch.path()))?;
        account.check_reach(&dir.join("data"))?;
        Ok(Self::at(dir, Some(Arc::new(scratch))))
    }

    fn at(dir: PathBuf, scratch: Option<Arc<TempDir>>) -> Self {
        let inside = dir.join("run");
        let socket_dir = if inside.as_os_str().len() + SOCKET_NAME.len() < SOCKET_PATH_MAX {
            inside
        } else {
            PathBuf::from(format!("/tmp/tnt-{}", &random_password()[..10]))
        };
        let file = |name| dir.join(name);
        Self {
            data: file("data"),
            log: file("server.log"),
            password: file("superuser.password"),
            socket_dir,
            scratch,
            dir,
        }
    }

    /// Waits until nobody else starts a server here, and keeps others out while the file is open. Blocks.
    pub(crate) fn lock(&self) -> Result<File, ServerError> {
        let path = self.dir.join("lock");
        let lock = File::create(&path).map_err(ServerError::io("create", &path))?;
        lock.lock().map_err(ServerError::io("lock", &path))?;
        Ok(lock)
    }

    /// Whether the socket's directory is not inside the server's own.
    pub(crate) fn has_outside_socket(&self) -> bool {
        !self.socket_dir.starts_with(&self.dir)
    }

    /// Creates the socket's directory; one that somebody else put there is refused.
    pub(crate) fn create_socket_dir(&self, account: &Account) -> Result<(), ServerError> {
        let dir = &self.socket_dir;
        if self.has_outside_socket() {
            fs::create_dir(dir).map_err(ServerError::io("create", dir))?;
        }
        account.create_dir(dir)
    }

    pub(crate) fn remove_outside_socket_dir(&self) {
        if self.has_outside_socket() {
            let _ = fs::remove_dir_all(&self.socket_dir);
        }
    }

    /// Makes the data directory unless it is there. Blocks.
    pub(crate) fn prepare(
        &self,
        install: &PgInstall,
        account: &Account,
        wanted: Option<String>,
    ) -> Result<Prepared, ServerError> {
        if let Ok(password) = fs::read_to_string(&self.password) {
            self.check_version(install)?;
            return Ok(Prepared {
                password,
                change_to: None,
            });
        }
        if self.data.exists() {
            fs::remove_dir_all(&self.data)
                .map_err(ServerError::io("delete the unfinished", &self.data))?;
        }
        let durable = self.scratch.is_none();
        let template = Template::open(install, account, durable)?;
        template.copy_to(&self.data, account)?;
        // What is kept does not share a password with every other server of this machine.
        let change_to = wanted.or_else(|| durable.then(random_password));
        Ok(Prepared {
            password: template.password().to_owned(),
            change_to,
        })
    }

    pub(crate) fn write_password(&self, password: &str) -> Result<(), ServerError> {
        write_private(&self.password, password)
    }

    fn check_version(&self, install: &PgInstall) -> Result<(), ServerError> {
        let path = self.data.join("PG_VERSION");
        let found = fs::read_to_string(&path)
            .map_err(ServerError::io("read", &path))?
            .trim()
            .to_owned();
        let have = install.version().major;
        if found == have.to_string() {
            return Ok(());
        }
        Err(ServerError::WrongVersion {
            dir: self.data.clone(),
            found,
            have,
        })
    }
}

/// Where throwaway servers live: `TMPDIR`, else memory if there is enough, else the system's temporary directory.
fn scratch_parent() -> PathBuf {
    let roomy = || {
        let stat = rustix::fs::statvfs(MEMORY_DIR).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        (free >= MEMORY_DIR_FREE_MIN).then(|| PathBuf::from(MEMORY_DIR))
    };
    let chosen = env::var_os("TMPDIR").is_some_and(|dir| !dir.is_empty());
    if chosen {
        env::temp_dir()
    } else {
        roomy().unwrap_or_else(env::temp_dir)
    }
}
