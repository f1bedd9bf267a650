//! The contract of a driver as tests: every driver passes all of them, so that the simulated one cannot drift
//! from the kernel. A case gets a [`Fixture`], which makes a driver with sockets and peers of its kind.
//!
//! What a kernel does to those who do not expect it, and who keeps what follows. Cases named here are in this file or
//! in `suite/`; what is the worker's is kept by the simulator (`ringmill-protocols/tests/simulator`), by its
//! fault or by the break of the worker that it must catch.
//!
//! | | hazard | case of every driver | the worker's, in the simulator |
//! |---|---|---|---|
//! | 1 | no `more` means over, whatever the result | `what_is_over_stays_over`, `running_out_of_buffers_loses_nothing`, `a_flood_of_completions_loses_nothing` | `RecvOver`, `MoreIgnored` |
//! | 2 | a completion names a buffer that it did not take | `ends_and_failures_cost_no_buffer`; a lie is refused by `pool.rs`: `a_completion_cannot_claim_what_is_out` | `BufferForgotten` |
//! | 3 | closing cancels nothing; a cancel races with data | `a_cancel_that_races_data_loses_nothing`, `a_cancelled_receive_ends_once`, `a_cancel_of_nothing_is_silent`, `cancel_all_ends_both_directions`, `a_cancel_right_behind_a_send_is_not_lost`, `what_is_called_off_does_not_try_again` | `LateCancel`, `ClosedTooSoon`, `CancelForgotten` |
//! | 4 | completions for an earlier tenant of a slot | `tokens_tell_the_tenants_of_a_slot_apart` | `Stale`, `GenerationUnchecked` |
//! | 5 | operations in flight on one socket are unordered | none: a driver sends what it is given | `SendsOverlap` |
//! | 6 | sends are short, and may be stuck for ever | `sends_every_byte_in_order`, `nothing_is_on_its_way_to_who_has_reset`, `cancel_all_ends_both_directions`, `one_of_several_silent_sends_fails`, `a_short_silent_send_ends_the_wait` | `ShortSend`, `NeverReads`, `ShortSendDropped`, `StallUntimed` |
//! | 7 | memory outlives whoever asked for it | `a_driver_may_end_in_the_middle`, `a_flood_of_completions_loses_nothing`; `pool.rs`: `a_block_outlives_its_pool` | blocks are counted after each turn |
//! | 8 | EINTR, EBUSY, ETIME are not failures; a ring belongs to one thread | `a_signal_is_no_failure`, `a_wait_ends_at_its_time`; a ring is made on its thread (`engine/spawn.rs`) | `EarlyReturn`, `Interrupted`, `Again`, `QueueFull` |
//! | 9 | sleeping and waking race | `a_counter_is_reported_once_for_each_watch`; `bell.rs`: `no_ring_is_left_behind_unannounced` | `SpuriousWake`, `MailboxForgotten` |
//! | 10 | closing a listener resets its queue | `accepts_what_is_queued_and_no_more` | `Drained` |
//! | 11 | who does not receive does not see the end | `what_is_over_stays_over` | `StallUntimed`, `EofForgotten` |
//! | 12 | one client keeps the receive loop busy | `one_peer_cannot_have_the_turn_for_itself`, `a_shortage_of_buffers_is_shared` | `Drought`, `StarvedForgotten` |
//! | 13 | a reset that comes with bytes is not always told | `a_reset_right_behind_bytes_can_be_found`; it takes thousands to see one: `tests/hostile_load.rs` | none |

mod hazards;
mod silent;
mod splice;

use hazards::*;
use silent::*;
use splice::*;

use crate::address::Address;
use crate::datagram::Datagrams;
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::seam::names::Names;
use crate::sys::EventCounter;
use crate::token::{Kind, Token};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// A driver with the other ends of its sockets.
trait Fixture: Sized {
    type Driver: Driver;
    type Peer: Peer;

