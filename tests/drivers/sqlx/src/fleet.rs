//! Where the fleet is, and whose orders are made.

use std::fs::File;
use std::io::BufReader;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Executor, Postgres, Transaction};

const STORE: &str = "INSERT INTO stores (name, email) VALUES ($1, 'shop@example.com') RETURNING id";
const ORDER: &str = "INSERT INTO orders (store_id, number, email, currency, subtotal, total)
                     VALUES ($1, $2, $3, 'EUR', 1000, 1190) RETURNING tenant_id";
/// All orders that are visible must be the tenant's; those of this run are told by their address.
const SEEN: &str =
    "SELECT array_agg(DISTINCT tenant_id), count(*) FILTER (WHERE email = $1) FROM orders";

pub(crate) struct Fleet {
    pub(crate) url: String,
    /// A role of one tenant, which can act for no other: tenant a's.
    pub(crate) tenant_role_url: String,
    /// What docs/drivers.md shows: the first URL names no tenant, the others name `b`.
    pub(crate) documented: Vec<String>,
    pub(crate) tenants: Vec<i64>,
    /// With `b` on another shard: one connection of the client is served by two servers.
    pub(crate) a: i64,
    pub(crate) b: i64,
    run: u128,
}

impl Fleet {
    pub(crate) fn read(demo: &str, documented: &str) -> Result<Self> {
        let demo = json(demo)?;
        let documented = &json(documented)?["sqlx"]["urls"];
        let tenants = demo["tenants"].as_array().context("no tenants")?;
        let first = tenants.first().context("no tenant")?;
        let other = tenants
            .iter()
            .find(|tenant| tenant["shard"] != first["shard"]);
        let id = |tenant: &Value| anyhow::Ok(text(&tenant["id"])?.parse::<i64>()?);
        Ok(Self {
            url: text(&demo["urls"]["service"])?,
            tenant_role_url: text(&demo["urls"]["tenant"])?,
            documented: documented
                .as_array()
                .context("no URLs")?
                .iter()
                .map(text)
                .collect::<Result<_>>()?,
            a: id(first)?,
            b: id(other.context("all tenants are on one shard")?)?,
            tenants: tenants.iter().map(id).collect::<Result<_>>()?,
            run: std::time::UNIX_EPOCH.elapsed()?.as_nanos(),
        })
    }

    pub(crate) fn email(&self, name: &str) -> String {
        format!("{name}-{}@example.com", self.run)
    }

    pub(crate) fn options(&self) -> Result<PgConnectOptions> {
        Ok(self.url.parse()?)
    }

    /// A pool of so many connections.
    pub(crate) async fn pool(&self, size: u32) -> Result<PgPool> {
        pool_of(size, self.options()?).await
    }
}

pub(crate) async fn pool_of(size: u32, options: PgConnectOptions) -> Result<PgPool> {
    Ok(PgPoolOptions::new()
        .max_connections(size)
        .connect_with(options)
        .await?)
}

/// A transaction of the tenant.
pub(crate) async fn begin(pool: &PgPool, tenant: i64) -> Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT set_config('tenantry.tenant', $1, true)")
        .bind(tenant.to_string())
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

pub(crate) async fn make_store(
    on: impl Executor<'_, Database = Postgres>,
    address: &str,
) -> Result<i64> {
    Ok(sqlx::query_scalar(STORE)
        .bind(address)
        .fetch_one(on)
        .await?)
}

/// Makes an order and answers whose it is.
pub(crate) async fn make_order(
    on: impl Executor<'_, Database = Postgres>,
    store: i64,
    number: i64,
    address: &str,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(ORDER)
        .bind(store)
        .bind(number)
        .bind(address)
        .fetch_one(on)
        .await
}

pub(crate) async fn tenants_of(
    on: impl Executor<'_, Database = Postgres>,
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT DISTINCT tenant_id FROM stores")
        .fetch_all(on)
        .await
}

pub(crate) async fn expect_only_own(
    on: impl Executor<'_, Database = Postgres>,
    tenant: i64,
    address: &str,
    count: i64,
) -> Result<()> {
    let seen: (Vec<i64>, i64) = sqlx::query_as(SEEN).bind(address).fetch_one(on).await?;
    ensure!(
        seen == (vec![tenant], count),
        "tenant {tenant} sees {seen:?}, not {count} of its own"
    );
    Ok(())
}

/// The outcome must be an error with this SQLSTATE.
pub(crate) fn expect_error<T: std::fmt::Debug>(
    state: &str,
    outcome: Result<T, sqlx::Error>,
) -> Result<()> {
    match outcome {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(state) => Ok(()),
        other => anyhow::bail!("wanted the error {state}, got {other:?}"),
    }
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("no text")?.to_owned())
}

fn json(path: &str) -> Result<Value> {
    let file = File::open(path).with_context(|| format!("{path} cannot be read"))?;
    Ok(serde_json::from_reader(BufReader::new(file))?)
}
