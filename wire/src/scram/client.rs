//! The client's side of an exchange.

use std::{fmt, num::NonZeroU32};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq as _;

use super::{
    ChannelBinding, Key, ScramError, Step, hmac,
    message::{attribute, is_nonce, text},
    random_nonce, sha256,
    verifier::{keys, salted_password},
    xor,
};

/// Most rounds a server may ask for. PostgreSQL's default is 4,096; a million take about a second, more would be a way
/// to keep this process busy.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Keys derived from a password for one salt and number of iterations. Keeping them saves the derivation when the same
/// server is connected to again.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKeys {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    client_key: Key,
    server_key: Key,
}

/// As good as the password: it stays out of logs.
impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKeys").finish_non_exhaustive()
    }
}

/// An exchange in which this side proves that it knows a password, and so does the server.
pub struct ClientExchange {
    password: String,
    known_keys: Option<ClientKeys>,
    gs2_header: &'static str,
    binding: Vec<u8>,
    nonce: String,
    state: State,
}

enum State {
    ExpectServerFirst,
    ExpectServerFinal { server_signature: Key },
    Finished,
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientExchange").finish_non_exhaustive()
    }
}

impl ClientExchange {
    /// An exchange with this password. [`ChannelBinding::Offered`] is for an encrypted connection whose server does not
    /// offer the mechanism with channel binding.
    #[must_use]
    pub fn new(password: &str, binding: ChannelBinding) -> Self {
        Self::with_nonce(password, binding, random_nonce())
    }

    pub(super) fn with_nonce(password: &str, binding: ChannelBinding, nonce: String) -> Self {
        let (gs2_header, binding) = match binding {
            ChannelBinding::Unavailable => ("n,,", Vec::new()),
            ChannelBinding::Offered => ("y,,", Vec::new()),
            ChannelBinding::ServerEndPoint(data) => ("p=tls-server-end-point,,", data),
        };
        Self {
            password: password.to_owned(),
            known_keys: None,
            gs2_header,
            binding,
            nonce,
            state: State::ExpectServerFirst,
        }
    }

    /// Uses keys of an earlier exchange, if the server still has the same salt and iterations.
    #[must_use]
    pub fn with_known_keys(mut self, keys: Option<ClientKeys>) -> Self {
        self.known_keys = keys;
        self
    }

    /// The first message, for SASLInitialResponse. PostgreSQL takes the user from the startup packet: the name is empty.
    #[must_use]
    pub fn start(&self) -> Vec<u8> {
        format!("{}{}", self.gs2_header, self.first_bare()).into_bytes()
    }

    /// The keys derived in this exchange, to be kept after it succeeded.
    #[must_use]
    pub fn into_keys(self) -> Option<ClientKeys> {
        self.known_keys
    }

    /// Takes the server's next message.
    pub fn step(&mut self, message: &[u8]) -> Step {
        let result = match std::mem::replace(&mut self.state, State::Finished) {
            State::ExpectServerFirst => self.challenge(message),
            State::ExpectServerFinal { server_signature } => check(&server_signature, message),
            State::Finished => Err(ScramError::Finished),
        };
        result.unwrap_or_else(Step::Failure)
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    fn challenge(&mut self, message: &[u8]) -> Result<Step, ScramError> {
        let server_first = text(message)?;
        let mut rest = server_first;
        let nonce = attribute(&mut rest, 'r', "no nonce")?;
        let salt = attribute(&mut rest, 's', "no salt")?;
        let iterations = attribute(&mut rest, 'i', "no iteration count")?;
        let server_part = nonce.strip_prefix(self.nonce.as_str());
        if !server_part.is_some_and(is_nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = STANDARD.decode(salt);
        let salt = salt.map_err(|_| ScramError::Malformed("malformed salt"))?;
        let iterations: NonZeroU32 = iterations
            .parse()
            .map_err(|_| ScramError::Malformed("malformed iteration count"))?;
        if iterations.get() > ITERATIONS_MAX {
            return Err(ScramError::Unsupported("iteration count"));
        }
        let keys = self.keys_for(salt, iterations);

        let mut header = self.gs2_header.as_bytes().to_vec();
        header.extend_from_slice(&self.binding);
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(header));
        let first_bare = self.first_bare();
        let auth_message = [
            first_bare.as_bytes(),
            b",",
            server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let signature = hmac(&sha256(&keys.client_key), &auth_message);
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        let server_signature = hmac(&keys.server_key, &auth_message);
        self.known_keys = Some(keys);
        self.state = State::ExpectServerFinal { server_signature };
        Ok(Step::Continue(
            format!("{without_proof},p={proof}").into_bytes(),
        ))
    }

    fn keys_for(&mut self, salt: Vec<u8>, iterations: NonZeroU32) -> ClientKeys {
        let known = self.known_keys.take();
        let known = known.filter(|keys| keys.salt == salt && keys.iterations == iterations);
        known.unwrap_or_else(|| {
            let salted = salted_password(&self.password, iterations, &salt);
            let (client_key, server_key) = keys(&salted);
            ClientKeys {
                salt,
                iterations,
                client_key,
                server_key,
            }
        })
    }
}

fn check(expected: &Key, message: &[u8]) -> Result<Step, ScramError> {
    let mut rest = text(message)?;
    if let Some(reason) = rest.strip_prefix("e=") {
        return Err(ScramError::Refused(reason.to_owned()));
    }
    let signature = attribute(&mut rest, 'v', "no server signature")?;
    let signature = STANDARD.decode(signature);
    let signature = signature.map_err(|_| ScramError::Malformed("malformed server signature"))?;
    if bool::from(signature.ct_eq(expected.as_slice())) {
        Ok(Step::Success(Vec::new()))
    } else {
        Err(ScramError::ServerSignature)
    }
}
