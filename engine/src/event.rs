//! What a worker asks of a driver ([`Op`]) and what it is told ([`Event`]): plain data, no behaviour.
//!
//! The vocabulary is the kernel's: results can be short, `more` says whether the operation goes on, errors
//! are errno numbers, and completions may come after nobody wants them. Memory moves into an operation
//! and comes back in its event; in between nobody can name it.

use crate::address::Address;
use crate::output::Output;
use crate::pool::Block;
use crate::token::Token;

/// A socket of a driver: a file descriptor, or a number of the simulator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub i32);

/// An operation. Submitting queues it; it never blocks and never fails: failures are events.
#[derive(Debug)]
pub enum Op {
    /// Accept connections until cancelled or failed. Events: `Ok` with the new socket's number.
    Accept {
        /// Comes back in the events.
        token: Token,
        /// A listening socket.
        listener: Socket,
    },
    /// Accept what the kernel has queued by now, without waiting: for a listener that is to be closed. Events as
    /// of `Accept`; the last one is `ECANCELED` once the queue is empty, else the failure.
    AcceptRest {
        /// Comes back in the events.
        token: Token,
        /// A listening socket on which nothing is in flight.
        listener: Socket,
    },
    /// Connect a socket that [`Driver::stream_socket`](crate::driver::Driver::stream_socket) made. One event, `Ok(0)` or
    /// the failure. A Unix listener whose queue is full may mean `EAGAIN` at once, or a wait.
    Connect {
        /// Comes back in the event.
        token: Token,
        /// A stream socket of the address's family, not connected.
        socket: Socket,
        /// Where to. Boxed: connecting is rare, and operations are moved often.
        address: Box<Address>,
    },
    /// Receive until end, cancelled or failed, into buffers of the driver's pool. Events carry a block;
    /// zero without a block is the end of the stream; `ENOBUFS` says that no buffer was free.
    Recv {
        /// Comes back in the events.
        token: Token,
        /// A connected socket.
        socket: Socket,
        /// At most about this many bytes in one turn, so that one chatty peer cannot starve the rest.
        turn_bytes_max: u32,
        /// Not more than that and one buffer in any case; with so much it may be over. Otherwise io_uring brings up to 66 buffers in a
        /// turn, whatever is said above, which costs less. (It does so anyway before Linux 6.17.)
        is_limited: bool,
    },
    /// Send from the front of the output. One event, which brings the output back; it may be short.
    Send {
        /// Comes back in the event.
        token: Token,
        /// A connected socket.
        socket: Socket,
        /// Bytes to send, at least one.
        output: Box<Output>,
        /// What happens once it is sent.
        then: Then,
    },
    /// Pass what arrives on one socket on to another, unseen, until the stream ends, cancelled or failed. Events count what the other
    /// socket took. The last one brings what was received and could not be passed on any more; its result is zero at the end of the
    /// stream. `EPIPE` is always the other socket's failure, and `ENOBUFS` says that there is no pipe to be had, or that these
    /// sockets cannot do it.
    Splice {
        /// Comes back in the events.
        token: Token,
        /// A connected socket, on which nothing receives.
        from: Socket,
        /// A connected socket, on which nothing sends.
        to: Socket,
        /// At most so many bytes in one turn.
        turn_bytes_max: u32,
    },
    /// End the operation with this token. Has no event of its own: the operation's last one is the answer.
    Cancel {
        /// The token of the operation to end.
        target: Token,
        /// The socket it runs on; of `Splice`, where the bytes come from.
        socket: Socket,
    },
    /// End everything that runs on the socket; each operation still has its last event.
    CancelAll {
        /// The socket.
        socket: Socket,
    },
    /// Send no more: the peer sees the end of the stream. No event.
    Shutdown {
        /// A connected socket.
        socket: Socket,
    },
    /// Close the socket, on which nothing may be in flight. No event.
    Close {
        /// The socket.
        socket: Socket,
        /// Drop what is unsent and tell the peer with a reset, rather than in the kernel's own time.
        reset: bool,
    },
    /// Report once when the event counter (eventfd(2)) was raised, and clear it.
    Watch {
        /// Comes back in the event.
        token: Token,
        /// An event counter.
        socket: Socket,
    },
    /// Wait until datagrams, or an error, may have arrived at a datagram socket. One event, `Ok` or the reason why nobody waits any
    /// more. [`Driver::recv_datagrams`](crate::driver::Driver::recv_datagrams) brings them, if they are still there.
    AwaitDatagrams {
        /// Comes back in the event.
        token: Token,
        /// A datagram socket.
        socket: Socket,
    },
    /// Wait until a datagram socket that took no more may take some again. One event, as of `AwaitDatagrams`.
    AwaitRoom {
        /// Comes back in the event.
        token: Token,
        /// A datagram socket.
        socket: Socket,
    },
    /// Return a receive buffer.
    Provide(Block),
}

