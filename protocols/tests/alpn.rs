//! The layer that chooses by ALPN, on the simulated kernel: who is chosen, and that every call and every notice arrives there.

use ringmill_engine::driver::sim::{Chaos, Simulation};
use ringmill_engine::{
    Call, CloseReason, Config, Dialer, Io, Layer, Next, Notice, Origin, Protocol, Reclaim, Step, Tick,
};
use ringmill_protocols::layer::alpn::Alpn;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// What a [`Named`] was told outside of its sessions, and at their ends.
type Log = Rc<RefCell<Vec<String>>>;

/// Says its name in every call. `pause` waits for a timeout, `wake` wakes itself, `much` answers with much as there is room, `bye`
/// closes, `break` aborts.
struct Named {
    name: &'static str,
    log: Log,
    dialer: Option<Dialer>,
}

#[derive(Default)]
struct Talk {
    parts_left: usize,
    is_waiting: bool,
}

impl Named {
    fn new(name: &'static str, log: &Log) -> Named {
        Named { name, log: log.clone(), dialer: None }
    }

    fn say(&self, what: &str, io: &mut Io<'_>) {
        io.write(format!("{} {what}\n", self.name).as_bytes());
    }

    fn note(&self, what: &str) {
        self.log.borrow_mut().push(format!("{} {what}", self.name));
    }

    fn pour(talk: &mut Talk, io: &mut Io<'_>) -> Next {
        while talk.parts_left > 0 {
            if io.is_full() {
                io.notify_drained();
                return Next::Pause;
            }
            talk.parts_left -= 1;
            io.write(&[b'm'; 100]);
        }
        if talk.is_waiting { Next::Pause } else { Next::Continue }
    }
}

impl Protocol for Named {
    type Session = Talk;

    fn open(&mut self, io: &mut Io<'_>) -> Talk {
        self.say("open", io);
        Talk::default()
    }

    fn data(&mut self, talk: &mut Talk, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut at = 0;
        while let Some(end) = input[at..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&input[at..at + end]).into_owned();
            at += end + 1;
            self.say(&line, io);
            match line.as_str() {
                "pause" => {
                    talk.is_waiting = true;
                    io.set_timeout(Duration::from_millis(30));
                }
                "wake" => {
                    talk.is_waiting = true;
                    self.dialer.as_ref().expect("it was started").wake(io.id());
                }
                "much" => talk.parts_left = 1000,
                "bye" => return Step::close(),
                "break" => return Step::abort(),
                _ => {}
            }
            if Named::pour(talk, io) == Next::Pause {
                return Step::pause(at);
            }
        }
        // A line that is not complete comes again.
        Step::consumed(at)
    }

    fn drained(&mut self, talk: &mut Talk, io: &mut Io<'_>) -> Next {
        let next = Named::pour(talk, io);
        if talk.parts_left == 0 {
            self.say("drained", io);
        }
        next
    }

    fn eof(&mut self, _: &mut Talk, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        let rest = String::from_utf8_lossy(rest).into_owned();
        self.say(&format!("end {rest}"), io);
        Next::Close
    }

    fn timeout(&mut self, talk: &mut Talk, io: &mut Io<'_>) -> Next {
        talk.is_waiting = false;
        self.say("timeout", io);
        Next::Continue
    }

    fn wake(&mut self, talk: &mut Talk, io: &mut Io<'_>) -> Next {
        talk.is_waiting = false;
        self.say("woken", io);
        Next::Continue
    }

    fn drain(&mut self, _: &mut Talk, io: &mut Io<'_>) -> Next {
        self.say("drain", io);
        Next::Close
    }

    fn closed(&mut self, _: Talk, reason: CloseReason) {
        self.note(&format!("closed: {reason:?}"));
    }

    fn start(&mut self, dialer: Dialer) {
        self.note("start");
        dialer.set_timer(Some(Tick(1_000_000)));
        self.dialer = Some(dialer);
    }

    fn tick(&mut self, _: Tick) {
        self.note("tick");
    }
}

/// In the place of TLS: says what was agreed on, and leaves the rest to the layer above.
struct Agreed<L>(L, Option<&'static [u8]>);

impl<L: Layer> Layer for Agreed<L> {
    type Session = L::Session;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> L::Session {
        io.facts_mut().secure.get_or_insert_default().alpn = self.1.map(<[u8]>::to_vec);
        self.0.open(origin, io)
    }

    fn call(&mut self, session: &mut L::Session, call: Call<'_>, io: &mut Io<'_>) -> Step {
        self.0.call(session, call, io)
    }

    fn closed(&mut self, session: L::Session, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        self.0.closed(session, reason, reclaim);
    }

    fn notice(&mut self, notice: Notice) {
        self.0.notice(notice);
    }
}

fn all(log: &Log) -> impl Layer {
    let inner = Alpn::new(Named::new("one", log), "h2", Named::new("two", log));
    Alpn::new(inner, *b"three/\xff", Named::new("three", log))
}

fn narrow() -> Config {
    Config {
        output_high_water_bytes: 4000,
        output_low_water_bytes: 1000,
        recv_buffers: 8,
        recv_buffer_bytes: 4096,
        ..Config::default()
    }
}

/// How the engine or the client ends a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    Drain,
    Reset,
    Nothing,
}

