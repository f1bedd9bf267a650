//! The upstream's side: requests are sent from their exchange, replies are read, checked and rewritten here. A connection that is
//! done with a request takes the next one that waits, or is kept.

use super::exchange::{HELD_BYTES, Stage, Way, piece};
use super::fields::{ReplyTo, ToClient, write_interim, write_last_chunk, write_reply};
use super::groups::Place;
use super::relay::pair::Joint;
use super::state::{Loss, State, Upstream};
use super::two::ready::Complaint;
use crate::http::client::reader::{Defect, Event};
use crate::http::one::emit;
use ringmill_engine::{Address, Facts, Io, Next, Step};

/// A connection goes to another worker when it has had so many requests: sooner, and all time would go into connecting.
const YIELDS_AFTER: u32 = 16;

/// What reading a reply came to.
enum Read {
    /// So many bytes are done.
    On(usize),
    /// So many bytes are done, and the reply is complete.
    Whole(usize),
    /// So many bytes are done; what follows is another protocol's.
    Tunnel(usize),
    Bad(Defect),
}

impl State {
    /// A connection that was asked for is there.
    pub(super) fn upstream_open(&mut self, place: Place, io: &mut Io<'_>) -> usize {
        let upstream = Upstream {
            conn: self.bells.whom(io),
            place,
            exchange: None,
            requests: 0,
            opened: io.now(),
            is_forsaken: false,
            is_surplus: false,
        };
        let upstream = self.upstreams.insert(upstream);
        self.groups[place].end_connect();
        if self.release(upstream, io) != Next::Continue {
            // Only a call can close, and this asks for one at once.
            self.upstreams[upstream].is_forsaken = true;
            io.notify_drained();
        }
        upstream
    }

    /// A connection without a request: it gets the one that waits longest, or is kept.
    fn release(&mut self, upstream: usize, io: &mut Io<'_>) -> Next {
        let Upstream { place, opened, requests, is_surplus, .. } = self.upstreams[upstream];
        let config = self.groups.config(place.group);
        let (connections_max, keep_max) = (config.connections_max, config.keep_max);
        let keep_timeout = config.keep_timeout;
        let rest = config.age_max.saturating_sub(io.now().since(opened));
        let is_old = rest.is_zero() || is_surplus;
        let yields = requests >= YIELDS_AFTER && self.groups[place].yields_one(connections_max);
        if !is_old
            && !yields
            && let Some(key) = self.next_waiting(place, requests == 0)
        {
            self.attach(upstream, key);
            // Its client's deadline was that of waiting.
            let client = self.exchanges[key].client;
            self.wake(client);
            return self.send(upstream, io);
        }
        let is_unwanted = is_old || yields || self.groups.is_leaving(place.group);
        let to = &mut self.groups[place];
        if is_unwanted || io.is_draining() || !to.keeps(connections_max, keep_max) {
            return Next::Close;
        }
        to.idle.push(upstream);
        io.set_timeout(keep_timeout.min(rest));
        Next::Continue
    }

