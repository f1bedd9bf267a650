//! UDP echo: each datagram carries a number, so that answers find their questions and a lost one is noticed.
//!
//! A *flow* is one socket with up to `pipeline` datagrams under way. The flows of a worker share its counts.

use super::pace::Pace;
use super::tally::{Failure, Tally};
use super::worker::{Clock, Setup, Stage};
use ringmill::{Datagram, DatagramIo, Tick};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The number at the front of each datagram.
pub(super) const NUMBER_BYTES: usize = 8;

/// Datagrams of one flow under way: well below what the engine queues for one socket.
pub(super) const PIPELINE_MAX: u32 = 64;

pub(super) struct Flow {
    desk: Rc<RefCell<Desk>>,
    setup: Arc<Setup>,
    target: SocketAddr,
    /// Of all flows of all workers.
    index: usize,
    payload: Vec<u8>,
    pace: Option<Pace>,
    /// Sent and not answered, in the order of their numbers.
    asked: VecDeque<Asked>,
    next: u64,
    /// It has sent all that was due before the end.
    is_ended: bool,
    /// Nothing of it is under way any more.
    is_quiet: bool,
}

struct Asked {
    number: u64,
    due: Tick,
    sent: Tick,
}

/// What the flows of a worker share.
struct Desk {
    clock: Clock,
    tally: Tally,
    /// Flows with something under way, or to send.
    busy: usize,
}

/// The flows of one worker.
pub(super) fn flows(setup: &Arc<Setup>, target: SocketAddr, payload: &[u8], worker: usize) -> Vec<Flow> {
    let (before, count) = ((0..worker).map(|other| setup.share(other)).sum::<usize>(), setup.share(worker));
    let clock = Clock::new(setup.clone(), worker);
    let desk = Rc::new(RefCell::new(Desk { clock, tally: Tally::new(), busy: count }));
    let flow = |n| Flow {
        desk: desk.clone(),
        setup: setup.clone(),
        target,
        index: before + n,
        payload: payload.to_vec(),
        pace: None,
        asked: VecDeque::new(),
        next: 0,
        is_ended: false,
        is_quiet: false,
    };
    (0..count).map(flow).collect()
}

/// Where to send from.
pub(super) fn own_address(target: SocketAddr) -> SocketAddr {
    match target {
        // Where only this machine can answer.
        _ if target.ip().is_loopback() => SocketAddr::new(target.ip(), 0),
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    }
}

/// Whether one datagram is answered.
pub(super) fn is_echoed(target: SocketAddr, payload: &[u8], timeout: Duration) -> Result<(), Error> {
    let socket = UdpSocket::bind(own_address(target))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(payload)?;
    match socket.recv(&mut [0; 1]) {
        // So a socket says that the time is over (socket(7), SO_RCVTIMEO).
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        received => received.map(drop),
    }
}

impl Datagram for Flow {
    fn start(&mut self, io: &mut DatagramIo<'_>) {
        let desk = self.desk.clone();
        let desk = &mut *desk.borrow_mut();
        let now = io.now();
        if desk.clock.stage() == Stage::New {
            desk.clock.begin(now);
        }
        desk.tally.connects += 1;
        let flows = self.setup.connections;
        self.pace = self.setup.rate.map(|rate| Pace::new(now, rate, self.index, flows));
        self.fill(desk, io);
    }

    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        let desk = self.desk.clone();
        let desk = &mut *desk.borrow_mut();
        if from != self.target {
            return desk
                .tally
                .fail(Failure::Malformed, || format!("a datagram of {from}, which was not asked"));
        }
        desk.tally.received_bytes += input.len() as u64;
        let number = input.first_chunk::<NUMBER_BYTES>().map(|bytes| u64::from_be_bytes(*bytes));
        let found =
            number.and_then(|number| self.asked.binary_search_by_key(&number, |asked| asked.number).ok());
        // Nearly always the first.
        match found.and_then(|at| self.asked.remove(at)) {
            Some(asked) => self.answered(desk, &asked, input, io.now()),
            None => {
                desk.tally.fail(Failure::Malformed, || "an answer to nothing, or a second one".to_owned())
            }
        }
        self.fill(desk, io);
    }

    fn tick(&mut self, io: &mut DatagramIo<'_>) {
        let desk = self.desk.clone();
        let desk = &mut *desk.borrow_mut();
        let now = io.now();
        if desk.clock.next() <= now {
            desk.clock.advance(now, desk.tally.requests_all);
        }
        self.give_up_lost(desk, now);
        self.fill(desk, io);
        if let Stage::Ending { until } = desk.clock.stage() {
            self.end(desk, until <= now);
            io.set_timer(Some(desk.clock.next()));
            if desk.busy == 0 {
                desk.clock.hand_in(std::mem::replace(&mut desk.tally, Tally::new()));
                io.set_timer(None);
            }
        }
    }
}

