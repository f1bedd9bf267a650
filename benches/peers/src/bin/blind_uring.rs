//! Blind responder on io_uring: one fixed reply for every N bytes received, on one thread.
//!
//! It never looks at a byte, never checks a limit and never times a peer out: it is the floor, not a server. Multishot
//! accept and receive, 256 provided buffers of 4 KiB, one send in flight a connection, replies of a turn coalesced.
//! A slot is reused only after its last completion, so user data needs no generation. Read `blind.rs` for the protocol.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use clap::Parser;
use io_uring::{IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types};
use ringmill_peers::blind::{BlindArgs, Debt, Replies};
use ringmill_peers::buffer_ring::{self, BufferRing};
use ringmill_peers::net;

const SUBMISSIONS: u32 = 4096;
/// Room for one completion of every connection a turn at the largest load here, so that overflow stays rare.
const COMPLETIONS: u32 = 4 * SUBMISSIONS;

#[derive(Parser)]
#[command(about = "Sends one fixed HTTP reply for every N bytes received, with io_uring")]
struct Args {
    #[command(flatten)]
    blind: BlindArgs,
}

fn main() -> Result<()> {
    let args = Args::parse().blind;
    let listener = net::listen(&args.listen)?;
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_no_sqarray()
        .setup_cqsize(COMPLETIONS)
        .setup_clamp()
        .build(SUBMISSIONS)
        .context("cannot set up io_uring (Linux 6.6 or later, and not forbidden by a sandbox)")?;
    let (mut submitter, submissions, mut completions) = ring.split();
    submitter.register_ring_fd()?;
    let buffers = BufferRing::register(&submitter).context("cannot register buffers")?;
    net::announce(&listener)?;

    let mut server = Server {
        listener: listener.as_raw_fd(),
        request_bytes: args.request_bytes as usize,
        replies: Replies::new(),
        buffers,
        connections: Vec::new(),
        free: Vec::new(),
        dirty: Vec::new(),
        starved: Vec::new(),
        accept: Accept::Ended,
    };
    let mut queue = Queue {
        submitter: &submitter,
        submissions,
    };
    loop {
        server.finish_turn(&mut queue)?;
        queue.wait()?;
        completions.sync();
        for completion in &mut completions {
            server.complete(&completion, &mut queue)?;
        }
    }
}

/// What a completion belongs to: the kind in the high half of the user data, the slot in the low half.
#[derive(Clone, Copy)]
enum Operation {
    Accept,
    Recv(u32),
    Send(u32),
    Close,
}

impl Operation {
    fn encode(self) -> u64 {
        match self {
            Operation::Accept => 0,
            Operation::Recv(slot) => 1 << 32 | u64::from(slot),
            Operation::Send(slot) => 2 << 32 | u64::from(slot),
            Operation::Close => 3 << 32,
        }
    }

