//! Blind responder on epoll: one fixed reply for every N bytes received, on one thread.
//!
//! It never looks at a byte, never checks a limit and never times a peer out: it is the floor, not a server. Edge
//! triggered: a receive that does not fill its buffer has drained the socket (epoll(7)), so a request costs one recv
//! and one send. Interest in EPOLLOUT is added the first time a socket is full.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::Result;
use clap::Parser;
use ringmill_peers::blind::{BlindArgs, Debt, Replies};
use ringmill_peers::epoll::{Epoll, Events, LISTENER};

const EVENTS_MAX: usize = 1024;
const RECV_BYTES: usize = 16 * 1024;
const READ: libc::c_int = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;

#[derive(Parser)]
#[command(about = "Sends one fixed HTTP reply for every N bytes received, with epoll")]
struct Args {
    #[command(flatten)]
    blind: BlindArgs,
}

fn main() -> Result<()> {
    let args = Args::parse().blind;
    let (listener, epoll) = Epoll::listening(&args.listen)?;

    let mut server = Server {
        listener: listener.as_raw_fd(),
        request_bytes: args.request_bytes as usize,
        replies: Replies::new(),
        buffer: vec![0; RECV_BYTES],
        connections: Vec::new(),
        epoll,
    };
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        for (token, ready) in server.epoll.wait(&mut events, None)? {
            if token == LISTENER {
                server.accept_all()?;
            } else {
                server.serve(token as RawFd, ready)?;
            }
        }
    }
}

struct Connection {
    debt: Debt,
    stream: Stream,
    interest: Interest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Open,
    /// The peer has sent its last byte: close once nothing is owed.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Interest {
    Read,
    ReadWrite,
}

/// What a connection needs after its turn.
enum Outcome {
    Keep,
    Close,
}

struct Server {
    listener: RawFd,
    request_bytes: usize,
    replies: Replies,
    buffer: Vec<u8>,
    /// Indexed by descriptor. One wait reports a descriptor once, so an event cannot meet a later connection.
    connections: Vec<Option<Connection>>,
    epoll: Epoll,
}

impl Server {
    fn accept_all(&mut self) -> Result<()> {
        loop {
            // SAFETY: null address and length mean that the peer's address is not wanted.
            let fd = unsafe {
                libc::accept4(
                    self.listener,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                )
            };
            if fd < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    // That peer has gone; the next may be there.
                    Some(libc::EINTR | libc::ECONNABORTED) => continue,
                    // Nobody waits, or no descriptor is free: the listener is level triggered and reports again.
                    _ => return Ok(()),
                }
            }
            let index = fd as usize;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.connections[index] = Some(Connection {
                debt: Debt::default(),
                stream: Stream::Open,
                interest: Interest::Read,
            });
            self.epoll.add(fd, READ, fd as u64)?;
        }
    }

    /// Reads what is there, answers it, and closes when the peer is done or gone.
    fn serve(&mut self, fd: RawFd, ready: libc::c_int) -> Result<()> {
        let connection = self.connections[fd as usize]
            .as_mut()
            .expect("epoll forgets a descriptor when it is closed");
        let read = if ready & !libc::EPOLLOUT != 0 {
            receive(connection, fd, ready, self.request_bytes, &mut self.buffer)
        } else {
            Outcome::Keep
        };
        let outcome = match read {
            Outcome::Keep => send_owed(connection, fd, self.replies, &self.epoll)?,
            Outcome::Close => Outcome::Close,
        };
        if let Outcome::Close = outcome {
            self.connections[fd as usize] = None;
            // SAFETY: the descriptor came from accept4 and is closed only here, once.
            unsafe { libc::close(fd) };
        }
        Ok(())
    }
}

/// Receives until the socket is drained.
fn receive(
    connection: &mut Connection,
    fd: RawFd,
    ready: libc::c_int,
    request_bytes: usize,
    buffer: &mut [u8],
) -> Outcome {
    let ending = ready & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
    while connection.stream == Stream::Open {
        // SAFETY: `buffer` is initialised memory of the length passed.
        let count = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match count {
            0 => connection.stream = Stream::Ended,
            1.. => {
                connection.debt.receive(count as usize, request_bytes);
                // Drained, unless the end of the stream is waiting behind the data: it makes no second edge.
                if (count as usize) < buffer.len() && !ending {
                    break;
                }
            }
            _ => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) => break,
                Some(libc::EINTR) => continue,
                _ => return Outcome::Close,
            },
        }
    }
    Outcome::Keep
}

/// Sends what is owed, as far as the socket takes it.
fn send_owed(connection: &mut Connection, fd: RawFd, replies: Replies, epoll: &Epoll) -> Result<Outcome> {
    while !connection.debt.is_settled() {
        let unsent = connection.debt.unsent(replies);
        // SAFETY: `unsent` is valid memory of the length passed.
        let count = unsafe { libc::send(fd, unsent.as_ptr().cast(), unsent.len(), libc::MSG_NOSIGNAL) };
        if count >= 0 {
            connection.debt.sent(count as usize);
            continue;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) => {
                if connection.interest == Interest::Read {
                    connection.interest = Interest::ReadWrite;
                    epoll.modify(fd, READ | libc::EPOLLOUT, fd as u64)?;
                }
                return Ok(Outcome::Keep);
            }
            _ => return Ok(Outcome::Close),
        }
    }
    Ok(match connection.stream {
        Stream::Open => Outcome::Keep,
        Stream::Ended => Outcome::Close,
    })
}
