//! Whom an exchange wakes: a connection, or one stream of a connection of HTTP/2.

use super::two::ready::{Bell, Complaint};
use ringmill_engine::{ConnId, Io};
use slab::Slab;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Conn(ConnId),
    /// The stream with this bell.
    Lane(usize),
}

impl From<ConnId> for Whom {
    fn from(conn: ConnId) -> Whom {
        Whom::Conn(conn)
    }
}

/// Those of all streams of a worker.
#[derive(Default)]
pub(super) struct Bells {
    all: Slab<Arc<Bell>>,
    /// That of the stream whose session opens next.
    entering: Option<usize>,
    /// The status with which the client of the stream that leaves next was answered without its session's knowing.
    answer: Option<u16>,
    /// Connections until now that carry some.
    connections: u64,
}

impl Bells {
    /// The session that opens next is that of a stream with this bell. Returns its number.
    pub(super) fn enter(&mut self, bell: Arc<Bell>) -> usize {
        let key = self.all.insert(bell);
        self.entering = Some(key);
        key
    }

    /// One more connection; its number.
    pub(super) fn count_connection(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    /// It has opened. That of a check is woken by nobody, and has not asked.
    pub(super) fn entered(&mut self) {
        self.entering = None;
    }

    /// The client of the stream that is closed and leaves next was answered with this status, and not by its session.
    pub(super) fn answer(&mut self, status: u16) {
        self.answer = Some(status);
    }

    /// That status, for a session that is closed.
    pub(super) fn take_answer(&mut self) -> Option<u16> {
        self.answer.take()
    }

    /// The stream is over.
    pub(super) fn leave(&mut self, key: usize) {
        self.answer = None;
        self.all.try_remove(key);
    }

    /// What a session that opens is woken by.
    pub(super) fn whom(&mut self, io: &Io<'_>) -> Whom {
        self.entering.take().map_or_else(|| Whom::Conn(io.id()), Whom::Lane)
    }

    /// The connection of this stream has not done what it is for.
    pub(super) fn complain(&self, key: usize, complaint: Complaint) {
        if let Some(bell) = self.all.get(key) {
            bell.complain(complaint);
        }
    }

    pub(super) fn ring(&self, key: usize) {
        if let Some(bell) = self.all.get(key) {
            bell.ring();
        }
    }
}
