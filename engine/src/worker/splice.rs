//! Bytes that go from one connection to another unseen ([`Io::splice`](crate::Io::splice)): when that begins, and when it ends.
//!
//! First the source's receive is ended, and what it still brings is copied; once the other connection has sent everything, the driver
//! passes on what comes. Nothing of one way can so overtake what came another way. The one receives and the other sends meanwhile, as far
//! as the rest of the worker can see. When it ends, what the driver could not pass on is the first of the other connection's output.

use super::Worker;
use crate::conn::{Conn, Recv};
use crate::driver::Driver;
use crate::event::{Errno, Op, Payload};
use crate::output::Output;
use crate::seam::layer::Call;
use crate::session::inlet::{End, Reading};
use crate::session::life::Phase;
use crate::session::outlet::Last;
use crate::time::Tick;
use crate::token::{Kind, Token};
use slab::Slab;
use std::collections::BTreeMap;
use std::time::Duration;

/// At most so many bytes of one connection go by in a turn: one filling of a pipe.
const TURN_BYTES_MAX: u32 = 256 * 1024;
/// Fewer bytes at once than this are little: to copy them costs less.
const LITTLE_BYTES: u32 = 4096;
/// After so many times in a row of little it ends.
const LITTLES_MAX: u8 = 8;
/// So long nobody tries again where there was no pipe.
const RETRY: Duration = Duration::from_secs(1);

/// Those that go on.
#[derive(Default)]
pub(super) struct Splices {
    /// By where the bytes come from.
    all: BTreeMap<u32, Splice>,
    /// Where those come from that go out here.
    sources: BTreeMap<u32, u32>,
    /// There was no pipe: until then nobody asks for one.
    retry_at: Tick,
}

#[derive(Clone, Copy)]
struct Splice {
    sink: u32,
    /// The driver is at it; before that, the source's receive is ended, and the sink's output is sent.
    is_in_flight: bool,
    /// It was told to end.
    is_cancelled: bool,
    littles: u8,
}

impl Splices {
    /// Whether what goes out on this connection comes from another one, and nothing waits for its peer to take it.
    pub(super) fn has_idle_sink(&self, index: u32, conns: &Slab<Conn>, driver: &impl Driver) -> bool {
        let Some(source) = self.sources.get(&index) else { return false };
        let piped = || driver.piped_bytes(conns[*source as usize].link.socket);
        self.all[source].is_in_flight && piped() == 0
    }

    fn remove(&mut self, source: u32) -> Option<Splice> {
        let splice = self.all.remove(&source)?;
        self.sources.remove(&splice.sink);
        Some(splice)
    }
}

impl<D: Driver> Worker<D> {
    /// A connection settles that ends, or that others' bytes go out on.
    pub(super) fn settle_spliced(&mut self, index: u32) {
        let duplex = &self.conns[index as usize].duplex;
        let (is_open, is_fed) = (duplex.is_open(), duplex.outlet.last == Last::Fed);
        let writes = duplex.outlet.pending.is_some();
        match self.splices.sources.get(&index).copied() {
            None if is_fed => self.begin_splice(index),
            None => {}
            Some(source) if !(is_open && is_fed) => self.end_splice(source),
            Some(source) if !self.splices.all[&source].is_in_flight => self.advance_splice(source),
            // The session has something to say itself, behind what is in the pipe.
            Some(source) if writes => self.end_splice(source),
            Some(_) => {}
        }
        if !is_open && self.splices.all.contains_key(&index) {
            self.end_splice(index);
        }
    }

    /// A session has just asked for it.
    fn begin_splice(&mut self, sink: u32) {
        let wish = self.shared.splice.take().filter(|(_, by)| by.index == sink);
        let source = wish.and_then(|(source, _)| {
            let is_there = self.live(Token::new(Kind::Recv, source.generation, source.index)).is_some();
            is_there.then_some(source.index)
        });
        let may_begin = |source: &u32| {
            let (from, to) = (&self.conns[*source as usize].duplex, &self.conns[sink as usize].duplex);
            let is_plain = !from.is_layered && !to.is_layered;
            // Whoever asks for it knows why the other one pauses.
            let flows = matches!(from.inlet.reading, Reading::Flowing | Reading::Paused);
            let are_open = from.is_open() && from.inlet.is_open() && to.is_open();
            let is_free = !self.splices.all.contains_key(source) && *source != sink;
            is_plain && flows && are_open && is_free
        };
        let is_allowed = self.config.splice_pipes > 0 && self.shared.now >= self.splices.retry_at;
        let Some(source) = source.filter(|source| is_allowed && may_begin(source)) else {
            self.conns[sink as usize].duplex.outlet.last = Last::Open;
            return;
        };
        let splice = Splice { sink, is_in_flight: false, is_cancelled: false, littles: 0 };
        self.splices.all.insert(source, splice);
        self.splices.sources.insert(sink, source);
        self.conns[source as usize].duplex.inlet.reading = Reading::Spliced;
        self.settle(source);
    }

