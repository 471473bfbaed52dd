//! How often the router asks for memory, counted by an allocator of this test's own: never per row, and a few times per
//! statement.
//!
//! The whole process is counted, the router's background work included; the client here asks for none.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::alloc::System;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tenantry_testkit::{Fleet, RawClient};
use tenantry_wire::frontend::{self, Format};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const READY: &[u8] = b"Z\0\0\0\x05I";
/// Runs, of which the one with the fewest allocations counts: background work falls into the others.
const RUNS: usize = 5;
const STATEMENTS: usize = 500;
/// One reading of the socket holds some hundred rows and may ask for a larger buffer.
const ROWS_PER_ALLOCATION_MIN: usize = 200;
const PER_STATEMENT_MAX: usize = 2;
const REGISTERED_MAX: Duration = Duration::from_secs(20);

/// Sends `request` and reads up to ReadyForQuery, into memory that is there already; answers the bytes.
async fn exchange(client: &mut RawClient, request: &[u8], buffer: &mut [u8]) -> usize {
    let stream = client.stream();
    stream.write_all(request).await.unwrap();
    let (mut total, mut tail) = (0, [0; READY.len()]);
    loop {
        let read = stream.read(buffer).await.unwrap();
        assert_ne!(read, 0, "the router hung up");
        total += read;
        // The last bytes of all that has come.
        let fresh = &buffer[..read];
        let kept = READY.len().saturating_sub(read);
        tail.rotate_left(READY.len() - kept);
        let from = read - (READY.len() - kept);
        tail[kept..].copy_from_slice(&fresh[from..]);
        if tail == READY {
            return total;
        }
    }
}

/// The fewest allocations that an exchange took.
async fn allocations(client: &mut RawClient, request: &[u8], times: usize) -> usize {
    let mut buffer = vec![0; 256 << 10];
    let mut fewest = usize::MAX;
    for _ in 0..RUNS {
        let region = Region::new(COUNTED);
        for _ in 0..times {
            exchange(client, request, &mut buffer).await;
        }
        let change = region.change();
        fewest = fewest.min(change.allocations + change.reallocations);
    }
    fewest
}

#[tokio::test]
async fn rows_are_forwarded_without_asking_for_memory() {
    let setup = common::setup_with(Fleet::builder().shards(1).tenants(1), |_| ()).await;
    let mut client = setup.raw_for(0).await;
    let mut counted = Vec::new();
    for rows in [1_000_usize, 10_000] {
        let mut request = BytesMut::new();
        let text = format!("SELECT g, repeat('x', 50) FROM generate_series(1, {rows}) g");
        frontend::put_query(&mut request, &text);
        counted.push(allocations(&mut client, &request, 1).await);
    }
    println!("allocations for 1,000 and 10,000 rows: {counted:?}");
    assert!(
        counted[1] < counted[0] + 9_000 / ROWS_PER_ALLOCATION_MIN,
        "{counted:?}"
    );
}

#[tokio::test]
async fn a_prepared_statement_asks_for_memory_a_few_times_at_most() {
    let setup = common::setup_with(Fleet::builder().shards(1).tenants(1), |_| ()).await;
    let mut client = setup.raw_for(0).await;
    let mut buffer = vec![0; 4096];
    let mut request = BytesMut::new();
    frontend::put_parse(&mut request, "s", b"SELECT $1::int + 1", &[]);
    frontend::put_sync(&mut request);
    exchange(&mut client, &request, &mut buffer).await;
    request.clear();
    frontend::put_bind(&mut request, "", "s", &[Some(b"1")], Format::Text);
    frontend::put_execute(&mut request, "", 0);
    frontend::put_sync(&mut request);
    // Until it has registered, a router keeps what its clients send: nobody could tell it of a move.
    let deadline = Instant::now() + REGISTERED_MAX;
    let mut counted = usize::MAX;
    while counted >= PER_STATEMENT_MAX * STATEMENTS && Instant::now() < deadline {
        counted = allocations(&mut client, &request, STATEMENTS).await;
    }
    println!("allocations for {STATEMENTS} statements: {counted}");
    assert!(counted < PER_STATEMENT_MAX * STATEMENTS, "{counted}");
}
