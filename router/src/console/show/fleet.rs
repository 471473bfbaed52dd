//! SHOW FLEET, SHARDS, ROUTERS, TENANTS, TENANT, TOP_TENANTS.

use tenantry_schema::directory::TenantRecord;
use tenantry_schema::fleet::Fleet;
use tenantry_schema::follow::FleetSource;
use tenantry_wire::sqlstate;

use super::super::complaint::Complaint;
use super::super::table::Kind::{Bool, Int4, Int8, Text};
use super::super::table::{Cell, Head, Table};
use super::time;
use crate::activity::TenantUsage;
use crate::router::Router;

pub(super) const SHARDS: &[Head] = &[
    ("id", Int4),
    ("name", Text),
    ("kind", Text),
    ("state", Text),
    ("weight", Int4),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("replicas", Int4),
    ("zone", Text),
];

pub(super) const ROUTERS: &[Head] = &[
    ("id", Int4),
    ("name", Text),
    ("peer_address", Text),
    ("applied_sequence", Int8),
    ("heartbeat_at", Text),
    ("self", Bool),
];

pub(super) const TENANTS: &[Head] = &[
    ("tenant", Text),
    ("slug", Text),
    ("state", Text),
    ("plan", Text),
    ("shard", Text),
    ("pinned", Bool),
    ("epoch", Int8),
];

pub(super) const TENANT: &[Head] = &[
    ("tenant", Text),
    ("slug", Text),
    ("state", Text),
    ("plan", Text),
    ("shard", Text),
    ("pinned", Bool),
    ("epoch", Int8),
    ("suspended_reason", Text),
    ("clients", Int4),
    ("xact_count", Int8),
    ("query_count", Int8),
    ("error_count", Int8),
    ("row_count", Int8),
    ("busy_us", Int8),
    ("wait_us", Int8),
    ("received", Int8),
    ("sent", Int8),
];

pub(super) const TOP_TENANTS: &[Head] = &[
    ("tenant", Text),
    ("slug", Text),
    ("shard", Text),
    ("xact_count", Int8),
    ("query_count", Int8),
    ("error_count", Int8),
    ("row_count", Int8),
    ("busy_us", Int8),
    ("wait_us", Int8),
    ("received", Int8),
    ("sent", Int8),
];

pub(super) fn shards(router: &Router, table: &mut Table) {
    for shard in router.fleet.current().shards.values() {
        table.push(vec![
            shard.id.number().into(),
            shard.name.to_string().into(),
            shard.kind.as_str().into(),
            shard.state.as_str().into(),
            shard.weight.into(),
            shard.address.host.as_str().into(),
            shard.address.port.into(),
            shard.address.database.as_str().into(),
            shard.replicas.len().into(),
            shard.zone.clone().into(),
        ]);
    }
}

/// As far as this router was told by the catalog; itself always.
pub(super) fn routers(router: &Router, table: &mut Table) {
    let own = router.cancels.router();
    let others = router.peers.all();
    let fleet = router.fleet.current();
    if !others.iter().any(|other| other.id == own) {
        table.push(vec![
            own.into(),
            router.config().name.as_str().into(),
            Cell::Null,
            fleet.sequence.into(),
            Cell::Null,
            true.into(),
        ]);
    }
    for other in others.iter() {
        table.push(vec![
            other.id.into(),
            other.name.as_str().into(),
            other.peer_address.clone().into(),
            other.applied_seq.into(),
            time(other.heartbeat_at).into(),
            (other.id == own).into(),
        ]);
    }
}

pub(super) fn fleet(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    let status = router.follow().borrow().clone();
    let contact = status
        .contact
        .map(|contact| format!("{} ms", contact.elapsed().as_millis()));
    let source = status.source.map(FleetSource::as_str);
    let rows: [(&str, Cell); 11] = [
        ("sequence", fleet.sequence.to_string().into()),
        ("source", source.into()),
        ("catalog_connected", status.connected.to_string().into()),
        ("catalog_error", status.last_error.into()),
        ("catalog_contact_age", contact.into()),
        ("loads", status.loads.to_string().into()),
        ("snapshot_error", status.snapshot_error.into()),
        ("tenants", fleet.directory.len().to_string().into()),
        ("shards", fleet.shards.len().to_string().into()),
        ("roles", fleet.roles.len().to_string().into()),
        (
            "tenant_key",
            fleet.settings.tenant_key.sql_type().to_owned().into(),
        ),
    ];
    for (key, value) in rows {
        table.push(vec![key.into(), value]);
    }
}

pub(super) fn tenants(router: &Router, limit: usize, table: &mut Table) {
    let fleet = router.fleet.current();
    for record in fleet.directory.tenants().take(limit) {
        table.push(tenant_cells(&fleet, &record));
    }
}

fn tenant_cells(fleet: &Fleet, record: &TenantRecord<'_>) -> Vec<Cell> {
    let placement = fleet.place(record);
    let shard = placement.and_then(|placement| fleet.shard(placement.shard));
    vec![
        record
            .id
            .display(fleet.settings.tenant_key)
            .to_string()
            .into(),
        record.slug.into(),
        record.state.as_str().into(),
        record.plan.into(),
        shard.map(|shard| shard.name.to_string()).into(),
        placement.is_some_and(|placement| placement.pinned).into(),
        record.epoch.0.into(),
    ]
}

pub(super) fn tenant(router: &Router, name: &str, table: &mut Table) -> Result<(), Complaint> {
    let fleet = router.fleet.current();
    let record = fleet.resolve(name).ok_or_else(|| {
        Complaint::error(
            sqlstate::UNDEFINED_OBJECT,
            format!("tenant \"{name}\" does not exist"),
        )
        .with_hint("name a tenant by its id, its slug or one of its hostnames")
    })?;
    let clients = router.activity.clients();
    let bound = clients
        .iter()
        .filter(|client| client.changing().tenant == Some(record.id));
    let mut row = tenant_cells(&fleet, &record);
    row.push(record.suspended_reason.into());
    row.push(bound.count().into());
    row.extend(usage(&router.activity.tenants.of(record.id)));
    table.push(row);
    Ok(())
}

/// Those that held servers longest since this router started; the rest as `_other`.
pub(super) fn top_tenants(router: &Router, limit: usize, table: &mut Table) {
    let fleet = router.fleet.current();
    let (top, others) = router.activity.tenants.top(limit);
    for (id, used) in top {
        let record = fleet.directory.by_id(id);
        let shard = record
            .and_then(|record| fleet.place(&record))
            .and_then(|placement| fleet.shard(placement.shard));
        let mut row: Vec<Cell> = vec![
            id.display(fleet.settings.tenant_key).to_string().into(),
            record.map(|record| record.slug).into(),
            shard.map(|shard| shard.name.to_string()).into(),
        ];
        row.extend(usage(&used));
        table.push(row);
    }
    if others != TenantUsage::default() {
        let mut row: Vec<Cell> = vec!["_other".into(), Cell::Null, Cell::Null];
        row.extend(usage(&others));
        table.push(row);
    }
}

fn usage(used: &TenantUsage) -> Vec<Cell> {
    vec![
        used.transactions.into(),
        used.statements.into(),
        used.errors.into(),
        used.rows.into(),
        used.busy_us.into(),
        used.wait_us.into(),
        used.received.into(),
        used.sent.into(),
    ]
}
