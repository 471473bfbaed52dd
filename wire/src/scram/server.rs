//! The server's side of an exchange.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq as _;

use super::{
    ChannelBinding, Key, ScramError, Step, Verifier, hmac,
    message::{attribute, is_nonce, text},
    random_nonce, sha256, xor,
};

/// An exchange in which the client has to prove that it knows a password.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: Verifier,
    binding: ChannelBinding,
    server_nonce: String,
    state: State,
}

#[derive(Debug)]
enum State {
    ExpectFirst,
    ExpectFinal(Challenge),
    Finished,
}

/// What the client's final message must agree with.
#[derive(Debug)]
struct Challenge {
    /// The header of the client's first message, which the final one repeats.
    gs2_header: String,
    /// Client's and server's nonce.
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

impl ServerExchange {
    /// An exchange against `verifier`. `binding` follows from the connection and the mechanism the client chose.
    #[must_use]
    pub fn new(verifier: Verifier, binding: ChannelBinding) -> Self {
        Self::with_nonce(verifier, binding, random_nonce())
    }

    pub(super) fn with_nonce(
        verifier: Verifier,
        binding: ChannelBinding,
        server_nonce: String,
    ) -> Self {
        Self {
            verifier,
            binding,
            server_nonce,
            state: State::ExpectFirst,
        }
    }

    /// Takes the client's next message.
    pub fn step(&mut self, message: &[u8]) -> Step {
        let result = match std::mem::replace(&mut self.state, State::Finished) {
            State::ExpectFirst => self.first(message),
            State::ExpectFinal(challenge) => self.last(&challenge, message),
            State::Finished => Err(ScramError::Finished),
        };
        result.unwrap_or_else(Step::Failure)
    }

    fn first(&mut self, message: &[u8]) -> Result<Step, ScramError> {
        let message = text(message)?;
        let bare = self.bare(message)?;
        let gs2_header = message.get(..message.len() - bare.len());
        let mut rest = bare;
        if rest.starts_with("m=") {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        // The name is ignored as in PostgreSQL: the startup packet named the user.
        attribute(&mut rest, 'n', "no user name")?;
        let client_nonce = attribute(&mut rest, 'r', "no nonce")?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Malformed("non-printable characters in nonce"));
        }
        let nonce = format!("{client_nonce}{}", self.server_nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let reply = server_first.clone().into_bytes();
        self.state = State::ExpectFinal(Challenge {
            gs2_header: gs2_header.unwrap_or_default().to_owned(),
            nonce,
            client_first_bare: bare.to_owned(),
            server_first,
        });
        Ok(Step::Continue(reply))
    }

    /// Checks the header of the client's first message and returns what follows it.
    fn bare<'a>(&self, message: &'a str) -> Result<&'a str, ScramError> {
        let malformed = ScramError::Malformed("no channel-binding flag");
        let (flag, rest) = message.split_once(',').ok_or(malformed.clone())?;
        match (flag, &self.binding) {
            ("n", ChannelBinding::Unavailable | ChannelBinding::Offered)
            | ("y", ChannelBinding::Unavailable)
            | ("p=tls-server-end-point", ChannelBinding::ServerEndPoint(_)) => {}
            // "y" where binding is on offer: somebody may have hidden the offer from the client.
            ("n" | "y", _) => return Err(ScramError::ChannelBinding),
            (flag, ChannelBinding::ServerEndPoint(_)) if flag.starts_with("p=") => {
                return Err(ScramError::Unsupported("channel-binding type"));
            }
            _ => return Err(malformed),
        }
        let (authzid, bare) = rest
            .split_once(',')
            .ok_or(ScramError::Malformed("no authorization identity"))?;
        match authzid {
            "" => Ok(bare),
            id if id.starts_with("a=") => Err(ScramError::Unsupported("authorization identity")),
            _ => Err(ScramError::Malformed("no authorization identity")),
        }
    }

    fn last(&self, challenge: &Challenge, message: &[u8]) -> Result<Step, ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or(ScramError::Malformed("no proof"))?;
        let mut rest = without_proof;
        let binding = attribute(&mut rest, 'c', "no channel binding")?;
        let nonce = attribute(&mut rest, 'r', "no nonce")?;
        self.check_binding(challenge, binding)?;
        if nonce != challenge.nonce {
            return Err(ScramError::Nonce);
        }
        let proof: Key = STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(ScramError::Malformed("malformed proof"))?;
        let auth_message = [
            challenge.client_first_bare.as_bytes(),
            b",",
            challenge.server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let signature = hmac(&self.verifier.stored_key, &auth_message);
        let stored_key = sha256(&xor(&proof, &signature));
        let proved = bool::from(stored_key.ct_eq(&self.verifier.stored_key));
        // Both are computed whatever the proof was, so that time tells nothing.
        let server_signature = hmac(&self.verifier.server_key, &auth_message);
        if !proved || self.verifier.is_mock {
            return Err(ScramError::WrongPassword);
        }
        let last = format!("v={}", STANDARD.encode(server_signature));
        Ok(Step::Success(last.into_bytes()))
    }

    fn check_binding(&self, challenge: &Challenge, sent: &str) -> Result<(), ScramError> {
        let mut expected = challenge.gs2_header.clone().into_bytes();
        if let ChannelBinding::ServerEndPoint(data) = &self.binding {
            expected.extend_from_slice(data);
        }
        let sent = STANDARD.decode(sent);
        let sent = sent.map_err(|_| ScramError::Malformed("malformed channel binding"))?;
        if sent == expected {
            Ok(())
        } else {
            Err(ScramError::ChannelBinding)
        }
    }
}
