//! Checks: a request that no client made, on a connection of its own, by which a server shows whether it is up.
//!
//! Every worker looks when a check is due, and one of them makes it; what it came to counts for all (`health.rs`). It goes the way of
//! requests, TLS and all, and waits for nothing that a request would not wait for.

use super::groups::Place;
use super::state::State;
use crate::http::client::reader::{Asked, Event, Reader};
use crate::layer::proxy::write_own_header;
use ringmill_engine::{Io, Next, Refusal, Step, Tick};

/// The state of the connection of a check.
pub(super) struct Checking {
    place: Place,
    reader: Reader,
    outcome: Outcome,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// So far there is no answer: where there comes none it is a bad one.
    Open,
    Good,
    /// It was given up, and says nothing of the server.
    Void,
}

impl State {
    /// Makes the checks that are due, and has itself called when the next ones are.
    pub(super) fn check_servers(&mut self, now: Tick) {
        let Some(dialer) = self.dialer.clone() else { return };
        let (mut due, mut next) = (Vec::new(), Tick::NEVER);
        for group in self.groups.all_planned() {
            let (mut servers, it) = (Vec::new(), self.groups.group(group));
            next = next.min(it.pool.take_checks(now, &mut servers));
            it.exchanges += servers.len();
            due.extend(servers.into_iter().map(|server| Place { group, server }));
        }
        for place in due {
            let by = if self.groups.is_secured(place) { &self.secure_dialer } else { &self.dialer };
            match by.clone() {
                Some(by) => by.connect(&self.groups[place].address, place.check_tag()),
                None => self.end_check(place, Outcome::Void),
            }
        }
        if next != Tick::NEVER {
            dialer.set_timer(Some(next));
        }
    }

    /// The connection of a check is there: like all others with a server that is told whose they are it begins with a header, ahead of
    /// whatever is spoken on it.
    pub(super) fn introduce_check(&self, place: Place, io: &mut Io<'_>) {
        if let Some(version) = self.groups.config(place.group).proxy_protocol {
            let mut header = Vec::new();
            write_own_header(version, &mut header);
            io.write(&header);
        }
    }

    pub(super) fn check_open(&mut self, place: Place, io: &mut Io<'_>) -> Checking {
        let endpoint = &self.groups[place];
        let host = endpoint.host.clone();
        if let Some(check) = self.groups.pool(place.group).check.as_ref() {
            let path = check.path.as_str();
            io.write(
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: ringmill-check\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            );
            io.set_timeout(check.timeout);
        }
        Checking { place, reader: Reader::new(Asked::default()), outcome: Outcome::Open }
    }

    pub(super) fn check_data(&mut self, checking: &mut Checking, input: &[u8]) -> Step {
        let mut at = 0;
        loop {
            match checking.reader.read(&input[at..], &mut self.slots, &self.plan.front.limits.body) {
                Event::Interim(response) => at += response.bytes,
                Event::Head(response) => {
                    if (200..400).contains(&response.status) {
                        checking.outcome = Outcome::Good;
                    }
                    return Step::close();
                }
                Event::Partial { consumed } => return Step::consumed(at + consumed),
                Event::Data { .. } | Event::End { .. } | Event::Bad(_) => return Step::abort(),
            }
        }
    }

    /// The engine stops: nobody waits for it.
    pub(super) fn check_drain(checking: &mut Checking) -> Next {
        checking.outcome = Outcome::Void;
        Next::Close
    }

    pub(super) fn check_closed(&mut self, checking: &Checking) {
        self.end_check(checking.place, checking.outcome);
    }

    pub(super) fn check_refused(&mut self, place: Place, refusal: Refusal) {
        let is_ours = matches!(refusal, Refusal::Limit | Refusal::Stopped);
        self.end_check(place, if is_ours { Outcome::Void } else { Outcome::Open });
    }

    fn end_check(&mut self, place: Place, outcome: Outcome) {
        let now = self.now;
        let group = self.groups.group(place.group);
        group.exchanges -= 1;
        if outcome != Outcome::Void {
            group.pool.note_check(place.server, outcome == Outcome::Good, now);
        }
        self.groups.forget_if_done(place.group);
    }
}
