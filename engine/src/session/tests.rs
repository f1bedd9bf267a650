//! Every order of what can happen to a session: bytes, pauses, resumes, a full and an empty outlet, needs, the end. After each
//! step the rules of calling hold, and in the end nothing is lost, told twice or left untold.

mod spares;
mod states;
mod uppers;

use super::calls::{Callee, Panicked};
use super::duplex::Duplex;
use super::inlet::{End, News, Reading};
use super::life::{CloseReason, Ending, Phase};
use super::outlet::Level;
use super::shared::Shared;
use crate::address::Address;
use crate::bell::Bell;
use crate::config::Config;
use crate::event::Socket;
use crate::seam::io::{Below, Io, Link};
use crate::seam::layer::Call;
use crate::seam::names::Names;
use crate::seam::step::{Next, Step};
use crate::stats::{Counters, Stats};
use crate::time::Tick;
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

const LOW: usize = 10;
const HIGH: usize = 20;

/// A session that does as it is told, and watches how it is called.
#[derive(Default)]
struct Puppet {
    /// What `data` answers from now on.
    pauses: bool,
    /// It consumes nothing, and needs so many bytes.
    need: Option<usize>,
    /// It writes enough to be above high water.
    fills: bool,
    /// It asks to be told that there is room.
    wishes: bool,
    /// It ends its output, and reads on.
    lasts: bool,
    ending: Option<Next>,
    // What it saw.
    consumed: Vec<u8>,
    rest: Option<Vec<u8>>,
    told_gone: usize,
    told_drained: usize,
    calls: usize,
}

impl Callee for Puppet {
    fn call(&mut self, call: Call<'_>, io: &mut Io<'_>) -> Result<Step, Panicked> {
        self.calls += 1;
        assert!(io.duplex.is_open(), "a session that is over was called");
        if let Some(next) = self.ending.take() {
            return Ok(Step::next(next));
        }
        match call {
            Call::Data(input) => {
                assert_eq!(io.duplex.inlet.reading, Reading::Flowing, "data while it pauses");
                assert_eq!(io.duplex.outlet.level, Level::Low, "data while its output is not taken");
                assert!(io.duplex.inlet.end != End::Told, "data after the end");
                assert!(!input.is_empty(), "data without bytes");
                assert!(input.len() >= io.duplex.inlet.need_bytes as usize, "less than it needs");
                if std::mem::take(&mut self.fills) && !io.has_ended_output() {
                    io.write(&[b'x'; HIGH]);
                }
                if std::mem::take(&mut self.wishes) {
                    io.notify_drained();
                }
                if std::mem::take(&mut self.lasts) {
                    io.end_output();
                }
                if let Some(need) = self.need.take_if(|need| input.len() < *need) {
                    return Ok(Step::need(0, need));
                }
                self.need = None;
                self.consumed.extend_from_slice(input);
                let next = if self.pauses { Next::Pause } else { Next::Continue };
                return Ok(Step { consumed: input.len(), need: 0, next });
            }
            Call::End(rest) => {
                assert_eq!(io.duplex.inlet.reading, Reading::Flowing, "the end while it pauses");
                assert!(self.rest.replace(rest.to_vec()).is_none(), "the end is told once");
            }
            Call::Gone => {
                assert_ne!(io.duplex.inlet.reading, Reading::Flowing, "it hears of the end in its turn");
                assert!(self.rest.is_none(), "it knows of the end already");
                self.told_gone += 1;
            }
            Call::Drained => {
                assert!(io.queued_bytes() <= LOW, "told of room where there is none");
                self.told_drained += 1;
            }
            _ => {}
        }
        Ok(Step::next(if self.pauses { Next::Pause } else { Next::Continue }))
    }
}

/// A kernel that is there for a while, and counts how often it is asked.
#[derive(Default)]
struct Kernel {
    is_there: Cell<bool>,
    asked: Cell<u32>,
}

impl Kernel {
    fn end(&self, port: u16) -> Option<Address> {
        self.asked.set(self.asked.get() + 1);
        self.is_there.get().then(|| Address::Ip(SocketAddr::from(([127, 0, 0, 1], port))))
    }
}

impl Names for Kernel {
    fn peer(&self, _: Socket) -> Option<Address> {
        self.end(1)
    }

    fn local(&self, _: Socket) -> Option<Address> {
        self.end(2)
    }

