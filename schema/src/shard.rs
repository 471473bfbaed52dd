//! Shards as the fleet knows them: identity, kind, state and where to reach them.

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::tenant::UnknownName;

/// A shard's number, 1 to 4095. Immutable and never reused: it is the ring's key and a part of the ids that
/// `tenantry.next_id()` gives out (12 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ShardId(u16);

/// A number that no shard can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shard number is between 1 and 4095, not {0}")]
pub struct InvalidShardId(pub i64);

impl ShardId {
    /// The largest shard number.
    pub const MAX: u16 = 4095;

    /// The shard of this number.
    pub fn new(number: u16) -> Result<Self, InvalidShardId> {
        if (1..=Self::MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(InvalidShardId(i64::from(number)))
        }
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for ShardId {
    type Error = InvalidShardId;

    fn try_from(number: u16) -> Result<Self, InvalidShardId> {
        Self::new(number)
    }
}

impl From<ShardId> for u16 {
    fn from(id: ShardId) -> u16 {
        id.0
    }
}

impl From<ShardId> for i32 {
    fn from(id: ShardId) -> i32 {
        i32::from(id.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As `int2` or `int4`.
impl ToSql for ShardId {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if *ty == Type::INT2 {
            i16::try_from(self.0)?.to_sql(ty, out)
        } else {
            i32::from(self.0).to_sql(ty, out)
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT2 | Type::INT4)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for ShardId {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        let number = if *ty == Type::INT2 {
            i32::from(i16::from_sql(ty, raw)?)
        } else {
            i32::from_sql(ty, raw)?
        };
        let invalid = InvalidShardId(i64::from(number));
        Ok(Self::new(u16::try_from(number).map_err(|_| invalid)?)?)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT2 | Type::INT4)
    }
}

/// A shard's name: `[a-z][a-z0-9-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShardName(String);

/// A text that is no shard name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a shard name starts with a letter and has up to 63 lower-case letters, digits and hyphens"
)]
pub struct ParseShardNameError;

impl ShardName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, ParseShardNameError> {
        match text.as_bytes() {
            [b'a'..=b'z', rest @ ..]
                if rest.len() < 63
                    && rest
                        .iter()
                        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(ParseShardNameError),
        }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ShardName {
    type Err = ParseShardNameError;

    fn from_str(text: &str) -> Result<Self, ParseShardNameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ShardName {
    type Error = ParseShardNameError;

    fn try_from(text: String) -> Result<Self, ParseShardNameError> {
        Self::parse(&text)
    }
}

impl From<ShardName> for String {
    fn from(name: ShardName) -> String {
        name.0
    }
}

/// What a shard is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardKind {
    /// Holds many tenants; the only kind that is on the ring.
    Shared,
    /// Holds one tenant.
    Dedicated,
    /// Empty, kept ready to become dedicated.
    Spare,
}

impl ShardKind {
    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
            Self::Spare => "spare",
        }
    }
}

/// What a shard may be used for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// In use.
    Active,
    /// In use, but its tenants are leaving and no new one comes.
    Draining,
    /// Serves reads only.
    ReadOnly,
    /// Not to be connected to.
    Down,
}

impl ShardState {
    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::ReadOnly => "readonly",
            Self::Down => "down",
        }
    }
}

macro_rules! closed_set {
    ($name:ident, $what:literal, $($member:ident),+) => {
        impl $name {
            /// Every member.
            pub const ALL: &'static [Self] = &[$(Self::$member),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let found = Self::ALL.iter().find(|member| member.as_str() == text);
                found.copied().ok_or_else(|| UnknownName::new($what, text))
            }
        }
    };
}

closed_set!(ShardKind, "shard kind", Shared, Dedicated, Spare);
closed_set!(ShardState, "shard state", Active, Draining, ReadOnly, Down);

/// Where a server answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardAddress {
    /// Host name, address, or the directory of a Unix socket.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
}

impl fmt::Display for ShardAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// One shard of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// Its name, for people.
    pub name: ShardName,
    /// What it is for.
    pub kind: ShardKind,
    /// What it may be used for now.
    pub state: ShardState,
    /// Its share of new tenants, against the other shards' weights; 0 keeps it off the ring.
    pub weight: u32,
    /// The primary.
    pub address: ShardAddress,
    /// Hot standbys, if any.
    #[serde(default)]
    pub replicas: Vec<ShardAddress>,
    /// Failure domain, for people and for replica choice.
    #[serde(default)]
    pub zone: Option<String>,
}

impl Shard {
    /// Whether this shard belongs on the ring.
    pub fn takes_new_tenants(&self) -> bool {
        self.kind == ShardKind::Shared && self.state == ShardState::Active && self.weight > 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn numbers_are_bounded() {
        assert!(ShardId::new(0).is_err());
        assert!(ShardId::new(4096).is_err());
        assert_eq!(ShardId::new(4095).unwrap().number(), 4095);
        assert!(serde_json::from_str::<ShardId>("0").is_err());
    }

    #[test]
    fn only_active_shared_shards_with_weight_take_new_tenants() {
        let mut shard = Shard {
            id: ShardId::new(1).unwrap(),
            name: "s1".parse().unwrap(),
            kind: ShardKind::Shared,
            state: ShardState::Active,
            weight: 1,
            address: ShardAddress {
                host: "127.0.0.1".into(),
                port: 5432,
                database: "shop".into(),
            },
            replicas: Vec::new(),
            zone: None,
        };
        assert!(shard.takes_new_tenants());
        shard.weight = 0;
        assert!(!shard.takes_new_tenants());
        shard.weight = 1;
        shard.state = ShardState::ReadOnly;
        assert!(!shard.takes_new_tenants());
        shard.state = ShardState::Active;
        shard.kind = ShardKind::Spare;
        assert!(!shard.takes_new_tenants());
    }

    #[test]
    fn names_round_trip() {
        for state in ShardState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for kind in ShardKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        assert!("warm".parse::<ShardKind>().is_err());
    }
}
