//! `/metrics/tenants`: the tenants that held servers longest, the rest as `_other`.
//!
//! Apart from `/metrics`, because every tenant is a time series.

use std::fmt::Write as _;

use tenantry_schema::fleet::Fleet;

use crate::activity::{TenantLoad, TenantUsage};

/// Tenants named.
const TOP: usize = 50;

type Value = fn(&TenantUsage) -> f64;

const METRICS: &[(&str, &str, Option<&str>, Value)] = &[
    (
        "tenant_transactions",
        "Transactions ended on shards",
        None,
        |u| u.transactions as f64,
    ),
    (
        "tenant_statements",
        "Statements sent to shards",
        None,
        |u| u.statements as f64,
    ),
    (
        "tenant_errors",
        "Errors that clients were sent",
        None,
        |u| u.errors as f64,
    ),
    (
        "tenant_rows",
        "Rows that statements returned or changed",
        None,
        |u| u.rows as f64,
    ),
    (
        "tenant_server_held_seconds",
        "Server connections held",
        Some("seconds"),
        |u| u.busy_us as f64 / 1e6,
    ),
    (
        "tenant_waited_seconds",
        "Waiting for a server connection",
        Some("seconds"),
        |u| u.wait_us as f64 / 1e6,
    ),
    (
        "tenant_received_bytes",
        "Traffic from clients",
        Some("bytes"),
        |u| u.received as f64,
    ),
    (
        "tenant_sent_bytes",
        "Traffic to clients",
        Some("bytes"),
        |u| u.sent as f64,
    ),
];

/// The exposition text, in OpenMetrics. Ids and slugs need no escaping: neither has a quote, a
/// backslash or a line end.
pub(crate) fn encode(load: &TenantLoad, fleet: &Fleet) -> String {
    let (top, others) = load.top(TOP);
    let labels: Vec<(String, TenantUsage)> = top
        .into_iter()
        .map(|(id, usage)| {
            let text = id.display(fleet.settings.tenant_key).to_string();
            let slug = fleet.directory.by_id(id).map(|record| record.slug);
            let slug = slug.unwrap_or_default();
            (format!("tenant=\"{text}\",slug=\"{slug}\""), usage)
        })
        .chain([("tenant=\"_other\",slug=\"\"".to_owned(), others)])
        .collect();
    let mut text = String::new();
    for (name, help, unit, value) in METRICS {
        let name = format!("tenantry_router_{name}");
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}.");
        let _ = writeln!(text, "# TYPE {name} counter");
        if let Some(unit) = unit {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        for (labels, usage) in &labels {
            let _ = writeln!(text, "{name}_total{{{labels}}} {}", value(usage));
        }
    }
    text.push_str("# EOF\n");
    text
}