    /// Whether the receiving of a connection is not its own affair, for its bytes go to another one.
    pub(super) fn steer_splice(&mut self, index: u32) -> bool {
        if self.splices.all.is_empty() || !self.splices.all.contains_key(&index) {
            return false;
        }
        if self.conns[index as usize].duplex.inlet.reading != Reading::Spliced {
            // Its session pauses.
            self.end_splice(index);
            return true;
        }
        self.advance_splice(index);
        self.conns.get(index as usize).is_none_or(|conn| !matches!(conn.recv, Recv::Armed | Recv::Fed))
    }

    /// The way to the driver: what has arrived so far is copied, and behind it the driver takes over.
    fn advance_splice(&mut self, source: u32) {
        let Splice { sink, is_in_flight, .. } = self.splices.all[&source];
        if is_in_flight {
            return;
        }
        if let Some(mut kept) = self.conns[source as usize].duplex.inlet.kept.take() {
            let bytes = kept.len() as u64;
            let outlet = &mut self.conns[sink as usize].duplex.outlet;
            let output = outlet.pending.get_or_insert_with(|| self.shared.output());
            output.buffer().extend_from_slice(kept.bytes());
            output.count_memory(&mut self.shared.memory);
            self.shared.recycle_unread(kept);
            self.tell_spliced(sink, bytes);
            // Which comes back here, if it goes on.
            return self.settle(sink);
        }
        if self.conns[source as usize].duplex.inlet.end != End::Open {
            self.drop_splice(source);
            return self.settle(sink);
        }
        let Some([from, to]) = self.conns.get_disjoint_mut([source as usize, sink as usize]).ok() else {
            return;
        };
        if to.duplex.outlet.pending.is_some() {
            self.unflushed.list(sink, to);
        }
        if to.queued_bytes() > 0 || !matches!(from.recv, Recv::Idle | Recv::Starved) {
            return;
        }
        (from.recv, to.sending_bytes) = (Recv::Spliced, 1);
        to.end_stall();
        to.stall_deadline = self.shared.now.after(to.write_timeout(self.config.write_timeout));
        self.timers.schedule(sink, to.next_deadline());
        self.splices.all.entry(source).and_modify(|splice| splice.is_in_flight = true);
        let token = Token::new(Kind::Splice, from.link.generation, source);
        let (from, to) = (from.link.socket, to.link.socket);
        self.driver.submit(Op::Splice { token, from, to, turn_bytes_max: TURN_BYTES_MAX });
    }

    /// Ends it: at once, or with the driver's last word.
    fn end_splice(&mut self, source: u32) {
        let Some(splice) = self.splices.all.get_mut(&source) else { return };
        if !splice.is_in_flight {
            return self.drop_splice(source);
        }
        if !std::mem::replace(&mut splice.is_cancelled, true) {
            let link = &self.conns[source as usize].link;
            let target = Token::new(Kind::Splice, link.generation, source);
            self.driver.submit(Op::Cancel { target, socket: link.socket });
        }
    }

    /// Both connections are by themselves again.
    fn drop_splice(&mut self, source: u32) {
        let Some(Splice { sink, .. }) = self.splices.remove(source) else { return };
        let last = &mut self.conns[sink as usize].duplex.outlet.last;
        if *last == Last::Fed {
            *last = Last::Open;
        }
        let inlet = &mut self.conns[source as usize].duplex.inlet;
        if inlet.reading == Reading::Spliced {
            inlet.reading = Reading::Flowing;
        }
        if let Some(kept) = &mut inlet.kept {
            kept.is_due = true;
        }
        if self.conns[source as usize].duplex.is_open() {
            self.make_calls(source);
        }
        self.settle(source);
    }

