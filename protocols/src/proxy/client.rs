//! The client's side: requests are read, checked and rewritten here, and replies taken from their exchange to the client.

use super::accept::Form;
use super::buffering::first_way;
use super::exchange::{Exchange, HELD_BYTES, Pipe, Repeats, Stage, Way, piece};
use super::fields::{
    Client as Facts, Onward, asks_for_websocket, goes_no_further, write_last_chunk, write_request,
};
use super::groups::Place;
use super::limit::client_of;
use super::route::Target;
use super::state::State;
use super::whom::Whom;
use crate::adapt::first::PREFACE;
use crate::http::client::reader::{Asked, Reader};
use crate::http::message::{Expect, Framing, Head, Method, Version};
use crate::http::one::decoder::{Decoded, Decoder};
use crate::http::one::emit;
use crate::http::one::head::{Outcome, parse_head, verdict_due};
use crate::http::reject::Reject;
use ringmill_engine::{Io, Next, Step, Tick};
use std::net::IpAddr;
use std::time::Duration;

/// The state of one client's connection.
pub(super) struct Client {
    /// It, as far as others are concerned.
    whom: Whom,
    pub(super) exchange: Option<usize>,
    /// When the head that is incomplete began; `Tick::NEVER` while there is none.
    pub(super) head_began: Tick,
    /// How many bytes of that head were looked at.
    searched: u16,
    requests: u32,
    peer: Option<Peer>,
    /// Where plain requests are sent on to, if they are.
    pub(super) https_port: Option<u16>,
    /// It speaks HTTP/2: as a stream this is one of its requests; and else it has just said so.
    pub(super) is_http2: bool,
    /// Its exchange has become this pair, with the call that is made just now.
    pub(super) joined: Option<usize>,
}

/// Who the client is: asked for once a plan, which says whom to trust.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) ip: Option<IpAddr>,
    pub(super) is_trusted: bool,
    /// It was still there when it was asked for.
    is_known: bool,
    plan_number: u32,
}

/// What came of looking at a head.
pub(super) enum Begun {
    /// So many bytes: it is an exchange now.
    Exchange(usize),
    /// So many bytes: it was answered here, with this status.
    Answered {
        bytes: usize,
        status: u16,
    },
    Wait,
    /// The client speaks HTTP/2.
    Http2,
    /// It was answered here, and is the last; with status 0 nobody is there any more.
    Close {
        status: u16,
    },
}

impl Client {
    /// Of a connection, or of a stream of HTTP/2.
    pub(super) fn new(whom: Whom, https_port: Option<u16>, is_http2: bool) -> Client {
        Client {
            whom,
            exchange: None,
            head_began: Tick::NEVER,
            searched: 0,
            requests: 0,
            peer: None,
            https_port,
            is_http2,
            joined: None,
        }
    }

    /// Whether what comes first is what a client of HTTP/2 says first, as far as it is there.
    fn may_begin_http2(&self, input: &[u8]) -> bool {
        let known = input.len().min(PREFACE.len());
        self.requests == 0 && !self.is_http2 && input[..known] == PREFACE[..known]
    }
}

impl State {
    pub(super) fn wait_for_request(&self, io: &mut Io<'_>) {
        let limits = &self.plan.front.limits;
        io.set_timeout(if io.is_draining() { limits.drain_grace } else { limits.keep_alive_timeout });
    }

