//! A fleet in a file: what a router serves from when it starts while the catalog is down.
//!
//! Header (36 bytes, its integers little-endian), then a bincode body:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic `TNTRYFLT` |
//! | 1 | version of the format |
//! | 1 | tenant key: 1 bigint, 2 uuid |
//! | 2 | zero |
//! | 4 | CRC-32 of the body |
//! | 8 | sequence of the last change that is in it |
//! | 8 | length of the body |
//! | 4 | CRC-32 of the header so far |
//!
//! A file is replaced as a whole or not at all, and one that is damaged anywhere is refused: the caller rebuilds it
//! from the catalog. Only this module knows bincode, which is unmaintained; another encoding is another version. The file
//! holds SCRAM verifiers, so only its owner may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::directory::{Arena, BuildError, Directory, DirectoryChange, Extra, Pages};
use crate::fleet::{Fleet, FleetSettings, Role};
use crate::limits::{FleetLimits, KillSwitch, Limits};
use crate::ring::{Ring, RingMember};
use crate::shard::Shard;
use crate::tenant::{TenantId, TenantKey};

/// The format that this version writes and reads.
pub const VERSION: u8 = 2;

const MAGIC: [u8; 8] = *b"TNTRYFLT";
const HEADER_BYTES: usize = 36;
const BUFFER_BYTES: usize = 256 * 1024;
/// How the names end under which snapshots are written.
const TEMPORARY: &str = ".new";
/// What is older was left by a writer that was killed.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Bounds what a decoder allocates for a length that it reads.
const DECODED_BYTES_MAX: usize = 1 << 36;

fn codec() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

