//! `tenantry tenant top`: who uses the fleet most.
//!
//! Routers tell the catalog each second what their busiest tenants did, and it is merged there. With `--router` the routers
//! named are asked themselves, at `/metrics/tenants`: they answer while the catalog is away, too. Without `--watch` the
//! numbers are since the routers started, with it they are those of each interval.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tenantry_schema::catalog::Catalog;
use tenantry_schema::tenant::TenantKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::args::TopArgs;
use crate::catalog::open;
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::{Format, Printer, record};

/// Longest time for one router's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Largest answer, bytes: 51 tenants take some 30 KiB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// What all others used together; the routers' name for it.
const OTHERS: &str = "_other";

/// What one tenant used.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Used {
    tenant: String,
    slug: String,
    transactions: f64,
    statements: f64,
    errors: f64,
    /// Returned or changed.
    rows: f64,
    /// Server connections held.
    busy_seconds: f64,
    wait_seconds: f64,
    received_bytes: f64,
    sent_bytes: f64,
    /// Since when it is hot; known to the catalog.
    hot_since: Option<Timestamp>,
}

record!(Used {
    tenant => "TENANT",
    slug => "SLUG",
    transactions => "TRANSACTIONS",
    statements => "STATEMENTS",
    errors => "ERRORS",
    rows => "ROWS",
    busy_seconds => "BUSY s",
    wait_seconds => "WAIT s",
    received_bytes => "RECEIVED B",
    sent_bytes => "SENT B",
    hot_since => "HOT SINCE",
});

type Counts = BTreeMap<String, Used>;

/// Tenants that are read of the catalog, so that those that come up in an interval were seen before it.
const READ_MAX: u32 = 1000;

/// Who is asked.
enum Source {
    Catalog(Catalog, TenantKey),
    Routers(Vec<String>),
}

impl Source {
    async fn read(&self) -> Result<Counts, Failure> {
        match self {
            Self::Catalog(catalog, key) => read_catalog(catalog, *key).await,
            Self::Routers(routers) => read_all(routers).await,
        }
    }
}

/// Prints once, or again and again.
pub(super) async fn run(
    args: &TopArgs,
    sources: &Sources,
    printer: Printer,
) -> Result<(), Failure> {
    let source = if args.routers.is_empty() {
        let catalog = open(sources).await?;
        let key = catalog.settings().await?.tenant_key;
        Source::Catalog(catalog, key)
    } else {
        Source::Routers(args.routers.clone())
    };
    let mut before = source.read().await?;
    if !args.watch {
        return printer.list(&ranked(before, args.limit));
    }
    loop {
        tokio::time::sleep(args.interval.0).await;
        let now = source.read().await?;
        if printer.format() == Format::Table && std::io::stdout().is_terminal() {
            printer.raw("\x1b[H\x1b[2J")?;
        }
        printer.list(&ranked(since(&now, &before), args.limit))?;
        before = now;
    }
}

/// What all routers told.
async fn read_catalog(catalog: &Catalog, key: TenantKey) -> Result<Counts, Failure> {
    let merged = catalog.top_tenants(READ_MAX).await?;
    let used = merged.into_iter().map(|load| {
        let id = load.tenant.display(key).to_string();
        let seconds = |us: u64| us as f64 / 1e6;
        let used = Used {
            tenant: id.clone(),
            slug: load.slug,
            transactions: load.total.transactions as f64,
            statements: load.total.statements as f64,
            errors: load.total.errors as f64,
            rows: load.total.rows as f64,
            busy_seconds: seconds(load.total.busy_us),
            wait_seconds: seconds(load.total.wait_us),
            received_bytes: load.total.received as f64,
            sent_bytes: load.total.sent as f64,
            hot_since: load.hot_since,
        };
        (id, used)
    });
    Ok(used.collect())
}

async fn read_all(routers: &[String]) -> Result<Counts, Failure> {
    let mut all = Counts::new();
    for router in routers {
        let text = timeout(ANSWER_MAX, fetch(router)).await;
        let text = match text {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                let message = format!("router {router} does not tell");
                return Err(Failure::new(Exit::Transient, message).because(error));
            }
            Err(_elapsed) => {
                let message = format!("router {router} does not answer");
                return Err(Failure::new(Exit::Transient, message));
            }
        };
        read(&text, &mut all);
    }
    Ok(all)
}

/// A GET by hand: one request, one answer, then the end of the connection.
async fn fetch(router: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(router).await?;
    let request =
        format!("GET /metrics/tenants HTTP/1.1\r\nHost: {router}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") && body.ends_with("# EOF\n") => {
            Ok(body.to_owned())
        }
        _ => Err(std::io::Error::other(
            "the answer is not that of a router's /metrics/tenants",
        )),
    }
}

