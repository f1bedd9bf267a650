//! A protocol that does what its client tells it, one line a command, and reports its calls to the test.

use super::{PATIENCE, connect, pattern, start};
use ringmill::{CloseReason, Config, Io, Next, Protocol, Running, Step, Waker};
use std::cell::Cell;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A call that the protocol got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    Open,
    /// With so many bytes: only after the command `need`.
    Data(usize),
    Gone,
    Drained,
    Eof,
    Timeout,
    Wake,
    Drain,
    Closed(CloseReason),
}

/// An engine with the puppet on it, and what the puppet reports.
pub struct Stage {
    pub running: Running,
    calls: Receiver<Called>,
    wakers: Receiver<Waker>,
}

impl Stage {
    pub fn new(config: Config) -> Stage {
        Stage::with(config, false)
    }

    pub fn with(config: Config, panics_in_open: bool) -> Stage {
        let ((calls, heard), (wakers, awake)) = (channel(), channel());
        let running = start(config, move |worker| Puppet {
            calls: calls.clone(),
            wakers: wakers.clone(),
            panics_in_open,
            worker: worker.index,
            lines: Rc::new(Cell::new(0)),
        });
        Stage { running, calls: heard, wakers: awake }
    }

    pub fn connect(&self) -> TcpStream {
        connect(&self.running)
    }

    /// The next calls are these.
    #[track_caller]
    pub fn heard(&self, expected: &[Called]) {
        for call in expected {
            let heard = self.calls.recv_timeout(PATIENCE);
            assert_eq!(heard.as_ref(), Ok(call), "of the expected calls {expected:?}");
        }
    }

    /// The handle of the next connection.
    pub fn waker(&self) -> Waker {
        self.wakers.recv_timeout(PATIENCE).expect("a connection was opened")
    }
}

struct Puppet {
    calls: Sender<Called>,
    wakers: Sender<Waker>,
    panics_in_open: bool,
    worker: usize,
    /// Lines of this worker. `Rc` cannot leave its thread: that this compiles is part of the test.
    lines: Rc<Cell<u64>>,
}

/// What a connection was told to do later.
#[derive(Default)]
pub struct Session {
    panics_in: String,
    /// What is left of a streamed reply.
    stream: std::ops::Range<usize>,
    /// The next call of `data` is counted.
    counts: bool,
    /// Consumes nothing any more.
    keeps: bool,
    /// Answers `Continue` where it could close.
    stays: bool,
    lines: Rc<Cell<u64>>,
}

impl Protocol for Puppet {
    type Session = Session;

    fn open(&mut self, io: &mut Io<'_>) -> Session {
        assert!(!self.panics_in_open, "in open, as asked");
        self.tell(Called::Open);
        // Most tests do not listen.
        let _ = self.wakers.send(io.waker());
        Session { lines: self.lines.clone(), ..Session::default() }
    }

    fn data(&mut self, session: &mut Session, input: &mut [u8], io: &mut Io<'_>) -> Step {
        if session.keeps {
            return Step::consumed(0);
        }
        if std::mem::take(&mut session.counts) {
            self.tell(Called::Data(input.len()));
            return Step::consumed(input.len());
        }
        let mut consumed = 0;
        while let Some(bytes) = input[consumed..].iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&input[consumed..consumed + bytes]).expect("tests send text");
            consumed += bytes + 1;
            session.lines.set(session.lines.get() + 1);
            let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
            let number = || rest.parse::<usize>().expect("a number");
            match command {
                "say" => io.write(format!("{rest}\n").as_bytes()),
                "worker" => io.write(format!("{}\n", self.worker).as_bytes()),
                "lines" => io.write(format!("{}\n", session.lines.get()).as_bytes()),
                "names" => io.write(format!("{:?} {:?}\n", io.peer(), io.local()).as_bytes()),
                "deadline" => io.set_timeout(Duration::from_millis(number() as u64)),
                "flood" => io.write(&pattern(0, number())),
                "stream" => {
                    session.stream = 0..number();
                    session.fill(io);
                }
                "stay" => session.stays = true,
                "keep" => session.keeps = true,
                "panic" if rest.is_empty() => panic!("in data, as asked"),
                "panic" => session.panics_in = rest.to_owned(),
                "need" => {
                    session.counts = true;
                    return Step::need(consumed, number());
                }
                "pause" => return Step::pause(consumed),
                "close" => return Step::close(),
                "abort" => return Step::abort(),
                _ => panic!("no such command: {line}"),
            }
        }
        Step::consumed(consumed)
    }

    fn drained(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        session.may_panic("drained");
        session.fill(io);
        if session.stream.is_empty() {
            self.tell(Called::Drained);
        }
        Next::Continue
    }

    fn eof(&mut self, session: &mut Session, _: &mut [u8], io: &mut Io<'_>) -> Next {
        self.tell(Called::Eof);
        session.may_panic("eof");
        io.write(b"eof\n");
        session.next()
    }

    fn gone(&mut self, session: &mut Session, _: &mut Io<'_>) -> Next {
        self.tell(Called::Gone);
        session.may_panic("gone");
        Next::Pause
    }

    fn timeout(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        self.tell(Called::Timeout);
        session.may_panic("timeout");
        io.write(b"timeout\n");
        session.next()
    }

    fn wake(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        self.tell(Called::Wake);
        session.may_panic("wake");
        io.write(b"wake\n");
        Next::Continue
    }

    fn drain(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        self.tell(Called::Drain);
        session.may_panic("drain");
        io.write(b"drain\n");
        session.next()
    }

    fn closed(&mut self, session: Session, reason: CloseReason) {
        self.tell(Called::Closed(reason));
        session.may_panic("closed");
    }
}

impl Puppet {
    fn tell(&self, call: Called) {
        // The test may be over.
        let _ = self.calls.send(call);
    }
}

impl Session {
    fn may_panic(&self, place: &str) {
        assert!(self.panics_in != place, "in {place}, as asked");
    }

    fn next(&self) -> Next {
        if self.stays { Next::Continue } else { Next::Close }
    }

    /// Writes as much of the stream as there is room for, and asks to be told of more.
    fn fill(&mut self, io: &mut Io<'_>) {
        while !self.stream.is_empty() && !io.is_full() {
            let bytes = self.stream.len().min(10_000);
            io.write(&pattern(self.stream.start, bytes));
            self.stream.start += bytes;
        }
        if !self.stream.is_empty() {
            io.notify_drained();
        }
    }
}
