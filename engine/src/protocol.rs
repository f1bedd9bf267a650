//! The seam for protocols: raw bytes in, raw bytes out.
//!
//! A [`Protocol`] is one value a worker, made on that worker's thread: it needs no `Send`, no `Sync` and no lock.
//! The engine calls it with what arrived, in place in the receive buffer, and takes what it writes through
//! [`Io`]. Read `ringmill-protocols/src/echo.rs` for the smallest one. Never here: sockets, clocks, retries.

use crate::address::Address;
use crate::config::Config;
use crate::conn::{CloseReason, Conn};
use crate::datagram::{Datagrams, Local};
use crate::dialer::{Dialer, Refusal, Requests};
use crate::driver::Names;
use crate::event::Socket;
use crate::mailbox::{ConnId, Mailbox, Waker};
use crate::memory::Memory;
use crate::output::Output;
use crate::stats::WorkerStats;
use crate::time::{Tick, WallClock};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A byte-stream protocol.
///
/// The calls of one session never overlap, and none follows `closed`. A call may panic: the
/// connection is then closed and counted, the value stays in use for the others.
pub trait Protocol: 'static {
    /// What the protocol keeps for each connection.
    type Session: 'static;

    /// A connection was accepted, or made ([`Protocol::connected`]). Nothing has been received yet.
    fn open(&mut self, io: &mut Io<'_>) -> Self::Session;

    /// `input` is everything received and not consumed yet. Consume what is complete; the rest comes again
    /// with more behind it, when more arrives or, after a pause, when reading resumes.
    fn data(&mut self, session: &mut Self::Session, input: &[u8], io: &mut Io<'_>) -> Step;

    /// Output fell below low water, after [`Io::notify_drained`] asked to be told.
    fn drained(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// The peer will send no more. `data` has seen everything; `rest` is what it did not consume, perhaps a last message
    /// without its end. `Continue` keeps our side open.
    fn eof(&mut self, _session: &mut Self::Session, _rest: &[u8], _io: &mut Io<'_>) -> Next {
        Next::Close
    }

    /// The deadline set with [`Io::set_deadline`] has passed; it is no longer set.
    fn timeout(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Close
    }

    /// A [`Waker`] of this connection was used. Several uses may become one call.
    fn wake(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// The engine is draining: finish what is in progress and close. Called once; for a session that is opened while
    /// the engine drains, right after `open`.
    fn drain(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Close
    }

    /// The worker is short of memory, and this connection is idle as far as the engine can see: nothing is kept for it
    /// and nothing waits to be sent. `Close` helps where nothing is lost by it.
    fn shed(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// The session is over. Output written before may still be on its way.
    fn closed(&mut self, _session: Self::Session, _reason: CloseReason) {}

    /// The worker starts; nothing was accepted yet. Keep the dialer for outbound connections that no session asks for,
    /// for waking other sessions, and for a timer.
    fn start(&mut self, _dialer: Dialer) {}

    /// An outbound connection is there, which [`Io::connect`] or [`Dialer::connect`] asked for with this tag. From
    /// here on it is like an accepted one.
    fn connected(&mut self, _tag: u64, io: &mut Io<'_>) -> Self::Session {
        self.open(io)
    }

    /// An outbound connection could not be made. There is no session.
    fn refused(&mut self, _tag: u64, _refusal: Refusal) {}

    /// The time set with [`Dialer::set_timer`] has come; it is no longer set.
    fn tick(&mut self, _now: Tick) {}
}

/// A datagram protocol: one call for each datagram, answers in batches.
pub trait Datagram: 'static {
    /// A datagram of 0 to 65,507 bytes arrived.
    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>);

    /// The worker starts; nothing was received yet. A client sends its first datagrams here.
    fn start(&mut self, _io: &mut DatagramIo<'_>) {}

    /// The time set with [`DatagramIo::set_timer`] has come; it is no longer set.
    fn tick(&mut self, _io: &mut DatagramIo<'_>) {}
}

/// What `data` did and what it wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub(crate) consumed: usize,
    pub(crate) need: usize,
    pub(crate) next: Next,
}

/// What a session wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on (and resume, after a pause).
    Continue,
    /// Read nothing until a later call answers `Continue`.
    Pause,
    /// Close gracefully once the output is sent.
    Close,
    /// End the session here: what was written is sent, because all of it but the last may be whole, and then the peer sees a
    /// reset instead of the end of the stream. For what only a reset can tell to be cut.
    Abort,
}

impl Step {
    /// `bytes` from the front of the input are done; read on.
    pub const fn consumed(bytes: usize) -> Step {
        Step { consumed: bytes, need: 0, next: Next::Continue }
    }

    /// `bytes` are done, and nothing can happen before `need` bytes of the rest are there. A `need` beyond
    /// `Config::input_bytes_max` closes the connection.
    pub const fn need(bytes: usize, need: usize) -> Step {
        Step { consumed: bytes, need, next: Next::Continue }
    }

    /// `bytes` are done; read nothing until a later call answers `Continue`.
    pub const fn pause(bytes: usize) -> Step {
        Step { consumed: bytes, need: 0, next: Next::Pause }
    }

    /// Close once the output is sent.
    pub const fn close() -> Step {
        Step { consumed: 0, need: 0, next: Next::Close }
    }

    /// End here, with a reset behind what was written.
    pub const fn abort() -> Step {
        Step { consumed: 0, need: 0, next: Next::Abort }
    }
}

/// What a session can do during a call: write, set a deadline, ask who is there.
pub struct Io<'a> {
    pub(crate) conn: &'a mut Conn,
    pub(crate) shared: &'a mut Shared,
    pub(crate) index: u32,
    pub(crate) names: &'a dyn Names,
}

/// What all sessions of a worker share.
pub(crate) struct Shared {
    pub(crate) now: Tick,
    pub(crate) wall: WallClock,
    pub(crate) draining: bool,
    pub(crate) memory: Memory,
    /// Queued output of one connection at which it is held back; lower while memory is short.
    pub(crate) output_high: usize,
    pub(crate) output_low: usize,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) requests: Requests,
    /// Outputs that are not in use, emptied.
    #[expect(clippy::vec_box, reason = "the box is what is used again: it moves to its next owner as it is")]
    spare: Vec<Box<Output>>,
}

