//! Cases for receiving from a stream.

use super::fixture::{Fixture, Peer};
use super::steps::{RECV, TURNS_MAX, connection, pattern, recv, recv_all, turn_until, turn_while};
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload};
use std::time::Duration;

pub(super) fn receives_in_order_to_the_end<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    let sent = pattern(50_000);
    peer.send(&sent);
    peer.shutdown();
    assert!(recv_all(&mut fixture, socket) == sent);
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn a_cancelled_receive_ends_once<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    fixture.driver().submit(Op::Cancel { target: RECV, socket });
    turn_until(&mut fixture, "the last event", |_, event| {
        assert_eq!((event.token, event.result, event.more), (RECV, Err(Errno::ECANCELED), false));
        true
    });
    // The socket is as good as before.
    peer.send(b"after");
    peer.shutdown();
    recv(&mut fixture, socket);
    assert_eq!(recv_all(&mut fixture, socket), b"after");
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn running_out_of_buffers_loses_nothing<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    let sent = pattern(20 * 512);
    peer.send(&sent);
    peer.shutdown();
    recv(&mut fixture, socket);
    let mut blocks = Vec::new();
    turn_until(&mut fixture, "ENOBUFS", |fixture, event| match event.payload {
        Payload::Block(block) => {
            blocks.push(block);
            if !event.more {
                recv(fixture, socket);
            }
            false
        }
        _ => {
            assert_eq!((event.result, event.more), (Err(Errno::ENOBUFS), false));
            true
        }
    });
    assert_eq!(blocks.len(), 8, "every buffer was used");
    let mut all = Vec::new();
    for block in blocks {
        all.extend_from_slice(&block);
        fixture.driver().submit(Op::Provide(block));
    }
    recv(&mut fixture, socket);
    all.extend(recv_all(&mut fixture, socket));
    assert!(all == sent);
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn a_reset_ends_the_receive<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    peer.reset();
    turn_until(&mut fixture, "the reset", |_, event| {
        assert_eq!((event.result, event.more), (Err(Errno::ECONNRESET), false));
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn a_shut_socket_still_receives<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    fixture.driver().submit(Op::Shutdown { socket });
    turn_while(&mut fixture, |_| !peer.is_at_end());
    peer.send(b"late");
    peer.shutdown();
    assert_eq!(recv_all(&mut fixture, socket), b"late");
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Hazard 12: what one turn brings is kept where its session pauses, so that somebody must be able to say how much that is.
pub(super) fn a_limited_receive_brings_its_share_a_turn<F: Fixture>() {
    const BYTES: usize = 96 * 1024;
    const BUFFER: usize = 512;
    const SHARE: usize = 4096;
    if !F::limits_receives() {
        return;
    }
    let mut fixture = F::new(64, BUFFER);
    let (socket, mut peer) = connection(&mut fixture);
    peer.send(&pattern(BYTES));
    peer.shutdown();
    let (mut all, mut is_armed, mut is_at_end) = (Vec::new(), false, false);
    for _ in 0..TURNS_MAX {
        if !is_armed {
            let op = Op::Recv { token: RECV, socket, turn_bytes_max: SHARE as u32, is_limited: true };
            fixture.driver().submit(op);
            is_armed = true;
        }
        let (mut events, before) = (Vec::new(), all.len());
        let until = fixture.driver().now().after(Duration::from_millis(10));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        for event in events {
            is_armed = event.more;
            is_at_end |= event.result == Ok(0);
            if let Payload::Block(block) = event.payload {
                all.extend_from_slice(&block);
                fixture.driver().submit(Op::Provide(block));
            }
        }
        let brought = all.len() - before;
        assert!(brought <= SHARE + BUFFER, "{brought} bytes in a turn");
        if is_at_end {
            break;
        }
    }
    assert!(is_at_end && all == pattern(BYTES), "{} bytes of {BYTES} came", all.len());
    fixture.driver().submit(Op::Close { socket, reset: false });
}
