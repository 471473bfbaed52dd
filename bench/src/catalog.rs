//! `tenantry-bench catalog`: what the catalog costs a fleet of this size.
//!
//! A real PostgreSQL server holds the tenants. Measured are the load of the whole fleet, how long a new tenant takes
//! from before its INSERT until a follower has published it, how many such commits the server takes, and a ring change.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tenantry_cluster::{Server, ServerOptions};
use tenantry_schema::catalog::{Catalog, NewShard};
use tenantry_schema::fleet::{Fleet, FleetSettings};
use tenantry_schema::follow::{FollowConfig, FollowStatus, Follower};
use tenantry_schema::shard::{ShardAddress, ShardId};
use tenantry_schema::tenant::{TenantId, TenantKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::report::{Bar, Finish, Report};

const DATABASE: &str = "catalog";
const LOAD_SECONDS_MAX: f64 = 8.0;
const KNOWN_MILLISECONDS_MAX: f64 = 1000.0;
const TENANTS_MIN: u64 = 1_000_000;
const CREATIONS_MIN: u64 = 200;
const SHARDS: u32 = 4;
const WRITERS: u64 = 8;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tenants, each with a 12-byte slug and one 24-byte hostname.
    #[arg(long, default_value_t = 2_000_000)]
    tenants: u64,
    /// Times that the fleet is loaded.
    #[arg(long, default_value_t = 5)]
    loads: u32,
    /// Tenants created one after another while a follower listens, and as many again by each of eight writers.
    #[arg(long, default_value_t = 500)]
    creations: u64,
    #[command(flatten)]
    finish: Finish,
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = runtime.block_on(measure(args))?;
    report.finish(&args.finish)
}

async fn measure(args: &Args) -> anyhow::Result<Report> {
    let server = Server::start(ServerOptions::throwaway()).await?;
    server.create_database(DATABASE).await?;
    let catalog = Catalog::connect(&server.url(DATABASE)).await?;
    catalog.init(FleetSettings::new(TenantKey::Bigint)).await?;
    for number in 1..=SHARDS {
        catalog.add_shard(shard(number)?).await?;
    }
    fill(&server, args.tenants).await?;
    let mut report = Report {
        name: "catalog",
        method: vec![
            format!("{} tenants with one hostname each, {SHARDS} shards, bigint ids, PostgreSQL on this machine.", args.tenants),
            "The server does not fsync: what is measured is work, not a disk.".to_owned(),
            "A tenant is known once a follower has published a fleet with it; counted from before its INSERT.".to_owned(),
        ],
        ..Report::default()
    };
    loads(args, &catalog, &mut report).await?;
    following(args, &server, &catalog, &mut report).await?;
    report
        .bars
        .push(Bar::at_least("tenants", args.tenants, TENANTS_MIN));
    Ok(report)
}

fn shard(number: u32) -> anyhow::Result<NewShard> {
    let name = format!("s{number}");
    let address = ShardAddress {
        host: "127.0.0.1".to_owned(),
        port: 5432,
        database: name.clone(),
    };
    Ok(NewShard::new(name.parse()?, address))
}

/// Rows straight into the tables: triggers would write, for each bulk, what nobody follows yet.
async fn fill(server: &Server, tenants: u64) -> anyhow::Result<()> {
    let client = server.connect(DATABASE).await?;
    let rows = format!(
        "SET session_replication_role = replica; \
         INSERT INTO tenantry.tenant (slug, state) \
         SELECT 's' || lpad(g::text, 11, '0'), 'active' FROM generate_series(1, {tenants}) g; \
         INSERT INTO tenantry.hostname (name, tenant) \
         SELECT 'www.' || slug || '.example', id FROM tenantry.tenant"
    );
    client
        .batch_execute(&rows)
        .await
        .context("cannot fill the catalog")?;
    // Alone: it runs in no transaction.
    client
        .batch_execute("VACUUM ANALYZE")
        .await
        .context("cannot fill the catalog")
}

async fn loads(args: &Args, catalog: &Catalog, report: &mut Report) -> anyhow::Result<()> {
    let mut worst = Duration::ZERO;
    for number in 1..=args.loads {
        let started = Instant::now();
        let fleet = catalog.load_fleet().await?;
        let took = started.elapsed();
        worst = worst.max(took);
        anyhow::ensure!(
            fleet.directory.len() as u64 == args.tenants,
            "a load lost tenants"
        );
        report.figure(
            format!("load {number}"),
            format!("{:.2} s", took.as_secs_f64()),
        );
    }
    let bar = Bar::at_most(
        "slowest load of the fleet",
        "s",
        worst.as_secs_f64(),
        LOAD_SECONDS_MAX,
    );
    report.bars.push(bar);
    Ok(())
}

