//! Living with the guard: plans, ids, COPY, locks, notifications, cascades.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::future::poll_fn;

use common::{Fixture, SHARD, code, stock, text};
use futures_util::SinkExt as _;
use tenantry_schema::guard::role;
use tenantry_schema::tenant::TenantKey;
use tokio_postgres::{AsyncMessage, Client, NoTls};

async fn plan(client: &Client, sql: &str) -> String {
    let rows = client
        .query(&format!("EXPLAIN (COSTS OFF) {sql}"), &[])
        .await
        .unwrap();
    rows.iter()
        .map(|row| row.get::<_, String>(0) + "\n")
        .collect()
}

/// A shard whose tenant 1 has enough products for indexes to matter, among others'.
async fn stocked() -> (Fixture, Client) {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1", "2"]).await;
    for tenant in ["1", "2"] {
        let client = fixture.tenant(tenant).await;
        client
            .batch_execute(
                "WITH store AS (INSERT INTO stores (name, email) VALUES ('s', 's') RETURNING id)
                 INSERT INTO products (store_id, handle, title, tags, metafields)
                 SELECT id, 'p' || n, 'word' || n, ARRAY['tag' || n % 500], jsonb_build_object('k', n)
                 FROM store, generate_series(1, 5000) n",
            )
            .await
            .unwrap();
    }
    fixture
        .admin()
        .await
        .batch_execute("ANALYZE")
        .await
        .unwrap();
    let client = fixture.tenant("1").await;
    (fixture, client)
}

#[tokio::test]
async fn the_tenant_is_computed_once_per_reference() {
    let (_fixture, client) = stocked().await;
    let plan = plan(&client, "SELECT * FROM products WHERE id = 1").await;
    assert_eq!(plan.matches("InitPlan").count(), 1, "{plan}");
    assert!(plan.contains("Index Scan using products_pkey"), "{plan}");
    assert!(
        plan.contains("Index Cond: ((tenant_id = $0) AND (id = 1))"),
        "{plan}"
    );
}

#[tokio::test]
async fn large_scans_stay_parallel() {
    let (_fixture, client) = stocked().await;
    client
        .batch_execute(
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
             SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off",
        )
        .await
        .unwrap();
    let sql = "SELECT count(*) FROM products WHERE length(description) = 0";
    assert!(plan(&client, sql).await.contains("Parallel Seq Scan"));
    assert_eq!(text(&client, sql).await, "5000");
}

#[tokio::test]
async fn reviewed_operators_use_their_indexes() {
    let (fixture, client) = stocked().await;
    client
        .batch_execute("SET enable_seqscan = off")
        .await
        .unwrap();
    for (sql, index) in [
        (
            "SELECT * FROM products WHERE search @@ to_tsquery('simple', 'word77')",
            "products_search",
        ),
        (
            "SELECT * FROM products WHERE tags @> ARRAY['tag7']",
            "products_tags",
        ),
        (
            "SELECT * FROM products WHERE metafields @> '{\"k\": 7}'",
            "products_metafields",
        ),
    ] {
        let plan = plan(&client, sql).await;
        assert!(
            plan.contains(&format!("Bitmap Index Scan on {index}")),
            "{plan}"
        );
    }
    // Without the mark the policy keeps the index out.
    let admin = fixture.admin().await;
    admin
        .batch_execute("ALTER FUNCTION ts_match_vq NOT LEAKPROOF")
        .await
        .unwrap();
    let plan = plan(
        &client,
        "SELECT * FROM products WHERE search @@ to_tsquery('simple', 'word77')",
    )
    .await;
    assert!(!plan.contains("products_search"), "{plan}");
}

#[tokio::test]
async fn ids_are_unique_ordered_and_name_their_shard() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let client = fixture.app().await;
        tasks.push(tokio::spawn(async move {
            let sql = "SELECT tenantry.next_id() FROM generate_series(1, 5000)";
            let rows = client.query(sql, &[]).await.unwrap();
            rows.iter()
                .map(|row| row.get::<_, i64>(0))
                .collect::<Vec<_>>()
        }));
    }
    let mut all = HashSet::new();
    for task in tasks {
        let ids = task.await.unwrap();
        assert!(ids.is_sorted());
        all.extend(ids);
    }
    assert_eq!(all.len(), 20_000);
    let agent = fixture.agent().await;
    let now: f64 = text(
        &agent,
        "SELECT extract(epoch FROM clock_timestamp()) * 1000 - 1735689600000",
    )
    .await
    .parse()
    .unwrap();
    for id in &all {
        assert!(*id > 0);
        assert_eq!((id >> 10) & 4095, i64::from(SHARD));
        assert!(((id >> 22) as f64 - now).abs() < 60_000.0, "{id}");
    }

    // A clock that is behind what was given out repeats nothing: the last id counts on.
    let last = *all.iter().max().unwrap();
    let ahead = (now as i64 + 3_600_000) << 10 | 1022;
    agent
        .batch_execute(&format!("SELECT setval('tenantry.id_clock', {ahead})"))
        .await
        .unwrap();
    let rows = agent
        .query(
            "SELECT tenantry.next_id() FROM generate_series(1, 3000)",
            &[],
        )
        .await
        .unwrap();
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert!(ids.is_sorted_by(|a, b| a < b) && ids[0] > last);
    assert_eq!(ids[2999] >> 22, (ahead + 3000) >> 10);
}

