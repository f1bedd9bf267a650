//! A length-framed protocol that uses everything the engine offers: needs, pauses, timers, wake-ups, back-pressure, closing.
//!
//! A frame is a length (two bytes, big-endian), a command and a payload. Whatever happens on the way, the replies
//! are a function of the frames alone.

use bytes::Bytes;
use ringmill_engine::driver::sim::Watch;
use ringmill_engine::{Io, Next, Protocol, Step};
use std::time::Duration;

pub const REVERSE: u8 = 0;
/// Wait until somebody wakes the session.
pub const SLEEP: u8 = 1;
/// Reply with much: the first payload byte times 100 bytes, as there is room.
pub const MUCH: u8 = 2;
pub const CLOSE: u8 = 3;
pub const ABORT: u8 = 4;
pub const PANIC: u8 = 5;
/// Reply with bytes that are not copied.
pub const SHARED: u8 = 6;
/// Wait a few milliseconds.
pub const TIMER: u8 = 7;
/// Wait until the peer has ended.
pub const GONE: u8 = 8;
/// Reply, then end the output and read on: later frames are answered with nothing, but they are obeyed.
pub const LAST: u8 = 9;

static SHARED_BYTES: [u8; 1500] = [b's'; 1500];
/// What a part of a much longer reply has.
const PART: [u8; 50] = [b'm'; 50];

pub struct Framed {
    watch: Watch,
}

#[derive(Default)]
pub struct Session {
    frames: u8,
    waiting: Waiting,
    is_gone: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Waiting {
    #[default]
    No,
    Wake,
    Timer,
    Gone,
    /// So many parts are still to be written.
    Room(usize),
}

/// One frame.
pub fn frame(command: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((payload.len() + 1) as u16).to_be_bytes().to_vec();
    bytes.push(command);
    bytes.extend(payload);
    bytes
}

fn say(word: &[u8], io: &mut Io<'_>) {
    if !io.has_ended_output() {
        io.write(word);
    }
}

impl Framed {
    pub fn new(watch: Watch) -> Framed {
        Framed { watch }
    }

    /// Writes while there is room. Whether that was all.
    fn pump(session: &mut Session, io: &mut Io<'_>) -> bool {
        let Waiting::Room(parts) = &mut session.waiting else { return true };
        while *parts > 0 {
            if io.is_full() {
                io.notify_drained();
                return false;
            }
            io.write(&PART);
            *parts -= 1;
        }
        session.waiting = Waiting::No;
        true
    }

    fn rest(session: &Session) -> Next {
        if session.waiting == Waiting::No { Next::Continue } else { Next::Pause }
    }
}

impl Protocol for Framed {
    type Session = Session;

    fn open(&mut self, _: &mut Io<'_>) -> Session {
        Session::default()
    }

    fn data(&mut self, session: &mut Session, input: &mut [u8], io: &mut Io<'_>) -> Step {
        assert!(session.waiting == Waiting::No, "data came to a session that paused");
        let mut at = 0;
        loop {
            let rest = &input[at..];
            if rest.is_empty() || io.is_full() {
                return Step::consumed(at);
            }
            let Some((head, body)) = rest.split_at_checked(2) else { return Step::need(at, 2) };
            let len = usize::from(u16::from_be_bytes([head[0], head[1]]));
            let Some(body) = body.get(..len) else { return Step::need(at, 2 + len) };
            let (command, payload) = body.split_first().expect("a frame has a command");
            at += 2 + len;
            session.frames = session.frames.wrapping_add(1);
            if session.frames.is_multiple_of(3) && self.watch.left() > 0 {
                // A worker wakes a session of another, or of its own.
                self.watch.wake(&self.watch.take(0));
            }
            let is_mute = io.has_ended_output();
            if !is_mute {
                io.write(&[session.frames, *command]);
            }
            match *command {
                REVERSE | SHARED | MUCH | LAST if is_mute => {}
                REVERSE => io.buffer().extend(payload.iter().rev()),
                SHARED => io.queue(Bytes::from_static(&SHARED_BYTES)),
                SLEEP => {
                    session.waiting = Waiting::Wake;
                    self.watch.leave(io.waker());
                }
                TIMER => {
                    session.waiting = Waiting::Timer;
                    io.set_timeout(Duration::from_millis(3));
                }
                GONE if session.is_gone => say(b"g", io),
                GONE => session.waiting = Waiting::Gone,
                MUCH => {
                    session.waiting = Waiting::Room(usize::from(payload[0]) * 2);
                    Framed::pump(session, io);
                }
                LAST => io.end_output(),
                CLOSE => return Step::close(),
                ABORT => return Step::abort(),
                _ => panic!("on purpose"),
            }
            if session.waiting != Waiting::No {
                return Step::pause(at);
            }
        }
    }

    fn gone(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        assert!(session.waiting != Waiting::No, "a session that does not pause hears of the end in its turn");
        session.is_gone = true;
        if session.waiting == Waiting::Gone {
            session.waiting = Waiting::No;
            say(b"g", io);
        }
        Framed::rest(session)
    }

    fn drained(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        Framed::pump(session, io);
        Framed::rest(session)
    }

    fn timeout(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        assert!(session.waiting == Waiting::Timer, "a timeout that nobody had set");
        session.waiting = Waiting::No;
        say(b"t", io);
        Next::Continue
    }

    fn wake(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        if session.waiting == Waiting::Wake {
            session.waiting = Waiting::No;
            say(b"w", io);
        }
        Framed::rest(session)
    }
}
