//! Cases for sends that nobody waits for ([`Then::Rest`]): what fails among them, or falls short, is told like any other.

use super::fixture::{Fixture, Peer};
use super::steps::{SEND, TURNS_MAX, connection, output, pattern, quiet, recv, turn_until};
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::token::{Kind, Token};
use bytes::Bytes;
use std::time::Duration;

/// Much longer than anything takes here, so that a wait that ends by its time has missed what it was for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Several in one turn, one of which fails and one finds its socket full: each output comes back once, as it was, with its
/// own result, wherever the two stand.
pub(super) fn one_of_several_silent_sends_fails<F: Fixture>() {
    const COUNT: usize = 5;
    const FIRST: u32 = 10;
    // A socket that was full may have some room again by then, but not for so much.
    let all = pattern((4 << 20) + COUNT);
    for broken in 0..COUNT {
        let full = (broken + 2) % COUNT;
        let mut fixture = F::new(8, 512);
        let mut connections: Vec<(Socket, F::Peer)> = (0..COUNT).map(|_| connection(&mut fixture)).collect();
        connections[broken].1.reset();
        recv(&mut fixture, connections[broken].0);
        turn_until(&mut fixture, "the reset", |_, event| !event.more);
        fill(&mut fixture, connections[full].0);

        let sent: Vec<&[u8]> =
            (0..COUNT).map(|n| &all[n..if n == full { all.len() } else { 4000 + 2 * n }]).collect();
        for (n, (socket, _)) in connections.iter().enumerate() {
            // One piece and several: either has a system call of its own.
            let (head, tail) = sent[n].split_at(if n % 2 == 0 { 0 } else { 2000 });
            let output = if head.is_empty() { output(&[tail]) } else { output(&[head, tail]) };
            let token = Token::new(Kind::Send, 3, FIRST + n as u32);
            fixture.driver().submit(Op::Send { token, socket: *socket, output, then: Then::Rest });
        }
        let mut results: [Option<Result<u32, Errno>>; COUNT] = [None; COUNT];
        let mut events = Vec::new();
        for _ in 0..TURNS_MAX {
            fixture.driver().turn(Wait::Poll, &mut events).unwrap();
            let until = fixture.driver().now().after(Duration::from_millis(1));
            fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
            for event in events.drain(..) {
                let n = (event.token.index() - FIRST) as usize;
                assert!(!event.more && results[n].replace(event.result).is_none(), "{n} is told twice");
                let Payload::Output(output) = event.payload else { panic!("no output came back") };
                assert!(
                    output.pieces().collect::<Vec<&[u8]>>().concat() == sent[n],
                    "{n} brings back the output of another one"
                );
            }
            match results.iter().filter(|result| result.is_none()).count() {
                0 => break,
                // A driver may also wait for room, and there will be none.
                1 if results[full].is_none() => {
                    fixture.driver().submit(Op::CancelAll { socket: connections[full].0 });
                }
                _ => {}
            }
        }
        for (n, (socket, peer)) in connections.iter_mut().enumerate() {
            match results[n].expect("every send is told") {
                Err(Errno::EPIPE | Errno::ECONNRESET) if n == broken => {}
                Err(Errno::EAGAIN | Errno::ECANCELED) if n == full => {}
                Ok(bytes) if n == full => assert!((bytes as usize) < sent[n].len()),
                Ok(bytes) if n != broken => {
                    let received = arrived(&mut fixture, peer, bytes as usize);
                    assert!(bytes > 0 && received == sent[n][..bytes as usize], "{n} of {broken}");
                }
                result => panic!("{n} has the result of another one: {result:?}, and {broken} is broken"),
            }
            fixture.driver().submit(Op::Close { socket: *socket, reset: true });
        }
        quiet(&mut fixture);
    }
}

/// What was not sent in full ends the wait at once: the rest of it has to be sent, and nothing else may come.
pub(super) fn a_short_silent_send_ends_the_wait<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    // Not even the timer of an earlier wait may end this one.
    quiet(&mut fixture);
    let mut rest = too_much();
    for _ in 0..3 {
        fixture.driver().submit(Op::Send { token: SEND, socket, output: rest, then: Then::Rest });
        let (result, mut back) = told_at_once(&mut fixture);
        match result {
            Ok(bytes) => back.advance(bytes as usize),
            Err(errno) => assert_eq!(errno, Errno::EAGAIN),
        }
        assert!(!back.is_empty(), "nothing was short: this shows nothing");
        rest = back;
        // Now there is room again, for a part of it.
        peer.take();
    }
    fixture.driver().submit(Op::Close { socket, reset: true });
}

/// The same where nothing at all could be sent. Only for a driver that does not wait for room on its own.
pub(super) fn a_refused_silent_send_ends_the_wait<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, _peer) = connection(&mut fixture);
    fill(&mut fixture, socket);
    quiet(&mut fixture);
    let mut result = Ok(0);
    for _ in 0..TURNS_MAX {
        fixture.driver().submit(Op::Send { token: SEND, socket, output: too_much(), then: Then::Rest });
        (result, _) = told_at_once(&mut fixture);
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result, Err(Errno::EAGAIN));
    fixture.driver().submit(Op::Close { socket, reset: true });
}

/// What the peer has, once it has so many bytes.
fn arrived<F: Fixture>(fixture: &mut F, peer: &mut F::Peer, bytes: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let mut events = Vec::new();
    for _ in 0..TURNS_MAX {
        received.extend(peer.take());
        if received.len() >= bytes {
            break;
        }
        let until = fixture.driver().now().after(Duration::from_millis(1));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
    }
    received
}

/// The result of the only send, and its output, after one turn that could wait for long.
fn told_at_once<F: Fixture>(fixture: &mut F) -> (Result<u32, Errno>, Box<Output>) {
    let mut events = Vec::new();
    let until = fixture.driver().now().after(PATIENCE);
    fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
    assert!(fixture.driver().now() < until, "the wait ended by its time: {events:?}");
    let event = events.pop().expect("the turn came back for the send");
    assert!(events.is_empty() && event.token == SEND && !event.more);
    let Payload::Output(output) = event.payload else { panic!("no output came back") };
    (event.result, output)
}

/// Sends until the socket has no room, and leaves nothing in flight. The peer must not read.
fn fill<F: Fixture>(fixture: &mut F, socket: Socket) {
    let mut next = Some(too_much());
    let mut events = Vec::new();
    for _ in 0..TURNS_MAX {
        if let Some(output) = next.take() {
            fixture.driver().submit(Op::Send { token: SEND, socket, output, then: Then::GoOn });
        }
        let until = fixture.driver().now().after(Duration::from_millis(10));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        match events.pop() {
            // It is stuck.
            None => fixture.driver().submit(Op::CancelAll { socket }),
            Some(event) => {
                let Payload::Output(mut output) = event.payload else { panic!("no output came back") };
                match event.result {
                    Ok(bytes) => output.advance(bytes as usize),
                    Err(errno) => return assert_eq!(errno, Errno::ECANCELED),
                }
                next = Some(output);
            }
        }
    }
    panic!("the socket was never full");
}

/// More than a socket and its peer hold together.
fn too_much() -> Box<Output> {
    let mut output = Box::<Output>::default();
    output.push_shared(Bytes::from(vec![0; 64 << 20]));
    output
}
