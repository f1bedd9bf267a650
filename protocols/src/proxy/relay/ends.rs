//! The two ends of a relay: how a client comes to a connection with a server, and what each of the two does with what comes on it.

use super::pair::{End, Joint, Pair, Room, Way};
use super::seen::{outcome_at, outcome_of};
use super::{Listener, group_of};
use crate::layer::proxy::write_header;
use crate::proxy::client::Client;
use crate::proxy::exchange::Stage;
use crate::proxy::groups::Place;
use crate::proxy::observe::{End as Outcome, Noted};
use crate::proxy::state::State;
use crate::proxy::whom::Whom;
use ringmill_engine::{CloseReason, Facts, Io, Next, Refusal, Step, Tick};
use std::time::Duration;

/// So long an attempt to connect is taken to last where the engine says it (`Config::connect_timeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl State {
    /// A client, whose connection goes to the upstream with this name, if there is one: it gets a server, or waits for one. It may have
    /// asked for a name of its own in TLS.
    pub(in crate::proxy) fn relay(
        &mut self,
        listener: &Listener,
        (name, authority): (Option<&str>, Option<&str>),
        mut seen: Option<Noted>,
        io: &mut Io<'_>,
    ) -> Option<Joint> {
        let relaying = &listener.relaying;
        self.note_name(&mut seen, authority, io);
        let Some(group) = name.and_then(|name| group_of(&self.groups, &self.plan, name)) else {
            self.note_unserved(seen, Outcome::Refused);
            return None;
        };
        let mut pair = Pair::new(io.id(), Place { group, server: 0 }, relaying.idle_timeout, io.now());
        pair.splice_from(relaying.splice_bytes_min);
        io.set_write_timeout(relaying.idle_timeout);
        let it = self.groups.group(group);
        if it.pool.is_by_client() {
            pair.wanted = it.pool.wanted_by(io.peer().and_then(|peer| peer.ip()).map(|peer| peer.ip()));
        }
        it.exchanges += 1;
        pair.seen = seen;
        if let Some(version) = self.groups.config(group).proxy_protocol {
            let (peer, local) = (io.peer(), io.local());
            write_header(version, peer.as_ref(), local.as_ref(), authority, &mut pair.header);
        }
        pair.to(End::Client).set_room(io.queued_bytes(), io.room_bytes());
        let pair = self.pairs.insert(pair);
        self.relay_choose(pair, None);
        io.set_deadline(Some(self.pairs[pair].wait_due));
        Some(Joint { pair, end: End::Client })
    }

    /// Has a client wait for a server, but not this one if there is another one.
    fn relay_choose(&mut self, key: usize, but: Option<usize>) {
        let Pair { place: Place { group, .. }, wanted, .. } = self.pairs[key];
        let server = self.groups.group(group).pool.choose(wanted, but, self.now);
        let place = server.map(|server| Place { group, server });
        let config = self.groups.config(group);
        let wait_timeout = config.queue_timeout + config.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let pair = &mut self.pairs[key];
        if pair.wait_due == Tick::NEVER {
            // One time for all servers that it tries.
            pair.wait_due = self.now.after(wait_timeout);
        }
        if let Some(place) = place {
            (pair.place, pair.way) = (place, Way::Waiting);
            if self.queue(key, place) {
                return;
            }
        }
        self.relay_fail(key, Outcome::Refused, "all servers are busy, or drained");
    }

    /// A client gets no connection: its own is reset.
    fn relay_fail(&mut self, key: usize, outcome: Outcome, why: &str) {
        let pair = &mut self.pairs[key];
        pair.way = Way::Off;
        pair.break_off(outcome);
        let (client, place) = (pair.conn(End::Client), pair.place);
        tracing::debug!("a client of upstream {:?} is not served: {why}", self.groups.name(place.group));
        client.into_iter().for_each(|client| self.wake(client));
    }

    /// An attempt to connect has failed for the client that waits longest: it tries another server.
    pub(in crate::proxy) fn relay_refused(&mut self, key: usize, others: usize, refusal: Refusal) {
        let pair = &mut self.pairs[key];
        pair.way = Way::Off;
        pair.refusals = pair.refusals.saturating_add(1);
        if pair.refusals as usize <= others && refusal != Refusal::Stopped {
            let server = pair.place.server;
            self.relay_choose(key, Some(server));
        } else {
            self.relay_fail(key, outcome_of(refusal), &refusal.to_string());
        }
    }

    /// A connection with a server is there: the client that waits longest has it.
    pub(in crate::proxy) fn relay_open(&mut self, place: Place, io: &mut Io<'_>) -> Option<Joint> {
        self.groups[place].end_connect();
        self.groups.note(place, true, self.now);
        // Its client may have left.
        let pair = self.next_waiting(place, true)?;
        self.note_server(pair, place, io.now());
        let it = &mut self.pairs[pair];
        (it.way, it.moved) = (Way::On, io.now());
        io.set_write_timeout(it.idle_timeout);
        it.set_conn(End::Server, Some(io.id().into()));
        io.write(&std::mem::take(&mut it.header));
        self.groups[place].begin_request();
        let joint = Joint { pair, end: End::Server };
        self.relay_look(joint, io);
        self.relay_wait(joint, io);
        Some(joint)
    }

    /// A client and its server that speak another protocol from now on. The server's end is this one; that of the client follows with
    /// [`State::relay_joined`], once what was for it before is on its way.
    pub(in crate::proxy) fn relay_join(
        &mut self,
        client: Whom,
        server: Whom,
        place: Place,
        idle_timeout: Duration,
        io: &mut Io<'_>,
    ) -> Joint {
        let mut pair = Pair::new(client, place, idle_timeout, io.now());
        pair.way = Way::On;
        io.set_write_timeout(idle_timeout);
        pair.set_conn(End::Server, Some(server));
        pair.to(End::Server).set_room(io.queued_bytes(), io.room_bytes());
        // What the server says first waits here until the client's end is there.
        pair.to(End::Client).set_room(0, usize::MAX);
        self.groups.group(place.group).exchanges += 1;
        let joint = Joint { pair: self.pairs.insert(pair), end: End::Server };
        self.relay_wait(joint, io);
        joint
    }

    /// The client's end of a pair is there; as a stream it shares its connection with others.
    pub(in crate::proxy) fn relay_joined(&self, pair: usize, is_stream: bool, io: &mut Io<'_>) -> Joint {
        let joint = Joint { pair, end: End::Client };
        if !is_stream {
            io.set_write_timeout(self.pairs[pair].idle_timeout);
        }
        self.relay_wait(joint, io);
        joint
    }

    /// A client of HTTP is gone, whose exchange may have become a pair without its knowing.
    pub(in crate::proxy) fn client_closed(&mut self, client: &Client, reason: CloseReason) {
        let Some(key) = client.exchange else { return };
        let exchange = &mut self.exchanges[key];
        let stage = exchange.stage;
        if let (Some(seen), Some(status)) = (&mut exchange.seen, self.bells.take_answer()) {
            seen.status = status;
        }
        self.abandon(key, outcome_at(End::Client, reason));
        if let Stage::Joined(pair) = stage {
            self.relay_closed(Joint { pair, end: End::Client }, reason);
        }
    }

    /// A connection with a server for which nobody waits is closed.
    pub(in crate::proxy) fn relay_unwanted(&mut self, place: Place) {
        self.groups[place].close();
        self.relay_freed(place);
    }

    pub(in crate::proxy) fn relay_data(&mut self, joint: Joint, input: &[u8], io: &mut Io<'_>) -> Step {
        let pair = &mut self.pairs[joint.pair];
        if pair.is_broken {
            return Step::abort();
        }
        pair.moved = io.now();
        pair.note_bytes(joint.end);
        let flow = pair.from(joint.end);
        let (consumed, is_news) = flow.put(input, || io.spare_output());
        let next = if flow.is_held() { Next::Pause } else { Next::Continue };
        if is_news && let Some(other) = pair.conn(joint.end.other()) {
            self.wake(other);
        }
        Step { consumed, need: 0, next }
    }

    /// This end has ended: what it sent before is still passed on, and then its end.
    pub(in crate::proxy) fn relay_eof(&mut self, joint: Joint, io: &mut Io<'_>) -> Next {
        let pair = &mut self.pairs[joint.pair];
        pair.moved = io.now();
        pair.from(joint.end).has_ended = true;
        // Where a layer says that it was cut, the other end must not take it for the end.
        pair.is_broken |= io.facts().is_some_and(Facts::is_truncated);
        if let Some(other) = pair.conn(joint.end.other()) {
            self.wake(other);
        }
        self.relay_look(joint, io)
    }

    /// Passes on to this end what the other one brought, and says what is next.
    pub(in crate::proxy) fn relay_look(&mut self, joint: Joint, io: &mut Io<'_>) -> Next {
        self.strays.drain(..).for_each(|stray| io.recycle(stray));
        let pair = &mut self.pairs[joint.pair];
        let (is_broken, own, other) = (pair.is_broken, pair.conn(joint.end), pair.conn(joint.end.other()));
        let flow = pair.to(joint.end);
        if let Some(output) = flow.take() {
            io.append(output);
        }
        if is_broken {
            return Next::Abort;
        }
        let room = if flow.has_ended {
            io.end_output();
            Room::Enough
        } else if let (Some(Whom::Conn(_)), Some(Whom::Conn(other))) = (own, other)
            && flow.is_bulk()
        {
            // Whether it comes to that or not, nothing is held here any more.
            io.splice(other);
            flow.resume()
        } else {
            flow.set_room(io.queued_bytes(), io.room_bytes())
        };
        let next = if pair.is_whole() {
            Next::Close
        } else if pair.from(joint.end).is_held() {
            Next::Pause
        } else {
            Next::Continue
        };
        match (room, other) {
            (Room::Later, _) => io.notify_drained(),
            (Room::Again, Some(other)) => self.wake(other),
            (Room::Enough, _) | (Room::Again, None) => {}
        }
        next
    }

    /// So many bytes came to this end by themselves.
    pub(in crate::proxy) fn relay_spliced(&mut self, joint: Joint, bytes: u64, io: &mut Io<'_>) -> Next {
        if bytes > 0 {
            let pair = &mut self.pairs[joint.pair];
            pair.moved = io.now();
            pair.to(joint.end).count(bytes);
        }
        self.relay_look(joint, io)
    }

    /// Room was made: this end moves.
    pub(in crate::proxy) fn relay_drained(&mut self, joint: Joint, io: &mut Io<'_>) -> Next {
        self.pairs[joint.pair].moved = io.now();
        self.relay_look(joint, io)
    }

    pub(in crate::proxy) fn relay_timeout(&mut self, joint: Joint, io: &mut Io<'_>) -> Next {
        let pair = &mut self.pairs[joint.pair];
        if pair.way == Way::Waiting && pair.wait_due <= io.now() {
            let (place, key) = (pair.place, joint.pair);
            self.relay_leave(place, key);
            self.relay_fail(key, Outcome::TimedOut, "no connection came in time");
            return Next::Abort;
        }
        if pair.way != Way::Waiting && pair.moved.after(pair.idle_timeout) <= io.now() {
            tracing::debug!("nothing moved between a client and its server");
            pair.break_off(Outcome::TimedOut);
        }
        self.relay_wait(joint, io);
        self.relay_look(joint, io)
    }

    /// What this end waits for at most.
    fn relay_wait(&self, joint: Joint, io: &mut Io<'_>) {
        let pair = &self.pairs[joint.pair];
        let due = if pair.way == Way::Waiting { pair.wait_due } else { pair.moved.after(pair.idle_timeout) };
        io.set_deadline(Some(due));
    }

    /// This end is over. The other one goes on only if both had ended.
    pub(in crate::proxy) fn relay_closed(&mut self, joint: Joint, reason: CloseReason) {
        let Joint { pair: key, end } = joint;
        let pair = &mut self.pairs[key];
        if reason != CloseReason::Finished || !pair.is_whole() {
            pair.break_off(outcome_at(end, reason));
        }
        let noted = pair.take_seen();
        pair.set_conn(end, None);
        self.strays.extend(pair.to(end).take());
        let (place, way, other) = (pair.place, pair.way, pair.conn(end.other()));
        let is_left = pair.is_left();
        match (end, way) {
            (End::Client, Way::Waiting) => self.relay_leave(place, key),
            (End::Client, _) => {}
            (End::Server, _) => {
                self.groups[place].end_request();
                self.groups[place].close();
            }
        }
        noted.into_iter().for_each(|noted| self.put_noted(noted));
        if is_left {
            let mut pair = self.pairs.remove(key);
            self.strays.extend([End::Client, End::Server].into_iter().filter_map(|end| pair.to(end).take()));
            self.groups.group(place.group).exchanges -= 1;
        }
        if end == End::Server {
            self.relay_freed(place);
        }
        self.groups.forget_if_done(place.group);
        other.into_iter().for_each(|other| self.wake(other));
    }

    /// A client waits no longer: an attempt to connect is of no use where there are more than clients that wait.
    fn relay_leave(&mut self, place: Place, key: usize) {
        self.pairs[key].way = Way::Off;
        self.groups[place].stop_waiting(|waiting| waiting == key);
        if self.groups[place].has_attempt_too_many()
            && let Some(dialer) = self.dialer_of(place)
        {
            dialer.cancel(place.tag());
        }
        self.tell_others(place);
    }

    /// A connection with this server is gone: there may be room for another one.
    fn relay_freed(&mut self, place: Place) {
        self.connect_more(place);
        self.tell_others(place);
        self.groups.forget_if_done(place.group);
    }
}
