//! A device around the simulated driver that breaks what passes through it, as a broken worker would.
//!
//! A simulator that finds nothing may be blind. So its tests break a worker in named ways and show that each one is caught. What
//! the worker submits, what it is told and what it asks is changed here, on the way, and what its sessions are called with in
//! `miscalled.rs`: the worker and the sessions know nothing of it. Never here: faults, which a sound worker survives; they
//! are in `chaos.rs`.

use super::Sim;
use crate::address::Address;
use crate::datagram::Datagrams;
use crate::driver::{Driver, Names, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket, Then};
use crate::output::Output;
use crate::time::Tick;
use crate::token::{Kind, Token};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

macro_rules! breaks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A way to break a worker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Break { $($(#[$doc])* $name,)* }

        impl Break {
            /// Every one.
            pub const ALL: &'static [Break] = &[$(Break::$name,)*];
        }
    };
}

breaks! {
    // What a worker takes from its events.
    /// A completion for an earlier tenant of a slot reaches whoever has it now.
    GenerationUnchecked,
    /// What one connection received reaches another one.
    Misdelivered,
    /// A worker looks at what a turn brought from the back.
    EventsReversed,
    /// A receive without `more` is taken for one that goes on.
    MoreIgnored,
    /// A receive or send that is to be tried again is taken for a failure of the connection.
    AgainFails,
    /// The end of a peer's stream is overlooked.
    EofForgotten,
    /// What a short send left is not sent.
    ShortSendDropped,
    /// Of what a send took, a byte is sent again.
    SentTwice,
    // What it submits.
    /// A receive buffer is not returned.
    BufferForgotten,
    /// A connection that found no buffer is not armed again.
    StarvedForgotten,
    /// A second receive is submitted while one is in flight.
    ReceivesOverlap,
    /// A second send is submitted while one is in flight.
    SendsOverlap,
    /// A send that something waits for is submitted as one that nobody waits for.
    RestTooSoon,
    /// Accepting does not start again after it was paused, or descriptors ran out.
    AcceptNotResumed,
    /// A listener that is to be closed goes on accepting.
    AcceptGoesOn,
    /// The bell is watched once only.
    BellForgotten,
    /// A datagram socket receives once only.
    DatagramsForgotten,
    /// A session that is full goes on receiving.
    PauseForgotten,
    /// What is in flight on a closing connection is not cancelled.
    CancelForgotten,
    /// A socket is closed while the kernel still uses it.
    ClosedTooSoon,
    /// A socket is not closed.
    LeftOpen,
    /// The peer is not told that nothing more comes.
    ShutdownForgotten,
    /// A connection that ends well is reset.
    ResetUnasked,
    /// A connection whose session aborted ends well.
    ResetForgotten,
    // What it asks.
    /// The reset of a session that aborts overtakes what it wrote before.
    ResetTooSoon,
    /// A peer that takes no output is waited for without end.
    StallUntimed,
    /// No deadline is ever reached.
    TimeStandsStill,
    // What its sessions are called with, and what they answer.
    /// What a protocol did not consume is lost.
    InputTailDropped,
    /// A session is not told that its peer ended.
    EndUntold,
    /// A session that pauses is not told that its peer ended.
    EndHidden,
    /// A session that pauses is given what comes all the same.
    HoldForgotten,
    /// A session whose output was above high water is never told that there is room.
    HeldForever,
    /// A session is not called when its deadline has passed.
    TimeoutForgotten,
    /// A session is not called when its waker was used.
    WakeForgotten,
    /// A session that paused stays paused.
    ResumeForgotten,
    /// A session that closed is served on: what its peer sends after the last request is answered.
    AnsweredAfterClose,
    /// A session that has ended its output, and reads on, is closed.
    HalfCloseEnds,
    /// A session that ends its output takes back what it wrote before.
    LastTakesBack,
    /// A session that aborts takes back what it wrote before.
    AbortTakesBack,
}

/// What peers seem to have left to take at first, where it seems to shrink with every question; and by how much: more than any
/// least rate asks for.
const SHRINK_FROM_BYTES: usize = 1 << 31;
const SHRINK_BYTES: usize = 1 << 16;

/// The simulated driver, and what breaks its worker, if anything does.
pub(crate) struct Breaking {
    pub(crate) sim: Sim,
    broken: Option<Broken>,
}

struct Broken {
    how: Break,
    started: Tick,
    /// The newest generation in each slot.
    tenants: BTreeMap<u32, u32>,
    /// Receives that are in flight.
    receives: BTreeSet<Token>,
    /// Operations that ended in the way that this break waits for, or were submitted once.
    marked: BTreeSet<Token>,
    /// Operations that the worker takes for submitted, and nobody runs.
    lost: Vec<Token>,
    /// What the peers seem to have left to take.
    shrinking: Cell<usize>,
}

impl Breaking {
    pub(crate) fn new(sim: Sim) -> Breaking {
        Breaking { sim, broken: None }
    }

    /// From now on the worker is broken.
    pub(crate) fn break_by(&mut self, how: Break) {
        self.broken = Some(Broken {
            how,
            started: self.sim.now(),
            tenants: BTreeMap::new(),
            receives: BTreeSet::new(),
            marked: BTreeSet::new(),
            lost: Vec::new(),
            shrinking: Cell::new(SHRINK_FROM_BYTES),
        });
    }

    /// The token of every operation whose last event is still to come, sorted. What was lost counts: to compare worker and
    /// driver would show at once that it is missing, and this way only its consequences can.
    pub(crate) fn in_flight(&self) -> Vec<Token> {
        let mut all = self.sim.in_flight();
        if let Some(broken) = &self.broken {
            all.extend(&broken.lost);
            all.sort_unstable();
        }
        all
    }
}

impl Driver for Breaking {
    // Inlined, so that instruction counts of the worker hardly see this device.
    #[inline(always)]
    fn submit(&mut self, op: Op) {
        match &mut self.broken {
            None => self.sim.submit(op),
            Some(broken) => broken.submit(op, &mut self.sim),
        }
    }

    #[inline(always)]
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Errno> {
        self.sim.turn(wait, events)?;
        if let Some(broken) = &mut self.broken {
            broken.tell(events);
        }
        Ok(())
    }

    #[inline(always)]
    fn is_behind(&mut self) -> bool {
        self.sim.is_behind()
    }

    fn stream_socket(&mut self, address: &Address, from: Option<IpAddr>) -> Result<Socket, Errno> {
        self.sim.stream_socket(address, from)
    }

    fn recv_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<usize, Errno> {
        self.sim.recv_datagrams(socket, batch)
    }

    fn send_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        self.sim.send_datagrams(socket, batch)
    }

    fn set_pipes_max(&mut self, pipes: usize) {
        self.sim.set_pipes_max(pipes);
    }

    fn piped_bytes(&self, from: Socket) -> usize {
        self.sim.piped_bytes(from)
    }

    fn now(&self) -> Tick {
        match &self.broken {
            Some(broken) if broken.how == Break::TimeStandsStill => broken.started,
            _ => self.sim.now(),
        }
    }

    fn since_epoch(&self) -> Duration {
        self.sim.since_epoch()
    }
}

