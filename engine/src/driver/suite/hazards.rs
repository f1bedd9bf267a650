//! Cases for what a kernel does to those who do not expect it. The header of `suite.rs` says which hazard is whose.

use super::fixture::{Fixture, Peer};
use super::steps::{
    DATAGRAMS, RECV, SEND, TURNS_MAX, connection, output, pattern, quiet, recv, recv_all, turn_until,
};
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload, Socket, Then};
use crate::sys::EventCounter;
use crate::token::{Kind, Token};
use std::time::Duration;

/// Hazards 1 and 7: more completions than a completion queue holds (4096). Operations may end for that; bytes may not.
pub(super) fn a_flood_of_completions_loses_nothing<F: Fixture>() {
    const CONNECTIONS: usize = 48;
    const BYTES: usize = 64 * 1024;
    /// Blocks kept, so that so many completions have a buffer each.
    const KEPT: usize = 5000;
    let mut fixture = F::new(8192, 512);
    let mut all: Vec<(Socket, F::Peer, Vec<u8>)> = Vec::new();
    for n in 0..CONNECTIONS {
        let (socket, mut peer) = connection(&mut fixture);
        peer.send(&pattern(BYTES + n)[n..]);
        all.push((socket, peer, Vec::new()));
    }
    let token = |n: usize| Token::new(Kind::Recv, 1, n as u32);
    let arm = |fixture: &mut F, n: usize, socket: Socket| {
        fixture.driver().submit(Op::Recv {
            token: token(n),
            socket,
            turn_bytes_max: BYTES as u32,
            is_limited: false,
        });
    };
    for (n, (socket, ..)) in all.iter().enumerate() {
        arm(&mut fixture, n, *socket);
    }
    let mut blocks = Vec::new();
    while all.iter().any(|(.., received)| received.len() < BYTES) {
        turn_until(&mut fixture, "more bytes", |fixture, event| {
            let n = event.token.index() as usize;
            let (socket, _, received) = &mut all[n];
            match event.payload {
                Payload::Block(block) => {
                    received.extend_from_slice(&block);
                    if blocks.len() < KEPT {
                        blocks.push(block);
                    } else {
                        fixture.driver().submit(Op::Provide(block));
                    }
                }
                _ => assert!(!event.more, "{event:?}"),
            }
            if !event.more {
                arm(fixture, n, *socket);
            }
            true
        });
    }
    assert_eq!(blocks.len(), KEPT);
    for block in blocks {
        fixture.driver().submit(Op::Provide(block));
    }
    for (n, (.., received)) in all.iter().enumerate() {
        assert!(*received == pattern(BYTES + n)[n..], "connection {n}");
    }
}

/// Hazard 1: after an event without `more` there is no other one, whatever the socket has.
pub(super) fn what_is_over_stays_over<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    fixture.driver().submit(Op::Cancel { target: RECV, socket });
    turn_until(&mut fixture, "the last event", |_, event| !event.more);
    peer.send(b"nobody receives this yet");
    quiet(&mut fixture);
    peer.shutdown();
    quiet(&mut fixture);
    // Hazard 11: bytes and end came while nothing was armed; both are seen as soon as something is.
    recv(&mut fixture, socket);
    assert_eq!(recv_all(&mut fixture, socket), b"nobody receives this yet");
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Hazard 2: ends, resets and cancels take no buffer with them, whatever their completions say.
pub(super) fn ends_and_failures_cost_no_buffer<F: Fixture>() {
    const BUFFERS: u16 = 8;
    let mut fixture = F::new(BUFFERS, 512);
    for round in 0..3 * usize::from(BUFFERS) {
        let (socket, mut peer) = connection(&mut fixture);
        recv(&mut fixture, socket);
        match round % 3 {
            0 => peer.shutdown(),
            1 => peer.reset(),
            _ => {
                fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
                fixture.driver().submit(Op::Cancel { target: RECV, socket });
            }
        }
        turn_until(&mut fixture, "the last event", |_, event| {
            assert!(matches!(event.payload, Payload::None) && !event.more, "{event:?}");
            true
        });
        fixture.driver().submit(Op::Close { socket, reset: false });
    }
    let (socket, mut peer) = connection(&mut fixture);
    peer.send(&pattern(usize::from(BUFFERS) * 512 + 1));
    recv(&mut fixture, socket);
    let mut blocks = Vec::new();
    turn_until(&mut fixture, "ENOBUFS", |fixture, event| {
        let is_block = matches!(event.payload, Payload::Block(_));
        assert!(is_block || event.result == Err(Errno::ENOBUFS), "{event:?}");
        if is_block && !event.more {
            recv(fixture, socket);
        }
        if let Payload::Block(block) = event.payload {
            blocks.push(block);
        }
        !is_block
    });
    assert_eq!(blocks.len(), usize::from(BUFFERS), "buffers were lost on the way");
    for block in blocks {
        fixture.driver().submit(Op::Provide(block));
    }
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Hazard 3: bytes that came before a cancel, or with it, are told; then the operation ends once.
pub(super) fn a_cancel_that_races_data_loses_nothing<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    for round in 0..20 {
        let (socket, mut peer) = connection(&mut fixture);
        recv(&mut fixture, socket);
        if round % 2 == 0 {
            fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
        }
        let sent = pattern(300 + round);
        peer.send(&sent);
        fixture.driver().submit(Op::Cancel { target: RECV, socket });
        let mut received = Vec::new();
        turn_until(&mut fixture, "the last event", |fixture, event| {
            if let Payload::Block(block) = event.payload {
                received.extend_from_slice(&block);
                fixture.driver().submit(Op::Provide(block));
            } else {
                assert_eq!((event.result, event.more), (Err(Errno::ECANCELED), false));
            }
            !event.more
        });
        peer.shutdown();
        recv(&mut fixture, socket);
        received.extend(recv_all(&mut fixture, socket));
        assert!(received == sent, "round {round}: {} of {} bytes", received.len(), sent.len());
        fixture.driver().submit(Op::Close { socket, reset: false });
    }
}