#[tokio::test]
async fn a_failed_id_leaves_no_lock_behind() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let (client, other) = (fixture.app().await, fixture.app().await);
    // The sequence runs out with the lock held.
    let admin = fixture.admin().await;
    admin.batch_execute("ALTER SEQUENCE tenantry.id_clock MAXVALUE 1000 RESTART 1000; SELECT nextval('tenantry.id_clock')").await.unwrap();
    assert_eq!(code(&client, "SELECT tenantry.next_id()").await, "2200H");
    admin
        .batch_execute("ALTER SEQUENCE tenantry.id_clock NO MAXVALUE")
        .await
        .unwrap();
    other
        .batch_execute("SET statement_timeout = '5s'")
        .await
        .unwrap();
    assert_eq!(code(&other, "SELECT tenantry.next_id()").await, "");
}

#[tokio::test]
async fn copy_as_the_copying_role_takes_the_tenants_rows_only() {
    for (key, own, other) in [
        (TenantKey::Bigint, "1", "2"),
        (
            TenantKey::Uuid,
            "00000000-0000-7000-8000-000000000001",
            "ffffffff-ffff-7fff-bfff-fffffffffff1",
        ),
    ] {
        let fixture = Fixture::start(key).await;
        fixture.admit(&[own, other]).await;
        for tenant in [own, other] {
            let client = fixture.tenant(tenant).await;
            // The default fills the column, and a row that names the tenant is taken as well.
            copy(
                &client,
                "COPY events (kind, subject) FROM STDIN",
                "view\tcart\nview\tcart\n",
            )
            .await
            .unwrap();
            let row = format!("{tenant}\tview\tcart\n");
            copy(
                &client,
                "COPY events (tenant_id, kind, subject) FROM STDIN",
                &row,
            )
            .await
            .unwrap();
            assert_eq!(text(&client, "SELECT count(*) FROM events").await, "3");
        }
        let client = fixture.tenant(own).await;
        for (row, expected) in [
            (format!("{other}\tx\tx\n"), "42501"),
            (format!("{own}\tx\tx\n{other}\tx\tx\n"), "42501"),
        ] {
            let error = copy(
                &client,
                "COPY events (tenant_id, kind, subject) FROM STDIN",
                &row,
            )
            .await
            .unwrap_err();
            assert_eq!(error.code().unwrap().code(), expected);
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        common::set(&client, "").await;
        let error = copy(
            &client,
            "COPY events (tenant_id, kind, subject) FROM STDIN",
            &format!("{own}\tx\tx\n"),
        )
        .await
        .unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42704");
    }
}

async fn copy(client: &Client, sql: &str, rows: &str) -> Result<(), tokio_postgres::Error> {
    client
        .batch_execute("BEGIN; SET LOCAL ROLE tenantry_copy")
        .await?;
    let sink = client.copy_in::<_, bytes::Bytes>(sql).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(rows.to_owned().into()).await?;
    sink.finish().await?;
    client.batch_execute("COMMIT").await
}

#[tokio::test]
async fn cascades_and_foreign_keys_hold_under_forced_row_security() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1", "2"]).await;
    let (one, two) = (fixture.tenant("1").await, fixture.tenant("2").await);
    stock(&one, "acme").await;
    stock(&two, "other").await;
    one.batch_execute("DELETE FROM stores").await.unwrap();
    assert_eq!(text(&one, "SELECT count(*) FROM products").await, "0");
    assert_eq!(text(&two, "SELECT count(*) FROM products").await, "1");

    let agent = fixture.agent().await;
    agent
        .batch_execute("DELETE FROM stores WHERE tenant_id = 2")
        .await
        .unwrap();
    assert_eq!(text(&two, "SELECT count(*) FROM products").await, "0");
    assert_eq!(
        code(
            &two,
            "INSERT INTO products (store_id, handle, title) VALUES (1, 'x', 'x')"
        )
        .await,
        "23503"
    );
}

