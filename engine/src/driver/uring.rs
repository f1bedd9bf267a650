//! The io_uring driver: multishot accept and receive, provided buffers, one enter a turn.
//!
//! Memory that the kernel may touch is owned here until its completion: outputs in `sends` and `silent`, receive
//! buffers by the pool. Datagram sockets and event counters are polled through the ring, and served with plain
//! calls: recvmmsg and sendmmsg move a whole batch, which the ring cannot. `probe` finds out at start what
//! the machine allows; kernel versions are never compared.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod hosted;
mod probe;
mod splice;
mod suspects;

use crate::address::Address;
use crate::datagram::{Datagrams, ENTRIES_MAX};
use crate::driver::{Driver, OfKernel, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::pool::Pool;
use crate::sys;
use crate::sys::ring::{BufferRing, Entrance, limit_bytes};
use crate::time::Tick;
use crate::token::{Kind, Token};
use io_uring::squeue::{Entry as Sqe, Flags};
use io_uring::types::{self, CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode};
use probe::Level;
pub use probe::{Abilities, probe};
use slab::Slab;
use splice::Splices;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;
use suspects::Suspects;

/// Submissions queued before they are flushed within a turn.
const SUBMISSIONS: u32 = 128;
/// How often an entry that finds the queue full tries again. Each try lets the kernel look for memory, and runs what was put
/// off, so the first one helps if anything does.
const PUSH_TRIES_MAX: u32 = 1000;
/// Completions the ring holds before the kernel has to keep them in a list.
const COMPLETIONS: u32 = 4096;
/// Messages with vectors kept for the next vectored send.
const SPARE_MESSAGES_MAX: usize = 64;
/// The user data of operations whose completion says nothing that anybody waits for.
const NOBODY: u64 = 0;
/// How often a dropped driver waits 10 ms for the last completions.
const DROP_TURNS: usize = 16;
/// The user data of the one timer.
const TIMER: u64 = 1;

/// Completions through io_uring.
pub struct Uring {
    // Field order is drop order: the ring goes first, then the memory that the kernel could write to.
    ring: IoUring,
    entrance: Entrance,
    buffers: BufferRing,
    pool: Pool,
    abilities: Abilities,
    /// Sends that have a completion.
    sends: Slab<SendSlot>,
    /// Sends whose success has none, in the order in which the kernel takes them in, until they are told.
    silent: VecDeque<Silent>,
    /// The number of the first of them, counted from the start.
    silent_first: u32,
    /// A turn could not tell them all, because the kernel did not take everything in: then the next one does not wait, because
    /// somebody may wait for them by then, and nothing would end the wait.
    is_owing: bool,
    /// Accepts and receives in flight.
    armed: usize,
    /// Entries pushed since the start.
    pushed: u64,
    /// Why the ring cannot be used any more: every turn says so.
    broken: Option<Errno>,
    watches: Slab<WatchSlot>,
    /// Addresses that the kernel reads until the completion.
    connects: Slab<(Token, Box<socket2::SockAddr>)>,
    #[expect(clippy::vec_box, reason = "the box is what is used again: it moves to its next owner as it is")]
    spare_messages: Vec<Box<Message>>,
    /// Events that were made without the kernel.
    done: Vec<Event>,
    /// Empty between turns: where completions wait for what goes before them.
    reported: Vec<Event>,
    transfer: sys::datagrams::Transfer,
    /// Datagram sockets whose last batch was full: there is likely more.
    likely_more: Vec<Socket>,
    suspects: Suspects,
    splices: Splices,
    /// Empty between turns: those that are asked.
    asked: Vec<(Token, Socket)>,
    /// When the timer in the ring goes off; `Tick::NEVER` while there is none.
    timer_at: Tick,
    /// What the kernel reads that from, at submission.
    timer: types::Timespec,
    now: Tick,
}

struct SendSlot {
    token: Token,
    output: Box<Output>,
    message: Option<Box<Message>>,
}

struct Silent {
    /// It was the so-manieth entry pushed.
    position: u64,
    /// What its success means. It may be less than the output has.
    bytes: u32,
    /// `None` once it failed, and that was told.
    slot: Option<SendSlot>,
}

/// What the kernel takes with one call at most (MAX_RW_COUNT: 2 GiB less a page, whatever size that has).
const SEND_BYTES_MAX: u32 = 0x7fff_0000;
/// The generations in the user data of sends: which of the two keeps it.
const AWAITED: u32 = 0;
const SILENT: u32 = 1;

/// The header and vector of a vectored send, which the kernel reads until the completion.
struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
}

