//! Cases for receiving from a stream.

use super::fixture::{Fixture, Peer};
use super::steps::{RECV, connection, pattern, recv, recv_all, turn_until, turn_while};
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload};

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