/// Outputs a worker keeps for the next turns; more are freed.
const SPARE_OUTPUTS_MAX: usize = 1024;
/// High water of a connection's output while memory is short: enough to go on, slowly.
const PRESSED_HIGH_WATER_BYTES: usize = 16 * 1024;

impl Shared {
    pub(crate) fn new(config: &Config, mailbox: Arc<Mailbox>, stats: Arc<WorkerStats>) -> Shared {
        let mut memory = Memory::new(config.memory_bytes_max);
        memory.change(0, config.pool_bytes());
        Shared {
            memory,
            now: Tick(0),
            wall: WallClock::default(),
            draining: false,
            output_high: config.output_high_water_bytes,
            output_low: config.output_low_water_bytes,
            stats,
            mailbox,
            requests: Requests::default(),
            spare: Vec::new(),
        }
    }

    /// Protocol code panicked; the panic's own message is on standard error already.
    #[cold]
    pub(crate) fn count_panic(&mut self, index: u32) {
        self.stats.live.panics.add(1);
        tracing::error!(connection = index, "protocol code panicked: the connection is closed");
    }

    /// Takes an output that is done, for the next connection that writes.
    pub(crate) fn recycle(&mut self, mut output: Box<Output>) {
        output.count_memory(&mut self.memory);
        if output.reset() && self.spare.len() < SPARE_OUTPUTS_MAX && !self.memory.is_short() {
            self.spare.push(output);
        } else {
            self.memory.change(output.memory_bytes(), 0);
        }
    }