/// An event counter that is waited for.
struct WatchSlot {
    token: Token,
    socket: Socket,
    /// A cancel does not undo a poll that has fired by then. What is called off leaves the counter raised, for whoever watches it next.
    is_called_off: bool,
}

impl Uring {
    /// Sets up a ring and lends it its buffers. Must be called on the thread that will use it.
    pub fn new(abilities: Abilities, recv_buffers: u16, recv_buffer_bytes: usize) -> std::io::Result<Uring> {
        let mut builder = IoUring::builder();
        builder
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .setup_coop_taskrun()
            .setup_taskrun_flag();
        if abilities.level != Level::Cooperative {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if abilities.level == Level::NoArray {
            builder.setup_no_sqarray();
        }
        let ring = builder.build(SUBMISSIONS)?;
        let pool = Pool::new(recv_buffers, recv_buffer_bytes);
        let buffers = BufferRing::register(&ring, &pool)?;
        Ok(Uring {
            entrance: Entrance::new(&ring),
            ring,
            buffers,
            pool,
            abilities,
            sends: Slab::new(),
            silent: VecDeque::new(),
            silent_first: 0,
            is_owing: false,
            armed: 0,
            pushed: 0,
            broken: None,
            watches: Slab::new(),
            connects: Slab::new(),
            spare_messages: Vec::new(),
            done: Vec::new(),
            reported: Vec::new(),
            transfer: sys::datagrams::Transfer::new(),
            likely_more: Vec::new(),
            suspects: Suspects::default(),
            splices: Splices::default(),
            asked: Vec::new(),
            timer_at: Tick::NEVER,
            timer: types::Timespec::new(),
            now: sys::clock(),
        })
    }

    /// Queues an entry; flushes first when the queue is full. Whatever memory the entry names must stay valid
    /// until its completion: `sends` and `silent` keep outputs and messages, the pool keeps buffers. Where no room can
    /// be made the entry is dropped, and the driver is broken.
    fn push(&mut self, entry: &Sqe) {
        let mut tries = 0;
        // SAFETY: the callers below name only descriptors and memory owned as described.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            let entered = self.enter(0, None);
            tries += 1;
            self.broken = self.broken.or(lasting(entered, tries));
            if self.broken.is_some() {
                return;
            }
        }
        self.pushed += 1;
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> Result<usize, Errno> {
        let queued = self.ring.submission().len() as u32;
        self.entrance.enter(queued, want, timeout)
    }

    /// Awaited sends have a completion each. The others have none if all goes well, so that they neither end the next
    /// wait nor cost a completion: with MSG_DONTWAIT the kernel finishes with them while it takes them in, and with
    /// MSG_WAITALL anything less than everything is a failure, which it reports (io_uring_enter(2), CQE_SKIP_SUCCESS).
    fn send(&mut self, token: Token, socket: Socket, output: Box<Output>, then: Then) {
        let mut slot = SendSlot { token, output, message: None };
        let flags = match then {
            Then::Rest => libc::MSG_DONTWAIT | libc::MSG_WAITALL,
            Then::GoOn => 0,
            // The end of the output waits for the end of the stream (send(2)).
            Then::End => libc::MSG_MORE,
        };
        let (entry, bytes) = self.send_entry(socket, &mut slot, libc::MSG_NOSIGNAL | flags);
        if then == Then::Rest {
            let number = self.silent_first.wrapping_add(self.silent.len() as u32);
            let user_data = Token::new(Kind::Send, SILENT, number).to_bits();
            self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(user_data));
            self.silent.push_back(Silent { position: self.pushed, bytes, slot: Some(slot) });
        } else {
            let key = self.sends.insert(slot) as u32;
            self.push(&entry.user_data(Token::new(Kind::Send, AWAITED, key).to_bits()));
        }
    }

    /// An entry, and how many bytes it sends: one vector has not room for everything. The memory it names is behind the
    /// slot's boxes, which stay where they are when the slot moves.
    fn send_entry(&mut self, socket: Socket, slot: &mut SendSlot, message_flags: i32) -> (Sqe, u32) {
        let fd = Fd(socket.0);
        if let Some(bytes) = slot.output.as_single() {
            let len = u32::try_from(bytes.len()).map_or(SEND_BYTES_MAX, |len| len.min(SEND_BYTES_MAX));
            return (opcode::Send::new(fd, bytes.as_ptr(), len).flags(message_flags).build(), len);
        }
        let spare = &mut self.spare_messages;
        let message = slot.message.get_or_insert_with(|| spare.pop().unwrap_or_else(Message::new));
        let bytes = message.fill(&slot.output);
        let entry = opcode::SendMsg::new(fd, &raw const message.header).flags(message_flags as u32);
        (entry.build(), bytes)
    }

