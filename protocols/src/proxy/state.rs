//! What all connections of a worker share: exchanges, connections with upstreams, the pool; and how an exchange gets a connection,
//! loses it, gets another one, or fails.
//!
//! Sessions reach each other through here alone: one changes an exchange, and wakes the other.

use super::accept::Form;
use super::exchange::{Exchange, Pipe, Repeats, Stage, Way};
use super::fields::ToClient;
use super::groups::{Groups, Place};
use super::observe::{End, Random, Seen, Sink, Tally};
use super::pages::Own;
use super::plan::Plan;
use super::relay::pair::Pair;
use super::spare::Spare;
use super::trunks::TrunkRef;
use super::two::text::Heads;
use super::whom::{Bells, Whom};
use crate::http::client::reader::Reader;
use crate::http::message::Slots;
use ringmill_engine::{Dialer, Output, Refusal, Tick};
use slab::Slab;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Connections that an exchange may be given, for whatever reason. It is reached only if kept ones end one after the other.
pub(super) const HOPS_MAX: u8 = 16;

pub(super) struct State {
    pub(super) plan: Arc<Plan>,
    /// How many plans came before it.
    pub(super) plan_number: u32,
    pub(super) groups: Groups,
    pub(super) exchanges: Slab<Exchange>,
    pub(super) upstreams: Slab<Upstream>,
    /// Clients that are relayed.
    pub(super) pairs: Slab<Pair>,
    /// Output whose connection went away before it took it.
    #[expect(clippy::vec_box, reason = "the engine lends boxes, and takes them back")]
    pub(super) strays: Vec<Box<Output>>,
    /// Those of HTTP/2 have streams as connections.
    pub(super) trunks: Slab<TrunkRef>,
    pub(super) bells: Bells,
    pub(super) dialer: Option<Dialer>,
    /// For connections that are secured.
    pub(super) secure_dialer: Option<Dialer>,
    pub(super) slots: Slots,
    /// For connections of HTTP/2.
    pub(super) heads: Rc<RefCell<Heads>>,
    /// The time of the last call.
    pub(super) now: Tick,
    /// The field, with its line end.
    pub(super) date: Vec<u8>,
    date_secs: u64,
    pub(super) spare: Spare,
    pub(super) random: Random,
    /// Of the request that is looked at, where anything is noted.
    pub(super) seen: Option<Box<Seen>>,
    #[expect(clippy::vec_box, reason = "they move in and out as they are")]
    pub(super) spare_seen: Vec<Box<Seen>>,
    pub(super) sink: Option<Sink>,
    pub(super) tally: Option<Tally>,
}

/// A connection with an upstream.
pub(super) struct Upstream {
    pub(super) conn: Whom,
    pub(super) place: Place,
    pub(super) exchange: Option<usize>,
    /// Requests that it was given.
    pub(super) requests: u32,
    pub(super) opened: Tick,
    /// Its exchange has left it: nothing that comes on it is of use.
    pub(super) is_forsaken: bool,
    /// It is idle no longer: another worker needs its place.
    pub(super) is_surplus: bool,
}

/// Why a connection with an upstream is of no use to its exchange any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It ended, or was reset.
    Ended,
    /// Something came on it that nobody had asked for.
    Unasked,
}

impl State {
    pub(super) fn new(plan: Arc<Plan>, seed: u64) -> State {
        let mut state = State {
            groups: Groups::new(&plan, seed),
            plan,
            plan_number: 0,
            exchanges: Slab::new(),
            upstreams: Slab::new(),
            pairs: Slab::new(),
            strays: Vec::new(),
            trunks: Slab::new(),
            bells: Bells::default(),
            dialer: None,
            secure_dialer: None,
            slots: Slots::new(),
            heads: Rc::default(),
            now: Tick(0),
            date: Vec::new(),
            date_secs: u64::MAX,
            spare: Spare::default(),
            random: Random::from_os(),
            seen: None,
            spare_seen: Vec::new(),
            sink: None,
            tally: None,
        };
        state.open_observe();
        state
    }

    /// To be called first in each call that has an `Io`.
    pub(super) fn look_at_clock(&mut self, now: Tick, unix_secs: u64) {
        self.now = now;
        if self.date_secs != unix_secs {
            self.date_secs = unix_secs;
            // The last second of the year 9999, where IMF-fixdate ends.
            let time = UNIX_EPOCH + Duration::from_secs(unix_secs.min(253_402_300_799));
            self.date = format!("date: {}\r\n", httpdate::fmt_http_date(time)).into_bytes();
        }
    }

    pub(super) fn wake(&self, whom: impl Into<Whom>) {
        match whom.into() {
            Whom::Lane(key) => self.bells.ring(key),
            Whom::Conn(conn) => {
                if let Some(dialer) = &self.dialer {
                    dialer.wake(conn);
                }
            }
        }
    }

