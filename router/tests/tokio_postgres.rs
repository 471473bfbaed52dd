//! tokio-postgres, unmodified, through the router: one connection for two tenants on two shards.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::{Setup, setup};
use futures_util::{SinkExt, TryStreamExt, future};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, NoTls, SimpleQueryMessage, Transaction};

const STORE: &str = "INSERT INTO stores (name, email) VALUES ($1, 'x@example.com') RETURNING id";
const ORDER: &str = "INSERT INTO orders (store_id, number, email, currency, subtotal, total) \
                     VALUES ($1, $2, 'x@example.com', 'EUR', 1, 2) RETURNING tenant_id";

/// Two tenants on two shards.
async fn two_tenants(setup: &Setup) -> [i64; 2] {
    setup.two_tenants().await.map(|id| id.parse().unwrap())
}

/// A transaction of the tenant.
async fn begin(client: &mut Client, tenant: i64) -> Transaction<'_> {
    let transaction = client.transaction().await.unwrap();
    let set = format!("SET LOCAL tenantry.tenant = '{tenant}'");
    transaction.batch_execute(&set).await.unwrap();
    transaction
}

async fn owners(transaction: &Transaction<'_>, table: &str) -> BTreeSet<i64> {
    let rows = transaction
        .query(&format!("SELECT tenant_id FROM {table}"), &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn code(error: &tokio_postgres::Error) -> &SqlState {
    error.code().unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn two_tenants_order_over_one_connection() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    let tenants = two_tenants(&setup).await;
    for round in 1..=3 {
        for tenant in tenants {
            let transaction = begin(&mut client, tenant).await;
            let row = transaction.query_one(STORE, &[&"shop"]).await.unwrap();
            let store: i64 = row.get(0);
            let row = transaction
                .query_one(ORDER, &[&store, &1_i64])
                .await
                .unwrap();
            assert_eq!(row.get::<_, i64>(0), tenant);
            transaction.commit().await.unwrap();

            let transaction = client.transaction().await.unwrap();
            let row = transaction
                .query_one(
                    "SELECT set_config('tenantry.tenant', $1, $2)",
                    &[&tenant.to_string(), &true],
                )
                .await
                .unwrap();
            assert_eq!(row.get::<_, String>(0), tenant.to_string());
            assert_eq!(owners(&transaction, "orders").await, [tenant].into());
            let row = transaction
                .query_one("SELECT count(*) FROM orders", &[])
                .await
                .unwrap();
            assert_eq!(row.get::<_, i64>(0), round);
        }
    }
    let error = client.query("SELECT * FROM orders", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::UNDEFINED_OBJECT);
}

#[tokio::test]
async fn a_prepared_statement_serves_both_tenants() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    let tenants = two_tenants(&setup).await;
    let insert = client.prepare(STORE).await.unwrap();
    assert_eq!(insert.params(), [Type::TEXT]);
    assert_eq!(insert.columns()[0].type_(), &Type::INT8);
    let select = client
        .prepare_typed(
            "SELECT tenant_id, $1 FROM stores WHERE name = $1",
            &[Type::TEXT],
        )
        .await
        .unwrap();
    for tenant in tenants.into_iter().chain(tenants) {
        let transaction = begin(&mut client, tenant).await;
        transaction.query_one(&insert, &[&"both"]).await.unwrap();
        let rows = transaction.query(&select, &[&"both"]).await.unwrap();
        assert!(rows.iter().all(|row| row.get::<_, i64>(0) == tenant));
        transaction.commit().await.unwrap();
    }
    drop((insert, select));
    // The Close messages of the dropped statements travel with the next one.
    client.query_one("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn statements_run_concurrently_in_one_pipeline() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    for tenant in two_tenants(&setup).await {
        let transaction = begin(&mut client, tenant).await;
        let row = transaction.query_one(STORE, &[&"shop"]).await.unwrap();
        let store: i64 = row.get(0);
        let insert = transaction.prepare(ORDER).await.unwrap();
        let numbers: Vec<i64> = (0..100).collect();
        let (transaction, insert) = (&transaction, &insert);
        let rows =
            future::try_join_all(numbers.iter().map(|number| async move {
                transaction.query_one(insert, &[&store, number]).await
            }))
            .await
            .unwrap();
        assert!(rows.iter().all(|row| row.get::<_, i64>(0) == tenant));
        let other = two_tenants(&setup).await.map(|id| id.to_string());
        let failed = future::join3(
            transaction.query_one(insert, &[&store, &500_i64]),
            transaction.query_one("SELECT 1 / $1", &[&0_i32]),
            transaction.query_one("SELECT $1", &[&other[0]]),
        )
        .await;
        assert!(failed.0.is_ok());
        assert_eq!(code(&failed.1.unwrap_err()), &SqlState::DIVISION_BY_ZERO);
        assert_eq!(
            code(&failed.2.unwrap_err()),
            &SqlState::IN_FAILED_SQL_TRANSACTION
        );
    }
}

#[tokio::test]
async fn errors_savepoints_and_rollbacks() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    for tenant in two_tenants(&setup).await {
        let mut transaction = begin(&mut client, tenant).await;
        let row = transaction.query_one(STORE, &[&"kept"]).await.unwrap();
        let store: i64 = row.get(0);
        transaction
            .query_one(ORDER, &[&store, &1_i64])
            .await
            .unwrap();
        let savepoint = transaction.savepoint("again").await.unwrap();
        let error = savepoint
            .query_one(ORDER, &[&store, &1_i64])
            .await
            .unwrap_err();
        assert_eq!(code(&error), &SqlState::UNIQUE_VIOLATION);
        savepoint.rollback().await.unwrap();
        assert_eq!(owners(&transaction, "orders").await, [tenant].into());
        transaction.commit().await.unwrap();

        let transaction = begin(&mut client, tenant).await;
        transaction.query_one(STORE, &[&"gone"]).await.unwrap();
        drop(transaction);
        let transaction = begin(&mut client, tenant).await;
        let row = transaction
            .query_one("SELECT array_agg(name) FROM stores", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, Vec<String>>(0), ["kept"]);
    }
    let error = client
        .batch_execute("SET tenantry.tenant = 'nobody'")
        .await
        .unwrap_err();
    assert_eq!(code(&error), &SqlState::INVALID_PARAMETER_VALUE);
    let error = client.prepare("SELECT nothing").await.unwrap_err();
    assert_eq!(code(&error), &SqlState::UNDEFINED_COLUMN);
    client.query_one("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn copy_in_and_out() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    for tenant in two_tenants(&setup).await {
        let transaction = begin(&mut client, tenant).await;
        let sink = transaction
            .copy_in("COPY events (kind, subject, subject_id) FROM STDIN")
            .await
            .unwrap();
        let mut sink = Box::pin(sink);
        for number in 0..5000 {
            let line = format!("view\tproduct\t{number}\n");
            sink.send(Bytes::from(line)).await.unwrap();
        }
        assert_eq!(sink.as_mut().finish().await.unwrap(), 5000);
        let chunks: Vec<Bytes> = transaction
            .copy_out("COPY (SELECT tenant_id FROM events) TO STDOUT")
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let text = String::from_utf8(chunks.concat()).unwrap();
        let seen: BTreeSet<&str> = text.lines().collect();
        assert_eq!(
            (text.lines().count(), seen),
            (5000, [tenant.to_string().as_str()].into())
        );

        // Dropped before its end: the driver sends CopyFail.
        let sink = transaction
            .copy_in::<_, Bytes>("COPY events (kind, subject) FROM STDIN")
            .await
            .unwrap();
        drop(sink);
        let error = transaction.query("SELECT 1", &[]).await.unwrap_err();
        assert_eq!(code(&error), &SqlState::IN_FAILED_SQL_TRANSACTION);
    }
}

