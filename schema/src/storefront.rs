//! The reference storefront schema, as migrations in order.
//!
//! The files are written for the default fleet; [`Migration::render`] gives them another fleet's tenant column.

use crate::fleet::FleetSettings;
use crate::guard::render_tenant_column;

/// Component name under which the shards record these migrations.
pub const COMPONENT: &str = "storefront";

/// One step of the schema. Its text never changes once released: a shard that recorded another text is reported.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Position, from 1 without gaps.
    pub version: u32,
    /// Name of the file without number and ending.
    pub name: &'static str,
    /// The SQL, for a fleet with `tenant_id bigint`.
    pub sql: &'static str,
}

/// Every migration, in order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "storefront",
    sql: include_str!("../storefront/migrations/0001_storefront.sql"),
}];

impl Migration {
    /// The SQL for a fleet.
    pub fn render(&self, settings: &FleetSettings) -> String {
        render_tenant_column(self.sql, settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_no_gaps() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|m| m.version).collect();
        let expected: Vec<u32> = (1..).take(MIGRATIONS.len()).collect();
        assert_eq!(versions, expected);
    }
}
