//! The operating system account that runs servers. PostgreSQL refuses to run as root, so a root process hands its
//! servers to an unprivileged account and their files with them.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use crate::error::ServerError;

/// Who runs the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
    /// Whether this process must switch to the account (it is root) or already is it.
    switch: bool,
}

impl Account {
    /// This process's own account, or for root `TENANTRY_PG_USER`, else `postgres`, else `nobody`.
    ///
    /// # Errors
    /// [`ServerError::NoAccount`] when root finds none of them.
    pub fn for_servers() -> Result<Self, ServerError> {
        let own = geteuid();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        if !own.is_root() {
            let own = own.as_raw();
            return Ok(by_uid(&passwd, own).unwrap_or(Self {
                name: own.to_string(),
                uid: own,
                gid: own,
                switch: false,
            }));
        }
        let wanted = env::var("TENANTRY_PG_USER")
            .ok()
            .filter(|name| !name.is_empty());
        let candidates = match wanted {
            Some(name) => vec![name],
            None => vec!["postgres".to_owned(), "nobody".to_owned()],
        };
        let last = candidates.last().cloned().unwrap_or_default();
        candidates
            .into_iter()
            .find_map(|name| by_name(&passwd, &name))
            .ok_or(ServerError::NoAccount { name: last })
    }

    /// Name of the account.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether programs must be told to become this account, because this process is root.
    #[must_use]
    pub fn is_another(&self) -> bool {
        self.switch
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Makes `command` run as this account, away from a working directory that it may not be able to enter.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.current_dir("/");
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives `path` to the account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), ServerError> {
        if self.switch {
            chown(path, Some(self.uid), Some(self.gid))
                .map_err(ServerError::io("change the owner of", path))?;
        }
        Ok(())
    }

    /// Creates `dir` and what is missing above it, private to the account.
    pub(crate) fn create_dir(&self, dir: &Path) -> Result<(), ServerError> {
        fs::create_dir_all(dir).map_err(ServerError::io("create", dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(ServerError::io("restrict", dir))?;
        self.own(dir)
    }

    /// Fails with the first directory above `path` that the account cannot enter.
    pub(crate) fn check_reach(&self, path: &Path) -> Result<(), ServerError> {
        if !self.switch {
            return Ok(());
        }
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        for dir in above {
            let Ok(meta) = fs::metadata(dir) else {
                continue;
            };
            let shift = if meta.uid() == self.uid {
                6
            } else if meta.gid() == self.gid {
                3
            } else {
                0
            };
            if meta.mode() >> shift & 1 == 0 {
                return Err(ServerError::Unreachable {
                    dir: dir.to_owned(),
                    account: self.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Where data that is kept belongs by default: `/var/lib/tenantry/NAME` for root (its home is closed to the account
/// that runs servers), else `$XDG_DATA_HOME/tenantry/NAME`.
#[must_use]
pub fn default_data_dir(name: &str) -> PathBuf {
    if geteuid().is_root() {
        return Path::new("/var/lib/tenantry").join(name);
    }
    let base = env::var_os("XDG_DATA_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    let home =
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".local/share");
    base.unwrap_or_else(home).join("tenantry").join(name)
}

fn by_name(passwd: &str, name: &str) -> Option<Account> {
    accounts(passwd)
        .find(|account| account.name == name)
        .map(|account| Account {
            switch: true,
            ..account
        })
}

fn by_uid(passwd: &str, uid: u32) -> Option<Account> {
    accounts(passwd).find(|account| account.uid == uid)
}

/// Lines of passwd(5): `name:password:uid:gid:…`.
fn accounts(passwd: &str) -> impl Iterator<Item = Account> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account {
            name,
            uid,
            gid,
            switch: false,
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n";

    #[test]
    fn accounts_are_found_by_name_and_uid() {
        let nobody = by_name(PASSWD, "nobody").unwrap();
        assert_eq!(
            (nobody.uid, nobody.gid, nobody.switch),
            (65534, 65534, true)
        );
        assert_eq!(by_uid(PASSWD, 0).unwrap().name, "root");
        assert_eq!(by_name(PASSWD, "postgres"), None);
    }

    #[test]
    fn a_closed_directory_above_is_named() {
        let root = tempfile::tempdir().unwrap();
        let closed = root.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Account {
            name: "stranger".into(),
            uid: 4_000_001,
            gid: 4_000_001,
            switch: true,
        };
        let error = stranger.check_reach(&closed.join("data")).unwrap_err();
        assert!(
            matches!(error, ServerError::Unreachable { ref dir, .. } if *dir == closed),
            "{error}"
        );
        stranger.check_reach(&closed).unwrap();
    }
}
