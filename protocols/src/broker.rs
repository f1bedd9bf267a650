//! Messages between processes, carried by a broker that is there already: NATS or Redis.
//!
//! A [`Broker`] has a connection, and a thread of its own that keeps it: workers hand over what is to be published and go on. What
//! arrives is offered to an [`Inbox`], in the order in which the broker sent it. What a process publishes comes back to it the same way
//! and in no other, so that it sees what all others see.
//!
//! [`Topics::connect`](crate::topic::Topics::connect) has one carry topics.
//!
//! Delivery is at most once. While there is no connection, publishing is refused ([`Refused::Lost`]) and what others publish is missed; the
//! inbox is told when that begins ([`Event::Lost`]) and when it is over ([`Event::Up`]), so that whoever counts on having seen
//! everything can begin anew. One publisher's messages keep their order everywhere. Redis gives all messages of a topic one order; two
//! servers of NATS, or two connections to one, may see those of different publishers in different orders.
//!
//! Read on in this order: `seam.rs` (what users see besides), `topics.rs` (topics that are carried), `run.rs` (the life of the connection), `nats.rs`, `redis.rs`.

mod feed;
#[cfg(feature = "broker-nats")]
mod nats;
#[cfg(feature = "broker-redis")]
mod redis;
mod run;
mod seam;
mod server;
mod topics;
mod wanted;

use bytes::Bytes;
pub use seam::{Counters, Event, Inbox, Options, Refused};
use seam::{Outgoing, State};
pub use server::{Server, ServerError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use tokio::sync::mpsc;
pub use topics::ConnectError;
use wanted::Changes;

/// A connection to a broker, which is made again whenever it is lost. Dropping it ends it.
pub struct Broker {
    link: Link,
    thread: Option<JoinHandle<()>>,
}

/// What workers have of a [`Broker`]. Clones are cheap.
#[derive(Clone)]
pub struct Link {
    outgoing: mpsc::Sender<Outgoing>,
    changes: Arc<Changes>,
    state: Arc<State>,
}

impl Broker {
    /// Begins to connect to `server`. Whether it can be reached is told later, as an event: a broker that is down keeps nobody from starting.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(server: Server, options: Options, inbox: Arc<dyn Inbox>) -> std::io::Result<Broker> {
        let (outgoing, waiting) = mpsc::channel(options.outgoing_max.max(1));
        let changes = Arc::<Changes>::default();
        let state = Arc::new(State::new());
        let link = Link { outgoing, changes: changes.clone(), state: state.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("ringmill-broker".into()).spawn(move || {
            runtime.block_on(run::run(&server, &options, waiting, &changes, &state, &*inbox));
            // Clients have tasks of their own that would go on connecting.
            runtime.shutdown_background();
        })?;
        Ok(Broker { link, thread: Some(thread) })
    }

    /// What workers use.
    pub fn link(&self) -> Link {
        self.link.clone()
    }
}

impl Drop for Broker {
    /// What was taken to be published is still handed on, for a second.
    fn drop(&mut self) {
        self.link.changes.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Link {
    /// Publishes a message, from any thread, without waiting.
    ///
    /// # Errors
    /// It is not published: there is no connection, or too much waits already, or it is too long.
    pub fn publish(&self, topic: &str, payload: Bytes) -> Result<(), Refused> {
        let taken = if payload.len() > self.state.payload_max.load(Ordering::Relaxed) {
            Err(Refused::TooLarge)
        } else if self.state.is_up.load(Ordering::Acquire) {
            self.outgoing.try_send((topic.into(), payload)).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Refused::Busy,
                mpsc::error::TrySendError::Closed(_) => Refused::Lost,
            })
        } else {
            Err(Refused::Lost)
        };
        if taken.is_err() {
            self.state.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// From now on messages of this topic arrive; at once if there is a connection, and else when there is one again. What the same thread
    /// publishes after this arrives as well. Who asks is responsible for how many topics there may be, and that each call has its
    /// [`unsubscribe`](Link::unsubscribe).
    pub fn subscribe(&self, topic: &str) {
        self.changes.add(topic, 1);
    }

    /// They need not arrive any more, unless somebody else has subscribed.
    pub fn unsubscribe(&self, topic: &str) {
        self.changes.add(topic, -1);
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.state.counters()
    }
}