    fn unacknowledged_bytes(&self, _: Socket) -> usize {
        0
    }

    fn flow_socket(&self, _: std::net::SocketAddr) -> Result<Socket, crate::event::Errno> {
        Err(crate::event::Errno::EMFILE)
    }
}

/// A session, its duplex and what is below.
struct Stand {
    duplex: Duplex,
    puppet: Puppet,
    link: Link,
    kernel: Kernel,
    shared: Shared,
    stats: Stats,
    received: Vec<u8>,
    is_ended: bool,
    wished: usize,
    reason: Option<CloseReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// One byte comes, or three.
    One,
    Three,
    /// From now on it pauses, or it is woken and goes on.
    Pause,
    Resume,
    /// With the next bytes it fills its output, and perhaps wishes to be told of room.
    Fill,
    FillAndWish,
    /// Its output is taken.
    Take,
    /// With the next bytes it ends its output.
    Last,
    /// It needs four bytes, from the next `data` on.
    Need,
    End,
}

const EVENTS: [Event; 10] = [
    Event::One,
    Event::Three,
    Event::Pause,
    Event::Resume,
    Event::Fill,
    Event::FillAndWish,
    Event::Take,
    Event::Last,
    Event::Need,
    Event::End,
];

impl Stand {
    fn new() -> Stand {
        let config = Config {
            output_low_water_bytes: LOW,
            output_high_water_bytes: HIGH,
            output_bytes_max: 1000,
            input_bytes_max: 1024,
            ..Config::default()
        };
        let bell = Bell::new().expect("an event counter");
        let stats = Stats::new(1);
        Stand {
            duplex: Duplex::new(),
            puppet: Puppet::default(),
            link: Link {
                generation: 1,
                socket: Socket(-1),
                service: 0,
                write_secs: 0,
                held_kib: 0,
                facts: None,
            },
            kernel: Kernel::default(),
            shared: Shared::new(&config, Arc::new(bell), stats.worker(0)),
            stats,
            received: Vec::new(),
            is_ended: false,
            wished: 0,
            reason: None,
        }
    }

    fn again(&mut self) {
        self.duplex.leave_session(&mut self.shared);
        self.duplex = Duplex::new();
        (self.puppet, self.received) = (Puppet::default(), Vec::new());
        (self.is_ended, self.wished, self.reason) = (false, 0, None);
    }

    fn with(&mut self, call: impl FnOnce(&mut Io<'_>, &mut Puppet) -> Option<CloseReason>) {
        if !self.duplex.is_open() {
            return;
        }
        let (link, shared) = (&mut self.link, &mut self.shared);
        let below = Below { index: 0, link, shared, names: &self.kernel, queued_bytes: 0 };
        let reason = call(&mut Io { duplex: &mut self.duplex, below }, &mut self.puppet);
        self.reason = self.reason.or(reason);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::One | Event::Three if self.is_ended => {}
            Event::One | Event::Three => {
                let count = if event == Event::One { 1 } else { 3 };
                let first = self.received.len() as u8;
                let mut bytes: Vec<u8> = (first..first + count).collect();
                self.received.extend_from_slice(&bytes);
                self.with(|io, puppet| io.receive(puppet, &mut bytes));
            }
            Event::Pause => self.puppet.pauses = true,
            Event::Resume => {
                self.puppet.pauses = false;
                self.with(|io, puppet| io.call(puppet, Call::Wake));
            }
            Event::Fill => self.puppet.fills = true,
            Event::FillAndWish => {
                (self.puppet.fills, self.puppet.wishes) = (true, true);
                self.wished += 1;
            }
            Event::Take => {
                if let Some(output) = self.duplex.outlet.pending.take() {
                    self.shared.recycle(output);
                }
                self.with(|io, puppet| io.settle(puppet));
            }
            Event::Last => self.puppet.lasts = true,
            Event::Need => self.puppet.need = Some(4),
            Event::End => {
                self.is_ended = true;
                self.with(|io, puppet| io.end(puppet));
            }
        }
        self.check();
    }

