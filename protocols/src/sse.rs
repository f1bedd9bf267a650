//! Server-sent events (WHATWG HTML, 9.2): a topic as a body that does not end.
//!
//! A client gets a place as soon as it is known, and with every event, and goes on from there when it comes back (`Last-Event-ID`). Where
//! that is not possible any more, or it was too slow, it gets an event `reset`: it has to load what it shows anew. Comments keep the
//! connection alive, and a drain ends it between two events.

use crate::http::{BodyWriter, Fill, Reply, Request, Source};
use crate::topic::{
    AT_ONCE_BYTES, Frame, Hub, Next, Place, SlowPolicy, Start, Subscribe, Subscription, is_name,
};
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How events are sent.
#[derive(Clone, Copy, Debug)]
pub struct EventOptions {
    /// Where a client begins that does not say where it was.
    pub start: Start,
    /// What if it is too slow. Who is closed comes back, and is told then that it has missed something.
    pub when_slow: SlowPolicy,
    /// After so long without an event a comment is sent, so that nobody between takes the connection for dead.
    pub heartbeat: Duration,
    /// After how long a client comes back whose connection has ended...
    pub retry: Duration,
    /// ...and by how much more at most: each is told something else, so that not all come at once.
    pub retry_jitter: Duration,
}

impl Default for EventOptions {
    fn default() -> EventOptions {
        EventOptions {
            start: Start::Now,
            when_slow: SlowPolicy::Skip,
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(2),
            retry_jitter: Duration::from_secs(2),
        }
    }
}

impl EventOptions {
    /// How a client subscribes: from where it was, if it says so in the field `Last-Event-ID` or, because a page cannot set that, in the
    /// query as `last`.
    pub(crate) fn subscribe(&self, field: Option<&[u8]>, query: Option<&str>) -> Subscribe {
        let said = field.and_then(|field| std::str::from_utf8(field).ok()).or(query);
        let start = match said.filter(|said| !said.is_empty()) {
            None => self.start,
            // Something that is no place of ours is a place that is not known any more.
            Some(said) => Start::After(said.parse().unwrap_or(Place { epoch: 0, offset: u64::MAX })),
        };
        Subscribe { start, when_slow: self.when_slow }
    }

    /// What comes first: when to come back. It makes the client know that it is connected.
    pub(crate) fn greeting(&self) -> String {
        let jitter = self.retry_jitter.as_millis() as u64;
        let more = RandomState::new().hash_one("retry") % (jitter + 1);
        format!("retry: {}\n: hello\n\n", self.retry.as_millis() as u64 + more)
    }
}

/// A comment that says that the connection is there.
pub(crate) const HEARTBEAT: &[u8] = b": \n\n";

/// A message as an event.
pub(crate) fn event(frame: &Frame) -> Bytes {
    frame.event_bytes(|| encode(frame)).clone()
}

fn encode(frame: &Frame) -> Bytes {
    let Ok(text) = std::str::from_utf8(frame.as_bytes()) else {
        let bytes = frame.as_bytes().len();
        return format!("id: {}\nevent: binary\ndata: {bytes}\n\n", frame.place()).into();
    };
    let mut event = String::with_capacity(text.len() + 80);
    event += &format!("id: {}\n", frame.place());
    if let Some(name) = frame.event() {
        event += &format!("event: {name}\n");
    }
    let mut rest = text;
    loop {
        let end = rest.find(['\n', '\r']);
        event += "data: ";
        event += &rest[..end.unwrap_or(rest.len())];
        event.push('\n');
        let Some(end) = end else { break };
        let width = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
    }
    event.push('\n');
    event.into()
}

/// Tells a client where it is. Without data that is no event, and still what it comes back with: the last event ID is set before that is looked
/// at (WHATWG HTML, 9.2.6, "dispatch the event").
pub(crate) fn at(place: Place) -> String {
    format!("id: {place}\n\n")
}

/// What a client is told that has missed so many messages, and goes on from this place.
pub(crate) fn reset(messages: Option<u64>, place: Option<Place>) -> String {
    let id = place.map_or(String::new(), |place| format!("id: {place}\n"));
    let messages = messages.map_or("unknown".to_owned(), |messages| messages.to_string());
    format!("{id}event: reset\ndata: {messages}\n\n")
}

/// The body.
struct Events {
    subscription: Subscription,
    options: EventOptions,
    is_greeted: bool,
    /// The client was told where it is.
    is_placed: bool,
}