/// What is heard, without the long part, and what was noted.
fn hold(protocol: impl Layer, log: &Log, said: &str, then: Then) -> (String, Vec<String>) {
    let mut simulation = Simulation::new(1, Chaos::CALM, narrow());
    let listener = simulation.listen(protocol);
    simulation.start();
    let peer = simulation.net().connect(listener).expect("it listens");
    peer.set_window(700);
    peer.send(said.as_bytes());
    let mut heard = Vec::new();
    for _ in 0..500 {
        simulation.run_for(Duration::from_micros(500));
        heard.extend(peer.take());
    }
    match then {
        Then::End => peer.shutdown(),
        Then::Reset => peer.reset(),
        Then::Drain | Then::Nothing => {}
    }
    if then != Then::Drain {
        simulation.run_for(Duration::from_millis(100));
    }
    simulation.drain(Duration::from_secs(1));
    for _ in 0..10 {
        simulation.run_for(Duration::from_millis(200));
        heard.extend(peer.take());
        if peer.is_at_end() {
            peer.shutdown();
        }
    }
    simulation.check_ended();
    let heard = String::from_utf8_lossy(&heard).replace(&"m".repeat(100), "");
    (heard, std::mem::take(&mut log.borrow_mut()))
}

#[track_caller]
fn check(agreed: Option<&'static str>, said: &str, then: Then, chosen: &str, heard: &[&str], reason: &str) {
    let log = Log::default();
    let (text, mut noted) = hold(Agreed(all(&log), agreed.map(str::as_bytes)), &log, said, then);
    let expected: Vec<String> = heard.iter().map(|what| format!("{chosen} {what}\n")).collect();
    assert_eq!(text, expected.concat(), "agreed on {agreed:?}");
    let closed = format!("{chosen} closed: {reason}");
    let names = ["one", "two", "three"];
    let mut expected: Vec<String> = [
        names.map(|name| format!("{name} start")).to_vec(),
        names.map(|name| format!("{name} tick")).to_vec(),
        vec![closed],
    ]
    .concat();
    // The timer may come before the end or behind it.
    noted.sort();
    expected.sort();
    assert_eq!(noted, expected, "agreed on {agreed:?}");
}

const WHO: [(Option<&str>, &str); 6] = [
    (None, "one"),
    (Some("http/1.1"), "one"),
    (Some("h2"), "two"),
    (Some("h2c"), "one"),
    (Some("H2"), "one"),
    (Some(""), "one"),
];

#[test]
fn every_call_reaches_the_session_that_was_chosen() {
    for (agreed, name) in WHO {
        let said = "a\npause\nwake\nmuch\nb\nrest";
        let heard = ["open", "a", "pause", "timeout", "wake", "woken", "much", "drained", "b", "end rest"];
        check(agreed, said, Then::End, name, &heard, "Finished");
        check(agreed, "a\nbye\nnever\n", Then::Nothing, name, &["open", "a", "bye"], "Finished");
        check(agreed, "a\nbreak\nnever\n", Then::Nothing, name, &["open", "a", "break"], "Aborted");
        check(agreed, "a\n", Then::Drain, name, &["open", "a", "drain"], "Finished");
        check(
            agreed,
            "a\n",
            Then::Reset,
            name,
            &["open", "a"],
            "Failed(Connection reset by peer (os error 104))",
        );
    }
}

#[test]
fn a_name_is_bytes_and_more_than_two_are_nested() {
    let log = Log::default();
    let check = |agreed: &'static [u8], expected: &str| {
        let (heard, _) = hold(Agreed(all(&log), Some(agreed)), &log, "", Then::End);
        assert_eq!(heard, format!("{expected} open\n{expected} end \n"));
    };
    check(b"three/\xff", "three");
    check(b"three/", "one");
    check(b"h2", "two");
}

#[test]
fn without_tls_the_default_one_is_chosen() {
    let log = Log::default();
    let (heard, _) = hold(all(&log), &log, "PRI * HTTP/2.0\n", Then::End);
    assert_eq!(heard, "one open\none PRI * HTTP/2.0\none end \n");
}
