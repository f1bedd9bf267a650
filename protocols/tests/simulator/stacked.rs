//! A protocol on layers answers as it does on a socket: however its input is cut, however its peer reads.

use crate::layers::{SPEECHES, Speech};
use crate::script::{listen_with, patient};
use crate::site::Site;
use ringmill_engine::driver::sim::{Chaos, Simulation};
use ringmill_engine::{Config, Io, Layer, Next, Protocol, Step};
use ringmill_protocols::Echo;
use ringmill_protocols::http::Server;
use std::time::Duration;

/// Answers each line in capitals; `wait` pauses for a moment, `much` answers with much, `bye` closes, `break` aborts.
struct Lines;

#[derive(Default)]
struct Conversation {
    parts_left: usize,
    is_waiting: bool,
}

impl Lines {
    fn pump(session: &mut Conversation, io: &mut Io<'_>) -> Next {
        while session.parts_left > 0 {
            if io.is_full() {
                io.notify_drained();
                return Next::Pause;
            }
            session.parts_left -= 1;
            io.write(&[b'0' + (session.parts_left % 10) as u8; 100]);
        }
        if session.is_waiting { Next::Pause } else { Next::Continue }
    }
}

impl Protocol for Lines {
    type Session = Conversation;

    fn open(&mut self, io: &mut Io<'_>) -> Conversation {
        io.write(b"hello\n");
        Conversation::default()
    }

    fn data(&mut self, session: &mut Conversation, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut at = 0;
        while let Some(end) = input[at..].iter().position(|byte| *byte == b'\n') {
            let line = &mut input[at..at + end + 1];
            at += end + 1;
            match &*line {
                b"wait\n" => {
                    session.is_waiting = true;
                    io.set_timeout(Duration::from_millis(5));
                    return Step::pause(at);
                }
                b"much\n" => {
                    session.parts_left = 300;
                    let next = Lines::pump(session, io);
                    if next == Next::Pause {
                        return Step::pause(at);
                    }
                }
                b"bye\n" => {
                    io.write(b"BYE\n");
                    return Step::close();
                }
                b"break\n" => {
                    io.write(b"BREAK\n");
                    return Step::abort();
                }
                _ => {
                    line.make_ascii_uppercase();
                    io.write(line);
                }
            }
        }
        Step::consumed(at)
    }

    fn drained(&mut self, session: &mut Conversation, io: &mut Io<'_>) -> Next {
        Lines::pump(session, io)
    }

    fn timeout(&mut self, session: &mut Conversation, io: &mut Io<'_>) -> Next {
        io.write(b"waited\n");
        session.is_waiting = false;
        Next::Continue
    }

    fn eof(&mut self, _: &mut Conversation, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        rest.make_ascii_uppercase();
        io.write(rest);
        io.write(b"END\n");
        Next::Close
    }
}

/// One conversation, and how it is held.
struct Talk<'a> {
    protocol: &'a str,
    speech: Speech,
    plain: &'a [u8],
    record_bytes: usize,
    /// The client takes so much at once, and has room for so much.
    window: usize,
    /// It says that this was all, and ends its side.
    ends: bool,
}

/// What the client heard in the end, and whether the connection ended with a reset.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    plain: String,
    was_reset: bool,
}

