//! A worker's part of a fan-out, as a protocol of the engine: its readers, and on the first worker the publisher.

use super::stream::{Front, Inflated, Messages, Reader, Wrong, no_response};
use super::{Kind, Plan};
use crate::cli::load::pace::Pace;
use crate::cli::load::tally::{Agreed, Failure, Tally};
use crate::cli::load::worker::{Clock, Setup, Stage};
use ringmill::http::client::{Body, parse_final_head};
use ringmill::websocket::frame::{Opcode, write_masked};
use ringmill::{CloseReason, ConnId, Dialer, Io, Next, Protocol, Refusal, Step, Tick, TlsPeer};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Connections of one worker that are being made at the same time.
const DIALING_MAX: usize = 256;
/// While not all readers have had a message, another one is sent so often.
const JOIN: Duration = Duration::from_millis(20);
/// How often a worker looks what the others have come to.
const LOOK: Duration = Duration::from_millis(5);
/// Of the frames that the publisher sends. Nothing: who counts the bytes of messages need not unmask them.
const MASK: [u8; 4] = [0; 4];

/// One worker's connections.
pub(in crate::cli::load) struct Fan {
    plan: Arc<Plan>,
    setup: Arc<Setup>,
    clock: Clock,
    dialer: Option<Dialer>,
    /// The first one of the first worker is the publisher's.
    lanes: Vec<Lane>,
    to_dial: u32,
    dialing: usize,
    messages: Messages,
    inflated: Inflated,
    publisher: Publisher,
    tally: Tally,
    started: Tick,
    now: Tick,
    timer_at: Tick,
}

/// One connection.
#[derive(Default)]
struct Lane {
    conn: Option<ConnId>,
    /// Its handshake is answered, or its request sent.
    is_open: bool,
    /// The message that comes next, once there was one.
    next: Option<u64>,
    reader: Reader,
}

/// What the publisher has come to.
#[derive(Default)]
struct Publisher {
    next: u64,
    /// Messages that count.
    published: u64,
    pace: Option<Pace>,
    joins_at: Tick,
    /// The response to a message that was posted.
    response: Option<Body>,
    cpu_before: Option<Duration>,
}

impl Fan {
    pub(in crate::cli::load) fn new(plan: Arc<Plan>, setup: Arc<Setup>, worker: usize) -> Fan {
        Fan {
            lanes: (0..setup.share(worker)).map(|_| Lane::default()).collect(),
            clock: Clock::new(setup.clone(), worker),
            messages: Messages::new(plan.bytes),
            plan,
            setup,
            dialer: None,
            to_dial: 0,
            dialing: 0,
            inflated: Inflated::default(),
            publisher: Publisher::default(),
            tally: Tally::new(),
            started: Tick(0),
            now: Tick(0),
            timer_at: Tick::NEVER,
        }
    }

    fn dialer(&self) -> &Dialer {
        self.dialer.as_ref().expect("the engine starts a protocol before it calls it")
    }

    fn has_publisher(&self) -> bool {
        self.clock.worker() == 0
    }

    fn is_publisher(&self, lane: u32) -> bool {
        lane == 0 && self.has_publisher()
    }

    fn pump(&mut self) {
        while self.dialing < DIALING_MAX && (self.to_dial as usize) < self.lanes.len() {
            self.dialing += 1;
            self.dialer().connect(&self.setup.address, u64::from(self.to_dial));
            self.to_dial += 1;
        }
    }

    /// The run is void, and ends.
    fn fail(&mut self, failure: Failure, say: impl FnOnce() -> String) {
        if self.clock.stage() != Stage::Over {
            self.tally.fail(failure, say);
        }
        self.plan.is_over.store(true, SeqCst);
    }

    /// Messages that count and have not reached everybody.
    fn under_way(&self) -> u64 {
        self.publisher.published - self.plan.delivered.load(SeqCst) / self.plan.readers
    }