/// Adds one router's counts.
fn read(text: &str, all: &mut Counts) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line
            .strip_prefix("tenantry_router_tenant_")
            .and_then(|line| line.split_once("_total{"))
        else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once("} ") else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split('"').next()
        };
        let (Some(tenant), Ok(value)) = (label("tenant"), value.parse::<f64>()) else {
            continue;
        };
        let used = all.entry(tenant.to_owned()).or_insert_with(|| Used {
            tenant: tenant.to_owned(),
            slug: label("slug").unwrap_or_default().to_owned(),
            ..Used::default()
        });
        match name {
            "transactions" => used.transactions += value,
            "statements" => used.statements += value,
            "errors" => used.errors += value,
            "rows" => used.rows += value,
            "server_held_seconds" => used.busy_seconds += value,
            "waited_seconds" => used.wait_seconds += value,
            "received_bytes" => used.received_bytes += value,
            "sent_bytes" => used.sent_bytes += value,
            // Of a later version.
            _ => {}
        }
    }
}

/// What was used in between. A tenant that was not told apart before counts from its first showing; a router that was
/// restarted counts from nothing.
fn since(now: &Counts, before: &Counts) -> Counts {
    let mut difference = now.clone();
    for (tenant, used) in &mut difference {
        let Some(before) = before.get(tenant) else {
            continue;
        };
        for (value, earlier) in [
            (&mut used.transactions, before.transactions),
            (&mut used.statements, before.statements),
            (&mut used.errors, before.errors),
            (&mut used.rows, before.rows),
            (&mut used.busy_seconds, before.busy_seconds),
            (&mut used.wait_seconds, before.wait_seconds),
            (&mut used.received_bytes, before.received_bytes),
            (&mut used.sent_bytes, before.sent_bytes),
        ] {
            *value = (*value - earlier).max(0.0);
        }
    }
    difference
}

/// Who held servers longest comes first, all others together last.
fn ranked(counts: Counts, limit: usize) -> Vec<Used> {
    let mut all: Vec<Used> = counts.into_values().collect();
    all.retain(|used| used.transactions > 0.0 || used.busy_seconds > 0.0);
    all.sort_by(|a, b| {
        let others = (a.tenant == OTHERS).cmp(&(b.tenant == OTHERS));
        others.then(b.busy_seconds.total_cmp(&a.busy_seconds))
    });
    let has_others = all.last().is_some_and(|used| used.tenant == OTHERS);
    let others = if has_others { all.pop() } else { None };
    all.truncate(limit);
    all.extend(others);
    for used in &mut all {
        used.busy_seconds = (used.busy_seconds * 1e3).round() / 1e3;
        used.wait_seconds = (used.wait_seconds * 1e3).round() / 1e3;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# TYPE tenantry_router_tenant_transactions counter\n\
        tenantry_router_tenant_transactions_total{tenant=\"7\",slug=\"acme\"} 3\n\
        tenantry_router_tenant_transactions_total{tenant=\"_other\",slug=\"\"} 90\n\
        tenantry_router_tenant_server_held_seconds_total{tenant=\"7\",slug=\"acme\"} 0.5\n\
        tenantry_router_tenant_server_held_seconds_total{tenant=\"_other\",slug=\"\"} 9\n# EOF\n";
    const TWO: &str = "tenantry_router_tenant_transactions_total{tenant=\"7\",slug=\"acme\"} 1\n\
        tenantry_router_tenant_transactions_total{tenant=\"8\",slug=\"best\"} 5\n\
        tenantry_router_tenant_server_held_seconds_total{tenant=\"8\",slug=\"best\"} 0.75\n# EOF\n";

    #[test]
    fn routers_are_added_up_and_others_come_last() {
        let mut all = Counts::new();
        read(ONE, &mut all);
        let before = all.clone();
        read(TWO, &mut all);
        let rows = ranked(all.clone(), 10);
        let names: Vec<&str> = rows.iter().map(|used| used.tenant.as_str()).collect();
        assert_eq!(names, ["8", "7", OTHERS]);
        assert!((rows[1].transactions - 4.0).abs() < f64::EPSILON);
        assert_eq!(ranked(all.clone(), 1).len(), 2);
        let changed = ranked(since(&all, &before), 10);
        let names: Vec<&str> = changed.iter().map(|used| used.tenant.as_str()).collect();
        assert_eq!(names, ["8", "7"]);
    }
}