    pub(super) fn client_data(&mut self, client: &mut Client, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut at = 0;
        loop {
            if let Some(key) = client.exchange {
                at += self.take_body(key, &input[at..]);
                if self.sets_out(key, io.is_exhausted()) {
                    // There may be room for more of its body now.
                    continue;
                }
                let next = self.serve(client, io);
                let goes_on = next == Next::Continue && client.exchange.is_none() && at < input.len();
                if !goes_on {
                    return Step { consumed: at, need: 0, next };
                }
            } else if at == input.len() {
                self.wait_for_request(io);
                return Step::consumed(at);
            } else if io.room_bytes() == 0 {
                // Answers of our own wait to be taken.
                io.notify_drained();
                return Step { consumed: at, need: 0, next: Next::Pause };
            }
            match self.take_head(client, &input[at..], io) {
                Begun::Exchange(bytes) | Begun::Answered { bytes, .. } => at += bytes,
                Begun::Wait => return Step::consumed(at),
                Begun::Http2 => {
                    client.is_http2 = true;
                    return Step::consumed(at);
                }
                Begun::Close { .. } => return Step::close(),
            }
        }
    }

    /// Looks at a request's head.
    fn take_head(&mut self, client: &mut Client, input: &[u8], io: &mut Io<'_>) -> Begun {
        let limits = &self.plan.front.limits;
        if input == b"\r\n" {
            // An empty line behind the last body (RFC 9112, 2.2) does not begin a head.
            self.wait_for_request(io);
            return Begun::Wait;
        }
        if io.is_exhausted() {
            io.count_refused(1);
            return self.refuse_input(client, input, (503, "this proxy is short of memory"), io);
        }
        if client.head_began != Tick::NEVER && !verdict_due(input, usize::from(client.searched), &limits.head)
        {
            return self.wait_for_head(client, input, io);
        }
        let mut slots = std::mem::take(&mut self.slots);
        let begun = match parse_head(input, &mut slots, &limits.head) {
            Outcome::Partial => self.wait_for_head(client, input, io),
            Outcome::Malformed(_) if client.may_begin_http2(input) => {
                if input.len() < PREFACE.len() {
                    self.wait_for_head(client, input, io)
                } else {
                    Begun::Http2
                }
            }
            Outcome::Malformed(reject) => {
                self.refuse_input(client, input, (reject.status(), reject.reason()), io)
            }
            Outcome::Complete { head, len } => {
                self.look_at(client, Some(&head), len, io);
                let queued = io.queued_bytes();
                let begun = self.begin_exchange(client, &head, len, io);
                self.note_answer(&begun, queued, io);
                begun
            }
        };
        self.slots = slots;
        begun
    }

