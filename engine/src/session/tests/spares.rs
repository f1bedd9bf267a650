//! Buffers that are not in use: they are used again, up to a number and a size, and not while memory is short.

use super::*;
use crate::output::Output;
use crate::session::shared::{SPARE_OUTPUT_BYTES_MAX, SPARE_OUTPUTS_MAX, SPARE_UNREAD_MAX};
use crate::session::unread::Unread;

fn written(shared: &mut Shared) -> Box<Output> {
    let mut output = shared.output();
    output.buffer().extend_from_slice(&[0; 100]);
    output.count_memory(&mut shared.memory);
    output
}

fn kept(shared: &mut Shared, bytes: usize) -> Box<Unread> {
    let mut unread = shared.unread();
    unread.append(&vec![0; bytes]);
    unread.count_memory(&mut shared.memory);
    unread
}

#[test]
fn buffers_are_used_again_up_to_a_number() {
    let mut shared = Stand::new().shared;
    let outputs: Vec<_> = (0..=SPARE_OUTPUTS_MAX).map(|_| written(&mut shared)).collect();
    outputs.into_iter().for_each(|output| shared.recycle(output));
    let taken: Vec<_> = (0..=SPARE_OUTPUTS_MAX).map(|_| shared.output()).collect();
    let used_again = taken.into_iter().filter_map(|mut output| {
        assert!(output.is_empty());
        (output.buffer().capacity() > 0).then_some(())
    });
    assert_eq!(used_again.count(), SPARE_OUTPUTS_MAX);

    let unread: Vec<_> = (0..=SPARE_UNREAD_MAX).map(|_| kept(&mut shared, 100)).collect();
    unread.into_iter().for_each(|unread| shared.recycle_unread(unread));
    let used_again = |shared: &mut Shared| {
        let unread = shared.unread();
        assert_eq!(unread.len(), 0);
        unread.memory_bytes() > 0
    };
    assert!((0..SPARE_UNREAD_MAX).all(|_| used_again(&mut shared)));
    assert!(!used_again(&mut shared));
}

#[test]
fn large_outputs_are_used_again_up_to_the_memory_in_them() {
    const BYTES: usize = 70_000;
    let mut shared = Stand::new().shared;
    let before = shared.memory.used();
    let fits = SPARE_OUTPUT_BYTES_MAX / BYTES;
    for _ in 0..3 {
        let outputs: Vec<_> = (0..fits + 10)
            .map(|_| {
                let mut output = shared.output();
                output.buffer().reserve_exact(BYTES);
                output
            })
            .collect();
        outputs.into_iter().for_each(|output| shared.recycle(output));
        let kept_bytes = shared.memory.used() - before;
        assert!((fits * BYTES..=SPARE_OUTPUT_BYTES_MAX).contains(&kept_bytes), "{kept_bytes}");
    }
}

#[test]
fn what_is_freed_is_in_the_ledger_no_more() {
    let mut shared = Stand::new().shared;
    let before = shared.memory.used();
    let large = kept(&mut shared, 16 * 1024 + 1);
    assert!(shared.memory.used() > before + 16 * 1024);
    shared.recycle_unread(large);
    assert_eq!(shared.memory.used(), before, "a large buffer is freed");
    let just_kept = kept(&mut shared, 16 * 1024);
    shared.recycle_unread(just_kept);
    assert_eq!(shared.memory.used(), before + 16 * 1024);
    let output = written(&mut shared);
    shared.recycle(output);
    assert!(shared.memory.used() > before + 16 * 1024);

    // Memory gets short: spare buffers go, and none are kept.
    let (output, unread) = (written(&mut shared), kept(&mut shared, 1));
    let config = Config::default();
    shared.memory.change(0, config.memory_bytes_max * 7 / 8);
    shared.memory.judge();
    shared.adapt_to_memory(&config);
    shared.recycle(output);
    shared.recycle_unread(unread);
    assert_eq!(shared.memory.used(), before + config.memory_bytes_max * 7 / 8);
}

#[test]
fn connections_queue_less_while_memory_is_short() {
    let mut shared = Stand::new().shared;
    let config = Config::default();
    let marks = |shared: &Shared| (shared.marks.output_low, shared.marks.output_high);
    shared.memory.change(0, config.memory_bytes_max);
    shared.memory.judge();
    shared.adapt_to_memory(&config);
    assert_eq!(marks(&shared), (4 * 1024, 16 * 1024));
    shared.memory.change(config.memory_bytes_max, 0);
    shared.memory.judge();
    shared.adapt_to_memory(&config);
    assert_eq!(marks(&shared), (config.output_low_water_bytes, config.output_high_water_bytes));
}

#[test]
fn panics_are_counted() {
    let mut stand = Stand::new();
    stand.shared.count_panic(1);
    stand.shared.count_panic_outside();
    assert_eq!(stand.counters().panics, 2);
}

#[test]
fn many_bytes_are_moved_where_nothing_is_written_and_stay_in_order() {
    let mut stand = Stand::new();
    stand.with(|io, _| {
        let mut much = vec![b'a'; 5000];
        let place = much.as_ptr();
        io.write_vec(&mut much);
        assert_eq!(io.buffer().as_ptr(), place, "it was copied");
        let (mut little, mut more) = (b"bcd".to_vec(), vec![b'e'; 5000]);
        io.write_vec(&mut little);
        io.write_vec(&mut more);
        assert!(much.is_empty() && little.is_empty() && more.is_empty());
        let all = [&[b'a'; 5000][..], b"bcd", &[b'e'; 5000]].concat();
        assert!(io.buffer() == &all);
        None
    });
}