    /// What the publisher does: it looks who is there, begins, and publishes what is due.
    fn publish_due(&mut self, io: &mut Io<'_>) {
        if !self.lanes[0].is_open {
            return;
        }
        if self.clock.stage() == Stage::New {
            let joined = self.plan.joined.load(SeqCst);
            if joined < self.plan.readers {
                if self.publisher.joins_at <= self.now {
                    self.publisher.joins_at = self.now.after(JOIN);
                    self.publish(self.now, io);
                }
                return;
            }
            if self.publisher.published == 0 {
                // When everybody has this one, nothing from before is under way any more.
                self.plan.first.store(self.publisher.next, SeqCst);
                self.publisher.published = 1;
                self.publish(self.now, io);
            }
            if self.under_way() > 0 {
                return;
            }
            self.begin();
        }
        while self.clock.is_running() && self.under_way() < self.setup.pipeline as u64 {
            let due = match &mut self.publisher.pace {
                Some(pace) => pace.take(self.now.min(self.clock.last())),
                None => Some(self.now),
            };
            let Some(due) = due else { break };
            self.publisher.published += 1;
            self.tally.published += u64::from(self.clock.is_measured(self.now));
            self.publish(due, io);
        }
        self.arm();
    }

    fn begin(&mut self) {
        match self.plan.watched_cpu() {
            Ok(cpu) => self.publisher.cpu_before = cpu,
            Err(problem) => return self.fail(Failure::Connect, || problem),
        }
        self.publisher.pace = self.setup.rate.map(|rate| Pace::new(self.now, rate, 0, 1));
        self.clock.begin(self.now);
        self.plan.begun.store(self.now.0.max(1), SeqCst);
    }

    fn publish(&mut self, due: Tick, io: &mut Io<'_>) {
        let message = self.messages.write(Front { number: self.publisher.next, due });
        self.publisher.next += 1;
        self.tally.sent += 1;
        match &self.plan.kind {
            Kind::WebSocket { .. } => {
                write_masked(io.buffer(), Opcode::Text, true, false, MASK, message);
            }
            Kind::Events { post, .. } => {
                io.write(post);
                io.write(message);
            }
        }
    }

    /// Reads what the publisher is answered: its own messages, or responses.
    fn read_answers(&mut self, input: &[u8]) -> Result<usize, Wrong> {
        let Kind::Events { .. } = self.plan.kind else {
            return self.lanes[0].reader.read_frames(
                input,
                Some(&mut self.inflated),
                self.plan.bytes,
                |_| Ok(()),
            );
        };
        let mut at = 0;
        while at < input.len() {
            if self.publisher.response.is_none() {
                let (passed, head) = parse_final_head(&input[at..], false).map_err(no_response)?;
                at += passed;
                let Some(head) = head else { break };
                if !(200..300).contains(&head.status) {
                    return Err((Failure::Status, format!("status {} for a message", head.status)));
                }
                at += head.bytes;
                self.publisher.response = Some(Body::new(head.framing));
            }
            let Some(body) = &mut self.publisher.response else { break };
            let progress = body.read(&input[at..], |_| {}).map_err(no_response)?;
            at += progress.consumed;
            if !progress.is_complete {
                break;
            }
            self.publisher.response = None;
        }
        Ok(at)
    }

