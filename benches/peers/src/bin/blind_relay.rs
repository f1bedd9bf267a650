//! A relay on epoll and one thread: what comes from one side goes to the other, copied or spliced.
//!
//! It never looks at a byte, checks no limit and times nobody out: it is the floor of a relay. Edge triggered: a receive that
//! does not fill its buffer has drained the socket (epoll(7)); of a splice only EAGAIN says so, as a short one may also mean
//! that the pipe is full. A side that ends is passed on, so half-closed connections go on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Result;
use clap::Parser;
use ringmill_peers::epoll::{Epoll, Events, LISTENER};
use ringmill_peers::net::ListenArgs;
use socket2::{Domain, Protocol, Socket, Type};

const EVENTS_MAX: usize = 1024;
/// Both ways of all connections copy through one buffer.
const COPY_BYTES: usize = 64 * 1024;
/// A pipe for each way that has moved something.
const PIPE_BYTES: usize = 256 * 1024;
const INTEREST: libc::c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;

#[derive(Parser)]
#[command(about = "Passes bytes on between its clients and one server")]
struct Args {
    #[command(flatten)]
    listen: ListenArgs,
    /// The server.
    #[arg(long, value_name = "ADDR")]
    to: SocketAddr,
    /// Move bytes through pipes instead of a buffer (splice(2)).
    #[arg(long)]
    splice: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (listener, epoll) = Epoll::listening(&args.listen)?;
    let mut relay = Relay {
        listener: listener.into(),
        to: args.to,
        splices: args.splice,
        epoll,
        buffer: vec![0; COPY_BYTES],
        pairs: Vec::new(),
        free: Vec::new(),
    };
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut ended = Vec::new();
    loop {
        for (token, ready) in relay.epoll.wait(&mut events, None)? {
            if token == LISTENER {
                accept_all(
                    &relay.listener,
                    relay.to,
                    &relay.epoll,
                    &mut relay.pairs,
                    &mut relay.free,
                )?;
                continue;
            }
            let (index, side) = (token as usize / 2, token as usize % 2);
            let Some(pair) = relay.pairs[index].as_mut() else {
                continue;
            };
            if !pair.serve(side, ready, relay.splices, &mut relay.buffer) {
                relay.pairs[index] = None;
                ended.push(index);
            }
        }
        // Only now: an event of this wait must not meet a later pair.
        relay.free.append(&mut ended);
    }
}

struct Relay {
    listener: TcpListener,
    to: SocketAddr,
    splices: bool,
    epoll: Epoll,
    buffer: Vec<u8>,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
}

/// A client and its connection with the server.
struct Pair {
    sides: [TcpStream; 2],
    /// From the side with this index to the other.
    ways: [Way; 2],
}

#[derive(Default)]
struct Way {
    /// What the other side did not take: copied.
    kept: Vec<u8>,
    /// The same: in the pipe.
    piped: usize,
    pipe: Option<Pipe>,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source has sent its last byte.
    Ended,
    /// So was the other side told.
    Finished,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

fn accept_all(
    listener: &TcpListener,
    to: SocketAddr,
    epoll: &Epoll,
    pairs: &mut Vec<Option<Pair>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    // An error is a peer that has gone, or no free descriptor: the listener is level triggered and reports again.
    while let Ok((client, _)) = listener.accept() {
        client.set_nonblocking(true)?;
        let Ok(server) = connect(to) else { continue };
        let index = free.pop().unwrap_or_else(|| {
            pairs.push(None);
            pairs.len() - 1
        });
        let token = 2 * index as u64;
        epoll.add(client.as_raw_fd(), INTEREST, token)?;
        epoll.add(server.as_raw_fd(), INTEREST, token + 1)?;
        pairs[index] = Some(Pair {
            sides: [client, server],
            ways: Default::default(),
        });
    }
    Ok(())
}

/// Until it is there, it takes nothing; what fails is told by the first receive.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

impl Pair {
    /// False when it is over.
    fn serve(&mut self, side: usize, ready: libc::c_int, splices: bool, buffer: &mut [u8]) -> bool {
        let is_ending = ready & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
        if ready & libc::EPOLLOUT != 0
            && self.ways[1 - side].has_more()
            && self.pump(1 - side, true, splices, buffer).is_err()
        {
            return false;
        }
        if ready & !libc::EPOLLOUT != 0 && self.pump(side, is_ending, splices, buffer).is_err() {
            return false;
        }
        self.ways.iter().any(|way| way.state != State::Finished)
    }

    /// Moves what there is from a side to the other. An error ends both.
    fn pump(&mut self, from: usize, is_ending: bool, splices: bool, buffer: &mut [u8]) -> io::Result<()> {
        let Pair { sides, ways } = self;
        let (source, sink, way) = (&sides[from], &sides[1 - from], &mut ways[from]);
        let moved = if splices {
            way.splice(source, sink)
        } else {
            way.copy(source, sink, is_ending, buffer)
        };
        match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            moved => moved,
        }
    }
}

impl Way {
    fn has_more(&self) -> bool {
        !self.kept.is_empty() || self.piped > 0
    }

    /// `WouldBlock` when one of the two has nothing more to do, and nothing where that is known without asking.
    fn copy(
        &mut self,
        mut source: &TcpStream,
        mut sink: &TcpStream,
        is_ending: bool,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        while self.state != State::Finished {
            if !self.kept.is_empty() {
                let count = sink.write(&self.kept)?;
                self.kept.drain(..count);
                continue;
            }
            if self.state == State::Ended {
                self.state = State::Finished;
                return sink.shutdown(Shutdown::Write);
            }
            let count = source.read(buffer)?;
            if count == 0 {
                self.state = State::Ended;
                continue;
            }
            let sent = match sink.write(&buffer[..count]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
            self.kept.extend_from_slice(&buffer[sent..count]);
            // Drained, unless the end of the stream is waiting behind the data: it makes no second edge.
            if sent == count && count < buffer.len() && !is_ending {
                return Ok(());
            }
        }
        Ok(())
    }

    fn splice(&mut self, source: &TcpStream, sink: &TcpStream) -> io::Result<()> {
        while self.state != State::Finished {
            let pipe = match &self.pipe {
                Some(pipe) => pipe,
                None => self.pipe.insert(Pipe::new()?),
            };
            if self.piped > 0 {
                self.piped -= splice(&pipe.read, sink, self.piped)?;
            } else if self.state == State::Ended {
                self.state = State::Finished;
                return sink.shutdown(Shutdown::Write);
            } else {
                match splice(source, &pipe.write, PIPE_BYTES)? {
                    0 => self.state = State::Ended,
                    count => self.piped = count,
                }
            }
        }
        Ok(())
    }
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pipe2 has just returned these descriptors, and nobody else holds them.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // A smaller pipe serves as well: whoever is not root may have no more.
        // SAFETY: takes no pointers.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES as libc::c_int) };
        Ok(Pipe { read, write })
    }
}

fn splice(from: &impl AsRawFd, to: &impl AsRawFd, bytes: usize) -> io::Result<usize> {
    let (none, flags) = (
        std::ptr::null_mut(),
        libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
    );
    // SAFETY: null offsets are what sockets and pipes want.
    let count = unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, bytes, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
