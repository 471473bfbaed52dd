//! Logical decoding as a client sees it: slots, publications, and the stream of a walsender.
//!
//! What moves need and libraries do not have: version 2 of `pgoutput`, so that a marker does not wait behind another
//! tenant's large transaction, exported snapshots, and positions that the caller decides about. Nothing here knows what a
//! move is; names come from outside, and dropping by name may be repeated.

pub mod link;
pub mod publication;
pub mod slot;
mod stream;
mod walsender;

pub use link::{Link, LinkError};
pub use stream::{Frame, ReplicationStream};
pub use walsender::{CancelToken, CreatedSlot, Walsender};

pub use tenantry_wire::replication::{Lsn, SlotKind, SnapshotAction};