    /// While memory is short, connections queue less and nothing is kept for later.
    pub(crate) fn adapt_to_memory(&mut self, config: &Config) {
        (self.output_high, self.output_low) = (config.output_high_water_bytes, config.output_low_water_bytes);
        if self.memory.is_short() {
            self.output_high = self.output_high.min(PRESSED_HIGH_WATER_BYTES);
            self.output_low = self.output_low.min(self.output_high / 4);
            self.spare.drain(..).for_each(|output| self.memory.change(output.memory_bytes(), 0));
        }
    }
}

impl Io<'_> {
    /// The same for a shorter time: for a layer that hands it on by value.
    #[inline]
    pub fn reborrow(&mut self) -> Io<'_> {
        Io { conn: self.conn, shared: self.shared, index: self.index, names: self.names }
    }

    /// Appends a copy of `bytes` to the output.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
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

    /// Bytes that were written and not sent yet.
    pub fn queued_bytes(&self) -> usize {
        self.conn.queued_bytes()
    }

    /// How much more may be written before reading pauses. Zero does not stop a write; the hard cap,
    /// `Config::output_bytes_max`, closes the connection.
    pub fn room_bytes(&self) -> usize {
        self.shared.output_high.saturating_sub(self.conn.queued_bytes())
    }

    /// Whether queued output is at or above high water: stop producing, and return.
    pub fn is_full(&self) -> bool {
        self.conn.queued_bytes() >= self.shared.output_high
    }

    /// Declares how much memory this session keeps for its peer, such as a body that is being collected: the worker's
    /// budget (`Config::memory_bytes_max`) counts it until the next call, or the session's end. `false` says that the
    /// budget is used up: keep no more, refuse.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.shared.memory.change(self.conn.held_kib as usize * 1024, kib as usize * 1024);
        self.conn.held_kib = kib;
        !self.shared.memory.is_exhausted()
    }

    /// Whether the worker's memory budget is used up: refuse what would need more.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.shared.memory.is_exhausted()
    }

    /// Adds to the worker's count of requests refused for want of memory.
    pub fn count_refused(&mut self, requests: u64) {
        self.shared.stats.live.memory_refused.add(requests);
    }

    /// Asks for one call of [`Protocol::drained`] once output is below low water.
    pub fn notify_drained(&mut self) {
        self.conn.wants_drained = true;
    }

    /// Sets or clears the one deadline of this session. Noticed up to 17 ms late.
    #[inline]
    pub fn set_deadline(&mut self, deadline: Option<Tick>) {
        self.conn.deadline = deadline.unwrap_or(Tick::NEVER);
    }

    /// Sets the deadline to `after` from now.
    #[inline]
    pub fn set_timeout(&mut self, after: Duration) {
        self.conn.deadline = self.shared.now.after(after);
    }

    /// The time of this turn.
    #[inline]
    pub fn now(&self) -> Tick {
        self.shared.now
    }

    /// Seconds since 1970, for dates. Renewed once a second.
    #[inline]
    pub fn unix_secs(&self) -> u64 {
        self.shared.wall.unix_secs()
    }

    /// The other end's address; `None` once the connection is gone. Costs a system call.
    pub fn peer(&self) -> Option<Address> {
        self.names.peer(self.conn.socket)
    }

    /// Our end's address. Costs a system call.
    pub fn local(&self) -> Option<Address> {
        self.names.local(self.conn.socket)
    }

    /// Names this connection.
    pub fn id(&self) -> ConnId {
        ConnId { index: self.index, generation: self.conn.generation }
    }

    /// Connects to `address`, for the same protocol value: it may tell the sessions of both kinds apart by its session
    /// type. See [`Dialer::connect`].
    pub fn connect(&mut self, address: &Address, tag: u64) {
        self.shared.requests.connect(self.conn.service, address, None, tag);
    }

    /// A handle that can call [`Protocol::wake`] of this connection from any thread.
    pub fn waker(&self) -> Waker {
        Waker { mailbox: self.shared.mailbox.clone(), conn: self.id() }
    }

    /// Whether the engine is draining: answer what is asked, then close.
    pub fn is_draining(&self) -> bool {
        self.shared.draining
    }

    /// Adds to the worker's count of requests.
    #[inline]
    pub fn count_requests(&mut self, requests: u64) {
        self.shared.stats.live.requests.add(requests);
    }

    /// Says that protocol code panicked during this call and the session caught it, so that it can say a last word and
    /// close. It is counted and logged as a panic that reaches the engine.
    pub fn count_panic(&mut self) {
        self.shared.count_panic(self.index);
    }

    #[inline]
    fn output(&mut self) -> &mut Output {
        if self.conn.pending.is_none() {
            self.conn.pending = Some(self.shared.spare.pop().unwrap_or_default());
        }
        self.conn.pending.as_mut().expect("set above")
    }
}

