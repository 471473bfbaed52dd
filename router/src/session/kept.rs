//! A server connection that a session keeps beyond its transactions, because it listens, holds locks or cursors, or
//! has pool mode `session`: what ends that, and when its next transaction must ask again.
//!
//! A connection that is acquired for each transaction follows the fleet by itself. One that is kept would serve a
//! tenant that is suspended by now, and listen on a shard that its tenant has left. Nothing here decides who may be
//! served: that is the router's, the same for kept connections as for others.

use super::{Session, state::Listened};
use crate::error::Refusal;

impl Session {
    /// Why a session that cannot follow its tenants to another shard ends, once nothing is open on the one it has.
    pub(super) fn left_behind(&self) -> Option<Refusal> {
        if !self.is_pinned() || !self.is_at_rest() {
            return None;
        }
        let held = self.held?;
        let listened = self.state.channels().values();
        let mut tenants = listened
            .filter_map(|Listened { tenant, .. }| *tenant)
            .chain(self.state.tenant());
        let moved = tenants.find(|tenant| self.shard_of(*tenant).is_some_and(|now| now != held))?;
        let fleet = self.fleet();
        let name = |shard| fleet.shard(shard).map(|shard| shard.name.to_string());
        Some(Refusal::Moved {
            tenant: moved.display(fleet.settings.tenant_key).to_string(),
            shard: self.shard_of(moved).and_then(name).unwrap_or_default(),
        })
    }
}
