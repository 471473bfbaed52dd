//! SHOW MOVES: the tenants that this router knows to be moving. The catalog knows all moves, and how far they are.

use tenantry_schema::fleet::Fleet;
use tenantry_schema::shard::ShardId;
use tokio::time::Instant;

use super::super::table::Kind::{Int8, Text};
use super::super::table::{Cell, Head, Table};
use crate::router::Router;

pub(super) const MOVES: &[Head] = &[
    ("tenant", Text),
    ("slug", Text),
    ("move", Text),
    ("phase", Text),
    ("source", Text),
    ("destination", Text),
    ("in_flight", Int8),
    ("waiting", Int8),
    ("held", Int8),
    ("longest_us", Int8),
    ("hold_us", Int8),
    ("hold_limit_us", Int8),
    ("replays", Int8),
    ("follows", Int8),
];

pub(super) fn moves(router: &Router, table: &mut Table) {
    let fleet = router.fleet.current();
    for shown in router.holds.shown(Instant::now()) {
        let record = fleet.directory.by_id(shown.tenant);
        let tenant = shown.tenant.display(fleet.settings.tenant_key);
        let (hold, limit) = shown.hold.unzip();
        table.push(vec![
            tenant.to_string().into(),
            record.map(|record| record.slug).into(),
            shown.move_id.map(|id| id.to_string()).into(),
            shown.phase.as_str().into(),
            shard_name(&fleet, shown.source),
            shard_name(&fleet, shown.destination),
            shown.in_flight.into(),
            shown.waiting.into(),
            shown.held.into(),
            us(Some(shown.longest)),
            us(hold),
            us(limit),
            shown.replays.into(),
            shown.follows.into(),
        ]);
    }
}

fn shard_name(fleet: &Fleet, shard: Option<ShardId>) -> Cell {
    let shard = shard.and_then(|shard| fleet.shard(shard));
    shard.map(|shard| shard.name.to_string()).into()
}

fn us(time: Option<std::time::Duration>) -> Cell {
    time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
        .into()
}