/// Hazard 3: a cancel that finds nothing, or another operation, changes nothing and says nothing.
pub(super) fn a_cancel_of_nothing_is_silent<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    fixture.driver().submit(Op::Cancel { target: RECV, socket });
    fixture.driver().submit(Op::CancelAll { socket });
    quiet(&mut fixture);
    recv(&mut fixture, socket);
    let earlier = Token::new(Kind::Recv, RECV.generation() - 1, RECV.index());
    fixture.driver().submit(Op::Cancel { target: earlier, socket });
    quiet(&mut fixture);
    peer.send(b"still here");
    peer.shutdown();
    assert_eq!(recv_all(&mut fixture, socket), b"still here");
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Hazard 4: each completion has the token of its own operation, also when the next tenant of the slot came at once.
pub(super) fn tokens_tell_the_tenants_of_a_slot_apart<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    for generation in 1..20 {
        let (socket, mut peer) = connection(&mut fixture);
        let token = |kind| Token::new(kind, generation, 7);
        let bytes = pattern(generation as usize);
        fixture.driver().submit(Op::Recv {
            token: token(Kind::Recv),
            socket,
            turn_bytes_max: 512,
            is_limited: false,
        });
        let then = if generation % 2 == 0 { Then::GoOn } else { Then::Rest };
        let output = output(&[&bytes]);
        fixture.driver().submit(Op::Send { token: token(Kind::Send), socket, output, then });
        peer.send(&bytes);
        let mut over = Vec::new();
        let mut events = Vec::new();
        for turn in 0..TURNS_MAX {
            if turn == 1 {
                fixture.driver().submit(Op::CancelAll { socket });
            }
            fixture.driver().turn(Wait::Poll, &mut events).unwrap();
            let until = fixture.driver().now().after(Duration::from_millis(1));
            fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
            for event in events.drain(..) {
                assert_eq!(event.token.generation(), generation, "an event of an earlier tenant");
                assert_eq!(event.token.index(), 7);
                if !event.more {
                    over.push(event.token);
                }
                if let Payload::Block(block) = event.payload {
                    fixture.driver().submit(Op::Provide(block));
                }
            }
            if turn > 0 && over.len() == 2 {
                break;
            }
        }
        over.sort_unstable();
        assert_eq!(over, [token(Kind::Recv), token(Kind::Send)], "each operation ends once");
        fixture.driver().submit(Op::Close { socket, reset: true });
    }
}

