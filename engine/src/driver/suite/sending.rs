//! Cases for sending on a stream, and for how it ends.

use super::fixture::{Fixture, Peer};
use super::steps::{
    RECV, SEND, TURNS_MAX, connection, fill, output, pattern, recv, send_all, turn_until, turn_while,
};
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload, Then};
use crate::seam::names::Names;
use std::time::Duration;

pub(super) fn sends_every_byte_in_order<F: Fixture>() {
    for then in [Then::Rest, Then::GoOn, Then::End] {
        sends_every_byte::<F>(then);
    }
}

fn sends_every_byte<F: Fixture>(then: Then) {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    // Copied and shared pieces, and more of them than one vector takes.
    let pieces: Vec<Vec<u8>> = (0..150).map(|n| pattern(n * 97 % 5000 + 1)).collect();
    let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let (mut received, expected) = (Vec::new(), pieces.concat());
    send_all(&mut fixture, socket, output(&slices), then, || received.extend(peer.take()));
    fixture.driver().submit(Op::Shutdown { socket });
    for _ in 0..TURNS_MAX {
        fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
        received.extend(peer.take());
        if peer.is_at_end() {
            break;
        }
    }
    assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Sends that nobody waits for are told with the next turn that does not wait, short ones and stuck ones as always.
pub(super) fn sends_that_nobody_awaits_are_told_later<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    let whole = pattern(24 << 20);
    let (mut received, mut left) = (Vec::new(), whole.chunks(50_000));
    let mut next = left.next();
    let mut stuck = 0;
    // Until the socket is full, nothing is read; then reading makes room.
    while let Some(piece) = next {
        let mut output = Some(output(&[piece]));
        let (mut sent, mut then) = (0, Then::Rest);
        while let Some(rest) = output.take() {
            fixture.driver().submit(Op::Send { token: SEND, socket, output: rest, then });
            let mut events = Vec::new();
            for _ in 0..TURNS_MAX {
                fixture.driver().turn(Wait::Poll, &mut events).unwrap();
                if let Some(event) = events.pop() {
                    assert!(events.is_empty() && event.token == SEND);
                    let Payload::Output(mut rest) = event.payload else { panic!("no output came back") };
                    match event.result {
                        Ok(bytes) => rest.advance(bytes as usize),
                        // Full: now it is waited for.
                        Err(Errno::EAGAIN) if then == Then::Rest => then = Then::GoOn,
                        Err(errno) => panic!("{errno}"),
                    }
                    sent = piece.len() - rest.len();
                    output = (!rest.is_empty()).then_some(rest);
                    break;
                }
                stuck += 1;
                received.extend(peer.take());
                let until = fixture.driver().now().after(Duration::from_millis(1));
                fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
            }
        }
        assert_eq!(sent, piece.len(), "the send never came back");
        next = left.next();
    }
    assert!(stuck > 0, "the socket was never full: this shows nothing");
    fixture.driver().submit(Op::Shutdown { socket });
    for _ in 0..TURNS_MAX {
        received.extend(peer.take());
        if received.len() == whole.len() {
            break;
        }
        fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    }
    assert!(received == whole, "{} of {} bytes", received.len(), whole.len());
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn cancel_all_ends_both_directions<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, _peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    fill(&mut fixture, socket);
    fixture.driver().submit(Op::CancelAll { socket });
    let mut over = Vec::new();
    turn_until(&mut fixture, "two last events", |_, event| {
        assert_eq!((event.result, event.more), (Err(Errno::ECANCELED), false));
        assert_eq!(matches!(event.payload, Payload::Output(_)), event.token == SEND);
        over.push(event.token);
        over.len() == 2
    });
    over.sort();
    assert_eq!(over, [RECV, SEND]);
    fixture.driver().submit(Op::Close { socket, reset: true });
}

pub(super) fn nothing_is_on_its_way_to_who_has_reset<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    fill(&mut fixture, socket);
    assert!(fixture.driver().unacknowledged_bytes(socket) > 0);
    peer.reset();
    let mut over = 0;
    turn_until(&mut fixture, "the ends of both", |_, event| {
        over += usize::from(!event.more);
        over == 2
    });
    assert_eq!(fixture.driver().unacknowledged_bytes(socket), 0);
    fixture.driver().submit(Op::Close { socket, reset: true });
}

pub(super) fn closing_ends_the_connection<F: Fixture>() {
    for reset in [false, true] {
        let mut fixture = F::new(8, 512);
        let (socket, mut peer) = connection(&mut fixture);
        fixture.driver().submit(Op::Close { socket, reset });
        turn_while(&mut fixture, |_| !peer.is_at_end());
    }
}

/// Whatever the driver keeps back of a last send leaves with the end of the stream, which either operation is.
pub(super) fn the_last_bytes_leave_with_the_end<F: Fixture>() {
    for is_closed in [false, true] {
        let mut fixture = F::new(8, 512);
        let (socket, mut peer) = connection(&mut fixture);
        send_all(&mut fixture, socket, output(&[b"last"]), Then::End, || {});
        let end = if is_closed { Op::Close { socket, reset: false } } else { Op::Shutdown { socket } };
        fixture.driver().submit(end);
        let mut received = Vec::new();
        turn_while(&mut fixture, |_| {
            received.extend(peer.take());
            !peer.is_at_end()
        });
        received.extend(peer.take());
        assert_eq!(received, b"last");
        if !is_closed {
            fixture.driver().submit(Op::Close { socket, reset: false });
        }
    }
}
