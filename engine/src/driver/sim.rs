//! The simulated driver: a virtual clock, one seeded random source, sockets that are queues in memory.
//!
//! What can happen is decided by the state of the sockets; when and in which pieces, by the random source:
//! completions wait in a heap by (time, random tie). Bytes of one stream never change their order; everything
//! else may. One seed gives one run. [`Simulation`] runs a worker with a protocol on it.

mod net;

pub use net::{Answer, Net, Peer};

use crate::address::Address;
use crate::config::Config;
use crate::datagram::{Datagrams, ENTRIES_MAX};
use crate::driver::{Driver, Names, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket};
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::pool::Pool;
use crate::protocol::{Datagram, Protocol};
use crate::service::Typed;
use crate::stats::{Counters, Stats};
use crate::sys;
use crate::time::Tick;
use crate::token::Token;
use crate::worker::Worker;
use net::{Rng, World};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the simulated kernel does to the worker.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// Completions come up to so much later than they could.
    pub delay_max: Duration,
    /// One receive in so many is short; 0 is none.
    pub short_recv_one_in: u32,
    /// One send in so many is short; 0 is none.
    pub short_send_one_in: u32,
    /// One receive in so many ends with `more` absent although the stream goes on; 0 is none.
    pub recv_over_one_in: u32,
}

impl Chaos {
    /// A kernel that does at once what it is asked.
    pub const CALM: Chaos =
        Chaos { delay_max: Duration::ZERO, short_recv_one_in: 0, short_send_one_in: 0, recv_over_one_in: 0 };

    /// A kernel that does everything it may.
    pub const WILD: Chaos = Chaos {
        delay_max: Duration::from_millis(2),
        short_recv_one_in: 2,
        short_send_one_in: 2,
        recv_over_one_in: 5,
    };
}

/// Completions without a kernel.
pub struct Sim {
    world: Rc<RefCell<World>>,
    chaos: Chaos,
    rng: Rng,
    now: Tick,
    pool: Pool,
    inputs: BTreeMap<Socket, Input>,
    outputs: BTreeMap<Socket, Out>,
    /// When the operation on a side of a socket may complete. One entry an operation at most.
    due: BinaryHeap<Reverse<(Tick, u64, Socket, Side)>>,
    done: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    In,
    Out,
}

struct Input {
    token: Token,
    kind: InputKind,
    is_due: bool,
}

enum InputKind {
    Accept,
    Recv { turn_bytes_max: u32 },
    Watch,
    Datagrams(Box<Datagrams>),
}

struct Out {
    token: Token,
    kind: OutKind,
    is_due: bool,
}

enum OutKind {
    Send(Box<Output>),
    Datagrams(Box<Datagrams>),
    Connect(Box<Address>),
}

impl Sim {
    /// A driver on a network of its own.
    pub fn new(seed: u64, chaos: Chaos, recv_buffers: u16, recv_buffer_bytes: usize) -> (Sim, Net) {
        let net = Net::new();
        let sim = Sim {
            world: net.world(),
            chaos,
            rng: Rng::new(seed),
            now: Tick(1),
            pool: Pool::new(recv_buffers, recv_buffer_bytes),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            due: BinaryHeap::new(),
            done: Vec::new(),
        };
        (sim, net)
    }

    /// Receive buffers that the worker holds. None, once it has handled its events.
    pub fn buffers_out(&self) -> usize {
        self.pool.out_count()
    }

    fn want(&mut self, socket: Socket, token: Token, kind: InputKind) {
        let before = self.inputs.insert(socket, Input { token, kind, is_due: false });
        assert!(before.is_none(), "two operations want the input of socket {socket:?}");
    }

    fn push(&mut self, socket: Socket, token: Token, kind: OutKind) {
        let before = self.outputs.insert(socket, Out { token, kind, is_due: false });
        assert!(before.is_none(), "two operations write to socket {socket:?}");
    }

    fn cancel_input(&mut self, socket: Socket, target: Option<Token>) {
        let Some(input) = self.inputs.get(&socket) else { return };
        if target.is_none_or(|target| target == input.token) {
            let input = self.inputs.remove(&socket).expect("looked up above");
            let payload = match input.kind {
                InputKind::Datagrams(batch) => Payload::Datagrams(batch),
                _ => Payload::None,
            };
            self.done.push(Event { token: input.token, result: Err(Errno::ECANCELED), more: false, payload });
        }
    }

    fn cancel_output(&mut self, socket: Socket) {
        if let Some(out) = self.outputs.remove(&socket) {
            self.done.push(finished(out.token, Err(Errno::ECANCELED), out.kind));
        }
    }