    /// Why the driver cannot be used on this machine, if it cannot.
    fn refusal() -> Option<String> {
        None
    }
    fn new(buffers: u16, bytes: usize) -> Self;
    fn driver(&mut self) -> &mut Self::Driver;
    fn listener(&mut self) -> Socket;
    fn connect(&mut self, listener: Socket) -> Self::Peer;
    fn datagram_socket(&mut self) -> Socket;
    fn send_datagram(&mut self, to: Socket, bytes: &[u8]);
    /// Takes the datagram that waits at a socket of the driver, as another process would that has it too.
    fn steal_datagram(&mut self, at: Socket);
    /// Waits for the next datagram that `from` sent.
    fn take_datagram(&mut self, from: Socket) -> Vec<u8>;
    /// An address that takes datagrams of flows.
    fn flow_remote(&mut self) -> SocketAddr;
    /// Waits for the next datagram that came there, with the address it came from.
    fn take_from_flow(&mut self) -> (SocketAddr, Vec<u8>);
    /// Sends a datagram from there.
    fn send_to_flow(&mut self, flow: SocketAddr, bytes: &[u8]);
    /// An address that takes connections.
    fn remote(&mut self) -> Address;
    /// The other end of the connection that was made to it.
    fn take_connection(&mut self, remote: &Address) -> Self::Peer;
    /// An address where nobody listens.
    fn deaf(&mut self) -> Address;
    /// An address that does not answer.
    fn silent(&mut self) -> Address;
}

trait Peer {
    fn send(&mut self, bytes: &[u8]);
    /// What has arrived by now.
    fn take(&mut self) -> Vec<u8>;
    fn shutdown(&mut self);
    fn reset(&mut self);
    /// Whether the server's end was seen, or a reset.
    fn is_at_end(&mut self) -> bool;
}

const RECV: Token = Token::new(Kind::Recv, 3, 1);
const SEND: Token = Token::new(Kind::Send, 3, 1);
const ACCEPT: Token = Token::new(Kind::Accept, 0, 5);
/// Turns before a case gives up: each waits up to 10 ms, so this is a generous deadline, not a measure.
const TURNS_MAX: usize = 1000;

