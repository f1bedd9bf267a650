//! Client that opens many connections and then does nothing, so that a server's memory per connection can be read.
//!
//! It never leaves the loopback network. With --request it sends one GET on each connection and checks the reply.
//! Prints `ready` when all are open, and holds them for --duration or, without it, until its standard input ends.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use ringmill_peers::http::{self, Progress};
use ringmill_peers::net::{self, LoopbackAddress, SourceAddresses, Waiting};
use socket2::Socket;

/// Longest wait for one reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Descriptors that are not connections: the standard streams and some room.
const DESCRIPTORS_RESERVED: u64 = 16;

#[derive(Parser)]
#[command(about = "Opens idle HTTP connections and holds them (loopback only)")]
struct Args {
    /// Server to connect to, in 127.0.0.0/8.
    #[arg(long, value_name = "ADDR")]
    connect: LoopbackAddress,
    #[arg(long, default_value_t = 15_000)]
    connections: u32,
    /// Send one request on each connection and read the reply.
    #[arg(long)]
    request: bool,
    #[arg(long, default_value = "/plaintext")]
    path: String,
    /// Seconds to hold the connections; without it, until standard input ends.
    #[arg(long, value_name = "SECS")]
    duration: Option<u32>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let descriptors = net::raise_open_files_limit()?;
    let needed = u64::from(args.connections) + DESCRIPTORS_RESERVED;
    if needed > descriptors {
        bail!("{needed} open files needed, but the hard limit is {descriptors} (see ulimit -Hn)");
    }
    let request = http::get_request(&args.path, args.connect.socket_address());
    let mut sources = SourceAddresses::default();
    let mut connections = Vec::with_capacity(args.connections as usize);
    for number in 1..=args.connections {
        let socket = open(&args, &mut sources, &request)
            .with_context(|| format!("connection {number} of {}", args.connections))?;
        connections.push(socket);
    }
    println!("ready");
    io::stdout().flush()?;
    hold(args.duration)
}

fn open(args: &Args, sources: &mut SourceAddresses, request: &[u8]) -> Result<Socket> {
    let socket = net::tcp_connect(sources.take(), args.connect, Waiting::Blocking)?;
    if args.request {
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        (&socket).write_all(request)?;
        read_reply(&socket)?;
    }
    Ok(socket)
}

fn read_reply(mut socket: &Socket) -> Result<()> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer).context("no reply")?;
        if count == 0 {
            bail!("closed before the reply was complete");
        }
        received.extend_from_slice(&buffer[..count]);
        match http::check_reply(&received) {
            Progress::Partial => {}
            Progress::Complete => return Ok(()),
            Progress::Malformed => {
                bail!("unexpected reply: {}", String::from_utf8_lossy(&received))
            }
        }
    }
}

/// Returns when the time is over, or without a time when standard input has ended.
fn hold(duration: Option<u32>) -> Result<()> {
    if let Some(seconds) = duration {
        std::thread::sleep(Duration::from_secs(seconds.into()));
        return Ok(());
    }
    let mut stdin = io::stdin();
    let mut buffer = [0; 256];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read standard input"),
        }
    }
}