    /// Gives a time to every operation that could complete and has none yet.
    fn plan(&mut self) {
        let world = self.world.borrow();
        let delay_max = self.chaos.delay_max.as_nanos() as u64;
        let mut plan = |socket: Socket, side, is_due: &mut bool, can: bool| {
            if can && !*is_due {
                *is_due = true;
                let at = Tick(self.now.0 + self.rng.up_to(delay_max));
                self.due.push(Reverse((at, self.rng.next(), socket, side)));
            }
        };
        for (socket, input) in &mut self.inputs {
            let can = match input.kind {
                InputKind::Watch => sys::is_counter_raised(*socket),
                _ => world.has_input(*socket),
            };
            plan(*socket, Side::In, &mut input.is_due, can);
        }
        for (socket, out) in &mut self.outputs {
            let can = match &out.kind {
                OutKind::Connect(address) => world.answers(address),
                OutKind::Send(_) | OutKind::Datagrams(_) => world.has_room(*socket),
            };
            plan(*socket, Side::Out, &mut out.is_due, can);
        }
    }

    fn complete_input(&mut self, socket: Socket, events: &mut Vec<Event>) {
        let Some(mut input) = self.inputs.remove(&socket).filter(|input| input.is_due) else { return };
        input.is_due = false;
        let token = input.token;
        let event = |result, more, payload| Event { token, result, more, payload };
        let world = self.world.clone();
        let mut world = world.borrow_mut();
        match input.kind {
            InputKind::Accept => {
                if let Some(accepted) = world.accept(socket) {
                    events.push(event(Ok(accepted.0 as u32), true, Payload::None));
                }
                self.inputs.insert(socket, input);
            }
            InputKind::Watch => {
                sys::clear_counter(socket);
                events.push(event(Ok(1), false, Payload::None));
            }
            InputKind::Recv { turn_bytes_max } => {
                let short = self.rng.one_in(self.chaos.short_recv_one_in);
                let rng = &mut self.rng;
                let filled = self.pool.fill(|buffer| {
                    let max = buffer.len().min(turn_bytes_max as usize);
                    let max = if short { 1 + rng.up_to(max as u64 - 1) as usize } else { max };
                    world.recv(socket, &mut buffer[..max])
                });
                match filled {
                    None => events.push(event(Err(Errno::ENOBUFS), false, Payload::None)),
                    Some(Err(Errno::EAGAIN)) => drop(self.inputs.insert(socket, input)),
                    Some(Err(errno)) => events.push(event(Err(errno), false, Payload::None)),
                    Some(Ok((_, None))) => events.push(event(Ok(0), false, Payload::None)),
                    Some(Ok((bytes, Some(block)))) => {
                        let more = !self.rng.one_in(self.chaos.recv_over_one_in);
                        events.push(event(Ok(bytes as u32), more, Payload::Block(block)));
                        if more {
                            self.inputs.insert(socket, input);
                        }
                    }
                }
            }
            InputKind::Datagrams(mut batch) => {
                let count = world.recv_datagrams(socket, &mut batch, ENTRIES_MAX);
                events.push(event(Ok(count as u32), false, Payload::Datagrams(batch)));
            }
        }
    }

    fn complete_output(&mut self, socket: Socket, events: &mut Vec<Event>) {
        let Some(out) = self.outputs.remove(&socket).filter(|out| out.is_due) else { return };
        let mut world = self.world.borrow_mut();
        let result = match &out.kind {
            OutKind::Send(output) => {
                let short = self.rng.one_in(self.chaos.short_send_one_in);
                let max =
                    if short { 1 + self.rng.up_to(output.len() as u64 - 1) as usize } else { usize::MAX };
                world.send(socket, output, max).map(|bytes| bytes as u32)
            }
            OutKind::Datagrams(batch) => {
                world.send_datagrams(socket, batch);
                Ok(batch.len() as u32)
            }
            OutKind::Connect(address) => world.connect(socket, address),
        };
        events.push(finished(out.token, result, out.kind));
    }
}

fn finished(token: Token, result: Result<u32, Errno>, kind: OutKind) -> Event {
    let payload = match kind {
        OutKind::Send(output) => Payload::Output(output),
        OutKind::Datagrams(batch) => Payload::Datagrams(batch),
        OutKind::Connect(_) => Payload::None,
    };
    Event { token, result, more: false, payload }
}

