//! The connection of a client and the one of its server: bytes for either end, and how far both are. Pure data; who fills and
//! empties it is `ends.rs`.

use crate::proxy::groups::Place;
use crate::proxy::observe::{End as Outcome, Noted};
use crate::proxy::whom::Whom;
use ringmill_engine::{Output, Tick};
use std::time::Duration;

/// So much waits for one end, here and in its connection, before the other one is not read any more, in bytes. It has to stay below the
/// engine's high water, at which an end would not be read itself.
const HELD_BYTES: usize = 128 * 1024;

/// Bytes in a row come in at most so many pieces of one size.
const PIECES: usize = 64;
/// So many bytes in a row are worth passing the next ones on without copying, where nobody says otherwise.
pub(super) const SPLICE_BYTES_MIN: u32 = 256 * 1024;

/// Which end of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum End {
    Client,
    Server,
}

/// Where a session stands: at one end of a pair.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Joint {
    pub(in crate::proxy) pair: usize,
    pub(in crate::proxy) end: End,
}

/// How far a client is on its way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It waits for a connection.
    Waiting,
    /// It has one.
    On,
    /// It had one, or gets none any more.
    Off,
}

pub(in crate::proxy) struct Pair {
    pub(super) place: Place,
    pub(super) way: Way,
    pub(super) wanted: crate::proxy::pool::Wanted,
    /// Attempts to connect that were refused: all servers may be tried, of which there may be many.
    pub(super) refusals: u32,
    /// One end broke off: so does the other one.
    pub(super) is_broken: bool,
    conns: [Option<Whom>; 2],
    /// From the client to the server, and back.
    flows: [Flow; 2],
    pub(super) idle_timeout: Duration,
    /// When anything last moved.
    pub(super) moved: Tick,
    /// When the client has waited too long for a connection.
    pub(super) wait_due: Tick,
    /// What is told at its end, where anything is.
    pub(in crate::proxy) seen: Option<Noted>,
    /// What the connection with the server begins with.
    pub(super) header: Vec<u8>,
}

/// Bytes from one end to the other.
#[derive(Default)]
pub(super) struct Flow {
    /// What the connection that it leads to has not got yet.
    output: Option<Box<Output>>,
    /// So much more is taken.
    room: usize,
    /// The end that fills it waits for room.
    is_held: bool,
    /// That end has ended.
    pub(super) has_ended: bool,
    /// So many were taken in all.
    bytes: u64,
    /// So many were taken in a row, and from how many on they are spliced.
    run: u32,
    splice_from: u32,
}

impl Pair {
    pub(super) fn new(client: impl Into<Whom>, place: Place, idle_timeout: Duration, now: Tick) -> Pair {
        let flow = || Flow { splice_from: SPLICE_BYTES_MIN, ..Flow::default() };
        Pair {
            place,
            way: Way::Off,
            wanted: crate::proxy::pool::Wanted::Any,
            refusals: 0,
            is_broken: false,
            conns: [Some(client.into()), None],
            flows: [flow(), flow()],
            idle_timeout,
            moved: now,
            wait_due: Tick::NEVER,
            seen: None,
            header: Vec::new(),
        }
    }

    /// The connection at this end, if it is there.
    pub(super) fn conn(&self, end: End) -> Option<Whom> {
        self.conns[end as usize]
    }

    /// There is a connection at this end, or no longer.
    pub(super) fn set_conn(&mut self, end: End, conn: Option<Whom>) {
        self.conns[end as usize] = conn;
    }

    pub(super) fn is_left(&self) -> bool {
        self.conns == [None, None]
    }

    /// From so many bytes in a row on, they are spliced.
    pub(super) fn splice_from(&mut self, bytes: u32) {
        self.flows.iter_mut().for_each(|flow| flow.splice_from = bytes);
    }

    /// What this end fills.
    pub(super) fn from(&mut self, end: End) -> &mut Flow {
        &mut self.flows[end as usize]
    }

    /// What leads to this end.
    pub(super) fn to(&mut self, end: End) -> &mut Flow {
        &mut self.flows[end.other() as usize]
    }

    /// What is told of it, with the bytes that came from either end.
    pub(super) fn take_seen(&mut self) -> Option<Noted> {
        let mut noted = self.seen.take()?;
        noted.seen.received += self.flows[End::Client as usize].bytes;
        noted.seen.sent += self.flows[End::Server as usize].bytes;
        Some(noted)
    }

