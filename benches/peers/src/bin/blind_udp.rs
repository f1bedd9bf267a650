//! Blind UDP echo: every datagram goes back to its sender, on one blocking thread with recvmmsg and sendmmsg.
//!
//! It never looks at a payload and never queues: what the socket does not take at once is dropped, as UDP may.
//! Datagrams above 2,048 bytes are cut.

use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use clap::Parser;
use ringmill_peers::datagrams::Batch;
use ringmill_peers::net;
use socket2::Socket;

const BATCH: usize = 64;

#[derive(Parser)]
#[command(about = "Echoes UDP datagrams with recvmmsg and sendmmsg")]
struct Args {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let socket = net::udp_socket(args.listen).context("cannot bind the UDP socket")?;
    net::announce(&socket)?;
    let mut batch = Batch::new(BATCH);
    loop {
        // WAITFORONE: block for the first datagram, take the others only if they are there.
        let received = match batch.recv(socket.as_fd(), libc::MSG_WAITFORONE) {
            Ok(count) => count,
            Err(error) if is_ordinary(&error) => continue,
            Err(error) => return Err(error).context("recvmmsg"),
        };
        echo(&mut batch, &socket, received)?;
    }
}

/// Sends the first `end` datagrams back to where they came from.
fn echo(batch: &mut Batch, socket: &Socket, end: usize) -> Result<()> {
    let mut first = 0;
    while first < end {
        match batch.send(socket.as_fd(), first, end) {
            Ok(count) => first += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The datagram at `first` cannot be sent; the ones behind it may.
            Err(error) if is_ordinary(&error) => first += 1,
            Err(error) => return Err(error).context("sendmmsg"),
        }
    }
    Ok(())
}

/// What a socket reports about single datagrams or peers, not about itself.
fn is_ordinary(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::EAGAIN
                | libc::ECONNREFUSED
                | libc::ENOBUFS
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EPERM
                | libc::EINVAL
        )
    )
}