    /// Another plan holds.
    pub(super) fn follow(&mut self, plan: Arc<Plan>) {
        let idle = self.groups.follow(&plan);
        self.plan = plan;
        self.plan_number = self.plan_number.wrapping_add(1);
        self.open_observe();
        self.join_fleets();
        self.check_servers(self.now);
        idle.into_iter().for_each(|upstream| self.wake(self.upstreams[upstream].conn));
        self.leave_trunks();
    }

    /// Begins an exchange, which sets out at once unless its body comes first. Of its place the upstream is known.
    pub(super) fn begin(&mut self, exchange: Exchange) -> usize {
        let (group, is_early) = (exchange.place.group, matches!(exchange.way, Way::Buffering { .. }));
        let key = self.exchanges.insert(exchange);
        self.groups.group(group).exchanges += 1;
        if !is_early {
            self.set_out(key);
        }
        key
    }

    /// Gives an exchange that has had no connection yet one, or has it wait for one.
    pub(super) fn set_out(&mut self, key: usize) {
        let place = self.choose(key, None);
        if let Some(place) = place {
            self.groups[place].earn();
        }
        self.dispatch(key, place);
    }

    /// The same for one that has lost what it had.
    pub(super) fn set_out_again(&mut self, key: usize) {
        let place = self.choose(key, None);
        self.dispatch(key, place);
    }

    /// Another server of the exchange's upstream, not `but` if there is another one.
    pub(super) fn choose(&mut self, key: usize, but: Option<usize>) -> Option<Place> {
        let Exchange { place: Place { group, .. }, wanted, .. } = self.exchanges[key];
        let server = self.groups.group(group).pool.choose(wanted, but, self.now)?;
        Some(Place { group, server })
    }

    pub(super) fn dispatch(&mut self, key: usize, place: Option<Place>) {
        let Some(place) = place else {
            return self.fail(key, 503, "this upstream has no server, or all are drained");
        };
        let wait_due = self.now.after(self.groups.config(place.group).queue_timeout);
        let exchange = &mut self.exchanges[key];
        exchange.place = place;
        let to = &mut self.groups[place];
        if !exchange.needs_new
            && let Some(upstream) = to.idle.pop()
        {
            self.attach(upstream, key);
            let conn = self.upstreams[upstream].conn;
            return self.wake(conn);
        }
        if !self.queue(key, place) {
            return self.fail(
                key,
                503,
                "all upstreams are busy, and so many requests wait that this one cannot",
            );
        }
        let exchange = &mut self.exchanges[key];
        if exchange.wait_due == Tick::NEVER {
            exchange.wait_due = wait_due;
        }
        exchange.way = Way::Waiting;
        // It has a deadline now, which its session sets.
        let client = exchange.client;
        self.wake(client);
    }

    /// Has whoever this is wait for a connection with a server, if fewer wait than may, and connects.
    pub(super) fn queue(&mut self, key: usize, place: Place) -> bool {
        let config = self.groups.config(place.group);
        let (connections_max, queue_max) = (config.connections_max, config.queue_max);
        let to = &mut self.groups[place];
        let waiting_max = if to.has_room(connections_max) { usize::MAX } else { queue_max };
        let may_wait = to.wait(key, waiting_max);
        if may_wait {
            self.connect_more(place);
            if self.groups[place].needs_idle_ones(connections_max) {
                self.groups.pool(place.group).ring_others(place.server);
            }
        }
        may_wait
    }

    /// Who makes connections with this server.
    pub(super) fn dialer_of(&self, place: Place) -> Option<Dialer> {
        if self.groups.is_secured(place) { self.secure_dialer.clone() } else { self.dialer.clone() }
    }

    /// Connects, as long as more requests wait than attempts are made.
    pub(super) fn connect_more(&mut self, place: Place) {
        let connections_max = self.groups.config(place.group).connections_max;
        while self.groups[place].begin_connect(connections_max) {
            let is_http2 = self.groups.is_http2(place.group, false);
            if is_http2 { self.want_stream(place) } else { self.connect(place) }
        }
    }

    /// Asks for a connection with a server.
    pub(super) fn connect(&self, place: Place) {
        let is_secured = self.groups.is_secured(place);
        let Some(dialer) = (if is_secured { &self.secure_dialer } else { &self.dialer }) else { return };
        let address = &self.groups[place].address;
        match self.groups.config(place.group).connect_timeout {
            None => dialer.connect(address, place.tag()),
            Some(timeout) => dialer.connect_within(timeout, address, place.tag()),
        }
    }

    /// The request that waits longest for a connection with this upstream, of those that this one is good for.
    pub(super) fn next_waiting(&mut self, place: Place, is_new: bool) -> Option<usize> {
        let exchanges = &self.exchanges;
        let next = self.groups[place].stop_waiting(|key| is_new || !exchanges[key].needs_new);
        self.tell_others(place);
        next
    }

