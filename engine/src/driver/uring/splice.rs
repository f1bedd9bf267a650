//! Bytes from one socket to another: by plain calls, for IORING_OP_SPLICE goes to threads of the kernel's. The ring tells when there is
//! input, or room.

use super::Uring;
use crate::driver::splicing::{Splicing, Stand};
use crate::event::{Errno, Event, Socket};
use crate::sys;
use crate::sys::pipe::Pipes;
use crate::token::{Kind, Token};
use io_uring::opcode;
use io_uring::types::Fd;
use slab::Slab;
use std::collections::BTreeMap;

/// Those that go on, and their pipes.
#[derive(Default)]
pub(super) struct Splices {
    slots: Slab<Slot>,
    /// The slots by the sockets that they receive from, and by those that they send to.
    sources: BTreeMap<i32, u32>,
    sinks: BTreeMap<i32, u32>,
    /// Those that wait for nothing: the next turn is theirs, and does not wait.
    moving: Vec<u32>,
    pipes: Pipes,
}

struct Slot {
    splicing: Splicing,
    /// A poll is in flight.
    is_polled: bool,
    /// It ends with that.
    is_called_off: bool,
}

impl Splices {
    pub(super) fn set_pipes_max(&mut self, max: usize) {
        self.pipes.set_max(max);
    }

    #[inline]
    pub(super) fn is_moving(&self) -> bool {
        !self.moving.is_empty()
    }

    /// Whether the ring is asked about none of them.
    pub(super) fn are_unasked(&self) -> bool {
        self.slots.iter().all(|(_, slot)| !slot.is_polled)
    }

    /// Nothing is moved any more.
    pub(super) fn stand_still(&mut self) {
        self.moving.clear();
    }

    pub(super) fn held_bytes(&self, from: Socket) -> usize {
        self.sources.get(&from.0).map_or(0, |key| self.slots[*key as usize].splicing.held_bytes())
    }

    fn remove(&mut self, key: u32) {
        let Slot { splicing, .. } = self.slots.remove(key as usize);
        self.sources.remove(&splicing.from.0);
        self.sinks.remove(&splicing.to.0);
    }
}

impl Uring {
    /// Begins with the next turn.
    pub(super) fn splice(&mut self, token: Token, from: Socket, to: Socket, turn_bytes_max: u32) {
        // The calls below would wait otherwise, whatever their flags say (splice(2)). The ring's own operations do not look at this.
        sys::set_nonblocking(from, true);
        sys::set_nonblocking(to, true);
        let splicing = Splicing::new(token, from, to, turn_bytes_max);
        let splices = &mut self.splices;
        let key = splices.slots.insert(Slot { splicing, is_polled: false, is_called_off: false }) as u32;
        splices.sources.insert(from.0, key);
        let before = splices.sinks.insert(to.0, key);
        debug_assert!(before.is_none(), "two operations write to one socket");
        splices.moving.push(key);
    }

    /// Moves what can be moved without waiting.
    pub(super) fn move_on(&mut self, events: &mut Vec<Event>) {
        for key in std::mem::take(&mut self.splices.moving) {
            self.step_splice(key, events);
        }
    }

    /// A socket is ready, or was asked about for too long.
    pub(super) fn splice_polled(&mut self, key: u32, events: &mut Vec<Event>) {
        let slot = &mut self.splices.slots[key as usize];
        slot.is_polled = false;
        if slot.is_called_off {
            return self.end_splice(key, events);
        }
        self.step_splice(key, events);
    }

    fn step_splice(&mut self, key: u32, events: &mut Vec<Event>) {
        let splices = &mut self.splices;
        let slot = &mut splices.slots[key as usize];
        let (stand, moved) = slot.splicing.step(&mut splices.pipes, events);
        let has_more = moved >= slot.splicing.turn_bytes_max as usize;
        let (socket, wanted) = match stand {
            Stand::Moving if has_more => return splices.moving.push(key),
            Stand::Moving | Stand::Source => (slot.splicing.from, libc::POLLIN | libc::POLLRDHUP),
            Stand::Sink => (slot.splicing.to, libc::POLLOUT),
            Stand::Over => return splices.remove(key),
        };
        slot.is_polled = true;
        let entry = opcode::PollAdd::new(Fd(socket.0), wanted as u32).build();
        self.push(&entry.user_data(Token::new(Kind::Splice, 0, key).to_bits()));
    }

    /// Ends what has this socket, if it is the one that is meant.
    pub(super) fn end_splices(&mut self, socket: Socket, target: Option<Token>) {
        let splices = &self.splices;
        if splices.slots.is_empty() {
            return;
        }
        let keys = [splices.sources.get(&socket.0).copied(), splices.sinks.get(&socket.0).copied()];
        for key in keys.into_iter().flatten() {
            let slot = &mut self.splices.slots[key as usize];
            if target.is_some_and(|target| target != slot.splicing.token) {
                continue;
            }
            slot.is_called_off = true;
            if slot.is_polled {
                self.cancel(Token::new(Kind::Splice, 0, key));
            } else {
                self.splices.moving.retain(|moving| *moving != key);
                let mut done = std::mem::take(&mut self.done);
                self.end_splice(key, &mut done);
                self.done = done;
            }
        }
    }

    fn end_splice(&mut self, key: u32, events: &mut Vec<Event>) {
        let splices = &mut self.splices;
        splices.slots[key as usize].splicing.end(Err(Errno::ECANCELED), &mut splices.pipes, events);
        splices.remove(key);
    }
}
