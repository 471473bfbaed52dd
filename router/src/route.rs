//! What a session has found out about its tenant's way to a server, kept for its next statement.
//!
//! Looking a tenant up, checking that it may be served and finding its pool is the same work for every statement until
//! the fleet changes. Good only as long as nothing it was made of has changed; nothing is decided here.

use std::sync::{Arc, Weak};

use tenantry_schema::tenant::TenantId;

use crate::admission::Weight;
use crate::pool::{Applicant, Pool};

/// What a route was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) fleet: u64,
    pub(crate) pools: u64,
}

/// The way of one session's last tenant, if it had one.
#[derive(Debug, Default)]
pub(crate) struct Route {
    tenant: Option<TenantId>,
    made_of: Versions,
    /// A pool that is replaced ends with its last connection in use, whoever remembers it.
    pool: Weak<Pool>,
    weight: Weight,
}

impl Route {
    /// Whether this tenant may be served, as far as `now` goes.
    pub(crate) fn admits(&self, tenant: TenantId, now: Versions) -> bool {
        self.tenant == Some(tenant) && self.made_of == now
    }

    /// The tenant's pool, if it is known and still the one, and as whom the session asks there.
    pub(crate) fn pool(&self, tenant: TenantId, now: Versions) -> Option<(Arc<Pool>, Applicant)> {
        if !self.admits(tenant, now) {
            return None;
        }
        let applicant = Applicant {
            tenant: Some(tenant),
            weight: self.weight,
        };
        Some((self.pool.upgrade()?, applicant))
    }

    /// Keeps what was found out about a tenant that may be served; `made_of` was read before.
    pub(crate) fn learn(
        &mut self,
        tenant: TenantId,
        made_of: Versions,
        pool: Option<(&Arc<Pool>, Weight)>,
    ) {
        let (pool, weight) = pool.unzip();
        let pool = pool.map(Arc::downgrade).unwrap_or_default();
        *self = Self {
            tenant: Some(tenant),
            made_of,
            pool,
            weight: weight.unwrap_or_default(),
        };
    }
}