    /// One end broke off, or both are to.
    pub(super) fn break_off(&mut self, why: Outcome) {
        self.is_broken = true;
        if let Some(Noted { seen, .. }) = &mut self.seen {
            seen.end.get_or_insert(why);
        }
    }

    /// Both ends have ended.
    pub(super) fn is_whole(&self) -> bool {
        self.flows.iter().all(|flow| flow.has_ended)
    }
}

impl End {
    pub(super) fn other(self) -> End {
        match self {
            End::Client => End::Server,
            End::Server => End::Client,
        }
    }
}

impl Flow {
    /// Takes of `input` what there is room for. Says how much that was, and whether the end that it leads to is to look.
    pub(super) fn put(&mut self, input: &[u8], spare: impl FnOnce() -> Box<Output>) -> (usize, bool) {
        let taken = input.len().min(self.room);
        let is_first = taken > 0 && self.output.is_none();
        if taken > 0 {
            self.output.get_or_insert_with(spare).buffer().extend_from_slice(&input[..taken]);
            self.room -= taken;
            self.count(taken as u64);
            // A piece that is small beside it is the end of a row.
            let is_row = taken >= self.splice_from as usize / PIECES;
            self.run = if is_row { self.run.saturating_add(taken as u32) } else { 0 };
        }
        let is_held = taken < input.len();
        let is_news = is_held && !self.is_held;
        self.is_held |= is_held;
        (taken, is_first || is_news)
    }

    /// So many more were taken, here or past it.
    pub(super) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Takes what was put, for the connection that it leads to.
    pub(super) fn take(&mut self) -> Option<Box<Output>> {
        self.output.take()
    }

    /// So much waits in the connection that it leads to, which takes so much more below its high water. Whether the end that fills this may
    /// go on, having waited; and whether it has to be looked at again once there is room.
    pub(super) fn set_room(&mut self, queued_bytes: usize, room_bytes: usize) -> Room {
        self.room = room_bytes.saturating_sub(1).min(HELD_BYTES.saturating_sub(queued_bytes));
        if !self.is_held {
            return Room::Enough;
        }
        // Not before half of it is free: pausing and going on costs more than a few bytes are worth.
        if self.room < queued_bytes || self.room == 0 {
            return Room::Later;
        }
        self.is_held = false;
        Room::Again
    }

    /// The end that fills it may go on, whatever room there is.
    pub(super) fn resume(&mut self) -> Room {
        if std::mem::take(&mut self.is_held) { Room::Again } else { Room::Enough }
    }

    /// Whether so much came in a row, since this was last so, that more is likely.
    pub(super) fn is_bulk(&mut self) -> bool {
        let is_bulk = self.run > self.splice_from;
        if is_bulk {
            self.run = 0;
        }
        is_bulk
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }
}

/// Whether the end that fills a flow may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It never stopped.
    Enough,
    /// It is to be told that it may.
    Again,
    /// Once there is room.
    Later,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_what_there_is_room_for() {
        let mut flow = Flow { splice_from: u32::MAX, ..Flow::default() };
        assert_eq!(flow.put(b"abc", Box::default), (0, true), "nobody is there to take it");
        assert!(flow.is_held());
        assert_eq!(flow.set_room(0, 9), Room::Again);
        assert_eq!(flow.put(b"abc", Box::default), (3, true));
        assert_eq!(flow.put(b"defgh", Box::default), (5, false), "it has been told");
        assert_eq!(flow.put(b"i", Box::default), (0, true));
        assert_eq!(flow.put(b"i", Box::default), (0, false));
        assert_eq!(flow.take().map(|output| output.len()), Some(8));
        assert_eq!(flow.set_room(8, 1), Room::Later);
        assert_eq!(flow.set_room(5, 4), Room::Later, "less than half is free");
        assert_eq!(flow.set_room(4, 5), Room::Again);
        assert_eq!(flow.put(b"ijklm", Box::default), (4, true));
        assert_eq!(flow.set_room(HELD_BYTES, usize::MAX), Room::Later);
        assert_eq!(flow.set_room(HELD_BYTES / 2, usize::MAX), Room::Again);
        assert_eq!(flow.set_room(0, usize::MAX), Room::Enough);
        assert_eq!(flow.put(&vec![0; HELD_BYTES + 1], Box::default), (HELD_BYTES, true));
    }
}
