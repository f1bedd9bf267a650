//! The steps that cases are made of.

use super::fixture::Fixture;
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::token::{Kind, Token};
use bytes::Bytes;
use std::time::Duration;

pub(super) const RECV: Token = Token::new(Kind::Recv, 3, 1);
pub(super) const SEND: Token = Token::new(Kind::Send, 3, 1);
pub(super) const ACCEPT: Token = Token::new(Kind::Accept, 0, 5);
pub(super) const DATAGRAMS: Token = Token::new(Kind::Datagrams, 4, 2);
/// Turns before a case gives up: each waits up to 10 ms, so this is a generous deadline, not a measure.
pub(super) const TURNS_MAX: usize = 1000;

/// Turns the driver until `done` says so; panics with what is missing when it never does.
pub(super) fn turn_until<F: Fixture>(
    fixture: &mut F,
    missing: &str,
    mut done: impl FnMut(&mut F, Event) -> bool,
) {
    let mut events = Vec::new();
    for _ in 0..TURNS_MAX {
        let until = fixture.driver().now().after(Duration::from_millis(10));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        let mut is_done = false;
        for event in events.drain(..) {
            is_done |= done(fixture, event);
        }
        if is_done {
            return;
        }
    }
    panic!("never came: {missing}");
}

/// Turns without events while `busy`.
pub(super) fn turn_while<F: Fixture>(fixture: &mut F, mut busy: impl FnMut(&mut F) -> bool) {
    for _ in 0..TURNS_MAX {
        let mut events = Vec::new();
        let until = fixture.driver().now().after(Duration::from_millis(10));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
        if !busy(fixture) {
            return;
        }
    }
    panic!("still busy");
}

/// A few turns in which nothing may be told.
pub(super) fn quiet<F: Fixture>(fixture: &mut F) {
    let mut events: Vec<Event> = Vec::new();
    for _ in 0..5 {
        let until = fixture.driver().now().after(Duration::from_millis(4));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
    }
}

/// A connection with nothing in flight.
pub(super) fn connection<F: Fixture>(fixture: &mut F) -> (Socket, F::Peer) {
    let listener = fixture.listener();
    let peer = fixture.connect(listener);
    fixture.driver().submit(Op::Accept { token: ACCEPT, listener });
    let mut accepted = None;
    turn_until(fixture, "the connection", |_, event| {
        accepted = Some(Socket(event.result.unwrap() as i32));
        true
    });
    fixture.driver().submit(Op::Cancel { target: ACCEPT, socket: listener });
    turn_until(fixture, "the end of accepting", |_, event| !event.more);
    fixture.driver().submit(Op::Close { socket: listener, reset: false });
    (accepted.unwrap(), peer)
}

pub(super) fn recv<F: Fixture>(fixture: &mut F, socket: Socket) {
    fixture.driver().submit(Op::Recv { token: RECV, socket, turn_bytes_max: 64 * 1024, is_limited: false });
}

/// Receives until the end of the stream; arms again whenever the operation ended before.
pub(super) fn recv_all<F: Fixture>(fixture: &mut F, socket: Socket) -> Vec<u8> {
    let mut all = Vec::new();
    turn_until(fixture, "the end of the stream", |fixture, event| {
        assert_eq!(event.token, RECV);
        let end = matches!((event.result, &event.payload), (Ok(0), Payload::None));
        if let Payload::Block(block) = event.payload {
            assert_eq!(event.result, Ok(block.len() as u32));
            all.extend_from_slice(&block);
            fixture.driver().submit(Op::Provide(block));
        }
        assert!(!end || !event.more, "the end of the stream is the end of the operation");
        if !event.more && !end {
            recv(fixture, socket);
        }
        end
    });
    all
}

pub(super) fn output(pieces: &[&[u8]]) -> Box<Output> {
    let mut output = Box::<Output>::default();
    for piece in pieces {
        output.push_shared(Bytes::copy_from_slice(piece));
    }
    output
}

pub(super) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// Sends until nothing is left, and calls `each_time` after each event.
pub(super) fn send_all<F: Fixture>(
    fixture: &mut F,
    socket: Socket,
    output: Box<Output>,
    then: Then,
    mut each_time: impl FnMut(),
) {
    fixture.driver().submit(Op::Send { token: SEND, socket, output, then });
    turn_until(fixture, "the end of sending", |fixture, event| {
        assert_eq!((event.token, event.more), (SEND, false));
        let Payload::Output(mut output) = event.payload else { panic!("the output did not come back") };
        match event.result {
            Ok(bytes) => output.advance(bytes as usize),
            Err(errno) => assert_eq!((errno, then), (Errno::EAGAIN, Then::Rest)),
        }
        each_time();
        let over = output.is_empty();
        if !over {
            let then = if then == Then::Rest { Then::GoOn } else { then };
            fixture.driver().submit(Op::Send { token: SEND, socket, output, then });
        }
        over
    });
}

/// Sends until the peer, which does not read, takes no more: a send is stuck.
pub(super) fn fill<F: Fixture>(fixture: &mut F, socket: Socket) {
    let big = vec![0; 64 << 20];
    fixture.driver().submit(Op::Send { token: SEND, socket, output: output(&[&big]), then: Then::GoOn });
    let mut events = Vec::new();
    for _ in 0..TURNS_MAX {
        let until = fixture.driver().now().after(Duration::from_millis(10));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        if events.is_empty() {
            break;
        }
        for event in events.drain(..) {
            let Payload::Output(mut output) = event.payload else { panic!("nothing was received") };
            output.advance(event.result.unwrap() as usize);
            fixture.driver().submit(Op::Send { token: SEND, socket, output, then: Then::GoOn });
        }
    }
}
