//! Streams with servers of HTTP/2. A stream counts as a connection: limits, the queue and idle ones are of streams.

use super::exchange::{Exchange, Stage};
use super::groups::Place;
use super::state::{HOPS_MAX, State};
use super::trunks::{STREAMS_MAX, TrunkRef};
use super::two::ready::Complaint;
use super::whom::Whom;
use ringmill_engine::{Io, Refusal};

impl State {
    /// Has a stream opened, on a connection that is there, or on a new one.
    pub(super) fn want_stream(&mut self, place: Place) {
        let config = self.groups.config(place.group);
        let (now, age_max) = (self.now, config.age_max);
        let mut trunks = self.trunks.iter_mut();
        if let Some((_, trunk)) = trunks.find(|(_, trunk)| trunk.has_room(place, now, age_max)) {
            trunk.wanted += 1;
            if let Some(conn) = trunk.conn {
                self.wake(conn);
            }
            return;
        }
        self.trunks.insert(TrunkRef::wanted(place, now));
        // As long as it is there its place is nobody else's.
        self.groups.group(place.group).exchanges += 1;
        self.connect(place);
    }

    /// A connection that was asked for is there.
    pub(super) fn trunk_open(&mut self, place: Place, io: &Io<'_>) -> Option<usize> {
        let is_it = |trunk: &TrunkRef| trunk.place == place && trunk.conn.is_none();
        let (key, trunk) = self.trunks.iter_mut().find(|(_, trunk)| is_it(trunk))?;
        (trunk.conn, trunk.opened) = (Some(io.id()), io.now());
        Some(key)
    }

    /// The server has not looked at the request that this stream carried: it may be sent once more, whatever it asks for (RFC 9113, 8.7). That
    /// is free where its connection ends, for many have requests on their way then. Where it is the server that has refused it, another one is
    /// asked if there is one, and beyond the first time the budget says when that is enough: then the request is lost with its stream.
    pub(super) fn unprocessed(&mut self, lane: usize, is_refused: bool) {
        let mut upstreams = self.upstreams.iter();
        let upstream = upstreams.find(|(_, upstream)| upstream.conn == Whom::Lane(lane));
        let Some(key) = upstream.and_then(|(_, upstream)| upstream.exchange) else { return };
        let Exchange { place, tries, is_kept, stage, .. } = self.exchanges[key];
        let saved_max = self.groups.config(place.group).connections_max;
        let may_repeat = is_kept && stage == Stage::Unanswered && tries < HOPS_MAX;
        if may_repeat && (!is_refused || tries == 1 || self.groups[place].spend(self.now, saved_max)) {
            self.detach(key);
            self.exchanges[key].needs_new = true;
            let other = self.choose(key, is_refused.then_some(place.server));
            self.dispatch(key, other);
        }
    }

    /// This stream's connection takes no more requests: the one that it has is its last.
    pub(super) fn lane_leaves(&mut self, lane: usize) {
        let mut upstreams = self.upstreams.iter_mut();
        if let Some((_, upstream)) = upstreams.find(|(_, upstream)| upstream.conn == Whom::Lane(lane)) {
            upstream.is_surplus = true;
        }
    }

    /// It could not be made.
    pub(super) fn trunk_refused(&mut self, place: Place, refusal: Refusal) {
        let is_it = |trunk: &TrunkRef| trunk.place == place && trunk.conn.is_none();
        if let Some((key, _)) = self.trunks.iter().find(|(_, trunk)| is_it(trunk)) {
            self.refuse_wanted(key, refusal, None);
        }
    }

    /// It is gone.
    pub(super) fn trunk_closed(&mut self, key: usize, is_spoken: bool) {
        if !is_spoken {
            return self.refuse_wanted(key, Refusal::Unsecured, Some("it did not agree on h2 (ALPN)"));
        }
        self.trunk_leaves(key);
        self.forget_trunk(key);
    }

    /// It takes no more requests, and may go on for long with those that it has: what it was to open is opened elsewhere.
    pub(super) fn trunk_leaves(&mut self, key: usize) {
        self.lose_wanted(key, State::stream_lost);
    }

    fn refuse_wanted(&mut self, key: usize, refusal: Refusal, why: Option<&str>) {
        self.lose_wanted(key, |state, place| state.refused(place, refusal, why));
        self.forget_trunk(key);
    }

    /// Nobody is to want streams of it, and those that are wanted are lost to it.
    fn lose_wanted(&mut self, key: usize, lose: impl Fn(&mut State, Place)) {
        let trunk = &mut self.trunks[key];
        trunk.is_usable = false;
        let (place, wanted) = (trunk.place, std::mem::take(&mut trunk.wanted));
        for _ in 0..wanted {
            lose(self, place);
        }
    }

    fn forget_trunk(&mut self, key: usize) {
        let group = self.trunks.remove(key).place.group;
        self.groups.group(group).exchanges -= 1;
        self.groups.forget_if_done(group);
    }

    /// A connection ended before it had opened a stream that was wanted of it, as a kept one may end before it is used.
    fn stream_lost(&mut self, place: Place) {
        let to = &mut self.groups[place];
        to.end_connect();
        to.close();
        if let Some(key) = self.next_waiting(place, true) {
            let exchange = &mut self.exchanges[key];
            exchange.tries = exchange.tries.saturating_add(1);
            if exchange.tries < HOPS_MAX {
                self.set_out_again(key);
            } else {
                self.fail(key, 502, "the upstream closed its connection before it had answered");
            }
        }
        self.connect_more(place);
        self.tell_others(place);
    }

    /// A connection has not done what it is for, where it is one of streams: who has one of his own leaves that.
    pub(super) fn complain(&self, upstream: usize, complaint: Complaint) {
        if let Whom::Lane(lane) = self.upstreams[upstream].conn {
            self.bells.complain(lane, complaint);
        }
    }

    /// Whether a connection that is there may be given streams: not where no plan has its server any more, unless they were wanted before.
    pub(super) fn wants_trunk(&self, key: usize) -> bool {
        let TrunkRef { place, wanted, .. } = self.trunks[key];
        wanted > 0 || !self.groups.is_leaving(place.group)
    }

    /// Has connections that nobody wants any more look at that.
    pub(super) fn leave_trunks(&self) {
        let leaving = self.trunks.iter().filter(|(_, trunk)| self.groups.is_leaving(trunk.place.group));
        leaving.filter_map(|(_, trunk)| trunk.conn).for_each(|conn| self.wake(conn));
    }

    /// How many streams a connection is to open now.
    pub(super) fn take_wanted(&mut self, key: usize) -> usize {
        let trunk = &mut self.trunks[key];
        let wanted = std::mem::take(&mut trunk.wanted);
        trunk.lanes += wanted;
        wanted
    }

    /// How many streams a connection has, and how many it may have; none where it ends.
    pub(super) fn note_trunk(&mut self, key: usize, lanes: usize, streams_max: Option<usize>) {
        let trunk = &mut self.trunks[key];
        trunk.lanes = lanes;
        trunk.is_usable &= streams_max.is_some();
        trunk.streams_max = streams_max.map_or(0, |max| max.min(STREAMS_MAX));
    }
}