    /// Nothing that is due stands still.
    fn check(&mut self) {
        let duplex = &mut self.duplex;
        let is_flowing = duplex.inlet.reading == Reading::Flowing && duplex.outlet.level == Level::Low;
        let unread = duplex.inlet.unread_bytes();
        assert_eq!(self.puppet.consumed.len() + unread, self.received.len(), "bytes are lost or doubled");
        assert!(self.received.starts_with(&self.puppet.consumed), "bytes are out of order");
        if is_flowing {
            let has_enough = unread >= (duplex.inlet.need_bytes as usize).max(1);
            assert!(!(duplex.inlet.is_due() && has_enough), "input is due");
            assert!(duplex.inlet.end != End::Arrived, "the end is due");
        }
        let is_paused = duplex.inlet.reading != Reading::Flowing;
        assert!(!is_paused || duplex.inlet.news != News::Gone, "the end is hidden");
        assert!(
            duplex.inlet.reading == Reading::Flowing || duplex.deadline != Tick::NEVER,
            "a wait has an end"
        );
        assert!(
            duplex.outlet.pending_bytes() >= HIGH
                || duplex.outlet.level == Level::Low
                || unread > 0
                || duplex.outlet.pending_bytes() > LOW
        );
    }
}

#[test]
fn every_order_of_pause_full_drained_end_and_need() {
    const LENGTH: u32 = 6;
    let mut stand = Stand::new();
    for number in 0..EVENTS.len().pow(LENGTH) {
        let mut rest = number;
        let events: Vec<Event> = (0..LENGTH)
            .map(|_| {
                let event = EVENTS[rest % EVENTS.len()];
                rest /= EVENTS.len();
                event
            })
            .collect();
        // Shown by a failure, and by no other run.
        let order = Order(&events);
        stand.again();
        events.iter().for_each(|event| stand.happen(*event));
        // Whatever stood in the way goes.
        stand.puppet.need = None;
        (stand.puppet.fills, stand.puppet.wishes) = (false, false);
        for event in [Event::Resume, Event::Take, Event::End] {
            stand.happen(event);
        }
        let rest = stand.puppet.rest.take().expect("the end is told in the end");
        assert_eq!([stand.puppet.consumed.clone(), rest].concat(), stand.received, "all bytes were shown");
        assert!(stand.puppet.told_gone <= 1, "gone is told once");
        assert!(stand.puppet.told_drained <= stand.wished, "told of room without a wish");
        assert_eq!((stand.reason, stand.duplex.phase), (None, Phase::Open));
        std::mem::forget(order);
    }
}

/// Names the order of events when a test fails in the middle of it.
struct Order<'a>(&'a [Event]);

impl Drop for Order<'_> {
    #[expect(clippy::print_stderr, reason = "it is a test's word to its reader")]
    fn drop(&mut self) {
        eprintln!("the order was {:?}", self.0);
    }
}

/// As where a handler waits, and its client hangs up behind the next request.
#[test]
fn the_end_is_told_at_once_to_who_pauses_and_again_behind_all_input() {
    let mut stand = Stand::new();
    for event in [Event::Pause, Event::One, Event::Three, Event::End] {
        stand.happen(event);
    }
    assert_eq!(
        (stand.puppet.consumed.len(), stand.puppet.told_gone, stand.puppet.rest.clone()),
        (1, 1, None)
    );
    stand.happen(Event::Resume);
    assert_eq!((stand.puppet.consumed.len(), stand.puppet.told_gone), (4, 1));
    assert_eq!(stand.puppet.rest, Some(Vec::new()));
}

#[test]
fn a_wish_for_room_is_granted_once() {
    let mut stand = Stand::new();
    for event in [Event::FillAndWish, Event::One] {
        stand.happen(event);
    }
    assert_eq!(stand.puppet.told_drained, 0);
    stand.happen(Event::Take);
    stand.happen(Event::Take);
    assert_eq!(stand.puppet.told_drained, 1);
}

#[test]
fn a_pause_ends_with_its_deadline_and_not_with_one_that_was_lent() {
    let mut stand = Stand::new();
    stand.happen(Event::Pause);
    stand.happen(Event::One);
    let lent = stand.duplex.deadline;
    assert_eq!(lent, Tick(0).after(Config::default().pause_timeout));
    stand.happen(Event::Resume);
    assert_eq!(stand.duplex.deadline, Tick::NEVER, "what was lent is taken back");
    // A deadline of its own stays.
    stand.with(|io, _| {
        io.set_deadline(Some(Tick(77)));
        None
    });
    stand.happen(Event::Pause);
    stand.happen(Event::One);
    stand.happen(Event::Resume);
    assert_eq!(stand.duplex.deadline, Tick(77));
}

