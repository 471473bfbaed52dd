//! sqlx, unmodified, through the router: its pool, its cache of statements, COPY, and futures that are dropped.
//!
//! usage: tenantry-sqlx-checks DEMO.JSON DOCUMENTED.JSON, where documented.py wrote the second. Prints a line per check.

mod checks;
mod fleet;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::fleet::Fleet;

/// Longest time of one check: a statement that is never answered is a failure and not the end of all.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// Runs one check and prints its line.
async fn check(name: &str, body: impl Future<Output = Result<()>>) {
    let outcome = tokio::time::timeout(CHECK_TIME, body).await;
    match outcome.context("is not done after a minute").flatten() {
        Ok(()) => println!("ok      sqlx: {name}"),
        Err(error) => {
            let text = format!("{error:#}");
            let words: Vec<&str> = text.split_whitespace().collect();
            println!("FAILED  sqlx: {name}: {}", words.join(" "));
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (demo, documented) = (arguments.next(), arguments.next());
    let fleet = Fleet::read(
        &demo.context("the first argument names demo.json")?,
        &documented.context("the second argument names the documented URLs")?,
    )?;
    let fleet = &fleet;
    use checks::*;
    check("the documented URLs", documented_urls(fleet)).await;
    check(
        "the role of a tenant sees its own and cannot act for another",
        tenant_role(fleet),
    )
    .await;
    check(
        "two tenants over a pool of one connection see only their own orders",
        two_tenants(fleet),
    )
    .await;
    check(
        "a tenant for the connections of a pool, set as each is made",
        tenant_as_made(fleet),
    )
    .await;
    check(
        "another tenant's rows can be neither written nor reached by their id",
        foreign_rows(fleet),
    )
    .await;
    check(
        "cached statements follow their tenant from shard to shard",
        cached_statements(fleet),
    )
    .await;
    check("without a cache of statements", uncached_statements(fleet)).await;
    check(
        "a unique violation undone by a savepoint",
        unique_violation(fleet),
    )
    .await;
    check(
        "a failed transaction is rolled back and the connection goes on",
        failed_transaction(fleet),
    )
    .await;
    check(
        "a transaction that is dropped is rolled back",
        dropped_transaction(fleet),
    )
    .await;
    check(
        "a query that is dropped leaves its answers to nobody",
        dropped_query(fleet),
    )
    .await;
    check(
        "a limit on the time of statements ends one and the connection goes on",
        statement_timeout(fleet),
    )
    .await;
    check("COPY in and out", copy(fleet)).await;
    check(
        "a COPY that fails or is given up leaves a usable connection",
        failed_copy(fleet),
    )
    .await;
    check(
        "rows as they stream in, and several statements in one string",
        streams(fleet),
    )
    .await;
    check(
        "arrays, jsonb, a row type, and a statement described",
        types(fleet),
    )
    .await;
    check(
        "many tasks for many tenants share a small pool",
        many_tasks(fleet),
    )
    .await;
    Ok(())
}
