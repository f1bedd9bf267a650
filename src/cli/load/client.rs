//! The client as a protocol of the engine: connections that ask, read and judge, on a schedule.
//!
//! One value a worker; nothing here is shared but a flag to stop and, on a terminal, a slot for the progress line. A
//! *lane* is one of the connections that shall be open: it outlives the connection that it has for the moment.

use super::pace::Pace;
use super::tally::{Agreed, Failure, Tally};
use super::wire::{Response, Wire};
use super::worker::{Clock, Setup, Stage};
use ringmill::{CloseReason, ConnId, Dialer, Io, Next, Protocol, Refusal, Secure, Step, Tick, TlsPeer};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Connections of one worker that are being made at the same time.
const DIALING_MAX: usize = 256;

pub(super) struct Client<W: Wire> {
    wire: W,
    setup: Arc<Setup>,
    clock: Clock,
    dialer: Option<Dialer>,
    lanes: Vec<Lane<W::Reader>>,
    /// Open loop: when requests are due.
    pace: Option<Pace>,
    /// Open loop: lanes with room for a request. One that has lost its connection meanwhile is passed by.
    free: VecDeque<u32>,
    to_dial: VecDeque<u32>,
    dialing: usize,
    /// The last part of the address that was connected from.
    source: u8,
    /// Lanes whose connection was refused: dialled again with the next look around.
    to_retry: Vec<u32>,
    tally: Tally,
    /// The time of the last call that had one.
    now: Tick,
    timer_at: Tick,
}

struct Lane<R> {
    conn: Option<ConnId>,
    /// Sent and not answered, in order.
    asked: VecDeque<Asked>,
    /// Not sent: handed to this lane by the schedule, or left unanswered by a connection that the server closed.
    waiting: VecDeque<Asked>,
    reader: R,
    /// Requests sent on this connection.
    count: u32,
    /// When its connection was asked for.
    dialed: Tick,
    is_free: bool,
    /// The answer to what its connection began with is not there yet.
    is_opening: bool,
}

#[derive(Clone, Copy)]
struct Asked {
    /// When it was due: what its latency counts from.
    due: Tick,
    request: u16,
}

impl<W: Wire> Client<W> {
    pub(super) fn new(wire: W, setup: Arc<Setup>, worker: usize) -> Client<W> {
        let lane = |_| Lane {
            conn: None,
            asked: VecDeque::new(),
            waiting: VecDeque::new(),
            reader: W::Reader::default(),
            count: 0,
            dialed: Tick(0),
            is_free: false,
            is_opening: false,
        };
        Client {
            wire,
            lanes: (0..setup.share(worker)).map(lane).collect(),
            clock: Clock::new(setup.clone(), worker),
            setup,
            dialer: None,
            pace: None,
            free: VecDeque::new(),
            to_dial: VecDeque::new(),
            dialing: 0,
            source: 0,
            to_retry: Vec::new(),
            tally: Tally::new(),
            now: Tick(0),
            timer_at: Tick::NEVER,
        }
    }

    fn dialer(&self) -> &Dialer {
        self.dialer.as_ref().expect("the engine starts a protocol before it calls it")
    }

    /// Whether the lane may take one more request.
    fn has_room(&self, lane: u32) -> bool {
        let lane = &self.lanes[lane as usize];
        let limit = self.setup.requests_per_connection.unwrap_or(u32::MAX) as usize;
        lane.conn.is_some()
            && !lane.is_opening
            && lane.asked.len() + lane.waiting.len() < self.setup.pipeline
            && lane.count as usize + lane.waiting.len() < limit
    }

    /// Open loop: gives requests that are due to lanes that are free, in turn.
    fn hand_out(&mut self) {
        let Some(mut pace) = self.pace else { return };
        while self.clock.is_running()
            && let Some(lane) = self.free.front().copied()
        {
            let has_room = self.has_room(lane);
            if has_room {
                let Some(due) = pace.take(self.now.min(self.clock.last())) else { break };
                let request = self.wire.next();
                let state = &mut self.lanes[lane as usize];
                state.waiting.push_back(Asked { due, request });
                let conn = state.conn.expect("it has room, so it is connected");
                self.dialer().wake(conn);
            }
            self.free.pop_front();
            self.lanes[lane as usize].is_free = false;
            self.offer(lane);
        }
        self.pace = Some(pace);
    }

