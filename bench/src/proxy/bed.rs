//! What is measured on: one guarded shard with pgbench's tables, a router and a PgBouncer in front of it, and the same
//! tables once more without a guard.

use std::path::Path;

use anyhow::Context as _;
use tempfile::TempDir;
use tenantry_router::Config;
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, FleetShard};
use tokio_postgres::Client;

use super::pgbench::Address;
use super::pgbouncer::{self, Backend, Installed, PgBouncer};
use super::router::{RouterProcess, Without};

/// Tenants; the first has as many rows as `pgbench -i -s 10` makes.
pub(crate) const TENANTS: usize = 200;
/// Accounts of each tenant but the first.
pub(crate) const ACCOUNTS_OF_OTHERS: u32 = 1000;
/// pgbench's scale factor, of the first tenant and of the tables without guard.
const SCALE: u32 = 10;
/// Server connections of either proxy; PgBouncer has one per client where it pools by sessions.
const POOL_SIZE: usize = 20;
pub(crate) const CLIENTS_MAX: u32 = 64;

const ROLE: &str = "bench";
const PASSWORD: &str = "bench";
/// What clients of the router connect to.
pub(crate) const DATABASE: &str = "shop";
/// The database without a guard, on the same server.
const UNGUARDED: &str = "unguarded";
/// Binds a connection to the first tenant as the router would.
const BIND: &str = "SELECT bench.bind(1)";

/// Signs as the router does; only the superuser of a throwaway server can let anyone do that.
const BIND_FUNCTION: &str = "
    CREATE SCHEMA bench;
    GRANT USAGE ON SCHEMA bench TO tenantry_app;
    CREATE FUNCTION bench.bind(tenant bigint) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
        SELECT set_config('tenantry.tenant', tenant || ':' || k.version || ':' || encode(sha256(k.outer_block || sha256(
            k.inner_block || convert_to(tenantry.backend_identity() || ':' || tenant, 'UTF8'))), 'hex'), false)
        FROM tenantry.guard_key k ORDER BY k.version DESC LIMIT 1
    $$;";

/// Servers, proxies and data. Everything ends with it.
pub(crate) struct Bed {
    router: RouterProcess,
    /// With a server connection per client, beside a PgBouncer that pools by sessions.
    wide_router: RouterProcess,
    pub(crate) pgbouncer: PgBouncer,
    pub(crate) fleet: Fleet,
    pub(crate) folder: TempDir,
}

impl Bed {
    pub(crate) async fn start(
        installed: &Installed,
        without: Option<Without>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a folder")?;
        let fleet = Fleet::builder()
            .shards(1)
            .tenants(TENANTS)
            .setting("max_connections", 300)
            .setting("shared_buffers", "512MB")
            .start()
            .await?;
        fleet
            .add_role(ROLE, PASSWORD, RoleKind::Service, Vec::new())
            .await?;
        let shard = fleet.shard(0);
        fill(&shard.admin().await?, true).await?;
        fleet.server_of(shard).create_database(UNGUARDED).await?;
        fill(&fleet.server_of(shard).connect(UNGUARDED).await?, false).await?;
        let router =
            RouterProcess::start(&router_config(&fleet, POOL_SIZE), without, folder.path())?;
        let config = router_config(&fleet, CLIENTS_MAX as usize);
        let wide_router = RouterProcess::start(&config, without, folder.path())?;
        let pgbouncer = start_pgbouncer(installed, &fleet, shard, folder.path()).await?;
        Ok(Self {
            router,
            wide_router,
            pgbouncer,
            fleet,
            folder,
        })
    }

    /// The router, bound to the first tenant unless the transactions name theirs.
    pub(crate) fn through_router(&self, bound: bool, by_session: bool) -> Address {
        Address {
            port: self.router(by_session).port,
            user: ROLE.to_owned(),
            password: PASSWORD.to_owned(),
            database: if bound {
                format!("{DATABASE}/1")
            } else {
                DATABASE.to_owned()
            },
            first: None,
            tenant_setting: "tenantry.tenant",
        }
    }

    /// The router that has as many server connections as PgBouncer in this mode.
    pub(crate) fn router(&self, by_session: bool) -> &RouterProcess {
        if by_session {
            &self.wide_router
        } else {
            &self.router
        }
    }

    pub(crate) fn through_pgbouncer(&self, by_session: bool) -> Address {
        Address {
            port: self.pgbouncer.port,
            user: pgbouncer::USER.to_owned(),
            password: String::new(),
            database: if by_session {
                pgbouncer::SESSION
            } else {
                pgbouncer::TRANSACTION
            }
            .to_owned(),
            first: None,
            tenant_setting: "bench.tenant",
        }
    }

