//! The cached result of `initdb`. Creating a data directory takes about a second; copying one a twentieth. A template is made
//! once per server version, account and kind, and never changes afterwards, so that copying needs no lock.

use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rand::distr::{Alphanumeric, SampleString as _};
use rustix::process::geteuid;

use crate::account::Account;
use crate::copy;
use crate::error::ServerError;
use crate::install::PgInstall;

/// Part of the template's name: raise it when the way templates are made changes.
const LAYOUT: u32 = 1;
const PASSWORD_CHARS: usize = 24;

/// A data directory to copy from, and the password its superuser has.
#[derive(Debug)]
pub(crate) struct Template {
    data: PathBuf,
    password: String,
}

impl Template {
    /// Finds the template or makes it. Blocks: on `initdb`, or on another process that is running it.
    pub(crate) fn open(
        install: &PgInstall,
        account: &Account,
        durable: bool,
    ) -> Result<Self, ServerError> {
        let cache = cache_dir();
        fs::create_dir_all(&cache).map_err(ServerError::io("create", &cache))?;
        let kind = if durable { "durable" } else { "throwaway" };
        let name = format!(
            "initdb-{LAYOUT}-{}-{}-{kind}",
            install.version(),
            account.uid()
        );
        let dir = cache.join(&name);
        if !dir.exists() {
            let path = cache.join(format!("{name}.lock"));
            let lock = fs::File::create(&path).map_err(ServerError::io("create", &path))?;
            lock.lock().map_err(ServerError::io("lock", &path))?;
            if !dir.exists() {
                create(install, account, durable, &dir)?;
            }
        }
        let password = dir.join("password");
        let password = fs::read_to_string(&password).map_err(ServerError::io("read", &password))?;
        Ok(Self {
            data: dir.join("data"),
            password,
        })
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// Makes `data` a copy of the template.
    pub(crate) fn copy_to(&self, data: &Path, account: &Account) -> Result<(), ServerError> {
        copy::tree(&self.data, data, account)
    }
}

/// A password that needs no quoting anywhere.
pub(crate) fn random_password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_CHARS)
}

/// `TENANTRY_CACHE`, else `$XDG_CACHE_HOME/tenantry`, else `~/.cache/tenantry`.
fn cache_dir() -> PathBuf {
    let variable = |name| {
        env::var_os(name)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    };
    variable("TENANTRY_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("tenantry")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/tenantry")))
        .unwrap_or_else(|| env::temp_dir().join(format!("tenantry-cache-{}", geteuid().as_raw())))
}

/// Runs `initdb` where the account can write, then moves the result into the cache in one rename, so that a template
/// is complete as soon as it is visible.
fn create(
    install: &PgInstall,
    account: &Account,
    durable: bool,
    dir: &Path,
) -> Result<(), ServerError> {
    let scratch = tempfile::Builder::new()
        .prefix("tenantry-initdb-")
        .tempdir()
        .map_err(ServerError::io("create a directory in", env::temp_dir()))?;
    account.create_dir(scratch.path())?;
    let password = random_password();
    let password_file = scratch.path().join("password");
    write_private(&password_file, &password)?;
    account.own(&password_file)?;
    let data = scratch.path().join("data");
    run_initdb(install, account, durable, &data, &password_file)?;

    let parent = dir.parent().unwrap_or(Path::new("/"));
    let staged = tempfile::Builder::new()
        .prefix(".staged-")
        .tempdir_in(parent)
        .map_err(ServerError::io("create a directory in", parent))?;
    copy::tree(&data, &staged.path().join("data"), account)?;
    write_private(&staged.path().join("password"), &password)?;
    fs::rename(staged.keep(), dir).map_err(ServerError::io("create", dir))
}

fn run_initdb(
    install: &PgInstall,
    account: &Account,
    durable: bool,
    data: &Path,
    password_file: &Path,
) -> Result<(), ServerError> {
    let mut last = String::new();
    // C.UTF-8 is part of glibc in every supported distribution; plain C is what any other system has.
    for locale in ["C.UTF-8", "C"] {
        let program = install.program("initdb");
        let mut command = Command::new(&program);
        command.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
        ]);
        command.arg(format!("--locale={locale}"));
        command.arg("--pgdata").arg(data);
        command.arg(format!("--pwfile={}", password_file.display()));
        if !durable {
            // 16 MB of log file would be most of a throwaway server's data directory.
            command.arg("--wal-segsize=1");
        }
        account.apply(&mut command);
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ServerError::Spawn { program, source })?;
        if status.success() {
            return Ok(());
        }
        last = format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
        if !last.contains("locale") {
            break;
        }
    }
    Err(ServerError::Initdb {
        output: last.trim().to_owned(),
    })
}

/// Writes a new file that only this account can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), ServerError> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(ServerError::io("create", path))?;
    file.write_all(text.as_bytes())
        .map_err(ServerError::io("write", path))?;
    file.sync_all().map_err(ServerError::io("write", path))
}
