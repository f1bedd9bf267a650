//! What is noted of a request while it is served. Plain data.

use super::counts::{Counted, Counts, Line};
use super::entry::{End, HttpVersion, LONG_MAX, Numbers, SHORT_MAX, put_text};
use super::ids::Identity;
use crate::http::message::{Head, Version};
use ringmill_engine::Tick;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Kept apart from its exchange, which is smaller where nothing is noted.
pub(crate) struct Seen {
    /// What it is called.
    pub(crate) ids: Identity,
    pub(crate) client: Option<IpAddr>,
    pub(crate) began: Tick,
    /// The same by the wall clock, since 1970.
    pub(crate) began_unix: Duration,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// What the client is answered; 0 as long as it is not.
    pub(crate) status: u16,
    /// When it was given the connection that it has; `Tick::NEVER` before.
    pub(crate) attached: Tick,
    /// When the first byte of its reply came; `Tick::NEVER` before.
    pub(crate) heard: Tick,
    /// Where its route is counted, if it is.
    pub(crate) route: Option<usize>,
    /// Of a connection that is passed on: where it came in.
    pub(crate) listener: Option<Rc<Label>>,
    /// Why it does not come to a good end.
    pub(crate) end: Option<End>,
    version: HttpVersion,
    /// Those of an entry, as they go into a ring; empty where no log is kept.
    texts: Vec<u8>,
}

/// What is noted of a pair, and told with its end.
pub(crate) struct Noted {
    pub(crate) seen: Box<Seen>,
    pub(crate) tries: u8,
    pub(crate) server: Option<Rc<Label>>,
}

/// What a server or a listener is called, and where it is counted, if it is.
pub(crate) struct Label {
    pub(crate) address: String,
    pub(crate) line: Option<Arc<Line>>,
}

impl Label {
    /// That of a listener with this name, which is counted where these are.
    pub(crate) fn of_listener(name: &str, counts: Option<&Counts>) -> Label {
        let line = counts.map(|counts| counts.line(&Counted::Listener(name.to_owned())));
        Label { address: name.to_owned(), line }
    }
}

/// What a log wants to know of a request's texts.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) has_texts: bool,
    pub(crate) has_agents: bool,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen {
            ids: Identity::none(),
            client: None,
            began: Tick::NEVER,
            began_unix: Duration::ZERO,
            received: 0,
            sent: 0,
            status: 0,
            attached: Tick::NEVER,
            heard: Tick::NEVER,
            route: None,
            listener: None,
            end: None,
            version: HttpVersion::default(),
            texts: Vec::new(),
        }
    }
}

impl Seen {
    /// Begins anew, in the memory that there is.
    pub(crate) fn renew(&mut self) {
        let texts = std::mem::take(&mut self.texts);
        *self = Seen { texts, ..Seen::default() };
        self.texts.clear();
    }

    /// Takes what its head says; `None` where it was no head. As a stream of HTTP/2 it has one of HTTP/1.1.
    pub(crate) fn read(&mut self, head: Option<&Head<'_, '_>>, is_http2: bool, tls: &str, wishes: Wishes) {
        self.version = match head.map(|head| head.version) {
            _ if is_http2 => HttpVersion::Http2,
            Some(Version::Http10) => HttpVersion::Http10,
            Some(Version::Http11) | None => HttpVersion::Http11,
        };
        if !wishes.has_texts {
            return;
        }
        let out = &mut self.texts;
        put_text(out, head.map_or(b"", |head| head.method.as_str().as_bytes()), SHORT_MAX);
        put_text(out, head.and_then(|head| head.host).map_or(b"", |host| host.as_bytes()), LONG_MAX);
        put_text(out, head.map_or(b"", |head| head.path.as_bytes()), LONG_MAX);
        put_text(out, head.and_then(|head| head.query).map_or(b"", |query| query.as_bytes()), LONG_MAX);
        put_text(out, tls.as_bytes(), SHORT_MAX);
        for name in ["referer", "user-agent"] {
            let value = head.filter(|_| wishes.has_agents).and_then(|head| head.fields.value(name));
            put_text(out, value.unwrap_or_default(), LONG_MAX);
        }
    }

    /// Takes what is known of a connection: the name that was asked for in TLS.
    pub(crate) fn read_name(&mut self, name: &str, tls: &str, wishes: Wishes) {
        if wishes.has_texts {
            self.texts.clear();
            for text in ["", name, "", "", tls, "", ""] {
                put_text(&mut self.texts, text.as_bytes(), LONG_MAX);
            }
        }
    }

    /// It has come to its end, and was given to an upstream so often.
    pub(crate) fn numbers(&self, now: Tick, tries: u8) -> Numbers {
        let heard = (self.heard != Tick::NEVER).then(|| self.heard.since(self.attached));
        Numbers {
            began: self.began_unix,
            total: now.since(self.began),
            waited: (self.attached != Tick::NEVER).then(|| self.attached.since(self.began)),
            first_byte: heard,
            received: self.received,
            sent: self.sent,
            status: self.status,
            retries: tries.saturating_sub(1),
            end: self.end.unwrap_or(End::Complete),
            version: self.version,
            is_relayed: self.listener.is_some(),
            client: self.client,
            trace: self.ids.trace(),
        }
    }

    pub(crate) fn texts(&self) -> &[u8] {
        &self.texts
    }
}

impl End {
    /// Of what this proxy answers itself; with 0 nobody was there to be answered.
    pub(crate) fn of_own(status: u16) -> Option<End> {
        match status {
            0 => Some(End::ClientLeft),
            1..400 => None,
            408 | 504 => Some(End::TimedOut),
            502 => Some(End::UpstreamFailed),
            _ => Some(End::Refused),
        }
    }

    /// It is told of in any case.
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, End::UpstreamFailed | End::TimedOut)
    }
}
