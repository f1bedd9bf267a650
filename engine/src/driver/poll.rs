//! The epoll driver, through mio: readiness turned into completions.
//!
//! Sockets are registered once, edge-triggered, for both directions. A socket that may have input is in
//! `ready` until a receive says that there is none. Sends are tried at once, in `submit`; what would
//! block is told so where nobody waits for it, and else waits for the next edge. Everything a container needs that forbids io_uring.

#[cfg(feature = "tokio")]
mod hosted;
mod serve;
mod splice;

use crate::address::Address;
use crate::datagram::{Datagrams, ENTRIES_MAX};
use crate::driver::splicing::Splicing;
use crate::driver::{Driver, OfKernel, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::pool::Pool;
use crate::sys;
use crate::sys::pipe::Pipes;
use crate::time::Tick;
use crate::token::Token;
use mio::unix::SourceFd;
use splice::resume;
use std::net::IpAddr;
use std::time::Duration;

/// Events taken from epoll at once.
const POLL_EVENTS: usize = 256;

/// Readiness through epoll.
pub struct Poll {
    poll: mio::Poll,
    readiness: mio::Events,
    /// By descriptor.
    sockets: Vec<Entry>,
    /// Descriptors that may have input, and an operation that wants it.
    ready: Vec<i32>,
    /// Events that need no kernel: sends that succeeded at once, cancels.
    done: Vec<Event>,
    /// Sends that succeeded and that nobody waits for: told with the next events.
    unawaited: Vec<Event>,
    pool: Pool,
    transfer: sys::datagrams::Transfer,
    pipes: Pipes,
    now: Tick,
    /// The last turn delivered only `done` and did not ask the kernel.
    skipped: bool,
}

#[derive(Default)]
struct Entry {
    registered: bool,
    may_read: bool,
    /// The peer closed its side, or sent urgent data, before which receives stop: a short receive does not mean that
    /// there is no more.
    may_fall_short: bool,
    /// The last receive filled a buffer: the next one likely needs several.
    is_bulk: bool,
    is_ready: bool,
    is_listener: bool,
    input: Input,
    output: Out,
}

#[derive(Default)]
enum Input {
    #[default]
    None,
    Accept(Token),
    Recv(Token, u32),
    Watch(Token),
    Datagrams(Token),
    /// It goes to another socket.
    Splice(Box<Splicing>),
    /// The same, and this one has no room.
    Blocked(Socket),
}

#[derive(Default)]
enum Out {
    #[default]
    None,
    Send(Token, Box<Output>, Then),
    Datagrams(Token),
    Connect(Token),
    /// What comes from this socket.
    Fed(Socket),
    /// The same, and there is no room.
    Splice(Box<Splicing>),
}

impl Poll {
    /// Opens an epoll instance and takes memory for the buffers.
    pub fn new(recv_buffers: u16, recv_buffer_bytes: usize) -> std::io::Result<Poll> {
        Ok(Poll {
            poll: mio::Poll::new()?,
            readiness: mio::Events::with_capacity(POLL_EVENTS),
            sockets: Vec::new(),
            ready: Vec::new(),
            done: Vec::new(),
            unawaited: Vec::new(),
            pool: Pool::new(recv_buffers, recv_buffer_bytes),
            transfer: sys::datagrams::Transfer::new(),
            pipes: Pipes::default(),
            now: sys::clock(),
            skipped: false,
        })
    }

    fn entry(&mut self, socket: Socket) -> &mut Entry {
        let index = socket.0 as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, Entry::default);
        }
        &mut self.sockets[index]
    }

    /// Registers on first use. A failure (out of watches or memory) is the operation's error.
    fn register(&mut self, socket: Socket) -> Result<(), Errno> {
        if self.entry(socket).registered {
            return Ok(());
        }
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE | mio::Interest::PRIORITY;
        let token = mio::Token(socket.0 as usize);
        let registered = self.poll.registry().register(&mut SourceFd(&socket.0), token, interest);
        registered.map_err(|error| Errno::from_io(&error))?;
        self.entry(socket).registered = true;
        Ok(())
    }

    fn want(&mut self, socket: Socket, input: Input) {
        if let Err(errno) = self.register(socket) {
            return self.done.push(refused(input, errno));
        }
        let entry = self.entry(socket);
        entry.is_listener |= matches!(input, Input::Accept(_));
        debug_assert!(matches!(entry.input, Input::None), "two operations want the input of one socket");
        entry.input = input;
        if entry.may_read && !entry.is_ready {
            entry.is_ready = true;
            self.ready.push(socket.0);
        }
    }

    fn send(&mut self, token: Token, socket: Socket, output: Box<Output>, then: Then) {
        match sys::send(socket, &output, then) {
            // As io_uring does: whoever sent it may have it wait in less memory.
            Err(Errno::EAGAIN) if then != Then::Rest => match self.register(socket) {
                Ok(()) => self.entry(socket).output = Out::Send(token, output, then),
                Err(errno) => self.done.push(sent(token, Err(errno), output)),
            },
            result => {
                let is_silent = then == Then::Rest && result == Ok(output.len());
                let done = if is_silent { &mut self.unawaited } else { &mut self.done };
                done.push(sent(token, result.map(|bytes| bytes as u32), output));
            }
        }
    }

    /// Waits for room, of which the kernel tells with the next edge: there was none just before.
    fn await_room(&mut self, token: Token, socket: Socket) {
        match self.register(socket) {
            Ok(()) => self.entry(socket).output = Out::Datagrams(token),
            Err(errno) => self.done.push(over(token, Err(errno))),
        }
    }

    fn connect(&mut self, token: Token, socket: Socket, address: &Address) {
        let result = match sys::connect(socket, address) {
            Err(Errno::EINPROGRESS) => match self.register(socket) {
                // Registered while it goes on: the edge is still to come.
                Ok(()) => return self.entry(socket).output = Out::Connect(token),
                Err(errno) => Err(errno),
            },
            result => result.map(|()| 0),
        };
        self.done.push(over(token, result));
    }

    fn cancel_input(&mut self, socket: Socket, target: Option<Token>) {
        let entry = self.entry(socket);
        let token = match &entry.input {
            Input::None => return,
            Input::Accept(token) | Input::Recv(token, _) | Input::Watch(token) | Input::Datagrams(token) => {
                *token
            }
            Input::Splice(_) | Input::Blocked(_) => return self.end_splice(socket, target),
        };
        if target.is_none_or(|target| target == token) {
            let input = std::mem::take(&mut entry.input);
            self.done.push(refused(input, Errno::ECANCELED));
        }
    }

    fn cancel_output(&mut self, socket: Socket, target: Option<Token>) {
        let output = &mut self.entry(socket).output;
        if let Some(from) = output.fed_from() {
            return self.end_splice(from, target);
        }
        let (Out::Send(token, ..) | Out::Datagrams(token) | Out::Connect(token)) = *output else { return };
        if target.is_none_or(|target| target == token) {
            let cancelled = match std::mem::take(output) {
                Out::Send(token, output, _) => sent(token, Err(Errno::ECANCELED), output),
                _ => over(token, Err(Errno::ECANCELED)),
            };
            self.done.push(cancelled);
        }
    }

    fn close(&mut self, socket: Socket, reset: bool) {
        let entry = self.entry(socket);
        debug_assert!(
            matches!((&entry.input, &entry.output), (Input::None, Out::None)),
            "closed while in use"
        );
        let is_listener = entry.is_listener;
        // A descriptor still in `ready` is skipped there, because its next owner starts as not ready.
        *entry = Entry { is_ready: entry.is_ready, ..Entry::default() };
        if reset {
            sys::reset_on_close(socket);
        }
        if is_listener {
            // A Unix listener has duplicates, one a worker: closing this one alone would leave it in epoll.
            let _ = self.poll.registry().deregister(&mut SourceFd(&socket.0));
        }
        // Closing takes a connection out of epoll: nobody has a duplicate of it.
        sys::close(socket);
    }

    fn take_readiness(&mut self, wait: Wait) -> Result<(), Errno> {
        let timeout = match wait {
            Wait::Poll => Some(Duration::ZERO),
            Wait::Until(until) => Some(until.since(self.now)),
            Wait::Forever => None,
        };
        match self.poll.poll(&mut self.readiness, timeout) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.readiness.clear(),
            result => result.map_err(|error| Errno::from_io(&error))?,
        }
        for event in &self.readiness {
            let index = event.token().0;
            let Some(entry) = self.sockets.get_mut(index).filter(|entry| entry.registered) else { continue };
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                entry.may_read = true;
                entry.may_fall_short |= event.is_read_closed() || event.is_error() || event.is_priority();
                if !entry.is_ready && !matches!(entry.input, Input::None) {
                    entry.is_ready = true;
                    self.ready.push(index as i32);
                }
            }
            let blocked = !matches!(entry.output, Out::None);
            if blocked && (event.is_writable() || event.is_write_closed() || event.is_error()) {
                let socket = Socket(index as i32);
                match std::mem::take(&mut entry.output) {
                    Out::None => {}
                    Out::Fed(from) => entry.output = Out::Fed(from),
                    Out::Splice(splicing) => {
                        entry.output = Out::Fed(splicing.from);
                        resume(&mut self.sockets, &mut self.ready, splicing);
                    }
                    Out::Send(token, output, then) => match sys::send(socket, &output, then) {
                        Err(Errno::EAGAIN) => entry.output = Out::Send(token, output, then),
                        result => self.done.push(sent(token, result.map(|bytes| bytes as u32), output)),
                    },
                    Out::Connect(token) => match sys::connect_result(socket) {
                        Some(result) => self.done.push(over(token, result)),
                        None => entry.output = Out::Connect(token),
                    },
                    Out::Datagrams(token) => self.done.push(over(token, Ok(1))),
                }
            }
        }
        Ok(())
    }

    /// Serves one descriptor of `ready`. Returns whether it stays there for the next turn.
    fn serve(&mut self, fd: i32, events: &mut Vec<Event>) -> bool {
        let entry = &mut self.sockets[fd as usize];
        if !entry.may_read {
            return false;
        }
        let socket = Socket(fd);
        match std::mem::take(&mut entry.input) {
            Input::None => false,
            Input::Accept(token) => serve::accept(entry, socket, token, events),
            Input::Recv(token, turn_bytes_max) => {
                serve::recv(entry, &mut self.pool, socket, token, turn_bytes_max, events)
            }
            Input::Watch(token) => {
                sys::clear_counter(socket);
                entry.may_read = false;
                events.push(Event { token, result: Ok(1), more: false, payload: Payload::None });
                false
            }
            // Whether there is something is known once it was received.
            Input::Datagrams(token) => {
                events.push(over(token, Ok(1)));
                false
            }
            Input::Blocked(to) => {
                entry.input = Input::Blocked(to);
                false
            }
            Input::Splice(splicing) => self.serve_splice(splicing, events),
        }
    }
}