/// Hazards 6 and 7: a driver that is dropped in the middle frees nothing that is still used.
pub(super) fn a_driver_may_end_in_the_middle<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    peer.send(b"read me later");
    recv(&mut fixture, socket);
    // Never read: the send is stuck with its memory.
    let big = vec![1; 32 << 20];
    fixture.driver().submit(Op::Send { token: SEND, socket, output: output(&[&big]), then: Then::GoOn });
    let mut kept = None;
    turn_until(&mut fixture, "a block", |fixture, event| match event.payload {
        Payload::Block(block) => {
            kept = Some(block);
            true
        }
        Payload::Output(mut rest) => {
            rest.advance(event.result.unwrap() as usize);
            fixture.driver().submit(Op::Send { token: SEND, socket, output: rest, then: Then::GoOn });
            false
        }
        _ => false,
    });
    drop(fixture);
    drop(peer);
    let kept = kept.expect("a block came");
    assert!(b"read me later".starts_with(&kept) && !kept.is_empty());
}

/// Hazard 8: a signal ends a wait, or not even that; it is no failure.
pub(super) fn a_signal_is_no_failure<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    for _ in 0..5 {
        let interrupter = crate::sys::signal::interrupt_this_thread_after(Duration::from_millis(5));
        let mut events = Vec::new();
        let until = fixture.driver().now().after(Duration::from_millis(20));
        for _ in 0..TURNS_MAX {
            fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
            assert!(events.is_empty());
            if fixture.driver().now() >= until {
                break;
            }
        }
        interrupter.join().unwrap();
    }
    peer.send(b"after");
    peer.shutdown();
    assert_eq!(recv_all(&mut fixture, socket), b"after");
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Hazard 12: a peer that sends without end does not keep others from being served.
pub(super) fn one_peer_cannot_have_the_turn_for_itself<F: Fixture>() {
    // Little enough for the socket buffers of any system, since nobody reads while it is sent.
    const BYTES: usize = 160 * 1024;
    let mut fixture = F::new(64, 512);
    let (chatty, mut chatterer) = connection(&mut fixture);
    let (quiet, mut other) = connection(&mut fixture);
    chatterer.send(&pattern(BYTES));
    other.send(b"!");
    let (first, second) = (Token::new(Kind::Recv, 1, 1), Token::new(Kind::Recv, 1, 2));
    let turn_bytes_max = 4096;
    fixture.driver().submit(Op::Recv { token: first, socket: chatty, turn_bytes_max, is_limited: false });
    fixture.driver().submit(Op::Recv { token: second, socket: quiet, turn_bytes_max, is_limited: false });
    let mut before = 0;
    turn_until(&mut fixture, "the byte of the quiet peer", |fixture, event| {
        assert!(event.result.is_ok() || event.result == Err(Errno::ENOBUFS), "{event:?}");
        let (is_chatty, is_over) = (event.token == first, !event.more);
        let mut is_quiet = false;
        if let Payload::Block(block) = event.payload {
            before += if is_chatty { block.len() } else { 0 };
            is_quiet = !is_chatty;
            fixture.driver().submit(Op::Provide(block));
        }
        if is_over {
            let (token, socket) = if is_chatty { (first, chatty) } else { (second, quiet) };
            fixture.driver().submit(Op::Recv { token, socket, turn_bytes_max, is_limited: false });
        }
        is_quiet
    });
    assert!(before <= BYTES / 2, "{before} bytes came first");
    for socket in [chatty, quiet] {
        fixture.driver().submit(Op::CancelAll { socket });
    }
    let mut over = 0;
    turn_until(&mut fixture, "the last events", |fixture, event| {
        over += usize::from(!event.more);
        if let Payload::Block(block) = event.payload {
            fixture.driver().submit(Op::Provide(block));
        }
        over == 2
    });
    for socket in [chatty, quiet] {
        fixture.driver().submit(Op::Close { socket, reset: true });
    }
}

/// Hazard 3: a send that nobody waits for on a full socket, and then everything is called off before the driver had a turn.
pub(super) fn a_cancel_right_behind_a_send_is_not_lost<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, _peer) = connection(&mut fixture);
    let big = pattern(64 << 20);
    let mut events = Vec::new();
    let mut rest = output(&[&big]);
    // Until the socket is full: the peer does not read.
    for _ in 0..TURNS_MAX {
        fixture.driver().submit(Op::Send { token: SEND, socket, output: rest, then: Then::Rest });
        fixture.driver().submit(Op::CancelAll { socket });
        rest = loop {
            let until = fixture.driver().now().after(Duration::from_secs(10));
            fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
            let event = events.pop().expect("the send is over, or will never be");
            if let Payload::Output(mut rest) = event.payload {
                match event.result {
                    Ok(bytes) => rest.advance(bytes as usize),
                    Err(Errno::EAGAIN | Errno::ECANCELED) => {
                        return fixture.driver().submit(Op::Close { socket, reset: true });
                    }
                    Err(errno) => panic!("{errno}"),
                }
                break rest;
            }
        };
    }
    panic!("the socket was never full");
}

