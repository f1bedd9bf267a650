//! Topics for programs of the tower world: a stream of messages, and a body of server-sent events.
//!
//! Such programs want to be able to send everything to other threads, and a subscription belongs to its worker. So it lies in a place of
//! that worker's thread, and what the program holds is a key to it. It works on the thread where it was first polled.

use crate::sse;
use crate::topic::{Frame, Next, Place, Reminder, Subscribe, Subscription, Topics};
use bytes::Bytes;
use futures_util::Stream;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

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

/// A feed as a body of server-sent events, for `content-type: text/event-stream`. After 15 seconds without an event a comment is sent, so that
/// nobody between takes the connection for dead.
pub struct EventBody {
    feed: Feed,
    heartbeat: Duration,
    /// The client was told where it is.
    is_placed: bool,
    /// Something was sent since the reminder was set.
    has_sent: bool,
}

/// What the worker's thread keeps of a feed.
struct Seat {
    subscription: Subscription,
    reminder: Option<Reminder>,
}

/// The heartbeat, unless it is said.
const HEARTBEAT: Duration = Duration::from_secs(15);

static KEYS: AtomicU64 = AtomicU64::new(0);
/// Keys that were dropped on other threads.
static LEFT: Mutex<Option<HashSet<u64>>> = Mutex::new(None);

thread_local! {
    static OPEN: RefCell<HashMap<u64, Seat>> = RefCell::default();
}

impl Feed {
    /// Subscribes when it is polled first.
    pub fn new(topics: &Topics, topic: &str, how: Subscribe) -> Feed {
        Feed { topics: topics.clone(), topic: topic.to_owned(), how, state: State::New }
    }

    /// As server-sent events.
    pub fn into_body(self) -> EventBody {
        EventBody { feed: self, heartbeat: HEARTBEAT, is_placed: false, has_sent: false }
    }

    fn open(&mut self) -> State {
        let Some(hub) = self.topics.here() else {
            tracing::error!("a feed of a topic was polled on a thread that is no worker of its engine");
            return State::Over;
        };
        let Some(subscription) = hub.subscribe(&self.topic, self.how) else { return State::Over };
        sweep();
        let key = KEYS.fetch_add(1, Relaxed);
        OPEN.with_borrow_mut(|open| open.insert(key, Seat { subscription, reminder: None }));
        State::Open(key)
    }

    /// Where it is: [`Subscription::place`].
    fn place(&self) -> Option<Place> {
        let State::Open(key) = &self.state else { return None };
        OPEN.with_borrow(|open| open.get(key)?.subscription.place())
    }

    fn subscribe(&mut self) {
        if let State::New = self.state {
            self.state = self.open();
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.subscribe();
        let State::Open(key) = self.state else { return Poll::Ready(None) };
        let next = OPEN.with_borrow_mut(|open| Some(open.get_mut(&key)?.subscription.poll_next(context)));
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

    /// Whether so long, or a little longer, has passed since this was asked first, and then since it last had.
    fn has_passed(&mut self, time: Duration, context: &Context<'_>) -> bool {
        let (State::Open(key), Some(hub)) = (&self.state, self.topics.here()) else { return false };
        OPEN.with_borrow_mut(|open| {
            let Some(seat) = open.get_mut(key) else { return false };
            let reminder = seat.reminder.get_or_insert_with(|| hub.remind(time));
            let has_passed = reminder.poll(context).is_ready();
            if has_passed {
                seat.reminder = None;
            }
            has_passed
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
    let gone: Vec<Seat> = OPEN.with_borrow_mut(|open| {
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

impl EventBody {
    /// After so long without an event a comment is sent; it may be up to twice as long and two seconds.
    pub fn with_heartbeat(mut self, heartbeat: Duration) -> EventBody {
        self.heartbeat = heartbeat;
        self
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.feed.subscribe();
        if !self.is_placed
            && let Some(place) = self.feed.place()
        {
            (self.is_placed, self.has_sent) = (true, true);
            return Poll::Ready(Some(Ok(http_body::Frame::data(sse::at(place).into()))));
        }
        let Poll::Ready(update) = self.feed.poll(context) else {
            let heartbeat = self.heartbeat;
            while self.feed.has_passed(heartbeat, context) {
                if !std::mem::take(&mut self.has_sent) {
                    return Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(sse::HEARTBEAT)))));
                }
            }
            return Poll::Pending;
        };
        self.has_sent = true;
        Poll::Ready(update.map(|update| {
            self.is_placed = true;
            Ok(http_body::Frame::data(match update {
                Update::Message(frame) => sse::event(&frame),
                Update::Skipped(messages) => sse::reset(messages, self.feed.place()).into(),
            }))
        }))
    }
}