    /// Something went by, or it is over.
    pub(super) fn on_spliced(
        &mut self,
        token: Token,
        result: Result<u32, Errno>,
        more: bool,
        payload: Payload,
    ) {
        let source = token.index();
        if self.live(token).is_none() {
            return;
        }
        let Some(splice) = self.splices.all.get_mut(&source) else { return };
        let sink = splice.sink;
        if more {
            let bytes = result.unwrap_or(0);
            splice.littles = if bytes < LITTLE_BYTES { splice.littles.saturating_add(1) } else { 0 };
            let has_little = splice.littles >= LITTLES_MAX;
            self.conns[sink as usize].count_taken(bytes);
            self.shared.stats.live.received_bytes.add(bytes.into());
            self.shared.stats.live.sent_bytes.add(bytes.into());
            self.shared.stats.live.spliced_bytes.add(bytes.into());
            self.tell_spliced(sink, bytes.into());
            if has_little {
                self.end_splice(source);
            }
            return self.settle(sink);
        }
        let rest = if let Payload::Output(rest) = payload { Some(rest) } else { None };
        self.splices.remove(source);
        self.part_spliced(source, sink, rest);
        match result {
            Ok(_) => self.on_peer_end(source),
            Err(Errno::ECANCELED) => {}
            Err(Errno::ENOBUFS) => self.splices.retry_at = self.shared.now.after(RETRY),
            Err(Errno::EPIPE) => self.fail(sink, Errno::EPIPE),
            Err(errno) => self.fail(source, errno),
        }
        for index in [sink, source] {
            if self.conns.get(index as usize).is_some_and(|conn| conn.duplex.is_open()) {
                self.make_calls(index);
            }
            if self.conns.contains(index as usize) {
                self.settle(index);
            }
        }
    }

    /// The driver is done: its part of the one connection's input and of the other one's output is theirs again.
    fn part_spliced(&mut self, source: u32, sink: u32, rest: Option<Box<Output>>) {
        let bytes = rest.as_ref().map_or(0, |rest| rest.len() as u64);
        self.shared.stats.live.received_bytes.add(bytes);
        let from = &mut self.conns[source as usize];
        from.recv = Recv::Idle;
        if from.duplex.inlet.reading == Reading::Spliced {
            from.duplex.inlet.reading = Reading::Flowing;
        }
        let to = &mut self.conns[sink as usize];
        to.sending_bytes = 0;
        to.end_stall();
        let outlet = &mut to.duplex.outlet;
        if outlet.last == Last::Fed {
            outlet.last = Last::Open;
        }
        if let Some(mut rest) = rest
            && to.duplex.phase != Phase::Closing
        {
            if let Some(written) = outlet.pending.take() {
                rest.append(&written);
                self.shared.recycle(written);
            }
            rest.count_memory(&mut self.shared.memory);
            outlet.pending = Some(rest);
        }
        self.tell_spliced(sink, bytes);
    }

    fn tell_spliced(&mut self, sink: u32, bytes: u64) {
        self.call_if_open(sink, Call::Spliced(bytes));
    }
}

#[cfg(any(test, feature = "sim"))]
impl Splices {
    pub(super) fn has_sink_in_flight(&self, index: u32) -> bool {
        self.sources.get(&index).is_some_and(|source| self.all[source].is_in_flight)
    }

    /// Panics when a rule is broken: what a connection says of itself, and what is known here.
    pub(super) fn check(&self, index: u32, conns: &Slab<Conn>) {
        let conn = &conns[index as usize];
        let splice = self.all.get(&index);
        let is_in_flight = splice.is_some_and(|splice| splice.is_in_flight);
        assert_eq!(conn.recv == Recv::Spliced, is_in_flight, "connection {index}: who receives");
        let is_spliced = conn.duplex.inlet.reading == Reading::Spliced;
        assert!(!is_spliced || splice.is_some(), "connection {index}: what it receives goes nowhere");
        let is_fed = conn.duplex.outlet.last == Last::Fed;
        assert!(!is_fed || self.sources.contains_key(&index), "connection {index} is fed by nobody");
        if let Some(Splice { sink, is_in_flight, is_cancelled, .. }) = splice {
            let to = &conns[*sink as usize];
            let are_open = conn.duplex.is_open() && to.duplex.is_open();
            let goes_on = are_open && is_spliced && to.duplex.outlet.last == Last::Fed;
            assert!(goes_on || *is_cancelled, "connection {index}: what should end goes on");
            let waits = to.queued_bytes() > 0 || conn.recv == Recv::Cancelling;
            assert!(*is_in_flight || waits, "connection {index}: nothing is waited for");
        }
    }
}
