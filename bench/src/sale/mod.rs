//! `tenantry-bench flash-sale`: a store goes to a hundred times its load; the platform notices, moves it to a spare while
//! it sells, and nobody else feels it.
//!
//! Shards have a fixed capacity each, as in `neighbours`: a pool of eight and a statement that mostly waits.

mod report;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tenantry_rebalancer::policy::{Mode, Policy};
use tenantry_schema::catalog::moves::{Move, MoveFilter};
use tenantry_schema::fleet::RoleKind;
use tenantry_schema::shard::ShardKind;
use tenantry_schema::tenant::TenantId;
use tenantry_testkit::{Fleet, Login};

use crate::neighbours::load::{Clients, Door, Outcome, Phase, SETTLING};
use crate::proxy::{DATABASE, RouterProcess, Without, router_config};
use crate::rebalancer::Wanted;
use crate::report::Finish;

const ACTOR: &str = "tenantry-bench";
const ROLE: &str = "sale";
const PASSWORD: &str = "sale";
const TENANTS: usize = 200;
const POOL_SIZE: usize = 8;
const WAITS: &str = "SELECT pg_sleep(0.005)";
/// Requests per second of each tenant, and of the store before its sale: half of the shard's capacity in all.
const CALM_EACH: f64 = 4.0;
const STORE_BEFORE: f64 = 16.0;
/// How many times its load a sale brings.
const TIMES: f64 = 100.0;
const CLIENTS: usize = 2;
const STORE_CLIENTS: usize = 100;
/// The tenant with the sale, among the fleet's.
const STORE: usize = 0;
const POLL: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Size of the store in MB.
    #[arg(long, default_value_t = 500)]
    megabytes: u32,
    /// A small store and shorter phases: about a minute.
    #[arg(long)]
    quick: bool,
    /// Decides every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    finish: Finish,
    /// Leave a part of the design out.
    #[arg(long, value_enum, value_name = "NAME")]
    without: Option<Without>,
}

impl Args {
    fn megabytes(&self) -> u32 {
        if self.quick { 40 } else { self.megabytes }
    }

    fn calm(&self) -> Duration {
        Duration::from_secs(if self.quick { 6 } else { 12 })
    }

    fn sale(&self) -> Duration {
        Duration::from_secs(if self.quick { 40 } else { 80 })
    }
}

/// Runs the scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let sale = runtime.block_on(measure(args))?;
    report::report(args, &sale).finish(&args.finish)
}

/// What happened.
struct Sale {
    /// Without a sale.
    calm: Vec<Outcome>,
    /// From the first second of the sale on.
    sale: Vec<Outcome>,
    /// From the first request of the sale until the catalog had the store on a shard of its own, seconds.
    isolated_after: Option<f64>,
    /// What that shard is now.
    kind: Option<ShardKind>,
    moves: Vec<Move>,
    store_bytes: i64,
}

async fn measure(args: &Args) -> anyhow::Result<Sale> {
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let fleet = Fleet::builder()
        .shards(1)
        .spares(1)
        .separate_servers(true)
        .tenants(TENANTS)
        .setting("wal_level", "logical")
        .setting("max_connections", 100)
        .start()
        .await?;
    fleet
        .add_role(ROLE, PASSWORD, RoleKind::Service, Vec::new())
        .await?;
    let store = fleet.tenants()[STORE].id;
    let store_bytes = stock(&fleet, store, args.megabytes()).await?;
    let router = RouterProcess::start(
        &router_config(&fleet, POOL_SIZE),
        args.without,
        folder.path(),
    )?;
    if args.without != Some(Without::Isolation) {
        let policy = Policy {
            mode: Mode::Act,
            ..Policy::default()
        };
        let policy = serde_json::to_value(policy)?;
        fleet.catalog().set_isolation_policy(&policy, ACTOR).await?;
    }
    let rebalancer = Wanted::new(&fleet).start(folder.path())?;
    let mut counts = vec![CLIENTS; TENANTS];
    counts[STORE] = STORE_CLIENTS;
    let mut clients = Clients::connect(&door(&fleet, router.port), &counts).await?;

    let mut phase = Phase {
        statement: WAITS,
        per_second: vec![CALM_EACH; TENANTS],
        length: args.calm(),
        seed: args.seed,
    };
    phase.per_second[STORE] = STORE_BEFORE;
    let calm = clients.run(&phase).await?;
    phase.per_second[STORE] = STORE_BEFORE * TIMES;
    phase.length = args.sale();
    phase.seed += 1;
    let (sale, isolated_after) =
        tokio::join!(clients.run(&phase), isolation(&fleet, store, args.sale()));
    drop(rebalancer);
    let tenant = fleet.catalog().tenant(&fleet.id_text(store)).await?;
    let home = fleet.catalog().locate(&tenant).await?;
    let home = home.context("the store has no place")?.shard;
    let shards = fleet.catalog().list_shards().await?;
    let filter = MoveFilter {
        tenant: Some(store),
        ..MoveFilter::default()
    };
    let isolated_after = isolated_after?;
    Ok(Sale {
        calm,
        sale: sale?,
        isolated_after,
        kind: isolated_after
            .and_then(|_| shards.iter().find(|shard| shard.id == home))
            .map(|shard| shard.kind),
        moves: fleet.catalog().moves(&filter).await?,
        store_bytes,
    })
}

fn door(fleet: &Fleet, port: u16) -> Door {
    let logins = fleet.tenants().iter().map(|tenant| {
        let database = format!("{DATABASE}/{}", fleet.id_text(tenant.id));
        Login::new(ROLE, PASSWORD, database)
    });
    Door {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        logins: logins.collect(),
    }
}

/// Gives the store its rows on its shard, and makes the same table on the spare. Bytes of the table.
async fn stock(fleet: &Fleet, store: TenantId, megabytes: u32) -> anyhow::Result<i64> {
    const TABLE: &str = "
        SET ROLE tenantry_owner;
        CREATE TABLE articles (
            tenant_id   bigint NOT NULL,
            id          bigint NOT NULL,
            description text   NOT NULL,
            PRIMARY KEY (tenant_id, id)
        );
        SELECT tenantry.cover('articles');
        RESET ROLE;";
    for shard in fleet.shards() {
        shard.admin().await?.batch_execute(TABLE).await?;
    }
    let admin = fleet.shard(0).admin().await?;
    let id = fleet.id_text(store);
    let fill = format!(
        "INSERT INTO articles SELECT {id}, i, repeat(md5(i::text), 30) FROM generate_series(1, {megabytes} * 1000) i"
    );
    admin.batch_execute(&fill).await?;
    admin.batch_execute("VACUUM ANALYZE").await?;
    admin.batch_execute("CHECKPOINT").await?;
    let size = "SELECT pg_total_relation_size('articles')";
    Ok(admin.query_one(size, &[]).await?.get(0))
}

/// How long it takes from now until the store is on a shard of its own, if it is in time.
async fn isolation(
    fleet: &Fleet,
    store: TenantId,
    within: Duration,
) -> anyhow::Result<Option<f64>> {
    let start = Instant::now();
    let home = fleet.shard(0).id();
    let tenant = fleet.id_text(store);
    while start.elapsed() < within + SETTLING {
        let tenant = fleet.catalog().tenant(&tenant).await?;
        let now = fleet.catalog().locate(&tenant).await?;
        if now.is_some_and(|place| place.shard != home) {
            return Ok(Some(start.elapsed().as_secs_f64()));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(None)
}
