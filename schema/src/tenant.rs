//! What a tenant is called and what state it is in.
//!
//! A [`TenantId`] is 128 bits whatever the fleet's key kind; the [`TenantKey`], chosen once per fleet, decides
//! how ids read and write and which SQL type carries them. Names ([`Slug`], [`Hostname`]) are in [`crate::names`].

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

pub use crate::names::{Hostname, ParseHostnameError, ParseSlugError, Slug};

/// The SQL type of a fleet's tenant key. Chosen at `init`, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantKey {
    /// `bigint`; ids are positive.
    Bigint,
    /// `uuid`.
    Uuid,
}

impl TenantKey {
    /// The name of the SQL type, as in `CREATE TABLE`.
    pub fn sql_type(self) -> &'static str {
        match self {
            Self::Bigint => "bigint",
            Self::Uuid => "uuid",
        }
    }
}

impl fmt::Display for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sql_type())
    }
}

impl FromStr for TenantKey {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "bigint" => Ok(Self::Bigint),
            "uuid" => Ok(Self::Uuid),
            _ => Err(UnknownName::new("tenant key", text)),
        }
    }
}

/// Identifies a tenant. Zero is no tenant: neither `0` nor the nil UUID is an id.
///
/// In JSON an id is text: decimal up to `i64::MAX`, a hyphenated UUID above. Both forms, and JSON integers, are read
/// whatever the fleet's key, so a payload written by an SQL trigger from either column type is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(u128);

/// Why a value is no tenant id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTenantIdError {
    /// A `bigint` fleet's ids are decimal numbers from 1 to 9223372036854775807, without sign or leading zeros.
    #[error("not a tenant id: a positive bigint is expected")]
    NotABigint,
    /// A `uuid` fleet's ids are UUIDs in the hyphenated form, and not the nil UUID.
    #[error("not a tenant id: a uuid is expected")]
    NotAUuid,
}

const BIGINT_MAX: u128 = i64::MAX as u128;

impl TenantId {
    /// An id of a `bigint` fleet; it must be positive.
    pub fn from_bigint(value: i64) -> Result<Self, ParseTenantIdError> {
        match u64::try_from(value) {
            Ok(value) if value > 0 => Ok(Self(u128::from(value))),
            _ => Err(ParseTenantIdError::NotABigint),
        }
    }

    /// An id of a `uuid` fleet; it must not be nil.
    pub fn from_uuid(value: Uuid) -> Result<Self, ParseTenantIdError> {
        if value.is_nil() {
            return Err(ParseTenantIdError::NotAUuid);
        }
        Ok(Self(value.as_u128()))
    }

    /// Reads an id as a client writes it. UUIDs may be upper case; everything else must be canonical, so that one
    /// id has one spelling and no slug can be mistaken for it.
    pub fn parse(key: TenantKey, text: &str) -> Result<Self, ParseTenantIdError> {
        match key {
            TenantKey::Bigint => {
                let canonical = matches!(text.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
                match text.parse() {
                    Ok(value) if canonical => Self::from_bigint(value),
                    _ => Err(ParseTenantIdError::NotABigint),
                }
            }
            TenantKey::Uuid => parse_hyphenated(text)
                .ok_or(ParseTenantIdError::NotAUuid)
                .and_then(Self::from_uuid),
        }
    }

    /// The canonical text: decimal for `bigint`, hyphenated lower case for `uuid`.
    pub fn display(self, key: TenantKey) -> DisplayTenantId {
        DisplayTenantId { id: self, key }
    }

    /// The canonical bytes, whatever the key: what is hashed for placement.
    pub fn to_be_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id's 128 bits as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// The id whose 128 bits these are; `None` for zero.
    pub fn from_u128(value: u128) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    /// The id as a `bigint`, or `None` when it does not fit one.
    pub fn as_bigint(self) -> Option<i64> {
        i64::try_from(self.0).ok()
    }

    /// The id as a `uuid`.
    pub fn as_uuid(self) -> Uuid {
        Uuid::from_u128(self.0)
    }
}

/// A UUID in the 8-4-4-4-12 form only: `Uuid::parse_str` also reads braces, URNs and bare hex digits.
fn parse_hyphenated(text: &str) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    Uuid::try_parse(text).ok()
}

/// Prints a [`TenantId`] in its fleet's canonical form.
#[derive(Debug, Clone, Copy)]
pub struct DisplayTenantId {
    id: TenantId,
    key: TenantKey,
}

impl fmt::Display for DisplayTenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            TenantKey::Bigint => fmt::Display::fmt(&self.id.0, f),
            TenantKey::Uuid => fmt::Display::fmt(&self.id.as_uuid().as_hyphenated(), f),
        }
    }
}

impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_u128(self.0);
        }
        let key = if self.0 <= BIGINT_MAX {
            TenantKey::Bigint
        } else {
            TenantKey::Uuid
        };
        serializer.collect_str(&self.display(key))
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return deserializer.deserialize_any(TenantIdVisitor);
        }
        Self::from_u128(u128::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("tenant id is zero"))
    }
}

struct TenantIdVisitor;

impl Visitor<'_> for TenantIdVisitor {
    type Value = TenantId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a positive bigint or a uuid")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<TenantId, E> {
        TenantId::from_bigint(value).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<TenantId, E> {
        let value = i64::try_from(value).map_err(|_| E::custom(ParseTenantIdError::NotABigint))?;
        self.visit_i64(value)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TenantId, E> {
        let key = if text.contains('-') {
            TenantKey::Uuid
        } else {
            TenantKey::Bigint
        };
        TenantId::parse(key, text).map_err(E::custom)
    }
}

/// As `int8` or `uuid`, whichever the statement's parameter is.
impl ToSql for TenantId {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if *ty == Type::UUID {
            self.as_uuid().to_sql(ty, out)
        } else {
            let value = self.as_bigint().ok_or(ParseTenantIdError::NotABigint)?;
            value.to_sql(ty, out)
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::UUID)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for TenantId {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        if *ty == Type::UUID {
            Ok(Self::from_uuid(Uuid::from_sql(ty, raw)?)?)
        } else {
            Ok(Self::from_bigint(i64::from_sql(ty, raw)?)?)
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::UUID)
    }
}

/// The version of a tenant's placement; it only grows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that names no member of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?}")]
pub struct UnknownName {
    what: &'static str,
    text: String,
}

impl UnknownName {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        Self {
            what,
            text: text.to_owned(),
        }
    }
}

/// Where a tenant is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantState {
    /// Created, but its shard has no owner row yet: sessions wait for a moment.
    Provisioning,
    /// In use.
    Active,
    /// Refused, with a reason, until resumed.
    Suspended,
    /// Being closed: refused, its data is still there.
    Closing,
    /// Its data is gone; the row is kept so that the id is never used again.
    Erased,
}

impl TenantState {
    /// Every state, in the order of a tenant's life.
    pub const ALL: [Self; 5] = [
        Self::Provisioning,
        Self::Active,
        Self::Suspended,
        Self::Closing,
        Self::Erased,
    ];

    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
            Self::Erased => "erased",
        }
    }
}

impl fmt::Display for TenantState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TenantState {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownName::new("tenant state", text))
    }
}

/// How a tenant's data is kept apart from others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Rows in shared tables, behind row-level security.
    #[default]
    Pooled,
    /// A database and a role of its own.
    Silo,
}

impl Isolation {
    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Silo => "silo",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Isolation {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "pooled" => Ok(Self::Pooled),
            "silo" => Ok(Self::Silo),
            _ => Err(UnknownName::new("isolation", text)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn bigint_ids_have_one_spelling() {
        for (text, value) in [("1", 1), ("9223372036854775807", i64::MAX)] {
            let id = TenantId::parse(TenantKey::Bigint, text).unwrap();
            assert_eq!(id, TenantId::from_bigint(value).unwrap());
            assert_eq!(id.display(TenantKey::Bigint).to_string(), text);
        }
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "01",
            " 1",
            "1 ",
            "1.0",
            "9223372036854775808",
            "1e3",
            "１",
        ] {
            assert!(
                TenantId::parse(TenantKey::Bigint, text).is_err(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn uuid_ids_are_hyphenated_and_not_nil() {
        let text = "0190163d-8694-739b-aea5-966c26f8ad91";
        let id = TenantId::parse(TenantKey::Uuid, &text.to_uppercase()).unwrap();
        assert_eq!(id.display(TenantKey::Uuid).to_string(), text);
        for text in [
            "00000000-0000-0000-0000-000000000000",
            "0190163d8694739baea5966c26f8ad91",
            "{0190163d-8694-739b-aea5-966c26f8ad91}",
            "17",
        ] {
            assert!(TenantId::parse(TenantKey::Uuid, text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn json_carries_both_kinds() {
        for text in ["17", "0190163d-8694-739b-aea5-966c26f8ad91"] {
            let json = format!("{text:?}");
            let id: TenantId = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
        }
        assert_eq!(
            serde_json::from_str::<TenantId>("17").unwrap().as_u128(),
            17
        );
        for json in ["0", "-3", "\"x\"", "1.5", "null"] {
            assert!(serde_json::from_str::<TenantId>(json).is_err(), "{json}");
        }
    }
}
