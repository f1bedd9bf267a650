//! When something is noted of a connection that is passed on as it is, where anything is to be told of it (`observe.rs`): when it comes, when it
//! has a server, when that says something, and with its end.

use super::Listener;
use super::pair::{End, Pair};
use crate::proxy::groups::Place;
use crate::proxy::observe::{End as Outcome, Noted, Wishes};
use crate::proxy::seen::tls_of;
use crate::proxy::state::State;
use ringmill_engine::{CloseReason, Io, Refusal, Tick};

impl State {
    /// A client has connected.
    pub(in crate::proxy) fn note_client(&mut self, listener: &Listener, io: &Io<'_>) -> Option<Noted> {
        if !self.plan.front.observe.is_told() {
            return None;
        }
        let mut seen = self.spare_seen.pop().unwrap_or_default();
        seen.renew();
        seen.client = io.peer().and_then(|peer| peer.ip()).map(|peer| peer.ip().to_canonical());
        seen.listener = Some(listener.label.clone());
        (seen.began, seen.began_unix) = (io.now(), io.unix_time());
        let mut noted = Some(Noted { seen, tries: 0, server: None });
        self.note_name(&mut noted, None, io);
        noted
    }

    /// It has asked for this name.
    pub(super) fn note_name(&self, noted: &mut Option<Noted>, name: Option<&str>, io: &Io<'_>) {
        let Some(Noted { seen, .. }) = noted else { return };
        let wishes = Wishes { has_texts: self.plan.front.observe.log.is_some(), has_agents: false };
        seen.read_name(name.unwrap_or_default(), io.facts().map_or("", tls_of), wishes);
    }

    /// It comes to its end without having had a place.
    pub(in crate::proxy) fn note_unserved(&mut self, noted: Option<Noted>, outcome: Outcome) {
        if let Some(mut noted) = noted {
            noted.seen.end = Some(outcome);
            self.put_noted(noted);
        }
    }

    /// It has a connection with this server.
    pub(super) fn note_server(&mut self, pair: usize, place: Place, now: Tick) {
        let label = &self.groups[place].label;
        let pair = &mut self.pairs[pair];
        if let Some(noted) = &mut pair.seen {
            noted.seen.attached = now;
            let refusals = u8::try_from(pair.refusals).unwrap_or(u8::MAX);
            (noted.tries, noted.server) = (refusals.saturating_add(1), Some(label.clone()));
        }
    }
}

impl Pair {
    /// Something comes from this end.
    pub(super) fn note_bytes(&mut self, end: End) {
        if let Some(Noted { seen, .. }) = &mut self.seen
            && end == End::Server
            && seen.heard == Tick::NEVER
        {
            seen.heard = self.moved;
        }
    }
}

/// What it means for a client that no connection could be made.
pub(super) fn outcome_of(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::TimedOut => Outcome::TimedOut,
        Refusal::Limit | Refusal::Stopped => Outcome::Refused,
        _ => Outcome::UpstreamFailed,
    }
}

/// What it means that this end has broken off.
pub(super) fn outcome_at(end: End, reason: CloseReason) -> Outcome {
    match (reason, end) {
        (CloseReason::WriteTimeout, _) => Outcome::TimedOut,
        (CloseReason::Stopped | CloseReason::MemoryExhausted, _) => Outcome::Refused,
        (_, End::Client) => Outcome::ClientLeft,
        (_, End::Server) => Outcome::UpstreamFailed,
    }
}
