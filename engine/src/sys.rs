//! System calls that the crates do not wrap, or not without a second copy of state. With the ring driver and the
//! pool this is the only place with unsafe code; each block says why it is sound.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod affinity;
pub(crate) mod datagrams;
pub(crate) mod interface;
pub(crate) mod pipe;
#[cfg(feature = "tokio")]
mod readiness;
pub(crate) mod ring;
#[cfg(test)]
pub(crate) mod signal;

#[cfg(feature = "tokio")]
pub(crate) use affinity::Affinity;
#[cfg(feature = "tokio")]
pub(crate) use readiness::{Readiness, duplicate, event_counter};

use crate::address::Address;
use crate::event::{Errno, Event, Payload, Socket, Then};
use crate::output::Output;
use crate::time::Tick;
use crate::token::Token;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::retry_on_intr;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockFilter;
use std::fs::{File, OpenOptions};
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Turns the answer of a system call into a result.
fn check(answer: isize) -> Result<usize, Errno> {
    if answer >= 0 { Ok(answer as usize) } else { Err(last_errno()) }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno(errno.raw_os_error())
    }
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io(&std::io::Error::last_os_error())
}

/// The monotonic clock, in nanoseconds since its first use in this process.
#[expect(clippy::disallowed_methods, reason = "the clock that drivers read")]
pub(crate) fn clock() -> Tick {
    static START: OnceLock<Instant> = OnceLock::new();
    Tick(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "read once a second, for dates")]
pub(crate) fn since_epoch() -> Duration {
    // A clock before 1970 is a broken clock: dates are then 1970, nothing else suffers.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Receives what is there; never waits.
pub(crate) fn recv(socket: Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    Ok(net::recv(borrow(&socket), buffer, RecvFlags::DONTWAIT)?.0)
}

/// Receives what is there, into the first buffer first; never waits.
pub(crate) fn recv_vectored(socket: Socket, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
    let mut control = RecvAncillaryBuffer::default();
    Ok(net::recvmsg(borrow(&socket), buffers, &mut control, RecvFlags::DONTWAIT)?.bytes)
}

/// Sends from the front of the output; never waits, never raises SIGPIPE.
pub(crate) fn send(socket: Socket, output: &Output, then: Then) -> Result<usize, Errno> {
    let socket = borrow(&socket);
    let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // The end of the output waits for the end of the stream (send(2)).
    flags.set(SendFlags::MORE, then == Then::End);
    if let Some(bytes) = output.as_single() {
        return Ok(retry_on_intr(|| net::send(socket, bytes, flags))?);
    }
    let mut slices = Vec::with_capacity(crate::output::SLICES_MAX);
    output.slices(&mut slices);
    Ok(retry_on_intr(|| net::sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags))?)
}

/// Takes one connection off the queue of a listener that does not wait (`set_nonblocking`); the connection
/// itself waits or not, as `blocking` says.
pub(crate) fn accept(listener: Socket, blocking: bool) -> Result<Socket, Errno> {
    let wait = if blocking { SocketFlags::empty() } else { SocketFlags::NONBLOCK };
    let accepted = net::accept_with(borrow(&listener), SocketFlags::CLOEXEC | wait)?;
    Ok(Socket(accepted.into_raw_fd()))
}

/// A stream socket of the address's family: small segments leave at once, as on accepted connections.
pub(crate) fn stream_socket(
    address: &Address,
    from: Option<IpAddr>,
    blocking: bool,
) -> Result<Socket, Errno> {
    let domain = match address {
        Address::Ip(ip) => socket2::Domain::for_address(*ip),
        Address::Unix(_) | Address::Abstract(_) => socket2::Domain::UNIX,
    };
    let kind = if blocking { socket2::Type::STREAM } else { socket2::Type::STREAM.nonblocking() };
    let made = socket2::Socket::new(domain, kind, None).and_then(|socket| {
        if domain != socket2::Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
            // As listeners have it: a receive would stop before urgent data (RFC 6093).
            socket.set_out_of_band_inline(true)?;
        }
        if let Some(from) = from {
            // The port is chosen when it connects, when the kernel knows which ones it can use twice (ip(7)).
            set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        Ok(Socket(socket.into_raw_fd()))
    });
    made.map_err(|error| Errno::from_io(&error))
}