    /// How many of the pushed entries the kernel has taken in. If it had something to complain about, that is among the
    /// completions then; but none counts while the queue has no room for all of them.
    fn taken_in(&mut self) -> u64 {
        let pushed = self.pushed;
        let submission = self.ring.submission();
        if submission.cq_overflow() { 0 } else { pushed - submission.len() as u64 }
    }

    /// Tells the silent sends that were `taken_in` before what is reaped by now, and not complained about.
    fn tell_silent(&mut self, taken_in: u64, events: &mut Vec<Event>) {
        while let Some(silent) = self.silent.pop_front_if(|silent| silent.position <= taken_in) {
            self.silent_first = self.silent_first.wrapping_add(1);
            if let Some(SendSlot { token, output, message }) = silent.slot {
                self.spare(message);
                events.push(sent(token, Ok(silent.bytes), output));
            }
        }
    }

    /// A send has completed, or a silent one failed.
    fn complete_send(&mut self, user_data: Token, result: Result<u32, Errno>, events: &mut Vec<Event>) {
        let slot = if user_data.generation() == SILENT {
            let at = user_data.index().wrapping_sub(self.silent_first) as usize;
            // Complaints are reaped before anything is told, and each send has at most one.
            self.silent[at].slot.take().expect("a silent send completes at most once")
        } else {
            self.sends.remove(user_data.index() as usize)
        };
        self.spare(slot.message);
        events.push(sent(slot.token, result, slot.output));
    }

    fn spare(&mut self, message: Option<Box<Message>>) {
        if let Some(message) = message
            && self.spare_messages.len() < SPARE_MESSAGES_MAX
        {
            self.spare_messages.push(message);
        }
    }

    /// Whether the kernel holds memory of ours, or may use a buffer.
    fn is_busy(&self) -> bool {
        self.armed > 0
            || !(self.sends.is_empty() && self.silent.is_empty())
            || !(self.connects.is_empty() && self.splices.are_unasked())
    }

    fn connect(&mut self, token: Token, socket: Socket, address: &Address) {
        let address = match sys::to_kernel(address) {
            Ok(address) => Box::new(address),
            Err(errno) => return self.done.push(connected(token, Err(errno))),
        };
        let (name, len) = (address.as_ptr().cast(), address.len());
        let key = self.connects.insert((token, address)) as u32;
        let entry = opcode::Connect::new(Fd(socket.0), name, len).build();
        self.push(&entry.user_data(Token::new(Kind::Connect, 0, key).to_bits()));
    }

    /// Waits for readiness through the ring, once.
    fn poll(&mut self, socket: Socket, events: i16, user_data: Token) {
        let entry = opcode::PollAdd::new(Fd(socket.0), events as u32).build();
        self.push(&entry.user_data(user_data.to_bits()));
    }

    fn watch(&mut self, token: Token, socket: Socket) {
        let key = self.watches.insert(WatchSlot { token, socket, is_called_off: false }) as u32;
        self.poll(socket, libc::POLLIN, Token::new(Kind::Wake, 0, key));
    }

    /// The kernel would tell at once of a socket that was left with something in it: so this needs no way through it.
    fn await_datagrams(&mut self, token: Token, socket: Socket) {
        match self.likely_more.iter().position(|likely| *likely == socket) {
            None => self.poll(socket, libc::POLLIN, token),
            Some(place) => {
                self.likely_more.swap_remove(place);
                self.done.push(Event { token, result: Ok(1), more: false, payload: Payload::None });
            }
        }
    }

    /// Sees to it that a completion comes not later than `at`. Deadlines mostly move later, so one timer in the
    /// ring serves many turns; a timeout for each wait would cost a high-resolution timer each.
    fn arm_timer(&mut self, at: Tick) {
        if at >= self.timer_at {
            return;
        }
        self.timer = types::Timespec::from(at.since(self.now));
        let timer = &raw const self.timer;
        let entry = if self.timer_at == Tick::NEVER {
            opcode::Timeout::new(timer).build().user_data(TIMER)
        } else {
            let update = opcode::TimeoutUpdate::new(TIMER, timer).build();
            update.flags(Flags::SKIP_SUCCESS).user_data(NOBODY)
        };
        self.timer_at = at;
        self.push(&entry);
    }

