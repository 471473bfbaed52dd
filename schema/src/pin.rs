//! Why a tenant is pinned to a shard. The reason decides who may take the pin away: the ring's own pins go when their
//! tenant has arrived where the ring wants it, an operator's stay until the operator says otherwise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tenant::UnknownName;

/// Why a tenant is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinReason {
    /// An operator wants it there.
    Manual,
    /// It lived there when the ring changed, and has not moved yet.
    Ring,
    /// A move brought it there.
    Move,
    /// It has a shard of its own while it is hot.
    Isolate,
    /// It has a database of its own for good.
    Silo,
}

impl PinReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::Manual,
        Self::Ring,
        Self::Move,
        Self::Isolate,
        Self::Silo,
    ];

    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Ring => "ring",
            Self::Move => "move",
            Self::Isolate => "isolate",
            Self::Silo => "silo",
        }
    }

    /// Whether the rebalancer may move the tenant without being asked to.
    pub fn may_move(self) -> bool {
        matches!(self, Self::Ring | Self::Move)
    }
}

impl fmt::Display for PinReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PinReason {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        found.ok_or_else(|| UnknownName::new("reason of a pin", text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn reasons_round_trip() {
        for reason in PinReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        assert!("whim".parse::<PinReason>().is_err());
    }
}
