//! How many sessions each role has on this router, for roles with a limit.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tenantry_schema::fleet::Role;

use crate::error::Refusal;

/// Sessions by role.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoleSlots {
    taken: Arc<Mutex<HashMap<String, u32>>>,
}

impl RoleSlots {
    /// A place among the role's sessions, kept until it is dropped.
    pub(crate) fn take(&self, role: &Role) -> Result<RoleSlot, Refusal> {
        let mut taken = self.taken.lock();
        let count = taken.entry(role.name.clone()).or_default();
        if let Some(limit) = role.limits.max_connections
            && *count >= limit
        {
            return Err(Refusal::TooManyRoleConnections {
                role: role.name.clone(),
                limit,
                observed: *count,
            });
        }
        *count += 1;
        Ok(RoleSlot {
            slots: self.clone(),
            role: role.name.clone(),
        })
    }
}

/// One session of a role.
#[derive(Debug)]
pub(crate) struct RoleSlot {
    slots: RoleSlots,
    role: String,
}

impl Drop for RoleSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        if let Some(count) = taken.get_mut(&self.role) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.role);
            }
        }
    }
}