    /// Sends what there is of the request, and says what is next.
    pub(super) fn send(&mut self, upstream: usize, io: &mut Io<'_>) -> Next {
        if self.upstreams[upstream].is_forsaken {
            return Next::Abort;
        }
        let Upstream { place, exchange, is_surplus, .. } = self.upstreams[upstream];
        let Some(key) = exchange else {
            let is_of_use = !is_surplus && !self.groups.is_leaving(place.group);
            return if is_of_use { Next::Continue } else { Next::Close };
        };
        let config = self.groups.config(place.group);
        let exchange = &mut self.exchanges[key];
        let poured = if exchange.is_kept { exchange.up.pour_copy(io) } else { exchange.up.pour(io) };
        exchange.has_sent |= poured > 0;
        if exchange.up.len() > 0 {
            io.notify_drained();
        }
        let client = exchange.client;
        let is_held = exchange.up.is_held && !exchange.up.is_full();
        if is_held {
            exchange.up.is_held = false;
        }
        match exchange.stage {
            // While more of the request is read, its client has a deadline.
            Stage::Unanswered if exchange.waits_for_body() => io.set_deadline(None),
            // It was sent, or its head, behind which its client waits for a 100.
            Stage::Unanswered if exchange.up.len() == 0 => {
                exchange.wait_for_reply(config.first_byte_timeout, io);
            }
            Stage::Unanswered => exchange.wait_for_room(config.first_byte_timeout, io),
            Stage::Body(_) if exchange.down.is_held => io.set_deadline(None),
            Stage::Body(_) => io.set_timeout(config.idle_timeout),
            Stage::Joined(_) | Stage::Done | Stage::Cut { .. } => {}
        }
        let is_paused = exchange.down.is_held;
        if is_held {
            self.wake(client);
        }
        if is_paused { Next::Pause } else { Next::Continue }
    }

    /// What came of a reply; or the end of a pair that this connection is from now on, and how many bytes were still HTTP.
    pub(super) fn upstream_data(
        &mut self,
        upstream: usize,
        input: &[u8],
        io: &mut Io<'_>,
    ) -> Result<Step, (usize, Joint)> {
        if self.upstreams[upstream].is_forsaken {
            return Ok(Step::abort());
        }
        let Some(key) = self.upstreams[upstream].exchange else {
            // Nobody had asked: it would be taken for the reply to the next request.
            tracing::debug!("upstream {}: bytes on an idle connection", self.address_of(upstream));
            return Ok(Step::abort());
        };
        if !self.exchanges[key].has_sent {
            let requests = self.upstreams[upstream].requests;
            self.lose(key, requests, Loss::Unasked);
            return Ok(Step::abort());
        }
        let exchange = &mut self.exchanges[key];
        if let Some(seen) = exchange.seen.as_mut().filter(|_| !exchange.has_heard) {
            seen.heard = io.now();
        }
        exchange.has_heard = true;
        let read = self.read_reply(key, input, io);
        let exchange = &mut self.exchanges[key];
        let idle_timeout = self.groups.config(exchange.place.group).idle_timeout;
        let client = exchange.client;
        Ok(match read {
            Read::On(consumed) => {
                let is_held = exchange.down.is_held;
                match exchange.stage {
                    _ if is_held => io.set_deadline(None),
                    Stage::Body(_) => io.set_timeout(idle_timeout),
                    // It may be the 100, with which the client's time begins.
                    _ if exchange.waits_for_body() => io.set_deadline(None),
                    _ => {}
                }
                self.wake(client);
                Step { consumed, need: 0, next: if is_held { Next::Pause } else { Next::Continue } }
            }
            Read::Tunnel(consumed) => return Err((consumed, self.join(upstream, key, io))),
            Read::Whole(consumed) => {
                let has_more = consumed < input.len();
                Step { consumed, need: 0, next: self.reply_is_whole(upstream, key, has_more, io) }
            }
            Read::Bad(Defect(why)) => {
                tracing::warn!(
                    "upstream {}: a reply that cannot be passed on: {why}",
                    self.address_of(upstream)
                );
                self.groups.note(self.upstreams[upstream].place, false, self.now);
                self.complain(upstream, Complaint::Broken);
                self.fail(key, 502, "the upstream's reply breaks the rules of HTTP");
                Step::abort()
            }
        })
    }

    fn address_of(&self, upstream: usize) -> &Address {
        &self.groups[self.upstreams[upstream].place].address
    }

