//! One [`Op::Splice`](crate::event::Op::Splice) by plain splice(2) calls, as both real drivers make them: they differ in how they wait.

use crate::event::{Errno, Event, Payload, Socket};
use crate::sys::pipe::{Pipe, Pipes};
use crate::token::Token;

/// Bytes on their way from one socket to another.
pub(super) struct Splicing {
    pub(super) token: Token,
    pub(super) from: Socket,
    pub(super) to: Socket,
    pub(super) turn_bytes_max: u32,
    /// There while bytes are in it.
    pipe: Option<Pipe>,
}

/// What has to come before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Nothing: something was moved, and there may be more.
    Moving,
    /// Input: there is none.
    Source,
    /// Room: there is none.
    Sink,
    /// It is over, and its last event is told.
    Over,
}

impl Splicing {
    pub(super) fn new(token: Token, from: Socket, to: Socket, turn_bytes_max: u32) -> Splicing {
        Splicing { token, from, to, turn_bytes_max, pipe: None }
    }

    /// What was received and is not passed on yet.
    pub(super) fn held_bytes(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::held_bytes)
    }

    /// Moves what there is, once; how much there was to move, too.
    pub(super) fn step(&mut self, pipes: &mut Pipes, events: &mut Vec<Event>) -> (Stand, usize) {
        let Some(mut pipe) = self.pipe.take().or_else(|| pipes.take()) else {
            return (self.over(Err(Errno::ENOBUFS), None, pipes, events), 0);
        };
        if pipe.held_bytes() == 0 {
            match pipe.fill(self.from, self.turn_bytes_max as usize) {
                Ok(1..) => {}
                Ok(_) => return (self.over(Ok(0), Some(pipe), pipes, events), 0),
                Err(Errno::EAGAIN) => {
                    pipes.give(pipe);
                    return (Stand::Source, 0);
                }
                Err(errno) => return (self.over(Err(errno), Some(pipe), pipes, events), 0),
            }
        }
        let before = pipe.held_bytes();
        while pipe.held_bytes() > 0 {
            match pipe.empty(self.to) {
                Ok(1..) => {}
                Ok(_) | Err(Errno::EAGAIN) => break,
                Err(errno) => {
                    let errno = if errno == Errno::ENOBUFS { errno } else { Errno::EPIPE };
                    self.tell(before - pipe.held_bytes(), events);
                    return (self.over(Err(errno), Some(pipe), pipes, events), before);
                }
            }
        }
        self.tell(before - pipe.held_bytes(), events);
        if pipe.held_bytes() > 0 {
            self.pipe = Some(pipe);
            return (Stand::Sink, before);
        }
        pipes.give(pipe);
        (Stand::Moving, before)
    }

    /// Ends it with this result.
    pub(super) fn end(&mut self, result: Result<u32, Errno>, pipes: &mut Pipes, events: &mut Vec<Event>) {
        let pipe = self.pipe.take();
        self.over(result, pipe, pipes, events);
    }

    fn tell(&self, bytes: usize, events: &mut Vec<Event>) {
        if bytes > 0 {
            let result = Ok(bytes as u32);
            events.push(Event { token: self.token, result, more: true, payload: Payload::None });
        }
    }

    fn over(
        &self,
        result: Result<u32, Errno>,
        pipe: Option<Pipe>,
        pipes: &mut Pipes,
        events: &mut Vec<Event>,
    ) -> Stand {
        let mut payload = Payload::None;
        if let Some(mut pipe) = pipe {
            payload = pipe.take_rest().map_or(Payload::None, Payload::Output);
            pipes.give(pipe);
        }
        events.push(Event { token: self.token, result, more: false, payload });
        Stand::Over
    }
}