impl Names for Breaking {
    fn peer(&self, socket: Socket) -> Option<Address> {
        self.sim.peer(socket)
    }

    fn local(&self, socket: Socket) -> Option<Address> {
        self.sim.local(socket)
    }

    fn unacknowledged_bytes(&self, socket: Socket) -> usize {
        match &self.broken {
            Some(broken) if broken.how == Break::ResetTooSoon => 0,
            Some(broken) if broken.how == Break::StallUntimed => {
                broken.shrinking.update(|bytes| bytes.saturating_sub(SHRINK_BYTES));
                broken.shrinking.get()
            }
            _ => self.sim.unacknowledged_bytes(socket),
        }
    }

    fn flow_socket(&self, peer: SocketAddr) -> Result<Socket, Errno> {
        self.sim.flow_socket(peer)
    }
}

impl Broken {
    #[cold]
    #[inline(never)]
    fn submit(&mut self, op: Op, sim: &mut Sim) {
        if let Op::Recv { token, .. } | Op::Send { token, .. } = &op {
            self.tenants.insert(token.index(), token.generation());
        }
        if let Op::Recv { token, .. } = &op {
            self.receives.insert(*token);
        }
        match (self.how, op) {
            (Break::BufferForgotten, Op::Provide(_)) => {}
            (Break::StarvedForgotten, Op::Recv { token, .. })
            | (Break::AcceptNotResumed, Op::Accept { token, .. })
                if self.marked.contains(&token) =>
            {
                self.lost.push(token);
            }
            (Break::BellForgotten, Op::Watch { token, .. })
            | (Break::DatagramsForgotten, Op::AwaitDatagrams { token, .. })
                if !self.marked.insert(token) =>
            {
                self.lost.push(token);
            }
            (Break::ReceivesOverlap, Op::Recv { token, socket, turn_bytes_max, is_limited }) => {
                sim.submit(Op::Recv { token, socket, turn_bytes_max, is_limited });
                sim.submit(Op::Recv { token, socket, turn_bytes_max, is_limited });
            }
            (Break::SendsOverlap, Op::Send { token, socket, output, then }) => {
                let mut copy = Box::<Output>::default();
                output.for_each(|piece| copy.buffer().extend_from_slice(piece));
                sim.submit(Op::Send { token, socket, output, then });
                sim.submit(Op::Send { token, socket, output: copy, then });
            }
            (Break::RestTooSoon, Op::Send { token, socket, output, then: Then::GoOn }) => {
                sim.submit(Op::Send { token, socket, output, then: Then::Rest });
            }
            (Break::AcceptGoesOn, Op::Cancel { target, .. }) if target.kind() == Kind::Accept => {}
            (Break::CancelForgotten, Op::CancelAll { .. }) => {}
            (Break::ClosedTooSoon, Op::CancelAll { socket }) => {
                sim.submit(Op::Close { socket, reset: false });
            }
            (Break::LeftOpen, Op::Close { .. }) => {}
            (Break::ShutdownForgotten, Op::Shutdown { .. }) => {}
            (Break::ResetUnasked, Op::Close { socket, .. }) => sim.submit(Op::Close { socket, reset: true }),
            (Break::ResetForgotten, Op::Close { socket, .. }) => {
                sim.submit(Op::Close { socket, reset: false })
            }
            (Break::PauseForgotten, Op::Cancel { target, .. }) if target.kind() == Kind::Recv => {}
            (_, op) => sim.submit(op),
        }
    }

