//! What the targets share: a client on a simulated worker, whose bytes come in pieces.

use ringmill_engine::driver::sim::{Chaos, Simulation};
use ringmill_engine::{Config, Layer};
use std::time::Duration;

/// Connects to `protocol`, sends `opening` at once and `input` in pieces of `piece` bytes, ends its side, and lets the worker drain.
/// Returns what the client received, and whether its connection was reset.
///
/// # Panics
/// If the protocol panicked, or if a connection, a receive buffer or a socket was left behind.
pub fn converse(protocol: impl Layer, opening: &[u8], input: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let config = Config { recv_buffers: 8, recv_buffer_bytes: 512, ..Config::default() };
    let mut simulation = Simulation::new(0, Chaos::CALM, config);
    let listener = simulation.listen(protocol);
    simulation.start();
    let peer = simulation.net().connect(listener).expect("the listener is open");
    let mut received = Vec::new();
    peer.send(opening);
    for bytes in input.chunks(piece.max(1)) {
        peer.send(bytes);
        simulation.run_for(Duration::from_millis(2));
        received.extend(peer.take());
    }
    peer.shutdown();
    simulation.run_for(Duration::from_millis(50));
    received.extend(peer.take());
    simulation.drain(Duration::ZERO);
    // Longer than any protocol here waits for the peer's end.
    simulation.run_for(Duration::from_secs(6));
    received.extend(peer.take());
    assert!(simulation.is_done(), "something is left");
    assert_eq!((simulation.buffers_out(), simulation.net().open_sockets()), (0, 0));
    let counters = simulation.counters();
    assert_eq!((counters.panics, counters.connections), (0, 0));
    (received, peer.was_reset())
}