    /// Both sides speak another protocol from here on: the exchange becomes a pair, and this connection the server's end of it.
    fn join(&mut self, upstream: usize, key: usize, io: &mut Io<'_>) -> Joint {
        let Upstream { conn, place, .. } = self.upstreams.remove(upstream);
        self.groups.note(place, true, self.now);
        let exchange = &mut self.exchanges[key];
        // The connection stays one of this server's, with something to do.
        exchange.way = Way::Off;
        io.write(&std::mem::take(&mut exchange.up.bytes)[exchange.up.taken..]);
        exchange.up.taken = 0;
        let (client, idle_timeout) = (exchange.client, self.groups.config(place.group).tunnel_timeout);
        let joint = self.relay_join(client, conn, place, idle_timeout, io);
        self.exchanges[key].stage = Stage::Joined(joint.pair);
        self.wake(client);
        joint
    }

    /// Reads on in a reply, as long as there is room for it.
    fn read_reply(&mut self, key: usize, input: &[u8], io: &Io<'_>) -> Read {
        let exchange = &mut self.exchanges[key];
        let counts_errors = self.groups.config(exchange.place.group).ejection.on_server_errors;
        let mut at = 0;
        loop {
            // Without input it costs nothing to look, and the reply may be complete.
            if exchange.down.is_full() && at < input.len() {
                exchange.down.is_held = true;
                return Read::On(at);
            }
            match exchange.reader.read(piece(&input[at..]), &mut self.slots, &self.plan.front.limits.body) {
                Event::Interim(response) => {
                    at += response.bytes;
                    let passes = match response.status {
                        100 => std::mem::take(&mut exchange.expects),
                        _ => !exchange.is_http10,
                    };
                    let is_from_http2 = self.groups.is_http2(exchange.place.group, false);
                    let out = &mut exchange.down.bytes;
                    if passes
                        && let Err(defect) =
                            write_interim(out, &response, is_from_http2, &self.plan.front.name)
                    {
                        return Read::Bad(defect);
                    }
                }
                Event::Head(response) => {
                    at += response.bytes;
                    exchange.is_failure = response.status >= 500 && counts_errors;
                    if exchange.is_failure {
                        self.groups.note(exchange.place, false, self.now);
                    }
                    let framing = ToClient::of(&response, exchange.is_http10);
                    let is_whole = exchange.decoder.is_none();
                    exchange.keep_alive &= is_whole && !io.is_draining() && framing != ToClient::UntilClose;
                    let place = exchange.place;
                    let to = ReplyTo {
                        cookie: self.groups.pool(place.group).cookie(exchange.wanted, place.server),
                        is_secured: exchange.is_secured,
                        is_from_http2: self.groups.is_http2(place.group, false),
                        framing,
                        is_http10: exchange.is_http10,
                        keep_alive: exchange.keep_alive,
                        date: &self.date,
                        name: &self.plan.front.name,
                        ids: exchange.seen.as_deref().map(|seen| &seen.ids).filter(|ids| ids.is_told()),
                    };
                    match write_reply(&mut exchange.down.bytes, &response, &to) {
                        Ok(has_trailers) => exchange.down.has_trailers = has_trailers,
                        Err(defect) => return Read::Bad(defect),
                    }
                    if let Some(seen) = &mut exchange.seen {
                        seen.status = response.status;
                    }
                    exchange.stage = Stage::Body(framing);
                    exchange.is_reusable = response.keep_alive;
                    if response.status == 101 {
                        return Read::Tunnel(at);
                    }
                }
                Event::Data { consumed, data } => {
                    at += consumed;
                    let out = &mut exchange.down.bytes;
                    match exchange.stage {
                        Stage::Body(ToClient::Chunked) => emit::write_chunk(out, data),
                        _ => out.extend_from_slice(data),
                    }
                    debug_assert!(exchange.down.len() <= 3 * HELD_BYTES, "more is held than the bound says");
                }
                Event::Partial { consumed } => {
                    at += consumed;
                    if consumed == 0 || at == input.len() {
                        exchange.down.is_held = exchange.down.is_full();
                        return Read::On(at);
                    }
                }
                Event::End { consumed, trailers } => {
                    if exchange.stage == Stage::Body(ToClient::Chunked) {
                        let trailers = exchange.down.has_trailers.then_some(trailers);
                        write_last_chunk(&mut exchange.down.bytes, trailers, false);
                    }
                    return Read::Whole(at + consumed);
                }
                Event::Bad(defect) => return Read::Bad(defect),
            }
        }
    }
}

