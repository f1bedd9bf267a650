//! When something is noted of a request (of other connections: `relay/seen.rs`), where anything is to be told of it (`observe.rs`): with its head, and with its end.

use super::accept::Form;
use super::client::{Begun, Client, Peer};
use super::exchange::Exchange;
use super::observe::{Counted, End, Front, Label, Noted, Seen, Tally, Wishes};
use super::route::Route;
use super::state::State;
use crate::http::message::Head;
use ringmill_engine::{Facts, Io};
use std::rc::Rc;
use std::time::Duration;

const MILLION: u32 = 1_000_000;
/// Boxes that are kept for requests to come.
const SPARE_MAX: usize = 256;

impl State {
    /// Notes what a request's head says, where anything is to be noted; `None` where it was none.
    pub(super) fn look_at(
        &mut self,
        client: &mut Client,
        head: Option<&Head<'_, '_>>,
        len: usize,
        io: &Io<'_>,
    ) {
        if !self.plan.front.observe.is_wanted() {
            return;
        }
        let Peer { ip, is_trusted, .. } = self.peer(client, io);
        let mut seen = self.spare_seen.pop().unwrap_or_default();
        seen.renew();
        let observe = &self.plan.front.observe;
        seen.ids = observe.ids.identify(head.map(|head| &head.fields), is_trusted, &mut self.random);
        (seen.client, seen.received) = (ip, len as u64);
        // A head that never was complete has been waited for.
        let waited = io.now().since(client.head_began);
        (seen.began, seen.began_unix) = (io.now(), io.unix_time());
        if head.is_none() && waited > Duration::ZERO {
            (seen.began, seen.began_unix) = (client.head_began, seen.began_unix.saturating_sub(waited));
        }
        let has_agents = observe.log.as_ref().is_some_and(|log| log.has_agents);
        let wishes = Wishes { has_texts: observe.log.is_some(), has_agents };
        seen.read(head, client.is_http2, io.facts().map_or("", tls_of), wishes);
        self.seen = Some(seen);
    }

    /// Refuses what is no request.
    #[cold]
    pub(super) fn refuse_input(
        &mut self,
        client: &mut Client,
        input: &[u8],
        said: (u16, &str),
        io: &mut Io<'_>,
    ) -> Begun {
        let is_head = input.strip_prefix(b"\r\n").unwrap_or(input).starts_with(b"HEAD ");
        self.look_at(client, None, input.len(), io);
        let queued = io.queued_bytes();
        let begun = self.refuse_as(said, (is_head, Form::Text), io);
        self.note_answer(&begun, queued, io);
        begun
    }

    /// The request that is looked at was answered here, where so many bytes were queued before.
    pub(super) fn note_answer(&mut self, begun: &Begun, queued_before: usize, io: &Io<'_>) {
        let Some(mut seen) = self.seen.take() else { return };
        if let Begun::Answered { status, .. } | Begun::Close { status } = begun {
            seen.sent = io.queued_bytes().saturating_sub(queued_before) as u64;
            seen.status = *status;
            seen.end = End::of_own(*status);
            self.put(&seen, 0, None);
        }
        self.forget(Some(seen));
    }

    /// An exchange has ended.
    pub(super) fn note_end(&mut self, exchange: &mut Exchange) {
        let Some(seen) = exchange.seen.take() else { return };
        let server = self.given_to(exchange);
        self.put(&seen, exchange.tries, server.as_deref());
        self.forget(Some(seen));
    }

    /// The same, because its client is gone, for this reason.
    pub(super) fn note_left(&mut self, exchange: &mut Exchange, why: End) {
        if let Some(seen) = &mut exchange.seen {
            seen.end.get_or_insert(why);
        }
        self.note_end(exchange);
    }

    /// An exchange has become a pair, and ends with it.
    pub(super) fn note_joined(&mut self, key: usize, pair: usize) {
        let exchange = &mut self.exchanges[key];
        let (Some(seen), tries) = (exchange.seen.take(), exchange.tries) else { return };
        let server = self.given_to(&self.exchanges[key]);
        self.pairs[pair].seen = Some(Noted { seen, tries, server });
    }