    /// The guarded shard without a proxy.
    pub(crate) fn direct(&self) -> Address {
        let shard = self.fleet.shard(0);
        Address {
            port: self.fleet.server_of(shard).port(),
            user: tenantry_schema::guard::role::APP.to_owned(),
            password: shard.secrets().passwords.app.expose().to_owned(),
            database: shard.name().to_string(),
            first: Some(BIND),
            tenant_setting: "bench.tenant",
        }
    }

    /// The same tables without a guard, without a proxy.
    pub(crate) fn unguarded(&self) -> Address {
        let server = self.fleet.server_of(self.fleet.shard(0));
        Address {
            port: server.port(),
            user: "postgres".to_owned(),
            password: server.superuser_password().to_owned(),
            database: UNGUARDED.to_owned(),
            first: Some("SELECT 1"),
            tenant_setting: "bench.tenant",
        }
    }

    /// The process above all of PostgreSQL's.
    pub(crate) fn postmaster(&self) -> anyhow::Result<u32> {
        self.fleet
            .server_of(self.fleet.shard(0))
            .pid()
            .context("the server has ended")
    }
}

/// A router for this fleet as it is shipped, but for addresses and the size of its pool.
pub(crate) fn router_config(fleet: &Fleet, pool_size: usize) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        http_listen: ([127, 0, 0, 1], 0).into(),
        catalog_url: fleet.catalog_url(),
        secrets_file: fleet.secrets_path(),
        database: DATABASE.to_owned(),
        name: format!("bench-{pool_size}"),
        pool_size,
        ..Config::default()
    }
}

async fn start_pgbouncer(
    installed: &Installed,
    fleet: &Fleet,
    shard: &FleetShard,
    folder: &Path,
) -> anyhow::Result<PgBouncer> {
    let backend = Backend {
        port: fleet.server_of(shard).port(),
        database: shard.name().as_str(),
        user: tenantry_schema::guard::role::APP,
        password: shard.secrets().passwords.app.expose(),
        connect_query: BIND,
        pool_size: POOL_SIZE,
        sessions: CLIENTS_MAX as usize,
    };
    PgBouncer::start(installed, &backend, folder).await
}

/// pgbench's tables as `pgbench -i` makes them, with a tenant column in front of every key if there is a guard.
async fn fill(client: &Client, guarded: bool) -> anyhow::Result<()> {
    let (column, key, owner) = if guarded {
        (
            "tenant_id bigint NOT NULL,",
            "tenant_id,",
            "SET ROLE tenantry_owner;",
        )
    } else {
        ("", "", "")
    };
    let mut script = format!(
        "{owner}
         CREATE TABLE pgbench_branches ({column} bid int, bbalance int, filler char(88), PRIMARY KEY ({key} bid))
             WITH (fillfactor = 100);
         CREATE TABLE pgbench_tellers ({column} tid int, bid int, tbalance int, filler char(84), PRIMARY KEY ({key} tid))
             WITH (fillfactor = 100);
         CREATE TABLE pgbench_accounts ({column} aid int, bid int, abalance int, filler char(84), PRIMARY KEY ({key} aid))
             WITH (fillfactor = 100);
         CREATE TABLE pgbench_history ({column} tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
         RESET ROLE;"
    );
    let tenant = if guarded { "1," } else { "" };
    for (table, rows) in [("branches", 1), ("tellers", 10), ("accounts", 100_000)] {
        let of_branch = if table == "branches" {
            String::new()
        } else {
            format!("(g - 1) / {rows} + 1,")
        };
        script += &format!(
            "INSERT INTO pgbench_{table} SELECT {tenant} g, {of_branch} 0, '' FROM generate_series(1, {}) g;",
            rows * SCALE
        );
    }
    if guarded {
        script += &format!(
            "INSERT INTO pgbench_accounts SELECT t, g, 1, 0, ''
                 FROM generate_series(2, {TENANTS}) t, generate_series(1, {ACCOUNTS_OF_OTHERS}) g;
             SET ROLE tenantry_owner;
             SELECT tenantry.cover(('pgbench_' || name)::regclass)
                 FROM unnest(ARRAY['branches', 'tellers', 'accounts', 'history']) name;
             RESET ROLE;"
        );
        script += BIND_FUNCTION;
    }
    client
        .batch_execute(&script)
        .await
        .context("cannot make pgbench's tables")?;
    // Alone: it runs in no transaction.
    client
        .batch_execute("VACUUM ANALYZE")
        .await
        .context("cannot analyse pgbench's tables")?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}