#[test]
fn how_a_session_ends() {
    let end = |next, expected: (CloseReason, Phase, Ending)| {
        let mut stand = Stand::new();
        stand.puppet.ending = Some(next);
        stand.happen_once();
        assert_eq!((stand.reason.unwrap(), stand.duplex.phase, stand.duplex.ending), expected);
        let calls = stand.puppet.calls;
        for event in EVENTS {
            stand.with_any(event);
        }
        assert_eq!(stand.puppet.calls, calls, "nobody calls a session that is over");
    };
    end(Next::Close, (CloseReason::Finished, Phase::Draining, Ending::Eof));
    end(Next::Abort, (CloseReason::Aborted, Phase::Draining, Ending::Reset));
}

#[test]
fn more_than_the_limits_ends_it() {
    let mut stand = Stand::new();
    stand.puppet.need = Some(2000);
    stand.happen(Event::One);
    assert_eq!(stand.reason, Some(CloseReason::InputOverflow));
    assert_eq!((stand.duplex.phase, stand.duplex.ending), (Phase::Draining, Ending::Reset));

    let mut stand = Stand::new();
    stand.with(|io, puppet| {
        io.write(&[0; 1001]);
        io.settle(puppet)
    });
    assert_eq!(stand.reason, Some(CloseReason::OutputOverflow));
    assert_eq!(stand.duplex.phase, Phase::Closing, "what nobody takes is not waited for");

    // Who consumes nothing is given up once it has left too much.
    let mut stand = Stand::new();
    for n in 0..1024 / 3 + 1 {
        assert_eq!(stand.reason, None, "{n}");
        stand.with(|io, _| io.receive(&mut Glutton, &mut [0; 3]));
    }
    assert_eq!(stand.reason, Some(CloseReason::InputOverflow));
}

/// A proxy's word comes first, and the kernel is asked for each end of a connection until it has answered once.
#[test]
fn the_ends_of_a_socket_are_asked_for_once() {
    let mut stand = Stand::new();
    let ask = |stand: &mut Stand, is_there, expected: [Option<&str>; 2]| {
        stand.kernel.is_there.set(is_there);
        stand.with(|io, _| {
            let ends = [io.peer(), io.local()].map(|end| end.map(|end| end.to_string()));
            assert_eq!(ends, expected.map(|end| end.map(str::to_owned)));
            None
        });
        stand.kernel.asked.get()
    };
    assert_eq!(ask(&mut stand, false, [None, None]), 2);
    let known = [Some("127.0.0.1:1"), Some("127.0.0.1:2")];
    assert_eq!(ask(&mut stand, true, known), 4);
    assert_eq!(ask(&mut stand, true, known), 4);
    assert_eq!(ask(&mut stand, false, known), 4, "a connection that is gone had them all the same");
    stand.link.generation = 2;
    assert_eq!(ask(&mut stand, true, known), 6, "the slot has another tenant");
    stand.with(|io, _| {
        io.facts_mut().peer = Some(Address::Ip(SocketAddr::from(([10, 0, 0, 1], 9))));
        None
    });
    assert_eq!(ask(&mut stand, true, [Some("10.0.0.1:9"), known[1]]), 6);
}

/// A session that consumes nothing.
struct Glutton;

impl Callee for Glutton {
    fn call(&mut self, _: Call<'_>, _: &mut Io<'_>) -> Result<Step, Panicked> {
        Ok(Step::consumed(0))
    }
}

impl Stand {
    /// One byte, for a session that ends with it: nothing is consumed by that.
    fn happen_once(&mut self) {
        self.with(|io, puppet| io.receive(puppet, &mut [0]));
    }

    fn counters(&self) -> Counters {
        self.stats.total()
    }

    /// Anything at all, after the end.
    fn with_any(&mut self, event: Event) {
        match event {
            Event::End => self.with(|io, puppet| io.end(puppet)),
            Event::Take => self.with(|io, puppet| io.settle(puppet)),
            Event::Resume => self.with(|io, puppet| io.call(puppet, Call::Wake)),
            _ => self.with(|io, puppet| io.receive(puppet, &mut [0; 3])),
        }
    }
}
