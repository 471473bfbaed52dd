//! What a follower tells about itself.

use std::time::Instant;

/// Where the published fleet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetSource {
    /// From the snapshot file: as old as that is.
    Snapshot,
    /// From the catalog.
    Catalog,
}

impl FleetSource {
    /// As readiness answers and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Catalog => "catalog",
        }
    }
}

/// A follower's state, for readiness, logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FollowStatus {
    /// Whether the catalog is followed right now.
    pub connected: bool,
    /// The last change in the published fleet; `None`: nothing is published yet.
    pub sequence: Option<u64>,
    /// Where the published fleet comes from.
    pub source: Option<FleetSource>,
    /// Why the catalog is not followed; `None` while it is.
    pub last_error: Option<String>,
    /// Why the snapshot file was refused; `None` once the catalog was reached.
    pub snapshot_error: Option<String>,
    /// How often the whole fleet was loaded from the catalog.
    pub loads: u64,
    /// When the end of the change log was last seen: the published fleet is at most so old. Its progress alone wakes
    /// nobody who watches.
    pub contact: Option<Instant>,
}
