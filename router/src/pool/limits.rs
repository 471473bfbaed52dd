//! Bounds of pools: what the configuration says of them.

use std::time::Duration;

use super::Gate;
use crate::admission::Bounds;
use crate::config::Config;

/// Bounds of one pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolLimits {
    pub(crate) size: usize,
    pub(crate) reserve: usize,
    pub(crate) queue_max: usize,
    pub(crate) tenant_queue_max: usize,
    /// Whether less is given out while the shard is slow.
    pub(crate) adapts: bool,
    /// Whether tenants are told apart when connections are given out.
    pub(crate) is_fair: bool,
    pub(crate) query_wait: Duration,
    pub(crate) connect: Duration,
    pub(crate) idle: Duration,
    pub(crate) retry: Duration,
    /// Whether a connection that is given back stays bound to its tenant.
    pub(crate) keeps_bind: bool,
    /// Whether a connection that is given back is proven clean or closed.
    pub(crate) cleans: bool,
}

impl PoolLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            size: config.pool_size,
            reserve: config.pool_reserve,
            queue_max: config.pool_queue_max,
            tenant_queue_max: config.pool_tenant_queue_max,
            adapts: config.pool_adaptive,
            is_fair: !config.left_out.fairness,
            query_wait: config.timeouts.query_wait,
            connect: config.timeouts.server_connect,
            idle: config.timeouts.server_idle,
            retry: config.timeouts.server_retry,
            keeps_bind: !config.left_out.kept_bind,
            cleans: !config.left_out.cleanup,
        }
    }

    /// What the scheduler of a pool with this gate goes by.
    pub(super) fn bounds(&self, gate: Gate) -> Bounds {
        let bounds = Bounds {
            size: match gate {
                Gate::Open => self.size,
                Gate::Paused | Gate::Disabled => 0,
            },
            reserve: self.reserve,
            queue_max: self.queue_max,
            tenant_queue_max: self.tenant_queue_max,
            adapts: self.adapts,
        };
        if self.is_fair {
            return bounds;
        }
        Bounds {
            reserve: 0,
            tenant_queue_max: usize::MAX,
            adapts: false,
            ..bounds
        }
    }
}
