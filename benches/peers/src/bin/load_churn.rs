//! Client that sends one request a connection: connect, ask, read and check the whole reply, close.
//!
//! It never leaves the loopback network and never resets a connection: it closes first, so TIME_WAIT stays on this
//! side, spread over 31 source addresses. Prints one line of JSON: {"requests":N,"errors":N,"seconds":S}.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use ringmill_peers::epoll::{Epoll, Events};
use ringmill_peers::http::{self, Progress};
use ringmill_peers::net::{self, LoopbackAddress, SourceAddresses, Waiting};
use socket2::Socket;

/// A connection that has not been answered for this long is an error and is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often connections are looked over for that.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// More errors in a row than this, and the run is over: the server is gone.
const ERRORS_IN_A_ROW_MAX: u32 = 1000;
const RECV_BYTES: usize = 4096;
const INTEREST: libc::c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;

#[derive(Parser)]
#[command(about = "HTTP load with one request a connection (loopback only)")]
struct Args {
    /// Server to load, in 127.0.0.0/8.
    #[arg(long, value_name = "ADDR")]
    connect: LoopbackAddress,
    /// Connections open at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Seconds to run.
    #[arg(long, value_name = "SECS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    duration: u32,
    #[arg(long, default_value = "/plaintext")]
    path: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    net::raise_open_files_limit()?;
    let mut client = Client {
        target: args.connect,
        request: http::get_request(&args.path, args.connect.socket_address()),
        sources: SourceAddresses::default(),
        epoll: Epoll::new()?,
        exchanges: (0..args.connections).map(|_| None).collect(),
        requests: 0,
        errors: 0,
        errors_in_a_row: 0,
    };
    let start = Instant::now();
    client.run(start, start + Duration::from_secs(args.duration.into()))?;
    let report = serde_json::json!({
        "requests": client.requests,
        "errors": client.errors,
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{report}");
    Ok(())
}

/// One connection with its one request.
struct Exchange {
    socket: Socket,
    started: Instant,
    /// Bytes of the request that the kernel has taken.
    sent: usize,
    received: Vec<u8>,
}

enum Step {
    /// Wait for the next event.
    Wait,
    Done,
    Failed,
}

struct Client {
    target: LoopbackAddress,
    request: Vec<u8>,
    sources: SourceAddresses,
    epoll: Epoll,
    exchanges: Vec<Option<Exchange>>,
    requests: u64,
    errors: u64,
    errors_in_a_row: u32,
}

impl Client {
    fn run(&mut self, start: Instant, end: Instant) -> Result<()> {
        for index in 0..self.exchanges.len() {
            self.open(index, start);
        }
        let mut events = Events::with_capacity(self.exchanges.len());
        let mut now = start;
        let mut swept = start;
        while now < end {
            for (token, _) in self.epoll.wait(&mut events, Some(SWEEP_INTERVAL))? {
                self.advance(token as usize, now);
            }
            now = Instant::now();
            if now - swept >= SWEEP_INTERVAL {
                swept = now;
                self.sweep(now);
            }
            if self.errors_in_a_row > ERRORS_IN_A_ROW_MAX {
                bail!("{} errors in a row; is the server running?", self.errors_in_a_row);
            }
        }
        Ok(())
    }

    /// Starts a new exchange in place of whatever `index` held; if that fails, the sweep tries again.
    fn open(&mut self, index: usize, now: Instant) {
        // Closes the old connection first, so that at most `connections` are open.
        let received = match self.exchanges[index].take() {
            Some(old) => old.received,
            None => Vec::with_capacity(RECV_BYTES),
        };
        match self.connect(index, now, received) {
            Ok(exchange) => self.exchanges[index] = Some(exchange),
            Err(_) => self.count_error(),
        }
    }

    fn connect(&mut self, index: usize, now: Instant, mut received: Vec<u8>) -> io::Result<Exchange> {
        received.clear();
        let socket = net::tcp_connect(self.sources.take(), self.target, Waiting::Nonblocking)?;
        let mut exchange = Exchange {
            socket,
            started: now,
            sent: 0,
            received,
        };
        // On loopback the handshake is over by now more often than not, and the event for it can be spared.
        send_request(&mut exchange, &self.request)?;
        self.epoll
            .add(exchange.socket.as_raw_fd(), INTEREST, index as u64)?;
        Ok(exchange)
    }

    fn advance(&mut self, index: usize, now: Instant) {
        let Some(exchange) = &mut self.exchanges[index] else {
            return;
        };
        match step(exchange, &self.request) {
            Step::Wait => {}
            Step::Done => {
                self.requests += 1;
                self.errors_in_a_row = 0;
                self.open(index, now);
            }
            Step::Failed => {
                self.count_error();
                self.open(index, now);
            }
        }
    }

    /// Gives up what has waited too long and reopens what could not be opened.
    fn sweep(&mut self, now: Instant) {
        for index in 0..self.exchanges.len() {
            match &self.exchanges[index] {
                Some(exchange) if now - exchange.started < ANSWER_TIMEOUT => {}
                Some(_) => {
                    self.count_error();
                    self.open(index, now);
                }
                None => self.open(index, now),
            }
        }
    }

    fn count_error(&mut self) {
        self.errors += 1;
        self.errors_in_a_row += 1;
    }
}

fn step(exchange: &mut Exchange, request: &[u8]) -> Step {
    if send_request(exchange, request).is_err() {
        return Step::Failed;
    }
    if exchange.sent < request.len() {
        return Step::Wait;
    }
    let mut buffer = [0; RECV_BYTES];
    loop {
        // SAFETY: `buffer` is initialised memory of the length passed; the socket is open.
        let count = unsafe {
            libc::recv(
                exchange.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        match count {
            // The server closed before its reply was complete.
            0 => return Step::Failed,
            1.. => {
                exchange.received.extend_from_slice(&buffer[..count as usize]);
                match http::check_reply(&exchange.received) {
                    Progress::Partial => {}
                    Progress::Complete => return Step::Done,
                    Progress::Malformed => return Step::Failed,
                }
            }
            _ => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) => return Step::Wait,
                Some(libc::EINTR) => {}
                _ => return Step::Failed,
            },
        }
    }
}

/// Sends what is left of the request. A connection still on its way is not an error: its event follows.
fn send_request(exchange: &mut Exchange, request: &[u8]) -> io::Result<()> {
    while exchange.sent < request.len() {
        match exchange.socket.send(&request[exchange.sent..]) {
            Ok(count) => exchange.sent += count,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOTCONN) => return Ok(()),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}