impl Driver for Sim {
    fn submit(&mut self, op: Op) {
        match op {
            Op::Accept { token, listener } => self.want(listener, token, InputKind::Accept),
            Op::AcceptRest { token, listener } => {
                let mut world = self.world.borrow_mut();
                while let Some(socket) = world.accept(listener) {
                    let result = Ok(socket.0 as u32);
                    self.done.push(Event { token, result, more: true, payload: Payload::None });
                }
                let result = Err(Errno::ECANCELED);
                self.done.push(Event { token, result, more: false, payload: Payload::None });
            }
            Op::Recv { token, socket, turn_bytes_max } => {
                self.want(socket, token, InputKind::Recv { turn_bytes_max });
            }
            Op::Connect { token, socket, address } => self.push(socket, token, OutKind::Connect(address)),
            Op::Watch { token, socket } => self.want(socket, token, InputKind::Watch),
            Op::RecvDatagrams { token, socket, batch } => {
                self.want(socket, token, InputKind::Datagrams(batch))
            }
            Op::Send { token, socket, output, .. } => self.push(socket, token, OutKind::Send(output)),
            Op::SendDatagrams { token, socket, batch } => self.push(socket, token, OutKind::Datagrams(batch)),
            Op::Cancel { target, socket } => self.cancel_input(socket, Some(target)),
            Op::CancelAll { socket } => {
                self.cancel_input(socket, None);
                self.cancel_output(socket);
            }
            Op::Shutdown { socket } => self.world.borrow_mut().shutdown(socket),
            Op::Close { socket, reset } => {
                let idle = !self.inputs.contains_key(&socket) && !self.outputs.contains_key(&socket);
                assert!(idle, "socket {socket:?} is closed while in use");
                self.world.borrow_mut().close(socket, reset);
            }
            Op::Provide(block) => self.pool.give(block),
        }
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Errno> {
        events.append(&mut self.done);
        self.plan();
        let next = self.due.peek().map(|Reverse((at, ..))| *at);
        self.now = match (wait, next) {
            _ if !events.is_empty() => self.now,
            (Wait::Poll, _) | (Wait::Forever, None) => self.now,
            (Wait::Until(until), None) => self.now.max(until),
            (Wait::Until(until), Some(next)) => self.now.max(next.min(until)),
            (Wait::Forever, Some(next)) => self.now.max(next),
        };
        while let Some(Reverse((at, _, socket, side))) = self.due.peek().copied()
            && at <= self.now
        {
            self.due.pop();
            match side {
                Side::In => self.complete_input(socket, events),
                Side::Out => self.complete_output(socket, events),
            }
        }
        Ok(())
    }

    fn stream_socket(&mut self, _: &Address, _: Option<IpAddr>) -> Result<Socket, Errno> {
        Ok(self.world.borrow_mut().stream_socket())
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_nanos(self.now.0)
    }
}

impl Names for Sim {
    fn peer(&self, socket: Socket) -> Option<Address> {
        self.world.borrow().peer_address(socket)
    }

    fn local(&self, socket: Socket) -> Option<Address> {
        self.world.borrow().local_address(socket)
    }
}

/// A worker with protocols on a simulated network.
pub struct Simulation {
    worker: Worker<Sim>,
    net: Net,
    stats: Stats,
    mailbox: Arc<Mailbox>,
}

/// Turns after which a simulation that still has something to do is taken for one that spins.
const TURNS_MAX: usize = 200_000;

impl Simulation {
    /// A worker that is not started yet; add protocols first.
    pub fn new(seed: u64, chaos: Chaos, config: Config) -> Simulation {
        config.check().expect("a sound configuration");
        let (sim, net) = Sim::new(seed, chaos, config.recv_buffers, config.recv_buffer_bytes);
        let stats = Stats::new(1);
        let mailbox = Arc::new(Mailbox::new(config.mailbox_messages_max).expect("an event counter"));
        let connections_max = config.connections_max.unwrap_or(usize::MAX);
        let worker = Worker::new(sim, config, connections_max, mailbox.clone(), stats.worker(0));
        Simulation { worker, net, stats, mailbox }
    }

    /// Listens with a protocol; connect to what this returns.
    pub fn listen(&mut self, protocol: impl Protocol) -> Socket {
        let listener = self.net.listen();
        self.worker.add_listener(listener, Box::new(Typed::new(protocol)));
        listener
    }

    /// Serves datagrams with a protocol.
    pub fn datagrams(&mut self, protocol: impl Datagram) -> Socket {
        let socket = self.net.datagram_socket();
        self.worker.add_datagrams(socket, Box::new(protocol));
        socket
    }

    /// Adds a protocol that only connects outwards.
    pub fn outbound(&mut self, protocol: impl Protocol) {
        self.worker.add_outbound(Box::new(Typed::new(protocol)));
    }

    /// Starts the worker. Call it once, after all protocols were added.
    pub fn start(&mut self) {
        self.worker.start();
    }

    /// The network, for peers.
    pub fn net(&self) -> Net {
        self.net.clone()
    }

    /// One turn.
    pub fn turn(&mut self) {
        self.worker.turn().expect("the simulated driver does not fail");
    }

    /// Runs for so much virtual time, or less, if the worker ends.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.worker.now().after(time);
        for _ in 0..TURNS_MAX {
            if self.worker.now() >= until || self.worker.is_done() {
                return;
            }
            self.worker.turn_until(until).expect("the simulated driver does not fail");
        }
        panic!("the worker spins: {TURNS_MAX} turns in less than {time:?} of virtual time");
    }

    /// Asks the worker to drain.
    pub fn drain(&self, deadline: Duration) {
        self.mailbox
            .post(crate::mailbox::Message::Drain(deadline))
            .expect("control messages are not refused");
    }

    /// Whether the worker has ended.
    pub fn is_done(&self) -> bool {
        self.worker.is_done()
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.stats.total()
    }

    /// Receive buffers that are neither free nor lent: none between turns.
    pub fn buffers_out(&self) -> usize {
        self.worker.driver().buffers_out()
    }
}
