//! Finds an installed PostgreSQL. Order: `TENANTRY_PG_BIN`, PATH, `pg_config --bindir`, then the folders that
//! distributions use, newest major version first. An explicit override is never second-guessed.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::DiscoverError;

/// Oldest supported major version: 14 has no publication row filters and no security_invoker views.
pub const OLDEST_MAJOR: u32 = 15;

/// Version of a PostgreSQL installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgVersion {
    /// Major version, for example 15.
    pub major: u32,
    /// As the server prints it, for example `15.18` or `19beta1`.
    pub text: String,
}

impl PgVersion {
    /// Reads the output of `postgres --version`: `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn parse(output: &str) -> Option<Self> {
        let text = output
            .split("(PostgreSQL)")
            .nth(1)?
            .split_whitespace()
            .next()?;
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let major = text[..digits].parse().ok()?;
        Some(Self {
            major,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A directory with server binaries of a supported version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgInstall {
    bin: PathBuf,
    version: PgVersion,
}

impl PgInstall {
    /// Finds the installation to use.
    ///
    /// # Errors
    /// [`DiscoverError`] when there is none, or only ones that are too old.
    pub fn discover() -> Result<Self, DiscoverError> {
        let path = env::var_os("PATH").unwrap_or_default();
        Self::discover_in(env::var_os("TENANTRY_PG_BIN").as_deref(), &path)
    }

    /// As [`PgInstall::discover`], with `TENANTRY_PG_BIN` and PATH as given.
    ///
    /// # Errors
    /// As [`PgInstall::discover`].
    pub fn discover_in(pinned: Option<&OsStr>, path: &OsStr) -> Result<Self, DiscoverError> {
        if let Some(dir) = pinned.filter(|dir| !dir.is_empty()) {
            return Self::at_override(PathBuf::from(dir));
        }
        let mut places: Vec<(String, Vec<PathBuf>)> = vec![
            ("PATH".to_owned(), env::split_paths(path).collect()),
            (
                "pg_config --bindir".to_owned(),
                pg_config_bindir().into_iter().collect(),
            ),
        ];
        for (parent, shown) in [
            ("/usr/lib/postgresql", "/usr/lib/postgresql/*/bin"),
            ("/usr", "/usr/pgsql-*/bin"),
            ("/opt/homebrew/opt", "/opt/homebrew/opt/postgresql@*/bin"),
        ] {
            places.push((shown.to_owned(), versioned(Path::new(parent))));
        }
        places.push((
            "/usr/local/pgsql/bin".to_owned(),
            vec![PathBuf::from("/usr/local/pgsql/bin")],
        ));
        Self::first_of(places)
    }

    /// Uses the binaries in `bin` and nothing else.
    ///
    /// # Errors
    /// [`DiscoverError::NoVersion`] or [`DiscoverError::TooOld`].
    pub fn at(bin: impl Into<PathBuf>) -> Result<Self, DiscoverError> {
        let bin = bin.into();
        let program = bin.join("postgres");
        let output = match Command::new(&program).arg("--version").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            Err(error) => {
                return Err(DiscoverError::NoVersion {
                    program,
                    output: error.to_string(),
                });
            }
        };
        match PgVersion::parse(&output) {
            None => Err(DiscoverError::NoVersion { program, output }),
            Some(version) if version.major < OLDEST_MAJOR => Err(DiscoverError::TooOld {
                found: version.text,
                dir: bin,
            }),
            Some(version) => Ok(Self { bin, version }),
        }
    }

    /// The directory that holds `postgres`, `initdb` and usually `psql` and `pgbench`.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// Path of one program of this installation; it is not checked to exist.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Version of the binaries.
    #[must_use]
    pub fn version(&self) -> &PgVersion {
        &self.version
    }

    fn at_override(dir: PathBuf) -> Result<Self, DiscoverError> {
        match missing_program(&dir) {
            Some(missing) => Err(DiscoverError::BadOverride { dir, missing }),
            None => Self::at(dir),
        }
    }

    /// The first usable installation; if every one found is unusable, the reason for the first of them.
    fn first_of(places: Vec<(String, Vec<PathBuf>)>) -> Result<Self, DiscoverError> {
        let mut refused = None;
        let mut searched = Vec::new();
        for (name, dirs) in places {
            searched.push(name);
            for dir in dirs
                .into_iter()
                .filter(|dir| missing_program(dir).is_none())
            {
                match Self::at(dir) {
                    Ok(install) => return Ok(install),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        Err(refused.unwrap_or(DiscoverError::NotFound { searched }))
    }
}

fn missing_program(dir: &Path) -> Option<&'static str> {
    ["postgres", "initdb"]
        .into_iter()
        .find(|program| !dir.join(program).is_file())
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    (!dir.trim().is_empty()).then(|| PathBuf::from(dir.trim()))
}

/// `parent/<something with a version>/bin`, highest version first: `15`, `pgsql-17`, `postgresql@16`.
fn versioned(parent: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name
                .strip_prefix("pgsql-")
                .or_else(|| name.strip_prefix("postgresql@"))
                .unwrap_or(&name);
            Some((number.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn fake_install(dir: &Path, version: &str) {
        fs::create_dir_all(dir).unwrap();
        for program in ["postgres", "initdb"] {
            let path = dir.join(program);
            fs::write(
                &path,
                format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n"),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn versions_are_read_from_what_servers_print() {
        let debian =
            PgVersion::parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)").unwrap();
        assert_eq!((debian.major, debian.text.as_str()), (15, "15.18"));
        let beta = PgVersion::parse("postgres (PostgreSQL) 19beta1").unwrap();
        assert_eq!((beta.major, beta.text.as_str()), (19, "19beta1"));
        assert_eq!(PgVersion::parse("mysqld 8"), None);
    }

    #[test]
    fn newest_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for major in ["9", "16", "15"] {
            fake_install(&root.path().join(major).join("bin"), major);
        }
        fs::create_dir_all(root.path().join("common/bin")).unwrap();
        let names: Vec<_> = versioned(root.path());
        assert_eq!(
            names,
            ["16", "15", "9"].map(|major| root.path().join(major).join("bin"))
        );
    }

    #[test]
    fn an_old_version_is_named_when_nothing_newer_exists() {
        let root = tempfile::tempdir().unwrap();
        fake_install(&root.path().join("13/bin"), "13.4");
        let place = |dir: &str| (dir.to_owned(), vec![root.path().join(dir).join("bin")]);
        let error = PgInstall::first_of(vec![place("13")]).unwrap_err();
        assert!(
            error.to_string().starts_with("PostgreSQL 13.4 in "),
            "{error}"
        );

        fake_install(&root.path().join("17/bin"), "17.1");
        let found = PgInstall::first_of(vec![place("13"), place("17")]).unwrap();
        assert_eq!(found.version().major, 17);
    }

    #[test]
    fn nothing_found_says_where_it_looked_and_what_to_do() {
        let error = PgInstall::first_of(vec![
            ("PATH".into(), vec![]),
            ("/nowhere/*/bin".into(), vec![]),
        ])
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no PostgreSQL server binaries found (looked in PATH, /nowhere/*/bin); run scripts/setup, or point \
             TENANTRY_PG_BIN at the directory that holds `postgres` and `initdb`"
        );
    }

    #[test]
    fn an_override_without_binaries_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let error = PgInstall::at_override(root.path().to_owned()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("but there is no `postgres` in it"),
            "{error}"
        );
    }
}