    fn begin_exchange(
        &mut self,
        client: &mut Client,
        head: &Head<'_, '_>,
        len: usize,
        io: &mut Io<'_>,
    ) -> Begun {
        (client.head_began, client.searched) = (Tick::NEVER, 0);
        client.requests = client.requests.saturating_add(1);
        io.count_requests(1);
        let is_secured = io.facts().is_some_and(|facts| facts.is_secured());
        let is_head = head.method == Method::Head;
        if head.is_https && !is_secured {
            let reject = Reject::TargetSecured;
            return self.refuse((reject.status(), reject.reason()), head, io);
        }
        if matches!(head.method, Method::Connect | Method::Trace) {
            return self.refuse((501, "CONNECT and TRACE are not passed on"), head, io);
        }
        let is_last = self.plan.front.limits.requests_max.is_some_and(|max| client.requests >= max);
        let keep_alive = head.keep_alive && !is_last;
        let is_http10 = head.version == Version::Http10;
        if goes_no_further(head) {
            return self.answer_options((head, len, keep_alive), io);
        }
        match self.send_to_https(client, head, is_secured) {
            None => {}
            Some(Ok(to)) => return self.redirect(308, &to, (head, len, keep_alive), io),
            Some(Err(unclear)) => return self.refuse((400, unclear.reason()), head, io),
        }
        let (method, host) = (head.method.as_str(), head.host.map(|host| host.as_bytes()));
        let way = match self.plan.way(method, host, head.path.as_bytes(), is_secured) {
            Ok(way) => way,
            Err(refused) => return self.turn_away(&refused, (head, len, keep_alive), io),
        };
        self.note_route(way.route);
        let (front, route) = (&self.plan.front, self.plan.routes.get(way.route));
        if let Some(limit) = &route.limit
            && let Some(answered) = self.limit(client, (head, len, keep_alive), limit, io)
        {
            return answered;
        }
        let group = match &route.target {
            Target::Upstream(number) => self.groups.planned(*number),
            Target::Reply(said) => return self.answer(said, None, (head, len, keep_alive), io),
            Target::Redirect { status, to } => {
                let to = Target::location(to, &way.path, head.query.map(|query| query.as_bytes()));
                return self.redirect(*status, &to, (head, len, keep_alive), io);
            }
        };
        let Some(group) = group else {
            return self.refuse((502, "this route leads nowhere"), head, io);
        };
        let Peer { ip, is_trusted, is_known, .. } = self.peer(client, io);
        if !is_known {
            // It has left already. Without its address its request would look like one that came by no proxy.
            return Begun::Close { status: 0 };
        }
        let body_bytes_max = route.body_bytes_max.unwrap_or(front.body_bytes_max);
        if matches!(head.framing, Framing::Length(length) if length > body_bytes_max) {
            return self.refuse((413, "the body is larger than this proxy takes"), head, io);
        }
        let place = Place { group, server: 0 };
        let mut up = self.spare.take();
        // Where the request names no host, any server's will do.
        let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
        let buffer_bytes = if has_body { route.buffer_bytes } else { 0 };
        let to = Onward {
            path: &way.path,
            host: way.host.as_deref(),
            else_host: self.groups.pool(group).host(),
            is_buffered: buffer_bytes > 0,
        };
        let ids = self.seen.as_deref().map(|seen| &seen.ids);
        let facts = Facts { ip, is_trusted, is_secured, is_http2: client.is_http2, ids };
        let Some(has_trailers) = write_request(&mut up, head, &to, &facts, &front.name) else {
            return self.refuse((400, "Connection names too many fields"), head, io);
        };
        let repeats = match head.method {
            Method::Get | Method::Head | Method::Options => Repeats::Always,
            Method::Put | Method::Delete => Repeats::BehindKept,
            _ if head.fields.value("idempotency-key").is_some() => Repeats::BehindKept,
            _ => Repeats::Never,
        };
        let pool = self.groups.pool(group);
        let client_ip = match pool.is_by_client() {
            true => client_of(&head.fields, (ip, is_trusted), &front.trusted),
            false => ip,
        };
        let wanted = pool.wanted(&head.fields, &way.path, client_ip);
        let asked = Asked { is_head, is_connect: false, upgrades: asks_for_websocket(head) };
        let expects = head.expect == Expect::Continue && has_body;
        let mut down = Pipe { bytes: self.spare.take(), ..Pipe::default() };
        let exchange = Exchange {
            client: client.whom,
            place,
            wanted,
            way: first_way(&up, buffer_bytes, expects, &mut down),
            tries: 0,
            refusals: 0,
            up: Pipe { bytes: up, has_trailers, ..Pipe::default() },
            is_kept: true,
            form: Form::Text,
            has_sent: false,
            has_left: false,
            unsent_bytes: usize::MAX,
            has_heard: false,
            needs_new: false,
            repeats,
            decoder: has_body.then(|| Decoder::new(head.framing)),
            is_chunked: head.framing == Framing::Chunked,
            body_left: body_bytes_max,
            arrived_bytes: 0,
            body_due: Tick::NEVER,
            wait_due: Tick::NEVER,
            asked,
            is_http10,
            is_secured,
            expects: expects && buffer_bytes == 0,
            keep_alive,
            reader: Reader::new(asked),
            is_reusable: false,
            is_failure: false,
            stage: Stage::Unanswered,
            down,
            seen: self.seen.take(),
        };
        client.exchange = Some(self.begin(exchange));
        Begun::Exchange(len)
    }