/// What a datagram protocol can do during a call.
pub struct DatagramIo<'a> {
    pub(crate) batch: &'a mut Datagrams,
    pub(crate) shared: &'a mut Shared,
    pub(crate) names: &'a dyn Names,
    pub(crate) socket: Socket,
    pub(crate) timer: &'a mut Tick,
    /// Who asked, and which of our addresses, where the socket has several.
    pub(crate) asked: Option<(SocketAddr, Local)>,
}

impl DatagramIo<'_> {
    /// Queues a datagram. `false` if it is longer than 65,507 bytes and was not queued, or if more than a batch
    /// waits already: answers to one datagram are bounded.
    ///
    /// What [`Datagram::datagram`] sends to where the datagram came from leaves from the address that was asked; a peer
    /// may take answers from no other (udp(7), connected sockets). Everything else leaves from the address that the route
    /// to `peer` has.
    pub fn send_to(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        let local = self.asked.filter(|(from, _)| *from == peer).map(|(_, local)| local);
        self.push(local, peer, bytes)
    }

    /// [`DatagramIo::send_to`] from an address of ours, for an answer that comes later: keep what
    /// [`DatagramIo::local`] was when the question came. Its port means nothing, the socket has one. The kernel refuses
    /// an address that is not ours any more, which is counted.
    pub fn send_from(&mut self, local: SocketAddr, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.push(Local::from_address(local), peer, bytes)
    }

    fn push(&mut self, local: Option<Local>, peer: SocketAddr, bytes: &[u8]) -> bool {
        !self.batch.is_full() && self.batch.push_from(local, peer, bytes)
    }

    /// Sets or clears this socket's one timer, which is exact: see [`Dialer::set_timer`].
    pub fn set_timer(&mut self, at: Option<Tick>) {
        *self.timer = at.unwrap_or(Tick::NEVER);
    }

    /// Our address: the one that the socket is bound to, and during [`Datagram::datagram`] the one that was asked, also
    /// where the socket is bound to all of them. (Of a group, multicast or broadcast, it is the address of ours that
    /// stands for it; over IPv6 it stays unspecified.) Costs a system call.
    pub fn local(&self) -> Option<SocketAddr> {
        let bound = self.names.local(self.socket)?.ip()?;
        Some(self.asked.map_or(bound, |(_, local)| local.to_address(bound.port())))
    }

    /// The time of this turn.
    pub fn now(&self) -> Tick {
        self.shared.now
    }

    /// Seconds since 1970. Renewed once a second.
    pub fn unix_secs(&self) -> u64 {
        self.shared.wall.unix_secs()
    }

    /// Adds to the worker's count of requests.
    pub fn count_requests(&mut self, requests: u64) {
        self.shared.stats.live.requests.add(requests);
    }

    /// Adds to the worker's count of datagrams that were left unanswered on purpose.
    pub fn count_ignored(&mut self, datagrams: u64) {
        self.shared.stats.live.datagrams_ignored.add(datagrams);
    }
}