/// Turns the driver until `done` says so; panics with what is missing when it never does.
fn turn_until<F: Fixture>(fixture: &mut F, missing: &str, mut done: impl FnMut(&mut F, Event) -> bool) {
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

/// A connection with nothing in flight.
fn connection<F: Fixture>(fixture: &mut F) -> (Socket, F::Peer) {
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

fn recv<F: Fixture>(fixture: &mut F, socket: Socket) {
    fixture.driver().submit(Op::Recv { token: RECV, socket, turn_bytes_max: 64 * 1024 });
}

fn output(pieces: &[&[u8]]) -> Box<Output> {
    let mut output = Box::<Output>::default();
    for piece in pieces {
        output.push_shared(Bytes::copy_from_slice(piece));
    }
    output
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// Receives until the end of the stream; arms again whenever the operation ended before.
fn recv_all<F: Fixture>(fixture: &mut F, socket: Socket) -> Vec<u8> {
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

fn accepts_until_cancelled<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let listener = fixture.listener();
    let _peers: Vec<F::Peer> = (0..5).map(|_| fixture.connect(listener)).collect();
    fixture.driver().submit(Op::Accept { token: ACCEPT, listener });
    let mut sockets = Vec::new();
    turn_until(&mut fixture, "five connections", |_, event| {
        assert_eq!((event.token, event.more), (ACCEPT, true));
        sockets.push(event.result.unwrap());
        sockets.len() == 5
    });
    sockets.dedup();
    assert_eq!(sockets.len(), 5);
    fixture.driver().submit(Op::Cancel { target: ACCEPT, socket: listener });
    turn_until(&mut fixture, "the last event", |_, event| {
        assert_eq!((event.token, event.result, event.more), (ACCEPT, Err(Errno::ECANCELED), false));
        true
    });
    for socket in sockets {
        fixture.driver().submit(Op::Close { socket: Socket(socket as i32), reset: false });
    }
    fixture.driver().submit(Op::Close { socket: listener, reset: false });
}

fn accepts_what_is_queued_and_no_more<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    for connections in [0, 3] {
        let listener = fixture.listener();
        let _peers: Vec<F::Peer> = (0..connections).map(|_| fixture.connect(listener)).collect();
        fixture.driver().submit(Op::AcceptRest { token: ACCEPT, listener });
        let mut sockets = Vec::new();
        turn_until(&mut fixture, "the end of the queue", |_, event| {
            assert_eq!(event.token, ACCEPT);
            assert_eq!(event.more, event.result.is_ok());
            match event.result {
                Ok(socket) => sockets.push(Socket(socket as i32)),
                Err(errno) => assert_eq!(errno, Errno::ECANCELED),
            }
            !event.more
        });
        assert_eq!(sockets.len(), connections);
        for socket in sockets.into_iter().chain([listener]) {
            fixture.driver().submit(Op::Close { socket, reset: false });
        }
    }
}

fn receives_in_order_to_the_end<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (socket, mut peer) = connection(&mut fixture);
    recv(&mut fixture, socket);
    let sent = pattern(50_000);
    peer.send(&sent);
    peer.shutdown();
    assert!(recv_all(&mut fixture, socket) == sent);
    fixture.driver().submit(Op::Close { socket, reset: false });
}

fn sends_every_byte_in_order<F: Fixture>() {
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

/// Sends until nothing is left, and calls `each_time` after each event.
fn send_all<F: Fixture>(
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

/// Sends that nobody waits for are told with the next turn that does not wait, short ones and stuck ones as always.
fn sends_that_nobody_awaits_are_told_later<F: Fixture>() {
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

fn a_cancelled_receive_ends_once<F: Fixture>() {
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

fn running_out_of_buffers_loses_nothing<F: Fixture>() {
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

fn cancel_all_ends_both_directions<F: Fixture>() {
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

/// Sends until the peer, which does not read, takes no more: a send is stuck.
fn fill<F: Fixture>(fixture: &mut F, socket: Socket) {
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

fn a_reset_ends_the_receive<F: Fixture>() {
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

fn nothing_is_on_its_way_to_who_has_reset<F: Fixture>() {
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

fn a_shut_socket_still_receives<F: Fixture>() {
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

fn closing_ends_the_connection<F: Fixture>() {
    for reset in [false, true] {
        let mut fixture = F::new(8, 512);
        let (socket, mut peer) = connection(&mut fixture);
        fixture.driver().submit(Op::Close { socket, reset });
        turn_while(&mut fixture, |_| !peer.is_at_end());
    }
}

/// Whatever the driver keeps back of a last send leaves with the end of the stream, which either operation is.
fn the_last_bytes_leave_with_the_end<F: Fixture>() {
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

/// Turns without events while `busy`.
fn turn_while<F: Fixture>(fixture: &mut F, mut busy: impl FnMut(&mut F) -> bool) {
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

fn a_wait_ends_at_its_time<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let until = fixture.driver().now().after(Duration::from_millis(30));
    let mut events = Vec::new();
    for _ in 0..TURNS_MAX {
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        assert!(events.is_empty());
        if fixture.driver().now() >= until {
            return;
        }
    }
    panic!("the clock stands still");
}

fn a_counter_is_reported_once_for_each_watch<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let counter = EventCounter::new().unwrap();
    let token = Token::new(Kind::Wake, 0, 0);
    for _ in 0..3 {
        fixture.driver().submit(Op::Watch { token, socket: counter.socket() });
        fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
        counter.raise();
        turn_until(&mut fixture, "the wake-up", |_, event| {
            assert_eq!((event.token, event.more), (token, false));
            true
        });
    }
    // Raised before anybody watches: it is not lost.
    counter.raise();
    fixture.driver().submit(Op::Watch { token, socket: counter.socket() });
    turn_until(&mut fixture, "the early wake-up", |_, event| event.token == token);
}

const DATAGRAMS: Token = Token::new(Kind::Datagrams, 4, 2);

/// Waits for a datagram socket to have something, and receives it.
fn receive_datagrams<F: Fixture>(
    fixture: &mut F,
    socket: Socket,
    batch: &mut Datagrams,
) -> Result<usize, Errno> {
    loop {
        fixture.driver().submit(Op::AwaitDatagrams { token: DATAGRAMS, socket });
        turn_until(fixture, "a datagram", |_, event| {
            assert_eq!((event.token, event.result.is_ok(), event.more), (DATAGRAMS, true, false));
            matches!(event.payload, Payload::None)
        });
        match fixture.driver().recv_datagrams(socket, batch) {
            // Readiness is a hint.
            Err(Errno::EAGAIN) => {}
            received => return received,
        }
    }
}

/// Cancels what waits for datagrams.
fn call_datagrams_off<F: Fixture>(fixture: &mut F, socket: Socket) {
    fixture.driver().submit(Op::AwaitDatagrams { token: DATAGRAMS, socket });
    fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    fixture.driver().submit(Op::Cancel { target: DATAGRAMS, socket });
    turn_until(fixture, "the end of a wait that was cancelled", |_, event| {
        assert_eq!((event.token, event.result), (DATAGRAMS, Err(Errno::ECANCELED)));
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
}

fn datagrams_come_and_go<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let socket = fixture.datagram_socket();
    let mut batch = Datagrams::for_receiving();
    assert_eq!(fixture.driver().recv_datagrams(socket, &mut batch), Err(Errno::EAGAIN));
    for len in [0, 1, 64, 1500, 9000, 65_507] {
        let sent = pattern(len);
        fixture.send_datagram(socket, &sent);
        assert_eq!(receive_datagrams(&mut fixture, socket, &mut batch), Ok(1));
        let mut back = Datagrams::default();
        batch.for_each(|from: SocketAddr, bytes| {
            assert!(bytes == sent);
            assert!(back.push(from, bytes));
        });
        assert_eq!(fixture.driver().send_datagrams(socket, &mut back), Ok(()));
        assert!(fixture.take_datagram(socket) == sent, "{len} bytes");
    }
    // More than a batch holds: what is left is told of, without anything new.
    for n in 0..70 {
        fixture.send_datagram(socket, &[n; 3]);
    }
    let mut next = 0;
    while next < 70 {
        receive_datagrams(&mut fixture, socket, &mut batch).unwrap();
        batch.for_each(|_, bytes| {
            assert_eq!(bytes, [next; 3]);
            next += 1;
        });
    }
    call_datagrams_off(&mut fixture, socket);
}

fn a_flow_has_its_peer_alone<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (remote, deaf) = (fixture.flow_remote(), fixture.deaf().ip().unwrap());
    let (mut batch, mut out) = (Datagrams::for_receiving(), Datagrams::default());
    let socket = fixture.driver().flow_socket(remote).unwrap();
    out.is_connected = true;
    for bytes in [b"one".as_slice(), b"two", b"longer"] {
        assert!(out.push(remote, bytes));
    }
    assert_eq!(fixture.driver().send_datagrams(socket, &mut out), Ok(()));
    let came = [(); 3].map(|()| fixture.take_from_flow());
    assert_eq!(came.each_ref().map(|(_, bytes)| &bytes[..]), [b"one".as_slice(), b"two", b"longer"]);
    let flow = came[0].0;
    fixture.send_to_flow(flow, b"an answer");
    assert_eq!(receive_datagrams(&mut fixture, socket, &mut batch), Ok(1));
    batch.for_each(|from, bytes| assert_eq!((from, bytes), (remote, b"an answer".as_slice())));
    call_datagrams_off(&mut fixture, socket);
    // Where nobody listens that is told, once, and the socket goes on.
    let socket = fixture.driver().flow_socket(deaf).unwrap();
    for _ in 0..2 {
        out.reset_sent();
        assert!(out.push(deaf, b"is anybody there?"));
        assert_eq!(fixture.driver().send_datagrams(socket, &mut out), Ok(()));
        assert_eq!(receive_datagrams(&mut fixture, socket, &mut batch), Err(Errno::ECONNREFUSED));
    }
    // The next send hears of it as well, and sends all the same.
    for expected in [None, Some(Errno::ECONNREFUSED)] {
        out.reset_sent();
        assert!(out.push(deaf, b"and now?"));
        assert_eq!(fixture.driver().send_datagrams(socket, &mut out), Ok(()));
        assert_eq!((out.failure, out.refused), (expected, 0));
    }
    fixture.driver().submit(Op::Close { socket, reset: false });
}

const CONNECT: Token = Token::new(Kind::Connect, 9, 2);

/// A socket that is being connected.
fn connecting<F: Fixture>(fixture: &mut F, address: &Address) -> Socket {
    let socket = fixture.driver().stream_socket(address, None).unwrap();
    fixture.driver().submit(Op::Connect { token: CONNECT, socket, address: Box::new(address.clone()) });
    socket
}

fn connects_and_talks<F: Fixture>() {
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

fn connecting_to_nobody_is_refused<F: Fixture>() {
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

fn a_cancelled_connect_ends_once<F: Fixture>() {
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

macro_rules! suite {
    ($fixture:ty: $($case:ident)*) => {
        $(#[test]
        fn $case() {
            match <$fixture as crate::driver::suite::Fixture>::refusal() {
                // Past the capture of the test harness, so that nobody takes it for a test that ran.
                Some(reason) => drop(writeln!(std::io::stderr(), "{} did not run: {reason}", module_path!())),
                None => crate::driver::suite::$case::<$fixture>(),
            }
        })*
    };
}

macro_rules! all_cases {
    ($fixture:ty) => {
        use std::io::Write as _;
        suite! { $fixture:
            accepts_until_cancelled
            accepts_what_is_queued_and_no_more
            receives_in_order_to_the_end
            sends_every_byte_in_order
            sends_that_nobody_awaits_are_told_later
            one_of_several_silent_sends_fails
            a_short_silent_send_ends_the_wait
            a_cancelled_receive_ends_once
            a_cancel_right_behind_a_send_is_not_lost
            what_is_called_off_does_not_try_again
            running_out_of_buffers_loses_nothing
            cancel_all_ends_both_directions
            a_reset_ends_the_receive
            nothing_is_on_its_way_to_who_has_reset
            a_reset_right_behind_bytes_can_be_found
            a_shut_socket_still_receives
            closing_ends_the_connection
            the_last_bytes_leave_with_the_end
            a_wait_ends_at_its_time
            a_counter_is_reported_once_for_each_watch
            datagrams_come_and_go
            a_flow_has_its_peer_alone
            connects_and_talks
            connecting_to_nobody_is_refused
            a_cancelled_connect_ends_once
            a_flood_of_completions_loses_nothing
            what_is_over_stays_over
            ends_and_failures_cost_no_buffer
            a_cancel_that_races_data_loses_nothing
            a_cancel_of_nothing_is_silent
            tokens_tell_the_tenants_of_a_slot_apart
            a_driver_may_end_in_the_middle
            a_signal_is_no_failure
            one_peer_cannot_have_the_turn_for_itself
            a_shortage_of_buffers_is_shared
            accepting_goes_on_after_an_end
            splices_every_byte_in_order_to_the_end
            a_cancelled_splice_gives_back_what_it_holds
            a_splice_ends_with_either_peer
            cancel_all_ends_a_splice
            without_a_pipe_nothing_is_lost
        }
    };
}

mod uring {
    use super::sockets::Sockets;
    use crate::driver::uring::{Uring, probe};

    pub(super) struct Make;

    impl super::sockets::Make for Make {
        type Driver = Uring;

        fn refusal() -> Option<String> {
            probe().err()
        }

        fn make(buffers: u16, bytes: usize) -> Uring {
            Uring::new(probe().expect("asked before"), buffers, bytes).unwrap()
        }
    }

    all_cases!(Sockets<Make>);
    suite! { Sockets<Make>: a_refused_silent_send_ends_the_wait a_full_datagram_socket_tells_of_room }
}

mod poll {
    use super::sockets::Sockets;
    use crate::driver::poll::Poll;

    pub(super) struct Make;

    impl super::sockets::Make for Make {
        type Driver = Poll;

        fn make(buffers: u16, bytes: usize) -> Poll {
            Poll::new(buffers, bytes).unwrap()
        }
    }

    all_cases!(Sockets<Make>);
    suite! { Sockets<Make>: a_full_datagram_socket_tells_of_room }
}

mod sim {
    use super::{Fixture, Peer};
    use crate::address::Address;
    use crate::driver::sim::{self, Answer, Chaos, Net, Sim};
    use crate::event::{Errno, Socket};
    use std::net::SocketAddr;

    pub(super) struct Simulated<const WILD: bool> {
        driver: Sim,
        net: Net,
    }

    impl<const WILD: bool> Fixture for Simulated<WILD> {
        type Driver = Sim;
        type Peer = sim::Peer;

        fn new(buffers: u16, bytes: usize) -> Self {
            let chaos = if WILD { Chaos::SHORT } else { Chaos::CALM };
            let (driver, net) = Sim::new(7, chaos, buffers, bytes);
            Simulated { driver, net }
        }

        fn driver(&mut self) -> &mut Sim {
            &mut self.driver
        }

        fn listener(&mut self) -> Socket {
            self.net.listen()
        }

        fn connect(&mut self, listener: Socket) -> sim::Peer {
            self.net.connect(listener).unwrap()
        }

        fn datagram_socket(&mut self) -> Socket {
            self.net.datagram_socket()
        }

        fn send_datagram(&mut self, to: Socket, bytes: &[u8]) {
            self.net.send_datagram(to, SocketAddr::from(([127, 0, 0, 1], 9)), bytes);
        }

        fn steal_datagram(&mut self, at: Socket) {
            self.net.steal_datagram(at);
        }

        fn take_datagram(&mut self, from: Socket) -> Vec<u8> {
            self.net.take_datagram(from).expect("a simulated datagram arrives at once").1
        }

        fn flow_remote(&mut self) -> SocketAddr {
            self.answering(4, Answer::Accept).ip().expect("an IP address")
        }

        fn take_from_flow(&mut self) -> (SocketAddr, Vec<u8>) {
            let remote = self.flow_remote();
            self.net.take_from_flow(remote).expect("a simulated datagram arrives at once")
        }

        fn send_to_flow(&mut self, flow: SocketAddr, bytes: &[u8]) {
            let remote = self.flow_remote();
            assert!(self.net.send_to_flow(remote, flow, bytes));
        }

        fn remote(&mut self) -> Address {
            self.answering(1, Answer::Accept)
        }

        fn take_connection(&mut self, remote: &Address) -> sim::Peer {
            self.net.take_connection(remote).expect("it was connected")
        }

        fn deaf(&mut self) -> Address {
            self.answering(2, Answer::Fail(Errno::ECONNREFUSED))
        }

        fn silent(&mut self) -> Address {
            self.answering(3, Answer::Silence)
        }
    }

    impl<const WILD: bool> Simulated<WILD> {
        fn answering(&mut self, port: u16, answer: Answer) -> Address {
            let address = Address::Ip(SocketAddr::from(([127, 0, 0, 3], port)));
            self.net.set_remote(address.clone(), answer);
            address
        }
    }

    impl Peer for sim::Peer {
        fn send(&mut self, bytes: &[u8]) {
            sim::Peer::send(self, bytes);
        }

        fn take(&mut self) -> Vec<u8> {
            sim::Peer::take(self)
        }

        fn shutdown(&mut self) {
            sim::Peer::shutdown(self);
        }

        fn reset(&mut self) {
            sim::Peer::reset(self);
        }

        fn is_at_end(&mut self) -> bool {
            sim::Peer::is_at_end(self)
        }
    }

    mod calm {
        use super::Simulated;
        all_cases!(Simulated<false>);
    }

    mod wild {
        use super::Simulated;
        all_cases!(Simulated<true>);
    }
}

/// Real sockets on loopback.
mod sockets {
    use super::{Fixture, Peer};
    use crate::address::Address;
    use crate::driver::Driver;
    use crate::event::Socket;
    use std::io::{ErrorKind, Read, Write};
    use std::marker::PhantomData;
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::IntoRawFd;
    use std::time::Duration;

    pub(super) trait Make {
        type Driver: Driver;
        fn refusal() -> Option<String> {
            None
        }
        fn make(buffers: u16, bytes: usize) -> Self::Driver;
    }

    pub(super) struct Sockets<M: Make> {
        driver: M::Driver,
        datagrams: UdpSocket,
        remotes: Vec<TcpListener>,
        /// Kept so that their addresses stay taken.
        others: Vec<socket2::Socket>,
        make: PhantomData<M>,
    }

    impl<M: Make> Fixture for Sockets<M> {
        type Driver = M::Driver;
        type Peer = Client;

        fn refusal() -> Option<String> {
            M::refusal()
        }

        fn new(buffers: u16, bytes: usize) -> Self {
            let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
            datagrams.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Sockets {
                driver: M::make(buffers, bytes),
                datagrams,
                remotes: Vec::new(),
                others: Vec::new(),
                make: PhantomData,
            }
        }

        fn driver(&mut self) -> &mut M::Driver {
            &mut self.driver
        }

        fn listener(&mut self) -> Socket {
            Socket(TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd())
        }

        fn connect(&mut self, listener: Socket) -> Client {
            let address = crate::sys::local(listener).unwrap().ip().unwrap();
            let peer = TcpStream::connect(address).unwrap();
            peer.set_nonblocking(true).unwrap();
            Client(Some(peer))
        }

        fn datagram_socket(&mut self) -> Socket {
            Socket(UdpSocket::bind("127.0.0.1:0").unwrap().into_raw_fd())
        }

        fn send_datagram(&mut self, to: Socket, bytes: &[u8]) {
            let to: SocketAddr = crate::sys::local(to).unwrap().ip().unwrap();
            assert_eq!(self.datagrams.send_to(bytes, to).unwrap(), bytes.len());
        }

        fn steal_datagram(&mut self, at: Socket) {
            crate::sys::recv(at, &mut [0; 512]).unwrap();
        }

        fn take_datagram(&mut self, _: Socket) -> Vec<u8> {
            let mut buffer = vec![0; 65_536];
            let bytes = self.datagrams.recv(&mut buffer).unwrap();
            buffer.truncate(bytes);
            buffer
        }

        fn flow_remote(&mut self) -> SocketAddr {
            self.datagrams.local_addr().unwrap()
        }

        fn take_from_flow(&mut self) -> (SocketAddr, Vec<u8>) {
            let mut buffer = vec![0; 65_536];
            let (bytes, from) = self.datagrams.recv_from(&mut buffer).unwrap();
            buffer.truncate(bytes);
            (from, buffer)
        }

        fn send_to_flow(&mut self, flow: SocketAddr, bytes: &[u8]) {
            self.datagrams.send_to(bytes, flow).unwrap();
        }

        fn remote(&mut self) -> Address {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            self.remotes.push(listener);
            Address::Ip(address)
        }

        fn take_connection(&mut self, remote: &Address) -> Client {
            let found =
                self.remotes.iter().find(|listener| listener.local_addr().ok() == remote.ip()).unwrap();
            let (peer, _) = found.accept().unwrap();
            peer.set_nonblocking(true).unwrap();
            Client(Some(peer))
        }

        fn deaf(&mut self) -> Address {
            // Bound, so that nobody else gets the port, and not listening.
            let socket = self.bound();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            self.others.push(socket);
            Address::Ip(address)
        }

        fn silent(&mut self) -> Address {
            // A queue for one, and it is full: the kernel drops what else comes (listen(2)).
            let socket = self.bound();
            socket.listen(0).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            self.others.push(socket);
            self.others.push(TcpStream::connect(address).unwrap().into());
            Address::Ip(address)
        }
    }

    impl<M: Make> Sockets<M> {
        fn bound(&self) -> socket2::Socket {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket
        }
    }

    /// A connected client; `None` once it was reset.
    pub(super) struct Client(Option<TcpStream>);

    impl Client {
        fn stream(&mut self) -> &mut TcpStream {
            self.0.as_mut().expect("a client that was not reset")
        }
    }

    impl Peer for Client {
        fn send(&mut self, bytes: &[u8]) {
            self.stream().set_nonblocking(false).unwrap();
            self.stream().write_all(bytes).unwrap();
            self.stream().set_nonblocking(true).unwrap();
        }

        fn take(&mut self) -> Vec<u8> {
            let mut all = Vec::new();
            match self.stream().read_to_end(&mut all) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                _ => all,
            }
        }

        fn shutdown(&mut self) {
            self.stream().shutdown(Shutdown::Write).unwrap();
        }

        fn reset(&mut self) {
            // Closing with no time to linger sends a reset (socket(7)).
            let stream = self.0.take().expect("reset once");
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }

        fn is_at_end(&mut self) -> bool {
            match self.stream().read(&mut [0; 4096]) {
                Ok(bytes) => bytes == 0,
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}
