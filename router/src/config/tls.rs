//! What a router is told about TLS, in PgBouncer's and libpq's words.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// TLS towards clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// Whether clients may or must encrypt, and whether they must show a certificate.
    pub sslmode: ClientSslMode,
    /// The router's certificate and what leads to its authority, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM; a file that others can read is refused.
    pub key_file: Option<PathBuf>,
    /// Authorities that client certificates must come from, PEM.
    pub ca_file: Option<PathBuf>,
    /// `ID.SUFFIX` as the TLS server name names tenant ID.
    pub sni_suffix: Option<String>,
}

/// What is demanded of clients, from nothing to everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientSslMode {
    /// SSLRequest is answered `N`.
    #[default]
    Disable,
    /// The client decides.
    #[serde(alias = "prefer")]
    Allow,
    /// A session that is not encrypted is refused.
    Require,
    /// And so is one without a certificate of the authorities.
    VerifyCa,
    /// And so is one whose certificate's common name is not the role.
    VerifyFull,
}

/// TLS towards shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// What is demanded of a shard's server; the modes are libpq's.
    pub sslmode: ServerSslMode,
    /// Authorities that servers' certificates must come from, PEM.
    pub ca_file: Option<PathBuf>,
}

/// What is demanded of a shard's server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerSslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt if the server can; its certificate is not checked.
    #[default]
    Prefer,
    /// Encrypt or fail; the certificate is not checked.
    Require,
    /// The certificate must come from one of the authorities.
    VerifyCa,
    /// And must be for the host name or address of the shard.
    VerifyFull,
}

/// A text that is no mode of TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no sslmode: one of {expected}")]
pub struct UnknownSslMode {
    text: String,
    expected: &'static str,
}

impl ClientSslMode {
    /// Whether sessions must be encrypted.
    #[must_use]
    pub fn is_required(self) -> bool {
        self >= Self::Require
    }

    /// Whether clients must show a certificate.
    #[must_use]
    pub fn wants_certificate(self) -> bool {
        self >= Self::VerifyCa
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl ServerSslMode {
    /// Whether the server's certificate must come from one of the authorities.
    #[must_use]
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl fmt::Display for ClientSslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ServerSslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ClientSslMode {
    type Err = UnknownSslMode;

    fn from_str(text: &str) -> Result<Self, UnknownSslMode> {
        Ok(match text {
            "disable" => Self::Disable,
            // PgBouncer's two names for the same.
            "allow" | "prefer" => Self::Allow,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(UnknownSslMode {
                    text: text.to_owned(),
                    expected: "disable, allow, require, verify-ca, verify-full",
                });
            }
        })
    }
}

impl FromStr for ServerSslMode {
    type Err = UnknownSslMode;

    fn from_str(text: &str) -> Result<Self, UnknownSslMode> {
        Ok(match text {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(UnknownSslMode {
                    text: text.to_owned(),
                    expected: "disable, prefer, require, verify-ca, verify-full",
                });
            }
        })
    }
}

impl ClientTls {
    pub(super) fn problems(&self, problems: &mut Vec<ConfigError>) {
        let needed = |key, needed_for| ConfigError::TlsFile { key, needed_for };
        if self.sslmode != ClientSslMode::Disable {
            if self.cert_file.is_none() {
                problems.push(needed("client_tls_cert_file", "client_tls_sslmode"));
            }
            if self.key_file.is_none() {
                problems.push(needed("client_tls_key_file", "client_tls_sslmode"));
            }
        }
        if self.sslmode.wants_certificate() && self.ca_file.is_none() {
            problems.push(needed("client_tls_ca_file", "client_tls_sslmode"));
        }
        if let Some(suffix) = &self.sni_suffix
            && (suffix.is_empty() || suffix.starts_with('.') || suffix.ends_with('.'))
        {
            problems.push(ConfigError::SniSuffix(suffix.clone()));
        }
    }
}

impl ServerTls {
    pub(super) fn problems(&self, problems: &mut Vec<ConfigError>) {
        if self.sslmode.verifies() && self.ca_file.is_none() {
            problems.push(ConfigError::TlsFile {
                key: "server_tls_ca_file",
                needed_for: "server_tls_sslmode",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written_and_grow_stricter() {
        let modes = ["disable", "allow", "require", "verify-ca", "verify-full"];
        let parsed: Vec<ClientSslMode> = modes.iter().map(|text| text.parse().unwrap()).collect();
        assert!(parsed.is_sorted());
        for (mode, text) in parsed.iter().zip(modes) {
            assert_eq!(mode.to_string(), text);
        }
        for text in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
            assert_eq!(text.parse::<ServerSslMode>().unwrap().to_string(), text);
        }
        assert_eq!("prefer".parse(), Ok(ClientSslMode::Allow));
        assert!("on".parse::<ClientSslMode>().is_err());
        assert!("allow".parse::<ServerSslMode>().is_err());
    }

    #[test]
    fn a_mode_without_its_files_is_a_problem() {
        let mut problems = Vec::new();
        let tls = ClientTls {
            sslmode: ClientSslMode::VerifyFull,
            sni_suffix: Some(".db.example".to_owned()),
            ..ClientTls::default()
        };
        tls.problems(&mut problems);
        assert_eq!(problems.len(), 4, "{problems:?}");
        problems.clear();
        let tls = ServerTls {
            sslmode: ServerSslMode::VerifyCa,
            ca_file: None,
        };
        tls.problems(&mut problems);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.clear();
        ClientTls::default().problems(&mut problems);
        ServerTls::default().problems(&mut problems);
        assert_eq!(problems, Vec::new());
    }
}
