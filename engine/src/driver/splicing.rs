//! One [`Op::Splice`](crate::event::Op::Splice) by plain splice(2) calls, as both real drivers make them: they differ in how they wait.

use crate::event::{Errno, Event, Payload, Socket};
use crate::sys::pipe::{Pipe, Pipes};
use crate::token::Token;

/// Bytes that are received at once, and passed on before the next ones.
const FILL_BYTES: usize = 128 * 1024;

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

    /// Moves what there is, up to the turn's share; how much that was, too.
    pub(super) fn step(&mut self, pipes: &mut Pipes, events: &mut Vec<Event>) -> (Stand, usize) {
        let mut passed = 0;
        let stand = self.pass(pipes, &mut passed, events);
        (stand, passed)
    }

    fn pass(&mut self, pipes: &mut Pipes, passed: &mut usize, events: &mut Vec<Event>) -> Stand {
        let Some(mut pipe) = self.pipe.take().or_else(|| pipes.take()) else {
            return self.over(Err(Errno::ENOBUFS), None, pipes, events);
        };
        let (mut more, fill_bytes) = (false, FILL_BYTES.min(self.turn_bytes_max as usize));
        let stand = loop {
            if pipe.held_bytes() == 0 {
                match pipe.fill(self.from, fill_bytes) {
                    Ok(bytes @ 1..) => more = bytes == fill_bytes,
                    Ok(_) => break Err(Ok(0)),
                    Err(Errno::EAGAIN) => break Ok(Stand::Source),
                    Err(errno) => break Err(Err(errno)),
                }
            }
            match pipe.empty(self.to) {
                Ok(bytes @ 1..) => *passed += bytes,
                Ok(_) | Err(Errno::EAGAIN) => break Ok(Stand::Sink),
                Err(Errno::ENOBUFS) => break Err(Err(Errno::ENOBUFS)),
                Err(_) => break Err(Err(Errno::EPIPE)),
            }
            if pipe.held_bytes() == 0 && (!more || *passed >= self.turn_bytes_max as usize) {
                break Ok(Stand::Moving);
            }
        };
        if *passed > 0 {
            let (token, result) = (self.token, Ok(*passed as u32));
            events.push(Event { token, result, more: true, payload: Payload::None });
        }
        if let Err(result) = stand {
            return self.over(result, Some(pipe), pipes, events);
        }
        if pipe.held_bytes() > 0 {
            self.pipe = Some(pipe);
        } else {
            pipes.give(pipe);
        }
        stand.unwrap_or(Stand::Over)
    }

    /// Ends it with this result.
    pub(super) fn end(&mut self, result: Result<u32, Errno>, pipes: &mut Pipes, events: &mut Vec<Event>) {
        let pipe = self.pipe.take();
        self.over(result, pipe, pipes, events);
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
