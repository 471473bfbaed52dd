//! `tenantry-bench directory`: does the directory meet its bars at this number of tenants?
//!
//! Each measurement runs in a process of its own, so that what one allocated does not blur what the next keeps: one
//! builds the snapshot, some load it, one of these goes on to churn and look up. Nothing is subtracted: memory is the
//! growth of the resident set, latencies include the clock's own cost.

mod part;
mod plain;
mod rows;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use clap::ValueEnum;
use tenantry_schema::tenant::TenantKey;

use crate::report::{Bar, Finish, Report};
use crate::svg;
use part::{Built, Latencies, Loaded, Measured, Part};
pub(crate) use part::{PartArgs, run_part};

const BYTES_PER_TENANT_MAX: f64 = 110.0;
const LOAD_SECONDS_MAX: f64 = 2.0;
const LOOKUP_P99_MICROSECONDS_MAX: f64 = 1.0;
/// Ours: a router applies what a transaction changed while it serves, and a tenant is routable within a second.
const APPLY_P99_MILLISECONDS_MAX: f64 = 1.0;

const TENANTS_MIN: u64 = 1_000_000;
const LOOKUPS_MIN: u64 = 1_000_000;
const LOADS_MIN: u64 = 5;

/// A part of the design that can be left out, to see what it is for. The check must fail then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Without {
    /// Rows and names as values of standard hash maps instead of entries of an arena.
    Arena,
    /// Every change makes a new base instead of an overlay's entry.
    Overlay,
}

/// The type of tenant ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Key {
    /// Eight bytes.
    Bigint,
    /// Sixteen bytes.
    Uuid,
}

impl From<Key> for TenantKey {
    fn from(key: Key) -> Self {
        match key {
            Key::Bigint => Self::Bigint,
            Key::Uuid => Self::Uuid,
        }
    }
}

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tenants, each with a 12-byte slug and one 24-byte hostname.
    #[arg(long, default_value_t = 2_000_000)]
    tenants: u64,
    /// The type of tenant ids.
    #[arg(long, value_enum, default_value_t = Key::Uuid)]
    key: Key,
    /// Lookups of each kind, of random keys.
    #[arg(long, default_value_t = 2_000_000)]
    lookups: u64,
    /// Times that the snapshot is loaded, each in a new process.
    #[arg(long, default_value_t = LOADS_MIN)]
    loads: u64,
    /// Where random keys come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    finish: Finish,
    /// Leave a part of the design out.
    #[arg(long, value_enum, value_name = "NAME")]
    without: Option<Without>,
}

/// Runs the parts and reports.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir().context("cannot create a folder for the snapshot")?;
    let snapshot = folder.path().join("fleet.snapshot");
    let built: Built = spawn(args, Part::Build, &snapshot)?;
    let measured: Measured = spawn(args, Part::Measure, &snapshot)?;
    let mut loads = vec![measured.loaded.clone()];
    for _ in 1..args.loads {
        loads.push(spawn(args, Part::Load, &snapshot)?);
    }
    report(args, &built, &measured, &loads).finish(&args.finish)
}

