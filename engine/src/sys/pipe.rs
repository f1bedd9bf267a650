//! Pipes, through which bytes go from one socket to another without being copied (splice(2)).

use super::borrow;
use crate::event::{Errno, Socket};
use crate::output::Output;
use rustix::io::{Errno as Refused, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::os::fd::{AsFd, OwnedFd};

/// What a pipe holds at most, in bytes.
const PIPE_BYTES: usize = 256 * 1024;
/// Smaller ones cost more than they save. The kernel gives a page or two to who has as many pipes as it allows (pipe(7),
/// pipe-user-pages-soft).
const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Empty pipes that are kept open for the next bytes.
const IDLE_MAX: usize = 4;

/// A pipe, with what is in it.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held_bytes: usize,
}

/// The pipes of a driver. One is taken for as long as it has bytes in it, so few serve many connections.
#[derive(Default)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    /// Those that are in use too.
    made: usize,
    max: usize,
}

impl Pipes {
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// An empty pipe; `None` where there are as many as there may be, or none can be made.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.made >= self.max {
            return None;
        }
        let pipe = Pipe::new().ok()?;
        self.made += 1;
        Some(pipe)
    }

    /// Takes a pipe back. What is still in it is lost.
    pub(crate) fn give(&mut self, pipe: Pipe) {
        if pipe.held_bytes == 0 && self.idle.len() < IDLE_MAX {
            self.idle.push(pipe);
        } else {
            self.made -= 1;
        }
    }
}

impl Pipe {
    fn new() -> Result<Pipe, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Who is not root, or has many, may have to do with less.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        if fcntl_getpipe_size(&write)? < PIPE_BYTES_MIN {
            return Err(Errno::ENOBUFS);
        }
        Ok(Pipe { read, write, held_bytes: 0 })
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Receives what is there, at most so many bytes; never waits. The socket must be one that does not wait either.
    pub(crate) fn fill(&mut self, from: Socket, bytes_max: usize) -> Result<usize, Errno> {
        let bytes = move_some(borrow(&from), &self.write, bytes_max.min(PIPE_BYTES))?;
        self.held_bytes += bytes;
        Ok(bytes)
    }

    /// Sends from the front of what is in the pipe; never waits. The same holds for the socket.
    pub(crate) fn empty(&mut self, to: Socket) -> Result<usize, Errno> {
        let bytes = move_some(&self.read, borrow(&to), self.held_bytes)?;
        self.held_bytes -= bytes;
        Ok(bytes)
    }

    /// Copies out what is in the pipe.
    pub(crate) fn take_rest(&mut self) -> Option<Box<Output>> {
        if self.held_bytes == 0 {
            return None;
        }
        let mut output = Box::<Output>::default();
        let buffer = output.buffer();
        buffer.resize(self.held_bytes, 0);
        let mut taken = 0;
        while taken < buffer.len() {
            match retry_on_intr(|| rustix::io::read(&self.read, &mut buffer[taken..])) {
                Ok(bytes @ 1..) => taken += bytes,
                // Nobody else has this pipe: it holds what it was counted to hold.
                _ => break,
            }
        }
        buffer.truncate(taken);
        self.held_bytes = 0;
        Some(output)
    }
}

fn move_some(from: impl AsFd, to: impl AsFd, bytes: usize) -> Result<usize, Errno> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    match retry_on_intr(|| splice(&from, None, &to, None, bytes, flags)) {
        // The call is refused, which says nothing of the connection.
        Err(
            Refused::INVAL
            | Refused::NOSYS
            | Refused::PERM
            | Refused::ACCESS
            | Refused::NOMEM
            | Refused::OPNOTSUPP,
        ) => Err(Errno::ENOBUFS),
        moved => Ok(moved?),
    }
}
