//! SHOW LIMITS, HOT_TENANTS.

use tenantry_schema::limits::LimitKind;

use super::super::table::Kind::{Int4, Text};
use super::super::table::{Cell, Head, Table};
use super::time;
use crate::router::Router;

pub(super) const LIMITS: &[Head] = &[
    ("tenant", Text),
    ("slug", Text),
    ("limit", Text),
    ("value", Int4),
    ("share", Int4),
    ("used", Int4),
];

pub(super) const HOT_TENANTS: &[Head] = &[
    ("tenant", Text),
    ("slug", Text),
    ("shard", Text),
    ("since", Text),
    ("evidence", Text),
];

/// The counted limits of tenants that are in use on this router: over the whole fleet, this router's part, and how much
/// of that is in use.
pub(super) fn limits(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    for limiter in router.limiters.all() {
        let tenant = limiter.tenant();
        let record = fleet.directory.by_id(tenant);
        let limits = limiter.limits();
        let (transactions, connections) = limiter.in_use();
        for (kind, share) in limiter.shares() {
            let Some(share) = share else { continue };
            let used: Cell = match kind {
                LimitKind::Transactions => transactions.into(),
                LimitKind::Connections => connections.into(),
                _ => limiter.asked().into(),
            };
            table.push(vec![
                tenant.display(fleet.settings.tenant_key).to_string().into(),
                record.map(|record| record.slug).into(),
                kind.as_str().into(),
                limits.value(kind).into(),
                (share.ceil() as u64).into(),
                used,
            ]);
        }
    }
}

/// As the catalog had it a second ago.
pub(super) fn hot_tenants(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    for hot in router.hot.load().iter() {
        let record = fleet.directory.by_id(hot.tenant);
        let shard = fleet.shard(hot.shard);
        table.push(vec![
            hot.tenant
                .display(fleet.settings.tenant_key)
                .to_string()
                .into(),
            record.map(|record| record.slug).into(),
            shard.map(|shard| shard.name.to_string()).into(),
            time(hot.at).into(),
            hot.evidence.to_string().into(),
        ]);
    }
}
