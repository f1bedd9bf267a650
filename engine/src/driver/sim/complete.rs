//! How simulated operations end: what there is, or what a fault makes of it.

use super::chaos::{Fault, fire};
use super::{Input, InputKind, OutKind, Sim};
use crate::event::{Errno, Event, Payload, Socket, Then};
use crate::output::Output;
use crate::sys;
use crate::token::{Kind, Token};

/// What one receive brings while a drought uses up the pool, in bytes.
const DROUGHT_BYTES_MAX: u64 = 16;

impl Sim {
    pub(super) fn complete_input(&mut self, socket: Socket, number: u64, events: &mut Vec<Event>) {
        // The heap may still name an operation that was cancelled since.
        if self.inputs.get(&socket).is_none_or(|input| input.number != number) {
            return;
        }
        let mut input = self.inputs.remove(&socket).expect("looked up above");
        input.is_due = false;
        let token = input.token;
        let over = |result| Event { token, result, more: false, payload: Payload::None };
        let has_input = match input.kind {
            InputKind::Watch => true,
            _ => self.world.borrow().has_input(socket),
        };
        if matches!(input.kind, InputKind::Splice(_)) {
            return self.complete_splice(socket, input, events);
        }
        if input.is_cancelled && (!has_input || self.rng.one_in(3)) {
            return events.push(over(Err(Errno::ECANCELED)));
        }
        if input.is_cancelled {
            fire(Fault::LateCancel);
        }
        match input.kind {
            InputKind::Accept => self.complete_accept(socket, input, events),
            InputKind::Watch => {
                sys::clear_counter(socket);
                events.push(over(Ok(1)));
            }
            InputKind::Recv { turn_bytes_max, is_limited } => {
                self.complete_recv(socket, input, turn_bytes_max, is_limited, events);
            }
            InputKind::Datagrams => events.push(over(Ok(1))),
            InputKind::Splice(_) => unreachable!("looked at above"),
        }
    }

    /// EINTR or EAGAIN in place of a result.
    fn interruption(&mut self) -> Option<Errno> {
        if self.hits_and_fires(Fault::Interrupted) {
            Some(Errno::EINTR)
        } else if self.hits_and_fires(Fault::Again) {
            Some(Errno::EAGAIN)
        } else {
            None
        }
    }