    /// Open loop: the lane can take a request when one is due.
    fn offer(&mut self, lane: u32) {
        if self.has_room(lane) && !self.lanes[lane as usize].is_free {
            self.lanes[lane as usize].is_free = true;
            self.free.push_back(lane);
        }
    }

    /// Writes what waits, then what is due; sees to the lane's deadline.
    fn refill(&mut self, lane: u32, io: &mut Io<'_>) {
        if self.lanes[lane as usize].is_opening {
            return;
        }
        let limit = self.setup.requests_per_connection.unwrap_or(u32::MAX);
        while self.lanes[lane as usize].asked.len() < self.setup.pipeline
            && self.lanes[lane as usize].count < limit
            && let Some(asked) = self.lanes[lane as usize].waiting.pop_front()
        {
            self.ask(lane, asked, io);
        }
        while self.clock.is_running() && self.has_room(lane) {
            let due = match &mut self.pace {
                Some(pace) => pace.take(self.now.min(self.clock.last())),
                // The first request of a connection counts from the start of connecting.
                None if self.lanes[lane as usize].count == 0 => Some(self.lanes[lane as usize].dialed),
                None => Some(self.now),
            };
            let Some(due) = due else {
                self.offer(lane);
                break;
            };
            let request = self.wire.next();
            self.ask(lane, Asked { due, request }, io);
        }
        if self.lanes[lane as usize].asked.is_empty() {
            io.set_deadline(None);
        } else {
            io.set_timeout(self.setup.timeout);
        }
        self.arm();
    }

    fn ask(&mut self, lane: u32, asked: Asked, io: &mut Io<'_>) {
        self.wire.write(asked.request, io.buffer());
        let lane = &mut self.lanes[lane as usize];
        lane.asked.push_back(asked);
        lane.count += 1;
        self.tally.sent += 1;
    }

    /// A response is complete.
    fn answered(&mut self, asked: Asked, response: &Response) {
        let is_in_time = self.clock.is_measured(self.now);
        if is_in_time {
            self.tally.statuses[usize::from(response.status / 100).min(5)] += 1;
        }
        if let Some(failure) = response.failure {
            return self.tally.fail(failure, || match failure {
                Failure::Status => format!("status {}", response.status),
                _ => "the body is not the expected one".to_owned(),
            });
        }
        self.tally.requests_all += 1;
        self.tally.requests += u64::from(is_in_time);
        // By the schedule a request belongs to the time it was due in, however late its response.
        let is_timed = if self.pace.is_some() { self.clock.is_measured(asked.due) } else { is_in_time };
        if is_timed {
            let latency_ns = self.now.since(asked.due).as_nanos() as u64;
            self.tally.latency.saturating_record(latency_ns);
            self.clock.show(latency_ns);
        }
    }

    /// Counts every request of the lane that will not be answered as a failure.
    fn fail_all(&mut self, lane: u32, failure: Failure, say: impl Fn() -> String) {
        let lane = &mut self.lanes[lane as usize];
        for _ in lane.asked.drain(..) {
            self.tally.fail(failure, &say);
        }
    }

    fn count_handshake(&mut self, secure: &Secure) {
        self.tally.handshakes_all.count(secure.is_resumed);
        if self.clock.is_measured(self.now) {
            self.tally.handshakes.count(secure.is_resumed);
        }
        self.tally.agreed.get_or_insert_with(|| Agreed::new(secure));
    }

    /// A handshake failed.
    fn fail_tls(&mut self) {
        let say = self.tls_failure();
        self.tally.fail(Failure::Tls, || say);
    }

    fn tls_failure(&self) -> String {
        let last = self.setup.peer.as_ref().and_then(TlsPeer::last_failure);
        format!("TLS: {}", last.as_deref().unwrap_or("the handshake failed"))
    }

    fn dial(&mut self, lane: u32) {
        self.to_dial.push_back(lane);
        self.pump();
    }

    fn dial_from_next(&mut self, lane: u32) {
        let (address, tag) = (&self.setup.address, u64::from(lane));
        if self.setup.sources == 1 {
            return self.dialer().connect(address, tag);
        }
        self.source = self.source % self.setup.sources + 1;
        self.dialer().connect_from(Ipv4Addr::new(127, 0, 0, self.source).into(), address, tag);
    }

    /// Makes connections, a limited number at a time: a listener's queue is limited too.
    fn pump(&mut self) {
        while self.clock.is_running()
            && self.dialing < DIALING_MAX
            && let Some(lane) = self.to_dial.pop_front()
        {
            self.lanes[lane as usize].dialed = self.now;
            self.dialing += 1;
            self.dial_from_next(lane);
        }
    }

