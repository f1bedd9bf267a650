//! The seam between the loop and the kernel: a driver speaks in completions.
//!
//! It lies below the loop and is faithful to the kernel: short results, `more`, errno and late completions
//! stay visible. A driver translates and holds no policy; re-arming, retry, draining, generations and flow
//! control live once, in the worker. `suite.rs` is the contract that all drivers pass.

pub mod poll;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod splicing;
#[cfg(test)]
mod suite;
pub mod uring;

use crate::address::Address;
use crate::datagram::Datagrams;
use crate::event::{Errno, Event, Op, Socket};
pub use crate::seam::names::Names;
use crate::sys;
use crate::time::Tick;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a turn may wait for the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Poll,
    /// Until this time.
    Until(Tick),
    /// Until there is one.
    Forever,
}

/// What a driver needs besides, where somebody else waits for it: the event loop of tokio.
#[cfg(feature = "tokio")]
pub trait Hosted: Driver {
    /// A descriptor of its own that becomes readable, with an edge (epoll(7)), when a parked driver has something to bring that the last
    /// turn did not. Ask once.
    fn readiness(&mut self) -> std::io::Result<std::os::fd::OwnedFd>;

    /// Whether nothing is left to submit or to tell.
    fn is_quiet(&mut self) -> bool;

    /// The worker is about to wait, with a driver that is quiet: from now on what comes makes an edge. `false` if something has come
    /// already, which made none.
    fn park(&mut self) -> bool;

    /// Turns follow: nobody needs edges until the next `park`.
    fn unpark(&mut self);

    /// The time now; reads the clock.
    fn clock(&self) -> Tick;
}

/// A driver whose sockets are the kernel's, which answers for them.
trait OfKernel {}

impl<D: OfKernel> Names for D {
    fn peer(&self, socket: Socket) -> Option<Address> {
        sys::peer(socket)
    }

    fn local(&self, socket: Socket) -> Option<Address> {
        sys::local(socket)
    }

    fn unacknowledged_bytes(&self, socket: Socket) -> usize {
        sys::unacknowledged_bytes(socket)
    }

    fn flow_socket(&self, peer: SocketAddr) -> Result<Socket, Errno> {
        sys::datagrams::flow_socket(peer)
    }
}

/// Moves bytes between sockets and buffers.
pub trait Driver: Names {
    /// Queues an operation. Never blocks, never fails: failures are events.
    fn submit(&mut self, op: Op);

    /// Starts what was queued, waits for the first event and appends all there are. Comes back without
    /// events when the wait is over or a signal came. An error means that the driver is broken.
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> Result<(), Errno>;

    /// Whether more has happened than the last turn told of.
    fn is_behind(&mut self) -> bool {
        false
    }

    /// A stream socket for connecting to `address`, with TCP_NODELAY where it applies, from this address of ours if one
    /// is given. A plain call, which never waits.
    fn stream_socket(&mut self, address: &Address, from: Option<IpAddr>) -> Result<Socket, Errno>;

    /// Receives a batch of what has arrived at a datagram socket; says how many entries that is. `EAGAIN` where nothing has, or else
    /// what became of an earlier datagram of a connected one. A plain call, which never waits.
    fn recv_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<usize, Errno>;

    /// Sends what is left of a batch, and passes over what the kernel refuses. `EAGAIN` where it takes no more for now. A plain call,
    /// which never waits.
    fn send_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno>;

    /// How many pipes there may be at once for [`Op::Splice`]. None before this was called.
    fn set_pipes_max(&mut self, pipes: usize);

    /// What an [`Op::Splice`] has received on this socket and not passed on yet.
    fn piped_bytes(&self, from: Socket) -> usize;

    /// The time when the last turn came back. Reads no clock.
    fn now(&self) -> Tick;

    /// Time since 1970, read from the clock.
    fn since_epoch(&self) -> Duration;
}
