//! The directory at 200,000 tenants: lookups of random keys, applying a change, loading its snapshot. The scenario
//! `tenantry-bench directory` has the bars, at two million.

#![allow(clippy::unwrap_used, missing_docs, dead_code)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_schema::directory::{DirectoryBuilder, DirectoryChange};
use tenantry_schema::fleet::{Fleet, FleetSettings};
use tenantry_schema::snapshot;
use tenantry_schema::tenant::TenantKey;

#[path = "../src/directory/rows.rs"]
mod rows;

const TENANTS: u64 = 200_000;

fn fleet() -> Fleet {
    let mut builder = DirectoryBuilder::new(TenantKey::Uuid);
    for number in 0..TENANTS {
        let row = rows::row(TenantKey::Uuid, number).unwrap();
        builder.push_tenant(&row.record(rows::pin(number))).unwrap();
        let name = rows::hostname(number);
        builder
            .push_hostname(std::str::from_utf8(&name).unwrap(), row.id)
            .unwrap();
    }
    let mut fleet = Fleet::empty(FleetSettings::new(TenantKey::Uuid));
    fleet.directory = builder.build().unwrap();
    fleet
}

fn lookup(criterion: &mut Criterion) {
    let fleet = fleet();
    let mut random = SmallRng::seed_from_u64(1);
    let numbers: Vec<u64> = (0..65_536)
        .map(|_| random.random_range(0..TENANTS))
        .collect();
    let mut group = criterion.benchmark_group("directory/lookup");
    let ids: Vec<_> = numbers
        .iter()
        .map(|number| rows::id(TenantKey::Uuid, *number).unwrap())
        .collect();
    let mut keys = ids.iter().cycle();
    group.bench_function("id", |bencher| {
        bencher.iter(|| {
            fleet
                .directory
                .by_id(black_box(*keys.next().unwrap()))
                .is_some()
        });
    });
    let slugs: Vec<_> = numbers.iter().map(|number| rows::slug(*number)).collect();
    let mut keys = slugs.iter().cycle();
    group.bench_function("slug", |bencher| {
        bencher.iter(|| {
            let slug = std::str::from_utf8(keys.next().unwrap()).unwrap();
            fleet.directory.by_slug(black_box(slug)).is_some()
        });
    });
    let names: Vec<_> = numbers
        .iter()
        .map(|number| rows::hostname(*number))
        .collect();
    let mut keys = names.iter().cycle();
    group.bench_function("hostname", |bencher| {
        bencher.iter(|| {
            let name = std::str::from_utf8(keys.next().unwrap()).unwrap();
            fleet.directory.by_hostname(black_box(name)).is_some()
        });
    });
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let fleet = fleet();
    let change = DirectoryChange::UpsertTenant(rows::row(TenantKey::Uuid, TENANTS).unwrap());
    criterion.bench_function("directory/apply", |bencher| {
        bencher.iter(|| {
            fleet
                .directory
                .apply(black_box(std::slice::from_ref(&change)))
                .unwrap()
        });
    });
}

fn load(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.snapshot");
    snapshot::save(&fleet(), &path).unwrap();
    let mut group = criterion.benchmark_group("directory/snapshot");
    group.sample_size(10);
    group.bench_function("load", |bencher| {
        bencher.iter(|| snapshot::load(&path).unwrap())
    });
    group.finish();
}

criterion_group!(benches, lookup, apply, load);
criterion_main!(benches);
