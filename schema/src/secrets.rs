//! The secrets file: what routers and agents must know of each shard and the catalog must not.
//!
//! JSON, readable by its owner only: a file that others can read is refused, not used. Nothing here prints a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::guard::GuardKey;

/// Read and write for the owner, nothing for anyone else.
const MODE: u32 = 0o600;

/// Secrets of a fleet's shards, by shard name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsFile {
    /// By shard name.
    pub shards: BTreeMap<String, ShardSecrets>,
    /// Makes the salts that are sent for roles that do not exist, as PostgreSQL's `mock_authentication_nonce` does;
    /// every router of the fleet must have the same. Files written before there was one derive it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock_authentication_nonce: Option<Password>,
    /// What the rebalancer shows routers that it asks to hold a tenant; every router of the fleet must have the same.
    /// Without one, routers have no control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_token: Option<Password>,
}

/// Secrets of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardSecrets {
    /// Keys that sign bindings.
    pub guard: GuardKeys,
    /// Passwords of the server roles that log in.
    pub passwords: RolePasswords,
}

/// The keys that are valid at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardKeys {
    /// What routers sign with.
    pub current: GuardKey,
    /// What connections bound before the last rotation were signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<GuardKey>,
}

/// Passwords of the server roles that log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolePasswords {
    /// `tenantry_app`.
    pub app: Password,
    /// `tenantry_agent`.
    pub agent: Password,
    /// `tenantry_operator`.
    pub operator: Password,
}

/// A password; printing it shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

/// Why a secrets file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The file cannot be read or written.
    #[error("secrets file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// Others than the owner have access.
    #[error("secrets file {} has mode {mode:04o}: others can read it; chmod 600 it and consider its secrets known", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a secrets file.
    #[error("secrets file {} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why; names fields, never values.
        #[source]
        source: serde_json::Error,
    },
}

impl SecretsFile {
    /// Reads a secrets file. Its mode is checked on the open file, so that it cannot be exchanged in between.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, SecretsError> {
        let path = path.as_ref();
        let failed = |source| SecretsError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretsError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        let text = io::read_to_string(file).map_err(failed)?;
        serde_json::from_str(&text).map_err(|source| SecretsError::Malformed {
            path: path.to_owned(),
            source: without_value(source),
        })
    }

    /// Writes the file, whole or not at all: a temporary file beside it, then a rename.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SecretsError> {
        let path = path.as_ref();
        self.write(path).map_err(|source| SecretsError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// A file without shards, with a nonce and a control token of its own.
    pub fn generate() -> Self {
        Self {
            shards: BTreeMap::new(),
            mock_authentication_nonce: Some(Password::generate()),
            control_token: Some(Password::generate()),
        }
    }

    /// What makes the salts of roles that do not exist: from the nonce, or in a file without one from the password
    /// of the first shard's `tenantry_operator`, which nothing else derives from. `None` in an empty file.
    pub fn mock_secret(&self) -> Option<[u8; 32]> {
        let (purpose, secret) = match &self.mock_authentication_nonce {
            Some(nonce) => ("mock authentication nonce", nonce),
            None => {
                let first = self.shards.values().next()?;
                ("mock authentication by password", &first.passwords.operator)
            }
        };
        let mut hash = Sha256::new();
        for part in [purpose, secret.expose()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Some(hash.finalize().into())
    }

    /// The secrets of a shard.
    pub fn shard(&self, name: &str) -> Option<&ShardSecrets> {
        self.shards.get(name)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let temporary = path.with_file_name(name);
        let written = self
            .write_new(&temporary)
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // The rename's or the write's error is the one to report.
            let _ = fs::remove_file(&temporary);
            return written;
        }
        match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }

    fn write_new(&self, temporary: &Path) -> io::Result<()> {
        // A leftover of a process with the same id may have another mode: replace it, never reuse it.
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(temporary)?;
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        file.write_all(&json)?;
        file.sync_all()
    }
}

/// serde quotes what it did not expect, and that may be a secret: keep the place only.
fn without_value(source: serde_json::Error) -> serde_json::Error {
    use serde::de::Error as _;
    serde_json::Error::custom(format!(
        "unexpected content at line {} column {}",
        source.line(),
        source.column()
    ))
}

impl ShardSecrets {
    /// Fresh secrets for a new shard.
    pub fn generate() -> Self {
        Self {
            guard: GuardKeys {
                current: GuardKey::generate(1),
                previous: None,
            },
            passwords: RolePasswords {
                app: Password::generate(),
                agent: Password::generate(),
                operator: Password::generate(),
            },
        }
    }

    /// These secrets with a fresh signing key; the current one stays valid as the previous. Install them on the shard
    /// before routers read them: a binding that the shard does not know is refused.
    pub fn rotated(&self) -> Self {
        let current = GuardKey::generate(self.guard.current.version + 1);
        Self {
            guard: GuardKeys {
                current,
                previous: Some(self.guard.current.clone()),
            },
            passwords: self.passwords.clone(),
        }
    }
}

impl GuardKeys {
    /// Every key that the shard must accept.
    pub fn valid(&self) -> impl Iterator<Item = &GuardKey> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

impl Password {
    /// 192 random bits, in characters that need no quoting in a connection string.
    pub fn generate() -> Self {
        use base64::Engine as _;
        Self(base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>()))
    }

    /// The password itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> SecretsFile {
        let mut secrets = SecretsFile::default();
        secrets
            .shards
            .insert("s1".to_owned(), ShardSecrets::generate());
        secrets
            .shards
            .insert("s2".to_owned(), ShardSecrets::generate().rotated());
        secrets
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.json");
        let secrets = sample();
        secrets.save(&path).unwrap();
        secrets.save(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            MODE
        );
        assert_eq!(SecretsFile::load(&path).unwrap(), secrets);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn salts_of_unknown_roles_are_the_files() {
        let old = sample();
        assert_eq!(old.mock_authentication_nonce, None);
        assert!(!serde_json::to_string(&old).unwrap().contains("nonce"));
        assert_eq!(old.mock_secret(), old.clone().mock_secret());
        assert_ne!(old.mock_secret(), sample().mock_secret());
        assert_eq!(SecretsFile::default().mock_secret(), None);

        let mut new = SecretsFile::generate();
        let secret = new.mock_secret();
        assert!(secret.is_some());
        new.shards = old.shards;
        assert_eq!(new.mock_secret(), secret);
        let read: SecretsFile =
            serde_json::from_str(&serde_json::to_string(&new).unwrap()).unwrap();
        assert_eq!(read.mock_secret(), secret);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.json");
        sample().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = SecretsFile::load(&path).unwrap_err();
            assert!(matches!(error, SecretsError::Mode { mode: found, .. } if found == mode));
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let secrets = sample();
        let printed = format!("{secrets:?}");
        let shard = secrets.shard("s1").unwrap();
        assert!(!printed.contains(shard.passwords.app.expose()), "{printed}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.json");
        sample().save(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("\"app\": \"", "\"app\": 1, \"hunter2\": \""),
        )
        .unwrap();
        let error = SecretsFile::load(&path).unwrap_err();
        let told = format!("{error} {}", std::error::Error::source(&error).unwrap());
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn rotation_keeps_the_last_key() {
        let first = ShardSecrets::generate();
        let second = first.rotated();
        assert_eq!(second.guard.previous.as_ref(), Some(&first.guard.current));
        assert_eq!(second.guard.current.version, 2);
        assert_eq!(second.guard.valid().count(), 2);
    }
}