    /// Sees to it that `tick` comes when something is to be done without a connection.
    fn arm(&mut self) {
        let due = match &self.pace {
            Some(pace) if !self.free.is_empty() && self.clock.is_running() => pace.due(),
            _ => Tick::NEVER,
        };
        let at = self.clock.next().min(due);
        if at != self.timer_at {
            self.timer_at = at;
            self.dialer().set_timer(Some(at));
        }
    }

    fn begin(&mut self, now: Tick) {
        self.clock.begin(now);
        let (worker, workers) = (self.clock.worker(), self.setup.workers);
        self.pace = self.setup.rate.map(|rate| Pace::new(now, rate, worker, workers));
        self.to_dial = (0..self.lanes.len() as u32).collect();
        self.pump();
    }

    /// No more requests. What was due by the schedule and found no connection counts as well.
    fn end(&mut self) {
        if let Some(pace) = &mut self.pace {
            self.clock.unsent_rest(pace, &mut self.tally);
        }
    }

    /// Hands in the results once every request is answered, or nobody wants to wait any longer.
    fn finish_if_done(&mut self, is_late: bool) {
        let is_quiet = |lane: &Lane<W::Reader>| {
            lane.asked.is_empty() && (lane.waiting.is_empty() || lane.conn.is_none())
        };
        // An attempt to connect counts as soon as the server has it.
        let is_done = self.dialing == 0 && self.lanes.iter().all(is_quiet);
        if !is_done && !is_late {
            return;
        }
        for lane in 0..self.lanes.len() as u32 {
            self.fail_all(lane, Failure::Timeout, || "no response by the end of the run".to_owned());
            while let Some(asked) = self.lanes[lane as usize].waiting.pop_front() {
                if self.pace.is_some() {
                    self.clock.unsent(asked.due, &mut self.tally);
                }
            }
        }
        self.clock.hand_in(std::mem::replace(&mut self.tally, Tally::new()));
    }
}

impl<W: Wire> Protocol for Client<W> {
    type Session = u32;

    /// Only outbound connections: `connected` opens the sessions.
    fn open(&mut self, _: &mut Io<'_>) -> u32 {
        unreachable!("nothing listens")
    }

    fn start(&mut self, dialer: Dialer) {
        dialer.set_timer(Some(Tick(0)));
        self.dialer = Some(dialer);
    }