    /// Less is wanted here, or less is there: other workers whose requests wait may connect, where that leaves room. Nobody is told otherwise:
    /// where all connections are in use, that would be with each request that ends.
    pub(super) fn tell_others(&mut self, place: Place) {
        let connections_max = self.groups.config(place.group).connections_max;
        if self.groups[place].has_room_for_others(connections_max) {
            self.groups.pool(place.group).ring_others(place.server);
        }
    }

    /// It is said that there may be room for connections, or that some are needed elsewhere.
    pub(super) fn look_for_room(&mut self) {
        let (mut waiting, mut surplus) = (Vec::new(), Vec::new());
        for (group, it) in self.groups.all() {
            let connections_max = it.connections_max();
            for (server, endpoint) in it.pool.endpoints.iter_mut().enumerate() {
                let has_yielded = endpoint.stop_yielding();
                surplus.append(&mut endpoint.take_surplus(connections_max));
                if !endpoint.waiting.is_empty() {
                    waiting.push((has_yielded, Place { group, server }));
                }
            }
        }
        for upstream in surplus {
            self.upstreams[upstream].is_surplus = true;
            self.wake(self.upstreams[upstream].conn);
        }
        // Whom one was given up for may be here: they come first.
        waiting.sort_by_key(|(has_yielded, _)| *has_yielded);
        waiting.into_iter().for_each(|(_, place)| self.connect_more(place));
    }

    /// Has the other workers ring for this one.
    pub(super) fn join_fleets(&mut self) {
        let Some(dialer) = &self.dialer else { return };
        for (_, group) in self.groups.all() {
            let pool = &mut group.pool;
            pool.bell.get_or_insert_with(|| pool.fleet.join(dialer.waker()));
        }
    }

    /// Gives an exchange this connection. Whoever calls has the connection's session write the request.
    pub(super) fn attach(&mut self, upstream: usize, key: usize) {
        let exchange = &mut self.exchanges[key];
        exchange.way = Way::On(upstream);
        exchange.wait_due = Tick::NEVER;
        exchange.up.taken = 0;
        (exchange.has_sent, exchange.has_left, exchange.has_heard) = (false, false, false);
        exchange.unsent_bytes = usize::MAX;
        exchange.tries = exchange.tries.saturating_add(1);
        exchange.reader = Reader::new(exchange.asked);
        if let Some(seen) = &mut exchange.seen {
            (seen.attached, seen.heard) = (self.now, Tick::NEVER);
        }
        let upstream = &mut self.upstreams[upstream];
        upstream.exchange = Some(key);
        upstream.requests = upstream.requests.saturating_add(1);
        self.groups[upstream.place].begin_request();
    }

    /// Takes the connection from an exchange. What becomes of the connection is the caller's.
    pub(super) fn detach(&mut self, key: usize) {
        let exchange = &mut self.exchanges[key];
        match exchange.way {
            Way::On(upstream) => {
                exchange.way = Way::Off;
                if let Some(upstream) = self.upstreams.get_mut(upstream) {
                    upstream.exchange = None;
                }
                self.groups[exchange.place].end_request();
            }
            Way::Waiting => {
                exchange.way = Way::Off;
                let place = exchange.place;
                self.groups[place].stop_waiting(|waiting| waiting == key);
                self.tell_others(place);
            }
            Way::Buffering { .. } => exchange.way = Way::Off,
            Way::Off => {}
        }
    }

    /// The same, and the connection is of no use to anybody.
    pub(super) fn forsake(&mut self, key: usize) {
        let way = self.exchanges[key].way;
        self.detach(key);
        if let Way::On(upstream) = way
            && let Some(upstream) = self.upstreams.get_mut(upstream)
        {
            upstream.is_forsaken = true;
            let conn = upstream.conn;
            self.wake(conn);
        }
    }

    /// An exchange has lost its connection, which had so many requests: it gets another one where that is safe.
    pub(super) fn lose(&mut self, key: usize, requests: u32, loss: Loss) {
        self.detach(key);
        let exchange = &mut self.exchanges[key];
        let config = self.groups.config(exchange.place.group);
        let (tries_max, saved_max) = (config.tries_max, config.connections_max);
        if exchange.stage != Stage::Unanswered {
            if matches!(exchange.stage, Stage::Body(_)) && !exchange.is_failure {
                let place = exchange.place;
                self.groups.note(place, false, self.now);
            }
            return self.fail(key, 502, "");
        }
        // A kept connection may end before a request comes; anything else should not be.
        if exchange.has_sent && (requests == 1 || exchange.has_heard) {
            self.groups.note(exchange.place, false, self.now);
        }
        let endpoint = &mut self.groups[exchange.place];
        let is_safe = if exchange.has_sent {
            let may_repeat = match exchange.repeats {
                Repeats::Never => false,
                // It may have ended before the request came: servers do that.
                Repeats::BehindKept => requests > 1,
                Repeats::Always => true,
            };
            let is_whole = exchange.is_kept && !exchange.has_heard && loss == Loss::Ended;
            may_repeat && is_whole && exchange.tries < tries_max && endpoint.spend(self.now, saved_max)
        } else {
            exchange.tries < HOPS_MAX
        };
        if is_safe {
            exchange.needs_new = true;
            self.set_out_again(key);
        } else {
            self.fail(key, 502, "the upstream closed its connection before it had answered");
        }
    }