impl Source for Events {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        if !self.is_greeted {
            self.is_greeted = true;
            body.write(self.options.greeting().as_bytes());
        }
        if body.is_draining() {
            return Fill::End;
        }
        // As a WebSocket does: what a client does not read waits in the topic, where it takes nothing more.
        if body.sending_bytes() > 0 {
            return Fill::MoreOnceSent;
        }
        if !self.is_placed
            && let Some(place) = self.subscription.place()
        {
            self.is_placed = true;
            body.write(at(place).as_bytes());
        }
        while body.room_bytes() > 0 && (body.queued_bytes() < AT_ONCE_BYTES || self.subscription.is_urgent())
        {
            match self.subscription.next() {
                Next::Frame(frame) => body.queue(event(&frame)),
                Next::Skipped(messages) => {
                    self.is_placed = true;
                    body.write(reset(messages, self.subscription.place()).as_bytes());
                }
                Next::Lagged => return Fill::End,
                Next::Empty => return Fill::Waiting,
            }
        }
        Fill::MoreOnceSent
    }

    fn heartbeat(&self) -> Option<Duration> {
        Some(self.options.heartbeat)
    }

    fn beat(&mut self, body: &mut BodyWriter<'_>) {
        body.write(HEARTBEAT);
    }
}

impl Reply<'_> {
    /// Answers with the messages of a topic as server-sent events, from where the client was. 404 if that is no name of a topic,
    /// 503 if it is one too many.
    ///
    /// ```
    /// # use ringmill_protocols::{http, topic::Hub};
    /// # fn server(hub: Hub) -> http::Server<impl http::Handler> {
    /// http::server(move |request, reply| reply.events(request, &hub, "news", Default::default()))
    /// # }
    /// ```
    pub fn events(&mut self, request: &Request<'_>, hub: &Hub, topic: &str, options: EventOptions) {
        let how = options.subscribe(request.field("last-event-id"), request.query_value("last"));
        let Some(subscription) = hub.subscribe_io(topic, how, &mut self.io) else {
            return if is_name(topic) {
                self.status(503).field("retry-after", "1").text("503 Service Unavailable: too many topics\n")
            } else {
                self.status(404).text("404 Not Found: that is no name of a topic\n")
            };
        };
        self.content_type("text/event-stream")
            .field("cache-control", "no-cache, no-transform")
            .field("x-accel-buffering", "no")
            .stream(None, Events { subscription, options, is_greeted: false, is_placed: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{Publication, Topics};

    #[track_caller]
    fn check(publication: impl Into<Publication>, expected: &str) {
        let hub = Topics::default().hub_of(0, 1);
        let mut subscription = hub.subscribe("a", Subscribe::default()).unwrap();
        hub.publish("a", publication);
        let Next::Frame(frame) = subscription.next() else { panic!("it was published") };
        let event = String::from_utf8(event(&frame).to_vec()).unwrap();
        assert_eq!(event, format!("id: {}\n{expected}\n", frame.place()));
    }

    #[test]
    fn events_as_text() {
        check("one", "data: one\n");
        check("", "data: \n");
        check("one\ntwo\r\nthree\rfour\n", "data: one\ndata: two\ndata: three\ndata: four\ndata: \n");
        check("a: b\nid: 7", "data: a: b\ndata: id: 7\n");
        check(Publication::text("5").with_event("price"), "event: price\ndata: 5\n");
        check(Publication::text("5").with_event("price\ndata: 6"), "data: 5\n");
        check(&b"\xff\xff"[..], "event: binary\ndata: 2\n");
        check(&b"text"[..], "data: text\n");
    }

    #[test]
    fn a_client_says_where_it_was() {
        let options = EventOptions { start: Start::Last, ..EventOptions::default() };
        let check = |field: Option<&str>, query, start| {
            assert_eq!(options.subscribe(field.map(str::as_bytes), query).start, start);
        };
        let place = Start::After(Place { epoch: 0x1f, offset: 7 });
        let nowhere = Start::After(Place { epoch: 0, offset: u64::MAX });
        check(None, None, Start::Last);
        check(Some(""), Some("1f-8"), Start::Last);
        check(Some("1f-7"), Some("1f-8"), place);
        check(None, Some("1f-7"), place);
        check(Some("7"), None, nowhere);
    }
}
