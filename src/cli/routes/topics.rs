//! Topics: `/ws/{topic}`, `/events/{topic}` and `POST /publish/{topic}`.

use super::RoutesOptions;
use ringmill::broker::{self, Link};
use ringmill::http::{Reply, Request};
use ringmill::sse::EventOptions;
use ringmill::topic::{Hub, Publication, Published, SlowPolicy, Start, Subscribe, TopicCounters};
use ringmill::websocket::{Accept, Endpoint, Handler, Message, Options, Origins, Ws};

/// One worker's topics.
pub(crate) struct Live {
    hub: Hub,
    endpoint: Endpoint<Room>,
    origins: Origins,
    broker: Option<Link>,
    events: EventOptions,
}

impl Live {
    pub(crate) fn new(hub: &Hub, options: &Options, routes: &RoutesOptions) -> Live {
        let RoutesOptions { broker, events, .. } = routes;
        let room = Room { broker: broker.clone(), start: events.start };
        let endpoint = Endpoint::with_options(room, options.clone()).with_topics(hub);
        let origins = options.origins.clone();
        Live { hub: hub.clone(), endpoint, origins, broker: broker.clone(), events: *events }
    }

    pub(crate) fn broker(&self) -> Option<broker::Counters> {
        self.broker.as_ref().map(Link::counters)
    }

    pub(crate) fn counters(&self) -> TopicCounters {
        self.hub.topics().counters()
    }

    pub(crate) fn message_bytes_max(&self) -> u64 {
        self.hub.topics().options().message_bytes_max as u64
    }

    /// `/ws/{topic}`: what is sent is published, and what is published is sent.
    pub(crate) fn websocket(&self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match topic(request) {
            Some(_) => self.endpoint.answer(request, reply),
            None => no_topic(reply),
        }
    }

    /// `/events/{topic}`: what is published, as server-sent events.
    pub(crate) fn events(&self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match topic(request) {
            Some(topic) => reply.events(request, &self.hub, topic, self.events),
            None => no_topic(reply),
        }
    }

    /// `POST /publish/{topic}`: the body is a message. Only for pages of the same origins that may open a WebSocket: any page can have a
    /// browser send a form.
    pub(crate) fn publish(&self, request: &Request<'_>, reply: &mut Reply<'_>) {
        let Some(topic) = topic(request) else { return no_topic(reply) };
        if !self.origins.allow(request) {
            return reply.status(403).text("403 Forbidden: pages of this origin may not publish here\n");
        }
        let publication = match std::str::from_utf8(request.body()) {
            Ok(text) => Publication::from(text),
            Err(_) => Publication::from(request.body()),
        };
        match self.hub.publish(topic, publication) {
            Published::Done { .. } => reply.status(202).text("published\n"),
            Published::TooLarge => {
                reply.status(413).text("413 Content Too Large: longer than a message may be\n")
            }
            Published::NoTopic => no_topic(reply),
            Published::Busy => reply
                .status(503)
                .field("retry-after", "1")
                .text(&format!("503 Service Unavailable: {}\n", busy(&self.broker))),
        }
    }
}

/// The topic behind the route: of letters, digits and `.`, `_`, `~`, `-`, which need no encoding in a path.
fn topic<'a>(request: &Request<'a>) -> Option<&'a str> {
    let (_, topic) = request.path()[1..].split_once('/')?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    (ringmill::topic::is_name(topic) && topic.bytes().all(is_plain)).then_some(topic)
}

fn no_topic(reply: &mut Reply<'_>) {
    reply.status(404).text("404 Not Found: a topic has 1 to 128 letters, digits, or any of . _ ~ -\n");
}

/// Why nothing can be published now.
fn busy(broker: &Option<Link>) -> &'static str {
    match broker {
        Some(broker) if !broker.counters().is_up => "there is no connection to the broker",
        _ => "too much is being published",
    }
}

struct Room {
    broker: Option<Link>,
    start: Start,
}

/// The topic of a connection that subscribes to it when it opens; then the subscription has the name. There may be many.
struct Wanted(String);

impl Handler for Room {
    type State = Option<Box<Wanted>>;

    fn accept(&mut self, request: &Request<'_>, _: &mut Accept<'_>) -> Option<Option<Box<Wanted>>> {
        topic(request).map(|topic| Some(Box::new(Wanted(topic.to_owned()))))
    }

    fn open(&mut self, wanted: &mut Option<Box<Wanted>>, ws: &mut Ws<'_>) {
        let how = Subscribe { start: self.start, when_slow: SlowPolicy::Close };
        if let Some(Wanted(topic)) = wanted.take().as_deref()
            && !ws.subscribe_with(topic, how)
        {
            ws.close(1013, "too many topics");
        }
    }

    fn message(&mut self, _: &mut Option<Box<Wanted>>, message: Message<'_>, ws: &mut Ws<'_>) {
        // It has missed messages, and is to begin anew: who has something to say does so at once.
        let Some(topic) = ws.subscriptions().next() else { return ws.close(4009, "messages were missed") };
        match ws.publish(&topic, message) {
            Published::Done { .. } => {}
            Published::Busy => ws.close(1013, busy(&self.broker)),
            Published::TooLarge | Published::NoTopic => ws.close(1009, "longer than a message may be"),
        }
    }
}