    fn tick(&mut self, now: Tick) {
        (self.now, self.timer_at) = (now, Tick::NEVER);
        if self.clock.stage() == Stage::New {
            self.begin(now);
        }
        if self.clock.next() <= now {
            let was_running = self.clock.is_running();
            // What was due before the end can still be sent.
            self.hand_out();
            self.clock.advance(now, self.tally.requests_all);
            if was_running && !self.clock.is_running() {
                self.end();
            }
            let retries = std::mem::take(&mut self.to_retry);
            self.to_dial.extend(retries);
            self.pump();
        }
        match self.clock.stage() {
            Stage::New | Stage::Over => {}
            Stage::Running => self.hand_out(),
            Stage::Ending { until } => self.finish_if_done(until <= now),
        }
        self.arm();
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> u32 {
        self.now = io.now();
        let lane = tag as u32;
        self.dialing -= 1;
        self.tally.connects += 1;
        if let Some(secure) = io.facts().and_then(|facts| facts.secure.as_ref()) {
            self.count_handshake(secure);
        }
        self.lanes[lane as usize].conn = Some(io.id());
        if let Some(opening) = self.wire.opening() {
            io.write(opening);
            io.set_timeout(self.setup.timeout);
            self.lanes[lane as usize].is_opening = true;
        }
        self.refill(lane, io);
        self.pump();
        lane
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        self.dialing -= 1;
        if self.clock.is_running() {
            match refusal {
                Refusal::TimedOut => self.tally.fail(Failure::Timeout, || format!("connecting: {refusal}")),
                Refusal::Unsecured => self.fail_tls(),
                _ => self.tally.fail(Failure::Connect, || format!("connecting: {refusal}")),
            }
            self.to_retry.push(tag as u32);
            self.pump();
        }
    }

    fn data(&mut self, lane: &mut u32, input: &mut [u8], io: &mut Io<'_>) -> Step {
        self.now = io.now();
        let lane = *lane;
        let mut at = 0;
        if self.lanes[lane as usize].is_opening {
            match self.wire.read_opening(input) {
                Ok(Some(bytes)) => at = bytes,
                Ok(None) => return Step::consumed(0),
                Err(_) => {
                    let say = || "what came is no answer to a handshake of WebSocket".to_owned();
                    self.tally.fail(Failure::Malformed, say);
                    return Step::abort();
                }
            }
            self.lanes[lane as usize].is_opening = false;
        }
        while at < input.len() {
            let state = &mut self.lanes[lane as usize];
            let Some(asked) = state.asked.front().copied() else {
                if let Some(bytes) = self.wire.read_unasked(&mut state.reader, &input[at..]) {
                    at += bytes;
                    if bytes == 0 {
                        break;
                    }
                    continue;
                }
                self.tally.fail(Failure::Malformed, || "more bytes than were asked for".to_owned());
                return Step::abort();
            };
            let Ok(read) = self.wire.read(&mut state.reader, asked.request, &input[at..]) else {
                self.fail_all(lane, Failure::Malformed, || "what came is no response".to_owned());
                return Step::abort();
            };
            at += read.consumed;
            let Some(response) = read.response else { break };
            state.asked.pop_front();
            self.answered(asked, &response);
            if !response.keep_alive {
                // What it has not answered will be asked again: it said that it would not.
                return Step::close();
            }
        }
        self.wire.reply(&mut self.lanes[lane as usize].reader, io.buffer());
        self.refill(lane, io);
        let state = &self.lanes[lane as usize];
        let is_used_up = self.setup.requests_per_connection.is_some_and(|limit| state.count >= limit);
        if is_used_up && state.asked.is_empty() { Step::close() } else { Step::consumed(at) }
    }

    fn wake(&mut self, lane: &mut u32, io: &mut Io<'_>) -> Next {
        self.now = io.now();
        self.refill(*lane, io);
        Next::Continue
    }

    fn eof(&mut self, lane: &mut u32, _: &mut [u8], io: &mut Io<'_>) -> Next {
        self.now = io.now();
        let state = &mut self.lanes[*lane as usize];
        // Whoever is in between can end a connection without TLS's own end.
        let is_cut = io.facts().is_some_and(|facts| facts.is_truncated());
        if !is_cut
            && let Some(asked) = state.asked.front().copied()
            && let Some(response) = self.wire.end(&mut state.reader, asked.request)
        {
            state.asked.pop_front();
            self.answered(asked, &response);
        } else {
            if state.is_opening {
                self.tally.fail(Failure::Closed, || "closed before the handshake was answered".to_owned());
            }
            self.fail_all(*lane, Failure::Closed, || "closed before the response was complete".to_owned());
        }
        Next::Close
    }

    fn timeout(&mut self, lane: &mut u32, io: &mut Io<'_>) -> Next {
        self.now = io.now();
        let timeout = self.setup.timeout;
        if self.lanes[*lane as usize].is_opening {
            self.tally.fail(Failure::Timeout, || format!("no answer to the handshake within {timeout:?}"));
        }
        self.fail_all(*lane, Failure::Timeout, || format!("no response within {timeout:?}"));
        Next::Abort
    }

    fn closed(&mut self, lane: u32, reason: CloseReason) {
        match reason {
            CloseReason::Failed(errno) => {
                if self.lanes[lane as usize].asked.is_empty() && self.clock.is_running() {
                    self.tally.fail(Failure::Reset, || format!("an idle connection broke: {errno}"));
                }
                self.fail_all(lane, Failure::Reset, || errno.to_string());
            }
            // Whoever aborts here has failed what was asked: then it was TLS.
            CloseReason::Aborted if !self.lanes[lane as usize].asked.is_empty() => {
                let say = self.tls_failure();
                self.fail_all(lane, Failure::Tls, || say.clone());
            }
            CloseReason::Finished | CloseReason::Aborted | CloseReason::Stopped => {}
            _ => self.fail_all(lane, Failure::Closed, || format!("closed by the client: {reason:?}")),
        }
        let state = &mut self.lanes[lane as usize];
        // Announced beforehand, or there would be none: these are asked again.
        while let Some(asked) = state.asked.pop_back() {
            self.tally.sent -= 1;
            state.waiting.push_front(asked);
        }
        (state.conn, state.reader, state.count, state.is_opening) = (None, W::Reader::default(), 0, false);
        self.dial(lane);
    }
}