    fn complete_accept(&mut self, listener: Socket, input: Input, events: &mut Vec<Event>) {
        let token = input.token;
        let event = |result, more| Event { token, result, more, payload: Payload::None };
        if let Some(errno) = self.interruption() {
            return events.push(event(Err(errno), false));
        }
        let waiting = self.world.borrow().has_input(listener);
        if waiting && self.hits_and_fires(Fault::DescriptorsOut) {
            let errno = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS][self.rng.below(4)];
            return events.push(event(Err(errno), false));
        }
        let accepted = self.world.borrow_mut().accept(listener);
        if let Some(socket) = accepted {
            if self.hits_and_fires(Fault::AcceptAborted) {
                self.world.borrow_mut().abort(socket);
                return events.push(event(Err(Errno::ECONNABORTED), false));
            }
            let over = self.hits_and_fires(Fault::AcceptOver);
            events.push(event(Ok(socket.0 as u32), !over));
            if over {
                return;
            }
        }
        self.inputs.insert(listener, input);
    }

    fn complete_recv(
        &mut self,
        socket: Socket,
        input: Input,
        turn_bytes_max: u32,
        is_limited: bool,
        events: &mut Vec<Event>,
    ) {
        let token = input.token;
        let event = |result, more, payload| Event { token, result, more, payload };
        if let Some(errno) = self.interruption() {
            return events.push(event(Err(errno), false, Payload::None));
        }
        // Rare, where it races with a cancel: so it gets help.
        let helped = input.is_cancelled && self.chaos.is_on(Fault::Reset) && self.rng.one_in(6);
        if helped || self.hits(Fault::Reset) {
            fire(Fault::Reset);
            self.world.borrow_mut().break_off(socket);
        }
        let drought = self.hits(Fault::Drought);
        let mut received = 0;
        loop {
            let short = self.hits(Fault::ShortRecv);
            let (rng, world) = (&mut self.rng, &self.world);
            self.is_pool_new.set(true);
            let mut block = None;
            let fill = |buffer: &mut [u8]| {
                let whole = buffer.len().min(turn_bytes_max as usize);
                let max = match (drought, short) {
                    (true, _) => 1 + rng.up_to(DROUGHT_BYTES_MAX - 1) as usize,
                    (_, true) => 1 + rng.below(whole),
                    _ => whole,
                };
                let available = world.borrow().available_bytes(socket);
                if short && max < whole.min(available) {
                    fire(Fault::ShortRecv);
                }
                world.borrow_mut().recv(socket, &mut buffer[..max])
            };
            match self.pool.fill(fill, |filled| block = Some(filled)) {
                None => {
                    fire(Fault::Drought);
                    return events.push(event(Err(Errno::ENOBUFS), false, Payload::None));
                }
                Some(Err(Errno::EAGAIN)) => break,
                Some(Err(errno)) => return events.push(event(Err(errno), false, Payload::None)),
                Some(Ok(bytes)) => {
                    let Some(block) = block else { return events.push(event(Ok(0), false, Payload::None)) };
                    received += bytes;
                    let is_enough = received >= turn_bytes_max as usize;
                    let over = self.hits_and_fires(Fault::RecvOver) || is_limited && is_enough;
                    events.push(event(Ok(bytes as u32), !over, Payload::Block(block)));
                    if over {
                        return;
                    }
                    // The kernel goes on while there is more: a turn may bring several pieces, and the end as well.
                    if is_enough || !(drought || self.rng.one_in(2)) {
                        break;
                    }
                }
            }
        }
        self.inputs.insert(socket, input);
    }

    pub(super) fn complete_output(&mut self, socket: Socket, number: u64, events: &mut Vec<Event>) {
        if self.outputs.get(&socket).is_none_or(|out| out.number != number) {
            return;
        }
        let mut out = self.outputs.remove(&socket).expect("looked up above");
        out.is_due = false;
        let has_room = self.world.borrow().can_end(socket, &out.kind);
        if out.is_cancelled && (!has_room || self.rng.one_in(2)) {
            return events.push(finished(out.token, Err(Errno::ECANCELED), out.kind));
        }
        if !has_room {
            // The peer made its window smaller since.
            self.outputs.insert(socket, out);
            return;
        }
        if out.is_cancelled {
            fire(Fault::LateCancel);
        }
        let result = match &out.kind {
            OutKind::Send(output, then) => self.transmit(socket, output, *then),
            OutKind::Room => Ok(1),
            OutKind::Connect(address) => self.world.borrow_mut().connect(socket, address),
            OutKind::Fed(_) => unreachable!("it ends with its input"),
        };
        events.push(finished(out.token, result, out.kind));
    }

    fn transmit(&mut self, socket: Socket, output: &Output, then: Then) -> Result<u32, Errno> {
        if let Some(errno) = self.interruption() {
            return Err(errno);
        }
        if self.hits_and_fires(Fault::BrokenPipe) {
            self.world.borrow_mut().break_off(socket);
        }
        let mut max = output.len();
        if self.hits(Fault::ShortSend) && max > 1 {
            max = 1 + self.rng.below(max - 1);
            fire(Fault::ShortSend);
        }
        self.world.borrow_mut().send(socket, output, max, then).map(|bytes| bytes as u32)
    }

    /// A completion of an operation whose connection is gone, perhaps with a buffer.
    pub(super) fn tell_stale(&mut self) {
        if self.retired.is_empty() || !self.hits(Fault::Stale) {
            return;
        }
        let old = self.retired[self.rng.below(self.retired.len())];
        if self.generations[&old.index()] != old.generation() {
            fire(Fault::Stale);
        }
        let token = Token::new(Kind::Recv, old.generation(), old.index());
        let more = self.rng.one_in(2);
        let plain = |result| Event { token, result, more: false, payload: Payload::None };
        let event = match self.rng.below(6) {
            0 => plain(Err(Errno::ECANCELED)),
            1 => plain(Ok(0)),
            2 => plain(Err(Errno::ECONNRESET)),
            3 => {
                let mut output = Box::<Output>::default();
                output.buffer().extend_from_slice(b"stale");
                let token = Token::new(Kind::Send, old.generation(), old.index());
                finished(token, Ok(5), OutKind::Send(output, Then::Rest))
            }
            _ => {
                self.is_pool_new.set(true);
                let mut block = None;
                let fill = |buffer: &mut [u8]| {
                    buffer[..5].copy_from_slice(b"stale");
                    Ok::<usize, Errno>(5)
                };
                self.pool.fill(fill, |filled| block = Some(filled));
                let Some(block) = block else { return };
                Event { token, result: Ok(5), more, payload: Payload::Block(block) }
            }
        };
        self.done.push(event);
    }
}

/// The event of an operation whose memory comes back.
pub(super) fn finished(token: Token, result: Result<u32, Errno>, kind: OutKind) -> Event {
    let payload = match kind {
        OutKind::Send(output, _) => Payload::Output(output),
        OutKind::Room | OutKind::Connect(_) | OutKind::Fed(_) => Payload::None,
    };
    Event { token, result, more: false, payload }
}