impl Talk<'_> {
    fn hold(&self, pieces: &[&[u8]]) -> Heard {
        match self.protocol {
            "echo" => self.hold_with(pieces, Echo::default),
            "lines" => self.hold_with(pieces, || Lines),
            _ => {
                let watch = ringmill_engine::driver::sim::Watch::default();
                self.hold_with(pieces, || Server::new(Site::new(watch.clone())).with_limits(patient()))
            }
        }
    }

    fn hold_with<L: Layer>(&self, pieces: &[&[u8]], protocol: impl Fn() -> L) -> Heard {
        let config = Config {
            output_high_water_bytes: 4000,
            output_low_water_bytes: 1000,
            recv_buffers: 8,
            recv_buffer_bytes: 4096,
            ..Config::default()
        };
        let mut simulation = Simulation::new(1, Chaos::CALM, config);
        let listener = listen_with(&mut simulation, 0, protocol(), self.speech);
        simulation.start();
        let peer = simulation.net().connect(listener).expect("it listens");
        peer.set_window(self.window);
        let mut heard = Vec::new();
        for piece in pieces {
            peer.send(piece);
            simulation.run_for(Duration::from_micros(200));
            heard.extend(peer.take());
        }
        if self.ends {
            peer.shutdown();
        }
        for _ in 0..100_000 {
            simulation.run_for(Duration::from_millis(1));
            heard.extend(peer.take());
            if peer.is_closed() {
                break;
            }
        }
        assert!(peer.is_closed(), "{:?} {:?} does not end", self.protocol, self.speech);
        simulation.drain(Duration::ZERO);
        simulation.run_for(Duration::from_secs(3));
        simulation.check_ended();
        let (plain, was_ended) = self.speech.decode(&heard);
        let has_own_end = !matches!(self.speech, Speech::Plain | Speech::Prefixed);
        assert!(!has_own_end || was_ended != peer.was_reset(), "an end of its own where nothing broke off");
        Heard { plain: undated(&plain), was_reset: peer.was_reset() }
    }

    fn check(&self) {
        let bare = Talk { speech: Speech::Plain, window: 1 << 20, ..*self };
        let expected = bare.hold(&[self.plain]);
        let sent = self.speech.encode(self.plain, self.record_bytes, self.ends);
        let same = |pieces: &[&[u8]], how: &str| {
            let heard = self.hold(pieces);
            assert_eq!(heard, expected, "{} {:?} {how}", self.protocol, self.speech);
        };
        same(&[&sent], "at once");
        same(&sent.chunks(1).collect::<Vec<_>>(), "byte by byte");
        for cut in 1..sent.len() {
            same(&[&sent[..cut], &sent[cut..]], &format!("cut at {cut}"));
        }
    }
}

fn undated(plain: &[u8]) -> String {
    let text = String::from_utf8_lossy(plain).into_owned();
    text.split("\r\n")
        .map(|line| if line.starts_with("date: ") { "date" } else { line })
        .collect::<Vec<_>>()
        .join("\r\n")
}

const CONVERSATIONS: [(&str, &str); 6] = [
    ("echo", "some bytes, and some more of them"),
    ("lines", "one\nwait\ntwo\nmuch\nthree\nmuch\nwait\nthe rest"),
    ("lines", "one\nmuch\nbye\nnever\n"),
    ("lines", "one\nbreak\nnever\n"),
    (
        "http",
        "GET /text HTTP/1.1\r\nHost: a\r\n\r\nPOST /recut HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\nGET /chunked/9000 HTTP/1.1\r\nHost: a\r\n\r\nGET /panic HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "http",
        "POST /mirror HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /sized/9000 HTTP/1.1\r\nHost: a\r\n\
         Connection: close\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
];

#[test]
fn a_protocol_on_layers_answers_as_on_a_socket_however_its_input_is_cut() {
    crate::soak::silence_what_is_on_purpose();
    for (protocol, plain) in CONVERSATIONS {
        for speech in SPEECHES {
            let (plain, window, ends) = (plain.as_bytes(), 1 << 20, true);
            Talk { protocol, speech, plain, record_bytes: 23, window, ends }.check();
        }
    }
}

#[test]
fn a_protocol_on_layers_answers_as_on_a_socket_however_slow_its_peer_is() {
    crate::soak::silence_what_is_on_purpose();
    for (protocol, plain) in CONVERSATIONS {
        for speech in SPEECHES {
            for window in [1, 100, 5000] {
                let talk =
                    Talk { protocol, speech, plain: plain.as_bytes(), record_bytes: 50, window, ends: true };
                let bare = Talk { speech: Speech::Plain, window: 1 << 20, ..talk };
                let expected = bare.hold(&[talk.plain]);
                let sent = speech.encode(talk.plain, 50, true);
                for size in [1, 3, 100, 1 << 20] {
                    let heard = talk.hold(&sent.chunks(size).collect::<Vec<_>>());
                    assert_eq!(heard, expected, "{protocol} {speech:?} window {window} pieces of {size}");
                }
            }
        }
    }
}
