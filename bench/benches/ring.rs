//! The ring: building one after a change, and placing a tenant that has no pin.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tenantry_schema::ring::Ring;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;

fn ring(shards: u16) -> Ring {
    Ring::new((1..=shards).map(|number| (ShardId::new(number).unwrap(), 1)))
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/lookup");
    for shards in [4, 400] {
        let ring = ring(shards);
        group.bench_function(BenchmarkId::from_parameter(shards), |bencher| {
            let mut number = 0;
            bencher.iter(|| {
                number += 1;
                ring.shard_of(black_box(TenantId::from_bigint(number).unwrap()))
            });
        });
    }
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/build");
    for shards in [4, 400] {
        group.bench_function(BenchmarkId::from_parameter(shards), |bencher| {
            bencher.iter(|| ring(shards))
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, build);
criterion_main!(benches);
