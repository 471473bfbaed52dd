//! The names under which clients find a tenant: slugs and hostnames.
//!
//! A slug has no dot, a hostname has one, and neither parses as an id, so a text is never two of the three.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest slug, in bytes.
pub const SLUG_BYTES_MAX: usize = 63;
/// The longest hostname, in bytes (RFC 1035, without the root's dot).
pub const HOSTNAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A tenant's short name: `[a-z][a-z0-9-]{0,62}`, and not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

/// Why a text is no slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSlugError {
    /// Not `[a-z][a-z0-9-]{0,62}`.
    #[error("a slug starts with a letter and has up to 63 lower-case letters, digits and hyphens")]
    Shape,
    /// It could be taken for a tenant id.
    #[error("a slug must not look like a tenant id")]
    LooksLikeId,
}

impl Slug {
    /// Checks a slug; nothing is normalised.
    pub fn parse(text: &str) -> Result<Self, ParseSlugError> {
        Self::check(text).map(|()| Self(text.to_owned()))
    }

    /// Whether `text` is a slug, without keeping it.
    pub fn check(text: &str) -> Result<(), ParseSlugError> {
        let shape = matches!(
            text.as_bytes(),
            [b'a'..=b'z', rest @ ..]
                if rest.len() < SLUG_BYTES_MAX
                    && rest.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        );
        if !shape {
            return Err(ParseSlugError::Shape);
        }
        if matches!(text.len(), 32 | 36) && Uuid::try_parse(text).is_ok() {
            return Err(ParseSlugError::LooksLikeId);
        }
        Ok(())
    }

    /// The slug's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A tenant's host name: lower-case A-labels with a dot between them, no dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

/// Why a text is no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostnameError {
    /// Not a domain name under IDNA (UTS 46), or not letters, digits and hyphens after it.
    #[error("not a domain name")]
    NotADomain,
    /// Names without a dot are not host names here; a slug has none.
    #[error("a host name contains a dot")]
    NoDot,
    /// More than 253 bytes, or a label of more than 63.
    #[error("longer than a domain name may be")]
    TooLong,
    /// An IPv4 address, or something a browser would read as one.
    #[error("an address is not a host name")]
    Address,
}

impl Hostname {
    /// Normalises a name as users type it: case, one final dot, and Unicode labels to A-labels.
    pub fn parse(text: &str) -> Result<Self, ParseHostnameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > 4 * HOSTNAME_BYTES_MAX {
            return Err(ParseHostnameError::TooLong);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL)
            .map_err(|_| ParseHostnameError::NotADomain)?;
        Self::check(&ascii)?;
        Ok(Self(ascii.into_owned()))
    }

    /// Whether `text` is a host name in canonical form.
    pub fn check(text: &str) -> Result<(), ParseHostnameError> {
        if text.len() > HOSTNAME_BYTES_MAX {
            return Err(ParseHostnameError::TooLong);
        }
        let mut last = "";
        for label in text.split('.') {
            if label.len() > LABEL_BYTES_MAX {
                return Err(ParseHostnameError::TooLong);
            }
            let ldh = label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
            if label.is_empty() || !ldh || label.starts_with('-') || label.ends_with('-') {
                return Err(ParseHostnameError::NotADomain);
            }
            last = label;
        }
        if !text.contains('.') {
            return Err(ParseHostnameError::NoDot);
        }
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseHostnameError::Address);
        }
        Ok(())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_type {
    ($name:ident, $error:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_type!(Slug, ParseSlugError);
text_type!(Hostname, ParseHostnameError);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn slugs() {
        let longest = "a".repeat(63);
        for text in ["a", "blue-hat", "a1-", longest.as_str(), "deadbeef"] {
            assert_eq!(Slug::parse(text).unwrap().as_str(), text);
        }
        let too_long = "a".repeat(64);
        for text in [
            "",
            "1a",
            "-a",
            "A",
            "a.b",
            "a_b",
            "ä",
            "a ",
            too_long.as_str(),
        ] {
            assert_eq!(Slug::parse(text), Err(ParseSlugError::Shape), "{text:?}");
        }
        for text in [
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "deadbeef-dead-beef-dead-beefdeadbeef",
        ] {
            assert_eq!(
                Slug::parse(text),
                Err(ParseSlugError::LooksLikeId),
                "{text:?}"
            );
        }
    }

    #[test]
    fn hostnames() {
        for (text, canonical) in [
            ("Shop.Example.COM", "shop.example.com"),
            ("shop.example.com.", "shop.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("1.example", "1.example"),
        ] {
            assert_eq!(Hostname::parse(text).unwrap().as_str(), canonical);
        }
        use ParseHostnameError::*;
        let long_label = format!("{}.example", "a".repeat(64));
        for (text, error) in [
            ("shop", NoDot),
            ("", NotADomain),
            (".", NotADomain),
            ("a..b", NotADomain),
            ("a b.example", NotADomain),
            ("*.example.com", NotADomain),
            ("-a.example", NotADomain),
            ("a_b.example", NotADomain),
            ("1.2.3.4", Address),
            (long_label.as_str(), TooLong),
        ] {
            assert_eq!(Hostname::parse(text), Err(error), "{text:?}");
        }
    }
}
