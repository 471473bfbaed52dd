//! The measurements themselves. Each prints its figures as JSON for the parent.

use std::fmt;
use std::hint::black_box;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tenantry_schema::directory::{Directory, DirectoryBuilder, DirectoryChange, TenantRecord};
use tenantry_schema::fleet::{Fleet, FleetSettings};
use tenantry_schema::snapshot;
use tenantry_schema::tenant::{Epoch, TenantId, TenantKey};

use super::plain::PlainDirectory;
use super::{Key, Without, rows};

/// Changes that make a new base each are too slow for the whole churn; so many show it.
const CHANGES_WITHOUT_OVERLAY: u64 = 20;

/// Which measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Build the directory and write the snapshot.
    Build,
    /// Load the snapshot.
    Load,
    /// Load the snapshot, churn, look up.
    Measure,
}

/// Arguments of one measurement.
#[derive(Debug, clap::Args)]
pub(crate) struct PartArgs {
    #[arg(value_enum)]
    part: Part,
    #[arg(long)]
    snapshot: PathBuf,
    #[arg(long)]
    tenants: u64,
    #[arg(long, value_enum)]
    key: Key,
    #[arg(long)]
    lookups: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long, value_enum)]
    without: Option<Without>,
}

/// What building tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Built {
    pub(super) build_seconds: f64,
    pub(super) save_seconds: f64,
    pub(super) file_bytes: u64,
}

/// What loading tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Loaded {
    pub(super) seconds: f64,
    pub(super) tenants: u64,
    pub(super) resident_bytes: u64,
    pub(super) peak_bytes: u64,
}

/// What the whole measurement tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) loaded: Loaded,
    pub(super) churned_bytes: u64,
    pub(super) churned_tenants: u64,
    pub(super) tenants_changed: u64,
    pub(super) apply: Latencies,
    pub(super) fold_seconds: Option<f64>,
    pub(super) lookups: Vec<(String, Latencies)>,
    /// Share of the lookups' time in which this process was ready to run and had no processor.
    pub(super) waited_share: f64,
}

/// A latency distribution.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Latencies {
    pub(super) count: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) p999_ns: u64,
    pub(super) max_ns: u64,
    /// (percentile, nanoseconds)
    pub(super) curve: Vec<(f64, u64)>,
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |percentile| histogram.value_at_percentile(percentile);
        let nines = (0..=80).map(|step| 100.0 - 100.0 / 10f64.powf(f64::from(step) / 20.0));
        Self {
            count: histogram.len(),
            p50_ns: at(50.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            max_ns: histogram.max(),
            curve: nines
                .map(|percentile| (percentile, at(percentile)))
                .collect(),
        }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |ns| Duration::from_nanos(ns);
        write!(
            f,
            "p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?} of {}",
            duration(self.p50_ns),
            duration(self.p99_ns),
            duration(self.p999_ns),
            duration(self.max_ns),
            self.count
        )
    }
}

/// Runs one measurement and prints its figures.
pub(crate) fn run_part(args: &PartArgs) -> anyhow::Result<()> {
    let figures = match args.part {
        Part::Build => serde_json::to_vec(&build(args)?)?,
        Part::Load => serde_json::to_vec(&load(args)?.1)?,
        Part::Measure => serde_json::to_vec(&measure(args)?)?,
    };
    std::io::stdout().write_all(&figures)?;
    Ok(())
}

fn build(args: &PartArgs) -> anyhow::Result<Built> {
    let key = TenantKey::from(args.key);
    let start = Instant::now();
    let mut builder = DirectoryBuilder::new(key);
    for number in 0..args.tenants {
        let row = rows::row(key, number).context("no such tenant")?;
        builder.push_tenant(&row.record(rows::pin(number)))?;
        builder.push_hostname(std::str::from_utf8(&rows::hostname(number))?, row.id)?;
    }
    let mut fleet = Fleet::empty(FleetSettings::new(key));
    fleet.directory = builder.build()?;
    let build_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    snapshot::save(&fleet, &args.snapshot)?;
    let save_seconds = start.elapsed().as_secs_f64();
    Ok(Built {
        build_seconds,
        save_seconds,
        file_bytes: std::fs::metadata(&args.snapshot)?.len(),
    })
}

