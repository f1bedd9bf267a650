//! What `worker/check.rs` compares a worker with: what its driver knows. Changes nothing.

use super::{Input, OutKind, Sim};
use crate::event::{Event, Op, Payload, Socket, Then};
use crate::token::Token;

impl Sim {
    /// The token of every operation whose last event is still to come, sorted.
    pub(crate) fn in_flight(&self) -> Vec<Token> {
        let queued = self.queued.iter().filter_map(|op| match op {
            Op::Accept { token, .. }
            | Op::AcceptRest { token, .. }
            | Op::Connect { token, .. }
            | Op::Recv { token, .. }
            | Op::Send { token, .. }
            | Op::Splice { token, .. }
            | Op::Watch { token, .. }
            | Op::AwaitDatagrams { token, .. }
            | Op::AwaitRoom { token, .. } => Some(*token),
            _ => None,
        });
        let inputs = self.inputs.values().map(|input| input.token);
        // A splice is known by where it receives.
        let outputs = self.outputs.values().filter(|out| !matches!(out.kind, OutKind::Fed(_)));
        let outputs = outputs.map(|out| out.token);
        let told = self.done.iter().chain(&self.silent).filter(|event| !event.more);
        let mut all: Vec<Token> =
            queued.chain(inputs).chain(outputs).chain(told.map(|event| event.token)).collect();
        all.sort_unstable();
        all
    }

    /// Whether a send with this token may be told as late as at the end of a long wait.
    pub(crate) fn is_silent(&self, token: Token) -> bool {
        let unasked = |op: &Op| matches!(op, Op::Send { token: of, then: Then::Rest, .. } if *of == token);
        !self.is_owing
            && (self.silent.iter().any(|event| event.token == token) || self.queued.iter().any(unasked))
    }

    /// Whether the peer of this socket was told that nothing more comes.
    pub(crate) fn is_shut(&self, socket: Socket) -> bool {
        self.world.borrow().is_shut(socket)
    }

    /// Each block has one owner: it is free, or one event has it. Call it between turns.
    pub(crate) fn check(&self) {
        if !self.is_pool_new.replace(false) {
            return;
        }
        let is_block = |event: &&Event| matches!(event.payload, Payload::Block(_));
        let told = self.done.iter().filter(is_block).count();
        assert_eq!(self.pool.out_count(), told, "receive buffers that nobody returned");
        self.pool.check();
    }

    /// Whether a receive, which may be over, was asked to end.
    pub(crate) fn is_ending(&self, token: Token, socket: Socket) -> bool {
        let asks = |op: &Op| match op {
            Op::Cancel { target, .. } => *target == token,
            Op::CancelAll { socket: of } => *of == socket,
            _ => false,
        };
        let goes_on = |input: &Input| input.token == token && !input.is_cancelled;
        self.queued.iter().any(asks) || !self.inputs.get(&socket).is_some_and(goes_on)
    }
}