/// The address as the kernel reads it. A Unix name that is too long gives what connect(2) would: EINVAL. So does a path with a
/// zero byte, which would end there, or be an abstract name.
pub(crate) fn to_kernel(address: &Address) -> Result<socket2::SockAddr, Errno> {
    let unix = match address {
        Address::Ip(ip) => return Ok(socket2::SockAddr::from(*ip)),
        Address::Unix(path) if path.as_os_str().as_bytes().contains(&0) => return Err(Errno::EINVAL),
        Address::Unix(path) => socket2::SockAddr::unix(path),
        // A leading zero byte is what makes a name abstract (unix(7)).
        Address::Abstract(name) => {
            socket2::SockAddr::unix(std::ffi::OsStr::from_bytes(&[b"\0", &name[..]].concat()))
        }
    };
    unix.map_err(|_| Errno::EINVAL)
}

/// Starts to connect a socket that does not wait. `EINPROGRESS` when it goes on.
pub(crate) fn connect(socket: Socket, address: &Address) -> Result<(), Errno> {
    let address = to_kernel(address)?;
    with_ref(socket, |socket| socket.connect(&address)).map_err(|error| Errno::from_io(&error))
}

/// What became of connecting; `None` while it goes on (connect(2), EINPROGRESS).
pub(crate) fn connect_result(socket: Socket) -> Option<Result<u32, Errno>> {
    with_ref(socket, |socket| match socket.take_error() {
        Ok(Some(error)) | Err(error) => Some(Err(Errno::from_io(&error))),
        Ok(None) => socket.peer_addr().is_ok().then_some(Ok(0)),
    })
}

/// Keeps new connections out of the queue of a listener that is to be closed: closing it would reset them. A client
/// whose SYN is dropped sends it again after a second, and learns then that nobody listens, or is taken by another
/// server. Handshakes that are under way go on.
fn close_the_door(listener: Socket) {
    // Of a TCP segment that comes to a listener, the filter sees the header first (tcp_filter in net/ipv4/tcp_ipv4.c):
    // drop it where its flags, at offset 13, are SYN without ACK. (Connections inherit the filter, and never get such a one.)
    const KEEP: u32 = u32::MAX;
    const DROP: u32 = 0;
    let step = |code: u32, if_true, if_false, value| SockFilter::new(code as u16, if_true, if_false, value);
    let program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x02),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, DROP),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, KEEP),
    ];
    with_ref(listener, |socket| {
        // Neither is known to fail; without them a connection that comes now is reset, as it was before they were there.
        let _ = match socket.domain() {
            // A Unix listener refuses at once; what is in its queue stays (unix_stream_connect in net/unix/af_unix.c).
            Ok(socket2::Domain::UNIX) => socket.shutdown(std::net::Shutdown::Read),
            _ => socket.attach_filter(&program),
        };
    });
}

/// Takes everything off the queue of a listener that is to be closed, as events of an `Op::AcceptRest`.
pub(crate) fn accept_rest(listener: Socket, token: Token, blocking: bool, events: &mut Vec<Event>) {
    close_the_door(listener);
    set_nonblocking(listener, true);
    loop {
        let (result, more) = match accept(listener, blocking) {
            Ok(socket) => (Ok(socket.0 as u32), true),
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            // EINVAL is what a Unix listener says that was shut and is empty.
            Err(Errno::EAGAIN | Errno::EINVAL) => (Err(Errno::ECANCELED), false),
            Err(errno) => (Err(errno), false),
        };
        events.push(Event { token, result, more, payload: Payload::None });
        if !more {
            return;
        }
    }
}

/// Ends our sending side. A peer that is gone already is no error.
pub(crate) fn shutdown(socket: Socket) {
    let _ = net::shutdown(borrow(&socket), Shutdown::Write);
}

/// What the peer has not acknowledged and still may; of a Unix socket, what it has not read. Zero where nothing can be found out.
pub(crate) fn unacknowledged_bytes(socket: Socket) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, the same number as SIOCOUTQ (tcp(7)), writes one int, and the pointer is that of a local one.
    let answer = unsafe { libc::ioctl(socket.0, libc::TIOCOUTQ, &raw mut bytes) };
    let bytes = if answer == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 };
    // After a reset the kernel still counts what was on its way then, though it has dropped it.
    if bytes > 0 && peer(socket).is_none() { 0 } else { bytes }
}

/// Makes the coming close(2) drop unsent bytes and reset the connection.
pub(crate) fn reset_on_close(socket: Socket) {
    with_ref(socket, |socket| {
        // Fails only where there is no connection to reset, such as on a Unix socket.
        let _ = socket.set_linger(Some(Duration::ZERO));
    });
}

/// Closes a socket that this driver owns.
pub(crate) fn close(socket: Socket) {
    // SAFETY: the worker gives each socket to `Op::Close` once, as its last operation; nobody else owns it.
    unsafe { rustix::io::close(socket.0) };
}

/// Whether calls on the socket return instead of waiting.
pub(crate) fn set_nonblocking(socket: Socket, on: bool) {
    // Can only fail on a bad descriptor, which the next operation reports.
    with_ref(socket, |socket| drop(socket.set_nonblocking(on)));
}

