//! One subscription: a cursor into the log of its worker.

use super::hub::Hub;
pub use super::message::Next;
use super::one::Notify;
use super::options::Subscribe;
use super::place::{Place, is_name};
use ringmill_engine::Io;
use std::sync::Arc;
use std::task::{Context, Poll};

/// So much is sent to a client at once, and the message that passes it; the next when all of that has left. It is the most that one who
/// does not read costs besides its place in the log. One that reads, and would be overtaken, is sent more: [`Subscription::is_urgent`].
pub(crate) const AT_ONCE_BYTES: usize = 4096;

/// A subscription. It ends when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    /// Small, because there are many: no worker has so many topics, or subscribers.
    topic: u32,
    slot: u32,
}

impl Hub {
    /// Subscribes on behalf of a connection, whose `wake` is called when there is something to read. `None` if that is no name of a
    /// topic, or of one too many ([`TopicOptions::topics_max`](super::TopicOptions::topics_max)).
    pub fn subscribe_io(&self, topic: &str, how: Subscribe, io: &mut Io<'_>) -> Option<Subscription> {
        let has_dialer = self.0.dialer.borrow().is_some();
        let notify = if has_dialer { Notify::Conn(io.id()) } else { Notify::Task(io.waker().into()) };
        self.subscribe_with(topic, how, notify)
    }

    /// Subscribes on behalf of a future: [`Subscription::poll_next`] keeps its waker. `None` if that is no name of a
    /// topic, or of one too many ([`TopicOptions::topics_max`](super::TopicOptions::topics_max)).
    pub fn subscribe(&self, topic: &str, how: Subscribe) -> Option<Subscription> {
        self.subscribe_with(topic, how, Notify::Task(std::task::Waker::noop().clone()))
    }

    fn subscribe_with(&self, topic: &str, how: Subscribe, notify: Notify) -> Option<Subscription> {
        if !is_name(topic) {
            return None;
        }
        let name: Arc<str> = topic.into();
        let is_home = self.0.shared.home_of(topic) == self.0.worker;
        if self.0.dialer.borrow().is_none() && self.0.shared.inboxes().len() > 1 {
            tracing::error!("a topic was subscribed to on a worker without its service: Topics::service");
        }
        let (index, slot, count) = self.with(|core, outside| {
            let (index, slot) = core.subscribe(&name, is_home, how, notify, outside).ok()?;
            Some((index, slot, core.subscribers(index)))
        })?;
        self.count_subscribers(&name, count);
        Some(Subscription { hub: self.clone(), topic: index as u32, slot: slot as u32 })
    }
}

impl Subscription {
    /// What there is to read. Behind [`Next::Empty`] whoever subscribed is woken when there is more.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> Next {
        self.next_of_all().0
    }

    /// The same, and whether that is all there is: then whoever subscribed is woken when there is more, and need not look.
    #[inline]
    pub(crate) fn next_of_all(&mut self) -> (Next, bool) {
        self.hub.with(|core, outside| core.next(self.topic as usize, self.slot as usize, outside))
    }

    /// Whether it goes on in this turn behind [`AT_ONCE_BYTES`]. To be asked only once so much is queued.
    pub(crate) fn is_urgent(&mut self) -> bool {
        self.hub.with(|core, outside| core.is_urgent(self.topic as usize, self.slot as usize, outside))
    }

    /// The same for a future, whose waker is kept while there is nothing.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        match self.next() {
            Next::Empty => {
                let notify = Notify::Task(context.waker().clone());
                drop(
                    self.hub.with(|core, _| core.set_notify(self.topic as usize, self.slot as usize, notify)),
                );
                Poll::Pending
            }
            next => Poll::Ready(next),
        }
    }

    /// Where it is: whoever subscribes with [`Start::After`](super::Start::After) of this place goes on as it does. `None` before the topic's
    /// home has said where it begins, and where it could not go on, before [`Next::Skipped`] has said so.
    pub fn place(&self) -> Option<Place> {
        self.hub.with(|core, _| core.topics[self.topic as usize].place(self.slot as usize))
    }

    /// Which topic.
    pub fn topic(&self) -> Arc<str> {
        self.hub.with(|core, _| core.name(self.topic as usize).clone())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let name = self.topic();
        let (topic, slot) = (self.topic as usize, self.slot as usize);
        let (left, _notify) = self.hub.with(|core, outside| core.unsubscribe(topic, slot, outside));
        self.hub.count_subscribers(&name, left);
        self.hub.look_later();
    }
}
