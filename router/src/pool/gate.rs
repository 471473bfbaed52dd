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
    all_paused: bool,
    shards: BTreeMap<ShardId, Named>,
}

/// What was done to a shard by its name. Paused and disabled are two things, as in PgBouncer: RESUME does not enable.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    paused: Option<bool>,
    disabled: bool,
}

impl Gates {
    pub(super) fn of(&self, shard: ShardId) -> Gate {
        if self.named(shard).disabled {
            Gate::Disabled
        } else if self.is_paused(shard) {
            Gate::Paused
        } else {
            Gate::Open
        }
    }

    fn is_paused(&self, shard: ShardId) -> bool {
        self.named(shard).paused.unwrap_or(self.all_paused)
    }

    fn named(&self, shard: ShardId) -> Named {
        self.shards.get(&shard).copied().unwrap_or_default()
    }
}

impl Pools {
    /// Pauses or resumes one shard, or all that are and will be.
    pub(crate) fn pause(&self, shard: Option<ShardId>, paused: bool) {
        {
            let mut gates = self.gates.lock();
            match shard {
                Some(shard) => gates.shards.entry(shard).or_default().paused = Some(paused),
                None => {
                    gates.all_paused = paused;
                    for named in gates.shards.values_mut() {
                        named.paused = None;
                    }
                }
            }
        }
        self.apply_gates(shard);
    }

    /// Disables or enables a shard, until it is named again.
    pub(crate) fn disable(&self, shard: ShardId, disabled: bool) {
        self.gates.lock().shards.entry(shard).or_default().disabled = disabled;
        self.apply_gates(Some(shard));
    }

    fn apply_gates(&self, shard: Option<ShardId>) {
        for pool in self.of(shard) {
            pool.set_gate(self.gate(pool.shard_id()));
        }
    }

    /// The gate of a shard, whether or not it has a pool.
    pub(crate) fn gate(&self, shard: ShardId) -> Gate {
        self.gates.lock().of(shard)
    }

    /// Whether a shard is paused, disabled or not; without a shard, whether those are that were not named.
    pub(crate) fn is_paused(&self, shard: Option<ShardId>) -> bool {
        let gates = self.gates.lock();
        shard.map_or(gates.all_paused, |shard| gates.is_paused(shard))
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
        {
            let mut inner = self.inner.lock();
            inner.gate = gate;
            self.paused.set(gate == Gate::Paused, self.now_us());
        }
        self.resize();
        if gate != Gate::Open {
            self.close_idle();
        }
        if gate == Gate::Disabled {
            // Who waits learns that its shard is gone.
            self.send_away();
        }
    }

    /// Another pool takes its place. Who waits asks there.
    pub(super) fn retire(&self) {
        self.inner.lock().retired = true;
        self.close_idle();
        self.send_away();
    }

    /// Who waits is told why it waits no longer.
    pub(super) fn send_away(&self) {
        let now = self.now_us();
        let waiters = self.inner.lock().scheduler.withdraw_all(now);
        drop(waiters);
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