impl Driver for Poll {
    fn submit(&mut self, op: Op) {
        match op {
            Op::Accept { token, listener } => {
                sys::set_nonblocking(listener, true);
                self.want(listener, Input::Accept(token));
            }
            Op::Connect { token, socket, address } => self.connect(token, socket, &address),
            Op::Recv { token, socket, turn_bytes_max, .. } => {
                self.want(socket, Input::Recv(token, turn_bytes_max))
            }
            Op::AcceptRest { token, listener } => sys::accept_rest(listener, token, false, &mut self.done),
            Op::Watch { token, socket } => self.want(socket, Input::Watch(token)),
            Op::AwaitDatagrams { token, socket } => self.want(socket, Input::Datagrams(token)),
            Op::AwaitRoom { token, socket } => self.await_room(token, socket),
            Op::Send { token, socket, output, then } => self.send(token, socket, output, then),
            Op::Splice { token, from, to, turn_bytes_max } => {
                self.splice(Box::new(Splicing::new(token, from, to, turn_bytes_max)));
            }
            Op::Cancel { target, socket } => {
                self.cancel_input(socket, Some(target));
                self.cancel_output(socket, Some(target));
            }
            Op::CancelAll { socket } => {
                self.cancel_input(socket, None);
                self.cancel_output(socket, None);
            }
            // epoll tells of a reset by itself.
            Op::Shutdown { socket } => sys::shutdown(socket),
            Op::Close { socket, reset } => self.close(socket, reset),
            Op::Provide(block) => self.pool.give(block),
        }
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Errno> {
        events.append(&mut self.done);
        let have = !events.is_empty();
        // The completions of a turn's sends need no system call: deliver them alone, every other time at most,
        // and wait in the next turn.
        self.skipped = have && self.ready.is_empty() && !self.skipped;
        if !self.skipped {
            let wait = if have || !self.ready.is_empty() { Wait::Poll } else { wait };
            self.take_readiness(wait)?;
            self.now = sys::clock();
            events.append(&mut self.done);
        }
        events.append(&mut self.unawaited);
        let mut ready = std::mem::take(&mut self.ready);
        // Who finds no buffer has the first turn next time.
        let (mut kept, mut first_unserved) = (0, None);
        ready.retain(|&fd| {
            let before = events.len();
            let stays = self.serve(fd, events);
            self.sockets[fd as usize].is_ready = stays;
            if stays && events.len() == before {
                first_unserved.get_or_insert(kept);
            }
            kept += usize::from(stays);
            stays
        });
        ready.rotate_left(first_unserved.unwrap_or(0));
        // Serving submits nothing, so nothing was added to the list meanwhile.
        self.ready = ready;
        Ok(())
    }

    fn stream_socket(&mut self, address: &Address, from: Option<IpAddr>) -> Result<Socket, Errno> {
        sys::stream_socket(address, from, false)
    }

    fn recv_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<usize, Errno> {
        let received = self.transfer.recv(socket, batch);
        // A short batch emptied the queue, so the next datagram makes a new edge.
        let is_emptied =
            matches!(received, Err(Errno::EAGAIN)) || received.is_ok_and(|count| count < ENTRIES_MAX);
        self.entry(socket).may_read = !is_emptied;
        received
    }

    fn send_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        self.transfer.send(socket, batch)
    }

    fn set_pipes_max(&mut self, pipes: usize) {
        self.pipes.set_max(pipes);
    }

    fn piped_bytes(&self, from: Socket) -> usize {
        self.splicing(from).map_or(0, Splicing::held_bytes)
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn since_epoch(&self) -> Duration {
        sys::since_epoch()
    }
}

impl OfKernel for Poll {}

/// The last event of an operation that did not come to anything.
fn refused(input: Input, errno: Errno) -> Event {
    let token = match input {
        Input::Accept(token) | Input::Recv(token, _) | Input::Watch(token) | Input::Datagrams(token) => token,
        Input::None | Input::Splice(_) | Input::Blocked(_) => unreachable!("nothing of the kind was refused"),
    };
    over(token, Err(errno))
}

fn over(token: Token, result: Result<u32, Errno>) -> Event {
    Event { token, result, more: false, payload: Payload::None }
}

fn sent(token: Token, result: Result<u32, Errno>, output: Box<Output>) -> Event {
    Event { token, result, more: false, payload: Payload::Output(output) }
}
