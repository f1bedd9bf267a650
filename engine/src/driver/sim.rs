//! The simulated driver: a virtual clock, one seeded random source, sockets that are queues in memory.
//!
//! What can happen is decided by the state of the sockets; when, in which pieces and with which faults, by the random
//! source: completions wait in a heap by (time, random tie). Bytes of one stream never change their order;
//! everything else may. One seed gives one run. The faults are listed in `sim/chaos.rs`, the network is in
//! `sim/net.rs`, when operations end in `sim/timing.rs` and how in `sim/complete.rs`; `sim/simulation.rs` runs workers with protocols on it and checks them after every turn, and
//! `sim/breaking.rs` breaks them on purpose.

mod alone;
mod breaking;
mod chaos;
mod complete;
mod inspect;
mod miscalled;
mod net;
mod rng;
mod simulation;
mod splice;
mod timing;
mod watch;

pub use alone::Alone;
pub use breaking::Break;
pub(crate) use breaking::Breaking;
pub use chaos::{Chaos, Fault, Fired, Harm, fire, take_fired};
pub use net::{Answer, Net, Peer};
pub use rng::{Rng, draw_from};
pub use simulation::Simulation;
pub use watch::{Left, Watch, Watched};

use crate::address::Address;
use crate::datagram::{Datagrams, ENTRIES_MAX};
use crate::driver::{Driver, Names, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::pool::Pool;
use crate::time::Tick;
use crate::token::{Kind, Token};
use complete::finished;
use net::World;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Tokens of closed connections that stale completions are made of.
const RETIRED_MAX: usize = 16;

/// Completions without a kernel.
pub struct Sim {
    world: Rc<RefCell<World>>,
    chaos: Chaos,
    rng: Rng,
    now: Tick,
    /// What the wall clock is ahead.
    wall_offset: Duration,
    pool: Pool,
    /// The pool has changed since it was last checked.
    is_pool_new: Cell<bool>,
    /// What was submitted and not taken in yet.
    queued: VecDeque<Op>,
    inputs: BTreeMap<Socket, Input>,
    outputs: BTreeMap<Socket, Out>,
    due: BinaryHeap<Due>,
    done: Vec<Event>,
    /// Sends that succeeded and that nobody waits for: told when the turn comes back, and no reason to come back.
    silent: Vec<Event>,
    /// A turn could not take everything in: the next one owes its answer, and does not wait.
    is_owing: bool,
    operations: u64,
    /// The newest generation of each connection's slot.
    generations: BTreeMap<u32, u32>,
    /// The token of each connected socket, and those of sockets that were closed.
    tokens: BTreeMap<Socket, Token>,
    retired: VecDeque<Token>,
    leaps: u64,
    /// Pipes that have bytes in them, and how many there may be.
    pipes: usize,
    pipes_max: usize,
    trace: u64,
    is_abandoned: bool,
}

/// When (time, random tie) the operation with this number may complete, which is on a side of a socket. One entry an
/// operation at most; it may be cancelled before.
type Due = Reverse<(Tick, u64, u64, Socket, Side)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    In,
    Out,
}

struct Input {
    token: Token,
    kind: InputKind,
    number: u64,
    is_due: bool,
    /// A cancel is on its way.
    is_cancelled: bool,
}

enum InputKind {
    Accept,
    Recv { turn_bytes_max: u32, is_limited: bool },
    Watch,
    Datagrams,
    Splice(splice::Pipe),
}

struct Out {
    token: Token,
    kind: OutKind,
    number: u64,
    is_due: bool,
    is_cancelled: bool,
}

enum OutKind {
    Send(Box<Output>, Then),
    Room,
    Connect(Box<Address>),
    /// What comes from this socket.
    Fed(Socket),
}

impl Sim {
    /// A driver on a network of its own.
    pub fn new(seed: u64, chaos: Chaos, recv_buffers: u16, recv_buffer_bytes: usize) -> (Sim, Net) {
        let net = Net::new();
        (Sim::on(&net, seed, chaos, recv_buffers, recv_buffer_bytes), net)
    }

