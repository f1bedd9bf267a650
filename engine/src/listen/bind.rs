//! Sockets for all workers, bound and listening before any of them accepts.

use super::patience::Patience;
use super::unix;
use crate::address::Address;
use crate::config::ListenOptions;
use crate::error::{Error, step};
use crate::sys;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// The sockets of one listener, one a worker, and the address they got.
pub(crate) struct Bound {
    pub(crate) address: Address,
    pub(crate) sockets: Vec<Socket>,
}

/// Binds a TCP socket for each worker; none listens yet.
pub(crate) fn streams(ip: SocketAddr, options: &ListenOptions, workers: usize) -> Result<Bound, Error> {
    group(ip, workers, Type::STREAM, |socket, at| {
        if ip.is_ipv6() {
            *at = "setting IPV6_V6ONLY";
            socket.set_only_v6(options.only_v6)?;
        }
        tcp_options(socket, options, at)
    })
}

/// Takes a socket that is bound already, for all workers: they share its queue, as SO_REUSEPORT has to be set before the first bind.
pub(crate) fn share(
    ip: SocketAddr,
    listener: TcpListener,
    options: &ListenOptions,
    workers: usize,
) -> Result<Bound, Error> {
    if workers > 1 {
        tracing::warn!(
            address = %ip,
            workers,
            "all workers take connections from the one queue of a listener that was bound already: an address gives each its own"
        );
    }
    let mut at = "sharing it among the workers";
    let share = || {
        let socket = Socket::from(listener);
        // A driver that wants it otherwise says so itself.
        socket.set_nonblocking(false)?;
        tcp_options(&socket, options, &mut at)?;
        at = "sharing it among the workers";
        let mut sockets = vec![socket];
        while sockets.len() < workers {
            sockets.push(sockets[0].try_clone()?);
        }
        Ok(Bound { address: Address::Ip(ip), sockets })
    };
    let shared = share();
    shared.map_err(|source| Error::Listen { address: Address::Ip(ip), step: at, source })
}

/// From here on clients can connect.
pub(crate) fn listen(bound: &Bound, backlog: i32) -> Result<(), Error> {
    let error = |source| Error::Listen { address: bound.address.clone(), step: step::LISTENING, source };
    bound.sockets.iter().try_for_each(|socket| socket.listen(backlog)).map_err(error)
}

/// Binds a datagram socket for each worker.
pub(crate) fn datagrams(
    address: &Address,
    only_v6: bool,
    queue_bytes: usize,
    workers: usize,
) -> Result<Bound, Error> {
    let ip = datagram_ip(address)?;
    group(ip, workers, Type::DGRAM, |socket, step| {
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
pub(crate) fn own_datagrams(address: &Address, queue_bytes: usize) -> Result<Socket, Error> {
    let listen_error = |step| move |source| Error::Listen { address: address.clone(), step, source };
    let ip = datagram_ip(address)?;
    let socket = Socket::new(Domain::for_address(ip), Type::DGRAM, None);
    let socket = socket.map_err(listen_error("opening a socket"))?;
    socket.bind(&SockAddr::from(ip)).map_err(listen_error(step::BINDING))?;
    datagram_options(&socket, queue_bytes).map_err(listen_error("setting SO_RCVBUF"))?;
    Ok(socket)
}

fn datagram_ip(address: &Address) -> Result<SocketAddr, Error> {
    address.ip().ok_or_else(|| Error::Listen {
        address: address.clone(),
        step: "datagrams over a Unix socket",
        source: io::ErrorKind::Unsupported.into(),
    })
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
    at: &mut &'static str,
) -> io::Result<Bound> {
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        *at = "opening a socket";
        let socket = Socket::new(Domain::for_address(ip), kind, None)?;
        *at = "setting SO_REUSEPORT";
        socket.set_reuse_port(true)?;
        if kind == Type::STREAM {
            *at = "setting SO_REUSEADDR";
            socket.set_reuse_address(true)?;
        }
        prepare(&socket, at)?;
        *at = step::BINDING;
        socket.bind(&SockAddr::from(ip))?;
        let bound = socket.local_addr()?.as_socket();
        ip = bound.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        sockets.push(socket);
    }
    Ok(Bound { address: Address::Ip(ip), sockets })
}

/// Makes sure that an address is free, and waits for it if need be. Another process of this user that listens with SO_REUSEPORT
/// would silently share our connections; a bind without the option fails where anybody listens, so it tells. To be done for
/// all addresses before the first is bound for good: our own listeners are no obstacle.
pub(crate) fn refuse_taken(
    address: &Address,
    is_stream: bool,
    only_v6: bool,
    patience: &Patience,
) -> Result<(), Error> {
    if !is_stream {
        datagram_ip(address)?;
    }
    let kind = if is_stream { Type::STREAM } else { Type::DGRAM };
    loop {
        let tried = match address {
            Address::Ip(ip) if ip.port() == 0 => Ok(()),
            Address::Ip(ip) => try_bind(*ip, kind, only_v6),
            Address::Unix(_) | Address::Abstract(_) => unix::refuse_taken(address),
        };
        match tried {
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && patience.goes_on() => {}
            result => {
                return result.map_err(|source| Error::Listen {
                    address: address.clone(),
                    step: step::BINDING,
                    source,
                });
            }
        }
    }
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

fn tcp_options(socket: &Socket, options: &ListenOptions, step: &mut &'static str) -> io::Result<()> {
    // Set on the listener, inherited by every connection: no call per connection.
    *step = "setting TCP_NODELAY";
    socket.set_tcp_nodelay(options.nodelay)?;
    // Urgent data is read in line, as RFC 6093 (section 6) wants it. Out of line, its byte would be cut out of the stream,
    // and a multishot receive that stopped before it would take the rest for not there (Linux 6.18).
    *step = "setting SO_OOBINLINE";
    socket.set_out_of_band_inline(true)?;
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
