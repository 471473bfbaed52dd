//! The kinds of values settings have: how each is written, checked and shown.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use humantime_serde::re::humantime;
use tenantry_router::config::{ClientSslMode, ServerSslMode};

/// A kind of value: how it is written, and how `config check` shows it.
pub(crate) trait SettingValue: Sized {
    /// Reads the text; the error says what was expected, and never repeats what may be secret.
    fn parse(text: &str) -> Result<Self, String>;

    /// Canonical text without secrets.
    fn shown(&self) -> String;
}

macro_rules! setting_from_str {
    ($($type:ty),+ $(,)?) => {
        $(impl SettingValue for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse()
                    .map_err(|error: <Self as FromStr>::Err| error.to_string())
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        })+
    };
}

setting_from_str!(Period, ByteSize, LogFormat, ClientSslMode, ServerSslMode);

macro_rules! setting_integer {
    ($($type:ty),+ $(,)?) => {
        $(impl SettingValue for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse()
                    .map_err(|_| format!("`{text}` is no whole number from 0 to {}", <$type>::MAX))
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        })+
    };
}

setting_integer!(u16, usize);

impl SettingValue for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number: &Self| number.is_finite());
        number.ok_or_else(|| format!("`{text}` is no number such as `0.5`"))
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn shown(&self) -> String {
        self.clone()
    }
}

impl SettingValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "on" => Ok(true),
            "false" | "off" => Ok(false),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        }
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("`{text}` is no address with a port such as `127.0.0.1:6432`"))
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

/// A length of time with a unit: `80ms`, `5s`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("`{text}` is no duration such as `80ms` or `5s`: {error}"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes: `8MiB`, `64KiB`, or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Units, largest first so that the canonical form uses the largest that divides.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size such as `8MiB` or `4096`");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let scale = match unit {
            "" | "B" => 1,
            unit => {
                UNITS
                    .iter()
                    .find(|(name, _)| *name == unit)
                    .ok_or_else(wrong)?
                    .1
            }
        };
        let count: u64 = digits.trim_end().parse().map_err(|_| wrong())?;
        count
            .checked_mul(scale)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is more than 16 EiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale));
        match unit {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A connection URI or keyword string for libpq, checked when read; its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PgUrl(String);

impl PgUrl {
    /// The text as written, password included.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl SettingValue for PgUrl {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<tokio_postgres::Config>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err("no PostgreSQL connection URI such as `postgresql://user:password@host:5432/database`".to_owned()),
        }
    }

    /// User, host, port and database; built from the parsed parts, so that no way of writing a password slips through.
    fn shown(&self) -> String {
        let Ok(config) = self.0.parse::<tokio_postgres::Config>() else {
            return "***".to_owned();
        };
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .zip(config.get_ports().iter().chain(std::iter::repeat(&5432)))
            .map(|(host, port)| match host {
                tokio_postgres::config::Host::Tcp(name) => format!("{name}:{port}"),
                tokio_postgres::config::Host::Unix(path) => {
                    format!("{}:{port}", path.to_string_lossy().replace('/', "%2F"))
                }
            })
            .collect();
        let mask = if config.get_password().is_some() {
            ":***"
        } else {
            ""
        };
        let user = config
            .get_user()
            .map(|user| format!("{user}{mask}@"))
            .unwrap_or_default();
        let database = config
            .get_dbname()
            .map(|name| format!("/{name}"))
            .unwrap_or_default();
        format!("postgresql://{user}{}{database}", hosts.join(","))
    }
}

impl fmt::Debug for PgUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// How log lines on stderr are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("`{other}` is neither `text` nor `json`")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
