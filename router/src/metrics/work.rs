//! What sessions and server connections did, read from the router's activity at each scrape, so
//! that counting costs a query nothing that is shared.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::process;
use crate::activity::{
    Activity, ClientState, Histogram, ServerState, ShardTotals, Totals, bucket_seconds,
};

/// Collects from one router's activity.
#[derive(Debug)]
pub(super) struct Work(pub(super) Arc<Activity>);

impl Collector for Work {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.clients(&mut encoder)?;
        self.servers(&mut encoder)?;
        process(&mut encoder)
    }
}

type Encoder<'e> = DescriptorEncoder<'e>;

impl Work {
    fn clients(&self, encoder: &mut Encoder<'_>) -> Result<(), Error> {
        let totals = self.0.client_totals();
        let counted: &[(&str, &str, u64)] = &[
            ("statements", "Statements sent to shards", totals.statements),
            (
                "transactions",
                "Transactions ended on shards",
                totals.transactions,
            ),
            ("errors", "Errors that clients were sent", totals.errors),
        ];
        for (name, help, value) in counted {
            counter(encoder, name, help, None, *value)?;
        }
        let bytes = Some(&Unit::Bytes);
        let received = "Traffic from clients";
        counter(encoder, "client_received", received, bytes, totals.received)?;
        counter(
            encoder,
            "client_sent",
            "Traffic to clients",
            bytes,
            totals.sent,
        )?;
        let named: &[(&str, u64)] = &[
            ("client_parse", totals.client_parses),
            ("server_parse", totals.server_parses),
            ("bind", totals.binds),
        ];
        let help = "Named statements: prepared by clients, prepared on servers, executed";
        let mut family =
            encoder.encode_descriptor("prepared_statements", help, None, MetricType::Counter)?;
        for (kind, value) in named {
            ConstCounter::new(*value).encode(family.encode_family(&[("kind", *kind)])?)?;
        }
        let clients = self.0.clients();
        let help = "Client sessions by what they do";
        let mut family =
            encoder.encode_descriptor("clients_by_state", help, None, MetricType::Gauge)?;
        for state in ClientState::ALL {
            let count = clients.iter().filter(|c| c.state() == state).count();
            let labels = [("state", state.as_str())];
            gauge(family.encode_family(&labels)?, count)?;
        }
        let used = self.0.tenants.len();
        let help = "Tenants that used this router";
        let family = encoder.encode_descriptor("tenants_active", help, None, MetricType::Gauge)?;
        gauge(family, used)
    }

    fn servers(&self, encoder: &mut Encoder<'_>) -> Result<(), Error> {
        let mut all = ShardTotals::default();
        for of in self.0.shard_totals().values() {
            all += of;
        }
        let counted: &[(&str, &str, u64)] = &[
            ("servers_opened", "Server connections opened", all.opened),
            ("servers_closed", "Server connections closed", all.closed),
            (
                "server_assignments",
                "Server connections given to sessions",
                all.assigned,
            ),
        ];
        for (name, help, value) in counted {
            counter(encoder, name, help, None, *value)?;
        }
        let help = "Server connections that could not be opened, by cause";
        let mut family =
            encoder.encode_descriptor("connect_failures", help, None, MetricType::Counter)?;
        for (cause, count) in self.0.connect_failures() {
            ConstCounter::new(count).encode(family.encode_family(&[("cause", cause)])?)?;
        }
        let Totals {
            transaction_us,
            request_us,
            wait_us,
            ..
        } = all.totals;
        for (name, help, us) in [
            (
                "server_held",
                "Server connections held by sessions",
                transaction_us,
            ),
            ("server_worked", "Servers working for sessions", request_us),
            (
                "client_waited",
                "Sessions waiting for a server connection",
                wait_us,
            ),
        ] {
            let seconds = us as f64 / 1e6;
            let unit = Some(&Unit::Seconds);
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        let servers = self.0.servers();
        let help = "Server connections by what they do";
        let mut family =
            encoder.encode_descriptor("servers_by_state", help, None, MetricType::Gauge)?;
        for state in [ServerState::Active, ServerState::Idle] {
            let count = servers.iter().filter(|s| s.state() == state).count();
            let labels = [("state", state.as_str())];
            gauge(family.encode_family(&labels)?, count)?;
        }
        let help = "Time that transactions held a server connection";
        histogram(encoder, "transaction_duration", help, &all.transactions)?;
        let help = "Time from a request's first byte for a server to its last reply";
        histogram(encoder, "request_duration", help, &all.requests)
    }
}

fn counter(
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> Result<(), Error> {
    let metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(metric: MetricEncoder<'_>, value: usize) -> Result<(), Error> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

fn histogram(
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    histogram: &Histogram,
) -> Result<(), Error> {
    let unit = Some(&Unit::Seconds);
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    let buckets: Vec<(f64, u64)> = histogram
        .counts
        .iter()
        .enumerate()
        .map(|(index, count)| (bucket_seconds(index), *count))
        .collect();
    let count = histogram.counts.iter().sum();
    let sum = histogram.sum_us as f64 / 1e6;
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

/// Names as every exporter has them, behind our prefix.
fn process(encoder: &mut Encoder<'_>) -> Result<(), Error> {
    let Some(process) = process::read() else {
        return Ok(());
    };
    let metric = encoder.encode_descriptor(
        "process_cpu",
        "Processor time of this process",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    ConstCounter::new(process.cpu_seconds).encode(metric)?;
    for (name, help, unit, value) in [
        (
            "process_resident_memory",
            "Resident memory of this process",
            Some(&Unit::Bytes),
            process.resident_bytes as f64,
        ),
        (
            "process_virtual_memory",
            "Virtual memory of this process",
            Some(&Unit::Bytes),
            process.virtual_bytes as f64,
        ),
        (
            "process_start_time",
            "When this process started, since the epoch",
            Some(&Unit::Seconds),
            process.start_seconds,
        ),
        (
            "process_open_fds",
            "Open file descriptors",
            None,
            process.open_fds as f64,
        ),
        (
            "process_max_fds",
            "Most file descriptors that may be open",
            None,
            process.max_fds.map_or(f64::INFINITY, |max| max as f64),
        ),
        (
            "process_threads",
            "Threads of this process",
            None,
            process.threads as f64,
        ),
    ] {
        let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)?;
    }
    Ok(())
}
