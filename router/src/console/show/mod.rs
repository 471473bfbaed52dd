//! What the console shows. Columns that PgBouncer has bear its names and types and mean the same;
//! our own stand behind them.
//!
//! Each answer is made from one pass over snapshots, so that its rows belong together.

mod fleet;
mod limits;
mod moves;
mod pools;
mod sessions;
mod stats;

use std::sync::Arc;

use jiff::Timestamp;
use tenantry_wire::backend::{ErrorFields, Severity};
use tenantry_wire::sqlstate;

use super::command::{Command, Probe, Show};
use super::complaint::Complaint;
use super::dialogue::Outcome;
use super::parameters;
use super::table::{Head, Kind, Table};
use crate::config::{Changeable, Config, SETTINGS};
use crate::router::Router;

const HELP: &str = "
SHOW HELP|VERSION|STATE|CONFIG|LISTS|MEM
SHOW CLIENTS|SERVERS|POOLS|QUEUES|DATABASES|USERS|SOCKETS|ACTIVE_SOCKETS
SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
SHOW FLEET|SHARDS|ROUTERS|TENANTS [LIMIT n]|TENANT name|TOP_TENANTS [LIMIT n]
SHOW LIMITS|HOT_TENANTS|MOVES
PAUSE [shard]
RESUME [shard]
DISABLE shard
ENABLE shard
RECONNECT [shard]
WAIT_CLOSE [shard]
KILL [shard]
KILL_CLIENT id
RELOAD
SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";

const VERSION: &[Head] = &[("version", Kind::Text)];
const ONE: &[Head] = &[("?column?", Kind::Int4)];
const PARAMETER: &[Head] = &[("setting", Kind::Text)];
const KEY_VALUE: &[Head] = &[("key", Kind::Text), ("value", Kind::Text)];
const CONFIG: &[Head] = &[
    ("key", Kind::Text),
    ("value", Kind::Text),
    ("default", Kind::Text),
    ("changeable", Kind::Text),
];

/// The columns of an answer; `None` where it has no rows.
pub(super) fn heads(command: &Command) -> Option<&'static [Head]> {
    Some(match command {
        Command::Show(Show::Help) => return None,
        Command::Show(what) => heads_of(what),
        Command::ShowParameter(_) => PARAMETER,
        Command::Select(Probe::Version) => VERSION,
        Command::Select(Probe::One) => ONE,
        _ => return None,
    })
}

fn heads_of(what: &Show) -> &'static [Head] {
    match what {
        Show::Help => &[],
        Show::Version => VERSION,
        Show::State | Show::Fleet => KEY_VALUE,
        Show::Config => CONFIG,
        Show::Clients => sessions::CLIENTS,
        Show::Servers => sessions::SERVERS,
        Show::Sockets | Show::ActiveSockets => sessions::SOCKETS,
        Show::Pools => pools::POOLS,
        Show::Queues => pools::QUEUES,
        Show::Databases => pools::DATABASES,
        Show::Users => pools::USERS,
        Show::Lists => pools::LISTS,
        Show::Mem => pools::MEM,
        Show::Stats => stats::STATS,
        Show::StatsTotals => stats::TOTALS,
        Show::StatsAverages => stats::AVERAGES,
        Show::Totals => stats::OVERALL,
        Show::Shards => fleet::SHARDS,
        Show::Routers => fleet::ROUTERS,
        Show::Tenants(_) => fleet::TENANTS,
        Show::Tenant(_) => fleet::TENANT,
        Show::TopTenants(_) => fleet::TOP_TENANTS,
        Show::HotTenants => limits::HOT_TENANTS,
        Show::Limits => limits::LIMITS,
        Show::Moves => moves::MOVES,
    }
}

