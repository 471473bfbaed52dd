//! The checks, each with connections of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use serde_json::json;
use sqlx::postgres::{PgPoolCopyExt as _, PgPoolOptions};
use sqlx::types::Json;
use sqlx::{Acquire, Column, Executor, Row};

use crate::fleet::{
    Fleet, begin, expect_error, expect_only_own, make_order, make_store, pool_of, tenants_of,
};

pub(crate) async fn documented_urls(fleet: &Fleet) -> Result<()> {
    let Some((service, named)) = fleet.documented.split_first() else {
        anyhow::bail!("no URL is documented");
    };
    let pool = pool_of(1, service.parse()?).await?;
    let mut transaction = begin(&pool, fleet.a).await?;
    ensure!(tenants_of(&mut *transaction).await? == [fleet.a]);
    ensure!(!named.is_empty(), "no URL names a tenant");
    for url in named {
        let pool = pool_of(1, url.parse()?).await?;
        let seen = tenants_of(&pool).await?;
        ensure!(seen == [fleet.b], "{url} sees {seen:?}");
    }
    Ok(())
}

pub(crate) async fn tenant_role(fleet: &Fleet) -> Result<()> {
    let pool = pool_of(1, fleet.tenant_role_url.parse()?).await?;
    ensure!(tenants_of(&pool).await? == [fleet.a]);
    let switch =
        sqlx::query("SELECT set_config('tenantry.tenant', $1, false)").bind(fleet.b.to_string());
    expect_error("42501", switch.execute(&pool).await)?;
    ensure!(tenants_of(&pool).await? == [fleet.a]);
    Ok(())
}

pub(crate) async fn two_tenants(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("pool");
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        let store = make_store(&mut *transaction, &address).await?;
        for number in 1..=2 {
            ensure!(make_order(&mut *transaction, store, number, &address).await? == tenant);
        }
        transaction.commit().await?;
    }
    for tenant in [fleet.b, fleet.a, fleet.b] {
        let mut transaction = pool.begin().await?;
        let set = format!("SET LOCAL tenantry.tenant = '{tenant}'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(set))
            .execute(&mut *transaction)
            .await?;
        expect_only_own(&mut *transaction, tenant, &address, 2).await?;
        transaction.commit().await?;
    }
    expect_error("42704", tenants_of(&pool).await)
}

pub(crate) async fn tenant_as_made(fleet: &Fleet) -> Result<()> {
    let tenant = fleet.b.to_string();
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .after_connect(move |connection, _meta| {
            let set =
                sqlx::query("SELECT set_config('tenantry.tenant', $1, false)").bind(tenant.clone());
            Box::pin(async move { set.execute(connection).await.map(drop) })
        })
        .connect_with(fleet.options()?)
        .await?;
    let seen = try_join_all((0..6).map(|_| tenants_of(&pool))).await?;
    ensure!(seen.iter().all(|seen| *seen == [fleet.b]), "{seen:?}");
    Ok(())
}

pub(crate) async fn foreign_rows(fleet: &Fleet) -> Result<()> {
    let pool = fleet.pool(1).await?;
    let mut transaction = begin(&pool, fleet.a).await?;
    let store = make_store(&mut *transaction, &fleet.email("foreign")).await?;
    transaction.commit().await?;
    let mut transaction = begin(&pool, fleet.b).await?;
    let read = sqlx::query("SELECT FROM stores WHERE id = $1").bind(store);
    ensure!(read.fetch_optional(&mut *transaction).await?.is_none());
    let write = sqlx::query("UPDATE stores SET name = 'taken' WHERE id = $1").bind(store);
    ensure!(write.execute(&mut *transaction).await?.rows_affected() == 0);
    let insert = sqlx::query("INSERT INTO stores (tenant_id, name, email) VALUES ($1, 'x', 'x')")
        .bind(fleet.a);
    expect_error("42501", insert.execute(&mut *transaction).await)
}

pub(crate) async fn cached_statements(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("cached");
    let pool = fleet.pool(1).await?;
    for round in 0..4 {
        for tenant in [fleet.a, fleet.b] {
            let mut transaction = begin(&pool, tenant).await?;
            let store = make_store(&mut *transaction, &address).await?;
            ensure!(make_order(&mut *transaction, store, round, &address).await? == tenant);
            transaction.commit().await?;
        }
    }
    for tenant in [fleet.a, fleet.b] {
        expect_only_own(&mut *begin(&pool, tenant).await?, tenant, &address, 4).await?;
        // More than the driver keeps: it closes the oldest.
        let mut transaction = begin(&pool, tenant).await?;
        for number in 0..150 {
            let text = sqlx::AssertSqlSafe(format!("SELECT {number} + $1"));
            let sum: i32 = sqlx::query_scalar(text)
                .bind(1)
                .fetch_one(&mut *transaction)
                .await?;
            ensure!(sum == number + 1);
        }
    }
    Ok(())
}

