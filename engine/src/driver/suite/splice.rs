//! What a driver passes on from one socket to another.

use super::fixture::{Fixture, Peer};
use super::steps::{
    SEND, TURNS_MAX, connection, fill, output, pattern, recv, recv_all, send_all, turn_until,
};
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::token::{Kind, Token};
use std::time::Duration;

const SPLICE: Token = Token::new(Kind::Splice, 3, 1);
const TURN_BYTES_MAX: u32 = 50_000;

/// Two connections, and bytes that go from the first to the second.
struct Stand<F: Fixture> {
    fixture: F,
    from: Socket,
    source: F::Peer,
    to: Socket,
    sink: F::Peer,
    /// What the driver says that it passed on, and what it gave back.
    passed_bytes: usize,
    rest: Vec<u8>,
    ended: Option<Result<u32, Errno>>,
    taken: Vec<u8>,
}

impl<F: Fixture> Stand<F> {
    fn new(pipes: usize) -> Stand<F> {
        let mut fixture = F::new(8, 512);
        fixture.driver().set_pipes_max(pipes);
        let (from, source) = connection(&mut fixture);
        let (to, sink) = connection(&mut fixture);
        let (rest, taken) = (Vec::new(), Vec::new());
        let mut stand = Stand { fixture, from, source, to, sink, passed_bytes: 0, rest, ended: None, taken };
        stand.begin();
        stand
    }

    fn begin(&mut self) {
        self.ended = None;
        let op = Op::Splice { token: SPLICE, from: self.from, to: self.to, turn_bytes_max: TURN_BYTES_MAX };
        self.fixture.driver().submit(op);
    }

    /// A turn that waits for up to 10 ms. Returns how much was passed on in it.
    fn turn(&mut self) -> usize {
        let mut events = Vec::new();
        let until = self.fixture.driver().now().after(Duration::from_millis(10));
        self.fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        let before = self.passed_bytes;
        for Event { token, result, more, payload } in events {
            assert_eq!((token, self.ended), (SPLICE, None));
            if more {
                self.passed_bytes += result.unwrap() as usize;
                continue;
            }
            self.ended = Some(result);
            if let Payload::Output(rest) = payload {
                rest.for_each(|piece| self.rest.extend_from_slice(piece));
            }
        }
        self.passed_bytes - before
    }

    fn turn_until(&mut self, missing: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never came: {missing}");
    }

    /// Until the end; the sink's peer takes what comes.
    fn end(&mut self) -> Result<u32, Errno> {
        self.turn_until("the last event", |stand| {
            let taken = stand.sink.take();
            stand.taken.extend(taken);
            stand.ended.is_some()
        });
        self.ended.unwrap()
    }

    /// Nothing moves any more, because the sink's peer takes nothing.
    fn stuck(&mut self) {
        let mut quiet = 0;
        self.turn_until("back-pressure", |stand| {
            quiet = if stand.turn() == 0 { quiet + 1 } else { 0 };
            quiet == 3
        });
    }

    /// Sends what the driver gave back, and takes all that comes until there are so many bytes.
    fn take_rest(&mut self, bytes: usize) {
        let mut taken = std::mem::take(&mut self.taken);
        if !self.rest.is_empty() {
            let rest = output(&[&self.rest]);
            let sink = &mut self.sink;
            send_all(&mut self.fixture, self.to, rest, Then::GoOn, || taken.extend(sink.take()));
        }
        for _ in 0..TURNS_MAX {
            if taken.len() >= bytes {
                break;
            }
            self.turn();
            taken.extend(self.sink.take());
        }
        self.taken = taken;
    }

    fn close(mut self) {
        for socket in [self.from, self.to] {
            self.fixture.driver().submit(Op::Close { socket, reset: false });
        }
        self.fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    }
}

