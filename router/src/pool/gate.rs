//! What operators do to pools: pause, resume, disable, reconnect.
//!
//! A paused pool holds its clients without an error: connections are closed as they come back, and
//! who needs one waits. Time spent so does not count as waiting in the queue.

use std::collections::BTreeMap;
use std::sync::Arc;

use tenantry_schema::shard::ShardId;

use super::{Pool, Pools};

/// What operators let a pool do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    #[default]
    Open,
    /// Sessions wait; connections are closed as they come back.
    Paused,
    /// Sessions are refused; connections are closed as they come back.
    Disabled,
}

/// The gates of all shards, so that a pool made later finds its own.
#[derive(Debug, Default)]
pub(super) struct Gates {
    all: Gate,
    shards: BTreeMap<ShardId, Gate>,
}

impl Gates {
    pub(super) fn of(&self, shard: ShardId) -> Gate {
        self.shards.get(&shard).copied().unwrap_or(self.all)
    }
}

impl Pools {
    /// Sets the gate of one shard, or of all that are and will be. What was disabled by its name stays so until it is
    /// named again.
    pub(crate) fn set_gate(&self, shard: Option<ShardId>, gate: Gate) {
        {
            let mut gates = self.gates.lock();
            match shard {
                Some(shard) => {
                    gates.shards.insert(shard, gate);
                }
                None => {
                    gates.all = gate;
                    gates.shards.retain(|_, own| *own == Gate::Disabled);
                }
            }
        }
        for pool in self.of(shard) {
            pool.set_gate(self.gate(pool.shard_id()));
        }
    }

    /// The gate of a shard, whether or not it has a pool.
    pub(crate) fn gate(&self, shard: ShardId) -> Gate {
        self.gates.lock().of(shard)
    }

    /// The gate of every shard that has none of its own.
    pub(crate) fn gate_of_all(&self) -> Gate {
        self.gates.lock().all
    }

    /// Closes idle connections of a shard, or of all.
    pub(crate) fn close_idle(&self, shard: Option<ShardId>) {
        for pool in self.of(shard) {
            pool.close_idle();
        }
    }

    fn of(&self, shard: Option<ShardId>) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.retain(|pool| shard.is_none_or(|shard| pool.shard_id() == shard));
        pools
    }
}

impl Pool {
    fn set_gate(self: &Arc<Self>, gate: Gate) {
        self.inner.lock().gate = gate;
        match gate {
            Gate::Open => self.resize(),
            Gate::Paused => self.close_idle(),
            Gate::Disabled => {
                self.close_idle();
                // Who waits learns that its shard is gone.
                let waiters = std::mem::take(&mut self.inner.lock().waiters);
                drop(waiters);
            }
        }
    }

    fn close_idle(&self) {
        let closed = {
            let mut inner = self.inner.lock();
            let closed = std::mem::take(&mut inner.idle);
            inner.open -= closed.len();
            closed
        };
        drop(closed);
    }
}