    /// Who the client is. One system call a connection and plan, for the address.
    pub(super) fn peer(&self, client: &mut Client, io: &Io<'_>) -> Peer {
        let known = client.peer.filter(|peer| peer.plan_number == self.plan_number);
        let peer = known.unwrap_or_else(|| self.ask_for_peer(io));
        client.peer = Some(peer);
        peer
    }

    fn ask_for_peer(&self, io: &Io<'_>) -> Peer {
        let peer = io.peer();
        let is_known = peer.is_some();
        let ip = peer.as_ref().and_then(|peer| peer.ip()).map(|address| address.ip().to_canonical());
        let is_trusted =
            peer.is_some_and(|peer| self.plan.front.trusted.iter().any(|network| network.contains(&peer)));
        Peer { ip, is_trusted, is_known, plan_number: self.plan_number }
    }

    #[cold]
    fn wait_for_head(&self, client: &mut Client, input: &[u8], io: &mut Io<'_>) -> Begun {
        if client.head_began == Tick::NEVER {
            client.head_began = io.now();
        }
        client.searched = u16::try_from(input.len()).unwrap_or(u16::MAX);
        let limits = &self.plan.front.limits;
        let rate = u64::from(limits.head_bytes_per_sec_min.max(1));
        let earned = Duration::from_secs(input.len() as u64 / rate);
        io.set_deadline(Some(client.head_began.after(limits.head_timeout).after(earned)));
        Begun::Wait
    }

    /// Takes what there is of a request's body. Returns how many bytes are done.
    fn take_body(&mut self, key: usize, input: &[u8]) -> usize {
        let exchange = &mut self.exchanges[key];
        let keeps_bytes_max = self.groups.config(exchange.place.group).replay_bytes_max.min(HELD_BYTES);
        let (mut at, mut refused, before) = (0, None, exchange.up.bytes.len());
        while let Some(decoder) = &mut exchange.decoder {
            let is_of_use = exchange.way != Way::Off;
            // Without input it costs nothing to look, and the body may be complete.
            if exchange.way.is_full(&exchange.up) && at < input.len() {
                exchange.up.is_held = true;
                break;
            }
            let out = &mut exchange.up.bytes;
            match decoder.decode(piece(&input[at..]), &self.plan.front.limits.body) {
                Decoded::Data { consumed, data } => {
                    at += consumed;
                    let Some(left) = exchange.body_left.checked_sub(data.len() as u64) else {
                        refused = Some((413, "the body is larger than this proxy takes"));
                        break;
                    };
                    exchange.body_left = left;
                    match exchange.is_chunked {
                        _ if !is_of_use => {}
                        true => emit::write_chunk(out, data),
                        false => out.extend_from_slice(data),
                    }
                }
                Decoded::Partial { consumed } => {
                    at += consumed;
                    if consumed == 0 || at == input.len() {
                        exchange.up.is_held = exchange.way.is_full(&exchange.up);
                        break;
                    }
                }
                Decoded::End { consumed, trailers } => {
                    at += consumed;
                    if exchange.is_chunked {
                        write_last_chunk(out, exchange.up.has_trailers.then_some(trailers), true);
                    }
                    exchange.decoder = None;
                }
                Decoded::Malformed(reject) => {
                    refused = Some((reject.status(), reject.reason()));
                    break;
                }
            }
        }
        exchange.arrived_bytes += at as u64;
        if let Some((status, why)) = refused {
            // Its end cannot be found any more.
            exchange.decoder = None;
            exchange.keep_alive = false;
            self.fail(key, status, why);
            return at;
        }
        if let Some(seen) = &mut exchange.seen {
            seen.received += at as u64;
        }
        let has_grown = exchange.up.bytes.len() > before;
        exchange.expects &= !has_grown;
        if exchange.is_kept && exchange.up.bytes.len() > keeps_bytes_max {
            exchange.is_kept = false;
            exchange.form = Form::of_head(&exchange.up.bytes, &mut self.slots);
            exchange.up.forget_taken();
        }
        if has_grown && let Way::On(upstream) = exchange.way {
            let conn = self.upstreams[upstream].conn;
            self.wake(conn);
        }
        at
    }