/// Why a snapshot cannot be written or is refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system says no. Also when there is no snapshot: [`SnapshotError::is_absent`].
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("not a fleet snapshot")]
    NotASnapshot,
    /// Another version of the format.
    #[error("snapshot format {0} is not format {VERSION}, which this version reads")]
    UnsupportedVersion(u8),
    /// The header's checksum does not match.
    #[error("the snapshot's header is damaged")]
    HeaderDamaged,
    /// The file is shorter or longer than its header says, as after a torn write.
    #[error("the snapshot has {found} bytes instead of {expected}")]
    Torn {
        /// Length by the header.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The body's checksum does not match.
    #[error("the snapshot is damaged: its checksum is {found:08x}, not {expected:08x}")]
    BodyDamaged {
        /// Checksum by the header.
        expected: u32,
        /// Checksum of the body.
        found: u32,
    },
    /// The body does not decode.
    #[error("the snapshot does not decode")]
    Decode(#[source] bincode::error::DecodeError),
    /// The body does not encode.
    #[error("the fleet does not encode")]
    Encode(#[source] bincode::error::EncodeError),
    /// The rows contradict each other.
    #[error("the snapshot's directory is inconsistent")]
    Inconsistent(#[source] BuildError),
}

impl SnapshotError {
    /// Whether there is no snapshot, rather than a bad one.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// The body's first part; the bytes of the directory's entries follow as they are.
#[derive(Serialize, Deserialize)]
struct Contents {
    settings: FleetSettings,
    shards: Vec<Shard>,
    ring: Vec<RingMember>,
    roles: Vec<Role>,
    limits: StoredLimits,
    plans: Vec<Box<str>>,
    extras: Vec<(u32, StoredExtra)>,
    overlay: Vec<DirectoryChange>,
    entry_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredLimits {
    plans: Vec<(String, Limits)>,
    tenants: Vec<(TenantId, Limits)>,
    switches: Vec<KillSwitch>,
}

impl StoredLimits {
    fn of(limits: &FleetLimits) -> Self {
        let plans = limits.plans.iter();
        Self {
            plans: plans.map(|(name, plan)| (name.clone(), *plan)).collect(),
            tenants: limits.tenants.iter().map(|(id, own)| (*id, *own)).collect(),
            switches: limits.switches.values().cloned().collect(),
        }
    }

    fn into_limits(self) -> FleetLimits {
        let switches = self.switches.into_iter();
        FleetLimits {
            plans: self.plans.into_iter().collect(),
            tenants: self.tenants.into_iter().collect(),
            switches: switches.map(|switch| (switch.tenant, switch)).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredExtra {
    epoch: u64,
    plan: Option<Box<str>>,
    suspended_reason: Option<Box<str>>,
    suspended_at: Option<Timestamp>,
}

impl Contents {
    fn of(fleet: &Fleet) -> Self {
        let arena = fleet.directory.base_arena();
        let extras = arena.extras.iter().map(|(place, extra)| {
            let stored = StoredExtra {
                epoch: extra.epoch,
                plan: extra.plan.clone(),
                suspended_reason: extra.suspended_reason.clone(),
                suspended_at: extra.suspended_at,
            };
            (*place, stored)
        });
        Self {
            settings: fleet.settings.clone(),
            shards: fleet
                .shards
                .values()
                .map(|shard| Shard::clone(shard))
                .collect(),
            ring: fleet.ring.members().to_vec(),
            roles: fleet.roles.values().map(|role| Role::clone(role)).collect(),
            limits: StoredLimits::of(&fleet.limits),
            plans: arena.plans.clone(),
            extras: extras.collect(),
            overlay: fleet.directory.changes_since_base(),
            entry_bytes: arena.entries.len() as u64,
        }
    }

    fn into_fleet(self, entries: Pages, sequence: u64) -> Result<Fleet, BuildError> {
        let extras = self.extras.into_iter().map(|(place, stored)| {
            let extra = Extra {
                epoch: stored.epoch,
                plan: stored.plan,
                suspended_reason: stored.suspended_reason,
                suspended_at: stored.suspended_at,
            };
            (place, extra)
        });
        let arena = Arena {
            key: self.settings.tenant_key,
            entries,
            plans: self.plans,
            extras: extras.collect(),
        };
        Ok(Fleet {
            directory: Directory::from_arena(arena)?.apply(&self.overlay)?,
            settings: self.settings,
            shards: Arc::new(
                self.shards
                    .into_iter()
                    .map(|shard| (shard.id, Arc::new(shard)))
                    .collect(),
            ),
            ring: Arc::new(Ring::new(
                self.ring
                    .into_iter()
                    .map(|member| (member.shard, member.weight)),
            )),
            roles: Arc::new(
                self.roles
                    .into_iter()
                    .map(|role| (role.name.clone(), Arc::new(role)))
                    .collect(),
            ),
            limits: Arc::new(self.limits.into_limits()),
            sequence,
            limits_sequence: sequence,
        })
    }
}

struct Header {
    key: TenantKey,
    body_crc: u32,
    sequence: u64,
    body_bytes: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (fields, crc) = bytes.split_at_mut(HEADER_BYTES - 4);
        fields[..8].copy_from_slice(&MAGIC);
        fields[8] = VERSION;
        fields[9] = key_byte(self.key);
        fields[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        fields[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        fields[24..32].copy_from_slice(&self.body_bytes.to_le_bytes());
        crc.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, SnapshotError> {
        if bytes[..8] != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        if bytes[8] != VERSION {
            return Err(SnapshotError::UnsupportedVersion(bytes[8]));
        }
        let (fields, crc) = bytes.split_at(HEADER_BYTES - 4);
        let key = match fields[9] {
            1 => TenantKey::Bigint,
            2 => TenantKey::Uuid,
            _ => return Err(SnapshotError::HeaderDamaged),
        };
        if crc != crc32fast::hash(fields).to_le_bytes() {
            return Err(SnapshotError::HeaderDamaged);
        }
        Ok(Self {
            key,
            body_crc: fields[12..16]
                .iter()
                .rev()
                .fold(0, |value, byte| (value << 8) | u32::from(*byte)),
            sequence: little_endian(&fields[16..24]),
            body_bytes: little_endian(&fields[24..32]),
        })
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

fn key_byte(key: TenantKey) -> u8 {
    match key {
        TenantKey::Bigint => 1,
        TenantKey::Uuid => 2,
    }
}

/// Writes the fleet beside `path`, syncs it, and puts it in `path`'s place.
pub fn save(fleet: &Fleet, path: &Path) -> Result<(), SnapshotError> {
    let temporary = temporary_path(path);
    let written = write(fleet, &temporary).and_then(|()| {
        fs::rename(&temporary, path).map_err(SnapshotError::io("rename the new snapshot to", path))
    });
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Err(error) = remove_leftovers(path, parent) {
        // The snapshot itself is in place; another router may have been quicker.
        tracing::debug!(%error, "leftovers of snapshots could not be removed");
    }
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(SnapshotError::io("sync the directory", parent))
}

/// One name per writing: routers in several containers may share the directory, and there each is process 1.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}{TEMPORARY}", rand::random::<u64>()));
    path.with_file_name(name)
}

/// Removes what writers that were killed have left. One that is still at work does not take so long.
fn remove_leftovers(path: &Path, directory: &Path) -> io::Result<()> {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(prefix.as_encoded_bytes()) || !name.ends_with(TEMPORARY.as_bytes()) {
            continue;
        }
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > LEFTOVER_AGE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write(fleet: &Fleet, path: &Path) -> Result<(), SnapshotError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(SnapshotError::io("create", path))?;
    let mut body = BufWriter::with_capacity(BUFFER_BYTES, Checksummed::new(&file));
    // The header comes last, when the body's length and checksum are known.
    body.write_all(&[0; HEADER_BYTES])
        .and_then(|()| body.flush())
        .map_err(SnapshotError::io("write", path))?;
    body.get_mut().restart();
    let encoded = encode_body(fleet, &mut body).map_err(SnapshotError::Encode)?;
    body.flush().map_err(SnapshotError::io("write", path))?;
    let header = Header {
        key: fleet.settings.tenant_key,
        body_crc: body.get_ref().crc.clone().finalize(),
        sequence: fleet.sequence,
        body_bytes: encoded,
    };
    drop(body);
    (&file)
        .seek(SeekFrom::Start(0))
        .and_then(|_| (&file).write_all(&header.encode()))
        .map_err(SnapshotError::io("write", path))?;
    file.sync_all().map_err(SnapshotError::io("sync", path))
}

/// Tells the number of bytes.
fn encode_body(fleet: &Fleet, body: &mut impl Write) -> Result<u64, bincode::error::EncodeError> {
    let entries = fleet.directory.base_arena().entries.as_slice();
    let index = bincode::serde::encode_into_std_write(Contents::of(fleet), body, codec())?;
    body.write_all(entries)
        .map_err(|inner| bincode::error::EncodeError::Io { inner, index })?;
    Ok((index + entries.len()) as u64)
}

/// Reads the fleet that [`save`] wrote to `path`; checks every byte before it believes one.
pub fn load(path: &Path) -> Result<Fleet, SnapshotError> {
    let mut file = File::open(path).map_err(SnapshotError::io("open", path))?;
    let found = file
        .metadata()
        .map_err(SnapshotError::io("read", path))?
        .len();
    let mut header = [0; HEADER_BYTES];
    if found < HEADER_BYTES as u64 {
        return Err(SnapshotError::Torn {
            expected: HEADER_BYTES as u64,
            found,
        });
    }
    file.read_exact(&mut header)
        .map_err(SnapshotError::io("read", path))?;
    let header = Header::decode(&header)?;
    let expected = header.body_bytes.saturating_add(HEADER_BYTES as u64);
    if found != expected {
        return Err(SnapshotError::Torn { expected, found });
    }
    let crc = checksum(&mut file).map_err(SnapshotError::io("read", path))?;
    if crc != header.body_crc {
        return Err(SnapshotError::BodyDamaged {
            expected: header.body_crc,
            found: crc,
        });
    }
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))
        .map_err(SnapshotError::io("read", path))?;
    decode_body(&file, &header, path)
}

/// Of the rest of the file.
fn checksum(file: &mut File) -> io::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.finalize()),
            bytes => crc.update(buffer.get(..bytes).unwrap_or_default()),
        }
    }
}

fn decode_body(file: &File, header: &Header, path: &Path) -> Result<Fleet, SnapshotError> {
    let mut body = BufReader::with_capacity(BUFFER_BYTES, file);
    let contents: Contents =
        bincode::serde::decode_from_std_read(&mut body, codec()).map_err(SnapshotError::Decode)?;
    let damaged = SnapshotError::Inconsistent(BuildError::Damaged);
    if contents.settings.tenant_key != header.key || contents.entry_bytes > header.body_bytes {
        return Err(damaged);
    }
    let entry_bytes = contents.entry_bytes as usize;
    let mut entries = Pages::with_capacity(entry_bytes);
    entries.extend_to(entry_bytes);
    let rest = body
        .read_exact(entries.as_mut_slice())
        .and_then(|()| body.read(&mut [0]))
        .map_err(SnapshotError::io("read", path))?;
    if rest > 0 {
        return Err(damaged);
    }
    contents
        .into_fleet(entries, header.sequence)
        .map_err(SnapshotError::Inconsistent)
}

/// Sums up what passes through.
struct Checksummed<W> {
    to: W,
    crc: crc32fast::Hasher,
}

impl<W> Checksummed<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            crc: crc32fast::Hasher::new(),
        }
    }

    fn restart(&mut self) {
        self.crc.reset();
    }
}

impl<W: Write> Write for Checksummed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.crc.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