/// Runs one part as a child and reads its figures.
fn spawn<T: serde::de::DeserializeOwned>(
    args: &Args,
    part: Part,
    snapshot: &Path,
) -> anyhow::Result<T> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg("directory-part")
        .arg(value_name(part))
        .arg("--snapshot")
        .arg(snapshot);
    command.args(["--key", &value_name(args.key)]);
    for (flag, value) in [
        ("--tenants", args.tenants),
        ("--lookups", args.lookups),
        ("--seed", args.seed),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    if let Some(without) = args.without {
        command.args(["--without", &value_name(without)]);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run part {part:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "part {part:?} failed: {}",
        output.status
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("part {part:?} printed no figures"))
}

fn value_name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn report(args: &Args, built: &Built, measured: &Measured, loads: &[Loaded]) -> Report {
    let mut report = Report {
        name: "directory",
        method: method(args),
        ..Report::default()
    };
    add_figures(&mut report, built, measured, loads);
    add_bars(&mut report, args, measured, loads);
    add_charts(&mut report, measured);
    report
}

fn loaded_bytes_per_tenant(measured: &Measured) -> f64 {
    measured.loaded.resident_bytes as f64 / measured.loaded.tenants.max(1) as f64
}

fn churned_bytes_per_tenant(measured: &Measured) -> f64 {
    measured.churned_bytes as f64 / measured.churned_tenants.max(1) as f64
}

fn slowest_load(loads: &[Loaded]) -> f64 {
    loads.iter().map(|load| load.seconds).fold(0.0, f64::max)
}

fn add_figures(report: &mut Report, built: &Built, measured: &Measured, loads: &[Loaded]) {
    let fastest = loads.iter().map(|load| load.seconds);
    let fastest = fastest.fold(f64::INFINITY, f64::min);
    let (slowest, count) = (slowest_load(loads), loads.len());
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let bytes = |bytes: f64| format!("{bytes:.1} B");
    for (what, value) in [
        ("tenants", measured.loaded.tenants.to_string()),
        ("build from rows", format!("{:.2} s", built.build_seconds)),
        ("snapshot written", format!("{:.2} s", built.save_seconds)),
        ("snapshot file", megabytes(built.file_bytes)),
        (
            "snapshot loaded",
            format!("{fastest:.2} to {slowest:.2} s in {count} loads"),
        ),
        (
            "resident per tenant, loaded",
            bytes(loaded_bytes_per_tenant(measured)),
        ),
        (
            "resident per tenant, after churn",
            bytes(churned_bytes_per_tenant(measured)),
        ),
        (
            "largest resident set while loading",
            megabytes(measured.loaded.peak_bytes),
        ),
        ("one transaction applied", measured.apply.to_string()),
    ] {
        report.figure(what, value);
    }
    if let Some(seconds) = measured.fold_seconds {
        report.figure("overlay folded into a new base", format!("{seconds:.2} s"));
    }
    for (kind, latencies) in &measured.lookups {
        report.figure(format!("lookup {kind}"), latencies.to_string());
    }
    let waited = format!(
        "{:.1} % of the lookups' time",
        100.0 * measured.waited_share
    );
    report.figure("waited for a processor", waited);
}

fn add_bars(report: &mut Report, args: &Args, measured: &Measured, loads: &[Loaded]) {
    let changed_min = args.tenants.div_ceil(100);
    let churned = churned_bytes_per_tenant(measured);
    let apply = measured.apply.p99_ns as f64 / 1e6;
    report.bars.extend([
        Bar::at_least("tenants", measured.loaded.tenants, TENANTS_MIN),
        Bar::at_least("loads", loads.len() as u64, LOADS_MIN),
        Bar::at_least("tenants changed", measured.tenants_changed, changed_min),
        Bar::at_most(
            "resident per tenant after churn",
            "B",
            churned,
            BYTES_PER_TENANT_MAX,
        ),
        Bar::at_most(
            "slowest snapshot load",
            "s",
            slowest_load(loads),
            LOAD_SECONDS_MAX,
        ),
        Bar::at_most(
            "transaction applied, p99",
            "ms",
            apply,
            APPLY_P99_MILLISECONDS_MAX,
        ),
    ]);
    for (kind, latencies) in &measured.lookups {
        let p99 = latencies.p99_ns as f64 / 1e3;
        report.bars.extend([
            Bar::at_least(&format!("lookups {kind}"), latencies.count, LOOKUPS_MIN),
            Bar::at_most(
                &format!("lookup {kind}, p99"),
                "µs",
                p99,
                LOOKUP_P99_MICROSECONDS_MAX,
            ),
        ]);
    }
}

fn add_charts(report: &mut Report, measured: &Measured) {
    let curve = |(kind, latencies): &(String, Latencies)| svg::Curve {
        name: kind.clone(),
        points: latencies
            .curve
            .iter()
            .map(|(percentile, ns)| (*percentile, *ns as f64))
            .collect(),
    };
    let curves: Vec<_> = measured.lookups.iter().map(curve).collect();
    let title = format!(
        "Directory lookup latency, {} tenants",
        measured.loaded.tenants
    );
    let chart = svg::percentiles(&title, "ns", LOOKUP_P99_MICROSECONDS_MAX * 1e3, &curves);
    report
        .charts
        .push(("directory-lookups.svg".to_owned(), title, chart));
    let title = "Directory memory, resident bytes per tenant".to_owned();
    let bars = [
        ("loaded".to_owned(), loaded_bytes_per_tenant(measured)),
        (
            "after 1 % churn".to_owned(),
            churned_bytes_per_tenant(measured),
        ),
    ];
    let chart = svg::bars(&title, "B", BYTES_PER_TENANT_MAX, &bars);
    report
        .charts
        .push(("directory-memory.svg".to_owned(), title, chart));
}

fn method(args: &Args) -> Vec<String> {
    let mut method = vec![
        format!(
            "{} tenants with {} ids, {}-byte slugs and one {}-byte hostname each; 5 % pinned, 1 % suspended; seed {}",
            args.tenants,
            value_name(args.key),
            rows::SLUG_BYTES,
            rows::HOSTNAME_BYTES,
            args.seed
        ),
        "memory: growth of the resident set (VmRSS) from before the load, allocator's slack included".into(),
        "churn: transactions that create, alter, rename, pin and remove 1 % of the tenants, applied one by one".into(),
        "lookups: each of a random key, timed one by one after the churn, the clock's cost included".into(),
        "the snapshot is loaded in a new process each time, from the page cache".into(),
    ];
    if let Some(without) = args.without {
        method.push(format!(
            "WITHOUT {}: the check must fail",
            value_name(without)
        ));
    }
    method
}