#[tokio::test]
async fn portals_are_read_in_pieces() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    for tenant in two_tenants(&setup).await {
        let transaction = begin(&mut client, tenant).await;
        let numbers = "SELECT generate_series(1, $1)";
        let portal = transaction.bind(numbers, &[&250_i32]).await.unwrap();
        let other = transaction.bind(numbers, &[&3_i32]).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 100).await.unwrap();
            if rows.is_empty() {
                break;
            }
            seen.push(rows.len());
        }
        assert_eq!(seen, [100, 100, 50]);
        assert_eq!(transaction.query_portal(&other, 0).await.unwrap().len(), 3);
        assert!(owners(&transaction, "orders").await.is_empty());
    }
}

#[tokio::test]
async fn a_cancel_hits_its_own_statement_only() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    let mut busy = setup.client("shop").await;
    for tenant in two_tenants(&setup).await {
        let token = client.cancel_token();
        let other = begin(&mut busy, tenant).await;
        let transaction = begin(&mut client, tenant).await;
        let sleep = transaction.query("SELECT pg_sleep(60)", &[]);
        let cancel = async {
            // Until the sleep has begun there is nothing to cancel.
            let shard = setup.fleet.shard_of(setup.tenant(0)).await.unwrap();
            let admin = shard.admin().await.unwrap();
            let running = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
            while admin.query(running, &[]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            token.cancel_query(NoTls).await.unwrap();
        };
        let (slept, ()) = future::join(sleep, cancel).await;
        assert_eq!(code(&slept.unwrap_err()), &SqlState::QUERY_CANCELED);
        transaction.rollback().await.unwrap();
        other.query_one("SELECT 1", &[]).await.unwrap();
        let transaction = begin(&mut client, tenant).await;
        assert!(owners(&transaction, "orders").await.is_empty());
    }
}

#[tokio::test]
async fn modes_of_transactions_and_types_of_the_catalog() {
    let setup = setup().await;
    let mut client = setup.client("shop").await;
    let [tenant, _] = two_tenants(&setup).await;
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .read_only(true)
        .deferrable(true)
        .start()
        .await
        .unwrap();
    let set = format!("SET LOCAL tenantry.tenant = '{tenant}'");
    transaction.batch_execute(&set).await.unwrap();
    let row = transaction
        .query_one("SHOW transaction_isolation", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "serializable");
    let error = transaction.query(STORE, &[&"x"]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::READ_ONLY_SQL_TRANSACTION);
    drop(transaction);
    // A row type: the driver looks it up, column by column, by statements of its own.
    for _ in 0..3 {
        let statement = client.prepare("SELECT NULL::stores").await.unwrap();
        assert_eq!(statement.columns()[0].type_().name(), "stores");
    }
}

#[tokio::test]
async fn simple_queries_show_every_result() {
    let setup = setup().await;
    let client = setup.client("shop").await;
    let tenants = two_tenants(&setup).await;
    let text: String = tenants
        .iter()
        .map(|id| {
            format!("BEGIN; SET LOCAL tenantry.tenant = '{id}'; SHOW tenantry.tenant; COMMIT; ")
        })
        .collect();
    let rows: Vec<String> = client
        .simple_query(&text)
        .await
        .unwrap()
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    assert_eq!(rows, tenants.map(|id| id.to_string()));
}
