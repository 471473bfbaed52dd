//! What the router spends on each message and statement: framing, the names in Bind, telling statements apart, SCRAM.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tenantry_wire::{
    backend,
    frame::{LARGE_MESSAGE_LIMIT, peek, peek_frontend},
    frontend::{self, Bind, Format},
    scram::{ChannelBinding, ClientExchange, ServerExchange, Step, Verifier},
    sql,
};

/// A query of a storefront's collection page.
const QUERY: &str = "SELECT p.id, p.title, p.price_cents, v.sku FROM products p JOIN variants v ON v.product_id = p.id \
    WHERE p.collection_id = $1 AND p.published ORDER BY p.created_at DESC LIMIT 50";

fn messages(c: &mut Criterion) {
    let mut bind = BytesMut::new();
    frontend::put_bind(
        &mut bind,
        "",
        "s1",
        &[Some(b"42"), Some(b"hello")],
        Format::Binary,
    );
    let mut out = BytesMut::new();
    c.bench_function("bind: frame, read names, rename", |b| {
        b.iter(|| {
            let head = peek_frontend(black_box(&bind)).unwrap().unwrap();
            let message = Bind::decode(&bind[5..head.total]).unwrap();
            out.clear();
            frontend::put_bind_renamed(&mut out, message.portal, "t_000123", message.rest);
            black_box(&out);
        });
    });

    let mut rows = BytesMut::new();
    for _ in 0..100 {
        backend::put_data_row(
            &mut rows,
            &[
                Some(b"1234567"),
                Some(b"A plain cotton shirt"),
                Some(b"1999"),
                None,
            ],
        );
    }
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Bytes(rows.len() as u64));
    group.bench_function("frame 100 data rows", |b| {
        b.iter(|| {
            let mut rest = black_box(&rows[..]);
            while let Some(head) = peek(rest, LARGE_MESSAGE_LIMIT).unwrap() {
                rest = &rest[head.total..];
            }
        });
    });
    group.finish();
}

fn statements(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    for (name, text) in [
        ("query", QUERY),
        ("begin", "BEGIN"),
        ("set local", "SET LOCAL tenantry.tenant = '42'"),
        (
            "set_config",
            "SELECT set_config('tenantry.tenant', $1, true)",
        ),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| sql::classify(black_box(text), true)));
    }
    let insert = format!(
        "INSERT INTO events VALUES {}",
        "(1, 'a page was seen', now()),".repeat(1000)
    );
    group.throughput(Throughput::Bytes(insert.len() as u64));
    group.bench_function("insert of 30 kB", |b| {
        b.iter(|| sql::classify(black_box(&insert), true))
    });
    group.finish();

    let three = format!("BEGIN; {QUERY}; COMMIT");
    c.bench_function("split three statements", |b| {
        b.iter(|| sql::split(black_box(&three), true).count())
    });
    c.bench_function("one statement is one", |b| {
        b.iter(|| sql::is_single(black_box(QUERY), true))
    });
}

fn login(c: &mut Criterion) {
    let verifier = Verifier::from_password("secret");
    c.bench_function("scram: server's side of a login", |b| {
        b.iter_batched(
            || {
                let mut client = ClientExchange::new("secret", ChannelBinding::Unavailable);
                let mut server = ServerExchange::new(verifier.clone(), ChannelBinding::Unavailable);
                let Step::Continue(challenge) = server.step(&client.start()) else {
                    panic!()
                };
                let Step::Continue(proof) = client.step(&challenge) else {
                    panic!()
                };
                (server, proof)
            },
            |(mut server, proof)| server.step(&proof),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, messages, statements, login);
criterion_main!(benches);