    /// Moves what there is of the reply to the client, and says what is next.
    pub(super) fn serve(&mut self, client: &mut Client, io: &mut Io<'_>) -> Next {
        let Some(key) = client.exchange else { return Next::Continue };
        let exchange = &mut self.exchanges[key];
        let poured = exchange.down.pour(io);
        if let Some(seen) = &mut exchange.seen {
            seen.sent += poured as u64;
        }
        if exchange.down.len() > 0 {
            io.notify_drained();
        }
        if exchange.down.is_held && !exchange.down.is_full() {
            exchange.down.is_held = false;
            if let Way::On(upstream) = exchange.way {
                let conn = self.upstreams[upstream].conn;
                self.wake(conn);
            }
        }
        let exchange = &mut self.exchanges[key];
        if exchange.down.len() == 0 {
            let next = match exchange.stage {
                Stage::Done if exchange.keep_alive && exchange.decoder.is_none() => Some(Next::Continue),
                Stage::Done | Stage::Cut { by_reset: false } => Some(Next::Close),
                Stage::Cut { by_reset: true } => Some(Next::Abort),
                Stage::Joined(pair) => {
                    client.joined = Some(pair);
                    self.note_joined(key, pair);
                    Some(Next::Pause)
                }
                Stage::Unanswered | Stage::Body(_) => None,
            };
            if let Some(next) = next {
                client.exchange = None;
                self.end(key);
                io.hold(0);
                self.wait_for_request(io);
                return next;
            }
        }
        self.wait_for_more(key, io)
    }

    /// For what an exchange's client waits, and what it is waited for.
    fn wait_for_more(&mut self, key: usize, io: &mut Io<'_>) -> Next {
        let limits = &self.plan.front.limits;
        let exchange = &mut self.exchanges[key];
        io.hold(exchange.up.bytes.capacity() + exchange.down.bytes.capacity());
        let reads = exchange.reads_client();
        if !exchange.waits_for_body() {
            exchange.body_due = Tick::NEVER;
        } else if exchange.body_due == Tick::NEVER {
            exchange.arrived_bytes = 0;
            exchange.body_due = io.now().after(limits.body_idle_timeout);
        }
        let due = exchange.body_due.min(exchange.wait_due);
        io.set_deadline(Some(due).filter(|due| *due != Tick::NEVER));
        // It may have ended while its request was still being read.
        let is_joined = matches!(exchange.stage, Stage::Joined(_));
        let has_left = exchange.decoder.is_none() && !is_joined && io.is_peer_gone();
        if has_left && !self.plan.front.half_close {
            return Next::Close;
        }
        if reads { Next::Continue } else { Next::Pause }
    }

    pub(super) fn client_timeout(&mut self, client: &mut Client, io: &mut Io<'_>) -> Next {
        let Some(key) = client.exchange else {
            if client.head_began != Tick::NEVER {
                self.refuse_input(client, b"", (408, "the head did not arrive in time"), io);
            } else if io.queued_bytes() > 0 {
                // The time without a request counts from when the last reply was taken.
                self.wait_for_request(io);
                return Next::Continue;
            }
            return Next::Close;
        };
        let (now, bytes_min) = (io.now(), self.plan.front.limits.body_bytes_min());
        let exchange = &mut self.exchanges[key];
        if exchange.wait_due <= now {
            exchange.wait_due = Tick::NEVER;
            self.fail(key, 503, "no connection with an upstream became free in time");
        } else if exchange.body_due <= now && exchange.arrived_bytes >= bytes_min {
            exchange.body_due = Tick::NEVER;
        } else if exchange.body_due <= now {
            exchange.keep_alive = false;
            self.fail(key, 408, "the body did not arrive in time");
        }
        self.serve(client, io)
    }
}
