//! Sockets for all workers, bound and listening before any of them runs.

use crate::address::Address;
use crate::config::ListenOptions;
use crate::error::Error;
use crate::sys;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The sockets of one listener, one a worker, and the address they got.
pub(super) struct Bound {
    pub(super) address: Address,
    pub(super) sockets: Vec<Socket>,
    pub(super) unix_path: Option<UnixPath>,
}

/// The path of a Unix socket that we bound: removed when the value is dropped.
pub(super) struct UnixPath(PathBuf);

impl Drop for UnixPath {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds a stream listener for each worker.
pub(super) fn streams(address: &Address, options: &ListenOptions, workers: usize) -> Result<Bound, Error> {
    match address {
        Address::Ip(ip) => group(*ip, workers, Type::STREAM, |socket, step| {
            tcp_options(socket, ip, options, step)?;
            Ok(())
        })
        .and_then(|bound| listen_all(bound, options.backlog)),
        Address::Unix(path) => unix(path, options.backlog, workers),
        Address::Abstract(_) => {
            let source = io::ErrorKind::Unsupported.into();
            Err(Error::Listen { address: address.clone(), step: "listening on an abstract name", source })
        }
    }
}

/// Binds a datagram socket for each worker.
pub(super) fn datagrams(
    address: &Address,
    only_v6: bool,
    queue_bytes: usize,
    workers: usize,
) -> Result<Bound, Error> {
    let Address::Ip(ip) = address else {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        return Err(Error::Listen { address: address.clone(), step: "datagrams over a Unix socket", source });
    };
    group(*ip, workers, Type::DGRAM, |socket, step| {
        if ip.is_ipv6() {
            *step = "setting IPV6_V6ONLY";
            socket.set_only_v6(only_v6)?;
        }
        if ip.ip().to_canonical().is_unspecified() {
            *step = "setting IP_PKTINFO";
            sys::datagrams::enable_local(socket, ip.is_ipv6())?;
        }
        *step = "setting SO_RCVBUF";
        datagram_options(socket, queue_bytes)
    })
}

/// Binds a datagram socket that shares its port with nobody: with SO_REUSEPORT, port 0 could mean a taken one.
pub(super) fn own_datagrams(address: &Address, queue_bytes: usize) -> Result<Socket, Error> {
    let listen_error = |step| move |source| Error::Listen { address: address.clone(), step, source };
    let Address::Ip(ip) = address else {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        return Err(listen_error("datagrams over a Unix socket")(source));
    };
    let socket = Socket::new(Domain::for_address(*ip), Type::DGRAM, None);
    let socket = socket.map_err(listen_error("opening a socket"))?;
    socket.bind(&SockAddr::from(*ip)).map_err(listen_error("binding"))?;
    datagram_options(&socket, queue_bytes).map_err(listen_error("setting SO_RCVBUF"))?;
    Ok(socket)
}

fn datagram_options(socket: &Socket, queue_bytes: usize) -> io::Result<()> {
    // Without trains datagrams come one by one: slower and as correct.
    sys::datagrams::enable_trains(socket);
    if socket.recv_buffer_size()? < queue_bytes {
        socket.set_recv_buffer_size(queue_bytes)?;
    }
    Ok(())
}

type Prepare<'a> = &'a dyn Fn(&Socket, &mut &'static str) -> io::Result<()>;

fn group(
    ip: SocketAddr,
    workers: usize,
    kind: Type,
    prepare: impl Fn(&Socket, &mut &'static str) -> io::Result<()>,
) -> Result<Bound, Error> {
    let mut step = "opening a socket";
    bind_group(ip, workers, kind, &prepare, &mut step).map_err(|source| Error::Listen {
        address: Address::Ip(ip),
        step,
        source,
    })
}

/// The first socket takes the port, the others join it with SO_REUSEPORT.
fn bind_group(
    mut ip: SocketAddr,
    workers: usize,
    kind: Type,
    prepare: Prepare<'_>,
    step: &mut &'static str,
) -> io::Result<Bound> {
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        *step = "opening a socket";
        let socket = Socket::new(Domain::for_address(ip), kind, None)?;
        *step = "setting SO_REUSEPORT";
        socket.set_reuse_port(true)?;
        if kind == Type::STREAM {
            *step = "setting SO_REUSEADDR";
            socket.set_reuse_address(true)?;
        }
        prepare(&socket, step)?;
        *step = "binding";
        socket.bind(&SockAddr::from(ip))?;
        let bound = socket.local_addr()?.as_socket();
        ip = bound.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        sockets.push(socket);
    }
    Ok(Bound { address: Address::Ip(ip), sockets, unix_path: None })
}

/// Another process of this user that listens with SO_REUSEPORT would silently share our connections. A bind
/// without the option fails where anybody listens, so it tells. To be done for all addresses before the first is
/// bound for good: our own listeners are no obstacle.
pub(super) fn refuse_shared_port(address: &Address, is_stream: bool, only_v6: bool) -> Result<(), Error> {
    let Address::Ip(ip) = address else { return Ok(()) };
    let kind = if is_stream { Type::STREAM } else { Type::DGRAM };
    let listen_error = |source| Error::Listen { address: address.clone(), step: "binding", source };
    if ip.port() == 0 { Ok(()) } else { try_bind(*ip, kind, only_v6).map_err(listen_error) }
}

fn try_bind(ip: SocketAddr, kind: Type, only_v6: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(ip), kind, None)?;
    if ip.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier server that linger in TIME_WAIT do not count.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(ip))
}