impl Flow {
    /// Sends what is due, as long as there is room, and sees to it that `tick` comes.
    fn fill(&mut self, desk: &mut Desk, io: &mut DatagramIo<'_>) {
        let now = io.now();
        while !self.is_ended && self.asked.len() < self.setup.pipeline {
            let due = match &mut self.pace {
                Some(pace) => pace.take(now.min(desk.clock.last())),
                None => desk.clock.is_running().then_some(now),
            };
            let Some(due) = due else { break };
            self.payload[..NUMBER_BYTES].copy_from_slice(&self.next.to_be_bytes());
            if !io.send_to(self.target, &self.payload) {
                desk.tally.fail(Failure::Connect, || "the kernel does not take so many datagrams".to_owned());
                break;
            }
            self.asked.push_back(Asked { number: self.next, due, sent: now });
            self.next += 1;
            desk.tally.sent += 1;
            desk.tally.sent_bytes += self.payload.len() as u64;
        }
        let due = match &self.pace {
            Some(pace) if !self.is_ended && self.asked.len() < self.setup.pipeline => pace.due(),
            _ => Tick::NEVER,
        };
        let lost = self.asked.front().map_or(Tick::NEVER, |asked| asked.sent.after(self.setup.timeout));
        io.set_timer(Some(due.min(lost).min(desk.clock.next())));
    }

    fn answered(&mut self, desk: &mut Desk, asked: &Asked, input: &[u8], now: Tick) {
        if input.len() != self.payload.len() || input[NUMBER_BYTES..] != self.payload[NUMBER_BYTES..] {
            return desk.tally.fail(Failure::Body, || "the answer is not what was sent".to_owned());
        }
        let is_in_time = desk.clock.is_measured(now);
        desk.tally.requests_all += 1;
        desk.tally.requests += u64::from(is_in_time);
        if if self.pace.is_some() { desk.clock.is_measured(asked.due) } else { is_in_time } {
            let latency_ns = now.since(asked.due).as_nanos() as u64;
            desk.tally.latency.saturating_record(latency_ns);
            desk.clock.show(latency_ns);
        }
    }

    fn give_up_lost(&mut self, desk: &mut Desk, now: Tick) {
        let timeout = self.setup.timeout;
        while self.asked.front().is_some_and(|asked| asked.sent.after(timeout) <= now) {
            self.asked.pop_front();
            desk.tally.fail(Failure::Timeout, || format!("no answer within {timeout:?}"));
        }
    }

    /// After the end of the measured time: what was due and found no room counts with the time it has waited.
    fn end(&mut self, desk: &mut Desk, is_late: bool) {
        if !self.is_ended {
            self.is_ended = true;
            if let Some(pace) = &mut self.pace {
                desk.clock.unsent_rest(pace, &mut desk.tally);
            }
        }
        if is_late {
            for _ in self.asked.drain(..) {
                desk.tally.fail(Failure::Timeout, || "no answer by the end of the run".to_owned());
            }
        }
        if self.asked.is_empty() && !self.is_quiet {
            self.is_quiet = true;
            desk.busy -= 1;
        }
    }
}
