//! What a tenant's sessions have in force on the connections of a shard: for whoever makes connections of another shard
//! ready for them.

use std::sync::Arc;

use tenantry_schema::tenant::TenantId;

use super::Pool;
use crate::server::{Bound, Prepared};
use crate::session::Settings;

/// Most statements that are worth preparing before anyone asks for them.
const STATEMENTS_MAX: usize = 64;

/// Settings, and the statements that were prepared under them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) settings: Settings,
    pub(crate) statements: Vec<Arc<Prepared>>,
}

impl Pool {
    /// As the idle connection has it that was the tenant's last and holds most statements; else nothing.
    pub(crate) fn sample_of(&self, tenant: TenantId) -> Sample {
        let inner = self.inner.lock();
        let wanted = Bound::Known(Some(tenant));
        let of_tenant = inner.idle.iter().filter_map(|server| {
            let state = &server.link.state;
            (state.bound == wanted).then_some(state)
        });
        let Some(state) = of_tenant.max_by_key(|state| state.prepared.len()) else {
            return Sample::default();
        };
        let Some(settings) = state.applied.clone() else {
            return Sample::default();
        };
        let fitting = |prepared: &&Arc<Prepared>| prepared.is_for(settings.hash());
        let statements = state.prepared.all().filter(fitting);
        Sample {
            statements: statements.take(STATEMENTS_MAX).cloned().collect(),
            settings,
        }
    }
}