/// The directory under test, or what stands in its place.
enum Subject {
    Directory(Box<Directory>),
    Plain(PlainDirectory),
}

impl Subject {
    fn by_id(&self, id: TenantId) -> Option<TenantRecord<'_>> {
        match self {
            Self::Directory(directory) => directory.by_id(id),
            Self::Plain(plain) => plain.by_id(id),
        }
    }

    fn by_slug(&self, slug: &str) -> Option<TenantRecord<'_>> {
        match self {
            Self::Directory(directory) => directory.by_slug(slug),
            Self::Plain(plain) => plain.by_slug(slug),
        }
    }

    fn by_hostname(&self, name: &str) -> Option<TenantRecord<'_>> {
        match self {
            Self::Directory(directory) => directory.by_hostname(name),
            Self::Plain(plain) => plain.by_hostname(name),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Directory(directory) => directory.len() as u64,
            Self::Plain(plain) => plain.len() as u64,
        }
    }
}

fn load(args: &PartArgs) -> anyhow::Result<(Subject, Loaded)> {
    let before = resident_bytes()?;
    let start = Instant::now();
    let subject = if args.without == Some(Without::Arena) {
        Subject::Plain(plain_rows(args)?)
    } else {
        Subject::Directory(Box::new(snapshot::load(&args.snapshot)?.directory))
    };
    let seconds = start.elapsed().as_secs_f64();
    let loaded = Loaded {
        seconds,
        tenants: subject.len(),
        resident_bytes: resident_bytes()?.saturating_sub(before),
        peak_bytes: peak_resident_bytes()?,
    };
    Ok((subject, loaded))
}

fn plain_rows(args: &PartArgs) -> anyhow::Result<PlainDirectory> {
    let key = TenantKey::from(args.key);
    let mut plain = PlainDirectory::default();
    for number in 0..args.tenants {
        let row = rows::row(key, number).context("no such tenant")?;
        let tenant = row.id;
        plain.apply(&DirectoryChange::UpsertTenant(row));
        let name = String::from_utf8_lossy(&rows::hostname(number)).into_owned();
        plain.apply(&DirectoryChange::UpsertHostname { name, tenant });
        if let Some(shard) = rows::pin(number) {
            plain.apply(&DirectoryChange::Pin { tenant, shard });
        }
    }
    Ok(plain)
}

fn measure(args: &PartArgs) -> anyhow::Result<Measured> {
    let before = resident_bytes()?;
    let (mut subject, loaded) = load(args)?;
    let mut applied = histogram()?;
    let mut tenants_changed = 0;
    let churn = match args.without {
        Some(Without::Overlay) => CHANGES_WITHOUT_OVERLAY,
        _ => args.tenants.div_ceil(100),
    };
    for step in 0..churn {
        let changes = transaction(args, step)?;
        let start = Instant::now();
        match &mut subject {
            Subject::Plain(plain) => changes.iter().for_each(|change| plain.apply(change)),
            Subject::Directory(directory) => {
                **directory = directory.apply(&changes)?;
                if args.without == Some(Without::Overlay) {
                    **directory = directory.compacted()?;
                }
            }
        }
        applied.record(start.elapsed().as_nanos() as u64)?;
        tenants_changed += 1;
    }
    let churned_bytes = resident_bytes()?.saturating_sub(before);
    let (start, waited_before) = (Instant::now(), waited()?);
    let lookups = lookups(args, &subject)?;
    let waited_share =
        waited()?.saturating_sub(waited_before).as_secs_f64() / start.elapsed().as_secs_f64();
    let fold_seconds = match &subject {
        Subject::Directory(directory) => {
            let start = Instant::now();
            black_box(directory.compacted()?);
            Some(start.elapsed().as_secs_f64())
        }
        Subject::Plain(_) => None,
    };
    Ok(Measured {
        loaded,
        churned_bytes,
        churned_tenants: subject.len(),
        tenants_changed,
        apply: Latencies::of(&applied),
        fold_seconds,
        lookups,
        waited_share,
    })
}

