//! What a session can do during a call: write, set a deadline, ask who is there. The same at every height of a stack.

use super::facts::{Facts, ProxyOutcome};
use super::names::Names;
use crate::address::Address;
use crate::bell::{ConnId, Waker};
use crate::dialer::To;
use crate::event::Socket;
use crate::gate::Gate;
use crate::output::Output;
use crate::session::duplex::Duplex;
use crate::session::inlet::News;
use crate::session::outlet::{Last, Wish};
use crate::session::shared::{Reclaim, Shared};
use crate::time::Tick;
use bytes::Bytes;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Fewer bytes than this are copied: it costs less than what changing places does to the sizes of buffers.
const SWAP_BYTES_MIN: usize = 4096;

/// What a session can do during a call.
pub struct Io<'a> {
    /// The session's own place: what it writes goes to its outlet, whatever is below.
    pub(crate) duplex: &'a mut Duplex,
    pub(crate) below: Below<'a>,
}

/// What is below a duplex.
pub(crate) struct Below<'a> {
    /// The connection's slot.
    pub(crate) index: u32,
    pub(crate) link: &'a mut Link,
    pub(crate) shared: &'a mut Shared,
    pub(crate) names: &'a dyn Names,
    /// Output that is queued below: in the layers there, and with the kernel.
    pub(crate) queued_bytes: usize,
}

/// The connection under a stack of sessions.
pub(crate) struct Link {
    pub(crate) generation: u32,
    pub(crate) socket: Socket,
    /// Which listener, and with it which protocol.
    pub(crate) service: u16,
    /// A time for a peer to take output that is not that of the configuration, in seconds; 0 for none.
    pub(crate) write_secs: u16,
    /// Memory that all sessions of the stack said they hold, in KiB rounded up.
    pub(crate) held_kib: u32,
    /// What layers have learned. On the heap: most connections have none.
    pub(crate) facts: Option<Arc<Facts>>,
}

/// A terabyte: more than any budget, and the sum of a stack fits.
const HOLD_KIB_MAX: usize = 1 << 30;

impl Below<'_> {
    #[inline]
    pub(crate) fn reborrow(&mut self) -> Below<'_> {
        Below {
            index: self.index,
            link: self.link,
            shared: self.shared,
            names: self.names,
            queued_bytes: self.queued_bytes,
        }
    }
}

