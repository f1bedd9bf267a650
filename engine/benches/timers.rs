//! The timing wheel: what a request pays, what a connection pays, what a turn pays.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmill_engine::Tick;
use ringmill_engine::timer::{GRAIN_NS, Timers};

const SLOTS: u32 = 1024;

/// Deadlines spread over about a minute.
fn due(now: u64, index: u32) -> Tick {
    Tick(now + GRAIN_NS * (100 + u64::from(index) * 3))
}

fn full() -> Timers {
    let mut timers = Timers::new(Tick(0));
    (0..SLOTS).for_each(|index| timers.schedule(index, due(0, index)));
    timers
}

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timers");
    group.throughput(Throughput::Elements(u64::from(SLOTS)));

    let (mut timers, mut now) = (full(), 0);
    group.bench_function("renew, later", |b| {
        b.iter(|| {
            now += 1000;
            (0..SLOTS).for_each(|index| timers.schedule(index, due(now, index)));
        })
    });

    let mut timers = full();
    group.bench_function("file and remove", |b| {
        b.iter(|| {
            for index in 0..SLOTS {
                timers.schedule(index, Tick(GRAIN_NS));
                timers.remove(index);
            }
        })
    });

    group.bench_function("expire", |b| {
        let run = |(mut timers, mut reached): (Timers, Vec<u32>)| {
            timers.advance(Tick(u64::MAX - 1), &mut reached);
            assert_eq!(reached.len(), SLOTS as usize);
            (timers, reached)
        };
        b.iter_batched(|| (full(), Vec::with_capacity(SLOTS as usize)), run, BatchSize::SmallInput);
    });

    let (mut timers, mut reached, mut now) = (full(), Vec::new(), 0);
    timers.advance(Tick(0), &mut reached);
    group.throughput(Throughput::Elements(1));
    group.bench_function("a turn with nothing due", |b| {
        b.iter(|| {
            now = (now + 1) % GRAIN_NS;
            timers.advance(Tick(now), &mut reached);
        })
    });
    assert!(reached.is_empty());
    group.finish();
}

criterion_group!(benches, timers);
criterion_main!(benches);
