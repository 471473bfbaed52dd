//! Certificates, keys and authorities in PEM files.
//!
//! A private key that others can read is refused as PostgreSQL refuses it, and no error shows what is in a file.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why files cannot serve for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than the owner can read or write the key.
    #[error(
        "private key file {} has mode {mode:04o}: it must be 0600 or less if this process's user owns it, 0640 or less if root does",
        path.display()
    )]
    KeyMode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else's key.
    #[error("private key file {} must be owned by this process's user or by root", path.display())]
    KeyOwner {
        /// Which.
        path: PathBuf,
    },
    /// The file holds nothing of the kind.
    #[error("{} holds no {what} in PEM", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// What the file holds cannot be used.
    #[error("{} cannot be used", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authorities cannot be used to check clients.
    #[error("{} cannot be used to check certificates", path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// The certificate has expired, and every client that checks it would refuse it.
    #[error("the certificate in {} has expired", path.display())]
    Expired {
        /// Which.
        path: PathBuf,
    },
    /// The configuration names no file.
    #[error("`{0}` is not set")]
    Unset(&'static str),
}

/// The certificates of a file, in its order.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, open(path)?)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Empty {
            path: path.to_owned(),
            what: "certificate",
        }),
    }
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Unusable {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(roots)
}

/// The private key of a file. Its mode is checked on the open file, so that it cannot be exchanged in between.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    check_access(
        path,
        metadata.mode() & 0o777,
        metadata.uid(),
        rustix::process::geteuid().as_raw(),
    )?;
    let text = read(path, file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::Empty {
        path: path.to_owned(),
        what: "private key",
    })
}

/// The rule of PostgreSQL's `ssl_key_file`.
fn check_access(path: &Path, mode: u32, owner: u32, ours: u32) -> Result<(), TlsError> {
    if owner != ours && owner != 0 {
        return Err(TlsError::KeyOwner {
            path: path.to_owned(),
        });
    }
    let forbidden = if owner == ours { 0o077 } else { 0o037 };
    if mode & forbidden != 0 {
        return Err(TlsError::KeyMode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// What tells one state of a file from another: when it was written, which file it is, how long it is.
pub(super) type Stamp = Option<(SystemTime, u64, u64)>;

/// Notices that files have changed, once they have stayed the same from one look to the next: a certificate and its key
/// are two files, and what is read between the two belongs to neither.
#[derive(Debug)]
pub(super) struct Watch {
    /// At the last look.
    seen: Vec<Stamp>,
    /// When they were last read, whether they could be used or not.
    read: Vec<Stamp>,
}

impl Watch {
    pub(super) fn new(read: Vec<Stamp>) -> Self {
        Self {
            seen: read.clone(),
            read,
        }
    }

    /// Whether the files are to be read again. Says so once.
    pub(super) fn has_changed(&mut self, now: Vec<Stamp>) -> bool {
        let settled = self.seen == now;
        self.seen = now;
        if !settled || self.read == self.seen {
            return false;
        }
        self.read.clone_from(&self.seen);
        true
    }
}

/// The state of each file, as far as can be told.
pub(super) fn stamps<'p>(paths: impl IntoIterator<Item = &'p Option<PathBuf>>) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.ino(), found.len()))
    };
    paths.into_iter().flatten().map(stamp).collect()
}

fn open(path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path, file: File) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_once_it_has_settled() {
        let stamp = |number| vec![Some((SystemTime::UNIX_EPOCH, number, 1))];
        let mut watch = Watch::new(stamp(1));
        assert!(!watch.has_changed(stamp(1)));
        assert!(!watch.has_changed(stamp(2)));
        assert!(!watch.has_changed(stamp(3)));
        assert!(watch.has_changed(stamp(3)));
        assert!(!watch.has_changed(stamp(3)));
        assert!(!watch.has_changed(vec![None]));
        // Back to what was read: nothing has happened.
        assert!(!watch.has_changed(stamp(3)) && !watch.has_changed(stamp(3)));
    }

    #[test]
    fn keys_are_for_their_owner() {
        let check = |mode, owner, ours| check_access(Path::new("key"), mode, owner, ours).is_ok();
        assert!(check(0o600, 7, 7) && check(0o400, 7, 7));
        assert!(!check(0o640, 7, 7) && !check(0o604, 7, 7) && !check(0o610, 7, 7));
        assert!(check(0o640, 0, 7) && !check(0o660, 0, 7) && !check(0o644, 0, 7));
        assert!(!check(0o640, 0, 0));
        assert!(!check(0o600, 8, 7));
    }
}