    fn cancel(&mut self, target: Token) {
        let entry = opcode::AsyncCancel::new(target.to_bits()).build();
        self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(NOBODY));
    }

    /// Ends the receives on sockets that were reset: the next one there says so. One call asks for all of them.
    fn find_resets(&mut self) {
        let mut asked = std::mem::take(&mut self.asked);
        self.suspects.take(&mut asked);
        if !asked.is_empty() {
            for target in sys::hung_up(&asked) {
                self.cancel(target);
            }
        }
        asked.clear();
        self.asked = asked;
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        // The queue is copied out in pieces, because handling a completion may queue submissions.
        const PIECE: usize = 64;
        let mut piece = [const { std::mem::MaybeUninit::uninit() }; PIECE];
        loop {
            let completions = self.ring.completion().fill(&mut piece);
            let count = completions.len();
            for completion in completions {
                self.complete(completion, events);
            }
            if count < PIECE {
                return;
            }
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry, events: &mut Vec<Event>) {
        let Some(token) = Token::from_bits(completion.user_data()) else {
            if completion.user_data() == TIMER {
                self.timer_at = Tick::NEVER;
            }
            return;
        };
        let result = match completion.result() {
            value if value >= 0 => Ok(value as u32),
            errno => Err(Errno(-errno)),
        };
        let more = cqueue::more(completion.flags());
        self.armed -= usize::from(matches!(token.kind(), Kind::Recv | Kind::Accept) && !more);
        match token.kind() {
            Kind::Recv => {
                let buffer = cqueue::buffer_select(completion.flags());
                if more {
                    self.suspects.fed(token)
                } else {
                    self.suspects.ended(token)
                }
                events.push(self.received(token, result, more, buffer));
            }
            Kind::Accept => events.push(Event { token, result, more, payload: Payload::None }),
            Kind::Send => self.complete_send(token, result, events),
            Kind::Connect => {
                let (token, _) = self.connects.remove(token.index() as usize);
                events.push(connected(token, result));
            }
            Kind::Splice => self.splice_polled(token.index(), events),
            Kind::Datagrams | Kind::Room => {
                events.push(Event { token, result, more: false, payload: Payload::None });
            }
            Kind::Wake => {
                let WatchSlot { token, socket, is_called_off } = self.watches.remove(token.index() as usize);
                let result = if is_called_off { Err(Errno::ECANCELED) } else { result.map(|_| 1) };
                if result.is_ok() {
                    sys::clear_counter(socket);
                }
                events.push(Event { token, result, more: false, payload: Payload::None });
            }
        }
    }

    fn received(
        &mut self,
        token: Token,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<u16>,
    ) -> Event {
        let none = |result, more| Event { token, result, more, payload: Payload::None };
        match (result, buffer) {
            (Ok(bytes), Some(id)) if bytes > 0 => match self.pool.claim(id, bytes as usize) {
                Some(block) => Event { token, result, more, payload: Payload::Block(block) },
                None => {
                    tracing::error!(id, bytes, "the kernel filled a buffer that it did not have");
                    none(Err(Errno::EBADF), more)
                }
            },
            // The end of the stream took a buffer with it on some kernels: lend it again.
            (Ok(_), Some(id)) => {
                if let Some(block) = self.pool.claim(id, 0) {
                    self.buffers.give(&mut self.pool, block);
                }
                none(Ok(0), more)
            }
            // Some kernels name a buffer on an error without having taken one: it stays theirs.
            (result, _) => none(result, more),
        }
    }
}