    /// Changes what a turn has brought.
    fn tell(&mut self, events: &mut Vec<Event>) {
        match self.how {
            Break::EventsReversed => events.reverse(),
            Break::Misdelivered => misdeliver(events),
            _ => events.retain_mut(|event| self.let_through(event)),
        }
    }

    /// Changes one event; `false` if the worker is not to see it.
    fn let_through(&mut self, event: &mut Event) -> bool {
        let token = event.token;
        // A completion may also be stale.
        let is_last = !event.more && self.receives.remove(&token);
        match (self.how, token.kind(), event.result, &event.payload) {
            (Break::GenerationUnchecked, Kind::Recv | Kind::Send, ..) => {
                if let Some(tenant) = self.tenants.get(&token.index()) {
                    event.token = Token::new(token.kind(), *tenant, token.index());
                }
            }
            (Break::MoreIgnored, Kind::Recv, _, Payload::Block(_)) if is_last => {
                event.more = true;
                self.lost.push(token);
            }
            (Break::AgainFails, Kind::Recv | Kind::Send, Err(Errno::EAGAIN), _) => {
                event.result = Err(Errno::EPIPE);
            }
            (Break::EofForgotten, Kind::Recv, Ok(0), Payload::None) if is_last => {
                self.lost.push(token);
                return false;
            }
            (Break::ShortSendDropped, Kind::Send, Ok(_), Payload::Output(output)) => {
                event.result = Ok(output.len() as u32);
            }
            (Break::SentTwice, Kind::Send, Ok(2..), _) => event.result = event.result.map(|bytes| bytes - 1),
            (Break::StarvedForgotten, Kind::Recv, Err(Errno::ENOBUFS), _)
            | (Break::AcceptNotResumed, Kind::Accept, Err(Errno::ECANCELED | Errno::EMFILE), _) => {
                self.marked.insert(token);
            }
            _ => {}
        }
        true
    }
}

/// Two connections get each other's bytes.
fn misdeliver(events: &mut [Event]) {
    let mut received = events.iter_mut().filter(|event| matches!(event.payload, Payload::Block(_)));
    if let Some(one) = received.next()
        && let Some(other) = received.find(|other| other.token != one.token)
    {
        std::mem::swap(&mut one.payload, &mut other.payload);
        std::mem::swap(&mut one.result, &mut other.result);
    }
}
