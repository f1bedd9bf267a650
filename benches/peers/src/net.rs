//! Sockets of the peers and clients: listeners, spread source addresses, the loopback rule, open-file limits.
//!
//! Clients never leave the loopback network: `LoopbackAddress` is the only way to name a target.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// Longest queue of connections not yet accepted; the kernel cuts it to net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
/// How long a worker waits after a failed accept (descriptors used up, for example) before the next.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Longest wait of a blocking connection for its handshake, and then for room to write.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address a peer listens on, and what belongs to it. Flattened into each server's options.
#[derive(clap::Args, Clone)]
pub struct ListenArgs {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Congestion control of the connections, as in /proc/sys/net/ipv4/tcp_available_congestion_control.
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
}

/// What the peers that take workers have in common.
#[derive(clap::Args, Clone)]
pub struct ServerArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Threads that serve.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,
}

/// Listens once a worker on one address, says so, and runs `work` on a thread for each listener. It returns when one
/// of them fails.
pub fn serve<W>(args: &ServerArgs, work: W) -> Result<()>
where
    W: Fn(std::net::TcpListener) -> Result<()> + Send + Sync + 'static,
{
    raise_open_files_limit()?;
    // All listeners exist before the first accepts: a later one would change which worker gets a connection.
    let listeners = tcp_listeners(args)?;
    announce(&listeners[0])?;
    let work = Arc::new(work);
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let work = work.clone();
            std::thread::spawn(move || work(listener.into()))
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(ended) => ended?,
            Err(_) => bail!("a worker panicked: see the message above"),
        }
    }
    Ok(())
}

fn tcp_listeners(args: &ServerArgs) -> Result<Vec<Socket>> {
    let mut listen = args.listen.clone();
    let first = tcp_listener(&listen).context("cannot listen")?;
    listen.listen = first
        .local_addr()?
        .as_socket()
        .context("the listener has no IP address")?;
    let mut listeners = vec![first];
    for _ in 1..args.workers {
        listeners.push(tcp_listener(&listen).context("cannot listen")?);
    }
    Ok(listeners)
}

/// A non-blocking UDP socket.
pub fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A TCP listener with SO_REUSEADDR, SO_REUSEPORT, TCP_NODELAY (inherited by its connections) and the congestion
/// control asked for. It is non-blocking, which epoll and tokio need and io_uring does not mind.
pub fn tcp_listener(args: &ListenArgs) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(args.listen),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = &args.congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    socket.bind(&args.listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Prints the line that tells whoever started a peer where it really listens.
pub fn announce(socket: &Socket) -> io::Result<()> {
    use io::Write;
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("the listener has no IP address"))?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening {address}")?;
    stdout.flush()
}

/// An IPv4 address with port inside 127.0.0.0/8: the only targets of the load clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackAddress(SocketAddrV4);

impl LoopbackAddress {
    pub fn socket_address(self) -> SocketAddrV4 {
        self.0
    }
}

impl FromStr for LoopbackAddress {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let address: SocketAddrV4 = text
            .parse()
            .map_err(|_| "expected an IPv4 address with a port".to_string())?;
        if !address.ip().is_loopback() {
            return Err("only loopback addresses (127.0.0.0/8) are allowed".to_string());
        }
        Ok(LoopbackAddress(address))
    }
}

impl fmt::Display for LoopbackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hands out 127.0.0.2 to 127.0.0.32 in turn. A closed connection holds its port for a minute (TIME_WAIT), and one
/// source address has only some 28,000 of them.
#[derive(Default)]
pub struct SourceAddresses {
    next: u8,
}

impl SourceAddresses {
    const FIRST: u8 = 2;
    const COUNT: u8 = 31;

    pub fn take(&mut self) -> Ipv4Addr {
        let address = Ipv4Addr::new(127, 0, 0, Self::FIRST + self.next);
        self.next = (self.next + 1) % Self::COUNT;
        address
    }
}

/// Whether a client socket waits in its calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Blocking,
    Nonblocking,
}

/// Starts a TCP connection from `source`. A non-blocking connection may still be on its way when this returns.
pub fn tcp_connect(source: Ipv4Addr, target: LoopbackAddress, waiting: Waiting) -> io::Result<Socket> {
    let kind = match waiting {
        Waiting::Blocking => Type::STREAM.cloexec(),
        Waiting::Nonblocking => Type::STREAM.cloexec().nonblocking(),
    };
    let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::TCP))?;
    if waiting == Waiting::Blocking {
        // SO_SNDTIMEO bounds connect as well (socket(7)).
        socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    }
    socket.set_tcp_nodelay(true)?;
    choose_port_at_connect(&socket)?;
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    match socket.connect(&target.0.into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Err(_) if waiting == Waiting::Nonblocking => Ok(socket),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// IP_BIND_ADDRESS_NO_PORT (ip(7)): bind fixes only the address, and connect picks a port that is free for this
/// target. Without it bind has to find a port that is free for every target, which runs out early.
fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its size is passed along.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit for the kernel to fill.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is initialised, and the kernel only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_targets_parse() {
        for (text, allowed) in [
            ("127.0.0.1:80", true),
            ("127.9.9.9:1", true),
            ("10.0.0.1:80", false),
            ("0.0.0.0:80", false),
            ("[::1]:80", false),
            ("localhost:80", false),
        ] {
            assert_eq!(text.parse::<LoopbackAddress>().is_ok(), allowed, "{text}");
        }
    }

    #[test]
    fn source_addresses_go_round() {
        let mut sources = SourceAddresses::default();
        let taken: Vec<_> = (0..32).map(|_| sources.take()).collect();
        assert_eq!(taken[0], Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(taken[30], Ipv4Addr::new(127, 0, 0, 32));
        assert_eq!(taken[31], taken[0]);
    }

    #[test]
    fn connections_inherit_no_delay_from_the_listener() {
        let args = ListenArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            congestion: None,
        };
        let listener = tcp_listener(&args).unwrap();
        listener.set_nonblocking(false).unwrap();
        let target = listener.local_addr().unwrap().as_socket().unwrap();
        let target = target.to_string().parse().unwrap();
        let _client = tcp_connect(Ipv4Addr::new(127, 0, 0, 2), target, Waiting::Blocking).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.tcp_nodelay().unwrap());
    }
}