/// What follows a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing waits for it. A full success does not end a turn's wait: it is told when that turn comes back for another
    /// reason, or with the next one, which does not wait then. A full socket may be told with `EAGAIN` instead of waited for.
    Rest,
    /// Something waits for its completion.
    GoOn,
    /// The stream ends: once all of it is sent, `Shutdown` or `Close` follows. Until then the driver may keep the
    /// last bytes back, so that they and the end travel in one segment.
    End,
}

/// A completion.
#[derive(Debug)]
pub struct Event {
    /// The operation's token.
    pub token: Token,
    /// Bytes, a socket number or a count; or the errno.
    pub result: Result<u32, Errno>,
    /// Whether the operation goes on. Absent means over, whatever the result says.
    pub more: bool,
    /// The memory that comes back.
    pub payload: Payload,
}

/// The memory that comes back with an event.
#[derive(Debug)]
pub enum Payload {
    /// Nothing.
    None,
    /// Received bytes; return the block with [`Op::Provide`].
    Block(Block),
    /// The output of a send, or what a `Splice` did not pass on.
    Output(Box<Output>),
}

/// An error number of the kernel, positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// No buffer was free, or the kernel has no memory for the socket.
    pub const ENOBUFS: Errno = Errno(105);
    /// The operation was cancelled.
    pub const ECANCELED: Errno = Errno(125);
    /// The process is out of descriptors.
    pub const EMFILE: Errno = Errno(24);
    /// The system is out of descriptors.
    pub const ENFILE: Errno = Errno(23);
    /// The kernel is out of memory.
    pub const ENOMEM: Errno = Errno(12);
    /// A connection went away before it was accepted.
    pub const ECONNABORTED: Errno = Errno(103);
    /// The peer reset the connection.
    pub const ECONNRESET: Errno = Errno(104);
    /// The connection no longer takes output.
    pub const EPIPE: Errno = Errno(32);
    /// Interrupted by a signal.
    pub const EINTR: Errno = Errno(4);
    /// Connecting goes on.
    pub const EINPROGRESS: Errno = Errno(115);
    /// No answer in the kernel's time.
    pub const ETIMEDOUT: Errno = Errno(110);
    /// Nobody listens there.
    pub const ECONNREFUSED: Errno = Errno(111);
    /// Would block.
    pub const EAGAIN: Errno = Errno(11);
    /// Invalid argument.
    pub const EINVAL: Errno = Errno(22);
    /// Bad descriptor.
    pub const EBADF: Errno = Errno(9);
    /// Protocol error, from accept(2).
    pub const EPROTO: Errno = Errno(71);

    /// No way to the network.
    pub const ENETUNREACH: Errno = Errno(101);
    /// No way to the host.
    pub const EHOSTUNREACH: Errno = Errno(113);

    /// Whether it says something of the way to a datagram's peer, as ICMP and firewalls do (udp(7), icmp(7)), and not of the datagram.
    pub(crate) fn is_of_peer(self) -> bool {
        const ENETDOWN: Errno = Errno(100);
        const EHOSTDOWN: Errno = Errno(112);
        const EPERM: Errno = Errno(1);
        const EACCES: Errno = Errno(13);
        let known = [
            Errno::ECONNREFUSED,
            Errno::EHOSTUNREACH,
            Errno::ENETUNREACH,
            EHOSTDOWN,
            ENETDOWN,
            EPERM,
            EACCES,
        ];
        known.contains(&self)
    }

    /// The number an I/O error carries; `EIO` (5) where it carries none.
    pub fn from_io(error: &std::io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(5))
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}
