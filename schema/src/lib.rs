//! The contract every part of Tenantry shares: ids, ring, placement, directory, catalog, guard.
