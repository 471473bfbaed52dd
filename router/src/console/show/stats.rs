//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES, TOTALS: what was done, by shard.

use super::super::command::Show;
use super::super::table::Kind::{Numeric, Text};
use super::super::table::{Cell, Head, Table};
use crate::activity::ShardTotals;
use crate::router::Router;

/// Columns: name without prefix, how it is totalled, how it is averaged.
macro_rules! stats {
    ($($total:literal $average:literal = $value:expr, $averaged:expr;)+) => {
        pub(super) const STATS: &[Head] = &[
            ("database", Text),
            $((concat!("total_", $total), Numeric),)+
            $((concat!("avg_", $average), Numeric),)+
        ];
        pub(super) const TOTALS: &[Head] = &[("database", Text), $(($total, Numeric),)+];
        pub(super) const AVERAGES: &[Head] = &[("database", Text), $(($average, Numeric),)+];
        pub(super) const OVERALL: &[Head] = &[
            $((concat!("total_", $total), Numeric),)+
            $((concat!("avg_", $average), Numeric),)+
        ];

        fn totals(of: &ShardTotals) -> Vec<Cell> {
            vec![$({ let value: fn(&ShardTotals) -> u64 = $value; value(of).into() }),+]
        }

        /// Over a period of so many microseconds.
        fn averages(of: &ShardTotals, us: u64) -> Vec<Cell> {
            vec![$({
                let value: fn(&ShardTotals) -> u64 = $value;
                let averaged: Per = $averaged;
                averaged.of(value(of), of, us).into()
            }),+]
        }
    };
}

/// What an average is over.
enum Per {
    Second,
    Transaction,
    Query,
    Assignment,
    Closed,
}

impl Per {
    fn of(self, value: u64, totals: &ShardTotals, us: u64) -> u64 {
        let over = match self {
            Self::Second => {
                let scaled = u128::from(value) * 1_000_000 / u128::from(us.max(1));
                return u64::try_from(scaled).unwrap_or(u64::MAX);
            }
            Self::Transaction => totals.totals.transactions,
            Self::Query => totals.totals.statements,
            Self::Assignment => totals.assigned,
            Self::Closed => totals.closed,
        };
        value / over.max(1)
    }
}

stats! {
    "xact_count" "xact_count" = |s| s.totals.transactions, Per::Second;
    "query_count" "query_count" = |s| s.totals.statements, Per::Second;
    "server_assignment_count" "server_assignment_count" = |s| s.assigned, Per::Second;
    "server_closed_count" "server_closed_count" = |s| s.closed, Per::Second;
    "received" "recv" = |s| s.totals.received, Per::Second;
    "sent" "sent" = |s| s.totals.sent, Per::Second;
    "xact_time" "xact_time" = |s| s.totals.transaction_us, Per::Transaction;
    "query_time" "query_time" = |s| s.totals.request_us, Per::Query;
    "wait_time" "wait_time" = |s| s.totals.wait_us, Per::Assignment;
    "server_lifetime" "server_lifetime" = |s| s.lifetime_us, Per::Closed;
    "client_parse_count" "client_parse_count" = |s| s.totals.client_parses, Per::Second;
    "server_parse_count" "server_parse_count" = |s| s.totals.server_parses, Per::Second;
    "bind_count" "bind_count" = |s| s.totals.binds, Per::Second;
    "error_count" "error_count" = |s| s.totals.errors, Per::Second;
}

pub(super) fn stats(router: &Router, what: &Show, table: &mut Table) {
    let fleet = router.fleet.current();
    let now = router.activity.shard_totals();
    let (earlier, us) = router.activity.period();
    let mut all = ShardTotals::default();
    let mut all_recent = ShardTotals::default();
    for (id, of) in &now {
        let recent = match earlier.get(id) {
            Some(earlier) => of.since(earlier),
            None => of.clone(),
        };
        all += of;
        all_recent += &recent;
        let name = fleet.shard(*id).map_or_else(
            || format!("shard {}", id.number()),
            |shard| shard.name.to_string(),
        );
        let mut row: Vec<Cell> = vec![name.into()];
        if matches!(what, Show::Stats | Show::StatsTotals) {
            row.extend(totals(of));
        }
        if matches!(what, Show::Stats | Show::StatsAverages) {
            row.extend(averages(&recent, us));
        }
        if *what != Show::Totals {
            table.push(row);
        }
    }
    if *what == Show::Totals {
        let mut row = totals(&all);
        row.extend(averages(&all_recent, us));
        table.push(row);
    }
}
