//! Signing bindings: HMAC-SHA-256 (RFC 2104) over a connection's identity and a tenant's id.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::hex;

/// SHA-256 works on blocks of this many bytes; HMAC pads its key to one.
const BLOCK: usize = 64;

/// A secret that signs bindings on one shard, and the version that a binding names it by.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredKey", into = "StoredKey")]
pub struct GuardKey {
    /// Grows with each rotation; positive.
    pub version: u32,
    /// The key, full entropy.
    pub secret: [u8; 32],
}

/// A stored key that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseGuardKeyError {
    /// The secret is 32 bytes in hexadecimal.
    #[error("a guard secret is 64 hexadecimal digits")]
    Secret,
    /// Versions start at 1 and fit PostgreSQL's integer.
    #[error("the version of a guard key is between 1 and 2147483647")]
    Version,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    version: u32,
    secret: String,
}

impl GuardKey {
    /// A fresh key from the operating system's generator.
    pub fn generate(version: u32) -> Self {
        Self {
            version,
            secret: rand::random(),
        }
    }

    /// The version as PostgreSQL stores it.
    pub fn version_sql(&self) -> i32 {
        // Versions are checked when keys are read; a generated one would need two thousand million rotations.
        i32::try_from(self.version).unwrap_or(i32::MAX)
    }

    /// The key's two HMAC blocks, `key ^ 0x36…` and `key ^ 0x5c…`, from which SQL computes an HMAC with plain SHA-256.
    pub fn blocks(&self) -> ([u8; BLOCK], [u8; BLOCK]) {
        let mut inner = [0x36; BLOCK];
        let mut outer = [0x5c; BLOCK];
        for (i, byte) in self.secret.iter().enumerate() {
            inner[i] ^= byte;
            outer[i] ^= byte;
        }
        (inner, outer)
    }
}

/// Never prints the secret.
impl fmt::Debug for GuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardKey")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl TryFrom<StoredKey> for GuardKey {
    type Error = ParseGuardKeyError;

    fn try_from(stored: StoredKey) -> Result<Self, ParseGuardKeyError> {
        if stored.version == 0 || i32::try_from(stored.version).is_err() {
            return Err(ParseGuardKeyError::Version);
        }
        Ok(Self {
            version: stored.version,
            secret: hex::decode_32(&stored.secret).ok_or(ParseGuardKeyError::Secret)?,
        })
    }
}

impl From<GuardKey> for StoredKey {
    fn from(key: GuardKey) -> Self {
        Self {
            version: key.version,
            secret: hex::encode(&key.secret),
        }
    }
}

/// The value of `tenantry.tenant` that binds `id` on the connection that `tenantry.backend_identity()` calls
/// `identity`: `<id>:<key version>:<mac>`. `id` is the canonical text of the tenant's id. Send it as a bind
/// parameter, never in statement text.
pub fn sign(key: &GuardKey, identity: &str, id: &str) -> String {
    // HMAC pads a short key to a block with zeros; the constructor for whole blocks cannot fail.
    let mut block = [0; BLOCK];
    block[..key.secret.len()].copy_from_slice(&key.secret);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(identity.as_bytes());
    mac.update(b":");
    mac.update(id.as_bytes());
    let mut value = format!("{id}:{}:", key.version);
    hex::push(&mut value, &mac.finalize().into_bytes());
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::Digest;

    use super::*;

    #[test]
    fn the_blocks_give_the_same_mac() {
        let key = GuardKey::generate(7);
        let (inner, outer) = key.blocks();
        let inside = Sha256::new()
            .chain_update(inner)
            .chain_update(b"abcd:42")
            .finalize();
        let mac = Sha256::new()
            .chain_update(outer)
            .chain_update(inside)
            .finalize();
        assert_eq!(
            sign(&key, "abcd", "42"),
            format!("42:7:{}", hex::encode(&mac))
        );
    }

    #[test]
    fn a_key_is_stored_as_hexadecimal_and_never_printed() {
        let key = GuardKey {
            version: 1,
            secret: [0xab; 32],
        };
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<GuardKey>(&json).unwrap(), key);
        assert!(!format!("{key:?}").contains("ab"), "{key:?}");
        for bad in [
            json.replace("abab", "ab"),
            json.replace(":1", ":0"),
            json.replace(":1", ":2147483648"),
        ] {
            serde_json::from_str::<GuardKey>(&bad).unwrap_err();
        }
    }
}
