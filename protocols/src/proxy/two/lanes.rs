//! The lanes of one connection: their deadlines and their memory, and how they share what the connection has room for.

use super::lane::Lane;
use super::ready::Ready;
use super::sink::{Sent, Sink};
use super::wire::Wire;
use ringmill_engine::{Call, Io, Layer, Tick};
use slab::Slab;
use std::task::Context;
use std::time::Duration;

/// What there is of one side's stream.
pub(super) trait Carries<L: Layer> {
    fn lane(&mut self) -> &mut Lane<L>;
}

pub(super) struct Lanes<T> {
    all: Slab<T>,
    /// Of each number: when its lane is to be called, and the memory that it takes.
    notes: Vec<Note>,
    bytes: usize,
    /// What may be sent before the connection has room again.
    credit: usize,
    /// Those who wait for that, in their order; and of each number, whether it is among them.
    starved: Vec<usize>,
    is_starved: Vec<bool>,
}

#[derive(Clone, Copy)]
struct Note {
    due: Tick,
    bytes: usize,
}

/// What a lane has for its turn.
pub(super) struct Turn<'a> {
    credit: &'a mut usize,
    now: Tick,
    patience: Duration,
}

/// Less room than this is none: it would be spent in small frames.
const CREDIT_BYTES_MIN: usize = 4096;

const NOTHING: Note = Note { due: Tick::NEVER, bytes: 0 };

impl<T> Default for Lanes<T> {
    fn default() -> Lanes<T> {
        Lanes {
            all: Slab::new(),
            notes: Vec::new(),
            bytes: 0,
            credit: 0,
            starved: Vec::new(),
            is_starved: Vec::new(),
        }
    }
}

impl Turn<'_> {
    pub(super) fn send(&mut self, sink: &mut Sink, context: &mut Context<'_>) -> Sent {
        sink.send(context, self.credit, (self.now, self.patience))
    }
}

impl<T> Lanes<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// That of the next lane.
    pub(super) fn next_number(&self) -> usize {
        self.all.vacant_key()
    }

    pub(super) fn insert(&mut self, lane: T) {
        let number = self.all.insert(lane);
        if self.notes.len() <= number {
            self.notes.resize(number + 1, NOTHING);
            self.is_starved.resize(number + 1, false);
        }
    }

    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        self.put(number, NOTHING);
        self.all.try_remove(number)
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = T> {
        self.all.into_iter().map(|(_, lane)| lane)
    }

    /// Has all of them go on.
    pub(super) fn list_all(&self, ready: &Ready) {
        self.all.iter().for_each(|(number, _)| ready.list_lane(number));
    }

    /// A lane that is to go on; its session is called first if it was rung for.
    pub(super) fn get<L: Layer>(
        &mut self,
        number: usize,
        is_rung: bool,
        patience: Duration,
        layer: &mut L,
        io: &mut Io<'_>,
    ) -> Option<(&mut T, Turn<'_>)>
    where
        T: Carries<L>,
    {
        let lane = self.all.get_mut(number)?;
        if is_rung {
            lane.lane().call(layer, Call::Wake, io);
        }
        Some((lane, Turn { credit: &mut self.credit, now: io.now(), patience }))
    }

    /// What came of a lane's turn.
    pub(super) fn note<L: Layer>(&mut self, number: usize, io: &mut Io<'_>)
    where
        T: Carries<L>,
    {
        let Some(lane) = self.all.get_mut(number).map(T::lane) else { return };
        let note = Note { due: lane.due(io), bytes: lane.bytes() };
        self.put(number, note);
    }

    fn put(&mut self, number: usize, note: Note) {
        let before = std::mem::replace(&mut self.notes[number], note);
        self.bytes = self.bytes - before.bytes + note.bytes;
    }

    /// When one of them is to be called next.
    pub(super) fn due(&self) -> Tick {
        self.notes.iter().map(|note| note.due).min().unwrap_or(Tick::NEVER)
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Calls those whose time has come.
    pub(super) fn time_out<L: Layer>(&mut self, layer: &mut L, ready: &Ready, io: &mut Io<'_>)
    where
        T: Carries<L>,
    {
        let now = io.now();
        for number in 0..self.notes.len() {
            if self.notes[number].due <= now
                && let Some(lane) = self.all.get_mut(number)
            {
                lane.lane().call(layer, Call::Timeout, io);
                ready.list_lane(number);
            }
        }
    }

    pub(super) fn call_all<L: Layer>(
        &mut self,
        layer: &mut L,
        call: impl Fn() -> Call<'static>,
        ready: &Ready,
        io: &mut Io<'_>,
    ) where
        T: Carries<L>,
    {
        for (number, lane) in &mut self.all {
            lane.lane().call(layer, call(), io);
            ready.list_lane(number);
        }
    }

    /// This lane waits for the connection.
    pub(super) fn starve(&mut self, number: usize) {
        if !std::mem::replace(&mut self.is_starved[number], true) {
            self.starved.push(number);
        }
    }

    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// Writes what the connection has to send. Those who wait for room in it go on, in their order. Returns how many bytes were written.
    pub(super) fn pour(&mut self, wire: &Wire, ready: &Ready, io: &mut Io<'_>) -> usize {
        let before = wire.output_bytes();
        // Below high water: the engine would not read above it, and both sides would wait.
        if wire.pour(io.room_bytes().saturating_sub(1), io) {
            ready.list_connection();
        }
        let left = wire.output_bytes();
        let credit = io.room_bytes().saturating_sub(left);
        self.credit = if credit >= CREDIT_BYTES_MIN { credit } else { 0 };
        if self.credit > 0 {
            for number in self.starved.drain(..) {
                self.is_starved[number] = false;
                ready.list_lane(number);
            }
        }
        before - left
    }
}