pub(crate) async fn uncached_statements(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("uncached");
    let pool = pool_of(1, fleet.options()?.statement_cache_capacity(0)).await?;
    for tenant in [fleet.a, fleet.b, fleet.a] {
        let mut transaction = begin(&pool, tenant).await?;
        let store = make_store(&mut *transaction, &address).await?;
        make_order(&mut *transaction, store, 1, &address).await?;
        let seen: Vec<i64> =
            sqlx::query_scalar("SELECT DISTINCT tenant_id FROM orders WHERE email = $1")
                .bind(&address)
                .persistent(false)
                .fetch_all(&mut *transaction)
                .await?;
        ensure!(seen == [tenant]);
        transaction.commit().await?;
    }
    Ok(())
}

pub(crate) async fn unique_violation(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("savepoint");
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        let store = make_store(&mut *transaction, &address).await?;
        make_order(&mut *transaction, store, 1, &address).await?;
        let mut savepoint = transaction.begin().await?;
        expect_error(
            "23505",
            make_order(&mut *savepoint, store, 1, &address).await,
        )?;
        savepoint.rollback().await?;
        make_order(&mut *transaction, store, 2, &address).await?;
        expect_only_own(&mut *transaction, tenant, &address, 2).await?;
        transaction.commit().await?;
    }
    Ok(())
}

pub(crate) async fn failed_transaction(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("error");
    let pool = fleet.pool(1).await?;
    let mut transaction = begin(&pool, fleet.a).await?;
    make_store(&mut *transaction, &address).await?;
    let divide = sqlx::query("SELECT 1 / $1")
        .bind(0)
        .execute(&mut *transaction)
        .await;
    expect_error("22012", divide)?;
    expect_error("25P02", tenants_of(&mut *transaction).await)?;
    transaction.rollback().await?;
    let mut transaction = begin(&pool, fleet.a).await?;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM stores WHERE name = $1")
        .bind(&address)
        .fetch_one(&mut *transaction)
        .await?;
    ensure!(kept == 0);
    transaction.commit().await?;
    let unknown = sqlx::query("SELECT set_config('tenantry.tenant', 'no-such-store', false)")
        .execute(&pool)
        .await;
    expect_error("22023", unknown)?;
    expect_error(
        "42703",
        sqlx::query("SELECT no_such_column").execute(&pool).await,
    )?;
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&pool).await?;
    ensure!(one == 1);
    Ok(())
}

pub(crate) async fn dropped_transaction(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("dropped");
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        let store = make_store(&mut *transaction, &address).await?;
        make_order(&mut *transaction, store, 1, &address).await?;
        drop(transaction);
        expect_only_own(&mut *begin(&pool, tenant).await?, tenant, &address, 0).await?;
    }
    Ok(())
}

pub(crate) async fn dropped_query(fleet: &Fleet) -> Result<()> {
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        let sleep = sqlx::query("SELECT pg_sleep(1), 'late'").execute(&mut *transaction);
        ensure!(
            tokio::time::timeout(Duration::from_millis(200), sleep)
                .await
                .is_err()
        );
        drop(transaction);
        // The same connection: the driver reads what is left of the sleep's answer first.
        ensure!(tenants_of(&mut *begin(&pool, tenant).await?).await? == [tenant]);
    }
    Ok(())
}

pub(crate) async fn statement_timeout(fleet: &Fleet) -> Result<()> {
    let pool = pool_of(1, fleet.options()?.options([("statement_timeout", "250")])).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        expect_error("57014", transaction.execute("SELECT pg_sleep(30)").await)?;
        transaction.rollback().await?;
        let mut transaction = begin(&pool, tenant).await?;
        ensure!(tenants_of(&mut *transaction).await? == [tenant]);
        let shown: String = sqlx::query_scalar("SHOW statement_timeout")
            .fetch_one(&mut *transaction)
            .await?;
        ensure!(shown == "250ms", "{shown}");
    }
    Ok(())
}