impl Driver for Uring {
    fn submit(&mut self, op: Op) {
        match op {
            Op::Recv { token, socket, turn_bytes_max, is_limited } => {
                let limit = if self.abilities.recv_limit { turn_bytes_max } else { 0 };
                self.armed += 1;
                self.suspects.armed(token, socket);
                let mut entry = opcode::RecvMulti::new(Fd(socket.0), BufferRing::GROUP).len(limit).build();
                if is_limited {
                    limit_bytes(&mut entry, limit);
                }
                self.push(&entry.user_data(token.to_bits()));
            }
            Op::Send { token, socket, output, then } => {
                self.suspects.sends(token);
                self.send(token, socket, output, then);
            }
            Op::Provide(block) => self.buffers.give(&mut self.pool, block),
            Op::Accept { token, listener } => {
                self.armed += 1;
                let entry = opcode::AcceptMulti::new(Fd(listener.0)).flags(libc::SOCK_CLOEXEC).build();
                self.push(&entry.user_data(token.to_bits()));
            }
            Op::Connect { token, socket, address } => self.connect(token, socket, &address),
            // The ring would wait where a plain call says that the queue is empty.
            Op::AcceptRest { token, listener } => sys::accept_rest(listener, token, true, &mut self.done),
            Op::Watch { token, socket } => self.watch(token, socket),
            Op::AwaitDatagrams { token, socket } => self.await_datagrams(token, socket),
            Op::AwaitRoom { token, socket } => self.poll(socket, libc::POLLOUT, token),
            Op::Splice { token, from, to, turn_bytes_max } => self.splice(token, from, to, turn_bytes_max),
            Op::Cancel { target, socket } if target.kind() == Kind::Splice => {
                self.end_splices(socket, Some(target))
            }
            Op::Cancel { target, .. } => self.cancel(target),
            Op::CancelAll { socket } => {
                // There is one: the bell.
                for (_, slot) in &mut self.watches {
                    slot.is_called_off |= slot.socket == socket;
                }
                self.end_splices(socket, None);
                let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(socket.0)).all()).build();
                self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(NOBODY));
            }
            Op::Shutdown { socket } => sys::shutdown(socket),
            Op::Close { socket, reset } => {
                if reset {
                    sys::reset_on_close(socket);
                }
                // A broken ring would keep it open; what it has in flight there ends with the ring.
                if self.broken.is_some() {
                    return sys::close(socket);
                }
                let entry = opcode::Close::new(Fd(socket.0)).build();
                self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(NOBODY));
            }
        }
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Errno> {
        self.buffers.publish();
        if self.suspects.due(self.now) <= self.now {
            self.find_resets();
        }
        let until = match wait {
            _ if !self.done.is_empty() || self.is_owing || self.broken.is_some() => None,
            _ if self.splices.is_moving() => None,
            Wait::Poll => None,
            Wait::Until(until) => Some(until),
            Wait::Forever => Some(Tick::NEVER),
        };
        if let Some(until) = until {
            let until = until.min(self.suspects.due(self.now));
            self.arm_timer(until);
        }
        // What was not submitted because of a passing error stays queued for the next turn.
        let entered = self.enter(u32::from(until.is_some()), None);
        self.broken = self.broken.or(lasting(entered, 1));
        if let Some(errno) = self.broken {
            return Err(errno);
        }
        self.now = sys::clock();
        // First it must be known who failed; but what went well was done before what is reported with it.
        let mut reported = std::mem::take(&mut self.reported);
        let taken_in = self.taken_in();
        self.reap(&mut reported);
        self.tell_silent(taken_in, events);
        events.append(&mut reported);
        self.reported = reported;
        self.is_owing = !self.silent.is_empty();
        if self.splices.is_moving() {
            self.move_on(events);
        }
        events.append(&mut self.done);
        Ok(())
    }

    /// Since Linux 6.13 one enter hands on twenty completions, and raises a flag if there are others.
    fn is_behind(&mut self) -> bool {
        self.ring.submission().taskrun()
    }

    fn stream_socket(&mut self, address: &Address, from: Option<IpAddr>) -> Result<Socket, Errno> {
        sys::stream_socket(address, from, true)
    }

    fn recv_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<usize, Errno> {
        let received = self.transfer.recv(socket, batch);
        if received == Ok(ENTRIES_MAX) {
            self.likely_more.push(socket);
        }
        received
    }

    fn send_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        self.transfer.send(socket, batch)
    }

    fn set_pipes_max(&mut self, pipes: usize) {
        self.splices.set_pipes_max(pipes);
    }

    fn piped_bytes(&self, from: Socket) -> usize {
        self.splices.held_bytes(from)
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn since_epoch(&self) -> Duration {
        sys::since_epoch()
    }
}

impl OfKernel for Uring {}

