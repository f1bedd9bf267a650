//! One subscription: a cursor into the log of its worker.

pub use super::core::Next;
use super::core::Notify;
use super::hub::Hub;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A subscription. It ends when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    topic: usize,
    slot: usize,
}

impl Subscription {
    pub(super) fn new(hub: Hub, topic: usize, slot: usize) -> Subscription {
        Subscription { hub, topic, slot }
    }

    /// What there is to read. Behind [`Next::Empty`] whoever subscribed is woken when there is more.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> Next {
        self.hub.with(|core, outside| core.next(self.topic, self.slot, outside))
    }

    /// The same for a future, whose waker is kept while there is nothing.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        match self.next() {
            Next::Empty => {
                let notify = Notify::Task(context.waker().clone());
                drop(self.hub.with(|core, _| core.set_notify(self.topic, self.slot, notify)));
                Poll::Pending
            }
            next => Poll::Ready(next),
        }
    }

    /// Which topic.
    pub fn topic(&self) -> Arc<str> {
        self.hub.with(|core, _| core.name(self.topic).clone())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let name = self.topic();
        let (left, _notify) = self.hub.with(|core, outside| core.unsubscribe(self.topic, self.slot, outside));
        self.hub.count_subscribers(&name, left);
    }
}
