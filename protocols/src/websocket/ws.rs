//! What a handler can do with a connection during a call.

use super::frame::may_be_sent;
use super::message::{Message, SharedMessage};
use super::sending::{Common, Sending};
use crate::topic::{Hub, Publication, Published, Subscribe, Subscription};
use ringmill_engine::{Address, Facts, Io, Tick, Waker};
use std::sync::Arc;

/// What a handler can do with a connection during a call.
pub struct Ws<'a> {
    pub(super) io: Io<'a>,
    pub(super) sending: &'a mut Sending,
    pub(super) common: &'a Common,
}

impl<'a> Ws<'a> {
    /// Sends a message: a `&str`, a `&[u8]` or a [`Message`]. After [`Ws::close`], or once the client has closed, it is not sent.
    ///
    /// It waits in memory until the client reads it; [`Options::outgoing_bytes_max`](super::Options::outgoing_bytes_max) limits that.
    #[inline]
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) {
        self.sending.send(message.into(), self.common, &mut self.io);
    }

    /// Sends a message whose bytes are shared, however large it is.
    pub fn send_shared(&mut self, message: &SharedMessage) {
        self.sending.send_shared(message, self.common, &mut self.io);
    }

    /// Sends a part of a message, for one that is made piece by piece. Of the first part counts whether it is text; each part of a text is
    /// text. Nothing else is sent before the last part, and parts are not compressed.
    pub fn send_part<'m>(&mut self, part: impl Into<Message<'m>>, is_last: bool) {
        self.sending.send_part(part.into(), is_last, self.common, &mut self.io);
    }

    /// Ends the connection behind what was sent: with a code from 1000 to 1014 that may be sent, or one of your own from 3000 to 4999 (any
    /// other is taken for 1000), and a reason of at most 123 bytes. What the client still sends is not heard.
    pub fn close(&mut self, code: u16, reason: &str) {
        let code = if may_be_sent(code) { code } else { 1000 };
        self.sending.close(code, reason, self.common, &mut self.io);
    }

    /// Has a client begin anew that has missed messages: its subscriptions end now, and it is closed with 4009 within five seconds. Not all in
    /// the same moment, because it mostly concerns many at once, and they come back. Until then what it says is still heard.
    pub fn begin_anew(&mut self) {
        self.sending.begin_anew(self.common, &mut self.io);
    }

    /// Publishes to a topic: to all who subscribe to it, this connection included if it does. The endpoint needs a hub:
    /// [`Endpoint::with_topics`](super::Endpoint::with_topics).
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Message<'m>>) -> Published {
        match message.into() {
            Message::Text(text) => self.publish_shared(topic, text),
            Message::Binary(bytes) => self.publish_shared(topic, bytes),
        }
    }

    /// The same for bytes that are shared.
    pub fn publish_shared(&mut self, topic: &str, publication: impl Into<Publication>) -> Published {
        let Some(hub) = self.hub() else { return Published::NoTopic };
        let publication = publication.into();
        self.common.publishing.count(publication.len(), hub.options());
        hub.publish(topic, publication)
    }

    /// Subscribes to a topic, from now on; a client that is too slow for it is closed. See [`Ws::subscribe_with`].
    pub fn subscribe(&mut self, topic: &str) -> bool {
        self.subscribe_with(topic, Subscribe::default())
    }

    /// Subscribes to a topic: its messages are sent as the client reads. `false` if that is no name of a topic, if the connection has as many
    /// subscriptions as it may ([`Options::subscriptions_max`](super::Options::subscriptions_max)), or if the endpoint has no hub. Whoever
    /// subscribes already stays as it is.
    pub fn subscribe_with(&mut self, topic: &str, how: Subscribe) -> bool {
        let Some(hub) = self.hub() else { return false };
        let topics = self.sending.topics.get_or_insert_default();
        if topics.iter().any(|subscription| *subscription.topic() == *topic) {
            return true;
        }
        if topics.len() >= self.common.options.subscriptions_max {
            return false;
        }
        let subscription = hub.subscribe_io(topic, how, &mut self.io);
        let Some(subscription) = subscription else { return false };
        topics.push(subscription);
        true
    }

    /// The topics that the connection subscribes to, the first one first.
    pub fn subscriptions(&self) -> impl Iterator<Item = Arc<str>> {
        self.sending.topics.iter().flat_map(|topics| topics.iter().map(Subscription::topic))
    }

    /// Ends a subscription. What was published before may have been sent already.
    pub fn unsubscribe(&mut self, topic: &str) {
        if let Some(topics) = &mut self.sending.topics {
            topics.retain(|subscription| *subscription.topic() != *topic);
        }
    }

    fn hub(&self) -> Option<&'a Hub> {
        if self.common.hub.is_none() {
            tracing::error!("an endpoint without topics was asked for one: Endpoint::with_topics");
        }
        self.common.hub.as_ref()
    }

    /// Whether messages can still be sent.
    pub fn is_open(&self) -> bool {
        self.sending.is_open()
    }

    /// How much more may be sent before the client is behind with reading. Zero stops nothing, but see
    /// [`Options::outgoing_bytes_max`](super::Options::outgoing_bytes_max).
    pub fn room_bytes(&self) -> usize {
        if self.sending.is_busy() { 0 } else { self.io.room_bytes() }
    }

    /// Asks for one call of [`Handler::room`](super::Handler::room) once the client has read most of what was sent.
    pub fn notify_room(&mut self) {
        self.sending.wants_room = true;
        self.io.notify_drained();
    }

    /// Who is at the other end; see [`Io::peer`].
    pub fn peer(&self) -> Option<Address> {
        self.io.peer()
    }

    /// What the layers below have learned.
    pub fn facts(&self) -> Option<&Facts> {
        self.io.facts()
    }

    /// A handle that has [`Handler::wake`](super::Handler::wake) called, from any thread.
    pub fn waker(&mut self) -> Waker {
        self.sending.has_waker = true;
        self.io.waker()
    }

    /// The time of this turn.
    pub fn now(&self) -> Tick {
        self.io.now()
    }

    /// Whether the server is draining.
    pub fn is_draining(&self) -> bool {
        self.io.is_draining()
    }
}
