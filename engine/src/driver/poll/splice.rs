//! Bytes from one socket to another: who waits for input is with the socket that they come from, who waits for room with the other one,
//! and either knows where the other is.

use super::{Entry, Input, Out, Poll};
use crate::driver::splicing::{Splicing, Stand};
use crate::event::{Errno, Event, Socket};
use crate::token::Token;

impl Out {
    /// Where the bytes come from, if another socket's go out here.
    pub(super) fn fed_from(&self) -> Option<Socket> {
        match self {
            Out::Fed(from) => Some(*from),
            Out::Splice(splicing) => Some(splicing.from),
            _ => None,
        }
    }
}

impl Poll {
    pub(super) fn splice(&mut self, mut splicing: Box<Splicing>) {
        let (from, to) = (splicing.from, splicing.to);
        if let Err(errno) = self.register(to).and_then(|()| self.register(from)) {
            tracing::debug!("connections are not spliced: {errno}");
            return splicing.end(Err(Errno::ENOBUFS), &mut self.pipes, &mut self.done);
        }
        debug_assert!(matches!(self.entry(to).output, Out::None), "two operations write to one socket");
        self.entry(to).output = Out::Fed(from);
        self.want(from, Input::Splice(splicing));
    }

    /// Serves a socket whose bytes go to another one. Returns whether it stays ready.
    pub(super) fn serve_splice(&mut self, mut splicing: Box<Splicing>, events: &mut Vec<Event>) -> bool {
        let (from, to) = (splicing.from.0 as usize, splicing.to);
        match splicing.step(&mut self.pipes, events).0 {
            stand @ (Stand::Moving | Stand::Source) => {
                let entry = &mut self.sockets[from];
                entry.may_read = stand == Stand::Moving;
                entry.input = Input::Splice(splicing);
                entry.may_read
            }
            Stand::Sink => {
                self.sockets[from].input = Input::Blocked(to);
                self.sockets[to.0 as usize].output = Out::Splice(splicing);
                false
            }
            Stand::Over => {
                self.sockets[to.0 as usize].output = Out::None;
                false
            }
        }
    }

    pub(super) fn splicing(&self, from: Socket) -> Option<&Splicing> {
        match &self.sockets.get(from.0 as usize)?.input {
            Input::Splice(splicing) => Some(splicing),
            Input::Blocked(to) => match &self.sockets[to.0 as usize].output {
                Out::Splice(splicing) => Some(splicing),
                _ => None,
            },
            _ => None,
        }
    }

    /// Ends what passes the bytes of this socket on, if it is the one that is meant.
    pub(super) fn end_splice(&mut self, from: Socket, target: Option<Token>) {
        let Some(splicing) = self.splicing(from) else { return };
        if target.is_some_and(|target| target != splicing.token) {
            return;
        }
        let to = splicing.to;
        let input = std::mem::take(&mut self.entry(from).input);
        let output = std::mem::take(&mut self.entry(to).output);
        if let (Input::Splice(mut splicing), _) | (_, Out::Splice(mut splicing)) = (input, output) {
            splicing.end(Err(Errno::ECANCELED), &mut self.pipes, &mut self.done);
        }
    }
}

/// There is room again: what waited for it goes on.
pub(super) fn resume(sockets: &mut [Entry], ready: &mut Vec<i32>, splicing: Box<Splicing>) {
    let from = splicing.from;
    let entry = &mut sockets[from.0 as usize];
    entry.input = Input::Splice(splicing);
    // What is in the pipe goes first, whatever is behind it.
    entry.may_read = true;
    if !entry.is_ready {
        entry.is_ready = true;
        ready.push(from.0);
    }
}