pub(crate) async fn copy(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("copy");
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        let mut into = transaction
            .copy_in_raw("COPY events (kind, subject) FROM STDIN")
            .await?;
        for _ in 0..30 {
            into.send(format!("view\t{address}\n").repeat(100).as_bytes())
                .await?;
        }
        ensure!(into.finish().await? == 3000);
        let query =
            format!("COPY (SELECT tenant_id FROM events WHERE subject = '{address}') TO STDOUT");
        let chunks: Vec<_> = transaction
            .copy_out_raw(&query)
            .await?
            .try_collect()
            .await?;
        let text = String::from_utf8(chunks.concat())?;
        let owners: BTreeSet<&str> = text.lines().collect();
        ensure!(
            text.lines().count() == 3000 && owners == [tenant.to_string().as_str()].into(),
            "{owners:?}"
        );
        transaction.commit().await?;
    }
    // By the pool itself there is no transaction around it, and so no tenant.
    let unbound = pool
        .copy_in_raw("COPY events (kind, subject) FROM STDIN")
        .await;
    let unbound = match unbound {
        Ok(mut into) => match into.send("view\tx\n".as_bytes()).await {
            Ok(_) => into.finish().await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    expect_error("42704", unbound)
}

pub(crate) async fn failed_copy(fleet: &Fleet) -> Result<()> {
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let other = if tenant == fleet.a { fleet.b } else { fleet.a };
        for (state, line) in [
            ("22P02", "no number\tx\tx\n".to_owned()),
            ("42501", format!("{other}\tx\tx\n")),
        ] {
            let mut transaction = begin(&pool, tenant).await?;
            let mut into = transaction
                .copy_in_raw("COPY stores (tenant_id, name, email) FROM STDIN")
                .await?;
            into.send(line.as_bytes()).await?;
            expect_error(state, into.finish().await)?;
            transaction.rollback().await?;
        }
        let mut transaction = begin(&pool, tenant).await?;
        let mut into = transaction
            .copy_in_raw("COPY stores (name, email) FROM STDIN")
            .await?;
        into.send("half\tx\n".as_bytes()).await?;
        into.abort("changed its mind").await?;
        transaction.rollback().await?;
        let mut transaction = begin(&pool, tenant).await?;
        let mut into = transaction
            .copy_in_raw("COPY stores (name, email) FROM STDIN")
            .await?;
        into.send("half\tx\n".as_bytes()).await?;
        drop(into);
        drop(transaction);
        ensure!(tenants_of(&mut *begin(&pool, tenant).await?).await? == [tenant]);
    }
    Ok(())
}

pub(crate) async fn streams(fleet: &Fleet) -> Result<()> {
    let pool = fleet.pool(1).await?;
    let mut transaction = begin(&pool, fleet.a).await?;
    let numbers = sqlx::query_scalar("SELECT * FROM generate_series(1, $1)").bind(5000);
    let total = numbers
        .fetch(&mut *transaction)
        .try_fold(0_i64, async |sum, n: i32| Ok(sum + i64::from(n)))
        .await?;
    ensure!(total == 5000 * 5001 / 2);
    // What is not read of a stream is read before the next statement.
    let mut stream = sqlx::query("SELECT generate_series(1, 5000)").fetch(&mut *transaction);
    ensure!(stream.try_next().await?.is_some());
    drop(stream);
    ensure!(tenants_of(&mut *transaction).await? == [fleet.a]);
    transaction.commit().await?;
    let text = format!(
        "BEGIN; SET LOCAL tenantry.tenant = '{}'; SELECT DISTINCT tenant_id FROM stores; COMMIT; SELECT 2::bigint",
        fleet.b
    );
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .fetch_all(&pool)
        .await?;
    let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(values == [fleet.b, 2], "{values:?}");
    Ok(())
}

pub(crate) async fn types(fleet: &Fleet) -> Result<()> {
    let pool = fleet.pool(1).await?;
    for tenant in [fleet.a, fleet.b] {
        let mut transaction = begin(&pool, tenant).await?;
        let row = sqlx::query(
            "INSERT INTO customers (store_id, email, tags, metafields) SELECT id, $1, $2, $3 FROM stores LIMIT 1
             RETURNING tenant_id, tags, metafields",
        )
        .bind(fleet.email("types"))
        .bind(vec!["a", "b"])
        .bind(Json(json!({"size": [1, 2]})))
        .fetch_one(&mut *transaction)
        .await?;
        ensure!(row.try_get::<i64, _>(0)? == tenant);
        ensure!(row.try_get::<Vec<String>, _>(1)? == ["a", "b"]);
        ensure!(row.try_get::<Json<serde_json::Value>, _>(2)?.0 == json!({"size": [1, 2]}));
        // A row type is unknown to the driver, which asks the catalog.
        let row = sqlx::query("SELECT stores FROM stores LIMIT 1")
            .fetch_one(&mut *transaction)
            .await?;
        ensure!(row.columns()[0].name() == "stores");
        let statement = transaction
            .prepare(sqlx::SqlStr::from_static(
                "SELECT id, name FROM stores WHERE id = $1",
            ))
            .await?;
        let names: Vec<&str> = sqlx::Statement::columns(&statement)
            .iter()
            .map(Column::name)
            .collect();
        ensure!(names == ["id", "name"], "{names:?}");
    }
    Ok(())
}

pub(crate) async fn many_tasks(fleet: &Fleet) -> Result<()> {
    let address = fleet.email("tasks");
    let pool = fleet.pool(4).await?;
    let (address, pool) = (&address, &pool);
    let buy = async |tenant: i64| -> Result<()> {
        let mut transaction = begin(pool, tenant).await?;
        let store = make_store(&mut *transaction, address).await?;
        ensure!(make_order(&mut *transaction, store, 1, address).await? == tenant);
        transaction.commit().await?;
        Ok(())
    };
    let buyers = (0..100).map(|number| buy(fleet.tenants[number % fleet.tenants.len()]));
    try_join_all(buyers).await?;
    for &tenant in &fleet.tenants {
        let each = 100 / i64::try_from(fleet.tenants.len())?;
        expect_only_own(&mut *begin(pool, tenant).await?, tenant, address, each).await?;
    }
    Ok(())
}
