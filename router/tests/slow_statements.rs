//! The log of slow statements: which, whose, how long, in which trace, and never with a value.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::setup_with;
use parking_lot::Mutex;
use tenantry_testkit::{Fleet, RawClient, error_of};
use tracing_subscriber::fmt::MakeWriter;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Log lines of this process.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn slow(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains("slow statement"));
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    async fn until(&self, count: usize) -> Vec<serde_json::Value> {
        loop {
            let lines = self.slow();
            if lines.len() >= count {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn slow_statements_are_logged_without_values_and_with_their_trace() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(lines.clone())
        .finish();
    // Sessions have threads of their own. This is the only test of its process.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.log_min_duration_statement = Duration::from_millis(100);
        config.log_statement_text = true;
    })
    .await;
    let mut client = setup.raw_for(0).await;
    let slow = format!(
        "SELECT pg_sleep(0.15), 'swordfish' /*app='x',traceparent='00-{TRACE}-b7ad6b7169203331-01'*/"
    );
    for text in ["SELECT 'quick'", slow.as_str()] {
        assert_eq!(error_of(&client.query(text).await.unwrap()), None);
    }
    let logged = lines.until(1).await;
    assert_eq!(logged.len(), 1);
    let line = &logged[0];
    assert_eq!(line["tenant"], setup.id(0));
    assert_eq!(line["role"], "shop");
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["statement"], "select pg_sleep(?), ?");
    assert_eq!(line["shard"], setup.fleet.shard(0).name().as_str());
    assert!(line["duration_ms"].as_f64().unwrap() >= 150.0);
    let fingerprint = line["fingerprint"].clone();

    // Bound values, and the trace of the connection where the statement names none.
    let login = setup.login(&format!("shop.{}", setup.id(0))).parameter(
        "tenantry.traceparent",
        format!("00-{TRACE}-b7ad6b7169203331-01"),
    );
    let mut traced = RawClient::login(setup.address, &login).await.unwrap();
    let text = "SELECT pg_sleep(0.2), 'herring'";
    assert_eq!(error_of(&traced.query(text).await.unwrap()), None);
    let client = setup.client(&format!("shop.{}", setup.id(0))).await;
    client
        .query("SELECT pg_sleep($1), $2::text", &[&0.15_f64, &"swordfish"])
        .await
        .unwrap();
    let logged = lines.until(3).await;
    assert_eq!(logged[1]["trace_id"], TRACE);
    assert_eq!(logged[1]["fingerprint"], fingerprint);
    assert_eq!(logged[2]["statement"], "select pg_sleep(?), ?::text");
    assert!(logged[2].get("trace_id").is_none());
    let all = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert!(!all.contains("swordfish") && !all.contains("herring"));
}