/// A megabyte and more, sent while it is passed on: no peer keeps so much.
pub(super) fn splices_every_byte_in_order_to_the_end<F: Fixture>() {
    let mut stand = Stand::<F>::new(1);
    let sent = pattern(1_300_000);
    for piece in sent.chunks(30_000) {
        stand.source.send(piece);
        // What is passed on in one turn is bounded.
        assert!(stand.turn() <= TURN_BYTES_MAX as usize);
        let taken = stand.sink.take();
        stand.taken.extend(taken);
    }
    stand.source.shutdown();
    assert_eq!(stand.end(), Ok(0));
    assert_eq!(stand.passed_bytes + stand.rest.len(), sent.len());
    stand.take_rest(sent.len());
    assert!(stand.taken == sent, "{} of {} bytes", stand.taken.len(), sent.len());
    stand.close();
}

pub(super) fn a_cancelled_splice_gives_back_what_it_holds<F: Fixture>() {
    let mut stand = Stand::<F>::new(1);
    // The driver's own sending fills the way to the sink, so that what comes is kept in the pipe.
    stand.fixture.driver().submit(Op::Cancel { target: SPLICE, socket: stand.from });
    assert_eq!(stand.end(), Err(Errno::ECANCELED));
    let (fixture, to) = (&mut stand.fixture, stand.to);
    fill(fixture, to);
    fixture.driver().submit(Op::CancelAll { socket: to });
    turn_until(fixture, "the end of sending", |_, event| event.token == SEND);
    stand.begin();
    // The way may have become wider since.
    let whole = pattern(4 << 20);
    let mut sent = 0;
    while stand.fixture.driver().piped_bytes(stand.from) == 0 {
        stand.source.send(&whole[sent..sent + 10_000]);
        sent += 10_000;
        stand.stuck();
    }
    stand.fixture.driver().submit(Op::Cancel { target: SPLICE, socket: stand.from });
    stand.turn_until("the last event", |stand| stand.ended.is_some());
    assert_eq!(stand.ended, Some(Err(Errno::ECANCELED)));
    assert_eq!(stand.fixture.driver().piped_bytes(stand.from), 0);
    // What was held, and behind it what was not received yet: nothing is missing, and nothing comes twice.
    stand.source.shutdown();
    recv(&mut stand.fixture, stand.from);
    let mut all = std::mem::take(&mut stand.rest);
    all.extend(recv_all(&mut stand.fixture, stand.from));
    assert!(all == whole[stand.passed_bytes..sent], "{} bytes behind {}", all.len(), stand.passed_bytes);
    stand.close();
}

pub(super) fn a_splice_ends_with_either_peer<F: Fixture>() {
    let mut stand = Stand::<F>::new(1);
    stand.turn();
    stand.source.reset();
    assert_eq!(stand.end(), Err(Errno::ECONNRESET));
    stand.close();

    let mut stand = Stand::<F>::new(1);
    stand.sink.reset();
    stand.turn_until("the failure", |stand| {
        stand.source.send(b"x");
        stand.ended.is_some()
    });
    assert_eq!(stand.ended, Some(Err(Errno::EPIPE)));
    stand.close();
}

/// Whichever socket everything is ended on.
pub(super) fn cancel_all_ends_a_splice<F: Fixture>() {
    for at_source in [true, false] {
        let mut stand = Stand::<F>::new(1);
        stand.turn();
        let socket = if at_source { stand.from } else { stand.to };
        stand.fixture.driver().submit(Op::CancelAll { socket });
        assert_eq!(stand.end(), Err(Errno::ECANCELED));
        // Both are as good as before.
        stand.source.send(b"after");
        stand.source.shutdown();
        recv(&mut stand.fixture, stand.from);
        assert_eq!(recv_all(&mut stand.fixture, stand.from), b"after");
        stand.rest = b"more".to_vec();
        stand.take_rest(4);
        assert_eq!(stand.taken, b"more");
        stand.close();
    }
}

pub(super) fn without_a_pipe_nothing_is_lost<F: Fixture>() {
    let mut stand = Stand::<F>::new(0);
    stand.source.send(b"all of it");
    assert_eq!(stand.end(), Err(Errno::ENOBUFS));
    assert_eq!((stand.passed_bytes, stand.rest.len()), (0, 0));
    stand.source.shutdown();
    recv(&mut stand.fixture, stand.from);
    assert_eq!(recv_all(&mut stand.fixture, stand.from), b"all of it");
    stand.close();
}
