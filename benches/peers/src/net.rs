//! Sockets of the peers: what they all listen with, and a thread for each worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// Longest queue of connections not yet accepted; the kernel cuts it to net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
const UDP_RECV_BUFFER_BYTES: usize = 1024 * 1024;
/// How long a worker waits after a failed accept (descriptors used up, for example) before the next.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The address a peer listens on, and what belongs to it. Flattened into each server's options.
#[derive(clap::Args, Clone)]
pub struct ListenArgs {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Congestion control of the connections, as in /proc/sys/net/ipv4/tcp_available_congestion_control.
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Accept a connection only once it has sent something, or after so many seconds (tcp(7), TCP_DEFER_ACCEPT).
    #[arg(long, value_name = "SECONDS", value_parser = whole_seconds)]
    pub defer_accept: Option<i32>,
}

/// A number of seconds with or without an `s`, as Ringmill has it.
fn whole_seconds(text: &str) -> Result<i32, String> {
    match text.strip_suffix('s').unwrap_or(text).parse() {
        Ok(seconds @ 1..) => Ok(seconds),
        _ => Err("expected whole seconds, as 5s".to_owned()),
    }
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

/// The same on a current-thread runtime of tokio for each worker, with a task for each connection.
pub fn serve_on_tokio<H, F>(args: &ServerArgs, handle: H) -> Result<()>
where
    H: Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    serve(args, move |listener| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    std::thread::sleep(ACCEPT_PAUSE);
                    continue;
                };
                tokio::spawn(handle(stream));
            }
        })
    })
}

/// Listens as asked, with as many open files as this process may have.
pub fn listen(args: &ListenArgs) -> Result<Socket> {
    raise_open_files_limit()?;
    tcp_listener(args).context("cannot listen")
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

/// A UDP socket. Its receive buffer is larger than the default, like Ringmill's: that one overflows with 256 small
/// datagrams, which the kernel accounts with their whole buffers, and a lost datagram voids a measurement.
pub fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.cloexec(),
        Some(Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(UDP_RECV_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A TCP listener with SO_REUSEADDR, SO_REUSEPORT, TCP_NODELAY (inherited by its connections) and the options asked for.
/// It is non-blocking, which epoll and tokio need and io_uring does not mind.
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
    if let Some(seconds) = args.defer_accept {
        set_defer_accept(&socket, seconds)?;
    }
    socket.bind(&args.listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn set_defer_accept(socket: &Socket, seconds: i32) -> io::Result<()> {
    let (value, size) = ((&raw const seconds).cast(), size_of::<i32>() as libc::socklen_t);
    // SAFETY: pointer and size are those of a local i32.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            value,
            size,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
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
    fn a_silent_connection_is_not_accepted_where_that_is_deferred() {
        let args = ListenArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            congestion: None,
            defer_accept: Some(whole_seconds("5s").unwrap()),
        };
        let listener = tcp_listener(&args).unwrap();
        let target = listener.local_addr().unwrap().as_socket().unwrap();
        let mut client = std::net::TcpStream::connect(target).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        io::Write::write_all(&mut client, b"!").unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(whole_seconds("5"), Ok(5));
        for bad in ["", "s", "0s", "-1", "5ms", "1.5s"] {
            assert!(whole_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn connections_inherit_no_delay_from_the_listener() {
        let args = ListenArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            congestion: None,
            defer_accept: None,
        };
        let listener = tcp_listener(&args).unwrap();
        listener.set_nonblocking(false).unwrap();
        let target = listener.local_addr().unwrap().as_socket().unwrap();
        let _client = std::net::TcpStream::connect(target).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.tcp_nodelay().unwrap());
    }
}