    fn decode(user_data: u64) -> Self {
        let slot = user_data as u32;
        match user_data >> 32 {
            0 => Operation::Accept,
            1 => Operation::Recv(slot),
            2 => Operation::Send(slot),
            3 => Operation::Close,
            kind => unreachable!("user data with kind {kind} was never submitted"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accept {
    Armed,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Recv {
    Armed,
    /// Over without an end of the stream (no buffers, or the kernel's own reasons): armed again after `publish`.
    Starved,
    /// End of the stream, or an error.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Send {
    Idle,
    InFlight,
    /// The peer cannot be written to any more; what is owed is forgotten.
    Broken,
}

struct Connection {
    fd: RawFd,
    recv: Recv,
    send: Send,
    debt: Debt,
}

struct Server {
    listener: RawFd,
    request_bytes: usize,
    replies: Replies,
    buffers: BufferRing,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    /// Slots to look at when the turn ends: something is owed, or it may be time to close. May repeat a slot.
    dirty: Vec<u32>,
    /// Slots whose receive has to be armed again.
    starved: Vec<u32>,
    accept: Accept,
}

impl Server {
    fn complete(&mut self, completion: &cqueue::Entry, queue: &mut Queue<'_, '_>) -> Result<()> {
        let flags = completion.flags();
        match Operation::decode(completion.user_data()) {
            Operation::Accept => {
                if !cqueue::more(flags) {
                    self.accept = Accept::Ended;
                }
                // A failed accept (the peer is gone, or no descriptor is free) concerns that peer alone.
                if completion.result() >= 0 {
                    self.open(completion.result(), queue)?;
                }
            }
            Operation::Recv(slot) => self.received(slot, completion.result(), flags),
            Operation::Send(slot) => self.sent(slot, completion.result()),
            Operation::Close => {}
        }
        Ok(())
    }

    fn open(&mut self, fd: RawFd, queue: &mut Queue<'_, '_>) -> Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            (self.connections.len() - 1) as u32
        });
        self.connections[slot as usize] = Some(Connection {
            fd,
            recv: Recv::Armed,
            send: Send::Idle,
            debt: Debt::default(),
        });
        queue.recv(fd, slot)
    }

    fn received(&mut self, slot: u32, result: i32, flags: u32) {
        if let Some(block) = cqueue::buffer_select(flags) {
            self.buffers.give_back(block);
        }
        let connection = expect_open(&mut self.connections, slot);
        if result > 0 {
            connection.debt.receive(result as usize, self.request_bytes);
        }
        if !cqueue::more(flags) {
            if result > 0 || result == -libc::ENOBUFS || result == -libc::EINTR {
                connection.recv = Recv::Starved;
                self.starved.push(slot);
            } else {
                connection.recv = Recv::Ended;
            }
        }
        self.dirty.push(slot);
    }

    fn sent(&mut self, slot: u32, result: i32) {
        let connection = expect_open(&mut self.connections, slot);
        if result >= 0 {
            connection.debt.sent(result as usize);
            connection.send = Send::Idle;
        } else if result == -libc::EINTR || result == -libc::EAGAIN {
            connection.send = Send::Idle;
        } else {
            connection.send = Send::Broken;
            // Ends the receive, so that the slot is freed by the usual path.
            // SAFETY: takes no pointers; the descriptor is ours until the slot is freed.
            unsafe { libc::shutdown(connection.fd, libc::SHUT_RDWR) };
        }
        if !connection.debt.is_settled() || connection.recv == Recv::Ended {
            self.dirty.push(slot);
        }
    }

    /// Publishes buffers, arms what has to be armed, and sends or closes what the turn made ready.
    fn finish_turn(&mut self, queue: &mut Queue<'_, '_>) -> Result<()> {
        self.buffers.publish();
        if self.accept == Accept::Ended {
            queue.accept(self.listener)?;
            self.accept = Accept::Armed;
        }
        while let Some(slot) = self.starved.pop() {
            let connection = expect_open(&mut self.connections, slot);
            connection.recv = Recv::Armed;
            queue.recv(connection.fd, slot)?;
        }
        // In order of arrival: the reverse would let the first to ask wait longest.
        for slot in self.dirty.drain(..) {
            // Empty when an earlier entry for the same slot has closed it.
            let Some(connection) = &mut self.connections[slot as usize] else {
                continue;
            };
            match (connection.send, connection.debt.is_settled(), connection.recv) {
                (Send::InFlight, _, _) => {}
                (Send::Idle, false, _) => {
                    connection.send = Send::InFlight;
                    queue.send(connection.fd, connection.debt.unsent(self.replies), slot)?;
                }
                (Send::Idle, true, Recv::Ended) | (Send::Broken, _, Recv::Ended) => {
                    queue.close(connection.fd)?;
                    self.connections[slot as usize] = None;
                    self.free.push(slot);
                }
                (Send::Idle, true, _) | (Send::Broken, _, _) => {}
            }
        }
        Ok(())
    }
}

fn expect_open(connections: &mut [Option<Connection>], slot: u32) -> &mut Connection {
    connections[slot as usize]
        .as_mut()
        .expect("a slot is freed only after its last completion")
}

/// The submission queue: every push submits first if the queue is full.
struct Queue<'q, 'r> {
    submitter: &'q Submitter<'r>,
    submissions: SubmissionQueue<'r>,
}

impl Queue<'_, '_> {
    fn accept(&mut self, listener: RawFd) -> Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(listener)).flags(libc::SOCK_CLOEXEC);
        self.push(entry.build(), Operation::Accept)
    }

    fn recv(&mut self, fd: RawFd, slot: u32) -> Result<()> {
        let entry = opcode::RecvMulti::new(types::Fd(fd), buffer_ring::GROUP);
        self.push(entry.build(), Operation::Recv(slot))
    }

    fn send(&mut self, fd: RawFd, bytes: &'static [u8], slot: u32) -> Result<()> {
        let entry = opcode::Send::new(types::Fd(fd), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.push(entry.build(), Operation::Send(slot))
    }

    fn close(&mut self, fd: RawFd) -> Result<()> {
        let entry = opcode::Close::new(types::Fd(fd)).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::Close)
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation) -> Result<()> {
        let entry = entry.user_data(operation.encode());
        loop {
            // SAFETY: what an entry points to is never freed: replies are 'static, and buffers are leaked.
            if unsafe { self.submissions.push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submissions.sync();
            ignore_ordinary(self.submitter.submit())?;
            self.submissions.sync();
        }
    }

    /// Submits everything and waits for at least one completion.
    fn wait(&mut self) -> Result<()> {
        self.submissions.sync();
        ignore_ordinary(self.submitter.submit_and_wait(1))?;
        self.submissions.sync();
        Ok(())
    }
}

/// A signal, a full completion queue and a timeout are ordinary: the next turn goes on from there.
fn ignore_ordinary(result: io::Result<usize>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINTR | libc::EBUSY | libc::ETIME | libc::EAGAIN) => Ok(()),
            _ => Err(error).context("io_uring_enter"),
        },
    }
}