    fn read(&mut self, lane: u32, input: &[u8]) -> Result<usize, Wrong> {
        let Fan { plan, messages, inflated, lanes, tally, clock, setup, .. } = self;
        let Lane { reader, next, .. } = &mut lanes[lane as usize];
        let now = self.now;
        let mut wakes = false;
        let each = |text: &[u8]| {
            let Some(front) = messages.read(text) else {
                return Err((Failure::Body, "what came is not what was published".to_owned()));
            };
            match next.replace(front.number + 1) {
                None => drop(plan.joined.fetch_add(1, SeqCst)),
                Some(expected) if expected != front.number => {
                    let said = format!("message {} came where {expected} was expected", front.number);
                    return Err((Failure::Body, said));
                }
                Some(_) => {}
            }
            if front.number < plan.first.load(SeqCst) {
                return Ok(());
            }
            let delivered = plan.delivered.fetch_add(1, SeqCst) + 1;
            wakes |= delivered.is_multiple_of(plan.readers);
            // The first one only shows that all are there.
            if delivered <= plan.readers {
                return Ok(());
            }
            let is_in_time = clock.is_measured(now);
            tally.requests_all += 1;
            tally.requests += u64::from(is_in_time);
            if if setup.rate.is_some() { clock.is_measured(front.due) } else { is_in_time } {
                let latency_ns = now.since(front.due).as_nanos() as u64;
                tally.latency.saturating_record(latency_ns);
                clock.show(latency_ns);
            }
            Ok(())
        };
        let read = match &plan.kind {
            Kind::WebSocket { handshake } => {
                reader.read_frames(input, handshake.deflates.then_some(inflated), plan.bytes, each)
            }
            Kind::Events { .. } => reader.read_events(input, each),
        };
        if wakes {
            match self.lanes[0].conn.filter(|_| self.has_publisher()) {
                Some(conn) => self.dialer().wake(conn),
                None => drop(self.plan.publisher.get().map(ringmill::Waker::wake)),
            }
        }
        read
    }

    /// Sees to it that `tick` comes.
    fn arm(&mut self) {
        let at = match self.clock.stage() {
            Stage::New => self.now.after(LOOK),
            Stage::Over => Tick::NEVER,
            Stage::Running | Stage::Ending { .. } => self.clock.next(),
        };
        let due = match &self.publisher.pace {
            Some(pace) if self.clock.is_running() && self.under_way() < self.setup.pipeline as u64 => {
                pace.due()
            }
            _ => Tick::NEVER,
        };
        let at = at.min(due).max(Tick(self.now.0 + 1));
        if at != self.timer_at {
            self.timer_at = at;
            self.dialer().set_timer(Some(at));
        }
    }

    /// Begins when the first worker has begun.
    fn follow(&mut self) {
        if self.clock.stage() == Stage::New
            && !self.has_publisher()
            && let begun @ 1.. = self.plan.begun.load(SeqCst)
        {
            self.clock.begin(Tick(begun));
        }
    }

    /// Hands in the results, once all is said and done.
    fn finish(&mut self, is_late: bool) {
        if self.has_publisher() && !self.plan.is_over.load(SeqCst) {
            let under_way = self.under_way();
            if under_way > 0 && !is_late {
                return;
            }
            if let Some(pace) = &mut self.publisher.pace {
                self.clock.unsent_rest(pace, &mut self.tally);
            }
            match (self.plan.watched_cpu(), self.publisher.cpu_before) {
                (Ok(Some(cpu)), Some(before)) => self.tally.watched_cpu = Some(cpu.saturating_sub(before)),
                (Err(problem), _) => self.fail(Failure::Connect, || problem),
                _ => {}
            }
            if under_way > 0 {
                self.fail(Failure::Timeout, || {
                    format!("{under_way} message(s) have not reached all readers")
                });
            }
            self.plan.is_over.store(true, SeqCst);
        }
        if is_late || self.plan.is_over.load(SeqCst) {
            self.clock.hand_in(std::mem::replace(&mut self.tally, Tally::new()));
        }
    }
}