/// What one transaction of the churn changes; each is about another tenant.
fn transaction(args: &PartArgs, step: u64) -> anyhow::Result<Vec<DirectoryChange>> {
    let key = TenantKey::from(args.key);
    let number = step * 97 % args.tenants.max(1);
    let mut row = rows::row(key, number).context("no such tenant")?;
    let tenant = row.id;
    Ok(match step % 5 {
        0 => {
            let number = args.tenants + step;
            let row = rows::row(key, number).context("no such tenant")?;
            let (tenant, name) = (
                row.id,
                String::from_utf8_lossy(&rows::hostname(number)).into_owned(),
            );
            vec![
                DirectoryChange::UpsertTenant(row),
                DirectoryChange::UpsertHostname { name, tenant },
            ]
        }
        1 => {
            row.epoch = Epoch(row.epoch.0 + 1);
            vec![DirectoryChange::UpsertTenant(row)]
        }
        2 => {
            row.slug = format!("renamed{step}");
            vec![DirectoryChange::UpsertTenant(row)]
        }
        3 => match rows::pin(0) {
            Some(shard) => vec![DirectoryChange::Pin { tenant, shard }],
            None => vec![DirectoryChange::Unpin(tenant)],
        },
        _ => {
            let name = String::from_utf8_lossy(&rows::hostname(number)).into_owned();
            vec![
                DirectoryChange::RemoveHostname(name),
                DirectoryChange::RemoveTenant(tenant),
            ]
        }
    })
}

/// One histogram per kind of lookup. Keys are made before the clock starts; almost all are found.
fn lookups(args: &PartArgs, subject: &Subject) -> anyhow::Result<Vec<(String, Latencies)>> {
    let key = TenantKey::from(args.key);
    let mut random = SmallRng::seed_from_u64(args.seed);
    let tenants = args.tenants.max(1);
    let mut by_id = histogram()?;
    let mut by_slug = histogram()?;
    let mut by_hostname = histogram()?;
    let mut absent = histogram()?;
    let mut found = 0u64;
    for _ in 0..args.lookups {
        let id = rows::id(key, random.random_range(0..tenants)).context("no such tenant")?;
        found += timed(&mut by_id, || subject.by_id(id))?;
    }
    for _ in 0..args.lookups {
        let slug = rows::slug(random.random_range(0..tenants));
        let slug = std::str::from_utf8(&slug)?;
        found += timed(&mut by_slug, || subject.by_slug(slug))?;
    }
    for _ in 0..args.lookups {
        let name = rows::hostname(random.random_range(0..tenants));
        let name = std::str::from_utf8(&name)?;
        found += timed(&mut by_hostname, || subject.by_hostname(name))?;
    }
    for _ in 0..args.lookups {
        let name = rows::hostname(random.random_range(2 * tenants..4 * tenants));
        let name = std::str::from_utf8(&name)?;
        anyhow::ensure!(
            timed(&mut absent, || subject.by_hostname(name))? == 0,
            "{name} should not be there"
        );
    }
    // The churn removes and renames less than 1 %.
    anyhow::ensure!(
        found >= args.lookups * 3 / 100 * 98,
        "only {found} of {} keys were found",
        args.lookups * 3
    );
    Ok([
        ("by id", by_id),
        ("by slug", by_slug),
        ("by hostname", by_hostname),
        ("of an absent hostname", absent),
    ]
    .map(|(kind, histogram)| (kind.to_owned(), Latencies::of(&histogram)))
    .into())
}

/// Times one lookup, its answer copied out. Tells 1 if there was one.
fn timed<'d>(
    histogram: &mut Histogram<u64>,
    lookup: impl FnOnce() -> Option<TenantRecord<'d>>,
) -> anyhow::Result<u64> {
    let start = Instant::now();
    let record = black_box(lookup());
    let elapsed = start.elapsed();
    histogram.record(elapsed.as_nanos() as u64)?;
    Ok(u64::from(record.is_some()))
}

/// How long this thread has waited for a processor so far.
fn waited() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let delay = stat.split_whitespace().nth(1).context("no run delay")?;
    Ok(Duration::from_nanos(delay.parse()?))
}

/// Nanoseconds up to a minute, to three digits.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// Pages that this process has in memory, in bytes.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    status_bytes(&status, "VmRSS:")
}

fn peak_resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    status_bytes(&status, "VmHWM:")
}

fn status_bytes(status: &str, name: &str) -> anyhow::Result<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name}"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