impl Drop for Uring {
    /// Ends what is in flight, so that no memory is freed under the kernel. What does not end in time is leaked: safe,
    /// and only ever at the end of a thread.
    fn drop(&mut self) {
        self.splices.stand_still();
        if self.is_busy() {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(&entry.user_data(NOBODY));
        }
        let mut events = Vec::new();
        for _ in 0..DROP_TURNS {
            // What was pushed last is not submitted yet: sockets to be closed, above all.
            if !self.is_busy() && self.ring.submission().is_empty() {
                break;
            }
            let _ = self.enter(1, Some(Duration::from_millis(10)));
            let taken_in = self.taken_in();
            self.reap(&mut events);
            self.tell_silent(taken_in, &mut events);
            for event in events.drain(..) {
                if let Payload::Block(block) = event.payload {
                    self.buffers.give(&mut self.pool, block);
                }
            }
        }
        if self.is_busy() {
            std::mem::forget(std::mem::take(&mut self.sends));
            std::mem::forget(std::mem::take(&mut self.silent));
            std::mem::forget(std::mem::take(&mut self.connects));
            self.pool.leak();
            self.buffers.leak();
        }
        self.entrance.unregister();
    }
}

impl Message {
    fn new() -> Box<Message> {
        // SAFETY: all-zero is a valid msghdr: no name, no vector, no control data.
        Box::new(Message { header: unsafe { std::mem::zeroed() }, vectors: Vec::new() })
    }

    /// Points the vector to the next unsent slices of the output; how many bytes they have.
    fn fill(&mut self, output: &Output) -> u32 {
        self.vectors.clear();
        let mut left = SEND_BYTES_MAX;
        let vectors = &mut self.vectors;
        output.for_each(|slice| {
            let iov_len = slice.len().min(left as usize);
            left -= iov_len as u32;
            vectors.push(libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len });
        });
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
        SEND_BYTES_MAX - left
    }
}

/// The error that trying again does not mend, of io_uring_enter(2): of those that pass, EBUSY wants completions to be reaped first,
/// EAGAIN has no memory for a request at the moment, and EINTR is a signal. They last when they have come too often.
fn lasting(entered: Result<usize, Errno>, tries: u32) -> Option<Errno> {
    let errno = entered.err().unwrap_or(Errno::EAGAIN);
    let passes = matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno(libc::EBUSY));
    (!passes || tries >= PUSH_TRIES_MAX).then_some(errno)
}

fn connected(token: Token, result: Result<u32, Errno>) -> Event {
    Event { token, result, more: false, payload: Payload::None }
}

fn sent(token: Token, result: Result<u32, Errno>, output: Box<Output>) -> Event {
    Event { token, result, more: false, payload: Payload::Output(output) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    /// A ring whose descriptor is another file now: entering it fails, and always will.
    fn broken() -> Option<Uring> {
        let mut driver = Uring::new(probe().ok()?, 8, 512).unwrap();
        driver.entrance.unregister();
        let other = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the descriptor that is replaced belongs to the driver, which closes it in the end as it would the ring.
        let answer = unsafe { libc::dup2(other.as_raw_fd(), driver.ring.as_raw_fd()) };
        assert_eq!(answer, driver.ring.as_raw_fd());
        Some(driver)
    }

    #[test]
    fn a_ring_that_fails_for_good_is_an_error_of_the_driver() {
        let Some(mut driver) = broken() else { return };
        for _ in 0..2 * SUBMISSIONS {
            driver.submit(Op::Cancel { target: Token::new(Kind::Recv, 1, 1), socket: Socket(0) });
        }
        for wait in [Wait::Forever, Wait::Poll] {
            let answer = driver.turn(wait, &mut Vec::new());
            assert_eq!(answer, Err(Errno(libc::EOPNOTSUPP)));
        }
    }

    /// As a worker does that is dropped because its driver broke: the kernel must not go on queueing connections for it.
    #[test]
    fn a_broken_ring_still_closes_sockets() {
        let Some(mut driver) = broken() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        driver.turn(Wait::Poll, &mut Vec::new()).unwrap_err();
        driver.submit(Op::Close { socket: Socket(ours.into_raw_fd()), reset: false });
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn passing_errors_pass_but_not_for_ever() {
        let check = |entered, expected: [Option<Errno>; 2]| {
            assert_eq!([1, PUSH_TRIES_MAX].map(|tries| lasting(entered, tries)), expected, "{entered:?}");
        };
        for errno in [libc::EINTR, libc::EAGAIN, libc::EBUSY].map(Errno) {
            check(Err(errno), [None, Some(errno)]);
        }
        for errno in [libc::EBADF, libc::EOPNOTSUPP, libc::EEXIST, libc::EINVAL, libc::EFAULT].map(Errno) {
            check(Err(errno), [Some(errno); 2]);
        }
        // Room was made; if that is all that ever happens, there is none.
        check(Ok(1), [None, Some(Errno::EAGAIN)]);
    }
}
