//! Topics for programs of the tower world: a stream of messages, and a body of server-sent events.
//!
//! Such programs want to be able to send everything to other threads, and a subscription belongs to its worker. So it lies in a place of
//! that worker's thread, and what the program holds is a key to it. It works on the thread where it was first polled.

use crate::sse;
use crate::topic::{Frame, Next, Subscribe, Subscription, Topics};
use bytes::Bytes;
use futures_util::Stream;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

/// What comes of a topic.
#[derive(Clone, Debug)]
pub enum Update {
    /// A message.
    Message(Arc<Frame>),
    /// So many messages are missing here, or nobody knows how many: [`Next::Skipped`].
    Skipped(Option<u64>),
}

/// The messages of a topic, as a stream. It ends for a subscriber that is too slow and is to be closed; at once, where the name is none of a
/// topic; and on a thread that is no worker of the topics' engine, which is logged.
pub struct Feed {
    topics: Topics,
    topic: String,
    how: Subscribe,
    state: State,
}

enum State {
    New,
    Open(u64),
    Over,
}

/// A feed as a body of server-sent events, for `content-type: text/event-stream`. It has no heartbeat: wrap a [`Feed`] where something between
/// needs one.
pub struct EventBody(Feed);

static KEYS: AtomicU64 = AtomicU64::new(0);
/// Keys that were dropped on other threads.
static LEFT: Mutex<Option<HashSet<u64>>> = Mutex::new(None);

thread_local! {
    static OPEN: RefCell<HashMap<u64, Subscription>> = RefCell::default();
}

impl Feed {
    /// Subscribes when it is polled first.
    pub fn new(topics: &Topics, topic: &str, how: Subscribe) -> Feed {
        Feed { topics: topics.clone(), topic: topic.to_owned(), how, state: State::New }
    }

    /// As server-sent events.
    pub fn into_body(self) -> EventBody {
        EventBody(self)
    }

    fn open(&mut self) -> State {
        let Some(hub) = self.topics.here() else {
            tracing::error!("a feed of a topic was polled on a thread that is no worker of its engine");
            return State::Over;
        };
        let Some(subscription) = hub.subscribe(&self.topic, self.how) else { return State::Over };
        sweep();
        let key = KEYS.fetch_add(1, Relaxed);
        OPEN.with_borrow_mut(|open| open.insert(key, subscription));
        State::Open(key)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        if let State::New = self.state {
            self.state = self.open();
        }
        let State::Open(key) = self.state else { return Poll::Ready(None) };
        let next = OPEN.with_borrow_mut(|open| Some(open.get_mut(&key)?.poll_next(context)));
        let Some(next) = next else {
            tracing::error!("a feed of a topic was polled on another thread than before");
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(next) {
            Next::Frame(frame) => Some(Update::Message(frame)),
            Next::Skipped(messages) => Some(Update::Skipped(messages)),
            Next::Lagged | Next::Empty => {
                self.close();
                None
            }
        })
    }

    fn close(&mut self) {
        let State::Open(key) = std::mem::replace(&mut self.state, State::Over) else { return };
        // At the end of a thread its subscriptions are gone already.
        let closed = OPEN.try_with(|open| Some(open.try_borrow_mut().ok()?.remove(&key)));
        let is_elsewhere = matches!(closed, Ok(None | Some(None)));
        drop(closed);
        if is_elsewhere {
            LEFT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(key);
        }
    }
}

/// Ends what was dropped on other threads.
fn sweep() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(left) = left.as_mut().filter(|left| !left.is_empty()) else { return };
    let gone: Vec<Subscription> = OPEN.with_borrow_mut(|open| {
        let keys: Vec<u64> = open.keys().copied().filter(|key| left.remove(key)).collect();
        keys.iter().filter_map(|key| open.remove(key)).collect()
    });
    drop(gone);
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.close();
    }
}

impl Stream for Feed {
    type Item = Update;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.poll(context)
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let update = ready!(self.0.poll(context));
        Poll::Ready(update.map(|update| {
            Ok(http_body::Frame::data(match update {
                Update::Message(frame) => sse::event(&frame),
                Update::Skipped(messages) => sse::reset(messages).into(),
            }))
        }))
    }
}