pub(crate) fn peer(socket: Socket) -> Option<Address> {
    with_ref(socket, |socket| socket.peer_addr().ok()).and_then(|address| to_address(&address))
}

pub(crate) fn local(socket: Socket) -> Option<Address> {
    with_ref(socket, |socket| socket.local_addr().ok()).and_then(|address| to_address(&address))
}

fn to_address(address: &socket2::SockAddr) -> Option<Address> {
    if let Some(address) = address.as_socket() {
        return Some(Address::Ip(address));
    }
    if let Some(name) = address.as_abstract_namespace() {
        return Some(Address::Abstract(name.to_owned()));
    }
    address.is_unix().then(|| Address::Unix(address.as_pathname().map(Into::into).unwrap_or_default()))
}

/// The number of a group, which may also be given as one.
pub(crate) fn group_id(group: &str) -> std::io::Result<u32> {
    // The number -1 means "as it is" to chown(2).
    if let Some(id) = group.parse().ok().filter(|id| *id != u32::MAX) {
        return Ok(id);
    }
    match nix::unistd::Group::from_name(group)? {
        Some(found) => Ok(found.gid.as_raw()),
        None => {
            let problem = format!("there is no group {group:?} here; `getent group` lists them");
            Err(std::io::Error::new(std::io::ErrorKind::NotFound, problem))
        }
    }
}

/// Opens a folder for locking it.
pub(crate) fn open_folder(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// Opens whatever is at a path, not what a link there points to, only to name it (O_PATH, open(2)).
pub(crate) fn open_name(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

fn with_ref<R>(socket: Socket, call: impl FnOnce(&socket2::SockRef<'_>) -> R) -> R {
    call(&socket2::SockRef::from(&borrow(&socket)))
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the worker names only sockets it has not closed yet, so the descriptor is open during the call.
    unsafe { BorrowedFd::borrow_raw(socket.0) }
}

/// Sets an integer socket option that socket2 has no method for.
pub(crate) fn set_option(socket: &socket2::Socket, level: i32, name: i32, value: i32) -> std::io::Result<()> {
    let size = std::mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: pointer and size are those of a local i32.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Sets the address options of a listener that socket2 lacks.
pub(crate) fn set_defer_accept(socket: &socket2::Socket, after: Duration) -> std::io::Result<()> {
    let secs = i32::try_from(after.as_secs().max(1)).unwrap_or(i32::MAX);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, secs)
}

/// Lets the kernel queue requests that came with the SYN.
pub(crate) fn set_fast_open(socket: &socket2::Socket, pending: u32) -> std::io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, i32::try_from(pending).unwrap_or(i32::MAX))
}

/// The kernel's id of the calling thread.
pub(crate) fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// The tokens of the sockets whose connection is gone (POLLHUP, POLLERR; poll(2)). Never waits.
pub(crate) fn hung_up(sockets: &[(Token, Socket)]) -> Vec<Token> {
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| borrow(socket)).collect();
    // Both are told without being asked for. After a failure nothing is known, and nobody is gone.
    let mut asked: Vec<PollFd<'_>> = borrowed.iter().map(|fd| PollFd::new(fd, PollFlags::empty())).collect();
    let _ = poll(&mut asked, Some(&Timespec::default()));
    let gone = asked.iter().zip(sockets).filter(|(fd, _)| !fd.revents().is_empty());
    gone.map(|(_, (token, _))| *token).collect()
}

/// The soft limit of open descriptors.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    raised.map_or(current, |()| maximum).unwrap_or(u64::MAX)
}

/// An event counter (eventfd(2)): any thread raises it, one waits for it.
pub(crate) struct EventCounter(OwnedFd);

impl EventCounter {
    pub(crate) fn new() -> std::io::Result<EventCounter> {
        Ok(EventCounter(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn socket(&self) -> Socket {
        Socket(self.0.as_raw_fd())
    }

    /// Wakes whoever waits. Cannot overflow: the bell raises it once for each time it is cleared.
    pub(crate) fn raise(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    #[cfg(test)]
    pub(crate) fn wait(&self) {
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None);
        clear_counter(self.socket());
    }
}

/// Whether an event counter is raised.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn is_counter_raised(socket: Socket) -> bool {
    let counter = borrow(&socket);
    poll(&mut [PollFd::new(&counter, PollFlags::IN)], Some(&Timespec::default())) == Ok(1)
}

/// Takes an event counter back to zero.
pub(crate) fn clear_counter(socket: Socket) {
    let _ = rustix::io::read(borrow(&socket), &mut [0u8; 8]);
}