impl Protocol for Fan {
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
        if self.started == Tick(0) {
            self.started = now;
            self.pump();
        }
        self.follow();
        if self.clock.stage() == Stage::New && self.has_publisher() {
            let timeout = self.setup.timeout;
            if self.started.after(timeout) <= now && !self.plan.is_over.load(SeqCst) {
                let (joined, readers) = (self.plan.joined.load(SeqCst), self.plan.readers);
                let say = || format!("{joined} of {readers} readers had a message within {timeout:?}");
                self.fail(Failure::Timeout, say);
            }
            if self.setup.is_stopped() {
                self.plan.is_over.store(true, SeqCst);
            }
        }
        if self.clock.stage() != Stage::New && self.clock.next() <= now {
            self.clock.advance(now, self.tally.requests_all);
        }
        match self.clock.stage() {
            Stage::Over => return,
            Stage::Ending { until } => self.finish(until <= now),
            // Void.
            Stage::New | Stage::Running if self.plan.is_over.load(SeqCst) => self.finish(false),
            Stage::New | Stage::Running => {}
        }
        if let Some(conn) = self.lanes[0].conn.filter(|_| self.has_publisher()) {
            self.dialer().wake(conn);
        }
        self.arm();
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> u32 {
        self.now = io.now();
        let lane = tag as u32;
        self.dialing -= 1;
        self.tally.connects += 1;
        if let Some(secure) = io.facts().and_then(|facts| facts.secure.as_ref()) {
            self.tally.handshakes_all.count(secure.is_resumed);
            self.tally.agreed.get_or_insert_with(|| Agreed::new(secure));
        }
        self.lanes[lane as usize].conn = Some(io.id());
        if self.is_publisher(lane) {
            let _ = self.plan.publisher.set(io.waker());
        }
        match &self.plan.kind {
            Kind::WebSocket { handshake } => io.write(&handshake.request),
            Kind::Events { .. } if self.is_publisher(lane) => self.lanes[0].is_open = true,
            Kind::Events { request, .. } => io.write(request),
        }
        self.pump();
        lane
    }

    fn refused(&mut self, _: u64, refusal: Refusal) {
        self.dialing -= 1;
        let last = self.setup.peer.as_ref().and_then(TlsPeer::last_failure);
        match refusal {
            Refusal::TimedOut => self.fail(Failure::Timeout, || format!("connecting: {refusal}")),
            Refusal::Unsecured => {
                self.fail(Failure::Tls, || format!("TLS: {}", last.as_deref().unwrap_or("?")))
            }
            _ => self.fail(Failure::Connect, || format!("connecting: {refusal}")),
        }
    }

    fn data(&mut self, lane: &mut u32, input: &mut [u8], io: &mut Io<'_>) -> Step {
        self.now = io.now();
        let lane = *lane;
        self.follow();
        let mut at = 0;
        if let Kind::WebSocket { handshake } = &self.plan.kind
            && !self.lanes[lane as usize].is_open
        {
            match handshake.read(input) {
                Ok(Some(bytes)) => at = bytes,
                Ok(None) => return Step::consumed(0),
                Err(_) => {
                    let say = || "what came is no answer to a handshake of WebSocket".to_owned();
                    self.fail(Failure::Malformed, say);
                    return Step::abort();
                }
            }
            self.lanes[lane as usize].is_open = true;
        }
        let read = match self.is_publisher(lane) {
            true => self.read_answers(&input[at..]),
            false => self.read(lane, &input[at..]),
        };
        match read {
            Ok(bytes) => {
                io.buffer().append(&mut self.lanes[lane as usize].reader.reply);
                Step::consumed(at + bytes)
            }
            Err((failure, said)) => {
                self.fail(failure, || said);
                Step::abort()
            }
        }
    }

    /// Of the publisher alone.
    fn wake(&mut self, _: &mut u32, io: &mut Io<'_>) -> Next {
        self.now = io.now();
        self.publish_due(io);
        Next::Continue
    }

    fn eof(&mut self, _: &mut u32, _: &mut [u8], io: &mut Io<'_>) -> Next {
        self.now = io.now();
        self.fail(Failure::Closed, || "the server has closed a connection".to_owned());
        Next::Close
    }

    fn closed(&mut self, lane: u32, reason: CloseReason) {
        self.lanes[lane as usize].conn = None;
        match reason {
            CloseReason::Failed(errno) => self.fail(Failure::Reset, || errno.to_string()),
            CloseReason::Finished | CloseReason::Aborted | CloseReason::Stopped => {}
            _ => self.fail(Failure::Closed, || format!("closed by the client: {reason:?}")),
        }
    }
}
