//! Which connections of HTTP/2 with servers there are, and what each is to do. Pure data.

use super::groups::Place;
use ringmill_engine::{ConnId, Tick};
use std::time::Duration;

/// Streams of one connection, whatever its server takes.
pub(super) const STREAMS_MAX: usize = 256;
/// As long as the server has not said it.
pub(super) const STREAMS_FIRST: usize = 100;

/// A connection, or an attempt to get one.
pub(super) struct TrunkRef {
    pub(super) place: Place,
    /// `None` until it is there.
    pub(super) conn: Option<ConnId>,
    pub(super) opened: Tick,
    /// Streams that it has.
    pub(super) lanes: usize,
    /// Streams that it is to open.
    pub(super) wanted: usize,
    pub(super) streams_max: usize,
    pub(super) is_usable: bool,
}

impl TrunkRef {
    /// One that is asked for, with a stream.
    pub(super) fn wanted(place: Place, now: Tick) -> TrunkRef {
        let streams_max = STREAMS_FIRST;
        TrunkRef { place, conn: None, opened: now, lanes: 0, wanted: 1, streams_max, is_usable: true }
    }

    /// Whether one more stream with this server may be opened on it.
    pub(super) fn has_room(&self, place: Place, now: Tick, age_max: Duration) -> bool {
        let is_young = self.conn.is_none() || now.since(self.opened) < age_max;
        self.place == place && self.is_usable && is_young && self.lanes + self.wanted < self.streams_max
    }
}