/// The answer to `SHOW …`.
pub(super) fn answer(router: &Arc<Router>, what: &Show) -> Result<Outcome, Complaint> {
    if *what == Show::Help {
        let notice = ErrorFields::new(
            Severity::Notice,
            sqlstate::SUCCESSFUL_COMPLETION,
            "Console usage",
        );
        return Ok(Outcome {
            tag: "SHOW",
            notices: vec![notice.with_detail(HELP)],
            ..Outcome::default()
        });
    }
    let mut table = Table::new(heads_of(what));
    match what {
        Show::Help => {}
        Show::Version => table.push(vec![version_text().into()]),
        Show::State => state(router, &mut table),
        Show::Config => config(&router.config(), &mut table),
        Show::Clients => sessions::clients(router, &mut table),
        Show::Servers => sessions::servers(router, &mut table),
        Show::Sockets => sessions::sockets(router, &mut table, false),
        Show::ActiveSockets => sessions::sockets(router, &mut table, true),
        Show::Pools => pools::pools(router, &mut table),
        Show::Queues => pools::queues(router, &mut table),
        Show::Databases => pools::databases(router, &mut table),
        Show::Users => pools::users(router, &mut table),
        Show::Lists => pools::lists(router, &mut table),
        Show::Mem => pools::mem(router, &mut table),
        Show::Stats | Show::StatsTotals | Show::StatsAverages | Show::Totals => {
            stats::stats(router, what, &mut table);
        }
        Show::Shards => fleet::shards(router, &mut table),
        Show::Routers => fleet::routers(router, &mut table),
        Show::Fleet => fleet::fleet(router, &mut table),
        Show::Tenants(limit) => fleet::tenants(router, *limit, &mut table),
        Show::Tenant(name) => fleet::tenant(router, name, &mut table)?,
        Show::TopTenants(limit) => fleet::top_tenants(router, *limit, &mut table),
        Show::HotTenants => limits::hot_tenants(router, &mut table),
        Show::Limits => limits::limits(router, &mut table),
        Show::Moves => moves::moves(router, &mut table),
    }
    Ok(rows(table, "SHOW"))
}

fn rows(table: Table, tag: &'static str) -> Outcome {
    Outcome {
        table: Some(table),
        tag,
        ..Outcome::default()
    }
}

/// `SHOW name` for one of the session's own settings.
pub(super) fn parameter(name: &str) -> Outcome {
    let mut table = Table::new(PARAMETER);
    table.push(vec![parameters::value(name).into()]);
    rows(table, "SHOW")
}

pub(super) fn version() -> Outcome {
    let mut table = Table::new(VERSION);
    table.push(vec![version_text().into()]);
    rows(table, "SELECT")
}

pub(super) fn one() -> Outcome {
    let mut table = Table::new(ONE);
    table.push(vec![1_u32.into()]);
    rows(table, "SELECT")
}

fn version_text() -> String {
    format!("Tenantry {}", env!("CARGO_PKG_VERSION"))
}

fn state(router: &Router, table: &mut Table) {
    let yes_no = |value: bool| if value { "yes" } else { "no" };
    let draining = router.refuses_sessions();
    let paused = router.pools.is_paused(None);
    let status = router.follow().borrow().clone();
    let started = router.activity.clock.started_at();
    for (key, value) in [
        ("active", yes_no(!paused && !draining).to_owned()),
        ("paused", yes_no(paused).to_owned()),
        ("suspended", "no".to_owned()),
        ("draining", yes_no(draining).to_owned()),
        ("catalog_connected", yes_no(status.connected).to_owned()),
        ("fleet_known", yes_no(router.fleet.is_known()).to_owned()),
        ("started", time(started)),
        ("name", router.config().name.clone()),
    ] {
        table.push(vec![key.into(), value.into()]);
    }
}

fn config(config: &Config, table: &mut Table) {
    let default = Config::default();
    for setting in SETTINGS {
        let changeable = match setting.changeable {
            Changeable::Live => "yes",
            Changeable::Restart => "no",
        };
        table.push(vec![
            setting.key.into(),
            setting.shown(config).into(),
            setting.shown(&default).into(),
            changeable.into(),
        ]);
    }
}

/// A time of day as PgBouncer writes it.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Whole seconds, and the microseconds beyond them.
fn wait(us: u64) -> [super::table::Cell; 2] {
    [(us / 1_000_000).into(), (us % 1_000_000).into()]
}
