//! Simulated bytes from one socket to another, through a pipe that is small, in pieces, with all that may come between.

use super::chaos::{Fault, fire};
use super::net::World;
use super::{Input, InputKind, OutKind, Sim};
use crate::event::{Errno, Event, Payload, Socket, Then};
use crate::output::Output;
use crate::token::Token;
use std::collections::VecDeque;

/// What pipes hold: now a byte, now more than anybody sends in a turn.
const PIPE_BYTES: [usize; 4] = [1, 100, 5000, 65_536];

/// What a splice has received and not passed on.
pub(super) struct Pipe {
    to: Socket,
    turn_bytes_max: usize,
    bytes: VecDeque<u8>,
    bytes_max: usize,
    /// The stream has ended behind these bytes.
    has_ended: bool,
}

impl Pipe {
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether anything can be moved; `from` is where it comes from.
    pub(super) fn can_move(&self, from: Socket, world: &World) -> bool {
        let takes = !self.has_ended && self.bytes.len() < self.bytes_max && world.has_input(from);
        let gives = !self.bytes.is_empty() && world.has_room(self.to);
        takes || gives
    }

    fn into_payload(self) -> Payload {
        if self.bytes.is_empty() {
            return Payload::None;
        }
        let mut output = Box::<Output>::default();
        output.buffer().extend(self.bytes);
        Payload::Output(output)
    }
}

impl Sim {
    pub(super) fn splice(&mut self, token: Token, from: Socket, to: Socket, turn_bytes_max: u32) {
        let bytes_max =
            if self.chaos.is_on(Fault::ShortSend) { PIPE_BYTES[self.rng.below(4)] } else { PIPE_BYTES[3] };
        let (turn_bytes_max, bytes) = (turn_bytes_max as usize, VecDeque::new());
        let pipe = Pipe { to, turn_bytes_max, bytes, bytes_max, has_ended: false };
        self.push(to, token, OutKind::Fed(from));
        self.want(from, token, InputKind::Splice(pipe));
    }

    /// Whoever had this pipe is over.
    pub(super) fn end_splice(&mut self, pipe: Pipe) -> Payload {
        self.pipes -= usize::from(!pipe.bytes.is_empty());
        self.outputs.remove(&pipe.to);
        pipe.into_payload()
    }

    pub(super) fn complete_splice(&mut self, from: Socket, mut input: Input, events: &mut Vec<Event>) {
        let token = input.token;
        let InputKind::Splice(mut pipe) = input.kind else { unreachable!("the caller looked") };
        let can_move = pipe.can_move(from, &self.world.borrow());
        let result = if input.is_cancelled && (!can_move || self.rng.one_in(3)) {
            Some(Err(Errno::ECANCELED))
        } else {
            if input.is_cancelled {
                fire(Fault::LateCancel);
            }
            self.move_bytes(from, token, &mut pipe, events)
        };
        match result {
            Some(result) => {
                let payload = self.end_splice(pipe);
                events.push(Event { token, result, more: false, payload });
            }
            None => {
                input.kind = InputKind::Splice(pipe);
                self.inputs.insert(from, input);
            }
        }
    }

    /// Takes in and gives away once; how it ended, if it did.
    fn move_bytes(
        &mut self,
        from: Socket,
        token: Token,
        pipe: &mut Pipe,
        events: &mut Vec<Event>,
    ) -> Option<Result<u32, Errno>> {
        if pipe.bytes.is_empty()
            && (self.pipes >= self.pipes_max || self.hits_and_fires(Fault::DescriptorsOut))
        {
            return Some(Err(Errno::ENOBUFS));
        }
        self.pipes -= usize::from(!pipe.bytes.is_empty());
        for (fault, socket) in [(Fault::Reset, from), (Fault::BrokenPipe, pipe.to)] {
            if self.hits_and_fires(fault) {
                self.world.borrow_mut().break_off(socket);
            }
        }
        let room = (pipe.bytes_max - pipe.bytes.len()).min(pipe.turn_bytes_max);
        let mut failed = None;
        if room > 0 && !pipe.has_ended && self.world.borrow().has_input(from) {
            let bytes_max = self.cut(room, Fault::ShortRecv);
            let mut buffer = vec![0; bytes_max];
            match self.world.borrow_mut().recv(from, &mut buffer) {
                Ok(bytes) => {
                    pipe.bytes.extend(&buffer[..bytes]);
                    pipe.has_ended = bytes == 0;
                }
                Err(errno) => failed = Some(Err(errno)),
            }
        }
        if !pipe.bytes.is_empty() && failed.is_none() {
            let bytes_max = self.cut(pipe.bytes.len(), Fault::ShortSend);
            let mut output = Output::default();
            output.buffer().extend(pipe.bytes.iter().take(bytes_max));
            match self.world.borrow_mut().send(pipe.to, &output, usize::MAX, Then::GoOn) {
                Ok(0) => {}
                Ok(bytes) => {
                    pipe.bytes.drain(..bytes);
                    events.push(Event {
                        token,
                        result: Ok(bytes as u32),
                        more: true,
                        payload: Payload::None,
                    });
                }
                Err(_) => failed = Some(Err(Errno::EPIPE)),
            }
        }
        self.pipes += usize::from(!pipe.bytes.is_empty());
        let is_all = pipe.has_ended && (pipe.bytes.is_empty() || self.rng.one_in(2));
        failed.or_else(|| is_all.then_some(Ok(0)))
    }

    fn cut(&mut self, bytes: usize, fault: Fault) -> usize {
        if bytes > 1 && self.hits_and_fires(fault) { 1 + self.rng.below(bytes - 1) } else { bytes }
    }
}
