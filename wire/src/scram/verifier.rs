//! What a server keeps instead of a password.

use std::{fmt, num::NonZeroU32, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::Sha256;

use super::{Key, hmac, sha256};

/// Rounds of PBKDF2 in a new verifier: PostgreSQL's default.
pub const DEFAULT_ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// A SCRAM-SHA-256 verifier, in the form PostgreSQL stores in `pg_authid.rolpassword`:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
    /// Stands for a user who does not exist: no proof is accepted.
    pub(super) is_mock: bool,
}

/// A text that is not a SCRAM-SHA-256 verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct ParseVerifierError;

impl Verifier {
    /// Makes the verifier of a password. PostgreSQL uses salts of 16 bytes.
    #[must_use]
    pub fn generate(password: &str, iterations: NonZeroU32, salt: &[u8]) -> Self {
        let (client_key, server_key) = keys(&salted_password(password, iterations, salt));
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&client_key),
            server_key,
            is_mock: false,
        }
    }

    /// Makes a verifier with a random salt and the default number of iterations.
    #[must_use]
    pub fn from_password(password: &str) -> Self {
        Self::generate(password, DEFAULT_ITERATIONS, &rand::random::<[u8; 16]>())
    }

    /// A verifier for a user who does not exist. Name and secret decide the salt, so that asking twice shows no
    /// difference from a user who does exist; every proof is refused.
    #[must_use]
    pub fn mock(username: &str, secret: &[u8]) -> Self {
        let secret = sha256(secret);
        let derive = |purpose: &[u8]| hmac(&secret, &[purpose, username.as_bytes()]);
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: derive(b"salt:").into_iter().take(16).collect(),
            stored_key: derive(b"stored key:"),
            server_key: derive(b"server key:"),
            is_mock: true,
        }
    }

    /// The same to a client until its proof, which is refused whatever it is: for a user who exists and must not get
    /// in, so that only who knows the password could tell.
    #[must_use]
    pub fn refusing(self) -> Self {
        Self {
            is_mock: true,
            ..self
        }
    }

    /// Whether this is a verifier of that password.
    #[must_use]
    pub fn is_of(&self, password: &str) -> bool {
        *self == Self::generate(password, self.iterations, &self.salt)
    }

    /// Reads the form that PostgreSQL stores.
    ///
    /// # Errors
    /// The text has another form.
    pub fn parse(text: &str) -> Result<Self, ParseVerifierError> {
        text.parse()
    }
}

impl FromStr for Verifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let rest = text.strip_prefix("SCRAM-SHA-256$")?;
            let (head, keys) = rest.split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            Some(Self {
                iterations: iterations.parse().ok()?,
                salt: STANDARD.decode(salt).ok()?,
                stored_key: STANDARD.decode(stored_key).ok()?.try_into().ok()?,
                server_key: STANDARD.decode(server_key).ok()?.try_into().ok()?,
                is_mock: false,
            })
        };
        parts().ok_or(ParseVerifierError)
    }
}

/// The form that PostgreSQL stores.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

/// With a verifier one can impersonate the server: it stays out of logs.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// Hi(Normalize(password), salt, i) of RFC 5802. A password that SASLprep refuses is used as it is, as PostgreSQL does.
pub(super) fn salted_password(password: &str, iterations: NonZeroU32, salt: &[u8]) -> Key {
    let prepared = stringprep::saslprep(password).ok();
    let prepared = prepared.as_deref().filter(|text| !text.is_empty());
    let password = prepared.unwrap_or(password);
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), salt, iterations.get())
}

/// ClientKey and ServerKey of RFC 5802.
pub(super) fn keys(salted_password: &Key) -> (Key, Key) {
    (
        hmac(salted_password, &[b"Client Key"]),
        hmac(salted_password, &[b"Server Key"]),
    )
}