/// Hazard 3: a poll finds a datagram, somebody else takes it, and then everything is called off: nothing may wait for another one.
pub(super) fn what_is_called_off_does_not_try_again<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let socket = fixture.datagram_socket();
    fixture.send_datagram(socket, b"taken by somebody else");
    fixture.driver().submit(Op::AwaitDatagrams { token: DATAGRAMS, socket });
    // More than a queue of submissions holds, so that the kernel has the first of them before the cancel comes.
    for _ in 0..1000 {
        fixture.driver().submit(Op::Cancel { target: RECV, socket });
    }
    fixture.steal_datagram(socket);
    fixture.driver().submit(Op::Cancel { target: DATAGRAMS, socket });
    // It may have ended before; only once, and the socket can be closed then.
    turn_until(&mut fixture, "the end of a wait", |_, event| {
        assert_eq!((event.token, event.more), (DATAGRAMS, false));
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
    // The same with an event counter: it stays raised for whoever watches it next.
    let counter = EventCounter::new().unwrap();
    let (token, socket) = (Token::new(Kind::Wake, 0, 2), counter.socket());
    counter.raise();
    fixture.driver().submit(Op::Watch { token, socket });
    for _ in 0..1000 {
        fixture.driver().submit(Op::Cancel { target: RECV, socket });
    }
    fixture.driver().submit(Op::CancelAll { socket });
    for result in [Err(Errno::ECANCELED), Ok(1)] {
        turn_until(&mut fixture, "the end of a watch", |_, event| {
            assert_eq!((event.token, event.result, event.more), (token, result, false));
            true
        });
        fixture.driver().submit(Op::Watch { token, socket });
    }
    quiet(&mut fixture);
}

/// Hazard 12: of two peers that each could use up all buffers in every turn, none waits until the other has sent everything.
pub(super) fn a_shortage_of_buffers_is_shared<F: Fixture>() {
    const BYTES: usize = 64 * 1024;
    let mut fixture = F::new(8, 512);
    let mut connections = [connection(&mut fixture), connection(&mut fixture)];
    let token = |n: usize| Token::new(Kind::Recv, 1, n as u32);
    let arm = |fixture: &mut F, n: usize, socket| {
        fixture.driver().submit(Op::Recv {
            token: token(n),
            socket,
            turn_bytes_max: 8 * 512,
            is_limited: false,
        });
    };
    for (n, (socket, peer)) in connections.iter_mut().enumerate() {
        peer.send(&pattern(BYTES));
        peer.shutdown();
        arm(&mut fixture, n, *socket);
    }
    let (mut received, mut ends, mut other_at_first_end) = ([0; 2], 0, None);
    for _ in 0..TURNS_MAX {
        let mut events = Vec::new();
        let until = fixture.driver().now().after(Duration::from_millis(10));
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        // As a worker does it: all buffers come back, then those that found none try again, first who got nothing.
        let (mut again, mut fed) = (Vec::new(), [false; 2]);
        for event in events {
            let n = event.token.index() as usize;
            if let Payload::Block(block) = event.payload {
                received[n] += block.len();
                fed[n] = true;
                fixture.driver().submit(Op::Provide(block));
            }
            if event.result == Ok(0) {
                ends += 1;
                other_at_first_end.get_or_insert(received[1 - n]);
            } else if !event.more {
                again.push(n);
            }
        }
        if ends == 2 {
            break;
        }
        again.sort_by_key(|n| fed[*n]);
        for n in again {
            arm(&mut fixture, n, connections[n].0);
        }
    }
    assert_eq!((received, ends), ([BYTES; 2], 2));
    let other = other_at_first_end.unwrap();
    assert!(other > BYTES / 8, "one had all its {BYTES} bytes when the other had {other}");
    for (socket, _) in connections {
        fixture.driver().submit(Op::Close { socket, reset: false });
    }
}

/// Hazard 13: the bytes and the reset are both there before the driver looks.
pub(super) fn a_reset_right_behind_bytes_can_be_found<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    peer.send(b"last words");
    peer.reset();
    turn_until(&mut fixture, "the reset", |fixture, event| {
        if let Payload::Block(block) = event.payload {
            fixture.driver().submit(Op::Provide(block));
        }
        match (event.result, event.more) {
            (Err(Errno::ECONNRESET), false) => return true,
            (_, true) => {}
            (_, false) => recv(fixture, socket),
        }
        false
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
}