    /// A driver on a network that it shares with others.
    pub fn on(net: &Net, seed: u64, chaos: Chaos, recv_buffers: u16, recv_buffer_bytes: usize) -> Sim {
        Sim {
            world: net.world(),
            chaos,
            rng: Rng::new(seed),
            now: Tick(1),
            wall_offset: Duration::from_secs(1_700_000_000),
            pool: Pool::new(recv_buffers, recv_buffer_bytes),
            is_pool_new: Cell::new(true),
            queued: VecDeque::new(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            due: BinaryHeap::new(),
            done: Vec::new(),
            silent: Vec::new(),
            is_owing: false,
            operations: 0,
            generations: BTreeMap::new(),
            tokens: BTreeMap::new(),
            retired: VecDeque::new(),
            leaps: 0,
            pipes: 0,
            pipes_max: 0,
            trace: seed,
            is_abandoned: false,
        }
    }

    /// Receive buffers that the worker holds. None, once it has handled its events.
    pub fn buffers_out(&self) -> usize {
        self.pool.out_count()
    }

    /// Changes the faults from now on.
    pub fn set_chaos(&mut self, chaos: Chaos) {
        self.chaos = chaos;
    }

    /// A number that two runs share only if everything happened in the same order at the same times.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// How often the clock leapt.
    pub fn leaps(&self) -> u64 {
        self.leaps
    }

    /// Takes in what is still queued, as a driver does when it is dropped.
    pub(crate) fn finish(&mut self) {
        while let Some(op) = self.queued.pop_front() {
            self.start(op);
        }
    }

    /// From now on nothing is done and nothing is checked: the worker is being thrown away.
    pub(crate) fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    fn hits(&mut self, fault: Fault) -> bool {
        self.chaos.hits(fault, &mut self.rng)
    }

    fn hits_and_fires(&mut self, fault: Fault) -> bool {
        let hit = self.hits(fault);
        if hit {
            fire(fault);
        }
        hit
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn want(&mut self, socket: Socket, token: Token, kind: InputKind) {
        self.operations += 1;
        let (number, is_due, is_cancelled) = (self.operations, false, false);
        let before = self.inputs.insert(socket, Input { token, kind, number, is_due, is_cancelled });
        assert!(before.is_none(), "two operations want the input of socket {socket:?}");
    }

    fn push(&mut self, socket: Socket, token: Token, kind: OutKind) {
        assert!(!self.silent.iter().any(|event| event.token == token), "{token:?} is sent twice");
        self.operations += 1;
        let (number, is_due, is_cancelled) = (self.operations, false, false);
        let before = self.outputs.insert(socket, Out { token, kind, number, is_due, is_cancelled });
        assert!(before.is_none(), "two operations write to socket {socket:?}");
    }

    /// Takes in what was submitted; with a full queue, only the first of it.
    fn take_in(&mut self) {
        let mut count = self.queued.len();
        if count > 0 && self.hits_and_fires(Fault::QueueFull) {
            count = self.rng.below(count);
        }
        for op in self.queued.drain(..count).collect::<Vec<Op>>() {
            self.start(op);
        }
        self.is_owing = !self.queued.is_empty();
    }

    fn start(&mut self, op: Op) {
        if let Op::Recv { token, socket, .. } | Op::Send { token, socket, .. } = &op {
            let newest = self.generations.entry(token.index()).or_insert(token.generation());
            assert!(*newest <= token.generation(), "{token:?} is of an earlier tenant");
            *newest = token.generation();
            self.tokens.insert(*socket, *token);
        }
        match op {
            Op::Accept { token, listener } => self.want(listener, token, InputKind::Accept),
            Op::AcceptRest { token, listener } => self.accept_rest(token, listener),
            Op::Recv { token, socket, turn_bytes_max, is_limited } => {
                self.want(socket, token, InputKind::Recv { turn_bytes_max, is_limited });
            }
            Op::Connect { token, socket, address } => self.push(socket, token, OutKind::Connect(address)),
            Op::Watch { token, socket } => self.want(socket, token, InputKind::Watch),
            Op::AwaitDatagrams { token, socket } => self.want(socket, token, InputKind::Datagrams),
            Op::AwaitRoom { token, socket } => self.push(socket, token, OutKind::Room),
            Op::Send { token, socket, output, then } => self.send(token, socket, output, then),
            Op::Splice { token, from, to, turn_bytes_max } => self.splice(token, from, to, turn_bytes_max),
            Op::Cancel { target, socket } => {
                self.cancel_input(socket, Some(target));
                self.cancel_output(socket, Some(target));
            }
            Op::CancelAll { socket } => {
                self.cancel_input(socket, None);
                self.cancel_output(socket, None);
            }
            Op::Close { socket, reset } => self.close(socket, reset),
            Op::Shutdown { .. } | Op::Provide(_) => unreachable!("done when it was submitted"),
        }
    }

    /// As the real drivers do it: what nobody waits for and succeeds at once in full has no event of its own.
    fn send(&mut self, token: Token, socket: Socket, output: Box<Output>, then: Then) {
        let has_room = self.world.borrow().room_bytes(socket) >= output.len();
        if then != Then::Rest || !has_room || self.hits(Fault::ShortSend) || self.hits(Fault::Again) {
            return self.push(socket, token, OutKind::Send(output, then));
        }
        assert!(!self.outputs.contains_key(&socket), "two operations write to socket {socket:?}");
        assert!(!self.silent.iter().any(|event| event.token == token), "{token:?} is sent twice");
        let sent = self.world.borrow_mut().send(socket, &output, usize::MAX, then);
        self.silent.push(finished(token, sent.map(|bytes| bytes as u32), OutKind::Send(output, then)));
    }

    fn accept_rest(&mut self, token: Token, listener: Socket) {
        let event = |result: Result<u32, Errno>| Event {
            token,
            more: result.is_ok(),
            result,
            payload: Payload::None,
        };
        loop {
            let waiting = self.world.borrow().has_input(listener);
            if waiting && self.hits_and_fires(Fault::DescriptorsOut) {
                return self.done.push(event(Err(Errno::EMFILE)));
            }
            let Some(socket) = self.world.borrow_mut().accept(listener) else { break };
            self.done.push(event(Ok(socket.0 as u32)));
        }
        self.done.push(event(Err(Errno::ECANCELED)));
    }

    fn close(&mut self, socket: Socket, reset: bool) {
        let idle = !self.inputs.contains_key(&socket) && !self.outputs.contains_key(&socket);
        assert!(idle, "socket {socket:?} is closed while in use");
        if let Some(token) = self.tokens.remove(&socket) {
            self.retired.push_back(token);
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
        }
        self.world.borrow_mut().close(socket, reset);
    }

    fn cancel_input(&mut self, socket: Socket, target: Option<Token>) {
        let Some(input) = self.inputs.get(&socket) else { return };
        if target.is_some_and(|target| target != input.token) {
            return;
        }
        let may_be_late = !matches!(input.kind, InputKind::Watch);
        if may_be_late && self.hits(Fault::LateCancel) {
            self.inputs.get_mut(&socket).expect("looked up above").is_cancelled = true;
            return;
        }
        let input = self.inputs.remove(&socket).expect("looked up above");
        let token = input.token;
        let payload =
            if let InputKind::Splice(pipe) = input.kind { self.end_splice(pipe) } else { Payload::None };
        self.done.push(Event { token, result: Err(Errno::ECANCELED), more: false, payload });
    }

    fn cancel_output(&mut self, socket: Socket, target: Option<Token>) {
        let Some(out) = self.outputs.get(&socket) else { return };
        if target.is_some_and(|target| target != out.token) {
            return;
        }
        if let OutKind::Fed(from) = out.kind {
            return self.cancel_input(from, Some(out.token));
        }
        if self.hits(Fault::LateCancel) {
            self.outputs.get_mut(&socket).expect("looked up above").is_cancelled = true;
        } else if let Some(out) = self.outputs.remove(&socket) {
            self.done.push(finished(out.token, Err(Errno::ECANCELED), out.kind));
        }
    }

    fn trace_events(&mut self, events: &[Event]) {
        self.note(self.now.0);
        for event in events {
            let result = match event.result {
                Ok(value) if event.token.kind() == Kind::Wake => u64::from(value),
                Ok(value) => u64::from(value) << 8,
                Err(errno) => errno.0 as u64,
            };
            self.note(event.token.to_bits() ^ result << 1 ^ u64::from(event.more));
        }
    }
}

impl Driver for Sim {
    fn submit(&mut self, op: Op) {
        match op {
            _ if self.is_abandoned || std::thread::panicking() => {}
            // Neither goes through a queue on any driver.
            Op::Shutdown { socket } => self.world.borrow_mut().shutdown(socket),
            Op::Provide(block) => self.pool.give(block),
            op => self.queued.push_back(op),
        }
    }

    // Never inlined, so that instruction counts can leave the simulated kernel out by name: see benches/instructions.sh.
    #[inline(never)]
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Errno> {
        if self.is_abandoned || std::thread::panicking() {
            return Ok(());
        }
        let was_owing = self.is_owing;
        self.take_in();
        self.tell_stale();
        events.append(&mut self.done);
        self.plan();
        let end = self.end_of(wait, !events.is_empty(), was_owing);
        if end > self.now && self.hits_and_fires(Fault::EarlyReturn) {
            self.now = Tick(self.now.0 + self.rng.up_to(end.0 - self.now.0));
            events.append(&mut self.silent);
            self.trace_events(events);
            return Ok(());
        }
        self.now = end;
        self.leap();
        while let Some(Reverse((at, _, number, socket, side))) = self.due.peek().copied()
            && at <= self.now
        {
            self.due.pop();
            match side {
                Side::In => self.complete_input(socket, number, events),
                Side::Out => self.complete_output(socket, number, events),
            }
        }
        events.append(&mut self.silent);
        self.trace_events(events);
        Ok(())
    }

    fn set_pipes_max(&mut self, pipes: usize) {
        self.pipes_max = pipes;
    }

    fn piped_bytes(&self, from: Socket) -> usize {
        match self.inputs.get(&from).map(|input| &input.kind) {
            Some(InputKind::Splice(pipe)) => pipe.held_bytes(),
            _ => 0,
        }
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn since_epoch(&self) -> Duration {
        self.wall_offset + Duration::from_nanos(self.now.0)
    }

    fn recv_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<usize, Errno> {
        let mut max = ENTRIES_MAX;
        if self.hits_and_fires(Fault::DatagramFault) {
            if self.rng.one_in(2) {
                batch.reset_received();
                return Err(Errno::ECONNREFUSED);
            }
            max = 1 + self.rng.below(ENTRIES_MAX);
        }
        self.world.borrow_mut().recv_datagrams(socket, batch, max)
    }

    fn send_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        if self.hits_and_fires(Fault::DatagramFault) {
            // It takes no more, or all of them are lost on their way.
            return if self.rng.one_in(2) { Err(Errno::EAGAIN) } else { Err(Errno::ECONNREFUSED) };
        }
        self.world.borrow_mut().send_datagrams(socket, batch);
        Ok(())
    }

    fn stream_socket(&mut self, _: &Address, _: Option<IpAddr>) -> Result<Socket, Errno> {
        Ok(self.world.borrow_mut().stream_socket())
    }
}

impl Names for Sim {
    fn peer(&self, socket: Socket) -> Option<Address> {
        self.world.borrow().peer_address(socket)
    }

    fn local(&self, socket: Socket) -> Option<Address> {
        self.world.borrow().local_address(socket)
    }

    fn unacknowledged_bytes(&self, socket: Socket) -> usize {
        self.world.borrow().unacknowledged_bytes(socket)
    }

    fn flow_socket(&self, peer: SocketAddr) -> Result<Socket, Errno> {
        Ok(self.world.borrow_mut().flow_socket(peer))
    }
}
