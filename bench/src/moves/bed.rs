//! What is moved: two shards on servers of their own, a tenant with accounts and entries among neighbours, a router in
//! front.

use std::net::SocketAddr;

use anyhow::Context as _;
use tempfile::TempDir;
use tenantry_router::Config as RouterConfig;
use tenantry_schema::fleet::RoleKind;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;
use tenantry_testkit::{Fleet, FleetShard};
use tokio_postgres::{Client, Config, NoTls};

use crate::proxy::{DATABASE, RouterProcess, Without, router_config};

const ROLE: &str = "mover";
const PASSWORD: &str = "mover";
/// Tenants beside the one that is moved.
pub(crate) const NEIGHBOURS: usize = 16;
/// Accounts of every tenant.
pub(crate) const ACCOUNTS: i64 = 1000;
/// Rows that each neighbour has from the start.
const NEIGHBOURS_ROWS: i64 = 20_000;
const POOL_SIZE: usize = 24;

/// Bookings on accounts. An entry's amount is on its account, or neither is there.
const TABLES: &str = "
    SET ROLE tenantry_owner;
    CREATE TABLE accounts (
        tenant_id bigint NOT NULL,
        id        bigint NOT NULL,
        balance   bigint NOT NULL DEFAULT 0,
        note      text   NOT NULL DEFAULT repeat('n', 60),
        PRIMARY KEY (tenant_id, id)
    ) WITH (fillfactor = 60);
    CREATE TABLE entries (
        tenant_id bigint NOT NULL,
        client    int    NOT NULL,
        seq       bigint NOT NULL,
        account   bigint NOT NULL,
        amount    bigint NOT NULL,
        booked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        filler    text   NOT NULL DEFAULT repeat('e', 200),
        PRIMARY KEY (tenant_id, client, seq),
        FOREIGN KEY (tenant_id, account) REFERENCES accounts (tenant_id, id)
    );
    SELECT tenantry.cover(name::regclass) FROM unnest(ARRAY['accounts', 'entries']) name;
    RESET ROLE;";

#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    http: u16,
}

/// Servers, shards, data and a router. Everything ends with it.
pub(crate) struct Bed {
    router: Option<RouterProcess>,
    /// The router's ports: the same ones after a restart.
    ports: Ports,
    pub(crate) fleet: Fleet,
    pub(crate) folder: TempDir,
    /// The tenant that moves.
    pub(crate) tenant: TenantId,
    /// Those that share its first shard, and stay.
    pub(crate) neighbours: Vec<TenantId>,
}

impl Bed {
    /// With a router. `rows` entries of client -1 belong to the tenant from the start.
    pub(crate) async fn start(rows: i64, without: Option<Without>) -> anyhow::Result<Self> {
        let mut bed = Self::prepare(rows).await?;
        bed.start_router(without, None)?;
        Ok(bed)
    }

    /// Without a router.
    pub(crate) async fn prepare(rows: i64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a folder")?;
        let fleet = Fleet::builder()
            .shards(2)
            .separate_servers(true)
            .tenants(4 * NEIGHBOURS)
            .setting("wal_level", "logical")
            .setting("max_connections", 120)
            .setting("shared_buffers", "512MB")
            .start()
            .await?;
        fleet
            .add_role(ROLE, PASSWORD, RoleKind::Service, Vec::new())
            .await?;
        for shard in fleet.shards() {
            let admin = shard.admin().await?;
            admin
                .batch_execute(TABLES)
                .await
                .context("cannot make the tables")?;
        }
        let home = fleet.tenants_of(fleet.shard(0)).await?;
        let mut ids = home.iter().map(|tenant| tenant.id);
        let tenant = ids.next().context("the first shard has no tenant")?;
        let neighbours: Vec<TenantId> = ids.take(NEIGHBOURS).collect();
        fill(&fleet, tenant, &neighbours, rows).await?;
        Ok(Self {
            router: None,
            ports: Ports {
                clients: free_port()?,
                http: free_port()?,
            },
            fleet,
            folder,
            tenant,
            neighbours,
        })
    }

    /// Starts the router, at the ports that it always has; it finds the catalog at `catalog_url`, if that is not where
    /// it is.
    pub(crate) fn start_router(
        &mut self,
        without: Option<Without>,
        catalog_url: Option<String>,
    ) -> anyhow::Result<()> {
        let config = router_config(&self.fleet, POOL_SIZE);
        let config = RouterConfig {
            listen: ([127, 0, 0, 1], self.ports.clients).into(),
            http_listen: ([127, 0, 0, 1], self.ports.http).into(),
            catalog_url: catalog_url.unwrap_or(config.catalog_url),
            ..config
        };
        self.router = Some(RouterProcess::start(&config, without, self.folder.path())?);
        Ok(())
    }

    /// Ends the router with kill -9.
    pub(crate) fn kill_router(&mut self) {
        self.router = None;
    }

    /// Where the rebalancer talks to the router.
    pub(crate) fn control_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.http))
    }

    pub(crate) fn door(&self) -> Door {
        Door {
            address: SocketAddr::from(([127, 0, 0, 1], self.ports.clients)),
        }
    }

    pub(crate) fn shard(&self, id: ShardId) -> anyhow::Result<&FleetShard> {
        let mut shards = self.fleet.shards().iter();
        shards
            .find(|shard| shard.id() == id)
            .context("the shard is not one of this fleet's")
    }

    /// Where the catalog says that the tenant lives.
    pub(crate) async fn home(&self) -> anyhow::Result<ShardId> {
        let catalog = self.fleet.catalog();
        let tenant = catalog.tenant(&self.fleet.id_text(self.tenant)).await?;
        let placement = catalog.locate(&tenant).await?;
        Ok(placement.context("the tenant has no place")?.shard)
    }
}

/// Where clients connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
}

impl Door {
    pub(crate) async fn connect(self, tenant: &str) -> anyhow::Result<Client> {
        let (client, connection) = Config::new()
            .host(self.address.ip().to_string())
            .port(self.address.port())
            .user(ROLE)
            .password(PASSWORD)
            .dbname(format!("{DATABASE}/{tenant}"))
            .connect(NoTls)
            .await
            .context("cannot connect through the router")?;
        tokio::spawn(connection);
        Ok(client)
    }
}

fn free_port() -> anyhow::Result<u16> {
    tenantry_cluster::free_port().context("no free port")
}

async fn fill(
    fleet: &Fleet,
    tenant: TenantId,
    neighbours: &[TenantId],
    rows: i64,
) -> anyhow::Result<()> {
    let admin = fleet.shard(0).admin().await?;
    let mut script = String::new();
    let all = std::iter::once((tenant, rows));
    for (tenant, rows) in all.chain(neighbours.iter().map(|one| (*one, NEIGHBOURS_ROWS))) {
        let id = fleet.id_text(tenant);
        script += &format!(
            "INSERT INTO accounts (tenant_id, id) SELECT {id}, i FROM generate_series(1, {ACCOUNTS}) i;
             INSERT INTO entries (tenant_id, client, seq, account, amount)
                 SELECT {id}, -1, i, i % {ACCOUNTS} + 1, 0 FROM generate_series(1, {rows}) i;"
        );
    }
    admin
        .batch_execute(&script)
        .await
        .context("cannot fill the tables")?;
    // Alone: it runs in no transaction.
    admin.batch_execute("VACUUM ANALYZE").await?;
    admin.batch_execute("CHECKPOINT").await?;
    Ok(())
}