fn tcp_options(
    socket: &Socket,
    ip: &SocketAddr,
    options: &ListenOptions,
    step: &mut &'static str,
) -> io::Result<()> {
    // Set on the listener, inherited by every connection: no call per connection.
    *step = "setting TCP_NODELAY";
    socket.set_tcp_nodelay(options.nodelay)?;
    // Urgent data is read in line, as RFC 6093 (section 6) wants it. Out of line, its byte would be cut out of the stream,
    // and a multishot receive that stopped before it would take the rest for not there (Linux 6.18).
    *step = "setting SO_OOBINLINE";
    socket.set_out_of_band_inline(true)?;
    if ip.is_ipv6() {
        *step = "setting IPV6_V6ONLY";
        socket.set_only_v6(options.only_v6)?;
    }
    if let Some(name) = &options.congestion {
        *step = "setting TCP_CONGESTION (see net.ipv4.tcp_available_congestion_control)";
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    if let Some(pending) = options.fast_open {
        *step = "setting TCP_FASTOPEN";
        sys::set_fast_open(socket, pending)?;
    }
    if let Some(after) = options.keep_alive {
        *step = "setting SO_KEEPALIVE";
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(after))?;
    }
    if let Some(after) = options.defer_accept {
        *step = "setting TCP_DEFER_ACCEPT";
        sys::set_defer_accept(socket, after)?;
    }
    Ok(())
}

fn listen_all(bound: Bound, backlog: i32) -> Result<Bound, Error> {
    for socket in &bound.sockets {
        socket.listen(backlog).map_err(|source| Error::Listen {
            address: bound.address.clone(),
            step: "listening",
            source,
        })?;
    }
    Ok(bound)
}

/// One queue for all workers: a Unix socket has no SO_REUSEPORT.
fn unix(path: &Path, backlog: i32, workers: usize) -> Result<Bound, Error> {
    let mut step = "opening a socket";
    bind_unix(path, backlog, workers, &mut step).map_err(|source| Error::Listen {
        address: Address::Unix(path.to_owned()),
        step,
        source,
    })
}

fn bind_unix(path: &Path, backlog: i32, workers: usize, step: &mut &'static str) -> io::Result<Bound> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    *step = "binding";
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address) => {
            // Left behind by a process that was killed: nobody answers there.
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        result => result?,
    }
    let unix_path = Some(UnixPath(path.to_owned()));
    *step = "listening";
    socket.listen(backlog)?;
    let mut sockets = vec![socket];
    while sockets.len() < workers {
        *step = "duplicating a socket";
        sockets.push(sockets[0].try_clone()?);
    }
    Ok(Bound { address: Address::Unix(path.to_owned()), sockets, unix_path })
}

/// Whether the path is a socket that nobody listens on.
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None::<Protocol>);
    is_socket
        && probe.is_ok_and(|probe| {
            probe.connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        })
}