async fn following(
    args: &Args,
    server: &Server,
    catalog: &Catalog,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (published, fleets) = watch::channel(None::<Arc<Fleet>>);
    let (status, _) = watch::channel(FollowStatus::default());
    let publish = move |fleet| {
        published.send_replace(Some(fleet));
    };
    let stop = CancellationToken::new();
    let follower = Follower::new(FollowConfig::new(server.url(DATABASE)), publish, status)?;
    let task = tokio::spawn(follower.run(stop.clone()));
    let mut fleets = Fleets(fleets);
    fleets.until(|fleet| !fleet.directory.is_empty()).await?;

    latency(args, server, &mut fleets, report).await?;
    throughput(args, server, report).await?;
    ring_change(catalog, &mut fleets, report).await?;
    stop.cancel();
    task.await.context("the follower was interrupted")
}

/// What the follower publishes.
struct Fleets(watch::Receiver<Option<Arc<Fleet>>>);

impl Fleets {
    async fn until(
        &mut self,
        mut condition: impl FnMut(&Fleet) -> bool,
    ) -> anyhow::Result<Arc<Fleet>> {
        let known = self
            .0
            .wait_for(|fleet| fleet.as_deref().is_some_and(&mut condition))
            .await;
        known
            .context("the follower ended")?
            .clone()
            .context("nothing is published")
    }
}

async fn latency(
    args: &Args,
    server: &Server,
    fleets: &mut Fleets,
    report: &mut Report,
) -> anyhow::Result<()> {
    let client = server.connect(DATABASE).await?;
    let insert = client
        .prepare("INSERT INTO tenantry.tenant (slug) VALUES ($1)")
        .await?;
    let mut known = Histogram::<u64>::new(3)?;
    for number in 0..args.creations {
        let slug = format!("known-{number}");
        let started = Instant::now();
        client.execute(&insert, &[&slug]).await?;
        fleets
            .until(|fleet| fleet.directory.by_slug(&slug).is_some())
            .await?;
        known.record(u64::try_from(started.elapsed().as_micros())?)?;
    }
    let milliseconds = |micros: u64| micros as f64 / 1000.0;
    let (half, most) = (known.value_at_quantile(0.5), known.value_at_quantile(0.99));
    report.figure(
        "a new tenant is known, p50",
        format!("{:.2} ms", milliseconds(half)),
    );
    report.figure(
        "a new tenant is known, p99",
        format!("{:.2} ms", milliseconds(most)),
    );
    report.figure(
        "a new tenant is known, worst",
        format!("{:.2} ms", milliseconds(known.max())),
    );
    let worst = milliseconds(known.max());
    report.bars.push(Bar::at_most(
        "a new tenant is known, worst",
        "ms",
        worst,
        KNOWN_MILLISECONDS_MAX,
    ));
    report
        .bars
        .push(Bar::at_least("creations", args.creations, CREATIONS_MIN));
    Ok(())
}

async fn throughput(args: &Args, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let mut writers = Vec::new();
    let started = Instant::now();
    for writer in 0..WRITERS {
        let client = server.connect(DATABASE).await?;
        let creations = args.creations;
        writers.push(tokio::spawn(async move {
            let insert = client
                .prepare("INSERT INTO tenantry.tenant (slug) VALUES ($1)")
                .await?;
            for number in 0..creations {
                client
                    .execute(&insert, &[&format!("busy-{writer}-{number}")])
                    .await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        }));
    }
    for writer in writers {
        writer.await.context("a writer was interrupted")??;
    }
    let rate = (WRITERS * args.creations) as f64 / started.elapsed().as_secs_f64();
    report.figure(
        format!("creations by {WRITERS} writers"),
        format!("{rate:.0}/s"),
    );
    Ok(())
}

/// One more shard: every tenant must stay where it is, in the follower's eyes too.
async fn ring_change(
    catalog: &Catalog,
    fleets: &mut Fleets,
    report: &mut Report,
) -> anyhow::Result<()> {
    let expected = catalog.load_fleet().await?.sequence;
    let before = fleets.until(|fleet| fleet.sequence >= expected).await?;
    let started = Instant::now();
    let added = catalog.add_shard(shard(SHARDS + 1)?).await?;
    let took = started.elapsed();
    let after = fleets
        .until(|fleet| fleet.shards.contains_key(&added.shard.id))
        .await?;
    let followed = started.elapsed();
    let moved = placements(&before)
        .filter(|(id, shard)| place(&after, *id) != Some(*shard))
        .count();
    report.figure("adding a shard pins", format!("{} tenants", added.pinned));
    report.figure(
        "adding a shard takes",
        format!("{:.2} s", took.as_secs_f64()),
    );
    report.figure(
        "and is followed after",
        format!("{:.2} s", followed.as_secs_f64()),
    );
    report.bars.push(Bar::at_most(
        "tenants looked for elsewhere",
        "tenants",
        moved as f64,
        0.0,
    ));
    Ok(())
}

fn placements(fleet: &Fleet) -> impl Iterator<Item = (TenantId, ShardId)> {
    let tenants = fleet.directory.tenants();
    tenants.filter_map(|tenant| Some((tenant.id, fleet.place(&tenant)?.shard)))
}

fn place(fleet: &Fleet, id: TenantId) -> Option<ShardId> {
    let tenant = fleet.directory.by_id(id)?;
    Some(fleet.place(&tenant)?.shard)
}