    /// The server that it was given to last.
    fn given_to(&self, exchange: &Exchange) -> Option<Rc<Label>> {
        (exchange.tries > 0).then(|| self.groups[exchange.place].label.clone())
    }

    /// Tells of what has come to its end, whatever it was.
    pub(super) fn put_noted(&mut self, Noted { seen, tries, server }: Noted) {
        self.put(&seen, tries, server.as_deref());
        self.forget(Some(seen));
    }

    fn put(&mut self, seen: &Seen, tries: u8, server: Option<&Label>) {
        let numbers = seen.numbers(self.now, tries);
        if let Some(listener) = &seen.listener {
            listener.line.iter().for_each(|line| line.count_whole(&numbers));
        } else if let Some(tally) = &mut self.tally {
            tally.end(seen.route, &numbers);
        }
        if let Some(line) = server.and_then(|server| server.line.as_ref()) {
            line.count_given(&numbers);
        }
        let (Some(rules), Some(sink)) = (&self.plan.front.observe.log, &mut self.sink) else { return };
        // Connections are not slow because they last.
        let is_slow = numbers.total >= rules.slow && numbers.status != 101 && !numbers.is_relayed;
        let is_bad = numbers.status >= 500 || numbers.end.is_bad() || is_slow;
        let is_taken = is_bad
            || rules.sampled_per_million >= MILLION
            || self.random.next() % u64::from(MILLION) < u64::from(rules.sampled_per_million);
        if is_taken {
            let server = server.map_or("", |server| &server.address);
            let listener = seen.listener.as_ref().map_or("", |listener| &listener.address);
            let front =
                Front { upstream: server.as_bytes(), id: seen.ids.id(), listener: listener.as_bytes() };
            sink.put(&numbers, front, seen.texts(), self.now);
        }
    }

    /// The request that is looked at takes the route with this number.
    pub(super) fn note_route(&mut self, route: usize) {
        if let (Some(seen), Some(tally)) = (&mut self.seen, &mut self.tally) {
            seen.route = tally.begin(route);
        }
    }

    /// What is told by the plan that holds, and to whom.
    pub(super) fn open_observe(&mut self) {
        self.open_log();
        let Some(counts) = &self.plan.front.observe.counts else {
            self.tally = None;
            return;
        };
        let known = self.tally.take().filter(|tally| tally.is_of(counts));
        let tally = self.tally.insert(known.unwrap_or_else(|| Tally::new(counts)));
        tally.follow(self.plan.routes.all().iter().map(Route::to_string));
        for key in self.groups.all_planned() {
            let name = self.groups.planned_as(key).map_or("", |upstream| &upstream.name).to_owned();
            let is_relayed = self.groups.config(key).is_relayed;
            for endpoint in &mut self.groups.group(key).pool.endpoints {
                if endpoint.label.line.is_none() {
                    let what = if is_relayed { Counted::Relayed } else { Counted::Server };
                    let what = what(name.clone(), endpoint.address.clone());
                    let line = Some(counts.line(&what));
                    endpoint.label = Rc::new(Label { address: endpoint.label.address.clone(), line });
                }
            }
        }
    }

    fn open_log(&mut self) {
        self.sink = match (&self.plan.front.observe.log, self.sink.take()) {
            (None, _) => None,
            (Some(rules), Some(sink)) if sink.is_of(&rules.to) => Some(sink),
            (Some(rules), _) => Some(rules.to.join()),
        };
    }

    /// Keeps its memory for the next request.
    fn forget(&mut self, seen: Option<Box<Seen>>) {
        if let Some(mut seen) = seen
            && self.spare_seen.len() < SPARE_MAX
        {
            seen.listener = None;
            self.spare_seen.push(seen);
        }
    }
}

/// The version of TLS between the client and whoever it speaks TLS with.
pub(super) fn tls_of(facts: &Facts) -> &str {
    let proxied = || facts.proxied.as_ref()?.ssl.as_ref()?.version.as_deref();
    facts.secure.as_ref().map(|secure| secure.version).or_else(proxied).unwrap_or_default()
}