impl State {
    /// All of the reply is on its way to the client: what becomes of the connection.
    fn reply_is_whole(&mut self, upstream: usize, key: usize, has_more: bool, io: &mut Io<'_>) -> Next {
        let exchange = &mut self.exchanges[key];
        let is_sent = exchange.is_sent() && io.queued_bytes() == 0;
        let is_reusable = exchange.is_reusable && is_sent && !has_more;
        exchange.stage = Stage::Done;
        let (client, place, is_failure) = (exchange.client, exchange.place, exchange.is_failure);
        // Not before its end: a server whose replies always break off is not well.
        if !is_failure {
            self.groups.note(place, true, self.now);
        }
        self.detach(key);
        self.wake(client);
        if is_reusable {
            self.release(upstream, io)
        } else if is_sent {
            Next::Close
        } else {
            // The rest of the request is of no use to anybody.
            Next::Abort
        }
    }

    pub(super) fn upstream_eof(&mut self, upstream: usize, io: &mut Io<'_>) -> Next {
        let Some(key) = self.upstreams[upstream].exchange else { return Next::Close };
        let is_truncated = io.facts().is_some_and(Facts::is_truncated);
        let exchange = &mut self.exchanges[key];
        if exchange.reader.ends_with_connection() && !is_truncated {
            if exchange.stage == Stage::Body(ToClient::Chunked) {
                exchange.down.bytes.extend_from_slice(emit::LAST_CHUNK);
            }
            self.reply_is_whole(upstream, key, true, io);
        } else {
            let requests = self.upstreams[upstream].requests;
            self.lose(key, requests, Loss::Ended);
        }
        Next::Close
    }

    pub(super) fn upstream_timeout(&mut self, upstream: usize, io: &mut Io<'_>) -> Next {
        let Some(key) = self.upstreams[upstream].exchange else { return Next::Close };
        let exchange = &mut self.exchanges[key];
        if exchange.down.is_held {
            // The client takes nothing: it has a deadline of its own.
            return Next::Pause;
        }
        let first_byte_timeout = self.groups.config(exchange.place.group).first_byte_timeout;
        if exchange.stage == Stage::Unanswered && exchange.waits_on(first_byte_timeout, io) {
            return Next::Continue;
        }
        let is_to_blame = !(exchange.expects && exchange.stage == Stage::Unanswered);
        tracing::debug!("upstream {}: no reply in time", self.address_of(upstream));
        // Who waits for the body may not know Expect (RFC 9110, 10.1.1), and a client that sends none proves nothing.
        if is_to_blame {
            self.groups.note(self.upstreams[upstream].place, false, self.now);
            self.complain(upstream, Complaint::Late);
        }
        self.fail(key, 504, "the upstream did not answer in time");
        Next::Abort
    }

    pub(super) fn upstream_drain(&self, upstream: usize) -> Next {
        match self.upstreams[upstream].exchange {
            None => Next::Close,
            Some(key) if self.exchanges[key].down.is_held => Next::Pause,
            Some(_) => Next::Continue,
        }
    }

    pub(super) fn upstream_shed(&self, upstream: usize) -> Next {
        if self.upstreams[upstream].exchange.is_none() { Next::Close } else { Next::Continue }
    }

    pub(super) fn upstream_closed(&mut self, upstream: usize) {
        let Upstream { place, exchange, requests, .. } = self.upstreams.remove(upstream);
        let to = &mut self.groups[place];
        to.close();
        to.idle.retain(|idle| *idle != upstream);
        if let Some(key) = exchange {
            self.lose(key, requests, Loss::Ended);
        }
        self.connect_more(place);
        self.tell_others(place);
        self.groups.forget_if_done(place.group);
    }
}