impl Io<'_> {
    /// The same for a shorter time: for whoever hands it on by value.
    #[inline]
    pub fn reborrow(&mut self) -> Io<'_> {
        Io { duplex: self.duplex, below: self.below.reborrow() }
    }

    /// What is below a session that stands on this one.
    pub(crate) fn under(&mut self) -> Below<'_> {
        let queued_bytes = self.queued_bytes();
        Below { queued_bytes, ..self.below.reborrow() }
    }

    /// Where the memory of a session above this one goes.
    pub fn reclaim(&mut self) -> Reclaim<'_> {
        Reclaim(self.below.shared)
    }

    /// An empty output, for what is to be appended elsewhere ([`Io::append`]). Give it back with [`Io::recycle`].
    #[inline]
    pub fn spare_output(&mut self) -> Box<Output> {
        self.below.shared.output()
    }

    /// Takes an output that is done, for the next session that writes.
    pub fn recycle(&mut self, output: Box<Output>) {
        self.below.shared.recycle(output);
    }

    /// Appends the output of a session above this one, or what a session of another connection was handed, without copying it where nothing
    /// is queued here. A relay takes this and not [`Io::write_vec`]: it holds a box only while it has bytes, and all boxes come from one store.
    /// With vectors that changed places between two stores, 1 MiB that it copied cost 1.29 (1.21 to 1.53) of the CPU on io_uring (16
    /// interleaved rounds, 16 connections, busy machine).
    pub fn append(&mut self, output: Box<Output>) {
        debug_assert!(!self.has_ended_output(), "a session writes that has ended its output");
        match &mut self.duplex.outlet.pending {
            pending @ None => *pending = Some(output),
            Some(pending) => {
                pending.append(&output);
                self.below.shared.recycle(output);
            }
        }
    }

    /// Appends a copy of `bytes` to the output.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    /// Sends all of `bytes`, and leaves it empty. Many of them are not copied where nothing else was written: the two buffers change
    /// places. It is for who keeps its own buffer, to begin again at an earlier byte or to send a part; who hands on all that it has takes
    /// [`Io::spare_output`] and [`Io::append`].
    #[inline]
    pub fn write_vec(&mut self, bytes: &mut Vec<u8>) {
        let buffer = self.buffer();
        if buffer.is_empty() && bytes.len() >= SWAP_BYTES_MIN {
            std::mem::swap(buffer, bytes);
        } else {
            buffer.append(bytes);
        }
    }

    /// The buffer that output is appended to, for writing in place. Only append.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.output().buffer()
    }

    /// Appends shared bytes without copying them (short ones are copied: that is cheaper).
    pub fn queue(&mut self, bytes: Bytes) {
        self.output().push_shared(bytes);
    }

    /// The same for bytes that others have as well: short ones are copied without being counted up and down.
    #[inline]
    pub fn queue_ref(&mut self, bytes: &Bytes) {
        self.output().push_shared_ref(bytes);
    }

    /// Ends this session's output, while it goes on receiving: behind what was written the peer sees the end of the stream (shutdown(2)
    /// with SHUT_WR). It can be said in any call and together with any answer; saying it again changes nothing. Nothing can be written
    /// afterwards. The session lives until it closes, as it does at the peer's end unless it says otherwise. How long it waits for a
    /// peer that goes on is the business of its deadline.
    pub fn end_output(&mut self) {
        let last = &mut self.duplex.outlet.last;
        if matches!(*last, Last::Open | Last::Fed) {
            *last = Last::Written;
        }
    }

    /// Whether this session has ended its output.
    #[inline]
    pub fn has_ended_output(&self) -> bool {
        matches!(self.duplex.outlet.last, Last::Written | Last::Told)
    }

    /// Bytes that were written and not sent yet.
    #[inline]
    pub fn queued_bytes(&self) -> usize {
        self.below.queued_bytes + self.duplex.outlet.pending_bytes()
    }

    /// Of those, the ones that are below this session already: with layers, or with the kernel. Mostly none are left by the next turn, so
    /// that some are the sign of a peer that reads more slowly than it is sent to.
    #[inline]
    pub fn sending_bytes(&self) -> usize {
        self.below.queued_bytes
    }

    /// How much more may be written before reading pauses. Zero does not stop a write; the hard cap,
    /// `Config::output_bytes_max`, closes the connection.
    pub fn room_bytes(&self) -> usize {
        self.below.shared.marks.output_high.saturating_sub(self.queued_bytes())
    }

    /// Whether queued output is at or above high water: stop producing, and return.
    pub fn is_full(&self) -> bool {
        self.queued_bytes() >= self.below.shared.marks.output_high
    }

    /// Declares how much memory this session keeps for its peer, such as a body that is being collected: the worker's
    /// budget (`Config::memory_bytes_max`) counts it until the next call, or the session's end. `false` says that the
    /// budget is used up: keep no more, refuse.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let kib = bytes.div_ceil(1024).min(HOLD_KIB_MAX) as u32;
        let below = &mut self.below;
        below.shared.memory.change(self.duplex.held_kib as usize * 1024, kib as usize * 1024);
        below.link.held_kib = below.link.held_kib - self.duplex.held_kib + kib;
        self.duplex.held_kib = kib;
        !below.shared.memory.is_exhausted()
    }

    /// Whether the worker's memory budget is used up: refuse what would need more.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.below.shared.memory.is_exhausted()
    }

    /// Adds to the worker's count of requests refused for want of memory.
    pub fn count_refused(&mut self, requests: u64) {
        self.below.shared.stats.live.memory_refused.add(requests);
    }

    /// Asks for one call of [`Protocol::drained`](crate::Protocol::drained) once output is below low water.
    pub fn notify_drained(&mut self) {
        self.duplex.outlet.wish = Wish::Drained;
    }

    /// The same once all output is sent, unless [`Io::notify_drained`] comes first: for what is kept elsewhere as well, so that little of it
    /// should wait here for a peer that does not read.
    pub fn notify_sent(&mut self) {
        if self.duplex.outlet.wish == Wish::None {
            self.duplex.outlet.wish = Wish::Sent;
        }
    }

    /// So long the peer of this connection may take nothing of what waits for it, and no least rate is asked of it: instead of
    /// `Config::write_timeout`, for who has a reason to be slow. Up to 18 hours, in whole seconds.
    pub fn set_write_timeout(&mut self, timeout: Duration) {
        let secs = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        self.below.link.write_secs = u16::try_from(secs).unwrap_or(u16::MAX).max(1);
    }

    /// Sets or clears the one deadline of this session. Noticed up to 17 ms late.
    #[inline]
    pub fn set_deadline(&mut self, deadline: Option<Tick>) {
        self.duplex.deadline = deadline.unwrap_or(Tick::NEVER);
    }

    /// Sets the deadline to `after` from now.
    #[inline]
    pub fn set_timeout(&mut self, after: Duration) {
        self.duplex.deadline = self.below.shared.now.after(after);
    }

    /// The deadline of this session, where it has one.
    #[inline]
    pub fn deadline(&self) -> Option<Tick> {
        (self.duplex.deadline != Tick::NEVER).then_some(self.duplex.deadline)
    }

    /// The time of this turn.
    #[inline]
    pub fn now(&self) -> Tick {
        self.below.shared.now
    }

    /// Whether more has happened than this turn is told of: what takes long and can wait is better put off, for everybody who
    /// comes behind waits for it.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.below.shared.is_behind
    }

    /// Seconds since 1970, for dates. Renewed once a second.
    #[inline]
    pub fn unix_secs(&self) -> u64 {
        self.below.shared.wall.unix_secs()
    }

    /// The time since 1970 of this turn. The wall clock is read once a second; what has passed since then is that of [`Io::now`].
    pub fn unix_time(&self) -> Duration {
        self.below.shared.wall.unix_time(self.below.shared.now)
    }

    /// What the layers of this connection have learned of it; `None` where none has anything to say.
    pub fn facts(&self) -> Option<&Facts> {
        self.below.link.facts.as_deref()
    }

    /// The same, to keep beyond this call. It does not see what layers learn later.
    #[inline]
    pub fn share_facts(&self) -> Option<Arc<Facts>> {
        self.below.link.facts.clone()
    }

    /// For a layer: replaces what is known of this connection, with what is shared by many where they are alike.
    pub fn put_facts(&mut self, facts: Arc<Facts>) {
        self.below.link.facts = Some(facts);
    }

    /// For a layer: adds to what is known of this connection.
    pub fn facts_mut(&mut self) -> &mut Facts {
        Arc::make_mut(self.below.link.facts.get_or_insert_default())
    }

    /// The other end's address, as a proxy in front told it, else as the kernel has it; `None` if the connection was gone before
    /// anybody asked. The first time it costs a system call where no proxy told it.
    pub fn peer(&self) -> Option<Address> {
        if let Some(told) = self.facts().and_then(|facts| facts.peer.clone()) {
            return Some(told);
        }
        let Below { link, names, shared, .. } = &self.below;
        shared.ends.peer(self.id(), || names.peer(link.socket))
    }

    /// Our end's address, as a proxy in front told it, else as the kernel has it. The first time it costs a system call where no
    /// proxy told it.
    pub fn local(&self) -> Option<Address> {
        if let Some(told) = self.facts().and_then(|facts| facts.local.clone()) {
            return Some(told);
        }
        let Below { link, names, shared, .. } = &self.below;
        shared.ends.local(self.id(), || names.local(link.socket))
    }

    /// Names this connection.
    pub fn id(&self) -> ConnId {
        ConnId { index: self.below.index, generation: self.below.link.generation }
    }

    /// Connects to `address`, for the same protocol value: it may tell the sessions of both kinds apart by its session
    /// type. See [`Dialer::connect`](crate::Dialer::connect).
    pub fn connect(&mut self, address: &Address, tag: u64) {
        self.below.shared.requests.connect(self.below.link.service, address, To { tag, ..To::default() });
    }

    /// From here on what `source` receives goes out on this connection as it is, behind what was written, and neither session sees it:
    /// through a pipe of the kernel, where that saves copying it (splice(2)). It ends by itself: with the stream of `source`, whose
    /// session is told as ever, with either session's end, when one of the two writes here or pauses there, or when little moves.
    /// Meanwhile this session is told how much it was ([`Protocol::spliced`](crate::Protocol::spliced)). Nothing comes of it where
    /// either stands on a layer, or there is no pipe (`Config::splice_pipes`): ask for it in vain at most now and then. What the session
    /// of `source` did not consume goes out, too, and its pause ends; what it has kept in a place of its own would come too late.
    pub fn splice(&mut self, source: ConnId) {
        if self.duplex.outlet.last == Last::Open {
            self.duplex.outlet.last = Last::Fed;
            self.below.shared.splice = Some((source, self.id()));
        }
    }

    /// A handle that can call [`Protocol::wake`](crate::Protocol::wake) of this connection from any thread.
    pub fn waker(&mut self) -> Waker {
        let conn = self.id();
        self.below.shared.wakers.of(conn, &self.below.shared.bell)
    }

    /// Whether the session knows that its peer has ended: what may still come was sent before that. See
    /// [`Protocol::gone`](crate::Protocol::gone).
    pub fn is_peer_gone(&self) -> bool {
        self.duplex.inlet.news == News::Told
    }

    /// Whether the engine is draining: answer what is asked, then close.
    pub fn is_draining(&self) -> bool {
        self.below.shared.draining
    }

    /// While the engine is draining: when it stops whatever is left.
    pub fn drain_deadline(&self) -> Option<Tick> {
        self.below.shared.draining.then_some(self.below.shared.drain_until)
    }

    /// Adds to the worker's count of requests.
    #[inline]
    pub fn count_requests(&mut self, requests: u64) {
        self.below.shared.stats.live.requests.add(requests);
    }

    /// For a layer: adds to the worker's counts of PROXY headers, and of connections without a good one.
    pub fn count_proxied(&mut self, outcome: ProxyOutcome) {
        let live = &self.below.shared.stats.live;
        let count = match outcome {
            ProxyOutcome::Told => &live.proxy_headers,
            ProxyOutcome::Unlisted => &live.proxy_unlisted,
            ProxyOutcome::Missing => &live.proxy_missing,
            ProxyOutcome::Malformed => &live.proxy_malformed,
            ProxyOutcome::Late => &live.proxy_late,
        };
        count.add(1);
    }

    /// For a layer that learns of a client: whether a gate lets in who is at this address. If so, it is counted there until this connection
    /// ends. If not, that is counted by reason; close without a word.
    pub fn admit(&mut self, gate: &Gate, ip: IpAddr) -> bool {
        let shared = &mut *self.below.shared;
        let asked = gate.ask(ip, shared.now, &shared.stats);
        let is_in = asked.is_ok();
        shared.passes.put(self.below.index, asked.ok().flatten());
        is_in
    }

    /// Says that protocol code panicked during this call and the session caught it, so that it can say a last word and
    /// close. It is counted and logged as a panic that reaches the engine.
    pub fn count_panic(&mut self) {
        self.below.shared.count_panic(self.below.index);
    }

    #[inline]
    fn output(&mut self) -> &mut Output {
        // Without this the connection fails with EPIPE where the end was told already, as at a socket.
        debug_assert!(!self.has_ended_output(), "a session writes that has ended its output");
        let shared = &mut *self.below.shared;
        self.duplex.outlet.pending.get_or_insert_with(|| shared.output())
    }
}
