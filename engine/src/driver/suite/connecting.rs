//! Cases for connecting.

use super::fixture::{Fixture, Peer};
use super::steps::{SEND, TURNS_MAX, output, pattern, recv, recv_all, turn_until, turn_while};
use crate::address::Address;
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Socket, Then};
use crate::token::{Kind, Token};
use std::time::Duration;

const CONNECT: Token = Token::new(Kind::Connect, 9, 2);

pub(super) fn connects_and_talks<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let address = fixture.remote();
    let socket = connecting(&mut fixture, &address);
    turn_until(&mut fixture, "the connection", |_, event| {
        assert_eq!((event.token, event.result, event.more), (CONNECT, Ok(0), false));
        true
    });
    let mut peer = fixture.take_connection(&address);
    let sent = pattern(5_000);
    recv(&mut fixture, socket);
    peer.send(&sent);
    peer.shutdown();
    assert!(recv_all(&mut fixture, socket) == sent);
    fixture.driver().submit(Op::Send { token: SEND, socket, output: output(&[b"out"]), then: Then::GoOn });
    turn_until(&mut fixture, "the end of sending", |_, event| {
        // So short that it leaves in one piece, unless the driver splits on purpose.
        (event.token, event.more) == (SEND, false) && event.result.is_ok_and(|bytes| bytes > 0)
    });
    let mut received = Vec::new();
    for _ in 0..TURNS_MAX {
        received.extend(peer.take());
        if !received.is_empty() {
            break;
        }
        fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    }
    assert!(!received.is_empty() && b"out".starts_with(&received), "{received:?}");
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn connecting_to_nobody_is_refused<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let address = fixture.deaf();
    let socket = connecting(&mut fixture, &address);
    turn_until(&mut fixture, "the refusal", |_, event| {
        let expected = (CONNECT, Err(Errno::ECONNREFUSED), false);
        assert_eq!((event.token, event.result, event.more), expected);
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
}

pub(super) fn a_cancelled_connect_ends_once<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let address = fixture.silent();
    let socket = connecting(&mut fixture, &address);
    for _ in 0..5 {
        let mut events = Vec::new();
        let until = fixture.driver().now().after(Duration::from_millis(5));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
    }
    fixture.driver().submit(Op::CancelAll { socket });
    turn_until(&mut fixture, "the last event", |_, event| {
        assert_eq!((event.token, event.result, event.more), (CONNECT, Err(Errno::ECANCELED), false));
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
    turn_while(&mut fixture, |_| false);
}

/// A socket that is being connected.
fn connecting<F: Fixture>(fixture: &mut F, address: &Address) -> Socket {
    let socket = fixture.driver().stream_socket(address, None).unwrap();
    fixture.driver().submit(Op::Connect { token: CONNECT, socket, address: Box::new(address.clone()) });
    socket
}
