//! What a protocol asks of its worker outside the calls of one session: outbound connections, wake-ups of other
//! sessions, a timer of its own. Plain data: the worker carries the requests out (`worker/outbound.rs`).
//!
//! A request made during a call is carried out before the worker waits next, never inside the call: so calls do
//! not nest.

use crate::address::Address;
use crate::bell::{ConnId, Waker};
use crate::event::Errno;
use crate::time::Tick;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// A protocol's handle on its worker: [`Protocol::start`](crate::Protocol::start) hands it over, clones are cheap,
/// and it can be used in every call of the protocol. It never leaves the worker's thread.
#[derive(Clone)]
pub struct Dialer {
    requests: Requests,
    /// Its number is given to another protocol only when nobody has this any more.
    service: Rc<u16>,
    waker: Waker,
}

impl Dialer {
    pub(crate) fn new(requests: Requests, service: Rc<u16>, waker: Waker) -> Dialer {
        Dialer { requests, service, waker }
    }

    /// Connects to `address`. The answer is a call of this protocol with the same `tag`: `connected`, or `refused`
    /// with the reason. Attempts in progress count as connections, and end after `Config::connect_timeout`.
    pub fn connect(&self, address: &Address, tag: u64) {
        self.requests.connect(*self.service, address, To { tag, ..To::default() });
    }

    /// The same with a time of its own.
    pub fn connect_within(&self, timeout: Duration, address: &Address, tag: u64) {
        self.requests.connect(*self.service, address, To { tag, timeout: Some(timeout), from: None });
    }

    /// The same from one of our addresses: each has its own ports, of which a target can be reached from some 28,000.
    pub fn connect_from(&self, from: IpAddr, address: &Address, tag: u64) {
        self.requests.connect(*self.service, address, To { tag, from: Some(from), timeout: None });
    }

    /// Gives up one attempt of this protocol with this tag, the one that was begun last: `refused` follows, with [`Refusal::Cancelled`]
    /// unless it failed by itself. What `connected` was called for is no attempt any more.
    pub fn cancel(&self, tag: u64) {
        self.requests.push(Request::Cancel(*self.service, tag));
    }

    /// Calls [`Protocol::wake`](crate::Protocol::wake) of a connection of this worker, if it is still there. A
    /// [`Waker`] does it from any thread.
    pub fn wake(&self, conn: ConnId) {
        self.waker.wake_neighbour(conn);
    }

    /// The time of this turn, also where there is no [`Io`](crate::Io) to ask: in [`Protocol::refused`](crate::Protocol::refused) and
    /// [`Protocol::rung`](crate::Protocol::rung).
    pub fn now(&self) -> Tick {
        self.requests.0.now.get()
    }

    /// The number of this turn: what is sent in one to a peer whose buffers have room has left in the next. It begins again some time.
    pub fn turn(&self) -> u32 {
        self.requests.0.turn.get()
    }

    /// A handle with which any thread can have [`Protocol::rung`](crate::Protocol::rung) called.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Sets the protocol's one timer, or clears it: [`Protocol::tick`](crate::Protocol::tick) is called once, not before
    /// `at`. Unlike the deadlines of sessions it is exact: io_uring waits to the microsecond, epoll to the
    /// millisecond.
    pub fn set_timer(&self, at: Option<Tick>) {
        self.requests.push(Request::Timer(*self.service, at.unwrap_or(Tick::NEVER)));
    }

    /// Declares how much memory the protocol keeps beside its sessions, of which [`Io::hold`](crate::Io::hold) says it: the worker's budget
    /// (`Config::memory_bytes_max`) counts it until it says something else.
    pub fn hold(&self, bytes: usize) {
        self.requests.push(Request::Hold(*self.service, bytes));
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({})", self.service)
    }
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The kernel's answer: nobody listens there, no route, out of descriptors or ports.
    #[error("{0}")]
    Failed(Errno),
    /// No answer within `Config::connect_timeout`, or the attempt's own time.
    #[error("no answer within the connect timeout")]
    TimedOut,
    /// The protocol wants it no longer ([`Dialer::cancel`]).
    #[error("it was cancelled")]
    Cancelled,
    /// The worker has `Config::connections_max` connections already.
    #[error("the limit of open connections is reached")]
    Limit,
    /// The engine stops.
    #[error("the engine stops")]
    Stopped,
    /// The connection was there, and a layer could not secure it: a handshake that failed, a certificate that is not trusted.
    #[error("it could not be secured")]
    Unsecured,
}

/// One thing asked for.
#[derive(Debug)]
pub(crate) enum Request {
    Connect(u16, Box<Address>, To),
    Cancel(u16, u64),
    Timer(u16, Tick),
    Hold(u16, usize),
}

/// How a connection is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct To {
    pub(crate) tag: u64,
    pub(crate) from: Option<IpAddr>,
    /// `Config::connect_timeout` unless it is set.
    pub(crate) timeout: Option<Duration>,
}

/// What was asked since the worker last looked. One list a worker, used by its thread alone.
#[derive(Clone, Default)]
pub(crate) struct Requests(Rc<Desk>);

#[derive(Default)]
struct Desk {
    list: RefCell<Vec<Request>>,
    /// The time of the turn.
    now: Cell<Tick>,
    turn: Cell<u32>,
}

impl Requests {
    pub(crate) fn connect(&self, service: u16, address: &Address, to: To) {
        self.push(Request::Connect(service, Box::new(address.clone()), to));
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.list.borrow().is_empty()
    }

    /// Exchanges the list with an empty one.
    pub(crate) fn swap(&self, list: &mut Vec<Request>) {
        std::mem::swap(&mut *self.0.list.borrow_mut(), list);
    }

    /// A turn begins.
    #[inline]
    pub(crate) fn set_now(&self, now: Tick) {
        self.0.now.set(now);
        self.0.turn.set(self.0.turn.get().wrapping_add(1));
    }

    fn push(&self, request: Request) {
        self.0.list.borrow_mut().push(request);
    }
}