#[tokio::test]
async fn advisory_locks_are_per_tenant_and_work_within_one() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1", "2"]).await;
    let (one, again, two) = (
        fixture.tenant("1").await,
        fixture.tenant("1").await,
        fixture.tenant("2").await,
    );
    for (lock, attempt, unlock) in [
        (
            "tenantry.pg_advisory_lock(7)",
            "tenantry.pg_try_advisory_lock(7)",
            "tenantry.pg_advisory_unlock(7)",
        ),
        (
            "tenantry.pg_advisory_lock(7, 8)",
            "tenantry.pg_try_advisory_lock_shared(7, 8)",
            "tenantry.pg_advisory_unlock(7, 8)",
        ),
    ] {
        one.batch_execute(&format!("SELECT {lock}")).await.unwrap();
        assert_eq!(text(&again, &format!("SELECT {attempt}")).await, "false");
        assert_eq!(text(&two, &format!("SELECT {attempt}")).await, "true");
        assert_eq!(text(&one, &format!("SELECT {unlock}")).await, "true");
        assert_eq!(text(&again, &format!("SELECT {attempt}")).await, "true");
    }
    one.batch_execute("BEGIN; SELECT tenantry.pg_advisory_xact_lock(9)")
        .await
        .unwrap();
    assert_eq!(
        text(&again, "SELECT tenantry.pg_try_advisory_xact_lock(9)").await,
        "false"
    );
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        text(&again, "SELECT tenantry.pg_try_advisory_xact_lock(9)").await,
        "true"
    );
}

#[tokio::test]
async fn notifications_reach_the_tenant_only() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1", "2"]).await;
    let password = fixture.secrets.passwords.app.expose();
    let config = fixture.server.config_as(role::APP, password, "shard");
    let (listener, mut connection) = config.connect(NoTls).await.unwrap();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
    });
    fixture.bind(&listener, "1").await;
    let channel = text(&listener, "SELECT tenantry.channel('orders')").await;
    listener
        .batch_execute(&format!("LISTEN {channel}"))
        .await
        .unwrap();

    let (one, two) = (fixture.tenant("1").await, fixture.tenant("2").await);
    for (client, name) in [(&two, "orders"), (&one, "carts")] {
        let other = format!("SELECT tenantry.channel('{name}')");
        assert_ne!(text(client, &other).await, channel);
    }
    two.batch_execute("SELECT tenantry.pg_notify('orders', 'from two')")
        .await
        .unwrap();
    one.batch_execute("SELECT tenantry.pg_notify('orders', 'from one')")
        .await
        .unwrap();
    assert_eq!(received.recv().await.unwrap(), "from one");
    assert_eq!(
        code(&one, "SELECT tenantry.pg_notify('', 'x')").await,
        "22023"
    );
}

#[tokio::test]
async fn operators_see_all_rows_and_no_secrets() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1"]).await;
    stock(&fixture.tenant("1").await, "acme").await;
    let operator = fixture.operator().await;
    assert_eq!(text(&operator, "SELECT count(*) FROM products").await, "1");
    assert_eq!(
        code(&operator, "UPDATE products SET title = 'fixed'").await,
        ""
    );
    for sql in [
        "SELECT FROM tenantry.guard_key",
        "SELECT FROM tenantry.shard",
        "DROP TABLE events",
        "TRUNCATE events",
        "UPDATE tenantry.owner SET epoch = 9",
    ] {
        assert_eq!(code(&operator, sql).await, "42501", "{sql}");
    }
    tenantry_shard_agent::verify(&operator).await.unwrap();
}

#[tokio::test]
async fn reference_tables_are_read_by_all_and_written_by_none() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1"]).await;
    let agent = fixture.agent().await;
    agent
        .batch_execute(
            "SET ROLE tenantry_owner; CREATE TABLE currencies (code text PRIMARY KEY);
             INSERT INTO currencies VALUES ('EUR'); SELECT tenantry.cover_reference('currencies')",
        )
        .await
        .unwrap();
    let client = fixture.tenant("1").await;
    assert_eq!(text(&client, "SELECT code FROM currencies").await, "EUR");
    assert_eq!(code(&client, "DELETE FROM currencies").await, "42501");
    assert_eq!(
        code(&agent, "SELECT tenantry.cover('currencies')").await,
        "42P17"
    );
}
