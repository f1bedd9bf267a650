//! HTTP in parts: heads, bodies, replies, a session, and a worker with sessions on the simulated kernel.
//!
//! `session` and `emit` call one session without a worker. `worker` is a whole turn, without the simulator's checks but
//! with the simulated kernel, whose part the bench `worker` of the engine shows. For exact figures see `instructions.rs`.

mod common;

use common::{BATCH, BROWSER, Rig, SMALL};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmill_engine::driver::sim::Alone;
use ringmill_protocols::http::message::Slots;
use std::hint::black_box;

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, input) in [("small", SMALL), ("browser", BROWSER)] {
        let mut slots = Slots::new();
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |b| b.iter(|| common::parse(&mut slots, input)));
    }
    let body = common::chunked();
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("chunked body", |b| b.iter(|| common::decode(&body)));
    group.finish();
}

/// Calls a session, and reads what it wrote without copying it.
fn exchange<P: ringmill_engine::Protocol>(session: &mut Alone<P>, input: &mut [u8]) {
    let len = input.len();
    assert_eq!(session.data(black_box(input)), len);
    session.take(|output| {
        black_box(output);
    });
}

/// Small requests whose replies differ: their difference is the cost of what is emitted.
fn emit(c: &mut Criterion) {
    let mut group = c.benchmark_group("emit");
    for path in ["/text", "/json", "/fields", "/shared"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n");
        let (mut session, mut input) = (Alone::new(common::server()), request.into_bytes());
        group.bench_function(&path[1..], |b| b.iter(|| exchange(&mut session, &mut input)));
    }
    group.finish();
}

fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    let upload =
        [b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &common::chunked()[..]];
    let cases = [
        ("small", SMALL.to_vec(), 1),
        ("browser", BROWSER.to_vec(), 1),
        ("pipelined 16", SMALL.repeat(BATCH), BATCH),
        ("chunked upload", upload.concat(), 1),
    ];
    for (name, mut input, requests) in cases {
        let mut session = Alone::new(common::server());
        group.throughput(Throughput::Elements(requests as u64));
        group.bench_function(name, |b| b.iter(|| exchange(&mut session, &mut input)));
    }
    group.finish();
}

fn worker(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker");
    for (name, connections, requests) in
        [("1 connection", 1, 1), ("64 connections", 64, 1), ("64 connections, pipelined 16", 64, BATCH)]
    {
        let (mut rig, input) = (Rig::new(connections, common::server()), SMALL.repeat(requests));
        group.throughput(Throughput::Elements((connections * requests) as u64));
        group.bench_function(name, |b| {
            // What the peers do is not measured. A turn also brings the completions of the turn before.
            let rig = std::cell::RefCell::new(&mut rig);
            let setup = || {
                rig.borrow().take();
                rig.borrow().send(&input);
            };
            b.iter_batched(setup, |()| rig.borrow_mut().simulation.turn_unchecked(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, parse, emit, session, worker);
criterion_main!(benches);