    /// Gives up: an answer of our own if there is none yet, else the end of the client's connection.
    pub(super) fn fail(&mut self, key: usize, status: u16, why: &str) {
        self.forsake(key);
        let exchange = &mut self.exchanges[key];
        if let Some(seen) = &mut exchange.seen {
            seen.end = seen.end.or(End::of_own(status));
            seen.status = if exchange.stage == Stage::Unanswered { status } else { seen.status };
        }
        match exchange.stage {
            Stage::Unanswered => {
                exchange.keep_alive &= exchange.decoder.is_none();
                let own = Own {
                    status,
                    why,
                    date: &self.date,
                    ids: exchange.seen.as_deref().map(|seen| &seen.ids),
                    pages: &self.plan.front.pages,
                    field: None,
                    is_head: exchange.asked.is_head,
                    form: match exchange.is_kept {
                        true => Form::of_head(&exchange.up.bytes, &mut self.slots),
                        false => exchange.form,
                    },
                    is_http10: exchange.is_http10,
                    keep_alive: exchange.keep_alive,
                };
                own.write(&mut exchange.down.bytes);
                exchange.stage = Stage::Done;
            }
            Stage::Body(to) => exchange.stage = Stage::Cut { by_reset: to == ToClient::UntilClose },
            Stage::Joined(_) | Stage::Done | Stage::Cut { .. } => {}
        }
        let client = exchange.client;
        self.wake(client);
    }

    /// Ends an exchange: its client has all it gets.
    pub(super) fn end(&mut self, key: usize) {
        self.forsake(key);
        let mut exchange = self.exchanges.remove(key);
        self.note_end(&mut exchange);
        self.dispose(exchange);
    }

    /// The same, because its client is gone, for this reason.
    pub(super) fn abandon(&mut self, key: usize, why: End) {
        self.forsake(key);
        let mut exchange = self.exchanges.remove(key);
        self.note_left(&mut exchange, why);
        self.dispose(exchange);
    }

    fn dispose(&mut self, exchange: Exchange) {
        let group = exchange.place.group;
        self.groups.group(group).exchanges -= 1;
        self.groups.forget_if_done(group);
        for Pipe { bytes, .. } in [exchange.up, exchange.down] {
            self.spare.put(bytes);
        }
    }

    /// An attempt to connect has failed: the request that waits longest is told, or tries another upstream. `why` is for the log.
    pub(super) fn refused(&mut self, place: Place, refusal: Refusal, why: Option<&str>) {
        let others = self.groups.group(place.group).pool.endpoints.len() - 1;
        let to = &mut self.groups[place];
        to.end_connect();
        to.close();
        if !matches!(refusal, Refusal::Limit | Refusal::Stopped | Refusal::Cancelled) {
            if to.avoid(self.now) {
                self.warn_of(place, refusal, why);
            }
            self.groups.note(place, false, self.now);
        }
        let waiting = if refusal == Refusal::Cancelled { None } else { self.next_waiting(place, true) };
        if let Some(key) = waiting
            && self.groups.config(place.group).is_relayed
        {
            self.relay_refused(key, others, refusal);
        } else if let Some(key) = waiting {
            let exchange = &mut self.exchanges[key];
            exchange.way = Way::Off;
            exchange.refusals = exchange.refusals.saturating_add(1);
            if exchange.refusals as usize <= others && refusal != Refusal::Stopped {
                let other = self.choose(key, Some(place.server));
                self.dispatch(key, other);
            } else {
                let (status, why) = match refusal {
                    Refusal::TimedOut => (504, "the upstream did not take a connection in time"),
                    Refusal::Limit => (503, "this proxy has as many connections as it may have"),
                    Refusal::Stopped => (503, "this proxy stops"),
                    Refusal::Unsecured => (502, "the connection with the upstream could not be secured"),
                    _ => (502, "the upstream could not be reached"),
                };
                self.fail(key, status, why);
            }
        }
        self.connect_more(place);
        self.tell_others(place);
        self.groups.forget_if_done(place.group);
    }
}
