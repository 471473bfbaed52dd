//! `/metrics` and `/metrics/tenants`: names and helps as they are promised, values that add up, a
//! text that OpenMetrics allows.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Setup, setup};
use tenantry_testkit::{RawClient, error_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn fetch(setup: &Setup, path: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(setup.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"));
    body.to_owned()
}

/// One metric family of an exposition.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: Vec<(String, f64)>,
}

/// Reads OpenMetrics as strictly as its specification is: families together, metadata first and
/// once, suffixes that the type allows, buckets that grow, `# EOF` at the end.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").unwrap();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut parts = metadata.splitn(3, ' ');
            let [what, name, value] = [(); 3].map(|()| parts.next().unwrap_or_default());
            if name != current {
                assert!(seen.insert(name.to_owned()), "{name} comes twice");
                current = name.to_owned();
            }
            let family = families.entry(name.to_owned()).or_default();
            match what {
                "TYPE" => family.kind = value.to_owned(),
                "HELP" => family.help = value.to_owned(),
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{name} {value}"),
                other => unreachable!("{other}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap();
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            other => unreachable!("{other}"),
        };
        assert!(allowed.contains(&suffix), "{line}");
        assert!(
            name.bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'),
            "{name}"
        );
        let value: f64 = value.replace("+Inf", "inf").parse().unwrap();
        family.samples.push((sample.to_owned(), value));
    }
    for (name, family) in &families {
        assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name}");
        if family.kind == "histogram" {
            let buckets = family.samples.iter().filter(|(s, _)| s.contains("_bucket"));
            let counts: Vec<f64> = buckets.map(|(_, count)| *count).collect();
            assert!(counts.is_sorted(), "{name}: {counts:?}");
        }
    }
    families
}

fn value(families: &BTreeMap<String, Family>, sample: &str) -> f64 {
    let mut samples = families.values().flat_map(|family| &family.samples);
    samples.find(|(name, _)| name == sample).unwrap().1
}

#[tokio::test]
async fn every_metric_has_its_name_and_its_help() {
    let setup = setup().await;
    let families = parse(&fetch(&setup, "/metrics").await);
    let listed: String = families
        .iter()
        .map(|(name, family)| format!("{name} {}: {}\n", family.kind, family.help))
        .collect();
    let expected = include_str!("metrics.txt");
    assert!(listed == expected, "tests/metrics.txt is not:\n{listed}");
    let tenants = parse(&fetch(&setup, "/metrics/tenants").await);
    assert_eq!(tenants.len(), 8);
}

#[tokio::test]
async fn work_is_counted_once_and_kept_when_sessions_end() {
    let setup = setup().await;
    let mut client = setup.raw_for(0).await;
    for _ in 0..5 {
        assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
    }
    assert!(error_of(&client.query("SELECT 1/0").await.unwrap()).is_some());
    drop(client);
    let wrong = setup.login("nobody");
    RawClient::login(setup.address, &wrong).await.unwrap_err();
    let gone = async || {
        let families = parse(&fetch(&setup, "/metrics").await);
        value(&families, "tenantry_router_clients") == 0.0
    };
    // The session ends a moment after its client has, perhaps while somebody looks.
    while !gone().await {}
    let families = parse(&fetch(&setup, "/metrics").await);
    assert_eq!(value(&families, "tenantry_router_transactions_total"), 6.0);
    assert_eq!(value(&families, "tenantry_router_statements_total"), 6.0);
    assert_eq!(value(&families, "tenantry_router_errors_total"), 1.0);
    assert_eq!(
        value(
            &families,
            "tenantry_router_transaction_duration_seconds_count"
        ),
        6.0
    );
    let failed = "tenantry_router_login_failures_total{name=\"AUTHENTICATION_FAILED\"}";
    assert_eq!(value(&families, failed), 1.0);
    let tenants = parse(&fetch(&setup, "/metrics/tenants").await);
    let labels = format!(
        "tenant=\"{}\",slug=\"{}\"",
        setup.id(0),
        setup.tenant(0).slug
    );
    let sample = format!("tenantry_router_tenant_transactions_total{{{labels}}}");
    assert_eq!(value(&tenants, &sample), 6.0);
    let others = "tenantry_router_tenant_transactions_total{tenant=\"_other\",slug=\"\"}";
    assert_eq!(value(&tenants, others), 0.0);
}
